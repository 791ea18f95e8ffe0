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
from aligngpt.reporting.formatting import (
    format_count,
    format_decimal,
    format_integer,
    format_percent,
    format_percent_of,
)

_NEAR_BOUNDARY = QualityIssue("boundary").value  # default distance of `aligngpt filter --exclude boundary`
_LOWEST = 0.01  # fraction of pairs shown as suspected mismatches


def compute_mean_score(scanned: ScoreStatistics) -> float:
    """Return the mean score; there must be a score."""
    return float(scanned.sums.sum()) / scanned.scored


def select_median_lengths(scanned: ScoreStatistics) -> list[float]:
    """Return the median caption length of each level in characters, NaN for an empty level."""
    return [float(quantile_bin(row, 0.5)) if row.any() else np.nan for row in scanned.lengths[1:]]


def describe_trend(values: Sequence[float], name: str, digits: int = 2) -> str:
    """Describe how a quantity changes from level 1 to level N; NaN (an empty level) is skipped."""
    points = [(level, value) for level, value in enumerate(values, start=1) if not math.isnan(value)]
    if len(points) < 2:
        return f"{name}: too few levels to compare."
    (first, low), (last, high) = points[0], points[-1]
    if high == low:
        return f"{name} is the same at level {first} and at level {last}: {format_decimal(low, digits)}."
    steps = [right - left for (_, left), (_, right) in pairwise(points)]
    verb = "rises" if high > low else "falls"
    shape = "monotonically" if all(step * (high - low) >= 0 for step in steps) else "not monotonically"
    ends = f"from {format_decimal(low, digits)} at level {first} to {format_decimal(high, digits)} at level {last}"
    return f"{name} {verb} {ends}, {shape}."


def describe_scores(scanned: ScoreStatistics) -> list[str]:
    """Describe how many pairs have a score, and the distribution."""
    pairs = format_count(scanned.rows, "pair")
    if not scanned.scored:
        return [f"0 of {pairs} have a score."]
    if scanned.scored == 1:
        return [f"1 of {pairs} has a score: {format_decimal(scanned.minimum)}."]
    scored = f"All {pairs}" if scanned.scored == scanned.rows else f"{format_integer(scanned.scored)} of {pairs}"
    return [
        f"{scored} have a score, from {format_decimal(scanned.minimum)} to {format_decimal(scanned.maximum)}; the "
        f"mean is {format_decimal(compute_mean_score(scanned))}, the middle half lies between "
        f"{format_decimal(scanned.quantiles['p25'])} and {format_decimal(scanned.quantiles['p75'])}."
    ]


def describe_levels(scanned: ScoreStatistics, boundaries: LevelBoundaries) -> list[str]:
    """Describe the size of the levels."""
    counts = scanned.counts[1:]
    names = {"quantile": "of equal size", "uniform": "of equal width"}
    strategy = names.get(boundaries.strategy, "with explicit boundaries")
    least, most = int(counts.min()), int(counts.max())
    size = format_count(least, "pair") if least == most else f"{format_integer(least)} to {format_count(most, 'pair')}"
    empty = int((counts == 0).sum())
    sentence = f"{boundaries.num_levels} levels {strategy}: {size} each."
    return [f"{sentence} {format_count(empty, 'level')} {'is' if empty == 1 else 'are'} empty." if empty else sentence]


def describe_lowest(scanned: ScoreStatistics) -> list[str]:
    """Describe the lowest scores."""
    if not scanned.scored:
        return []
    median = f"the median is {format_decimal(scanned.quantiles['p50'], 3)}"
    count = round(_LOWEST * scanned.scored)
    if count < 2:
        return [f"The lowest score is {format_decimal(scanned.minimum, 3)}; {median}."]
    return [
        f"The lowest {format_percent(_LOWEST, 0)} ({format_count(count, 'pair')}) score at most "
        f"{format_decimal(scanned.quantiles['p1'], 3)}; {median}."
    ]


def describe_near_boundaries(scanned: ScoreStatistics, boundaries: LevelBoundaries) -> list[str]:
    """Describe how many pairs a small change of the score would move to another level."""
    distances = np.abs(bin_centers()[:, None] - np.asarray(boundaries.boundaries)).min(axis=1)
    count = int(scanned.histogram.sum(axis=0)[distances <= _NEAR_BOUNDARY].sum())
    verb = "is" if count == 1 else "are"
    return [
        f"{_format_fraction(count, scanned.scored, 'score')} {verb} within {_NEAR_BOUNDARY} of a boundary: a "
        "small change of the score would change the level."
    ]


def describe_errors(scanned: ScoreStatistics) -> list[str]:
    """Describe how many pairs could not be scored, and the most frequent reason."""
    failed = scanned.rows - scanned.scored
    if not failed:
        return ["All pairs could be scored."] if scanned.rows else []
    sentence = f"{_format_fraction(failed, scanned.rows, 'pair')} could not be scored"
    if not scanned.reasons:
        return [f"{sentence}."]
    most_frequent = scanned.reasons[0]
    several = len(scanned.reasons) > 1
    label = f"; the most frequent reason ({format_integer(most_frequent.count)})" if several else ""
    return [f"{sentence}{label}: {most_frequent.text}."]


