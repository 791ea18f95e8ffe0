"""Scoring predictions by a judge, another language model: requests, replies, reviews and costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from aligngpt.evaluation.artifacts import Id, JudgeResult, JudgeUsage, PredictionCounts, UnreadableReply
from aligngpt.evaluation.benchmark import Benchmark
from aligngpt.evaluation.judge.client import EndpointError, JudgeClient, Message, Reply, ReplyCache
from aligngpt.evaluation.judge.config import JudgeConfig
from aligngpt.evaluation.matching import match_predictions
from aligngpt.evaluation.types import Prediction, Predictions
from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.output_dir import hold_lock
from aligngpt.utils.progress import progress

_MAX_SHOWN = 60  # characters of a question in a message
_MAX_NAMED = 5  # questions in a message
_MAX_FAILURES = 5  # failed requests in a row after which the endpoint counts as down


@dataclass(frozen=True)
class JudgeRequest:
    """The chat about the prediction for one question; `record` is what the reviews file keeps of it."""

    id: Id
    messages: tuple[Message, ...]
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JudgeRequests:
    """A request per prediction in the order of the questions, how both match, and the questions without one."""

    rows: Sequence[JudgeRequest]
    counts: PredictionCounts
    unanswered: Sequence[Id] = ()
    notes: tuple[str, ...] = ()


Job = tuple[JudgeRequest, int]  # a request and its run, from 0


@dataclass(frozen=True)
class JudgedPrediction:
    """The replies about one prediction, and the scores parsed from them, None where a reply is unreadable, per run."""

    request: JudgeRequest
    replies: tuple[str, ...]
    scores: tuple[Any, ...]
    model: str


@dataclass(frozen=True)
class Judge:
    """How the predictions of a benchmark are judged.

    Args:
        read_predictions: Predictions file to predictions.
        build_requests: Data folder and predictions to requests.
        parse_reply: Reply to scores; None if it is unreadable.
        write_reviews: Writes the reviews file, which the benchmark's `read_predictions` reads.
        temperature: Of the official evaluator.
        max_tokens: Maximum reply.
        max_attempts: How often a question is asked whose reply is unreadable.
        reminder: Text before the last message of the chat from the second attempt on.
        supports_runs: Whether a reviews file holds several runs.
    """

    read_predictions: Callable[[Path], Predictions]
    build_requests: Callable[[Path, Predictions], JudgeRequests]
    parse_reply: Callable[[str], Any]
    write_reviews: Callable[[Path, Sequence[JudgedPrediction]], None]
    temperature: float
    max_tokens: int
    max_attempts: int = 1
    reminder: str = ""
    supports_runs: bool = False


@dataclass(frozen=True)
class _Outcome:
    """The outcome of one job: replies, the scores in the last one, the error that ended it."""

    replies: tuple[Reply, ...] = ()
    scores: Any = None
    error: EndpointError | None = None


_NOT_SENT = _Outcome(error=EndpointError("not sent"))


def judge_predictions(
    task: str | Benchmark,
    *,
    data: str | Path,
    answers: str | Path,
    output: str | Path,
    config: JudgeConfig,
    show_progress: bool = True,
) -> JudgeResult:
    """Let a judge score predictions, and write its reviews and what it was asked, replied and cost.

    Every reply is stored in `<stem of output>-replies.jsonl` when it arrives. The same call again requests only what
    is missing.

    Args:
        task: `llava_bench`, `mmvet`, or another benchmark with a judge.
        data: The folder of all benchmarks, `playground/data/eval`, or the benchmark's own.
        answers: Predictions of a model.
        output: The reviews file.

    Returns:
        The content of `<stem of output>-judge.json`.

    Raises:
        ImportError: If a request is needed and the client library is not installed.
        ValueError: If the benchmark has no judge, a file is broken, the predictions are for other questions, or another
            process judges into the same file.
        EndpointError: If replies are missing; those that arrived are stored.
    """
    from aligngpt.evaluation.benchmarks import BENCHMARKS  # which import this module

    benchmark = BENCHMARKS.get(task) if isinstance(task, str) else task
    data, answers, output = Path(data), Path(answers), Path(output)
    judge = None if benchmark is None else benchmark.judge
    if benchmark is None or judge is None:
        judged_names = ", ".join(name for name, other in BENCHMARKS.items() if other.judge)
        raise ArgumentError(f"{task if benchmark is None else benchmark.name} has no judge; choose from {judged_names}")
    if config.judge_model is None:
        raise ArgumentError("the judge is missing; pass --judge-url and --judge-model")
    suffix = Path(benchmark.files.reviews or "").suffix
    if output.suffix != suffix:
        raise ValueError(f"{output}: reviews of {benchmark.name} are stored in a {suffix} file; rename it")
    config = replace(config, num_runs=config.num_runs if judge.supports_runs else 1)
    requests = judge.build_requests(data, judge.read_predictions(answers))
    if not requests.rows:
        raise ValueError(f"{answers}: no prediction is for a question of {data}; pass those of {benchmark.name}")
    with hold_lock(output.parent, f".lock-{output.stem}"):
        cache = ReplyCache(output.with_name(f"{output.stem}-replies.jsonl"))
        with JudgeClient(config, cache) as client:
            jobs = [(request, run) for request in requests.rows for run in range(config.num_runs)]
            outcomes = _ask_all(client, judge, jobs, config, show_progress)
            requests = replace(requests, notes=(*requests.notes, *client.notes))
        _require_replies(jobs, outcomes, cache.path)
        judged = _collect(requests.rows, outcomes, config)
        judge.write_reviews(output, judged)
        result = _summarize(benchmark.name, judge, requests, judged, outcomes, config)
        result.write(output.with_name(f"{output.stem}-judge.json"))
    return result


def match_for_judge(
    questions: Mapping[str, str], predictions: Predictions
) -> tuple[dict[str, Prediction], PredictionCounts, tuple[str, ...]]:
    """Match predictions and questions by id, and compare the prompts, since every request costs money.

    Args:
        questions: Text by id; a predictions file has that text, possibly with more around it, as its prompt.

    Returns:
        The predictions by id, how they match, and notes about what does not.

    Raises:
        ValueError: If no prediction matches, or most have the prompt of another question.
    """
    matches, counts = match_predictions(questions, predictions)
    prompted = [name for name, row in matches.items() if row.prompt]
    wrong = [name for name in prompted if questions[name].strip() not in matches[name].prompt]
    if len(wrong) > len(prompted) / 2:
        name = wrong[0]
        raise ValueError(
            f"{predictions.source}: {len(wrong)} of {len(prompted)} predictions are for other questions, such as "
            f"{name}: {matches[name].prompt[:_MAX_SHOWN]!r}, expected {questions[name][:_MAX_SHOWN]!r}; pass the "
            "predictions of this benchmark"
        )
    notes = [f"predictions with another text of the question, judged nevertheless: {', '.join(wrong)}"] if wrong else []
    if counts.n_extra:
        notes.append(f"predictions for no question, not judged: {counts.n_extra}")
    if counts.n_duplicates:
        notes.append(f"predictions repeated later in the file, not judged: {counts.n_duplicates}")
    return matches, counts, tuple(notes)


# Requests -----------------------------------------------------------------------------------------------------------


def _ask_all(
    client: JudgeClient, judge: Judge, jobs: Sequence[Job], config: JudgeConfig, show_progress: bool
) -> list[_Outcome]:
    """Return the outcomes in the order of the jobs; none is sent any more once the endpoint counts as down."""
    num_failed = 0
    with ThreadPoolExecutor(config.max_concurrency) as pool, progress("judging", len(jobs), show_progress) as advance:
        futures = [pool.submit(_ask, client, judge, request, run, config) for request, run in jobs]
        try:
            for future in futures:
                error = None if future.cancelled() else future.result().error
                num_failed = num_failed + 1 if error else 0
                if error and (error.fatal or num_failed == _MAX_FAILURES):
                    pool.shutdown(wait=False, cancel_futures=True)
                advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [_NOT_SENT if future.cancelled() else future.result() for future in futures]


def _ask(client: JudgeClient, judge: Judge, request: JudgeRequest, run: int, config: JudgeConfig) -> _Outcome:
    """Ask until the reply is readable, with a rising temperature unless the configuration sets one."""
    replies: list[Reply] = []
    for attempt in range(judge.max_attempts):
        messages, temperature = request.messages, config.judge_temperature
        if temperature is None:
            temperature = min(2.0, judge.temperature + 0.5 * attempt)
        if attempt:
            last = messages[-1]
            messages = (*messages[:-1], {**last, "content": judge.reminder + last["content"]})
        try:
            reply = client.ask(messages, temperature, config.judge_max_tokens or judge.max_tokens, run, attempt)
        except EndpointError as error:
            return _Outcome(tuple(replies), error=error)
        replies.append(reply)
        scores = judge.parse_reply(reply.text)
        if scores is not None:
            return _Outcome(tuple(replies), scores)
    return _Outcome(tuple(replies))


def _require_replies(jobs: Sequence[Job], outcomes: Sequence[_Outcome], stored: Path) -> None:
    """Raise if a reply is missing: an incomplete reviews file would be scored as a whole."""
    missing = [str(request.id) for (request, _), outcome in zip(jobs, outcomes, strict=True) if outcome.error]
    errors = [outcome.error for outcome in outcomes if outcome.error and outcome is not _NOT_SENT]
    if errors:
        names = list(dict.fromkeys(missing))
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        fatal = next((error for error in errors if error.fatal), errors[-1])
        raise EndpointError(
            f"the judge: {len(missing)} of {len(outcomes)} replies are missing, for questions "
            f"{', '.join(names[:_MAX_NAMED])}{more}: {fatal}; the others are stored in {stored}, run the same command "
            "again for the rest",
            fatal.fatal,
        )


# Results ------------------------------------------------------------------------------------------------------------


def _collect(
    requests: Sequence[JudgeRequest], outcomes: Sequence[_Outcome], config: JudgeConfig
) -> list[JudgedPrediction]:
    rows = []
    for index, request in enumerate(requests):
        answered = outcomes[index * config.num_runs : (index + 1) * config.num_runs]
        texts = tuple(outcome.replies[-1].text for outcome in answered)
        model = answered[0].replies[-1].record["answered_by"] or str(config.judge_model)
        rows.append(JudgedPrediction(request, texts, tuple(outcome.scores for outcome in answered), model))
    return rows


def _summarize(
    name: str,
    judge: Judge,
    requests: JudgeRequests,
    judged: Sequence[JudgedPrediction],
    outcomes: Sequence[_Outcome],
    config: JudgeConfig,
) -> JudgeResult:
    replies = [reply for outcome in outcomes for reply in outcome.replies]
    resolved = replace(
        config,
        judge_temperature=judge.temperature if config.judge_temperature is None else config.judge_temperature,
        judge_max_tokens=config.judge_max_tokens or judge.max_tokens,
    )
    return JudgeResult(
        benchmark=name,
        config={field: value for field, value in asdict(resolved).items() if field != "judge_api_key_env"},
        answered_by=dict(Counter(reply.record["answered_by"] or "not named" for reply in replies)),
        system_fingerprints=sorted({reply.record["system_fingerprint"] or "none" for reply in replies}),
        n_samples=len(judged),
        counts=requests.counts,
        unanswered=list(requests.unanswered),
        unreadable=[
            UnreadableReply(id=row.request.id, run=run, reply=reply)
            for row in judged
            for run, (reply, scores) in enumerate(zip(row.replies, row.scores, strict=True))
            if scores is None
        ],
        scores={str(row.request.id): list(row.scores) for row in judged},
        notes=list(requests.notes),
        usage=_sum_usage(replies, config),
        usage_this_call=_sum_usage([reply for reply in replies if not reply.cached], config),
    )


def _sum_usage(replies: Sequence[Reply], config: JudgeConfig) -> JudgeUsage:
    counted = [reply.record for reply in replies if reply.record["prompt_tokens"] is not None]
    prompt = sum(record["prompt_tokens"] for record in counted)
    completion = sum(record["completion_tokens"] or 0 for record in counted)
    prices = config.input_cost_per_mtok, config.output_cost_per_mtok
    cost = None if None in prices else (prompt * (prices[0] or 0) + completion * (prices[1] or 0)) / 1e6
    return JudgeUsage(
        n_replies=len(replies),
        n_replies_without_usage=len(replies) - len(counted),
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost=cost,
    )
