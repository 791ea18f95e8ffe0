"""Sentences follow the numbers, whichever way they point."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from aligngpt.reporting.run import insights as findings
from aligngpt.reporting.run.load import (
    Accuracy,
    CaptionLevel,
    Captions,
    GateKind,
    Gates,
    Levels,
    Pair,
    Result,
    Training,
)


def result(
    name: str,
    accuracy: float,
    reach: float,
    scores: Sequence[float] | None = None,
    kinds: dict[str, float] | None = None,
) -> Result:
    def made(share: float) -> Accuracy:
        return Accuracy(share, (share - reach, share + reach), 1000)

    answers = {str(index): score for index, score in enumerate(scores or [])}
    return Result(name, made(accuracy), {kind: made(share) for kind, share in (kinds or {}).items()}, answers)


def compared(adaptive: Result, none: Result) -> str:
    return " ".join(findings.accuracy({"adaptive": adaptive, "none": none})).replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("adaptive", "none", "said"),
    [(0.9, 0.8, "10.0 points ahead of"), (0.8, 0.9, "10.0 points behind"), (0.8, 0.8, "level with")],
)
def test_accuracy_says_which_model_is_ahead(adaptive: float, none: float, said: str) -> None:
    text = compared(result("adaptive", adaptive, 0.01), result("none", none, 0.01))
    assert said in text and f"1,000 questions, {said} the model trained without alignment ({100 * none:.1f} %)" in text


def test_overlapping_intervals_tell_nothing_apart_and_separate_ones_do() -> None:
    assert "overlap: this run does not tell the two apart" in compared(
        result("adaptive", 0.83, 0.02), result("none", 0.8, 0.02)
    )
    assert "do not overlap: chance over questions does not explain it" in compared(
        result("adaptive", 0.8, 0.01), result("none", 0.9, 0.01)
    )


def test_the_paired_difference_is_worked_by_hand() -> None:
    adaptive, none = result("adaptive", 0.75, 0.2, [1, 1, 1, 0]), result("none", 0.25, 0.2, [1, 0, 0, 0])
    paired = findings.paired_difference(adaptive, none)
    # differences 0, 1, 1, 0: mean 1/2, sample deviation sqrt(1/3), so the reach is 1.96 * sqrt(1/3) / 2
    assert paired == pytest.approx((0.5, 0.5 - 0.98 / math.sqrt(3), 0.5 + 0.98 / math.sqrt(3)))
    assert "compared question by question the difference is +50.0 points" in compared(adaptive, none)
    assert "includes zero: this run does not tell the two apart" in compared(adaptive, none)


def test_a_paired_difference_can_leave_out_zero_though_intervals_overlap() -> None:
    adaptive = result("adaptive", 0.6, 0.1, [1] * 60 + [0] * 40)
    none = result("none", 0.5, 0.1, [1] * 50 + [0] * 50)
    text = compared(adaptive, none)
    assert "The two 95 % intervals overlap" in text and "leaves out zero" in text


def test_no_paired_difference_over_other_questions_or_other_scores() -> None:
    none = result("none", 0.5, 0.1, [1, 0])
    assert findings.paired_difference(result("adaptive", 0.5, 0.1, [1, 0, 1, 0]), none) is None
    assert findings.paired_difference(result("adaptive", 0.9, 0.1, [1, 0]), none) is None
    assert findings.paired_difference(result("adaptive", 0.5, 0.1, [0, 1]), none) is not None


def test_one_model_alone_is_compared_with_nothing() -> None:
    (text,) = findings.accuracy({"none": result("none", 0.5, 0.1)})
    assert "The model without alignment" in text and "nothing to compare it with" in text
    assert findings.accuracy({}) == [] and findings.accuracy_by_kind({}) == []


def test_kinds_are_named_where_intervals_come_apart() -> None:
    none = result("none", 0.5, 0.02, kinds={"count": 0.5, "existence": 0.5, "place_of": 0.5})
    adaptive = result("adaptive", 0.5, 0.02, kinds={"count": 0.9, "existence": 0.1, "place_of": 0.51})
    text = findings.accuracy_by_kind({"adaptive": adaptive, "none": none})[0]
    assert "ahead on “How many in all” and adaptive alignment is behind on “Is there one”" in text
    assert "on the other 1 they overlap" in text
    same = findings.accuracy_by_kind({"adaptive": none, "none": none})
    assert same == ["On none of the 3 kinds do the intervals come apart."]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.1, 0.2, 0.3], "Loss rises from 0.10 at level 1 to 0.30 at level 3, at every step."),
        ([0.3, 0.4, 0.1], "Loss falls from 0.30 at level 1 to 0.10 at level 3, though not at every step."),
        ([math.nan, 0.4, 0.1], "Loss falls from 0.40 at level 2 to 0.10 at level 3, at every step."),
        ([math.nan, 0.4], "Loss is known for too few levels to compare."),
    ],
)
def test_a_trend_is_told_as_it_is(values: list[float], said: str) -> None:
    assert findings.trend(values, "Loss") == said


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [(0.2, 0.6, "is fuller than one at level 1"), (0.6, 0.2, "is poorer"), (0.4, 0.42, "the level does not show")],
)
def test_captions_say_whether_the_level_shows(first: float, last: float, said: str) -> None:
    rows = [
        CaptionLevel(level, 0.5, recall, (recall - 0.03, recall + 0.03))
        for level, recall in ((1, first), (2, last))
    ]  # fmt: skip
    assert said in findings.captions(Captions(tuple(rows), ()))[0]


def gates(**kinds: tuple[float, ...]) -> Gates:
    rows = {
        kind: GateKind(weights, -sum(weight * math.log(weight) for weight in weights))
        for kind, weights in kinds.items()
    }  # fmt: skip
    return Gates(rows, ())


def test_a_gate_that_ignores_the_question_is_said_to() -> None:
    text = " ".join(findings.gates(gates(count=(0.5, 0.5), existence=(0.49, 0.51))))
    assert "hardly tells kinds of question apart" in text and "nearly even" in text


def test_a_gate_that_differs_names_where() -> None:
    text = " ".join(findings.gates(gates(count=(0.98, 0.01, 0.01), existence=(0.9, 0.05, 0.05)))).replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert "differ most at level 1: “How many in all” gives it 0.08 more weight than “Is there one”" in text
    assert "set on few levels" in text


def training(name: str, loss: float) -> Training:
    return Training("pretrain", name, 1, 1, 0, 1.0, loss, ((1, loss),), (), ())


@pytest.mark.parametrize(
    ("adaptive", "said"), [(0.5, "lower than without"), (0.9, "higher than without"), (0.702, "about the same as")]
)
def test_losses_are_compared_as_they_are(adaptive: float, said: str) -> None:
    trainings = {
        ("pretrain", "adaptive"): training("adaptive", adaptive),
        ("pretrain", "none"): training("none", 0.7),
    }
    assert said in findings.losses(trainings, "pretrain")
    assert findings.losses(trainings, "finetune") == ""


@pytest.mark.parametrize(("value", "said"), [(0.9, "closely"), (0.6, "roughly"), (0.2, "poorly"), (-0.1, "not at all")])
def test_spearman_is_graded(value: float, said: str) -> None:
    assert said in findings.spearman(value)


def test_levels_tell_of_empty_levels_and_unscored_pairs() -> None:
    text = " ".join(findings.levels(Levels(3, "uniform", (0.2, 0.3), (4, 0, 1)), [0.1, 0.1, 0.1, 0.1, 0.4, math.nan]))
    assert "The 5 scores range from 0.10 to 0.40." in text and "equally wide and hold 0 to 4 pairs" in text
    assert "1 level is empty." in text and "1 pair could not be scored." in text


def test_mean_coverage_is_nan_where_nothing_is_known() -> None:
    pairs = [
        Pair("a", 0.1, 1, coverage=0.25),
        Pair("b", 0.1, 1, coverage=0.75),
        Pair("c", 0.2, 2),
        Pair("d", math.nan, 0, coverage=1.0),
    ]
    means = findings.mean_coverage(pairs, 2)
    assert means[0] == 0.5 and math.isnan(means[1])


def test_costs_name_the_longest_and_the_largest_step() -> None:
    assert findings.costs({"a": 61.0, "b": 5.0}, {"a": 100, "b": 2048}) == [
        "The steps add up to 1 min 6 s, the longest of them, a, to 1 min 1 s; "
        "steps that ran side by side make the wait shorter than the sum.",
        "Memory peaked at 2.0 GB, in b.",
    ]
