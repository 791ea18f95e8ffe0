"""Insights of the data report: sentences computed from the scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from aligngpt.curation.duplicates import NEAR_BITS, DuplicateImages, NearDuplicates, RepeatedCaptions
from aligngpt.curation.filters import QualityIssue
from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.scorer_agreement import NUM_LEVELS, AgreementDetails
from aligngpt.curation.scoring.scorers import MAX_CHUNKS
from aligngpt.curation.statistics import ScoreStatistics, bin_centers, quantile_bin
from aligngpt.reporting.formatting import count_of, decimal, integer, percent, percent_of

_NEAR_BOUNDARY = QualityIssue("boundary").value  # default distance of `aligngpt filter --exclude boundary`
_LOWEST = 0.01  # fraction of pairs shown as suspected mismatches


def mean_score(scanned: ScoreStatistics) -> float:
    """Return the mean score; there must be a score."""
    return float(scanned.sums.sum()) / scanned.scored


def median_lengths(scanned: ScoreStatistics) -> list[float]:
    """Return the median caption length of each level in characters, NaN for an empty level."""
    return [float(quantile_bin(row, 0.5)) if row.any() else np.nan for row in scanned.lengths[1:]]


def trend(values: Sequence[float], name: str, digits: int = 2) -> str:
    """Describe how a quantity changes from level 1 to level N; NaN (an empty level) is skipped."""
    points = [(level, value) for level, value in enumerate(values, start=1) if not math.isnan(value)]
    if len(points) < 2:
        return f"{name}: too few levels to compare."
    (first, low), (last, high) = points[0], points[-1]
    if high == low:
        return f"{name} is the same at level {first} and at level {last}: {decimal(low, digits)}."
    steps = [right - left for (_, left), (_, right) in pairwise(points)]
    verb = "rises" if high > low else "falls"
    shape = "monotonically" if all(step * (high - low) >= 0 for step in steps) else "not monotonically"
    ends = f"from {decimal(low, digits)} at level {first} to {decimal(high, digits)} at level {last}"
    return f"{name} {verb} {ends}, {shape}."


def scores(scanned: ScoreStatistics) -> list[str]:
    """Describe how many pairs have a score, and the distribution."""
    pairs = count_of(scanned.rows, "pair")
    if not scanned.scored:
        return [f"0 of {pairs} have a score."]
    if scanned.scored == 1:
        return [f"1 of {pairs} has a score: {decimal(scanned.minimum)}."]
    scored = f"All {pairs}" if scanned.scored == scanned.rows else f"{integer(scanned.scored)} of {pairs}"
    return [
        f"{scored} have a score, from {decimal(scanned.minimum)} to {decimal(scanned.maximum)}; the mean is "
        f"{decimal(mean_score(scanned))}, the middle half lies between {decimal(scanned.quantiles['p25'])} and "
        f"{decimal(scanned.quantiles['p75'])}."
    ]


def levels(scanned: ScoreStatistics, boundaries: LevelBoundaries) -> list[str]:
    """Describe the size of the levels."""
    counts = scanned.counts[1:]
    names = {"quantile": "of equal size", "uniform": "of equal width"}
    strategy = names.get(boundaries.strategy, "with explicit boundaries")
    least, most = int(counts.min()), int(counts.max())
    size = count_of(least, "pair") if least == most else f"{integer(least)} to {count_of(most, 'pair')}"
    empty = int((counts == 0).sum())
    sentence = f"{boundaries.num_levels} levels {strategy}: {size} each."
    return [f"{sentence} {count_of(empty, 'level')} {'is' if empty == 1 else 'are'} empty." if empty else sentence]


def lowest(scanned: ScoreStatistics) -> list[str]:
    """Describe the lowest scores."""
    if not scanned.scored:
        return []
    median = f"the median is {decimal(scanned.quantiles['p50'], 3)}"
    count = round(_LOWEST * scanned.scored)
    if count < 2:
        return [f"The lowest score is {decimal(scanned.minimum, 3)}; {median}."]
    return [
        f"The lowest {percent(_LOWEST, 0)} ({count_of(count, 'pair')}) score at most "
        f"{decimal(scanned.quantiles['p1'], 3)}; {median}."
    ]


def near_boundaries(scanned: ScoreStatistics, boundaries: LevelBoundaries) -> list[str]:
    """Describe how many pairs a small change of the score would move to another level."""
    distances = np.abs(bin_centers()[:, None] - np.asarray(boundaries.boundaries)).min(axis=1)
    count = int(scanned.histogram.sum(axis=0)[distances <= _NEAR_BOUNDARY].sum())
    verb = "is" if count == 1 else "are"
    return [
        f"{_fraction(count, scanned.scored, 'score')} {verb} within {_NEAR_BOUNDARY} of a boundary: a small change of "
        "the score would change the level."
    ]


def errors(scanned: ScoreStatistics) -> list[str]:
    """Describe how many pairs could not be scored, and the most frequent reason."""
    failed = scanned.rows - scanned.scored
    if not failed:
        return ["All pairs could be scored."] if scanned.rows else []
    sentence = f"{_fraction(failed, scanned.rows, 'pair')} could not be scored"
    if not scanned.reasons:
        return [f"{sentence}."]
    most_frequent = scanned.reasons[0]
    several = len(scanned.reasons) > 1
    label = f"; the most frequent reason ({integer(most_frequent.count)})" if several else ""
    return [f"{sentence}{label}: {most_frequent.text}."]


def truncated(scanned: ScoreStatistics, policy: str) -> list[str]:
    """Describe how many captions are longer than the scorer reads; `policy` is `truncate` or `chunk-mean`."""
    if not scanned.scored:
        return []
    count, limit = int(scanned.truncated.sum()), context_limit(scanned, policy)
    if not count:
        return [f"No caption is longer than {limit}."]
    verb, were = ("is", "was") if count == 1 else ("are", "were")
    return [
        f"{_fraction(count, scanned.scored, 'caption')} {verb} longer than {limit} and {were} truncated; the score "
        "does not reflect the rest."
    ]


def context_limit(scanned: ScoreStatistics, policy: str) -> str:
    """Return what captions are truncated to, in words."""
    scorer = "a scorer's" if scanned.num_scorers > 1 else "the scorer's"
    return f"{MAX_CHUNKS} times {scorer} context" if policy == "chunk-mean" else f"{scorer} context"


def lengths(scanned: ScoreStatistics) -> list[str]:
    """Describe the length of the captions and how it changes with the level."""
    counts = scanned.lengths.sum(axis=0)
    if not counts.any():
        return []
    low, median, high = (quantile_bin(counts, fraction) for fraction in (0.05, 0.5, 0.95))
    sentences = [
        f"The median caption has {integer(median)} characters; 90% have {integer(low)} to {integer(high)}, the longest "
        f"has {integer(scanned.longest)}."
    ]
    if len(scanned.lengths) > 1:
        sentences.append(trend(median_lengths(scanned), "Median caption length", 0))
    return sentences


def duplicates(exact: DuplicateImages, near: NearDuplicates) -> list[str]:
    """Describe duplicate and near-duplicate images."""
    if not exact.rows:
        return []
    sentences = _sample_note(exact.every, "image")
    if exact.shared_rows:
        sentences.append(
            f"{_fraction(exact.shared_rows, exact.rows, 'pair')} share their image with another pair; "
            f"{_fraction(exact.duplicate_rows, exact.rows, 'pair')} have an image that exists under several names."
        )
    else:
        sentences.append("No image occurs twice.")
    if near.near:
        bound = "this is a lower bound, since near-duplicates may be outside of the sample"
        sentences.append(
            f"{_fraction(near.near, near.images, 'image')} are near-duplicates: perceptual hashes that differ in "
            f"at most {NEAR_BITS} of 64 bits{f'; {bound}' if exact.every > 1 else ''}."
        )
    elif near.images:
        sentences.append("No two different images are near-duplicates by their perceptual hashes.")
    if near.images and not near.complete:
        sentences.append("The search for near-duplicates was limited, so some may be missing.")
    return sentences


def repeated_captions(reuse: RepeatedCaptions) -> list[str]:
    """Describe captions that occur with several images, and repeated pairs."""
    if not reuse.rows:
        return []
    sentences = _sample_note(reuse.every, "caption")
    if reuse.repeated:
        sentences.append(
            f"{_fraction(reuse.repeated_rows, reuse.rows, 'pair')} have a caption that occurs with more than one "
            f"image; the most frequent caption occurs with {integer(reuse.groups[0].count)} images."
        )
    else:
        sentences.append("Every caption occurs with one image only.")
    if reuse.duplicate_pairs:
        verb = "repeats" if reuse.duplicate_pairs == 1 else "repeat"
        sentences.append(
            f"{_fraction(reuse.duplicate_pairs, reuse.rows, 'pair')} {verb} image and caption of another pair."
        )
    return sentences


def agreement(name: str, other: str, result: AgreementDetails) -> list[str]:
    """Describe how far two scorers agree."""
    if result.spearman is None:
        return [f"{name} and {other} cannot be compared by rank: one of them gives every pair the same score."]
    pairs = count_of(result.pairs, "pair") + (f" (one in {result.every})" if result.every > 1 else "")
    strength = (
        "strongly" if result.spearman >= 0.8 else "moderately" if result.spearman >= 0.5
        else "weakly" if result.spearman > 0.2 else "hardly at all"
    )  # fmt: skip
    return [
        f"{name} and {other} agree {strength}: Spearman correlation {decimal(result.spearman)} over {pairs}. With "
        f"{NUM_LEVELS} levels of equal size each, {percent(result.equal_levels)} of the pairs get the same level from "
        f"both, {percent(result.close)} the same or an adjacent one."
    ]


def overview(scanned: ScoreStatistics, policy: str) -> list[str]:
    """Return the most important insights: the scores, then quality issues."""
    stats = scanned.duplicates
    issues = duplicates(stats.images, stats.near) + repeated_captions(stats.captions)
    return scores(scanned) + errors(scanned) + truncated(scanned, policy) + issues


def _sample_note(every: int, noun: str) -> list[str]:
    note = f"Computed on one {noun} in {integer(every)}, sampled by hash; fractions are estimates for all."
    return [note] if every > 1 else []


def _fraction(part: int, whole: int, noun: str) -> str:
    """Return `12 pairs (0.4%)`."""
    return f"{count_of(part, noun)} ({percent_of(part, whole)})"
