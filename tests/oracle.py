"""The paper's equations as slow loops over plain numbers: the reference for the fast code."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]
Matrix = Sequence[Vector]


def dot(one: Vector, other: Vector) -> float:
    """Inner product."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def mean(vectors: Sequence[Vector]) -> list[float]:
    """Mean vector."""
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def linear(weight: Matrix, bias: Vector, vector: Vector) -> list[float]:
    """weight @ vector + bias."""
    return [dot(row, vector) + shift for row, shift in zip(weight, bias, strict=True)]


def gelu(value: float) -> float:
    """The exact GELU."""
    return 0.5 * value * (1 + math.erf(value / math.sqrt(2)))


def softmax(values: Vector) -> list[float]:
    """exp(v) / sum exp(v)."""
    top = max(values)
    shares = [math.exp(value - top) for value in values]
    return [share / sum(shares) for share in shares]


def gate_weights(
    image_tokens: Sequence[Matrix],
    text_tokens: Matrix,
    linear_1: tuple[Matrix, Vector],
    linear_2: tuple[Matrix, Vector],
) -> list[float]:
    """Eq. 2 for one sample: `image_tokens` of each of its images, embeddings of the text that the gate reads."""
    text = mean(text_tokens)
    dots = mean([[dot(token, text) for token in image] for image in image_tokens])
    return softmax(linear(*linear_2, [gelu(value) for value in linear(*linear_1, dots)]))


def alignment_embedding(table: Matrix, setting: str | int | Vector, alpha: Vector) -> list[float]:
    """Eq. 3 and its variants (Table 4), each written as the paper writes it."""
    local, last = table[:-1], table[-1]
    mixed = [sum(a * row[i] for a, row in zip(alpha, local, strict=True)) for i in range(len(last))]
    if setting == "adaptive":
        return [a + b for a, b in zip(mixed, last, strict=True)]
    if setting == "local":
        return mixed
    if setting == "global":
        return list(last)
    if setting == "average":
        return [a + b for a, b in zip(mean(local), last, strict=True)]
    if isinstance(setting, int):
        return list(table[setting - 1])
    assert not isinstance(setting, str)
    return [sum(w * row[i] for w, row in zip(setting, table, strict=True)) for i in range(len(last))]
