"""`aligngpt run` and `aligngpt synthetic`: end-to-end pipelines, the synthetic dataset and its backbones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligngpt.cli.base import Group
from aligngpt.cli.config_options import ConfigCommand
from aligngpt.cli.output import format_interval, logs_to_stderr, print_json, print_next_step, print_table
from aligngpt.cli.params import FOLDER, NEW_FOLDER, POSITIVE, json_option, trained_option
from aligngpt.utils.models import BUNDLED_WEIGHTS
from aligngpt.utils.text import format_p_value

if TYPE_CHECKING:
    from aligngpt.experiments.artifacts import Estimate, Summary
    from aligngpt.experiments.configs import DemoConfig
    from aligngpt.synthetic.artifacts import DatasetInfo, MockBenchmarksInfo
    from aligngpt.synthetic.configs import BackboneTrainingConfig

RUN_EXAMPLE = """
aligngpt run synthetic --output runs/synthetic
aligngpt run synthetic-smoke --output runs/smoke --finetune.learning-rate 1e-4
"""
GENERATE_EXAMPLE = "aligngpt synthetic generate --output data --pairs 1000 --conversations 500 --questions 140"
BACKBONES_EXAMPLE = "aligngpt synthetic backbones --output backbones"
BENCHMARKS_EXAMPLE = "aligngpt synthetic benchmarks --output mock_benchmarks"
CAPTIONS_EXAMPLE = """
aligngpt synthetic captions --model runs/synthetic/pretrain-adaptive --data runs/synthetic/data --output captions
"""

DERIVED = [f"{stage}.{name}" for stage in ("pretrain", "finetune") for name in ("alignment", "num_alignment_levels")]

seed_option = click.option("--seed", type=int, default=0, help="Random seed of images and texts.")


@click.command(
    "run",
    cls=ConfigCommand,
    presets="aligngpt.experiments.configs:DEMO_PRESETS",
    exclude=DERIVED,
    positional=True,
    example=RUN_EXAMPLE,
)
@click.option("--output", type=NEW_FOLDER, help="Output folder. [default: runs/NAME of the preset or file]")
@json_option
def run(output: Path | None, config: DemoConfig, as_json: bool) -> None:
    """Run an end-to-end pipeline and write an HTML report.

    The argument is the preset synthetic (about ten minutes), synthetic-smoke (one minute, almost no training), or a
    YAML file with fields that replace those of synthetic.

    The steps are data, scores, levels, both training stages and the evaluation, with alignment and without. Completed
    steps are skipped and interrupted ones resume, so the same command can be run again.
    """
    from aligngpt.experiments.demo import run_demo

    folder = output or Path("runs") / click.get_current_context().meta["preset"]
    with logs_to_stderr():
        summary = run_demo(config, folder)
    if as_json:
        print_json(summary.model_dump())
    else:
        _print_summary(summary)
        click.echo(f"Report: {folder / 'report.html'}")


@click.group("synthetic", cls=Group)
def synthetic() -> None:
    """Generate the synthetic dataset, benchmarks and backbones."""


@synthetic.command("generate", example=GENERATE_EXAMPLE)
@click.option("--output", type=NEW_FOLDER, required=True, help="Output folder for images and LLaVA-format files.")
@click.option("--pairs", type=POSITIVE, default=16_000, help="Image-text pairs for stage 1.")
@click.option("--conversations", type=POSITIVE, default=10_000, help="Conversations for stage 2.")
@click.option("--questions", type=POSITIVE, default=1_400, help="Test questions, evenly over seven kinds.")
@seed_option
@json_option
def generate_dataset(output: Path, as_json: bool, **sizes: int) -> None:
    """Render images and write captions, conversations and questions."""
    from aligngpt.synthetic.dataset import generate_dataset

    with logs_to_stderr():
        info = generate_dataset(output, **sizes)
    inputs = ("--data", output / "pretrain.json", "--images", output / "images")
    next_step = ("score", *inputs, "--scorer", "synthetic-clip", "--output", "SCORES")
    _print_info(f"Synthetic dataset in {output}", info, next_step, as_json)


@synthetic.command(
    "backbones", cls=ConfigCommand, presets="aligngpt.synthetic.configs:BACKBONE_PRESETS", example=BACKBONES_EXAMPLE
)
@click.option("--output", type=NEW_FOLDER, help="Output folder for clip/ and llm/. [default: the bundled models]")
@json_option
def train_backbones(output: Path | None, config: BackboneTrainingConfig, as_json: bool) -> None:
    """Train the bundled backbones: a small CLIP and a small language model, from scratch."""
    from aligngpt.synthetic.backbones import train_backbones

    folder = output or BUNDLED_WEIGHTS
    with logs_to_stderr():
        info = train_backbones(config, folder)
    if as_json:
        print_json(info.model_dump())
    else:
        click.echo(f"Backbones: {folder}")


@synthetic.command("benchmarks", example=BENCHMARKS_EXAMPLE)
@click.option("--output", type=NEW_FOLDER, required=True, help="Output folder, as LLaVA's playground/data/eval.")
@click.option("--questions", type=click.IntRange(min=6), default=12, help="Questions per benchmark.")
@seed_option
@json_option
def write_benchmarks(output: Path, as_json: bool, **sizes: int) -> None:
    """Write mock files of the twelve benchmarks.

    Names and formats are the benchmarks' own, so that `eval run` can be tried without any benchmark data.
    """
    from aligngpt.synthetic.mock_benchmarks import write_mock_benchmarks

    info = write_mock_benchmarks(output, **sizes)
    next_step = ("eval", "run", "--tasks", "all", "--model", "MODEL", "--data", output, "--output", "RESULTS")
    _print_info(f"Mock benchmarks in {output}", info, next_step, as_json)


@synthetic.command("captions", example=CAPTIONS_EXAMPLE)
@trained_option
@click.option("--data", type=FOLDER, required=True, help="Folder of the synthetic dataset.")
@click.option("--output", type=NEW_FOLDER, required=True, help="Output folder for captions.json.")
@click.option("--batch-size", type=POSITIVE, default=100, help="Images per batch.")
@click.option("--limit", type=POSITIVE, default=200, help="Caption only the first N images.")
@json_option
def caption_images(output: Path, model: str | Path, data: Path, as_json: bool, **options: Any) -> None:
    """Caption test images with a stage-1 model at every alignment level."""
    from aligngpt.experiments.level_captions import caption_by_level

    with logs_to_stderr():
        result = caption_by_level(model, data, output, **options)
    if as_json:
        print_json(result.model_dump())
        return
    rows = [[row.level, format_estimate(row.precision), format_estimate(row.recall)] for row in result.by_level]
    print_table(f"Captions in {output}", ("level", "precision", "recall"), rows)


def _print_info(title: str, info: DatasetInfo | MockBenchmarksInfo, next_step: Sequence[object], as_json: bool) -> None:
    settings = info.model_dump(exclude={"schema_version"})
    if as_json:
        print_json(settings)
        return
    note = settings.pop("note")
    print_table(title, ("setting", "value"), settings.items())
    click.echo(f"note: {note}")
    print_next_step(*next_step)


def format_estimate(estimate: Estimate) -> str:
    """Format a metric with its confidence interval."""
    return format_interval(estimate.value, estimate.ci95)


def _format_points(fraction: float, interval: Sequence[float] | None = None) -> str:
    """Format a fraction in points, as `eval run` prints scores, with its confidence interval."""
    bounds = f" ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})" if interval else ""
    return f"{100 * fraction:.2f}{bounds}"


def _print_summary(summary: Summary) -> None:
    variants = summary.synthetic
    rows = [["all", *(_format_points(item.accuracy.value, item.accuracy.ci95) for item in variants.values())]]
    for kind in next(iter(variants.values())).accuracy_by_kind:
        rows.append([kind, *(_format_points(item.accuracy_by_kind[kind].value) for item in variants.values())])
    print_table(
        "Accuracy in points, 0 to 100 (95% CI)", ("question", *(f"alignment {name}" for name in variants)), rows
    )
    if summary.adaptive_minus_none:
        difference = summary.adaptive_minus_none
        text = _format_points(difference.value, difference.ci95)
        click.echo(f"adaptive minus none: {text} points, p {format_p_value(difference.p_value)}; one training run each")
    levels = zip(summary.captions_by_level, summary.stage1_loss_by_level, strict=True)
    by_level = [[level.level, loss, level.precision.value, level.recall.value] for level, loss in levels]
    print_table("By level", ("level", "stage-1 loss", "caption precision", "caption recall"), by_level)
    costs = [[step, round(s), round(summary.peak_memory_mb[step])] for step, s in summary.runtime_s.items()]
    print_table("Cost", ("step", "seconds", "peak MB"), costs)
    click.echo(f"Spearman correlation of CLIP score and true coverage: {summary.score_coverage_spearman:.3f}")
