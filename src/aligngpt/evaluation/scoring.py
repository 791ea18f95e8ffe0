"""Scoring an answers file: the headline by the asked protocol, what the other makes of it, sub-scores, intervals."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from aligngpt.evaluation.benchmark import Answers, Benchmark, Item, Protocol, Score, in_groups
from aligngpt.evaluation.metrics import quantiles, resampled_ratios

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


def _without(answers: Answers, ignore: Collection[str]) -> Answers:
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
    counted = [item for item in score.items if item.stratum is not None]
    extra = score.count.extra
    strangers = [f"answers to no question of the labels: {extra} of {scored.rows}"] if extra else []
    values = {scored.protocol: score.value, _other(scored.protocol): None if isinstance(other, str) else other.value}
    return {
        "benchmark": benchmark.name,
        "metric": benchmark.metric,
        "protocol": scored.protocol,
        "score": score.value,
        "printed": score.printed,
        "interval": interval(counted, benchmark),
        "count": len(counted),
        "answers": {
            "given": scored.rows,
            "missing": score.count.missing,
            "extra": score.count.extra,
            "duplicate": score.count.duplicate,
        },
        "protocols": {name: values[name] for name in _PROTOCOLS},
        "groups": _groups(score.items, benchmark),
        "details": score.details,
        "notes": [*strangers, *score.notes, *_differences(benchmark, values, other)],
        "items": [item_record(item) for item in score.items],
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
    return [f"official {official:.2f}, strict {strict:.2f}: {benchmark.differs}"]


# Sub-scores and intervals -------------------------------------------------------------------------------------------


def headline(items: Sequence[Item], benchmark: Benchmark) -> float:
    """The headline of items, made of their strata; NaN of nothing."""
    ratios = [_ratio(part) for part in _strata(items)]
    whole = sum(ratios) if benchmark.combine == "sum" else sum(ratios) / len(ratios) if ratios else math.nan
    return benchmark.scale * whole


def _ratio(items: Sequence[Item]) -> float:
    terms = [item.terms for item in items]
    below = math.fsum(weight for _, weight in terms)
    return math.fsum(value for value, _ in terms) / below if below else 0.0


def _strata(items: Sequence[Item]) -> list[list[Item]]:
    parts: dict[str, list[Item]] = {}
    for item in items:
        if item.stratum is not None:
            parts.setdefault(item.stratum, []).append(item)
    return list(parts.values())


def resampled(series: Sequence[Sequence[Item]], benchmark: Benchmark) -> list[np.ndarray]:
    """Bootstrap draws of the headline, for models that answered the same questions.

    Every stratum is resampled by itself, and the same questions are drawn for every model.

    Args:
        series: The items of each model, in the same order.

    Returns:
        For each model an array of headlines, one a resample.
    """
    rng = np.random.default_rng(0)
    sums: list[np.ndarray] = []
    strata = [_strata(items) for items in series]
    for parts in zip(*strata, strict=True):
        terms = [([item.terms[0] for item in part], [item.terms[1] for item in part]) for part in parts]
        ratios = resampled_ratios(terms, rng)
        sums = [one + ratio for one, ratio in zip(sums, ratios, strict=True)] if sums else ratios
    share = 1 if benchmark.combine == "sum" else len(strata[0])
    return [benchmark.scale * one / share for one in sums]


def interval(items: Sequence[Item], benchmark: Benchmark) -> list[float]:
    """95 % bootstrap interval of the headline of items, in its unit."""
    return quantiles(resampled([items], benchmark)[0]) if items else [math.nan] * 2


def _groups(items: Sequence[Item], benchmark: Benchmark) -> dict[str, dict[str, Any]]:
    """Score, interval and number of every part of every division."""
    divisions = dict.fromkeys(name for item in items for name in item.groups)
    return {name: {part: _part(own, benchmark) for part, own in _sorted(in_groups(items, name))} for name in divisions}


def _sorted(parts: dict[str, list[Item]]) -> list[tuple[str, list[Item]]]:
    """Parts by their name, numbers by their size."""
    return sorted(
        parts.items(), key=lambda part: (not part[0].isdigit(), int(part[0]) if part[0].isdigit() else 0, part)
    )


def _part(items: Sequence[Item], benchmark: Benchmark) -> dict[str, Any]:
    alone = replace(benchmark, combine="mean")
    same = [replace(item, stratum="all") for item in items]
    return {"score": headline(same, alone), "interval": interval(same, alone), "count": len(same)}


# Items as JSON ------------------------------------------------------------------------------------------------------

_DEFAULTS = {one.name: one.default for one in fields(Item)}


def item_record(item: Item) -> dict[str, Any]:
    """An item as JSON: its fields, those that say nothing left out."""
    record: dict[str, Any] = {"id": item.id, "score": item.score}
    for name in ("text", "prediction", "label", "stratum", "value", "weight"):
        value = getattr(item, name)
        if value != _DEFAULTS[name]:
            record[name] = value
    if item.groups:
        record["groups"] = dict(item.groups)
    if item.parts:
        record["parts"] = [item_record(part) for part in item.parts]
    return record


def item_of(record: dict[str, Any]) -> Item:
    """The item of its JSON, as far as comparisons need it.

    Raises:
        ValueError: If it has no id or no score.
    """
    if "id" not in record or not isinstance(record.get("score"), int | float):
        raise ValueError("an item without id or score")
    given = {
        name: record[name] for name in ("text", "prediction", "label", "stratum", "value", "weight") if name in record
    }
    parts = tuple(item_of(part) for part in record.get("parts", ()))
    return Item(record["id"], float(record["score"]), groups=record.get("groups", {}), parts=parts, **given)
