"""`report data`, `report run` and `report eval`: HTML reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aligngpt.cli.base import Command, Group
from aligngpt.cli.output import logs_to_stderr, print_json
from aligngpt.cli.params import FOLDER, LEVELS, LEVELS_HELP, NEW_FILE, json_option

DATA_EXAMPLE = """
aligngpt report data --scores scores --levels levels --data runs/synthetic/data/pretrain.json \\
    --images runs/synthetic/data/images --output data.html
"""
RUN_EXAMPLE = "aligngpt report run runs/synthetic"
EVAL_EXAMPLE = """
aligngpt report eval results/adaptive
aligngpt report eval results/adaptive --compare results/none --data playground/data/eval
"""


@click.group(cls=Group)
def report() -> None:
    """Write an HTML report about data, a run or benchmark results.

    A report is one self-contained HTML file.
    """


@report.command("data", cls=Command, example=DATA_EXAMPLE)
@click.option("--scores", type=FOLDER, required=True, help="Folder written by aligngpt score.")
@click.option("--levels", type=LEVELS, help=f"{LEVELS_HELP}.")
@click.option("--data", metavar="SOURCE", help="The pairs that were scored, for captions and images.")
@click.option("--images", type=FOLDER, help="Image folder of the data.")
@click.option("--output", type=NEW_FILE, required=True, help="HTML file to write.")
@json_option
def report_data(as_json: bool, **arguments: Any) -> None:
    """Write the report about scored pairs.

    Distribution of the scores, example pairs of each level, suspected mismatches, duplicates, repeated captions,
    errors, and the agreement of several scorers. The report names what is not passed.
    """
    from aligngpt import reporting

    with logs_to_stderr():
        written = reporting.report_data(**arguments)
    if as_json:
        print_json(written)
        return
    for sentence in written.insights:
        click.echo(sentence)
    click.echo(f"Report: {written.report}")


@report.command("run", cls=Command, example=RUN_EXAMPLE)
@click.argument("folder", metavar="RUN", type=FOLDER)
@click.option("--output", type=NEW_FILE, help="HTML file to write. [default: RUN/report.html]")
@json_option
def report_run(folder: Path, output: Path | None, as_json: bool) -> None:
    """Write the report about an end-to-end run.

    RUN is the output folder of `aligngpt run`, which writes this report at its end.
    """
    from aligngpt import reporting
    from aligngpt.experiments.summary import compare_variants

    with logs_to_stderr():
        page = reporting.report_run(folder, output, comparisons=compare_variants(folder))
    _print_page(page, as_json)


@report.command("eval", cls=Command, example=EVAL_EXAMPLE)
@click.argument("results", metavar="RESULTS", type=FOLDER)
@click.option("--compare", "baseline", type=FOLDER, help="Results of a baseline model to compare with.")
@click.option("--data", type=FOLDER, help="Benchmark files, for the questions on which the models differ.")
@click.option(
    "--examples", type=click.IntRange(0, 24), default=12, help="Number of such questions shown for each benchmark."
)
@click.option(
    "--output",
    type=NEW_FILE,
    help="HTML file to write. [default: RESULTS/index.html; RESULTS/comparison-BASELINE.html with --compare]",
)
@json_option
def report_eval(
    results: Path, baseline: Path | None, data: Path | None, examples: int, output: Path | None, as_json: bool
) -> None:
    """Write the report about benchmark results.

    RESULTS is the output folder of `aligngpt eval run`, which writes this report at its end. It compares the results
    with the paper's and, with --compare, with those of a baseline model: differences are RESULTS minus baseline.
    """
    from aligngpt import reporting
    from aligngpt.evaluation.compare import compare

    if baseline is None and data is not None:
        raise click.UsageError("--data has no effect without --compare; pass --compare with the results of a baseline")
    with logs_to_stderr():
        comparisons = [] if baseline is None else compare(results, baseline, data=data, num_examples=examples)
        page = reporting.report_eval(results, output, comparisons=comparisons)
    _print_page(page, as_json)


def _print_page(page: Path, as_json: bool) -> None:
    if as_json:
        print_json({"report": page})
    else:
        click.echo(f"Report: {page}")
