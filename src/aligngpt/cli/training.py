"""`pretrain` and `finetune`: the two stages, with one option per field of their recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from aligngpt.cli.base import RecipeCommand
from aligngpt.cli.config_options import RecipeBook
from aligngpt.cli.output import print_json, print_table, results_alone
from aligngpt.cli.params import FILE, FOLDER, MODEL, NEW_FOLDER, json_option, strict_option

PRETRAIN_EXAMPLE = """
aligngpt pretrain --pairs runs/scenes/data/pretrain.json --images runs/scenes/data/images \\
    --levels runs/scenes/levels --language-model synthetic-llm --vision-tower synthetic-clip --output stage1 \\
    --recipe synthetic --max-steps 10
"""
FINETUNE_EXAMPLE = """
aligngpt finetune --conversations runs/scenes/data/finetune.json --images runs/scenes/data/images --stage1 stage1 \\
    --output model --recipe synthetic --max-steps 10
"""


def pretrain_book() -> RecipeBook:
    """Return the recipes of stage 1."""
    from aligngpt.training.configs import PRETRAIN_PRESETS

    return RecipeBook(PRETRAIN_PRESETS, default="paper")


def finetune_book() -> RecipeBook:
    """Return the recipes of stage 2."""
    from aligngpt.training.configs import FINETUNE_PRESETS

    return RecipeBook(FINETUNE_PRESETS, default="paper")


class LevelsPath(click.Path):
    """A `levels.parquet`, or the folder it lies in."""

    def __init__(self) -> None:
        super().__init__(exists=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the file.

        Raises:
            click.BadParameter: If it does not exist, is a folder without one, or is another file.
        """
        super().convert(value, param, ctx)
        path = Path(value)
        if path.is_dir():
            path = path / "levels.parquet"
        if not path.is_file():
            self.fail(f"'{path}' does not exist; write it with: aligngpt level.", param, ctx)
        if path.suffix != ".parquet":
            self.fail(f"'{path}' is no levels.parquet: give that file, or the folder aligngpt level wrote.", param, ctx)
        return path


class Stage1Path(click.Path):
    """The folder of a stage-1 checkpoint, or the word `random`."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the folder, or `random` as it is."""
        return value if value == "random" else super().convert(value, param, ctx)


@click.command(cls=RecipeCommand, book=pretrain_book, example=PRETRAIN_EXAMPLE)
@click.option("--pairs", type=FILE, required=True, help="Image-text pairs, LLaVA JSON or JSON Lines.")
@click.option("--images", type=FOLDER, required=True, help="Folder the pairs' image paths start from.")
@click.option("--levels", type=LevelsPath(), help="levels.parquet or its folder. [default: the levels in the pairs]")
@click.option(
    "--language-model", type=MODEL, required=True, help="Folder of a causal language model, or synthetic-llm."
)
@click.option("--vision-tower", type=MODEL, required=True, help="Folder of a CLIP or SigLIP model, or synthetic-clip.")
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for the stage-1 checkpoint.")
@strict_option
@json_option
def pretrain(as_json: bool, **arguments: Any) -> None:
    """Stage 1: train projector and alignment embeddings."""
    from aligngpt.training import stages

    with results_alone():
        result = stages.pretrain(**arguments)
    _print_training(result, arguments["output"], as_json)


@click.command(cls=RecipeCommand, book=finetune_book, example=FINETUNE_EXAMPLE)
@click.option("--conversations", type=FILE, required=True, help="Conversations, LLaVA JSON or JSON Lines.")
@click.option("--images", type=FOLDER, required=True, help="Folder the conversations' image paths start from.")
@click.option(
    "--stage1",
    type=Stage1Path(),
    metavar="FOLDER|random",
    required=True,
    help="Folder of the stage-1 checkpoint; random does without one, projector and embeddings untrained.",
)
@click.option("--language-model", type=MODEL, help="Folder of the language model. [default: the one of stage 1]")
@click.option("--vision-tower", type=MODEL, help="Folder of the vision tower. [default: the one of stage 1]")
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for the model.")
@strict_option
@json_option
@click.pass_context
def finetune(ctx: click.Context, as_json: bool, **arguments: Any) -> None:
    """Stage 2: train language model, projector and gate."""
    if arguments["stage1"] == "random":
        if None in (arguments["language_model"], arguments["vision_tower"]):
            raise click.UsageError("--stage1 random needs --language-model and --vision-tower", ctx)
        recipe = replace(arguments["recipe"], alignment_embeddings="random")
        arguments |= {"stage1": None, "recipe": recipe}
    from aligngpt.training import stages

    with results_alone():
        result = stages.finetune(**arguments)
    _print_training(result, arguments["output"], as_json)


def _print_training(result: dict[str, Any], output: Path, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    shown = ("stage", "alignment", "steps", "samples", "truncated_samples", "seconds", "final_loss")
    print_table(f"Trained in {output}", ("", ""), [[name.replace("_", " "), result.get(name)] for name in shown])
    parts = [[part["part"], part["parameters"], "yes" if part["trains"] else "no"] for part in result["parameters"]]
    print_table("What trained", ("part", "parameters", "trains"), parts)
    if result.get("loss_by_level"):
        print_table("Loss by level", ("level", "loss"), enumerate(result["loss_by_level"], start=1))
