"""Statistics of all benchmarks, over arrays: means, bootstrap intervals, the paired test."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from functools import reduce
from operator import add
from typing import Literal, NamedTuple

import numpy as np

RESAMPLES = 1000

Terms = tuple[Sequence[float], Sequence[float] | None]  # numerators and denominators


def total(values: Iterable[float]) -> float:
    """Return the sum from left to right, as the official scorers add; Python's `sum` rounds otherwise from 3.12 on."""
    return reduce(add, values, 0.0)


def mean(values: Iterable[float]) -> float:
    """Return the mean; 0 of no values."""
    listed = list(values)
    return total(listed) / len(listed) if listed else 0.0


def resample_ratios(series: Sequence[Terms], rng: np.random.Generator) -> list[np.ndarray]:
    """Return bootstrap resamples of ratios of sums, with the same resampled samples for every series.

    Samples with equal terms are resampled together, as counts of a multinomial distribution: this is the bootstrap over
    single samples, and takes no time per sample where scores have few distinct values.

    Args:
        series: Numerators and denominators of the same n samples, per model; denominators None are ones.
        rng: Random generator.

    Returns:
        `RESAMPLES` ratios per series; 0 where the denominators sum to 0.
    """
    pairs = [(values, np.ones(len(values)) if weights is None else weights) for values, weights in series]
    terms = np.column_stack([np.asarray(column, dtype=float) for pair in pairs for column in pair])
    kinds, counts = np.unique(terms, axis=0, return_counts=True)
    sums = rng.multinomial(len(terms), counts / len(terms), size=RESAMPLES) @ kinds
    return [sums[:, index] / np.maximum(sums[:, index + 1], 1e-12) for index in range(0, 2 * len(series), 2)]


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the central 95% interval of resampled values, rounded to four digits."""
    low, high = np.quantile(values, [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)


def bootstrap_interval(values: Sequence[float], weights: Sequence[float] | None = None) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of a mean, or of a ratio of sums.

    Args:
        values: One number per sample; with `weights`, the numerators.
        weights: Denominators; the statistic is then sum(values) / sum(weights), such as recall over all objects.

    Returns:
        Both bounds, rounded to four digits; NaN without values.
    """
    if not len(values):
        return math.nan, math.nan
    return percentile_interval(resample_ratios([(values, weights)], np.random.default_rng(0))[0])


class PairedTest(NamedTuple):
    """The outcome of an exact paired test."""

    test: Literal["McNemar", "sign"]
    p_value: float
    n_left_better: int
    n_right_better: int


def paired_test(left: Sequence[float], right: Sequence[float]) -> PairedTest:
    """Test whether two models score alike on the same samples.

    Both tests are two-sided and exact: the probability that a fair coin falls at least as unevenly as the samples on
    which one model scores higher. It is called McNemar's where every sample is right or wrong, else the sign test.

    Args:
        left, right: Scores of the same samples, 0 to 1.
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    ones, others = np.asarray(left, dtype=float), np.asarray(right, dtype=float)
    n_left, n_right = int((ones > others).sum()), int((ones < others).sum())
    binary = bool(np.isin(ones, (0, 1)).all() and np.isin(others, (0, 1)).all())
    p_value = float(binomtest(n_left, n_left + n_right).pvalue) if n_left + n_right else 1.0
    return PairedTest("McNemar" if binary else "sign", p_value, n_left, n_right)


def count_matches(left: Iterable[Hashable], right: Iterable[Hashable]) -> int:
    """Return the size of the multiset intersection: an element that occurs twice has to be matched twice."""
    return (Counter(left) & Counter(right)).total()
