"""What a folder of scores says about its pairs, in plain sentences derived from its numbers alone."""

from __future__ import annotations

import numpy as np

from aligngpt.curation.duplicates import NEAR_BITS, Copies, NearCopies, Reuse
from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.scorer_agreement import Agreement
from aligngpt.curation.scorer_ranks import NUM_LEVELS
from aligngpt.curation.statistics import Scan, bin_centers, bin_score, quantile_bin
from aligngpt.reporting.formatting import count_of, decimal, integer, percent, percent_of
from aligngpt.reporting.run.insights import trend

MOST_PIECES = 64  # of a caption are read with `--long-captions chunk-mean`
# Those of `aligngpt select --drop-defect` unless told otherwise.
NEAR_BOUNDARY = 0.001  # of a score
_SUSPECT = 0.01  # share of the lowest scores


def quantile(scanned: Scan, share: float) -> float:
    """A quantile of the scores to within 0.0001; there must be a score."""
    return bin_score(quantile_bin(scanned.histogram.sum(axis=0), share) + 0.5)


def mean_score(scanned: Scan) -> float:
    """Mean of all scores; there must be one."""
    return float(scanned.sums.sum()) / scanned.scored


def median_lengths(scanned: Scan) -> list[float]:
    """The median caption's number of characters at each level, NaN where nothing is known."""
    return [float(quantile_bin(row, 0.5)) if row.any() else np.nan for row in scanned.lengths[1:]]


def scores(scanned: Scan) -> list[str]:
    """How many pairs have a score, and how the scores spread."""
    pairs = count_of(scanned.rows, "pair")
    if not scanned.scored:
        return [f"None of the {pairs} has a score." if scanned.rows > 1 else f"The scores hold {pairs} and no score."]
    if scanned.scored == 1:
        which = "The only pair" if scanned.rows == 1 else f"1 of {pairs}"
        return [f"{which} has a score, {decimal(scanned.minimum)}."]
    which = f"All {pairs}" if scanned.scored == scanned.rows else f"{integer(scanned.scored)} of {pairs}"
    return [
        f"{which} have a score, from {decimal(scanned.minimum)} to {decimal(scanned.maximum)}; half of the scores lie "
        f"between {decimal(quantile(scanned, 0.25))} and {decimal(quantile(scanned, 0.75))}, and their mean is "
        f"{decimal(mean_score(scanned))}."
    ]


def levels(scanned: Scan, boundaries: LevelBoundaries) -> list[str]:
    """How full the levels are."""
    counts = scanned.counts[1:]
    how = {"quantile": "to be equally full", "uniform": "to be equally wide"}.get(boundaries.strategy, "where told")
    least, most = int(counts.min()), int(counts.max())
    held = count_of(least, "pair") if least == most else f"{integer(least)} to {count_of(most, 'pair')}"
    said = f"The {boundaries.num_levels} levels are cut {how} and hold {held} each."
    empty = int((counts == 0).sum())
    return [f"{said} {count_of(empty, 'level')} {'is' if empty == 1 else 'are'} empty." if empty else said]


def suspects(scanned: Scan) -> list[str]:
    """Where the lowest scores lie."""
    if not scanned.scored:
        return []
    lowest = round(_SUSPECT * scanned.scored)
    if lowest < 2:
        return [
            f"The lowest score is {decimal(scanned.minimum, 3)}, and the median {decimal(quantile(scanned, 0.5), 3)}."
        ]
    return [
        f"The lowest {percent(_SUSPECT, 0)} of the scores, {count_of(lowest, 'pair')}, lie at or below "
        f"{decimal(quantile(scanned, _SUSPECT), 3)}, and the median at {decimal(quantile(scanned, 0.5), 3)}."
    ]


def near_boundaries(scanned: Scan, boundaries: LevelBoundaries) -> list[str]:
    """How many pairs a small change of score would move to another level."""
    distances = np.abs(bin_centers()[:, None] - np.asarray(boundaries.boundaries)).min(axis=1)
    near = distances <= NEAR_BOUNDARY
    count = int(scanned.histogram.sum(axis=0)[near].sum())
    return [
        f"{_some(count, scanned.scored, 'score')} {'lies' if count == 1 else 'lie'} within {NEAR_BOUNDARY} of a "
        "boundary: a slightly different score would have given another level."
    ]


def bad(scanned: Scan) -> list[str]:
    """How many pairs could not be scored, and why."""
    failed = scanned.rows - scanned.scored
    if not failed:
        return ["Every pair could be scored."] if scanned.rows else []
    said = f"{_some(failed, scanned.rows, 'pair')} could not be scored"
    if not scanned.reasons:
        return [f"{said}."]
    first, *others = scanned.reasons
    if failed == 1:
        return [f"{said}: {first.text}."]
    if not others:
        return [f"{said}, all for the same reason: {first.text}."]
    if first.count == 1:
        return [f"{said}, each for a reason of its own."]
    return [f"{said}, {integer(first.count)} of them for this reason: {first.text}."]


