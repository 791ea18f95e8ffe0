"""`eval judge`: a language model scores predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aligngpt.cli.config_options import ConfigCommand
from aligngpt.cli.output import logs_to_stderr, print_json, print_table, print_warnings
from aligngpt.cli.params import BENCHMARK, FILE, FOLDER, NEW_FILE, json_option

if TYPE_CHECKING:
    from aligngpt.evaluation.artifacts import JudgeResult
    from aligngpt.evaluation.benchmark import Benchmark
    from aligngpt.evaluation.judge.config import JudgeConfig

JUDGE_EXAMPLE = """
aligngpt eval judge mmvet --data playground/data/eval --answers answers.jsonl --output grades.json \\
    --judge-url http://127.0.0.1:8000/v1 --judge-model some-model
"""

_MAX_SHOWN = 60  # characters of an unreadable reply


JUDGE_PRESETS = "aligngpt.evaluation.judge.config:JUDGE_PRESETS"


@click.command("judge", cls=ConfigCommand, presets=JUDGE_PRESETS, example=JUDGE_EXAMPLE)
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
    print_warnings(_warnings(result))
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


def _warnings(result: JudgeResult) -> list[str]:
    names = ", ".join(map(str, result.unanswered))
    missing = [f"questions without a prediction, not judged: {names}"] if names else []
    unreadable = [
        f"unreadable reply to question {reply.id}, run {reply.run + 1}: {reply.reply[:_MAX_SHOWN]!r}"
        for reply in result.unreadable
    ]
    return [*result.notes, *missing, *unreadable]
