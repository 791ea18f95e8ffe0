"""`pretrain` and `finetune`: the two stages, with one option per field of their configurations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligngpt.cli.config_options import ConfigCommand
from aligngpt.cli.output import format_cell, logs_to_stderr, print_json, print_next_step, print_table
from aligngpt.cli.params import (
    FOLDER,
    LEVELS,
    LEVELS_HELP,
    MODEL,
    NEW_FOLDER,
    OR_HUB_NAME,
    images_option,
    json_option,
    strict_option,
)

if TYPE_CHECKING:
    from aligngpt.training.artifacts import TrainResult

PRETRAIN_EXAMPLE = """
aligngpt pretrain --data runs/synthetic/data/pretrain.json --images runs/synthetic/data/images \\
    --levels runs/synthetic/levels --language-model synthetic-llm --vision-tower synthetic-clip --output stage1 \\
    --preset synthetic --max-steps 10
"""
FINETUNE_EXAMPLE = """
aligngpt finetune --data runs/synthetic/data/finetune.json --images runs/synthetic/data/images \\
    --stage1 stage1 --output model --preset synthetic --max-steps 10
"""


@click.command(cls=ConfigCommand, presets="aligngpt.training.configs:PRETRAIN_PRESETS", example=PRETRAIN_EXAMPLE)
@click.option(
    "--data", metavar="SOURCE", required=True, help="Image-text pairs: JSON, JSON Lines, Parquet, datasets or tars."
)
@images_option
@click.option("--levels", type=LEVELS, help=f"{LEVELS_HELP}. [default: levels in the data]")
@click.option(
    "--language-model",
    type=MODEL,
    required=True,
    help=f"Causal language model: a folder, the bundled synthetic-llm {OR_HUB_NAME}.",
)
@click.option(
    "--vision-tower",
    type=MODEL,
    required=True,
    help=f"CLIP or SigLIP model: a folder, the bundled synthetic-clip {OR_HUB_NAME}.",
)
@click.option("--output", type=NEW_FOLDER, required=True, help="Output folder of the stage-1 checkpoint.")
@strict_option
@json_option
def pretrain(as_json: bool, **arguments: Any) -> None:
    """Stage 1: train projector and alignment embeddings."""
    from aligngpt.training import stages

    with logs_to_stderr() as log:
        result = stages.pretrain(**arguments)
    _print_training(result, arguments["output"], as_json, log.is_complete)


@click.command(cls=ConfigCommand, presets="aligngpt.training.configs:FINETUNE_PRESETS", example=FINETUNE_EXAMPLE)
@click.option(
    "--data", metavar="SOURCE", required=True, help="Conversations: JSON, JSON Lines, Parquet, datasets or tars."
)
@images_option
@click.option("--stage1", type=FOLDER, help="Stage-1 checkpoint; required unless --alignment-embeddings is random.")
@click.option("--language-model", type=MODEL, help="Language model. [default: that of stage 1]")
@click.option("--vision-tower", type=MODEL, help="Vision tower. [default: that of stage 1]")
@click.option("--output", type=NEW_FOLDER, required=True, help="Output folder of the model.")
@strict_option
@json_option
def finetune(as_json: bool, **arguments: Any) -> None:
    """Stage 2: train language model, projector and gate."""
    from aligngpt.training import stages

    with logs_to_stderr() as log:
        result = stages.finetune(**arguments)
    _print_training(result, arguments["output"], as_json, log.is_complete)


def _print_training(result: TrainResult, output: Path, as_json: bool, is_complete: bool) -> None:
    if as_json:
        print_json(result.model_dump(exclude={"schema_version"}))
        return
    if is_complete:
        click.echo(f"final loss {format_cell(result.final_loss)} after {result.global_step:,} optimizer steps")
        return
    rows = {
        "optimizer steps": result.global_step,
        "global batch size": result.global_batch_size,
        "samples": result.num_samples,
        "skipped samples": result.num_skipped,
        "truncated samples": result.num_truncated,
        "seconds": result.train_runtime,
        "final loss": result.final_loss,
    }
    print_table(f"{result.stage}, alignment {result.alignment}: {output}", ("metric", "value"), rows.items())
    modules = [[item.name, item.num_parameters, "trained" if item.trainable else "frozen"] for item in result.modules]
    print_table("Modules", ("module", "parameters", "state"), modules)
    if result.loss_by_level:
        print_table("Loss by level", ("level", "loss"), enumerate(result.loss_by_level, start=1))
    if result.stage == "pretrain":
        inputs = ("--data", "CONVERSATIONS", "--images", "FOLDER", "--stage1", output)
        print_next_step("finetune", *inputs, "--output", "MODEL")
    else:
        print_next_step("generate", "--model", output, "--image", "IMAGE", "--prompt", "What is in the image?")
