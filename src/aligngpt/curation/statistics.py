"""Statistics of a folder of scores of any length: counts, histograms, and rows to show as examples.

Memory does not grow with the number of pairs: scores and lengths are counted in bins, and of the rows to show only the
best so far are retained. Random examples are chosen by a fixed hash of the row number, so that equal scores give equal
reports.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from aligngpt.curation.duplicates import CaptionSample, DuplicateStats, ImageSample, mix_bits
from aligngpt.curation.levels import LevelBoundaries, stream_scores
from aligngpt.curation.quantiles import ScoreRanking, quantile_rank
from aligngpt.curation.scoring.store import (
    OTHER_REASONS,
    is_valid,
    iter_scores,
    normalize_reason,
    read_manifest,
    score_schema,
    to_numpy,
)
from aligngpt.utils.text import printable

SCORE_BINS = 20_000  # of 0.0001 each, from -1 to 1
MAX_LENGTH = 4_096  # characters; longer captions count as this long

_NUM_LOWEST = 24
_NUM_TRUNCATED = 5
_NUM_BOUNDARIES = 8
_ROWS_PER_REASON = 3


class SmallestRows:
    """The rows with the smallest keys, at most `size` of them; among equal keys the earlier rows."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys = np.empty(0, np.float64)
        self._rows = np.empty(0, np.int64)

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Add keys, float64 (n,), and row numbers, int64 (n,), higher than all added before."""
        if self._keys.size == self._size:
            smaller = keys < self._keys[-1]
            keys, rows = keys[smaller], rows[smaller]
        if keys.size:
            keys, rows = np.concatenate([self._keys, keys]), np.concatenate([self._rows, rows])
            order = np.lexsort((rows, keys))[: self._size]
            self._keys, self._rows = keys[order], rows[order]

    @property
    def rows(self) -> tuple[int, ...]:
        """Row numbers, smallest key first."""
        return tuple(self._rows.tolist())


@dataclass(frozen=True)
class Reason:
    """A reason of failure as the manifest counts it, numbers written as N, and some of its rows."""

    text: str
    count: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class ScoreStatistics:
    """Statistics of a folder of scores. Level 0 is that of scores without a level.

    Attributes:
        rows: Pairs, with a score or without.
        histogram: int64 (levels + 1, `SCORE_BINS`), scores by level.
        sums: float64 (levels + 1,), the sum of each level's scores.
        quantiles: Exact scores by percentile, `p1` to `p99`, as in `levels.json`; empty without scores.
        lengths: int64 (levels + 1, `MAX_LENGTH` + 1), captions by level and number of characters.
        longest: Number of characters of the longest caption.
        truncated: int64 (levels + 1,), pairs whose caption was truncated.
        num_scorers: Number of scorers.
        reasons: As in the manifest, the most frequent first.
        duplicates: What occurs more than once.
        lowest: Rows with the lowest scores, lowest first.
        examples: For each level from 0, a random sample of its rows.
        truncated_rows: A random sample of rows whose caption was truncated.
        boundary_rows: (index of a boundary, nearest row below it, nearest row above it); -1 where there is none.
    """

    rows: int
    histogram: np.ndarray
    sums: np.ndarray
    quantiles: dict[str, float]
    minimum: float
    maximum: float
    lengths: np.ndarray
    longest: int
    truncated: np.ndarray
    num_scorers: int
    reasons: tuple[Reason, ...]
    duplicates: DuplicateStats
    lowest: tuple[int, ...]
    examples: tuple[tuple[int, ...], ...]
    truncated_rows: tuple[int, ...]
    boundary_rows: tuple[tuple[int, int, int], ...]

    @property
    def scored(self) -> int:
        """Pairs with a score."""
        return int(self.histogram.sum())

    @property
    def counts(self) -> np.ndarray:
        """int64 (levels + 1,), pairs of each level."""
        counts: np.ndarray = self.histogram.sum(axis=1)
        return counts


def collect_statistics(
    folder: str | os.PathLike[str],
    column: str = "clip_score",
    boundaries: LevelBoundaries | None = None,
    limit: int | None = None,
) -> ScoreStatistics:
    """Collect the statistics of a finished folder of scores, in three passes.

    Args:
        folder: As `aligngpt score` writes it.
        column: Column of the scores.
        boundaries: Level boundaries of the column; without them every score has level 0.
        limit: Maximum number of rows in which duplicates are counted, see `duplicates`.

    Raises:
        FileNotFoundError: The folder, its manifest or one of its parts is missing.
        ValueError: It is not finished.
    """
    manifest = read_manifest(folder)
    ranking = ScoreRanking(stream_scores(folder, column))
    collector = _Collector(column, boundaries, limit, manifest.counts.errors)
    for batch in iter_scores(folder, list(dict.fromkeys([column, *score_schema().names]))):
        collector.add(batch)
    return collector.result(len(manifest.scorers), ranking.percentiles() if ranking.count else {})


class _Collector:
    """The statistics of the batches so far; `errors` are those of the manifest, failed rows by reason."""

    def __init__(
        self, column: str, boundaries: LevelBoundaries | None, limit: int | None, errors: dict[str, int]
    ) -> None:
        self.column, self.boundaries, self.errors = column, boundaries, errors
        self.rows, self.longest, self.minimum, self.maximum = 0, 0, np.inf, -np.inf
        levels = 1 + (boundaries.num_levels if boundaries else 0)
        self.histogram = np.zeros((levels, SCORE_BINS), np.int64)
        self.lengths = np.zeros((levels, MAX_LENGTH + 1), np.int64)
        self.truncated, self.sums = np.zeros(levels, np.int64), np.zeros(levels)
        self.rows_of_reason: dict[str, list[int]] = {reason: [] for reason in errors}
        self.lowest, self.truncated_rows = SmallestRows(_NUM_LOWEST), SmallestRows(_NUM_TRUNCATED)
        self.examples = [SmallestRows(examples_per_level(levels - 1)) for _ in range(levels)]
        self.near = {index: (SmallestRows(1), SmallestRows(1)) for index in _choose_boundaries(boundaries)}
        self.image_sample, self.caption_sample = ImageSample(limit), CaptionSample(limit)

    def add(self, batch: pa.RecordBatch) -> None:
        rows = np.arange(self.rows, self.rows + batch.num_rows)
        self.rows += batch.num_rows
        scores = batch[self.column].to_numpy(zero_copy_only=False).astype(np.float64)  # NaN without a score
        scored = np.isfinite(scores)
        levels = np.zeros(rows.size, np.int64) if self.boundaries is None else self.boundaries.apply(scores)
        self._add_scores(scores[scored], levels[scored], rows[scored])
        chars = to_numpy(batch["caption_chars"], -1).astype(np.int64)
        measured = scored & (chars >= 0)
        np.add.at(self.lengths, (levels[measured], np.minimum(chars[measured], MAX_LENGTH)), 1)
        self.longest = max(self.longest, int(chars.max(initial=0)))
        truncated = scored & batch["text_truncated"].to_numpy(zero_copy_only=False)
        self.truncated += np.bincount(levels[truncated], minlength=self.truncated.size)
        self.truncated_rows.add(random_keys(rows[truncated]), rows[truncated])
        self._add_errors(batch["error"], rows)
        self._add_duplicates(batch, scored, rows)

    def _add_scores(self, scores: np.ndarray, levels: np.ndarray, rows: np.ndarray) -> None:
        np.add.at(self.histogram, (levels, score_bins(scores)), 1)
        self.sums += np.bincount(levels, weights=scores, minlength=self.sums.size)
        self.minimum = min(self.minimum, float(scores.min(initial=np.inf)))
        self.maximum = max(self.maximum, float(scores.max(initial=-np.inf)))
        self.lowest.add(scores, rows)
        keys = random_keys(rows)
        for level in np.unique(levels).tolist():
            self.examples[level].add(keys[levels == level], rows[levels == level])
        for index, (below, above) in self.near.items():
            assert self.boundaries is not None
            beyond = scores - self.boundaries.boundaries[index]
            below.add(-beyond[beyond < 0], rows[beyond < 0])
            above.add(beyond[beyond >= 0], rows[beyond >= 0])

    def _add_errors(self, errors: pa.Array, rows: np.ndarray) -> None:
        for index in np.flatnonzero(is_valid(errors)).tolist():
            kind = normalize_reason(errors[index].as_py())
            examples = self.rows_of_reason[kind if kind in self.rows_of_reason else OTHER_REASONS]
            if len(examples) < _ROWS_PER_REASON:
                examples.append(int(rows[index]))

    def _add_duplicates(self, batch: pa.RecordBatch, scored: np.ndarray, rows: np.ndarray) -> None:
        usable = scored & is_valid(batch["image_hash"])  # bytes that are no image have a hash as well
        images, perceptual = to_numpy(batch["image_hash"]), batch["image_phash"]
        names = np.fromiter(map(hash, batch["image"].to_pylist()), np.int64, batch.num_rows)
        columns = (images, names, to_numpy(perceptual), is_valid(perceptual), rows)
        self.image_sample.add(*(values[usable] for values in columns))
        usable &= is_valid(batch["caption_hash"])
        self.caption_sample.add(to_numpy(batch["caption_hash"])[usable], images[usable], rows[usable])

    def result(self, num_scorers: int, quantiles: dict[str, float]) -> ScoreStatistics:
        rows_of = self.rows_of_reason
        same = ("rows", "histogram", "sums", "minimum", "maximum", "lengths", "longest", "truncated")
        return ScoreStatistics(
            **{name: getattr(self, name) for name in same},
            quantiles=quantiles,
            num_scorers=num_scorers,
            reasons=tuple(Reason(printable(text), count, tuple(rows_of[text])) for text, count in self.errors.items()),
            duplicates=DuplicateStats(*self.image_sample.count(), self.caption_sample.count()),
            lowest=self.lowest.rows,
            examples=tuple(examples.rows for examples in self.examples),
            truncated_rows=self.truncated_rows.rows,
            boundary_rows=tuple(
                (index, next(iter(below.rows), -1), next(iter(above.rows), -1))
                for index, (below, above) in self.near.items()
            ),
        )


def examples_per_level(num_levels: int) -> int:
    """Return how many pairs of each level are shown: fewer with many levels, to bound the size of a report."""
    return max(2, min(5, 96 // max(1, num_levels))) if num_levels else 12


def _choose_boundaries(boundaries: LevelBoundaries | None) -> list[int]:
    """Return indices of boundaries to show: of the different ones all, or some at even distances."""
    if boundaries is None:
        return []
    scores = boundaries.boundaries
    indices = [index for index, score in enumerate(scores) if index == 0 or score != scores[index - 1]]
    if len(indices) <= _NUM_BOUNDARIES:
        return indices
    return [indices[(2 * number + 1) * len(indices) // (2 * _NUM_BOUNDARIES)] for number in range(_NUM_BOUNDARIES)]


def random_keys(rows: np.ndarray) -> np.ndarray:
    """Return a fixed pseudo-random number, 0 to 1, for each row number: float64 (n,)."""
    return (mix_bits(rows.astype(np.uint64)) >> np.uint64(11)) * 2.0**-53


def score_bins(scores: np.ndarray) -> np.ndarray:
    """Return the bins, 0 to `SCORE_BINS` - 1, of finite scores (n,), clipped to -1 and 1."""
    return np.clip((scores + 1) * (SCORE_BINS // 2), 0, SCORE_BINS - 1).astype(np.int64)


def bin_score(position: float) -> float:
    """Return the score at a position of the histogram's axis; bin k reaches from k to k + 1."""
    return position / (SCORE_BINS // 2) - 1


def bin_centers() -> np.ndarray:
    """Return the score in the middle of each bin, float64 (`SCORE_BINS`,)."""
    return (np.arange(SCORE_BINS) + 0.5) / (SCORE_BINS // 2) - 1


def quantile_bin(counts: np.ndarray, fraction: float) -> int:
    """Return the bin that holds a quantile, 0 to 1, of counts (bins,), at least one of them positive.

    The rank is that of `quantile_rank`, so the bin holds the quantile of `levels.json`.
    """
    cumulative = np.cumsum(counts)
    rank = quantile_rank(round(1000 * fraction), 1000, int(cumulative[-1]))
    return int(np.searchsorted(cumulative, rank, side="right"))
