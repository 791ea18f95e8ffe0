"""Measures that benchmarks share, with bootstrap intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

RESAMPLES = 1000


def bootstrap_interval(
    values: Sequence[float], weights: Sequence[float] | None = None, confidence: float = 0.95, seed: int = 0
) -> list[float]:
    """Percentile bootstrap interval of a mean, or of a ratio of sums.

    Args:
        values: One number an item; with `weights`, the numerators.
        weights: Denominators; the statistic is then sum(values) / sum(weights), such as recall over all objects.
        confidence: Between 0 and 1.
        seed: Fixes the resampling.

    Returns:
        `[low, high]`, rounded to four digits; `[nan, nan]` of nothing.
    """
    if not len(values):
        return [float("nan")] * 2
    above = np.asarray(values, dtype=float)
    below = np.ones_like(above) if weights is None else np.asarray(weights, dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(above), size=(RESAMPLES, len(above)))
    ratios = above[draws].sum(1) / np.maximum(below[draws].sum(1), 1e-12)
    tail = (1 - confidence) / 2
    return [round(float(bound), 4) for bound in np.quantile(ratios, [tail, 1 - tail])]


def matches(found: Iterable[Hashable], wanted: Iterable[Hashable]) -> int:
    """How many of the wanted items were found; an item wanted twice must be found twice."""
    return (Counter(found) & Counter(wanted)).total()


def entropy(weights: Sequence[float]) -> float:
    """Entropy of a distribution in nats: 0 for one certain choice, log(n) for n equal ones."""
    shares = np.asarray(weights, dtype=float)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())
