"""Building blocks of the benchmarks: the ground truth of a sample, and comparing predictions with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aligngpt.evaluation.metrics import mean
from aligngpt.evaluation.types import (
    Id,
    MatchCounts,
    Prediction,
    Predictions,
    SampleScore,
    group_samples,
    match_predictions,
)


@dataclass(frozen=True)
class Target:
    """The ground truth of one sample.

    Args:
        id: Id of the sample.
        label: The correct answer, or the most frequent answer of several people.
        groups: Groupings with the category or categories the sample belongs to.
        aggregation_group: As in `SampleScore`.
        answers: The answers of several people.
        data: What else the scorer of the benchmark needs.
    """

    id: Id
    label: Any = None
    groups: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    aggregation_group: str | None = "all"
    answers: tuple[str, ...] = ()
    data: Any = None


Compare = Callable[[Target, str | None], tuple[Any, float]]


def score_targets(
    targets: Sequence[Target], predictions: Predictions, compare: Compare
) -> tuple[list[SampleScore], MatchCounts]:
    """Score the last prediction of every target.

    Args:
        compare: Target and predicted text, None if it is missing, to the parsed prediction and its score, 0 to 1.

    Returns:
        The samples in the order of the targets, and how predictions and targets match.
    """
    matches, counts = match_predictions((target.id for target in targets), predictions)
    return [score_target(target, matches.get(str(target.id)), compare) for target in targets], counts


def score_target(target: Target, prediction: Prediction | None, compare: Compare) -> SampleScore:
    """Score one prediction, or None where it is missing; `compare` as in `score_targets`."""
    text = None if prediction is None else prediction.text
    parsed, score = compare(target, text)
    return SampleScore(target.id, score, text, parsed, target.label, target.groups, target.aggregation_group)


def percent(samples: Iterable[SampleScore]) -> float:
    """Return the mean score in percent."""
    return 100 * mean(sample.score for sample in samples)


def percent_by_category(samples: Iterable[SampleScore], name: str) -> dict[str, float]:
    """Return the mean score of each category of a grouping in percent with two digits, sorted by name."""
    return {category: round(percent(group), 2) for category, group in sorted(group_samples(samples, name).items())}


def predicted_texts(ids: Iterable[Id], predictions: Predictions) -> list[str]:
    """Return the predicted text of each id for a submission, empty where it is missing."""
    ids = list(ids)
    matches, _ = match_predictions(ids, predictions)
    return [matches[str(name)].text if str(name) in matches else "" for name in ids]
