"""`report run`, `report data` and `report eval`: pages to look at."""

from __future__ import annotations

from pathlib import Path

import click

from aligngpt.cli.base import Command, Group
from aligngpt.cli.output import print_json, results_alone
from aligngpt.cli.params import FOLDER, NEW_FILE, json_option

RUN_EXAMPLE = """
aligngpt report run runs/synthetic
"""
DATA_EXAMPLE = """
aligngpt report data --scores scores --levels levels --pairs runs/synthetic/data/pretrain.json \\
    --images runs/synthetic/data/images --output data.html
"""
EVAL_EXAMPLE = """
aligngpt report eval runs/benchmarks/adaptive
aligngpt report eval runs/benchmarks/adaptive --compare runs/benchmarks/none --data playground/data/eval
"""


@click.group(cls=Group)
def report() -> None:
    """Write a page about a run, about data or about benchmark results.

    A page is one HTML file that needs nothing beside it.
    """


@report.command("run", cls=Command, example=RUN_EXAMPLE)
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.option("--output", type=NEW_FILE, help="The page. [default: RUN/report.html]")
@json_option
def report_run(run_folder: Path, output: Path | None, as_json: bool) -> None:
    """Write the page about a run.

    RUN is the folder of `aligngpt run`, which writes this page itself at its end.
    """
    from aligngpt import reporting

    with results_alone():
        page = reporting.report(run_folder, output or run_folder / "report.html")
    if as_json:
        print_json({"page": page})
    else:
        click.echo(f"Page: {page}")


@report.command("data", cls=Command, example=DATA_EXAMPLE)
@click.option("--scores", type=FOLDER, required=True, help="Folder written by aligngpt score.")
@click.option("--levels", type=click.Path(exists=True, path_type=Path), help="Folder written by aligngpt level.")
@click.option("--pairs", metavar="SOURCE", help="The pairs that were scored, for captions and images.")
@click.option("--images", type=FOLDER, help="Folder the pairs' image paths start from.")
@click.option("--output", type=NEW_FILE, required=True, help="The page.")
@json_option
def report_data(
    scores: Path, levels: Path | None, pairs: str | None, images: Path | None, output: Path, as_json: bool
) -> None:
    """Write the page about scored pairs.

    How the scores spread, pairs of every level, suspected mismatches, copies, captions used again, bad
    files and how far several scorers agree. What is not given is left out, and the page says so.
    """
    from aligngpt import reporting

    with results_alone():
        written = reporting.data_report(scores, output, levels=levels, pairs=pairs, images=images)
    if as_json:
        print_json(written)
        return
    for sentence in written.findings:
        click.echo(sentence)
    click.echo(f"Page: {written.page}")


@report.command("eval", cls=Command, example=EVAL_EXAMPLE)
@click.argument("output_folder", metavar="OUTPUT", type=FOLDER)
@click.option("--compare", "other", type=FOLDER, help="Output of another model, to be set against this one.")
@click.option("--data", type=FOLDER, help="The benchmarks' files, for the questions on which the two models differ.")
@click.option(
    "--examples", type=click.IntRange(0, 24), default=12, help="How many such questions are shown, of each benchmark."
)
@click.option("--output", "page", type=NEW_FILE, help="The page. [default: OUTPUT/index.html]")
@json_option
def report_eval(
    output_folder: Path, other: Path | None, data: Path | None, examples: int, page: Path | None, as_json: bool
) -> None:
    """Write the page about benchmark results.

    OUTPUT is the folder of `aligngpt eval run`, which writes this page itself at its end. The results stand beside the
    paper's; with --compare, differences are OUTPUT minus the other.
    """
    from aligngpt.evaluation.compare import compare
    from aligngpt.reporting.benchmarks.page import write_page

    if other is None and data is not None:
        raise click.UsageError("--data is for the questions on which two models differ, which needs --compare as well")
    with results_alone():
        comparisons = [] if other is None else compare(output_folder, other, data=data, num_examples=examples)
        written = write_page(output_folder, page, comparisons)
    if as_json:
        print_json({"page": written})
    else:
        click.echo(f"Page: {written}")
