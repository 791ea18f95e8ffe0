"""`eval judge`: a language model behind an endpoint marks a model's answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligngpt.cli.base import Command
from aligngpt.cli.evaluation import BENCHMARK
from aligngpt.cli.output import print_json, print_table, print_warnings, results_alone
from aligngpt.cli.params import FILE, FOLDER, NEW_FILE, json_option

if TYPE_CHECKING:
    from aligngpt.evaluation.judge.judge import JudgeSettings
    from aligngpt.evaluation.types import Benchmark

JUDGE_EXAMPLE = """
aligngpt eval judge mmvet --data playground/data/eval --answers answers.jsonl --output grades.json \\
    --judge-url http://127.0.0.1:8000/v1 --judge-model some-model
"""

_SHOWN = 60  # characters of a reply that could not be read
_COUNT, _AMOUNT = click.IntRange(min=1), click.FloatRange(min=0)


def judge_options(prefix: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of a judge, of which `judge_settings` makes settings.

    Args:
        prefix: In front of all but `--judge-url` and `--judge-model`: `judge-` where a command has more to do.
    """
    options = (
        click.option("--judge-url", metavar="URL", help="OpenAI-compatible endpoint: http://127.0.0.1:8000/v1."),
        click.option("--judge-model", metavar="NAME", help="Which of the endpoint's models judges."),
        click.option(
            f"--{prefix}key-variable",
            "judge_key_variable",
            metavar="NAME",
            default="OPENAI_API_KEY",
            help="Environment variable with the endpoint's key; one of your own may need none.",
        ),
        click.option(f"--{prefix}seed", "judge_seed", type=int, default=0, help="Of the first run; each adds 1."),
        click.option(
            f"--{prefix}temperature",
            "judge_temperature",
            type=click.FloatRange(0, 2),
            help="Of every request to the judge. [default: the official evaluator's]",
        ),
        click.option(f"--{prefix}runs", "judge_runs", type=_COUNT, default=1, help="Grades for each answer of mmvet."),
        click.option(f"--{prefix}price-in", "judge_price_in", type=_AMOUNT, help="Of a million tokens it reads."),
        click.option(f"--{prefix}price-out", "judge_price_out", type=_AMOUNT, help="Of a million tokens it writes."),
        click.option(
            f"--{prefix}max-tokens",
            "judge_max_tokens",
            type=_COUNT,
            help="Longest reply; a judge that thinks first needs more. [default: the benchmark's]",
        ),
        click.option(
            f"--{prefix}max-tokens-name",
            "judge_max_tokens_name",
            type=click.Choice(["max_tokens", "max_completion_tokens"]),
            default="max_tokens",
            help="What the endpoint calls that limit.",
        ),
        click.option(
            f"--{prefix}retries",
            "judge_retries",
            type=click.IntRange(min=0),
            default=5,
            help="Repetitions of a failed request.",
        ),
        click.option(
            f"--{prefix}timeout",
            "judge_timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=120.0,
            help="Seconds within which a reply has to be there, whole.",
        ),
        click.option(
            f"--{prefix}concurrency", "judge_concurrency", type=_COUNT, default=4, help="Requests under way at once."
        ),
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def judge_settings(ctx: click.Context, options: dict[str, Any]) -> JudgeSettings | None:
    """Take the judge's options out of a command's, and return the settings; None if no judge is named.

    Raises:
        click.UsageError: If the endpoint or the model is named without the other, or one price without the other.
    """
    from aligngpt.evaluation.judge.judge import JudgeSettings

    given = {name: options.pop(name) for name in list(options) if name.startswith("judge_")}
    url, model = given["judge_url"], given["judge_model"]
    prices = given["judge_price_in"], given["judge_price_out"]
    if (url is None) != (model is None):
        raise click.UsageError("a judge needs both --judge-url and --judge-model", ctx)
    if (prices[0] is None) != (prices[1] is None):
        raise click.UsageError("a cost needs both prices, that of tokens read and that of tokens written", ctx)
    if url is None:
        return None
    return JudgeSettings(
        model=model,
        base_url=url,
        api_key_variable=given["judge_key_variable"],
        seed=given["judge_seed"],
        temperature=given["judge_temperature"],
        runs=given["judge_runs"],
        prices=None if prices[0] is None else prices,
        max_tokens=given["judge_max_tokens"],
        max_tokens_name=given["judge_max_tokens_name"],
        max_retries=given["judge_retries"],
        timeout=given["judge_timeout"],
        concurrency=given["judge_concurrency"],
    )


@click.command("judge", cls=Command, example=JUDGE_EXAMPLE)
@click.argument("benchmark", metavar="NAME", type=BENCHMARK)
@click.option("--data", type=FOLDER, required=True, help="Folder of the benchmarks, or of this one.")
@click.option("--answers", type=FILE, required=True, help="A model's answers.")
@click.option("--output", type=NEW_FILE, required=True, help="Reviews file for eval score.")
@judge_options()
@json_option
@click.pass_context
def judge(
    ctx: click.Context,
    benchmark: Benchmark,
    data: Path,
    answers: Path,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Have a language model mark a model's answers.

    NAME is llava_bench or mmvet. Replies are kept beside the reviews as they come, and what is there is never asked
    again: the same command goes on where it was cut off.
    """
    from aligngpt.evaluation.judge.judge import review

    settings = judge_settings(ctx, options)
    if benchmark.judge is None:
        raise click.UsageError(f"{benchmark.name} needs no judge: use aligngpt eval score", ctx)
    if settings is None:
        raise click.UsageError("say who judges: --judge-url and --judge-model", ctx)
    if settings.runs > 1 and not benchmark.judge.several_runs:
        raise click.UsageError(
            f"reviews of {benchmark.name} hold one run: for a further one give another --seed and --output", ctx
        )
    with results_alone():
        result = review(benchmark, data, answers, output, settings)
    print_warnings(_warnings(result))
    if as_json:
        print_json(result)
    else:
        _print_summary(benchmark, output, result)


def _warnings(result: dict[str, Any]) -> list[str]:
    left = result["unanswered"]
    missing = [f"questions without an answer, not judged: {', '.join(map(str, left))}"] if left else []
    unread = [
        f"could not be read, question {one['id']}, run {one['run'] + 1}: {one['reply'][:_SHOWN]!r}"
        for one in result["unreadable"]
    ]
    return [*result["notes"], *missing, *unread]


def _print_summary(benchmark: Benchmark, output: Path, result: dict[str, Any]) -> None:
    figures = ("replies", "prompt_tokens", "completion_tokens", "cost")
    rows = [
        [part.replace("_", " "), *(result[part][name] for name in figures)] for part in ("all_replies", "this_call")
    ]
    title = f"{benchmark.title}: {result['count']} answers judged by {', '.join(result['answered_by'])}"
    print_table(title, ("", "replies", "tokens read", "tokens written", "cost"), rows)
    click.echo(f"Reviews: {output}")
