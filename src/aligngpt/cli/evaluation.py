"""`eval`: run benchmarks with a model, score predictions, compare two models, use a judge, write submissions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligngpt.cli.base import Group
from aligngpt.cli.config_options import ConfigCommand
from aligngpt.cli.output import logs_to_stderr, print_json, print_table, print_warnings
from aligngpt.cli.params import (
    BENCHMARK,
    EXISTING,
    FILE,
    FOLDER,
    NEW_FILE,
    NEW_FOLDER,
    SHARD,
    TASKS,
    alignment_option,
    json_option,
    trained_option,
)
from aligngpt.utils.text import format_p_value

if TYPE_CHECKING:
    from aligngpt.evaluation import artifacts
    from aligngpt.evaluation.benchmark import Benchmark
    from aligngpt.evaluation.judge.config import JudgeConfig
    from aligngpt.evaluation.types import EvalConfig

RUN_EXAMPLE = """
aligngpt eval run --tasks pope,mme --model runs/model --data playground/data/eval --output runs/eval
aligngpt eval run --tasks all --model runs/model --data playground/data/eval --output runs/eval --batch-size 32
aligngpt eval run --tasks synthetic --model runs/synthetic/finetune-adaptive --data runs/synthetic/data \\
    --output runs/level-3 --alignment 3
"""
SCORE_EXAMPLE = """
aligngpt eval score gqa --labels gqa/data/testdev_balanced_questions.json --answers gqa/answers/model.jsonl
aligngpt eval score pope --labels pope --answers pope/answers/model.jsonl --protocol strict --output pope.json
"""
COMPARE_EXAMPLE = """
aligngpt eval compare results-adaptive results-none --output comparison.html --data playground/data/eval
aligngpt eval compare adaptive.jsonl none.jsonl --benchmark pope --labels pope
"""
JUDGE_EXAMPLE = """
aligngpt eval judge mmvet --data playground/data/eval --answers answers.jsonl --output reviews.json \\
    --judge-url http://127.0.0.1:8000/v1 --judge-model some-model
"""
SUBMISSION_EXAMPLE = """
aligngpt eval submission vizwiz --questions vizwiz/llava_test.jsonl --answers vizwiz/answers/model.jsonl \\
    --output vizwiz/answers_upload/model.json
