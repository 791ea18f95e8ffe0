"""Measures worked by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from aligngpt.evaluation.metrics import (
    RESAMPLES,
    bootstrap_interval,
    count_matches,
    mean,
    resample_ratios,
    total,
)


def test_an_interval_lies_around_the_mean_and_shrinks_with_the_number() -> None:
    few, many = [1.0, 0.0, 0.0, 1.0] * 5, [1.0, 0.0, 0.0, 1.0] * 500
    low, high = bootstrap_interval(few)
    assert low < 0.5 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(20), rel=0.2)
    assert high - low > 5 * np.diff(bootstrap_interval(many))[0]


def test_an_interval_is_right_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = bootstrap_interval((rng.random(80) < 0.3).astype(float).tolist())
        hits += low <= 0.3 <= high
    assert 88 <= hits <= 100


def test_an_interval_of_a_ratio_resamples_pairs() -> None:
    right, wanted = [4, 0, 1, 1], [4, 4, 1, 1]
    every = itertools.product(range(4), repeat=4)  # all the samples there are, each as likely as any
    ratios = [sum(right[i] for i in sample) / sum(wanted[i] for i in sample) for sample in every]
    low, high = bootstrap_interval(right, wanted)
    assert np.quantile(ratios, 0.015) - 1e-4 <= low <= np.quantile(ratios, 0.035) + 1e-4
    assert np.quantile(ratios, 0.965) - 1e-4 <= high <= np.quantile(ratios, 0.985) + 1e-4
    assert low < 6 / 10 < high
    assert bootstrap_interval([2, 4, 6], [4, 8, 12]) == (0.5, 0.5)  # the same ratio whatever is drawn
    assert bootstrap_interval([0, 0], [0, 0]) == (0.0, 0.0)


def test_draws_are_those_of_single_items() -> None:
    values = [0.0, 1.0, 1.0, 0.5, 0.0, 1.0]
    (ratios,) = resample_ratios([(values, None)], np.random.default_rng(0))
    every = [np.mean(sample) for sample in itertools.product(values, repeat=6)]
    assert np.mean(ratios) == pytest.approx(np.mean(every), abs=0.02)
    assert np.std(ratios) == pytest.approx(np.std(every), rel=0.05)
    assert set(np.round(ratios * 12, 9)) <= set(np.round(np.array(every) * 12, 9))


def test_the_seed_fixes_the_interval() -> None:
    values = np.random.default_rng(2).random(40).tolist()
    assert bootstrap_interval(values) == bootstrap_interval(values) != bootstrap_interval([*values[::-1], 0.5])


def test_one_value_and_none() -> None:
    assert bootstrap_interval([0.25]) == (0.25, 0.25)
    assert all(math.isnan(bound) for bound in bootstrap_interval([]))


@pytest.mark.parametrize(
    ("found", "wanted", "number"),
    [
        ("abc", "bcd", 2),
        ("aab", "abb", 2),
        ("aaa", "a", 1),
        ("a", "aaa", 1),
        ("", "abc", 0),
        ("abc", "", 0),
        ([("red", "star")] * 2, [("red", "star")] * 3, 2),
    ],
)
def test_matches_count_each_as_often_as_it_is_wanted(found: str, wanted: str, number: int) -> None:
    assert count_matches(found, wanted) == number


def test_series_are_resampled_by_the_same_draws() -> None:
    series = [([1.0, 0.0, 1.0, 1.0], None), ([2.0, 0.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]), ([0.0] * 4, [0.0] * 4)]
    one, same, nothing = resample_ratios(series, np.random.default_rng(5))
    assert (one == same).all() and len(one) == RESAMPLES and not nothing.any()


def test_sums_go_from_left_to_right() -> None:
    assert total([0.1] * 10) == 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 != 1
    assert total([]) == mean([]) == 0
    assert mean([1, 2]) == 1.5
