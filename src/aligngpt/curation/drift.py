"""Drift: how far scores have shifted from those that level boundaries were fitted on.

The population stability index compares the fractions of the N levels, p at the fit and q now:

    PSI = sum over levels of (q - p) ln(q / p)

It is 0 for equal fractions and never negative. By convention, below 0.1 the scores are stable, from 0.1 to 0.25
they have shifted, above 0.25 the boundaries should be fitted again. A level that is empty on one side counts as half a
pair there, or the logarithm would be infinite; one that is empty on both sides adds nothing. Few pairs have a high
index by chance alone, about (N - 1) (1 / n_fitted + 1 / n_now) without any drift.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aligngpt.curation.artifacts import DriftReport
from aligngpt.curation.choices import DriftStatus

STABLE_BELOW, SHIFTED_UP_TO = 0.1, 0.25


def population_stability_index(fitted_counts: Sequence[int], counts: Sequence[int]) -> float:
    """Return the PSI between two histograms over the same levels.

    Args:
        fitted_counts: N counts at the fit.
        counts: N counts now.

    Raises:
        ValueError: The histograms have different lengths, or one of them is empty.
    """
    if len(fitted_counts) != len(counts):
        raise ValueError(f"expected histograms over the same levels, got {len(fitted_counts)} and {len(counts)}")
    fitted, now = np.asarray(fitted_counts, np.float64), np.asarray(counts, np.float64)
    if not fitted.sum() or not now.sum():
        raise ValueError("a histogram without any pair cannot be compared")
    filled = (fitted > 0) | (now > 0)
    p = np.maximum(fitted[filled], 0.5) / fitted.sum()
    q = np.maximum(now[filled], 0.5) / now.sum()
    return float(((q - p) * np.log(q / p)).sum())


def report_drift(
    fitted_counts: Sequence[int],
    counts: Sequence[int],
    fitted_quantiles: dict[str, float] | None,
    quantiles: dict[str, float],
    below: int,
    above: int,
) -> DriftReport:
    """Compare scores with those of the fit; `below` and `above` are numbers of pairs, the others as in `DriftReport`.

    Raises:
        ValueError: As `population_stability_index`.
    """
    index = population_stability_index(fitted_counts, counts)
    above_stable: DriftStatus = "shifted" if index <= SHIFTED_UP_TO else "refit"
    fitted, now = sum(fitted_counts), sum(counts)
    return DriftReport(
        population_stability_index=index,
        expected_by_chance=(len(counts) - 1) * (1 / fitted + 1 / now),
        status="stable" if index < STABLE_BELOW else above_stable,
        fitted_counts=tuple(fitted_counts),
        counts=tuple(counts),
        fitted_quantiles=fitted_quantiles,
        quantiles=quantiles,
        below=below / now,
        above=above / now,
    )