def cut(scanned: Scan, policy: str) -> list[str]:
    """How many captions are longer than the scorer reads, so that a part of them did not count.

    Args:
        scanned: What was found.
        policy: `truncate` or `chunk-mean`, as the manifest says.
    """
    captions, long = scanned.scored, int(scanned.cut.sum())
    if not captions:
        return []
    limit = read_limit(scanned, policy)
    if not long:
        return [f"No caption is longer than {limit}."]
    verb, was, whose = ("is", "was", "its") if long == 1 else ("are", "were", "their")
    return [
        f"{_some(long, captions, 'caption')} {verb} longer than {limit} and {was} cut: what stands at {whose} end did "
        "not count."
    ]


def read_limit(scanned: Scan, policy: str) -> str:
    """What captions are cut at, in words: `the scorer reads`, or its 64 pieces with `chunk-mean`."""
    reader = "a scorer" if scanned.num_scorers > 1 else "the scorer"
    return f"the {MOST_PIECES} pieces that {reader} reads" if policy == "chunk-mean" else f"{reader} reads"


def lengths(scanned: Scan) -> list[str]:
    """How the captions' length runs over the levels."""
    known = scanned.lengths.sum(axis=0)
    if not known.any():
        return []
    spread = [quantile_bin(known, share) for share in (0.05, 0.5, 0.95)]
    said = [
        f"The median caption has {integer(spread[1])} characters; nine in ten have {integer(spread[0])} to "
        f"{integer(spread[2])}, and the longest has {integer(scanned.longest)}."
    ]
    if len(scanned.lengths) > 1:
        said.append(trend(median_lengths(scanned), "The median length of a level's captions", 0))
    return said


def copies(found: Copies, near: NearCopies) -> list[str]:
    """Images that occur more than once, byte for byte or nearly."""
    if not found.rows:
        return []
    said = [_sampled(found.every, "image")] if found.every > 1 else []
    if found.shared_rows:
        copied = _some(found.copied_rows, found.rows, "pair") if found.copied_rows else "none"
        said.append(
            f"{_some(found.shared_rows, found.rows, 'pair')} share their image with another pair; {copied} "
            f"{'have' if found.copied_rows else 'has'} one that also exists under another name."
        )
    else:
        said.append("No image occurs twice.")
    if near.images:
        some = _some(near.near, near.images, "image")
        look = f"{some} look like another one: their perceptual hashes differ in at most {NEAR_BITS} of 64 bits."
        look += " Of all images it is more: the like of most is not among those looked at." if found.every > 1 else ""
        said.append(look if near.near else "No two different images look alike by their perceptual hashes.")
        if not near.complete:
            said.append("So many images look alike that some of them may have been missed.")
    return said


def reuse(found: Reuse) -> list[str]:
    """Captions over several images, and pairs that repeat an earlier one."""
    if not found.rows:
        return []
    said = [_sampled(found.every, "caption")] if found.every > 1 else []
    if found.reused:
        most = found.groups[0].count
        said.append(
            f"{_some(found.reused_rows, found.rows, 'pair')} have a caption that stands over more than one "
            f"image; the one used most stands over {integer(most)}."
        )
    else:
        said.append("Every caption stands over one image only.")
    if found.doubled_rows:
        verb = "repeats" if found.doubled_rows == 1 else "repeat"
        said.append(f"{_some(found.doubled_rows, found.rows, 'pair')} {verb} an earlier pair, image and caption.")
    return said


def _sampled(every: int, what: str) -> str:
    return f"Looked at was one {what} in {integer(every)}, chosen by its hash: what holds for all is the shares."


def _some(part: int, whole: int, noun: str) -> str:
    """`12 pairs (0.4 %)`."""
    return f"{count_of(part, noun)} ({percent_of(part, whole)})"


def agreement(first: str, other: str, found: Agreement) -> list[str]:
    """How far two scorers, by name, agree."""
    if found.spearman is None:
        return [f"{first} and {other} cannot be compared by rank: one of them gives every pair the same score."]
    of = f"{count_of(found.pairs, 'pair')}, one in {found.every}" if found.every > 1 else count_of(found.pairs, "pair")
    strength = (
        "closely alike" if found.spearman >= 0.8 else "roughly alike" if found.spearman >= 0.5
        else "hardly alike" if found.spearman > 0.2 else "unlike"
    )  # fmt: skip
    return [
        f"{first} and {other} rank the pairs {strength}: rank correlation {decimal(found.spearman)} over {of}. Cut "
        f"into {NUM_LEVELS} equally full levels each, {percent(found.equal_levels)} of the pairs get the same level "
        f"from both, and {percent(found.close)} the same or the next."
    ]


def headline(scanned: Scan, policy: str) -> list[str]:
    """What stands on top of the page: the spread of the scores, then what is wrong with the data, if anything is."""
    said = scores(scanned) + bad(scanned) + cut(scanned, policy) + copies(scanned.repeats.copies, scanned.repeats.near)
    return said + reuse(scanned.repeats.reuse)
