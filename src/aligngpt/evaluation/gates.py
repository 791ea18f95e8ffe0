"""What the gate made of a benchmark: mean weights and entropy, over all, by kind of question and by sub-score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aligngpt.evaluation.metrics import bootstrap_interval
from aligngpt.evaluation.types import Benchmark, Question

_MOST_PARTS = 30  # a division into more says nothing about the gate

_Read = tuple[list[float], float]  # weights (N - 1) and entropy of one answer


def gate_means(
    benchmark: Benchmark,
    questions: Sequence[Question],
    lines: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any] | None:
    """Average what the lines of an answers file say of the gate.

    Args:
        questions: In the order of `lines`.
        lines: Lines with `gate_weights` (N - 1) and `gate_entropy` in their `metadata`; others are left out.
        items: Those of the score, where there is one; their groups are the divisions.

    Returns:
        `count`, `weights`, `entropy` in nats and `entropy_interval`; `by_kind` with the same for each kind of question,
        `by_group` for each part of each division; None if no line has any.
    """
    names = _item_names(benchmark, questions)
    groups_of = _groups(samples)
    read: list[_Read] = []
    by_kind: dict[str, list[_Read]] = {}
    by_group: dict[str, dict[str, list[_Read]]] = {}
    for question, name, line in zip(questions, names, lines, strict=True):
        if "gate_weights" not in line["metadata"]:
            continue
        one = (line["metadata"]["gate_weights"], line["metadata"]["gate_entropy"])
        read.append(one)
        by_kind.setdefault(question.kind, []).append(one)
        for division, own in groups_of.get(name, {}).items():
            for part in (own,) if isinstance(own, str) else own:
                by_group.setdefault(division, {}).setdefault(part, []).append(one)
    if not read:
        return None
    return {
        **_means(read),
        "by_kind": {kind: _means(own) for kind, own in by_kind.items()},
        "by_group": {
            division: {part: _means(parts[part]) for part in sorted(parts)}
            for division, parts in by_group.items()
            if len(parts) <= _MOST_PARTS
        },
    }


def _item_names(benchmark: Benchmark, questions: Sequence[Question]) -> list[str]:
    ids = [one.id for one in questions] if benchmark.sample_ids is None else benchmark.sample_ids(questions, None)
    return [str(one) for one in ids]


def _groups(samples: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, str | list[str]]]:
    """The groups of each item by its id, and by those of the answers it stands for."""
    ids = [(str(one["id"]), sample) for sample in samples for one in (sample, *sample.get("parts", ()))]
    return {name: sample.get("groups", {}) for name, sample in ids}


def _means(read: Sequence[_Read]) -> dict[str, Any]:
    weights = np.array([weights for weights, _ in read])
    entropies = [entropy for _, entropy in read]
    return {
        "count": len(read),
        "weights": weights.mean(0).round(5).tolist(),
        "entropy": round(float(np.mean(entropies)), 4),
        "entropy_interval": bootstrap_interval(entropies) if len(read) > 1 else None,
    }
