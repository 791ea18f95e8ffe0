"""Two models on the same questions: the difference of their scores with its interval, and a paired test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.metrics import quantiles, two_sided_binomial
from aligngpt.evaluation.readers import load_object
from aligngpt.evaluation.scoring import headline, resampled, sample_of, score_answers
from aligngpt.evaluation.types import Benchmark, Protocol, SampleScore


@dataclass(frozen=True)
class Side:
    """One of two models: where its answers come from, what was made of each of those that count, and who judged."""

    source: str
    benchmark: Benchmark
    protocol: str
    samples: Sequence[SampleScore]
    judge: str | None = None


def read_side(path: Path) -> Side:
    """Read a results file, as `aligngpt eval score --output` writes it.

    Raises:
        ValueError: If it is another file.
    """
    try:
        results = load_object(path, "results of aligngpt eval score")
        samples = [sample_of(record) for record in results["samples"]]
        benchmark = BENCHMARKS[results["benchmark"]]
        counted = [sample for sample in samples if sample.aggregation_group]
        return Side(str(path), benchmark, results["protocol"], counted, _judge_beside(path))
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: no results of aligngpt eval score --output; answers files need --benchmark and --labels"
        ) from None


def _judge_beside(results: Path) -> str | None:
    """Who judged the answers, where `aligngpt eval run` kept that beside their score."""
    path = results.with_name("reviews-judge.json")
    if results.name != "score.json" or not path.is_file():
        return None
    known = load_object(path, "what aligngpt eval judge writes")
    names = [name for name in known["answered_by"] if name != "not named"]
    return ", ".join(names) or str(known["judge"]["model"])


def compare_folders(first: Path, second: Path) -> list[dict[str, Any]]:
    """Compare two models on every benchmark that both folders of `aligngpt eval run` have a score of.

    Returns:
        What `compare` returns, in the order of `BENCHMARKS`; where two scores cannot be compared, `benchmark` and the
        `reason`.

    Raises:
        ValueError: If there is no such benchmark.
    """
    names = [name for name in BENCHMARKS if all((folder / name / "score.json").is_file() for folder in (first, second))]
    if not names:
        raise ValueError(
            f"{first} and {second}: no benchmark has a score.json in both; give two outputs of aligngpt eval run"
        )
    return [_compared(first / name / "score.json", second / name / "score.json", name) for name in names]


def _compared(first: Path, second: Path, name: str) -> dict[str, Any]:
    sides = [read_side(path) for path in (first, second)]
    try:
        return compare(*sides)
    except ValueError as error:
        return {"benchmark": name, "title": BENCHMARKS[name].title, "reason": str(error)}


def score_side(benchmark: Benchmark, labels: Sequence[Path], answers: Path, protocol: Protocol) -> Side:
    """Score an answers file; errors as `scoring.score_files`."""
    samples = score_answers(benchmark, labels, answers, protocol).score.samples
    return Side(str(answers), benchmark, protocol, [sample for sample in samples if sample.aggregation_group])


def compare(first: Side, second: Side) -> dict[str, Any]:
    """Compare two models on the questions that both were scored on.

    The interval of the difference is a paired bootstrap: each resample draws the same questions for both. The test is
    the exact one of McNemar where every question is right or wrong, else the sign test; both ask how likely a fair
    coin falls as unevenly as the questions on which one model beats the other.

    Args:
        first, second: The models.

    Returns:
        `scores` of both, `difference` (second minus first), `interval`, `test`, `p_value`, the numbers of questions on
        which the first is better, the second is better and neither, `judges` where they are known, `notes`, and
        `differing`: the questions on which they differ.

    Raises:
        ValueError: If the results are of different benchmarks or protocols, or have no question in common.
    """
    _check(first, second)
    benchmark = first.benchmark
    pairs = _paired(first.samples, second.samples)
    if not pairs:
        raise ValueError(f"{first.source} and {second.source} have no question in common")
    ones, others = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    scores = [headline(ones, benchmark), headline(others, benchmark)]
    draws = resampled([ones, others], benchmark)
    better = [
        sum(one.score > other.score for one, other in pairs),
        sum(one.score < other.score for one, other in pairs),
    ]
    binary = all(sample.score in (0, 1) for sample in (*ones, *others))
    return {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "metric": benchmark.metric,
        "protocol": first.protocol,
        "answers": [first.source, second.source],
        "count": len(pairs),
        "left_out": len(first.samples) + len(second.samples) - 2 * len(pairs),
        "scores": scores,
        "difference": scores[1] - scores[0],
        "interval": quantiles(draws[1] - draws[0]),
        "test": "McNemar's exact test" if binary else "sign test",
        "p_value": two_sided_binomial(*better),
        "first_better": better[0],
        "second_better": better[1],
        "same": len(pairs) - sum(better),
        "judges": [first.judge, second.judge],
        "notes": _notes(first, second),
        "differing": [_differing(one, other) for one, other in pairs if one.score != other.score],
    }


def _check(first: Side, second: Side) -> None:
    ones, others = (f"{side.benchmark.name}, {side.protocol} protocol" for side in (first, second))
    if ones != others:
        raise ValueError(f"{first.source} is scored as {ones}, {second.source} as {others}: score both alike")


def _notes(first: Side, second: Side) -> list[str]:
    if first.judge is None or second.judge is None or first.judge == second.judge:
        return []
    return [f"marked by different judges, {first.judge} and {second.judge}: part of the difference may be theirs"]


def _paired(first: Sequence[SampleScore], second: Sequence[SampleScore]) -> list[tuple[SampleScore, SampleScore]]:
    """Pair items by id, the k-th of an id with the k-th; an item without a partner is left out."""
    partners = dict(zip(_keys(second), second, strict=True))
    return [(sample, partners[key]) for key, sample in zip(_keys(first), first, strict=True) if key in partners]


def _keys(samples: Sequence[SampleScore]) -> list[tuple[str, int]]:
    seen: Counter[str] = Counter()
    keys = []
    for sample in samples:
        seen[str(sample.id)] += 1
        keys.append((str(sample.id), seen[str(sample.id)]))
    return keys


def _differing(one: SampleScore, other: SampleScore) -> dict[str, Any]:
    texts = [sample.text if not sample.parts else [part.text for part in sample.parts] for sample in (one, other)]
    label = [part.label for part in one.parts] if one.parts else one.label
    return {"id": one.id, "label": label, "scores": [one.score, other.score], "texts": texts}
