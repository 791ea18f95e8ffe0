"""`eval`: the test of the drawn world, and the twelve benchmarks: score answers, compare them, write submissions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligngpt.cli.base import Group
from aligngpt.cli.output import plain, print_json, print_table, results_alone, with_interval
from aligngpt.cli.params import FILE, FOLDER, NEW_FILE, NEW_FOLDER, TRAINED, alignment_option, json_option

if TYPE_CHECKING:
    from aligngpt.evaluation.types import Benchmark, Protocol

SCENES_EXAMPLE = """
aligngpt eval scenes --model runs/synthetic/finetune-adaptive --data runs/synthetic/data --output runs/eval --limit 200
"""
SCORE_EXAMPLE = """
aligngpt eval score gqa --labels gqa/data/testdev_balanced_questions.json --answers gqa/answers/model.jsonl
aligngpt eval score pope --labels pope --answers pope/answers/model.jsonl --protocol strict --output pope.json
"""
COMPARE_EXAMPLE = """
aligngpt eval compare first/pope.json second/pope.json
aligngpt eval compare first.jsonl second.jsonl --benchmark pope --labels pope --page difference.html --data eval
"""
SUBMISSION_EXAMPLE = """
aligngpt eval submission vizwiz --questions vizwiz/llava_test.jsonl --answers vizwiz/answers/model.jsonl \\
    --output vizwiz/answers_upload/model.json
"""

_LONGEST_TABLE = 30  # parts of a division; more are in the JSON alone
_SHOWN = 48  # questions on a page of two models

EXISTING = click.Path(exists=True, path_type=Path)


class BenchmarkName(click.ParamType):
    """The name of a benchmark; they are imported when one is named, not before."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Benchmark:
        """Return the benchmark.

        Raises:
            click.BadParameter: If there is none of that name.
        """
        from aligngpt.evaluation.benchmarks import BENCHMARKS

        if not isinstance(value, str):
            return value
        if value not in BENCHMARKS:
            self.fail(f"there is no benchmark {value!r}; there are {', '.join(BENCHMARKS)}.", param, ctx)
        return BENCHMARKS[value]

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


BENCHMARK = BenchmarkName()

labels_option = click.option(
    "--labels",
    type=EXISTING,
    multiple=True,
    help="Label file, or the folder it lies in; give it again for more files.",
)
protocol_option = click.option(
    "--protocol",
    type=click.Choice(["official", "strict"]),
    default="official",
    help="official repeats the official scorer, strict counts every question of the labels once.",
)


@click.group("eval", cls=Group)
def evaluate() -> None:
    """Measure a trained model."""


@evaluate.command("scenes", example=SCENES_EXAMPLE)
@click.option("--model", type=TRAINED, required=True, help="Folder of a trained model or of a stage-1 checkpoint.")
@click.option("--data", type=FOLDER, required=True, help="Folder written by aligngpt synthetic generate.")
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for answers.jsonl and results.json.")
@alignment_option
@click.option("--batch-size", type=click.IntRange(min=1), default=100, help="Prompts answered at once.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask the first so many questions. [default: all]")
@json_option
def eval_scenes(output: Path, model: Path, data: Path, as_json: bool, **options: Any) -> None:
    """Ask the test questions of the embedded world."""
    from aligngpt.evaluation.benchmarks import synthetic as benchmark

    with results_alone():
        result = benchmark.evaluate(model, data, output, **options)
    if as_json:
        print_json(result)
        return
    rows = [["all", result["count"], with_interval(result["accuracy"], result["interval"])]]
    for kind, part in result["by_kind"].items():
        rows.append([kind, part["count"], with_interval(part["accuracy"], part["interval"])])
    print_table(f"Answers in {output}", ("question", "count", "accuracy"), rows)
    described = result["description"]
    for name in ("precision", "recall") if described else ():
        click.echo(f"objects described, {name}: {with_interval(described[name], described[f'{name}_interval'])}")


