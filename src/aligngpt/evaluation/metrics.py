"""Measures that benchmarks share, with bootstrap intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from functools import reduce
from operator import add

import numpy as np

from aligngpt.evaluation.types import SampleScore, group_samples

RESAMPLES = 1000

Terms = tuple[Sequence[float], Sequence[float] | None]  # numerators and denominators


def total(values: Iterable[float]) -> float:
    """Sum from left to right, as the official scorers add; sum() of newer Pythons rounds otherwise."""
    return reduce(add, values, 0.0)


def mean(values: Iterable[float]) -> float:
    """The mean, 0 of nothing."""
    listed = list(values)
    return total(listed) / len(listed) if listed else 0.0


def means_by_part(samples: Iterable[SampleScore], division: str) -> dict[str, float]:
    """Mean score of each part of a division, in percent with two digits, by the part's name."""
    parts = group_samples(samples, division)
    return {part: round(100 * mean(sample.score for sample in parts[part]), 2) for part in sorted(parts)}


def resampled_ratios(series: Sequence[Terms], rng: np.random.Generator) -> list[np.ndarray]:
    """Ratios of sums over resampled items, the same draws for every series.

    Items with the same terms are drawn as one kind, by how often the kind comes up: the draws are those of single
    items, and their number does not matter where there are few kinds.

    Args:
        series: For each, numerators and denominators of the same n items; no denominators stand for ones.
        rng: Draws `RESAMPLES` times n items.

    Returns:
        For each series an array of `RESAMPLES` ratios; 0 where the denominators sum to 0.
    """
    pairs = [(values, np.ones(len(values)) if weights is None else weights) for values, weights in series]
    terms = np.column_stack([np.asarray(column, dtype=float) for pair in pairs for column in pair])
    kinds, counts = np.unique(terms, axis=0, return_counts=True)
    sums = rng.multinomial(len(terms), counts / len(terms), size=RESAMPLES) @ kinds
    return [sums[:, place] / np.maximum(sums[:, place + 1], 1e-12) for place in range(0, 2 * len(series), 2)]


def quantiles(values: np.ndarray, confidence: float = 0.95) -> list[float]:
    """The central interval of resampled values, `[low, high]`, rounded to four digits."""
    tail = (1 - confidence) / 2
    return [round(float(bound), 4) for bound in np.quantile(values, [tail, 1 - tail])]


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
    return quantiles(resampled_ratios([(values, weights)], np.random.default_rng(seed))[0], confidence)


def two_sided_binomial(fewer: int, more: int) -> float:
    """Probability that a fair coin falls at least as unevenly: the exact test of McNemar, and the sign test.

    Args:
        fewer, more: How often each side came up, in any order.

    Returns:
        0 to 1; 1 if both are the same.
    """
    tosses, fewer = fewer + more, min(fewer, more)
    scale = math.lgamma(tosses + 1) - tosses * math.log(2)
    tail = math.fsum(
        math.exp(scale - math.lgamma(heads + 1) - math.lgamma(tosses - heads + 1)) for heads in range(fewer + 1)
    )
    return min(1.0, 2 * tail)


def matches(found: Iterable[Hashable], wanted: Iterable[Hashable]) -> int:
    """How many of the wanted items were found; an item wanted twice must be found twice."""
    return (Counter(found) & Counter(wanted)).total()


def entropy(weights: Sequence[float]) -> float:
    """Entropy of a distribution in nats: 0 for one certain choice, log(n) for n equal ones."""
    shares = np.asarray(weights, dtype=float)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())
