"""The embedded world: `run scenes`, `scenes make`, `backbones` and `captions`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligngpt.cli.base import Group
from aligngpt.cli.config_options import ConfigCommand, ConfigSpec
from aligngpt.cli.output import print_json, print_table, results_alone, with_interval
from aligngpt.cli.params import FOLDER, NEW_FOLDER, json_option
from aligngpt.utils.models import BUNDLED_WEIGHTS

if TYPE_CHECKING:
    from aligngpt.experiments.configs import DemoConfig
    from aligngpt.synthetic.configs import BackboneTrainingConfig

RUN_EXAMPLE = """
aligngpt run scenes --output runs/scenes
aligngpt run scenes --output runs/quick --preset synthetic-smoke --finetune.learning-rate 1e-4
"""
MAKE_EXAMPLE = """
aligngpt scenes make --output data --pairs 1000 --conversations 500 --questions 140
"""
BASES_EXAMPLE = """
aligngpt scenes backbones --output bases
"""
BENCHMARKS_EXAMPLE = """
aligngpt scenes benchmarks --output miniatures
"""
CAPTIONS_EXAMPLE = """
aligngpt scenes captions --model runs/scenes/pretrain-adaptive --data runs/scenes/data --output runs/captions
"""

data_option = click.option("--data", type=FOLDER, required=True, help="Folder written by aligngpt scenes make.")
batch_option = click.option("--batch-size", type=click.IntRange(min=1), default=100, help="Prompts answered at once.")


def scenes_book() -> ConfigSpec:
    """Return the recipes of the whole way on the embedded world."""
    from aligngpt.experiments.configs import DEMO_FIXED, DEMO_PRESETS

    return ConfigSpec(DEMO_PRESETS, exclude=DEMO_FIXED)


def bases_book() -> ConfigSpec:
    """Return the recipes of the base models."""
    from aligngpt.synthetic.configs import BackboneTrainingConfig

    return ConfigSpec({"bundled": BackboneTrainingConfig})


@click.group(cls=Group)
def run() -> None:
    """Go the whole way, from pairs to a model and a page about it."""


@click.group(cls=Group)
def scenes() -> None:
    """Make the embedded world: its data, its base models."""


@run.command("scenes", cls=ConfigCommand, spec=scenes_book, example=RUN_EXAMPLE)
@click.option("--output", type=NEW_FOLDER, default="runs/scenes", help="Folder of the run; what is done is kept.")
@json_option
def run_scenes(output: Path, config: DemoConfig, as_json: bool) -> None:
    """Go the whole way on the embedded world.

    Data, scores, levels, both stages with alignment and without, answers, and the page. What is finished is
    skipped and what was cut off goes on, so that the same command can be run again.
    """
    from aligngpt.experiments import demo as pipeline

    with results_alone():
        summary = pipeline.run_scenes(config, output)
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary)
        click.echo(f"Page: {output / 'report.html'}")


@scenes.command("make", example=MAKE_EXAMPLE)
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for the images and the LLaVA-format files.")
@click.option("--pairs", type=click.IntRange(min=1), default=16_000, help="Captioned images for stage 1.")
@click.option("--conversations", type=click.IntRange(min=1), default=10_000, help="Conversations for stage 2.")
@click.option("--questions", type=click.IntRange(min=1), default=1_400, help="Test questions, over all seven kinds.")
@click.option("--seed", type=int, default=0, help="Fixes every image and every word.")
@json_option
def make(output: Path, as_json: bool, **sizes: int) -> None:
    """Draw the embedded world's images, captions and questions."""
    from aligngpt.synthetic import dataset as data

    with results_alone():
        counts = data.make(output, **sizes)
    if as_json:
        print_json(counts)
    else:
        print_table(f"Scenes in {output}", ("", ""), counts.items())


@scenes.command("backbones", cls=ConfigCommand, spec=bases_book, example=BASES_EXAMPLE)
@click.option("--output", type=NEW_FOLDER, help="Folder for clip/ and llm/. [default: the package's own folder]")
@json_option
def train_backbones(output: Path | None, config: BackboneTrainingConfig, as_json: bool) -> None:
    """Make the two base models that are shipped.

    A small CLIP and a small language model, trained from nothing on the embedded world.
    """
    from aligngpt.synthetic import backbones as bases

    folder = output or BUNDLED_WEIGHTS
    with results_alone():
        result = bases.train_backbones(config, folder)
    if as_json:
        print_json(result)
    else:
        click.echo(f"Base models: {folder}")


@scenes.command("benchmarks", example=BENCHMARKS_EXAMPLE)
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for the benchmarks, laid out as LLaVA's.")
@click.option("--questions", type=click.IntRange(min=6), default=12, help="Questions of each benchmark.")
@click.option("--seed", type=int, default=0, help="Fixes every image and every word.")
@json_option
def benchmarks(output: Path, as_json: bool, **sizes: int) -> None:
    """Draw a miniature of each of the twelve benchmarks.

    Names and formats are those of the benchmarks' own files, for a run of `eval run` without any of their data.
    """
    from aligngpt.synthetic import mock_benchmarks as miniatures

    settings = miniatures.make(output, **sizes)
    if as_json:
        print_json(settings)
    else:
        print_table(f"Miniatures in {output}", ("", ""), settings.items())


@scenes.command("captions", example=CAPTIONS_EXAMPLE)
@click.option("--model", type=FOLDER, required=True, help="Folder of a stage-1 checkpoint.")
@data_option
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for captions.json.")
@batch_option
@click.option("--limit", type=click.IntRange(min=1), default=200, help="Caption the first so many images.")
@json_option
def captions(output: Path, model: Path, data: Path, as_json: bool, **options: Any) -> None:
    """Let a stage-1 model caption images, told each level."""
    from aligngpt.evaluation.benchmarks import synthetic as benchmark

    with results_alone():
        result = benchmark.caption_by_level(model, data, output, **options)
    if as_json:
        print_json(result)
        return
    rows = [
        [part["level"], part["precision"], with_interval(part["recall"], part["recall_interval"])]
        for part in result["by_level"]
    ]
    print_table(f"Captions in {output}", ("level", "precision", "recall"), rows)


def _print_summary(summary: dict[str, Any]) -> None:
    settings = list(summary["accuracy"])
    intervals = summary.get("accuracy_interval", {})
    rows = [["all", *(with_interval(summary["accuracy"][name], intervals.get(name)) for name in settings)]]
    by_kind = summary["accuracy_by_kind"]
    for kind in by_kind[settings[0]]:
        rows.append([kind, *(by_kind[name].get(kind) for name in settings)])
    print_table("Accuracy", ("question", *(f"alignment {name}" for name in settings)), rows)
    columns = ("stage1_loss_by_level", "caption_precision_by_level", "caption_recall_by_level")
    levels = zip(*(summary[name] or [] for name in columns), strict=False)
    heads = ("level", "stage-1 loss", "caption precision", "caption recall")
    print_table("By level", heads, [[level, *values] for level, values in enumerate(levels, start=1)])
    print_table("Seconds", ("step", "seconds"), summary["seconds"].items())
    click.echo(f"Scores follow true coverage: Spearman correlation {summary['spearman_score_coverage']:.3f}")
