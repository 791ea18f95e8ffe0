"""Score a predictions file: the primary metric by both protocols, sub-scores, and bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from aligngpt.evaluation.artifacts import BenchmarkScore, GroupScore, Interval, SampleScore
from aligngpt.evaluation.benchmark import Benchmark
from aligngpt.evaluation.matching import group_samples
from aligngpt.evaluation.metrics import percentile_interval, resample_ratios
from aligngpt.evaluation.types import Predictions, Protocol


def score_files(
    benchmark: Benchmark,
    labels: Sequence[Path],
    answers: Path,
    protocol: Protocol = "official",
    ignore: Collection[str] = (),
) -> BenchmarkScore:
    """Score a predictions file.

    Args:
        benchmark: One of `BENCHMARKS`.
        labels: Label files, or their folder.
        answers: Predictions; for LLaVA-Bench and MM-Vet a judge's reviews.
        protocol: `"official"` repeats the official scorer, `"strict"` counts every question of the labels once.
        ignore: Ids of predictions to skip.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is broken or of another benchmark, or cannot be scored.
    """
    expected = benchmark.read_labels(labels)
    predictions = _skip(benchmark.read_predictions(answers), ignore)
    score = benchmark.score(expected, predictions, protocol)
    values: dict[str, float] = {protocol: score.value}
    notes = list(score.notes)
    other: Protocol = "strict" if protocol == "official" else "official"
    try:
        values[other] = benchmark.score(expected, predictions, other).value
        official, strict = values["official"], values["strict"]
        if not math.isclose(official, strict, rel_tol=1e-12, abs_tol=1e-12):
            notes.append(f"official {official:.2f}, strict {strict:.2f}: {benchmark.official_caveat}")
    except ValueError as error:
        notes.append(f"no score by the {other} protocol: {error}")
    if score.counts.n_extra:
        notes.insert(0, f"answers to no question of the labels: {score.counts.n_extra} of {len(predictions.rows)}")
    counted = [sample for sample in score.samples if sample.aggregation_group is not None]
    return BenchmarkScore(
        benchmark=benchmark.name,
        metric=benchmark.metric,
        protocol=protocol,
        score=_finite(score.value),
        formatted=score.formatted,
        ci95=compute_interval(counted, benchmark),
        n_samples=len(counted),
        counts=score.counts,
        protocols={name: _finite(values.get(name)) for name in ("official", "strict")},
        groups=_score_groups(score.samples, benchmark),
        details=dict(score.details),
        notes=notes,
        samples=list(score.samples),
    )


def _skip(predictions: Predictions, ignore: Collection[str]) -> Predictions:
    unknown = set(ignore) - {str(row.id) for row in predictions.rows}
    if unknown:
        raise ValueError(f"{predictions.source}: no answer to question {', '.join(sorted(unknown))}; check --ignore")
    return replace(predictions, rows=[row for row in predictions.rows if str(row.id) not in ignore])


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


# Metric and intervals ------------------------------------------------------------------------------------------------


def compute_metric(samples: Sequence[SampleScore], benchmark: Benchmark) -> float:
    """Return the primary metric of samples, combined from their aggregation groups; NaN of no samples."""
    ratios = [_ratio(group) for group in _group_for_aggregation(samples)]
    combined = sum(ratios) if benchmark.combine == "sum" else sum(ratios) / len(ratios) if ratios else math.nan
    return benchmark.scale * combined


def _ratio(samples: Sequence[SampleScore]) -> float:
    denominator = math.fsum(sample.terms[1] for sample in samples)
    return math.fsum(sample.terms[0] for sample in samples) / denominator if denominator else 0.0


def _group_for_aggregation(samples: Sequence[SampleScore]) -> list[list[SampleScore]]:
    groups: dict[str, list[SampleScore]] = {}
    for sample in samples:
        if sample.aggregation_group is not None:
            groups.setdefault(sample.aggregation_group, []).append(sample)
    return list(groups.values())


def resample_metric(models: Sequence[Sequence[SampleScore]], benchmark: Benchmark) -> list[np.ndarray]:
    """Return bootstrap resamples of the primary metric of models, from the samples of each in the same order.

    Every aggregation group is resampled separately, with the same resampled questions for every model.
    """
    rng = np.random.default_rng(0)
    sums = [np.zeros(1)] * len(models)
    groups = [_group_for_aggregation(samples) for samples in models]
    for group in zip(*groups, strict=True):
        terms = [
            ([sample.terms[0] for sample in samples], [sample.terms[1] for sample in samples]) for samples in group
        ]
        sums = [existing + ratios for existing, ratios in zip(sums, resample_ratios(terms, rng), strict=True)]
    divisor = 1 if benchmark.combine == "sum" else len(groups[0])
    return [benchmark.scale * ratios / divisor for ratios in sums]


def compute_interval(samples: Sequence[SampleScore], benchmark: Benchmark) -> Interval | None:
    """Return the 95% bootstrap interval of the primary metric; None if it is undefined or has no width."""
    if not samples:
        return None
    low, high = percentile_interval(resample_metric([samples], benchmark)[0])
    return (low, high) if low < high else None


def _score_groups(samples: Sequence[SampleScore], benchmark: Benchmark) -> dict[str, dict[str, GroupScore]]:
    categories = dict.fromkeys(category for sample in samples for category in sample.groups)
    groups = {category: group_samples(samples, category) for category in categories}
    return {
        category: {value: _score_group(values[value], benchmark) for value in sorted(values, key=_sort_key)}
        for category, values in groups.items()
    }


def _sort_key(value: str) -> tuple[bool, int, str]:
    """Sort numbers by size before other values by name."""
    return (False, int(value), "") if value.isdigit() else (True, 0, value)


def _score_group(samples: Sequence[SampleScore], benchmark: Benchmark) -> GroupScore:
    single = replace(benchmark, combine="mean")
    same = [replace(sample, aggregation_group="all") for sample in samples]
    score = _finite(compute_metric(same, single))
    return GroupScore(score=score, ci95=compute_interval(same, single), n_samples=len(same))
