"""Insights follow the numbers, whichever way they point."""

from __future__ import annotations

import pytest

from aligngpt.experiments.artifacts import CaptionLevel, Estimate, LevelCaptions
from aligngpt.reporting.run import insights
from tests.reporting.benchmark_folders import make_comparison
from tests.reporting.conftest import make_training


@pytest.mark.parametrize(
    ("ci95", "verdict"),
    [
        ((-1.0, 5.0), "includes zero: this run shows no difference"),
        ((1.0, 5.0), "excludes zero"),
        ((-5.0, -1.0), "excl"),
    ],
)
def test_the_interval_decides_about_a_difference(ci95: tuple[float, float], verdict: str) -> None:
    (sentence,) = insights.describe_variants({}, [make_comparison("synthetic", 2.0, ci95)])
    assert "difference on synthetic is +2.0 points" in sentence and verdict in sentence


def captions(low: float, high: float, reach: float | None = 0.03) -> LevelCaptions:
    rows = [
        CaptionLevel(
            level=level,
            precision=Estimate(value=0.5, ci95=None),
            recall=Estimate(value=recall, ci95=reach and (recall - reach, recall + reach)),
        )
        for level, recall in ((1, low), (2, high))
    ]
    return LevelCaptions(inputs={}, num_levels=2, by_level=rows, examples=[])


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.2, 0.6, "level 2 describe more"), (0.6, 0.2, "level 2 describe less"), (0.4, 0.42, "no effect of the level")],
)
def test_captions_say_whether_the_level_has_an_effect(low: float, high: float, verdict: str) -> None:
    assert verdict in insights.describe_captions(captions(low, high))[0]


def test_unknown_intervals_show_no_effect() -> None:
    assert "no effect of the level" in insights.describe_captions(captions(0.2, 0.6, None))[0]


@pytest.mark.parametrize(
    ("adaptive", "relation"), [(0.5, "lower than without"), (0.9, "higher than"), (0.702, "about the same as without")]
)
def test_losses_are_compared(adaptive: float, relation: str) -> None:
    trainings = {
        ("pretrain", "adaptive"): make_training("pretrain", "adaptive", adaptive),
        ("pretrain", "none"): make_training("pretrain", "none", 0.7),
    }
    assert relation in insights.describe_losses(trainings, "pretrain")
    assert insights.describe_losses(trainings, "finetune") == ""
    del trainings["pretrain", "none"]
    assert insights.describe_losses(trainings, "pretrain") == f"Final stage 1 loss: {adaptive:.3f}."


@pytest.mark.parametrize(
    ("value", "strength"), [(0.9, "strongly"), (0.6, "moderately"), (0.2, "weakly"), (-0.1, "not correlated")]
)
def test_the_correlation_has_a_strength(value: float, strength: str) -> None:
    assert strength in insights.describe_spearman(value)


def test_costs_name_the_longest_and_the_largest_step() -> None:
    assert insights.describe_costs({"a": 61.0, "b": 5.0}, {"a": 100, "b": 2048}) == [
        "Total runtime of the steps: 1 min 6 s; the longest is a with 1 min 1 s. Steps that run in parallel shorten "
        "the wall-clock time.",
        "Peak memory: 2.0 GB, in b.",
    ]
