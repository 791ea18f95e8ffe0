"""`eval run`: a model answers benchmarks, and the answers are scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligngpt.cli.config_options import ConfigCommand
from aligngpt.cli.evaluation import BENCHMARK
from aligngpt.cli.judge import judge_spec
from aligngpt.cli.output import print_json, print_table, print_warnings, results_alone
from aligngpt.cli.params import FOLDER, NEW_FOLDER, SHARD, TRAINED, alignment_option, json_option

if TYPE_CHECKING:
    from aligngpt.evaluation.judge.config import JudgeConfig
    from aligngpt.evaluation.types import Benchmark

RUN_EXAMPLE = """
aligngpt eval run pope --model runs/model --data playground/data/eval --output runs/eval
aligngpt eval run all --model runs/model --data playground/data/eval --output runs/eval --batch-size 32
"""
_DTYPES = ("float32", "float16", "bfloat16")
_NAMED = 5  # images that could not be read; all are in run.json


class BenchmarkOrAll(click.ParamType):
    """The name of a benchmark, or `all`."""

    name = "NAME|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sequence[Benchmark]:
        """Return the benchmarks.

        Raises:
            click.BadParameter: If there is none of that name.
        """
        from aligngpt.evaluation.benchmarks import BENCHMARKS

        return tuple(BENCHMARKS.values()) if value == "all" else (BENCHMARK.convert(value, param, ctx),)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


@click.command("run", cls=ConfigCommand, spec=judge_spec, example=RUN_EXAMPLE)
@click.argument("benchmarks", metavar="NAME|all", type=BenchmarkOrAll())
@click.option("--model", type=TRAINED, required=True, help="Folder of a trained model or of a stage-1 checkpoint.")
@click.option("--data", type=FOLDER, required=True, help="Folder of the benchmarks: LLaVA's playground/data/eval.")
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for the results; what is done is kept.")
@alignment_option
@click.option("--batch-size", type=click.IntRange(min=1), default=16, help="Questions answered at once.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Processes that answer, each with a model of its own. [default: one for each GPU]",
)
@click.option("--shard", type=SHARD, help="Answer one of n shares; without it, all are put together. [default: all]")
@click.option(
    "--limit", type=click.IntRange(min=1), help="Ask the first so many questions, without a score. [default: all]"
)
@click.option("--dtype", type=click.Choice(_DTYPES), help="Type of the weights. [default: the model's own]")
@json_option
def run(
    benchmarks: Sequence[Benchmark],
    output: Path,
    as_json: bool,
    config: JudgeConfig,
    **options: Any,
) -> None:
    """Let a model answer benchmarks, and score the answers.

    NAME is a benchmark, such as pope; an unknown one is answered with the list of all. With all, those whose files are
    in the data folder are run, and the others are named. The same command goes on where it was cut off.
    """
    with results_alone():
        from aligngpt.evaluation.run import run_benchmarks
        from aligngpt.evaluation.tasks import RunSettings

        settings = RunSettings(output=output, judge=config if config.judge_model else None, **options)
        results = run_benchmarks(benchmarks, settings, skip_missing=len(benchmarks) > 1)
        page = _write_page(output)
    named = {one.name for one in benchmarks}
    failed = [row for row in results["benchmarks"] if row["benchmark"] in named and row.get("failed")]
    messages = [f"{row['benchmark']}: {'; '.join(row['reasons'])}; the answers are kept" for row in failed]
    print_warnings(_warnings(results, output))
    if as_json:
        print_json({**results, "page": page})
    else:
        _print_results(results, output, page)
    if len(benchmarks) == 1 and messages:
        raise click.ClickException(messages[0])
    print_warnings(messages)


def _print_results(results: dict[str, Any], output: Path, page: Path | None) -> None:
    for name in results["finished_before"]:
        click.echo(f"{name}: finished before, nothing was left to do")
    asked = [row for row in results["benchmarks"] if "questions" in row]
    columns = ("benchmark", "metric", "score", "95 % interval", "questions", "missing")
    print_table(f"Benchmarks in {output}", columns, map(_row, asked))
    for row in results["benchmarks"]:
        for reason in row["reasons"]:
            click.echo(f"note: {row['benchmark']}: {reason}")
    if page is not None:
        click.echo(f"Page: {page}")


def _write_page(output: Path) -> Path | None:
    """The page about the results, where what draws it is installed."""
    try:
        from aligngpt.reporting.benchmarks.page import write_page
    except ImportError as error:
        print_warnings([f"no page: {error}; then run `aligngpt report eval {output}`"])
        return None
    return write_page(output)


def _row(row: dict[str, Any]) -> list[Any]:
    interval = row["interval"]
    told = interval and None not in interval and interval[0] < interval[1]  # none of answers that are all alike
    bounds = f"{interval[0]:.2f} to {interval[1]:.2f}" if told else None
    return [row["title"], row["metric"], row["formatted"], bounds, row["questions"], row["missing"]]


def _warnings(results: dict[str, Any], output: Path) -> list[str]:
    from aligngpt.utils.io import read_json

    warnings = []
    for row in results["benchmarks"]:
        if not row.get("unreadable_images"):
            continue
        path = output / row["benchmark"] / "run.json"
        bad = read_json(path)["unreadable_images"]
        named = ", ".join(f"{one['image'] or one['question_id']} ({one['reason']})" for one in bad[:_NAMED])
        more = f", and {len(bad) - _NAMED} more, all named in {path}" if len(bad) > _NAMED else ""
        warnings.append(
            f"{row['benchmark']}: questions whose image could not be read, with empty answers: {len(bad)}: "
            f"{named}{more}"
        )
    return warnings
