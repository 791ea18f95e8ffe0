"""What the gate made of a benchmark: mean weights and entropy, over all and by kind of question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aligngpt.evaluation.benchmark import Question


def gate_means(questions: Sequence[Question], lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Average what the lines of an answers file say of the gate.

    Args:
        questions: In the order of `lines`.
        lines: Lines with `gate_weights` (N - 1) and `gate_entropy` in their `metadata`; others are left out.

    Returns:
        `count`, `weights`, `entropy` in nats, and `by_kind` with the same for each kind; None if no line has any.
    """
    read = [
        (question.kind, line["metadata"]["gate_weights"], line["metadata"]["gate_entropy"])
        for question, line in zip(questions, lines, strict=True)
        if "gate_weights" in line["metadata"]
    ]
    if not read:
        return None
    kinds = dict.fromkeys(kind for kind, _, _ in read)
    by_kind = {kind: _means([one for one in read if one[0] == kind]) for kind in kinds}
    return {**_means(read), "by_kind": by_kind}


def _means(read: Sequence[tuple[str, list[float], float]]) -> dict[str, Any]:
    weights = np.array([weights for _, weights, _ in read])
    return {
        "count": len(read),
        "weights": weights.mean(0).round(5).tolist(),
        "entropy": round(float(np.mean([entropy for _, _, entropy in read])), 4),
    }
