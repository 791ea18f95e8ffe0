"""Match predictions with the ground truth of a benchmark, and score each sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aligngpt.evaluation.artifacts import Id, PredictionCounts, SampleScore
from aligngpt.evaluation.metrics import mean
from aligngpt.evaluation.types import Prediction, Predictions, Target

Compare = Callable[[Target, str | None], tuple[Any, float]]


def score_targets(
    targets: Sequence[Target], predictions: Predictions, compare: Compare
) -> tuple[list[SampleScore], PredictionCounts]:
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


def match_predictions(ids: Iterable[Id], predictions: Predictions) -> tuple[dict[str, Prediction], PredictionCounts]:
    """Return the last prediction for each question, by the question's id as text, and how both fit.

    Raises:
        ValueError: No prediction belongs to any of the questions.
    """
    expected = dict.fromkeys(map(str, ids))
    rows = [row for row in predictions.rows if str(row.id) in expected]
    if not rows and expected:
        predicted_id, label_id = (next(iter(names), None) for names in ([row.id for row in predictions.rows], expected))
        raise ValueError(
            f"{predictions.source}: none of its {len(predictions.rows)} predictions is for a question of the labels "
            f"(its ids begin with {predicted_id!r}, those of the labels with {label_id!r}); check split and benchmark"
        )
    matches = {str(row.id): row for row in rows}
    return matches, PredictionCounts(
        n_predictions=len(predictions.rows),
        n_missing=len(expected) - len(matches),
        n_extra=len(predictions.rows) - len(rows),
        n_duplicates=len(rows) - len(matches),
    )


def group_samples(samples: Iterable[SampleScore], category: str) -> dict[str, list[SampleScore]]:
    """Return the samples of each value of a category; a sample may have several values, or none."""
    groups: dict[str, list[SampleScore]] = {}
    for sample in samples:
        values = sample.groups.get(category, ())
        for value in (values,) if isinstance(values, str) else values:
            groups.setdefault(value, []).append(sample)
    return groups


def describe_missing(counts: PredictionCounts, official_behavior: str) -> tuple[str, ...]:
    """Return a note about missing predictions and what the official scorer does with them; nothing if none is."""
    if not counts.n_missing:
        return ()
    return (f"missing predictions, counted as wrong: {counts.n_missing}; {official_behavior}",)


def count_duplicates(ids: Iterable[Id]) -> int:
    """Return how many ids occur again after their first occurrence."""
    return sum(count - 1 for count in Counter(map(str, ids)).values())


def percent(samples: Iterable[SampleScore]) -> float:
    """Return the mean score in percent."""
    return 100 * mean(sample.score for sample in samples)


def percent_by_category(samples: Iterable[SampleScore], category: str) -> dict[str, float]:
    """Return the mean score of each value of a category in percent with two digits, sorted by value."""
    return {value: round(percent(group), 2) for value, group in sorted(group_samples(samples, category).items())}


def get_predicted_texts(ids: Sequence[Id], predictions: Predictions) -> list[tuple[Id, str]]:
    """Return each id with its predicted text for a submission, empty where it is missing."""
    matches, _ = match_predictions(ids, predictions)
    return [(name, matches[str(name)].text if str(name) in matches else "") for name in ids]
