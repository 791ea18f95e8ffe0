"""Drift: how far scores have moved from those that levels were fitted on.

The population stability index compares the shares of the N levels, p at the fit and q now:

    PSI = sum over levels of (q - p) ln(q / p)

It is 0 for equal shares and never negative. The usual reading: below 0.1 the scores are stable, from 0.1 to 0.25 they
have moved, above 0.25 they have moved so far that boundaries should be fitted anew. A level that is empty on one side
counts as half a pair there, or the logarithm would be infinite; one that is empty on both sides adds nothing. Few pairs
have a high index by chance alone, about (N - 1) (1 / n_fitted + 1 / n_now) without any drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STABLE_BELOW, MOVED_UP_TO = 0.1, 0.25


@dataclass(frozen=True)
class DriftReport:
    """Scores now against the scores the boundaries were fitted on.

    Attributes:
        population_stability_index: PSI over the levels, 0 or more.
        expected_by_chance: What PSI is on average without drift, with as many pairs.
        reading: `"stable"`, `"moved"` or `"fit anew"`.
        fitted_counts: Pairs of each level 1..N at the fit.
        counts: Pairs of each level 1..N now.
        fitted_quantiles: Scores at the fit by percentile (`p1` to `p99`), `None` where the file of the fit has none.
        quantiles: Scores now by percentile.
        below: Share of the scores now that are lower than any of the fit.
        above: Share of the scores now that are higher than any of the fit.
    """

    population_stability_index: float
    expected_by_chance: float
    reading: str
    fitted_counts: tuple[int, ...]
    counts: tuple[int, ...]
    fitted_quantiles: dict[str, float] | None
    quantiles: dict[str, float]
    below: float
    above: float


def population_stability_index(fitted_counts: Sequence[int], counts: Sequence[int]) -> float:
    """PSI between two histograms over the same levels, as defined at the top of this module.

    Args:
        fitted_counts: N counts at the fit.
        counts: N counts now.

    Raises:
        ValueError: If the histograms have different lengths, or one of them is empty.
    """
    if len(fitted_counts) != len(counts):
        raise ValueError(f"expected histograms over the same levels, got {len(fitted_counts)} and {len(counts)}")
    before, now = np.asarray(fitted_counts, np.float64), np.asarray(counts, np.float64)
    if not before.sum() or not now.sum():
        raise ValueError("a histogram without any pair cannot be compared")
    filled = (before > 0) | (now > 0)
    p = np.maximum(before[filled], 0.5) / before.sum()
    q = np.maximum(now[filled], 0.5) / now.sum()
    return float(((q - p) * np.log(q / p)).sum())


def drift_report(
    fitted_counts: Sequence[int],
    counts: Sequence[int],
    fitted_quantiles: dict[str, float] | None,
    quantiles: dict[str, float],
    below: int,
    above: int,
) -> DriftReport:
    """Put the report together; `below` and `above` are numbers of pairs, the rest as in `DriftReport`.

    Raises:
        ValueError: If the histograms have different lengths, or one of them is empty.
    """
    index = population_stability_index(fitted_counts, counts)
    reading = "stable" if index < STABLE_BELOW else "moved" if index <= MOVED_UP_TO else "fit anew"
    before, now = sum(fitted_counts), sum(counts)
    chance = (len(counts) - 1) * (1 / before + 1 / now)
    histograms = (tuple(fitted_counts), tuple(counts))
    return DriftReport(index, chance, reading, *histograms, fitted_quantiles, quantiles, below / now, above / now)
