"""Letting a judge, another language model, mark a model's answers: requests, replies, reviews, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from aligngpt.evaluation.judge.client import (
    EndpointError,
    JudgeClient,
    JudgeSettings,
    Message,
    Replies,
    Reply,
)
from aligngpt.evaluation.types import Benchmark, Id, MatchCounts, Prediction, Predictions, match_predictions
from aligngpt.utils.io import alone_in, write_json
from aligngpt.utils.progress import progress as progress_bar

__all__ = [
    "EndpointError",
    "Judge",
    "JudgeSettings",
    "Judged",
    "Message",
    "Request",
    "Requests",
    "answers_to",
    "review",
]

_SHOWN = 60  # characters of a question in a message
_NAMED = 5  # questions in a message
_GIVE_UP = 5  # requests in a row that failed for good: the endpoint is down, the others would fail as well


@dataclass(frozen=True)
class Request:
    """What the judge is asked about one answer.

    Args:
        id: The question's.
        messages: The chat.
        record: What the reviews file keeps of it.
    """

    id: Id
    messages: tuple[Message, ...]
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Requests:
    """What the judge is asked, in the order of the questions.

    Args:
        rows: A request for each answer.
        count: How answers and questions fit.
        unanswered: Questions without an answer.
        notes: What to know.
    """

    rows: Sequence[Request]
    count: MatchCounts
    unanswered: Sequence[Id] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """One answer, judged: for each run the reply and the marks read out of it, None where they cannot be read."""

    request: Request
    replies: tuple[str, ...]
    marks: tuple[Any, ...]
    model: str


@dataclass(frozen=True)
class Judge:
    """How a benchmark's answers are judged.

    Args:
        read_answers: An answers file to answers.
        requests: The folder of the data and answers to what the judge is asked.
        read: A reply to its marks; None if they cannot be read.
        write: Writes the reviews file, which the benchmark's `read_answers` takes.
        suffix: Of that file's name.
        temperature: Of the official evaluator.
        max_tokens: Longest reply.
        attempts: How often a question is asked whose reply cannot be read.
        reminder: What an attempt after the first says in front of the chat's last message.
        several_runs: Whether a reviews file holds several runs; if not, each answer is judged once.
    """

    read_answers: Callable[[Path], Predictions]
    requests: Callable[[Path, Predictions], Requests]
    read: Callable[[str], Any]
    write: Callable[[Path, Sequence[Judged]], None]
    suffix: str
    temperature: float
    max_tokens: int
    attempts: int = 1
    reminder: str = ""
    several_runs: bool = False


@dataclass(frozen=True)
class _Outcome:
    """What became of one request in one run: the replies, the marks read out of the last, the error that ended it."""

    replies: tuple[Reply, ...] = ()
    marks: Any = None
    error: EndpointError | None = None


def review(
    benchmark: Benchmark, data: Path, answers: Path, output: Path, settings: JudgeSettings, progress: bool = True
) -> dict[str, Any]:
    """Have a judge mark answers, and write the reviews and, beside them, what was asked and replied and what it cost.

    Every reply is kept in `<output's stem>-replies.jsonl` as soon as it comes. The same call again asks only what is
    not there, and a finished one asks nothing.

    Args:
        benchmark: One that has a judge.
        data: The folder of all benchmarks, `playground/data/eval`, or the benchmark's own.
        answers: A model's answers.
        output: The reviews file.
        progress: Whether to show how far it is, on a terminal.

    Returns:
        What `<output's stem>-judge.json` holds; `docs/judge.md` names the fields.

    Raises:
        ImportError: If something has to be asked and the client library is not installed.
        ValueError: If the benchmark has no judge, a file is broken or of another kind, the answers are to other
            questions, or another call is at work on the same reviews.
        EndpointError: If some replies could not be had; those that came are kept.
    """
    judge = benchmark.judge
    if judge is None:
        raise ValueError(f"{benchmark.name} is scored without a judge")
    if output.suffix != judge.suffix:
        raise ValueError(f"{output}: reviews of {benchmark.name} are kept in a {judge.suffix} file; name it so")
    settings = replace(settings, runs=settings.runs if judge.several_runs else 1)
    asked = judge.requests(data, judge.read_answers(answers))
    if not asked.rows:
        raise ValueError(f"{answers}: none of its answers is to a question of {data}: is it another benchmark's?")
    with alone_in(output.parent, f"-{output.stem}"):  # two calls would both pay
        replies = Replies(output.with_name(f"{output.stem}-replies.jsonl"))
        with JudgeClient(settings, replies) as client:
            outcomes = _ask_all(client, judge, asked.rows, settings, progress)
            asked = replace(asked, notes=(*asked.notes, *client.notes))
        _stop_if_failed(asked.rows, outcomes, replies.path)
        judged = _judged(asked.rows, outcomes, settings)
        judge.write(output, judged)
        summary = _summary(benchmark, asked, judged, outcomes, settings)
        write_json(output.with_name(f"{output.stem}-judge.json"), summary)
    return summary


def answers_to(
    questions: Mapping[str, str], answers: Predictions
) -> tuple[dict[str, Prediction], MatchCounts, tuple[str, ...]]:
    """Find the answer to each question; a judge is paid for each, so the question it was given to is compared.

    Args:
        questions: Their texts by id. An answers file keeps that text, perhaps with more around it, as its prompt.

    Returns:
        The answers by id, how they fit, and notes about what does not.

    Raises:
        ValueError: If no answer is to one of the questions, or most are to questions with another text.
    """
    given, count = match_predictions(questions, answers)
    kept = [name for name, answer in given.items() if answer.prompt]
    other = [name for name in kept if questions[name].strip() not in given[name].prompt]
    if len(other) > len(kept) / 2:
        name = other[0]
        raise ValueError(
            f"{answers.source}: {len(other)} of its {len(kept)} answers are to other questions, as {name}: "
            f"{given[name].prompt[:_SHOWN]!r}, here {questions[name][:_SHOWN]!r}; are they to another benchmark?"
        )
    notes = [f"answers to another text of the question, judged all the same: {', '.join(other)}"] if other else []
    if count.extra:
        notes.append(f"answers to no question, not judged: {count.extra}")
    if count.duplicate:
        notes.append(f"answers to a question that has another further down, not judged: {count.duplicate}")
    return given, count, tuple(notes)


# Asking -------------------------------------------------------------------------------------------------------------


def _ask_all(
    client: JudgeClient, judge: Judge, requests: Sequence[Request], settings: JudgeSettings, progress: bool
) -> list[_Outcome | None]:
    """Ask everything, several at once; outcomes request by request, run by run, None where it was given up before."""
    jobs = [(request, run) for request in requests for run in range(settings.runs)]
    failed_in_row = 0
    with ThreadPoolExecutor(settings.concurrency) as pool, progress_bar("judging", len(jobs), progress) as advance:
        futures = [pool.submit(_ask, client, judge, request, run, settings) for request, run in jobs]
        try:
            for future in futures:
                error = None if future.cancelled() else future.result().error
                failed_in_row = failed_in_row + 1 if error else 0
                if error and (error.fatal or failed_in_row == _GIVE_UP):
                    _cancel(futures)
                advance(1)
        except BaseException:
            _cancel(futures)
            raise
    return [None if future.cancelled() else future.result() for future in futures]


def _cancel(futures: Sequence[Future[_Outcome]]) -> None:
    for future in futures:
        future.cancel()


def _ask(client: JudgeClient, judge: Judge, request: Request, run: int, settings: JudgeSettings) -> _Outcome:
    """Ask one thing, again while the reply cannot be read: warmer each time, unless a temperature was asked for."""
    replies: list[Reply] = []
    for attempt in range(judge.attempts):
        messages, temperature = request.messages, settings.temperature
        if temperature is None:
            temperature = min(2.0, judge.temperature + 0.5 * attempt)
        if attempt:
            last = messages[-1]
            messages = (*messages[:-1], {**last, "content": judge.reminder + last["content"]})
        try:
            reply = client.ask(messages, temperature, settings.max_tokens or judge.max_tokens, run, attempt)
        except EndpointError as error:
            return _Outcome(tuple(replies), error=error)
        replies.append(reply)
        marks = judge.read(reply.text)
        if marks is not None:
            return _Outcome(tuple(replies), marks)
    return _Outcome(tuple(replies))


def _stop_if_failed(requests: Sequence[Request], outcomes: Sequence[_Outcome | None], kept: Path) -> None:
    """Raise if a reply is missing: half a reviews file would be scored as if it were whole."""
    errors = [outcome.error for outcome in outcomes if outcome is not None and outcome.error is not None]
    if errors:
        runs = len(outcomes) // len(requests)
        left = [place // runs for place, outcome in enumerate(outcomes) if outcome is None or outcome.error is not None]
        names = [str(requests[place].id) for place in dict.fromkeys(left)]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        fatal = next((error for error in errors if error.fatal), errors[-1])
        raise EndpointError(
            f"the judge: {len(left)} of {len(outcomes)} replies are left to be had: {fatal}; the others are kept in "
            f"{kept}, and the same command goes on from there, with questions {', '.join(names[:_NAMED])}{more}",
            fatal.fatal,
        )


# What came of it ----------------------------------------------------------------------------------------------------


def _judged(requests: Sequence[Request], outcomes: Sequence[_Outcome | None], settings: JudgeSettings) -> list[Judged]:
    rows = []
    for place, request in enumerate(requests):
        own = [one for one in outcomes[place * settings.runs : (place + 1) * settings.runs] if one is not None]
        texts = tuple(one.replies[-1].text for one in own)
        model = own[0].replies[-1].record["answered_by"] or settings.model
        rows.append(Judged(request, texts, tuple(one.marks for one in own), model))
    return rows


def _summary(
    benchmark: Benchmark,
    asked: Requests,
    judged: Sequence[Judged],
    outcomes: Sequence[_Outcome | None],
    settings: JudgeSettings,
) -> dict[str, Any]:
    replies = [reply for outcome in outcomes if outcome is not None for reply in outcome.replies]
    judge = benchmark.judge
    assert judge is not None
    given = asdict(settings) | {
        "temperature": judge.temperature if settings.temperature is None else settings.temperature,
        "max_tokens": settings.max_tokens or judge.max_tokens,
    }
    return {
        "benchmark": benchmark.name,
        "judge": {name: value for name, value in given.items() if name != "api_key_variable"},
        "answered_by": dict(Counter(reply.record["answered_by"] or "not named" for reply in replies)),
        "system_fingerprints": sorted({reply.record["system_fingerprint"] or "none" for reply in replies}),
        "count": len(judged),
        "answers": asdict(asked.count),
        "unanswered": list(asked.unanswered),
        "unreadable": [
            {"id": row.request.id, "run": run, "reply": reply}
            for row in judged
            for run, (reply, marks) in enumerate(zip(row.replies, row.marks, strict=True))
            if marks is None
        ],
        "notes": list(asked.notes),
        "all_replies": _cost(replies, settings),
        "this_call": _cost([reply for reply in replies if not reply.cached], settings),
    }


def _cost(replies: Sequence[Reply], settings: JudgeSettings) -> dict[str, Any]:
    """Replies, tokens and cost; tokens of replies for which the server gave none are not in it, and are counted."""
    counted = [reply.record for reply in replies if reply.record["prompt_tokens"] is not None]
    read = sum(record["prompt_tokens"] for record in counted)
    written = sum(record["completion_tokens"] or 0 for record in counted)
    prices = settings.prices
    return {
        "replies": len(replies),
        "prompt_tokens": read,
        "completion_tokens": written,
        "replies_without_token_counts": len(replies) - len(counted),
        "cost": None if prices is None else (read * prices[0] + written * prices[1]) / 1e6,
    }
