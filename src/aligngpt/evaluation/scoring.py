"""Scoring an answers file: the headline by the asked protocol, what the other makes of it, sub-scores, intervals."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from aligngpt.evaluation.metrics import quantiles, resampled_ratios
from aligngpt.evaluation.types import Benchmark, Predictions, Protocol, SampleScore, Score, group_samples

_PROTOCOLS: tuple[Protocol, ...] = ("official", "strict")


@dataclass(frozen=True)
class Scored:
    """An answers file that was scored by one protocol."""

    benchmark: Benchmark
    protocol: Protocol
    score: Score
    rows: int


def score_files(
    benchmark: Benchmark,
    labels: Sequence[Path],
    answers: Path,
    protocol: Protocol = "official",
    ignore: Collection[str] = (),
) -> dict[str, Any]:
    """Score an answers file.

    Args:
        benchmark: One of `BENCHMARKS`.
        labels: Its label files, or the folder they lie in.
        answers: The answers; for LLaVA-Bench and MM-Vet the judge's reviews or grades.
        protocol: `"official"` repeats the official scorer, `"strict"` counts every question of the labels once.
        ignore: Ids of answers to leave out.

    Returns:
        What `aligngpt eval score --json` prints; `docs/files.md` names the fields.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is broken, another benchmark's, or cannot be scored.
    """
    known = benchmark.read_labels(labels)
    given = _without(benchmark.read_answers(answers), ignore)
    scored = Scored(benchmark, protocol, benchmark.score(known, given, protocol), len(given.rows))
    try:
        reference: Score | str = benchmark.score(known, given, _other(protocol))
    except ValueError as error:
        reference = str(error)
    return result_of(scored, reference)


def score_answers(
    benchmark: Benchmark, labels: Sequence[Path], answers: Path, protocol: Protocol = "official"
) -> Scored:
    """Score an answers file by one protocol alone; arguments and errors as `score_files`."""
    given = benchmark.read_answers(answers)
    return Scored(benchmark, protocol, benchmark.score(benchmark.read_labels(labels), given, protocol), len(given.rows))


def _without(answers: Predictions, ignore: Collection[str]) -> Predictions:
    if not ignore:
        return answers
    unknown = set(ignore) - {str(row.id) for row in answers.rows}
    if unknown:
        raise ValueError(
            f"{answers.source}: no answer to question {', '.join(sorted(unknown))}, which was to be ignored"
        )
    return replace(answers, rows=[row for row in answers.rows if str(row.id) not in ignore])


def result_of(scored: Scored, other: Score | str) -> dict[str, Any]:
    """Put a score into the form that is printed and stored.

    Args:
        other: The score by the other protocol, or why there is none.
    """
    score, benchmark = scored.score, scored.benchmark
    counted = [sample for sample in score.samples if sample.aggregation_group is not None]
    extra = score.count.extra
    strangers = [f"answers to no question of the labels: {extra} of {scored.rows}"] if extra else []
    values = {scored.protocol: score.value, _other(scored.protocol): None if isinstance(other, str) else other.value}
    return {
        "benchmark": benchmark.name,
        "metric": benchmark.metric,
        "protocol": scored.protocol,
        "score": score.value,
        "formatted": score.formatted,
        "interval": interval(counted, benchmark),
        "count": len(counted),
        "answers": {
            "given": scored.rows,
            "missing": score.count.missing,
            "extra": score.count.extra,
            "duplicate": score.count.duplicate,
        },
        "protocols": {name: values[name] for name in _PROTOCOLS},
        "groups": _groups(score.samples, benchmark),
        "details": score.details,
        "notes": [*strangers, *score.notes, *_differences(benchmark, values, other)],
        "samples": [sample_record(sample) for sample in score.samples],
    }


def _other(protocol: Protocol) -> Protocol:
    return "strict" if protocol == "official" else "official"


def _differences(benchmark: Benchmark, values: dict[Protocol, float | None], other: Score | str) -> list[str]:
    """Say how the protocols differ, where they do."""
    if isinstance(other, str):
        return [f"no score by the other protocol: {other}"]
    official, strict = values["official"], values["strict"]
    if official is None or strict is None or math.isclose(official, strict, rel_tol=1e-12, abs_tol=1e-12):
        return []
    return [f"official {official:.2f}, strict {strict:.2f}: {benchmark.official_caveat}"]


# Sub-scores and intervals -------------------------------------------------------------------------------------------


def headline(samples: Sequence[SampleScore], benchmark: Benchmark) -> float:
    """The headline of items, made of their strata; NaN of nothing."""
    ratios = [_ratio(part) for part in _strata(samples)]
    whole = sum(ratios) if benchmark.combine == "sum" else sum(ratios) / len(ratios) if ratios else math.nan
    return benchmark.scale * whole


def _ratio(samples: Sequence[SampleScore]) -> float:
    terms = [sample.terms for sample in samples]
    below = math.fsum(weight for _, weight in terms)
    return math.fsum(value for value, _ in terms) / below if below else 0.0


def _strata(samples: Sequence[SampleScore]) -> list[list[SampleScore]]:
    parts: dict[str, list[SampleScore]] = {}
    for sample in samples:
        if sample.aggregation_group is not None:
            parts.setdefault(sample.aggregation_group, []).append(sample)
    return list(parts.values())


def resampled(series: Sequence[Sequence[SampleScore]], benchmark: Benchmark) -> list[np.ndarray]:
    """Bootstrap draws of the headline, for models that answered the same questions.

    Every stratum is resampled by itself, and the same questions are drawn for every model.

    Args:
        series: The items of each model, in the same order.

    Returns:
        For each model an array of headlines, one a resample.
    """
    rng = np.random.default_rng(0)
    sums: list[np.ndarray] = []
    strata = [_strata(samples) for samples in series]
    for parts in zip(*strata, strict=True):
        terms = [([sample.terms[0] for sample in part], [sample.terms[1] for sample in part]) for part in parts]
        ratios = resampled_ratios(terms, rng)
        sums = [one + ratio for one, ratio in zip(sums, ratios, strict=True)] if sums else ratios
    share = 1 if benchmark.combine == "sum" else len(strata[0])
    return [benchmark.scale * one / share for one in sums]


def interval(samples: Sequence[SampleScore], benchmark: Benchmark) -> list[float]:
    """95 % bootstrap interval of the headline of items, in its unit."""
    return quantiles(resampled([samples], benchmark)[0]) if samples else [math.nan] * 2


def _groups(samples: Sequence[SampleScore], benchmark: Benchmark) -> dict[str, dict[str, Any]]:
    """Score, interval and number of every part of every division."""
    divisions = dict.fromkeys(name for sample in samples for name in sample.groups)
    return {
        name: {part: _part(own, benchmark) for part, own in _sorted(group_samples(samples, name))} for name in divisions
    }


def _sorted(parts: dict[str, list[SampleScore]]) -> list[tuple[str, list[SampleScore]]]:
    """Parts by their name, numbers by their size."""
    return sorted(
        parts.items(), key=lambda part: (not part[0].isdigit(), int(part[0]) if part[0].isdigit() else 0, part)
    )


def _part(samples: Sequence[SampleScore], benchmark: Benchmark) -> dict[str, Any]:
    alone = replace(benchmark, combine="mean")
    same = [replace(sample, aggregation_group="all") for sample in samples]
    return {"score": headline(same, alone), "interval": interval(same, alone), "count": len(same)}


# Items as JSON ------------------------------------------------------------------------------------------------------

_DEFAULTS = {one.name: one.default for one in fields(SampleScore)}


def sample_record(sample: SampleScore) -> dict[str, Any]:
    """An item as JSON: its fields, those that say nothing left out."""
    record: dict[str, Any] = {"id": sample.id, "score": sample.score}
    for name in ("text", "prediction", "label", "aggregation_group", "value", "weight"):
        value = getattr(sample, name)
        if value != _DEFAULTS[name]:
            record[name] = value
    if sample.groups:
        record["groups"] = dict(sample.groups)
    if sample.parts:
        record["parts"] = [sample_record(part) for part in sample.parts]
    return record


def sample_of(record: dict[str, Any]) -> SampleScore:
    """The item of its JSON, as far as comparisons need it.

    Raises:
        ValueError: If it has no id or no score.
    """
    if "id" not in record or not isinstance(record.get("score"), int | float):
        raise ValueError("an item without id or score")
    given = {
        name: record[name]
        for name in ("text", "prediction", "label", "aggregation_group", "value", "weight")
        if name in record
    }
    parts = tuple(sample_of(part) for part in record.get("parts", ()))
    return SampleScore(record["id"], float(record["score"]), groups=record.get("groups", {}), parts=parts, **given)