"""

EVAL_PRESETS = "aligngpt.evaluation.types:EVAL_PRESETS"
JUDGE_PRESETS = "aligngpt.evaluation.judge.config:JUDGE_PRESETS"
_MAX_ROWS = 30  # values of a category in a table; JSON has them all
_MAX_EXAMPLES = 48  # questions on the page of a comparison
_MAX_NAMED = 5  # unreadable images in a warning; results.json has them all
_MAX_SHOWN = 60  # characters of an unreadable reply

labels_option = click.option(
    "--labels", type=EXISTING, multiple=True, help="Label file or its folder; repeat it for more files."
)
protocol_option = click.option(
    "--protocol",
    type=click.Choice(["official", "strict"]),
    default="official",
    help="official repeats the official scorer, strict counts every question of the labels once.",
)


@click.group("eval", cls=Group)
def eval_group() -> None:
    """Evaluate a model on benchmarks."""


# run -----------------------------------------------------------------------------------------------------------------


@eval_group.command("run", cls=ConfigCommand, presets=EVAL_PRESETS, exclude=("alignment",), example=RUN_EXAMPLE)
@click.option(
    "--tasks", type=TASKS, metavar="NAME,...|all", required=True, help="Benchmarks; all runs those whose files exist."
)
@trained_option
@click.option("--data", type=FOLDER, required=True, help="LLaVA's playground/data/eval, or a synthetic dataset.")
@click.option("--output", type=NEW_FOLDER, required=True, help="Output folder; completed benchmarks are not run again.")
@alignment_option
@click.option("--shard", type=SHARD, help="Run shard i of n; run without --shard to merge. [default: all]")
@json_option
def run(tasks: list[str], output: Path, as_json: bool, config: EvalConfig, alignment: Any, **arguments: Any) -> None:
    """Run benchmarks with a model and score its predictions.

    Interrupted runs resume. The output folder gets results.json, a page, and the predictions of each benchmark.
    """
    with logs_to_stderr():
        from aligngpt.evaluation.run import evaluate

        changes = {} if alignment is None else {"alignment": alignment}
        results = evaluate(tasks=tasks, output=output, config=config, **arguments, **changes)
        page = _write_page(output)
    rows = [row for row in results.benchmarks if row.benchmark in tasks]
    print_warnings(_warn_about_images(rows))
    if as_json:
        print_json(results.model_dump(mode="json") | {"report": page})
    else:
        _print_results(results, output, page)
    failures = [f"{row.benchmark}: {'; '.join(row.reasons)}; the predictions are kept" for row in rows if row.failed]
    if failures and len(tasks) == 1:
        raise click.ClickException(failures[0])
    print_warnings(failures)


def _write_page(output: Path) -> Path | None:
    """Write the page of the results, unless its dependencies are missing."""
    try:
        from aligngpt.reporting import report_eval
    except ImportError as error:
        print_warnings([f"no page: {error}; then run `aligngpt report eval {output}`"])
        return None
    return report_eval(output)


def _print_results(results: artifacts.EvalResults, output: Path, page: Path | None) -> None:
    columns = ("benchmark", "metric", "score", "95% CI", "samples", "missing")
    complete = [row for row in results.benchmarks if row.n_questions is not None]
    rows = [
        [row.title, row.metric, row.formatted, _format_interval(row.ci95), row.n_samples, row.n_missing]
        for row in complete
    ]
    print_table(f"Benchmarks in {output}", columns, rows)
    for row in results.benchmarks:
        _print_notes(f"{row.benchmark}: {reason}" for reason in row.reasons)
    if page is not None:
        click.echo(f"Report: {page}")


def _warn_about_images(rows: Iterable[artifacts.BenchmarkResult]) -> list[str]:
    warnings = []
    for row in rows:
        images = [f"{record.image or record.question_id} ({record.reason})" for record in row.unreadable_images]
        if images:
            more = f", and {len(images) - _MAX_NAMED} more in results.json" if len(images) > _MAX_NAMED else ""
            names = ", ".join(images[:_MAX_NAMED])
            warnings.append(
                f"{row.benchmark}: {len(images)} images cannot be read, their predictions are empty: {names}{more}"
            )
    return warnings


# score ---------------------------------------------------------------------------------------------------------------


@eval_group.command("score", example=SCORE_EXAMPLE)
@click.argument("benchmark", metavar="NAME", type=BENCHMARK)
@labels_option
@click.option("--answers", type=EXISTING, required=True, help="Predictions, or a judge's reviews of them.")
@protocol_option
@click.option("--ignore", metavar="ID", multiple=True, help="Question id whose prediction is skipped; repeatable.")
@click.option("--output", type=NEW_FILE, help="Also write the score to this file, for eval compare.")
@json_option
def score(benchmark: Benchmark, output: Path | None, as_json: bool, **arguments: Any) -> None:
    """Score predictions as the official scorer does.

    NAME is a benchmark, such as pope; any other name lists them all. Predictions are LLaVA's lines or, where a server
    scores, a submission file; both may be compressed with gzip.
    """
    from aligngpt.evaluation.scoring import score_files

    result = score_files(benchmark, **arguments)
    if output:
        result.write(output)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        _print_score(benchmark, result)


def _print_score(benchmark: Benchmark, result: artifacts.BenchmarkScore) -> None:
    other = "strict" if result.protocol == "official" else "official"
    rows: list[list[Any]] = [
        [benchmark.metric, result.formatted],
        ["95% CI", _format_interval(result.ci95)],
        ["samples", result.n_samples],
        [f"{other} protocol", _format_number(result.protocols[other])],
        ["predictions", result.counts.n_predictions],
        ["missing", result.counts.n_missing],
        ["extra", result.counts.n_extra],
        ["duplicates", result.counts.n_duplicates],
    ]
    print_table(f"{benchmark.title}, {result.protocol} protocol", ("quantity", "value"), rows)
    details = [[name, value] for name, value in result.details.items() if isinstance(value, int | float)]
    if details:
        print_table("Official metrics", ("metric", "value"), details)
    for category, groups in result.groups.items():
        if 1 < len(groups) <= _MAX_ROWS:
            title = category.replace("_", " ")
            cells = [
                [name, group.n_samples, _format_number(group.score), _format_interval(group.ci95)]
                for name, group in groups.items()
            ]
            print_table(f"By {title}", (title, "samples", "score", "95% CI"), cells)
    _print_notes(result.notes)


def _format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _format_interval(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None or bounds[0] == bounds[1] else " to ".join(map(_format_number, bounds))


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}")


# compare -------------------------------------------------------------------------------------------------------------


@eval_group.command("compare", example=COMPARE_EXAMPLE)
@click.argument("model", type=EXISTING)
@click.argument("baseline", type=EXISTING)
@click.option("--benchmark", type=BENCHMARK, help="Benchmark of two predictions files. [default: that of the scores]")
@labels_option
@protocol_option
@click.option("--output", type=NEW_FILE, help="Also write a page with questions on which the models differ.")
@click.option("--data", type=FOLDER, help="Folder of the benchmark files, for questions and images of the page.")
@json_option
@click.pass_context
def compare(
    ctx: click.Context, model: Path, baseline: Path, output: Path | None, data: Path | None, as_json: bool, **files: Any
) -> None:
    """Test whether two models differ.

    MODEL and BASELINE are output folders of eval run, files of eval score --output, or predictions with --benchmark and
    --labels. The difference is MODEL minus BASELINE, with a paired bootstrap interval and an exact paired test.
    """
    from aligngpt.evaluation import compare as comparison

    explicit = ctx.get_parameter_source("protocol") is click.core.ParameterSource.COMMANDLINE
    if files["benchmark"] is None and (files["labels"] or explicit):
        raise click.UsageError("--labels and --protocol are for predictions files, which need --benchmark as well", ctx)
    if data and not output:
        raise click.UsageError("--data is for the page, which needs --output as well", ctx)
    results: list[artifacts.Comparison | artifacts.SkippedComparison]
    if model.is_dir() and baseline.is_dir():
        results = comparison.compare(model, baseline, data=data)
    else:
        left, right = (
            comparison.read_scored_model(path, name)
            if files["benchmark"] is None
            else comparison.score_model(answers=path, name=name, **files)
            for path, name in zip((model, baseline), comparison.distinguish_names(model, baseline), strict=True)
        )
        results = [comparison.add_examples(comparison.compare_models(left, right), data, num_examples=_MAX_EXAMPLES)]
    if output:
        from aligngpt.reporting.benchmarks.comparison import write_comparison

        with logs_to_stderr():
            write_comparison(output, results)
    if as_json:
        print_json([result.model_dump(mode="json") for result in results])
        return
    for result in results:
        _print_comparison(result)
    if output:
        click.echo(f"Report: {output}")


def _print_comparison(result: artifacts.Comparison | artifacts.SkippedComparison) -> None:
    from aligngpt.evaluation.artifacts import SkippedComparison

    if isinstance(result, SkippedComparison):
        _print_notes([f"{result.title}: {result.reason}"])
        return
    model, baseline = result.model, result.baseline
    rows: list[list[Any]] = [
        [model.name, _format_number(model.score)],
        [baseline.name, _format_number(baseline.score)],
        ["difference", f"{result.difference:+.2f}"],
        ["95% CI", _format_interval(result.ci95)],
        [f"p, exact {result.test} test", format_p_value(result.p_value)],
        ["samples", result.n_samples],
        [f"{model.name} better", model.n_better],
        [f"{baseline.name} better", baseline.n_better],
    ]
    title = f"{result.title}, {result.metric}, {result.protocol} protocol: {model.name} against {baseline.name}"
    print_table(title, ("quantity", "value"), rows)
    _print_notes(result.notes)
    if result.n_unpaired:
        _print_notes([f"samples of only one of the two, skipped: {result.n_unpaired}"])


# judge ---------------------------------------------------------------------------------------------------------------


@eval_group.command("judge", cls=ConfigCommand, presets=JUDGE_PRESETS, example=JUDGE_EXAMPLE)
@click.argument("benchmark", metavar="NAME", type=BENCHMARK)
@click.option("--data", type=FOLDER, required=True, help="Folder of all benchmarks, or of this one.")
@click.option("--answers", type=FILE, required=True, help="Predictions of a model.")
@click.option("--output", type=NEW_FILE, required=True, help="Reviews file for eval score.")
@json_option
@click.pass_context
def judge(ctx: click.Context, benchmark: Benchmark, as_json: bool, config: JudgeConfig, **files: Any) -> None:
    """Let a language model score predictions.

    NAME is llava_bench or mmvet. Replies are stored as they arrive: the same command resumes, and requests no reply
    twice.
    """
    from aligngpt.evaluation.judge.judge import judge_predictions

    if config.num_runs > 1 and benchmark.judge is not None and not benchmark.judge.supports_runs:
        raise click.UsageError(
            f"reviews of {benchmark.name} hold one run; for another one pass another --judge-seed and --output", ctx
        )
    with logs_to_stderr():
        result = judge_predictions(benchmark, config=config, **files)
    print_warnings(_warn_about_replies(result))
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    rows = [
        [title, usage.n_replies, usage.prompt_tokens, usage.completion_tokens, usage.cost]
        for title, usage in (("all replies", result.usage), ("this call", result.usage_this_call))
    ]
    title = f"{benchmark.title}: {result.n_samples} predictions judged by {', '.join(result.answered_by)}"
    print_table(title, ("usage", "replies", "prompt tokens", "completion tokens", "cost"), rows)
    click.echo(f"Reviews: {files['output']}")


def _warn_about_replies(result: artifacts.JudgeResult) -> list[str]:
    names = ", ".join(map(str, result.unanswered))
    missing = [f"questions without a prediction, not judged: {names}"] if names else []
    unreadable = [
        f"unreadable reply to question {reply.id}, run {reply.run + 1}: {reply.reply[:_MAX_SHOWN]!r}"
        for reply in result.unreadable
    ]
    return [*result.notes, *missing, *unreadable]


# submission ----------------------------------------------------------------------------------------------------------


@eval_group.command("submission", example=SUBMISSION_EXAMPLE)
@click.argument("benchmark", metavar="NAME", type=BENCHMARK)
@click.option("--questions", type=FILE, required=True, help="Question file; for vqav2 that of the whole test.")
@click.option("--answers", type=FILE, required=True, help="Predictions of a model.")
@click.option("--output", type=NEW_FILE, required=True, help="File for the server.")
@click.pass_context
def submission(ctx: click.Context, benchmark: Benchmark, questions: Path, answers: Path, output: Path) -> None:
    """Write the file that a benchmark's server scores.

    NAME is a benchmark with a server, such as vqav2. The question file of mmbench is its table, that of seed its label
    file.
    """
    from aligngpt.evaluation.benchmarks import BENCHMARKS
    from aligngpt.evaluation.readers import read_predictions

    if benchmark.write_submission is None:
        served = ", ".join(name for name, other in BENCHMARKS.items() if other.write_submission)
        raise click.UsageError(f"{benchmark.name} has no server, use aligngpt eval score; {served} have one", ctx)
    benchmark.write_submission(questions, read_predictions(answers, null_text=""), output)
    click.echo(f"Submission: {output}")