@evaluate.command("score", example=SCORE_EXAMPLE)
@click.argument("benchmark", metavar="NAME", type=BENCHMARK)
@labels_option
@click.option("--answers", type=EXISTING, required=True, help="Answers; a judge's reviews for llava_bench and mmvet.")
@protocol_option
@click.option("--ignore", metavar="ID", multiple=True, help="Leave out the answer of this id; give it again for more.")
@click.option("--output", type=NEW_FILE, help="Also write the results to this file, for eval compare.")
@json_option
def score(
    benchmark: Benchmark,
    labels: tuple[Path, ...],
    answers: Path,
    protocol: Protocol,
    ignore: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Score an answers file as the official scorer does.

    NAME is a benchmark, such as pope; an unknown one is answered with the list of all. Answers are LLaVA's lines or,
    where a server scores, a submission file; both may be packed with gzip.
    """
    from aligngpt.evaluation.scoring import score_files
    from aligngpt.utils.io import write_json

    result = score_files(benchmark, labels, answers, protocol, ignore)
    if output:
        write_json(output, plain(result))
    if as_json:
        print_json(result)
    else:
        _print_score(benchmark, result)


def _print_score(benchmark: Benchmark, result: dict[str, Any]) -> None:
    other = "strict" if result["protocol"] == "official" else "official"
    rows = [
        [benchmark.metric, result["formatted"]],
        ["95 % interval", _interval(result["interval"])],
        ["questions", result["count"]],
        [f"{other} protocol", _digits(result["protocols"][other])],
        *([f"{name} answers", number] for name, number in result["answers"].items()),
    ]
    print_table(f"{benchmark.title}, {result['protocol']} protocol", ("", ""), rows)
    figures = [[name, value] for name, value in result["details"].items() if isinstance(value, int | float)]
    print_table("Official figures", ("", ""), figures)
    for name, parts in result["groups"].items():
        if 1 < len(parts) <= _LONGEST_TABLE:
            cells = [
                [part, one["count"], _digits(one["score"]), _interval(one["interval"])] for part, one in parts.items()
            ]
            print_table(
                f"By {name.replace('_', ' ')}", (name.replace("_", " "), "questions", "score", "interval"), cells
            )
    _print_notes(result["notes"])


def _digits(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def _interval(bounds: Sequence[float]) -> str:
    """A dash where there is none, or one without width, which too few questions have."""
    return "-" if bounds[0] == bounds[1] or math.isnan(bounds[0]) else " to ".join(map(_digits, bounds))


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}")


@evaluate.command("compare", example=COMPARE_EXAMPLE)
@click.argument("first", metavar="A", type=EXISTING)
@click.argument("second", metavar="B", type=EXISTING)
@click.option("--benchmark", type=BENCHMARK, help="What A and B answer. [default: what they are results of]")
@labels_option
@protocol_option
@click.option("--page", type=NEW_FILE, help="Also write a page with the questions on which they differ.")
@click.option("--data", type=FOLDER, help="The benchmarks' files, for that page's questions and images.")
@json_option
@click.pass_context
def compare(
    ctx: click.Context,
    first: Path,
    second: Path,
    benchmark: Benchmark | None,
    labels: tuple[Path, ...],
    protocol: Protocol,
    page: Path | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Test whether two models differ.

    A and B are answers files, with --benchmark and --labels, or results of eval score --output. The difference is B
    minus A, with a paired bootstrap interval, and McNemar's or the sign test over the questions.
    """
    from aligngpt.evaluation import compare as comparison

    given = ctx.get_parameter_source("protocol") is click.core.ParameterSource.COMMANDLINE
    if benchmark is None and (labels or given):
        raise click.UsageError("--labels and --protocol are for answers files, which need --benchmark as well", ctx)
    if data and not page:
        raise click.UsageError("--data is for the page, which needs --page as well", ctx)
    sides = [
        comparison.read_side(path) if benchmark is None else comparison.score_side(benchmark, labels, path, protocol)
        for path in (first, second)
    ]
    result = comparison.compare(*sides)
    if page:
        _write_comparison(page, result, data, (first, second))
    if as_json:
        print_json(result)
        return
    _print_comparison(sides[0].benchmark, result)
    if page:
        click.echo(f"Page: {page}")


def _write_comparison(page: Path, result: dict[str, Any], data: Path | None, sources: tuple[Path, Path]) -> None:
    from aligngpt.evaluation.differing import differing_questions
    from aligngpt.reporting.benchmarks.comparison import write_comparison

    with results_alone():
        chosen = differing_questions(result, data, at_most=_SHOWN)
        write_comparison(page, [result | chosen], apart(sources))


def apart(sources: tuple[Path, Path]) -> tuple[str, str]:
    """Names of two files or folders: their own, or those of the folders around them where they are called the same."""
    first, second = (path.resolve() for path in sources)
    while first.name == second.name and first != second:
        first, second = first.parent, second.parent
    names = [path.stem if path.is_file() else path.name for path in (first, second)]
    return (names[0], names[1]) if names[0] != names[1] else (f"{names[0]} (A)", f"{names[1]} (B)")


def _print_comparison(benchmark: Benchmark, result: dict[str, Any]) -> None:
    rows = [
        ["A", _digits(result["scores"][0])],
        ["B", _digits(result["scores"][1])],
        ["B minus A", f"{result['difference']:+.2f}"],
        ["95 % interval", _interval(result["interval"])],
        [f"p, {result['test']}", f"{result['p_value']:.3g}"],
        ["questions", result["count"]],
        ["A better, B better", f"{result['first_better']:,}, {result['second_better']:,}"],
    ]
    print_table(f"{benchmark.title}, {benchmark.metric}, {result['protocol']} protocol", ("", ""), rows)
    _print_notes(result["notes"])
    if result["left_out"]:
        click.echo(f"note: questions that count for one of the two alone, left out: {result['left_out']}")


@evaluate.command("submission", example=SUBMISSION_EXAMPLE)
@click.argument("benchmark", metavar="NAME", type=BENCHMARK)
@click.option("--questions", type=FILE, required=True, help="The question file; the whole test's for vqav2.")
@click.option("--answers", type=FILE, required=True, help="A model's answers.")
@click.option("--output", type=NEW_FILE, required=True, help="The file to be uploaded.")
@click.pass_context
def submission(ctx: click.Context, benchmark: Benchmark, questions: Path, answers: Path, output: Path) -> None:
    """Write the file a benchmark's server takes.

    NAME is a benchmark with a server, such as vqav2. The question file of mmbench is its table, that of seed its label
    file.
    """
    from aligngpt.evaluation.benchmarks import BENCHMARKS
    from aligngpt.evaluation.readers import read_answers

    if benchmark.write_submission is None:
        served = ", ".join(name for name, one in BENCHMARKS.items() if one.write_submission)
        raise click.UsageError(
            f"{benchmark.name} is scored here, not by a server: use aligngpt eval score; {served} have one", ctx
        )
    benchmark.write_submission(questions, read_answers(answers, null_text=""), output)
    click.echo(f"Submission: {output}")