def describe_truncated(scanned: ScoreStatistics, policy: str) -> list[str]:
    """Describe how many captions are longer than the scorer reads; `policy` is `truncate` or `chunk-mean`."""
    if not scanned.scored:
        return []
    count, limit = int(scanned.truncated.sum()), describe_context_limit(scanned, policy)
    if not count:
        return [f"No caption is longer than {limit}."]
    verb, were = ("is", "was") if count == 1 else ("are", "were")
    return [
        f"{_format_fraction(count, scanned.scored, 'caption')} {verb} longer than {limit} and {were} truncated; "
        "the score does not reflect the rest."
    ]


def describe_context_limit(scanned: ScoreStatistics, policy: str) -> str:
    """Return what captions are truncated to, in words."""
    scorer = "a scorer's" if scanned.num_scorers > 1 else "the scorer's"
    return f"{MAX_CHUNKS} times {scorer} context" if policy == "chunk-mean" else f"{scorer} context"


def describe_lengths(scanned: ScoreStatistics) -> list[str]:
    """Describe the length of the captions and how it changes with the level."""
    counts = scanned.lengths.sum(axis=0)
    if not counts.any():
        return []
    low, median, high = (quantile_bin(counts, fraction) for fraction in (0.05, 0.5, 0.95))
    sentences = [
        f"The median caption has {format_integer(median)} characters; 90% have {format_integer(low)} to "
        f"{format_integer(high)}, the longest has {format_integer(scanned.longest)}."
    ]
    if len(scanned.lengths) > 1:
        sentences.append(describe_trend(select_median_lengths(scanned), "Median caption length", 0))
    return sentences


def describe_duplicates(exact: DuplicateImages, near: NearDuplicates) -> list[str]:
    """Describe duplicate and near-duplicate images."""
    if not exact.rows:
        return []
    sentences = _describe_sample(exact.every, "image")
    if exact.shared_rows:
        sentences.append(
            f"{_format_fraction(exact.shared_rows, exact.rows, 'pair')} share their image with another pair; "
            f"{_format_fraction(exact.duplicate_rows, exact.rows, 'pair')} have an image that exists under "
            "several names."
        )
    else:
        sentences.append("No image occurs twice.")
    if near.near:
        bound = "this is a lower bound, since near-duplicates may be outside of the sample"
        sentences.append(
            f"{_format_fraction(near.near, near.images, 'image')} are near-duplicates: perceptual hashes that "
            f"differ in at most {NEAR_BITS} of 64 bits{f'; {bound}' if exact.every > 1 else ''}."
        )
    elif near.images:
        sentences.append("No two different images are near-duplicates by their perceptual hashes.")
    if near.images and not near.complete:
        sentences.append("The search for near-duplicates was limited, so some may be missing.")
    return sentences


def describe_repeated_captions(reuse: RepeatedCaptions) -> list[str]:
    """Describe captions that occur with several images, and repeated pairs."""
    if not reuse.rows:
        return []
    sentences = _describe_sample(reuse.every, "caption")
    if reuse.repeated:
        sentences.append(
            f"{_format_fraction(reuse.repeated_rows, reuse.rows, 'pair')} have a caption that occurs with more "
            f"than one image; the most frequent caption occurs with {format_integer(reuse.groups[0].count)} images."
        )
    else:
        sentences.append("Every caption occurs with one image only.")
    if reuse.duplicate_pairs:
        verb = "repeats" if reuse.duplicate_pairs == 1 else "repeat"
        sentences.append(
            f"{_format_fraction(reuse.duplicate_pairs, reuse.rows, 'pair')} {verb} image and caption of another pair."
        )
    return sentences


def describe_agreement(left: str, right: str, result: AgreementDetails) -> list[str]:
    """Describe how far two scorers agree."""
    if result.spearman is None:
        return [f"{left} and {right} cannot be compared by rank: one of them gives every pair the same score."]
    pairs = format_count(result.pairs, "pair") + (f" (one in {result.every})" if result.every > 1 else "")
    strength = (
        "strongly" if result.spearman >= 0.8 else "moderately" if result.spearman >= 0.5
        else "weakly" if result.spearman > 0.2 else "hardly at all"
    )  # fmt: skip
    return [
        f"{left} and {right} agree {strength}: Spearman correlation {format_decimal(result.spearman)} over "
        f"{pairs}. With {NUM_LEVELS} levels of equal size each, {format_percent(result.equal_levels)} of the "
        f"pairs get the same level from both, {format_percent(result.close)} the same or an adjacent one."
    ]


def describe_overview(scanned: ScoreStatistics, policy: str) -> list[str]:
    """Return the most important insights: the scores, then quality issues."""
    stats = scanned.duplicates
    issues = describe_duplicates(stats.images, stats.near) + describe_repeated_captions(stats.captions)
    return describe_scores(scanned) + describe_errors(scanned) + describe_truncated(scanned, policy) + issues


def _describe_sample(every: int, noun: str) -> list[str]:
    note = f"Computed on one {noun} in {format_integer(every)}, sampled by hash; fractions are estimates for all."
    return [note] if every > 1 else []


def _format_fraction(part: int, whole: int, noun: str) -> str:
    """Return `12 pairs (0.4%)`."""
    return f"{format_count(part, noun)} ({format_percent_of(part, whole)})"
