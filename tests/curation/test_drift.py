"""The population stability index by hand, and how it is read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from aligngpt.curation.drift import population_stability_index, report_drift

QUANTILES = {"p50": 0.25}


def test_index_of_a_worked_example() -> None:
    by_hand = (0.25 - 0.5) * math.log(0.25 / 0.5) + (0.75 - 0.5) * math.log(0.75 / 0.5)
    assert population_stability_index([50, 50], [10, 30]) == pytest.approx(by_hand, rel=1e-12)


def test_equal_fractions_have_index_zero() -> None:
    assert population_stability_index([3, 7, 0], [3, 7, 0]) == 0
    assert population_stability_index([1, 3], [1000, 3000]) == pytest.approx(0, abs=1e-15)


def test_an_empty_level_counts_as_half_a_pair_and_one_empty_on_both_sides_not_at_all() -> None:
    by_hand = (0.05 - 0.5) * math.log(0.05 / 0.5) + (1 - 0.5) * math.log(1 / 0.5)
    assert population_stability_index([50, 50], [0, 10]) == pytest.approx(by_hand, rel=1e-12)
    assert population_stability_index([50, 0, 50], [0, 0, 10]) == pytest.approx(by_hand, rel=1e-12)


def test_chance_is_what_samples_of_one_distribution_have_on_average() -> None:
    generator = np.random.default_rng(0)
    shares = np.full(8, 1 / 8)
    draws = [[generator.multinomial(count, shares).tolist() for count in (400, 900)] for _ in range(2000)]
    mean = np.mean([population_stability_index(fitted, now) for fitted, now in draws])
    report = report_drift(draws[0][0], draws[0][1], None, QUANTILES, 0, 0)
    assert report.expected_by_chance == pytest.approx(7 * (1 / 400 + 1 / 900))
    assert mean == pytest.approx(report.expected_by_chance, rel=0.05)


@pytest.mark.parametrize(
    ("now", "status"), [([50, 50], "stable"), ([35, 65], "stable"), ([30, 70], "shifted"), ([20, 80], "refit")]
)
def test_the_status_follows_from_the_index(now: list[int], status: str) -> None:
    report = report_drift([50, 50], now, QUANTILES, {"p50": 0.3}, 5, 20)
    assert report.status == status
    assert (report.fitted_counts, report.counts) == ((50, 50), tuple(now))
    assert (report.fitted_quantiles, report.quantiles) == (QUANTILES, {"p50": 0.3})
    assert (report.below, report.above) == (0.05, 0.2)


@pytest.mark.parametrize(
    ("counts", "message"),
    [(([1, 2], [1, 2, 3]), "got 2 and 3"), (([0, 0], [1, 2]), "without any pair"), (([1, 2], [0, 0]), "without any")],
)
def test_histograms_that_cannot_be_compared_are_refused(counts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        population_stability_index(*counts)
