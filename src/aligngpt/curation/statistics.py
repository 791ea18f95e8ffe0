"""One pass over a folder of scores of any length: counts, histograms, and which rows are worth showing.

Memory does not grow with the number of pairs: scores and lengths are counted in bins, and of the rows to be shown only
those numbers are kept that are still among the first. Which of many equal rows are shown is drawn by a fixed hash of
their number, so the same scores give the same page.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from aligngpt.curation.duplicates import CaptionSample, ImageSample, Repeats, mixed
from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.scoring.store import OTHER_REASONS, error_kind, iter_scores, read_manifest, score_schema
from aligngpt.utils.text import printable

SCORE_BINS = 20_000  # of 0.0001 each, from -1 to 1
LONGEST = 4_096  # characters; longer captions count as this long

_LOWEST = 24
_SHOWN_CUT = 5
_BOUNDARIES_SHOWN = 8
_SHOWN_OF_REASON = 3


class Smallest:
    """The so many rows with the smallest keys of all that were added; of equal keys the earlier row."""

    def __init__(self, size: int) -> None:
        """Keep at most `size` rows."""
        self._size = size
        self._keys = np.empty(0, np.float64)
        self._rows = np.empty(0, np.int64)

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Offer rows, float64 (n,) keys and int64 (n,) row numbers, later ones than all before."""
        if self._keys.size == self._size:
            smaller = keys < self._keys[-1]
            keys, rows = keys[smaller], rows[smaller]
        if keys.size:
            keys, rows = np.concatenate([self._keys, keys]), np.concatenate([self._rows, rows])
            order = np.lexsort((rows, keys))[: self._size]
            self._keys, self._rows = keys[order], rows[order]

    @property
    def rows(self) -> tuple[int, ...]:
        """The row numbers, smallest key first."""
        return tuple(self._rows.tolist())


@dataclass(frozen=True)
class Batch:
    """Some rows of the scores as arrays of n; what is null has False in the array of that name with `has_`.

    Attributes:
        rows: int64, numbers of the rows, from 0 in the order of the input.
        scores: float64, NaN without a score.
        names: int64, a hash of the image's name; good for telling names apart within this process alone.
    """

    rows: np.ndarray
    scores: np.ndarray
    truncated: np.ndarray
    errors: pa.Array
    chars: np.ndarray
    captions: np.ndarray
    has_caption: np.ndarray
    images: np.ndarray
    has_image: np.ndarray
    perceptual: np.ndarray
    has_perceptual: np.ndarray
    names: np.ndarray


@dataclass(frozen=True)
class Reason:
    """A kind of error as the manifest counts it, every number written as N, and a few of its rows."""

    text: str
    count: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Scan:
    """What a pass over the scores found. Level 0 stands for scores without a level.

    Attributes:
        histogram: int64 (levels + 1, `SCORE_BINS`), scores by level.
        sums: float64 (levels + 1,), the sum of each level's scores.
        lengths: int64 (levels + 1, `LONGEST` + 1), captions by level and number of characters.
        longest: The longest caption's number of characters.
        cut: int64 (levels + 1,), captions of which a part was not read.
        num_scorers: How many scorers were at work.
        reasons: As in the manifest, the most frequent first.
        lowest: Rows with the lowest scores, lowest first.
        drawn: For each level from 0, rows drawn from it at random.
        cut_rows: Rows drawn from those whose caption was cut.
        boundary_rows: Place of a boundary, and the rows nearest below it and nearest above; -1 where there is none.
    """

    rows: int
    histogram: np.ndarray
    sums: np.ndarray
    minimum: float
    maximum: float
    lengths: np.ndarray
    longest: int
    cut: np.ndarray
    num_scorers: int
    reasons: tuple[Reason, ...]
    repeats: Repeats
    lowest: tuple[int, ...]
    drawn: tuple[tuple[int, ...], ...]
    cut_rows: tuple[int, ...]
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


def scan(
    folder: str | os.PathLike[str],
    column: str = "clip_score",
    boundaries: LevelBoundaries | None = None,
    limit: int | None = None,
) -> Scan:
    """Go once over a finished folder of scores.

    Args:
        folder: As `aligngpt score` writes it.
        column: Whose scores count.
        boundaries: Where the column's levels part; without them every score has level 0.
        limit: Most rows in which repeated images and captions are looked for, see `data_repeats`.

    Raises:
        FileNotFoundError: If the folder, its manifest or one of its parts is missing.
        ValueError: If it is not finished.
    """
    manifest = read_manifest(folder)
    tally = _Tally(boundaries, limit, manifest["counts"]["errors"], len(manifest["scorers"]))
    for batch in _batches(folder, column):
        tally.add(batch)
    return tally.result()


def _batches(folder: str | os.PathLike[str], column: str) -> Iterator[Batch]:
    """The rows of a folder of scores from the first to the last."""
    columns = dict.fromkeys([column, *score_schema().names])
    first = 0
    for batch in iter_scores(folder, list(columns)):
        yield _batch(batch, first, column)
        first += batch.num_rows


def _batch(batch: pa.RecordBatch, first: int, column: str) -> Batch:
    def integers(name: str) -> tuple[np.ndarray, np.ndarray]:
        values = batch[name]
        return values.fill_null(0).to_numpy(zero_copy_only=False), values.is_valid().to_numpy(zero_copy_only=False)

    chars, has_chars = integers("caption_chars")
    captions, has_caption = integers("caption_hash")
    images, has_image = integers("image_hash")
    perceptual, has_perceptual = integers("image_phash")
    return Batch(
        rows=np.arange(first, first + batch.num_rows),
        scores=batch[column].to_numpy(zero_copy_only=False).astype(np.float64),
        truncated=batch["text_truncated"].to_numpy(zero_copy_only=False),
        errors=batch["error"],
        chars=np.where(has_chars, chars.astype(np.int64), -1),
        captions=captions,
        has_caption=has_caption,
        images=images,
        has_image=has_image,
        perceptual=perceptual,
        has_perceptual=has_perceptual,
        names=np.fromiter(map(hash, batch["image"].to_pylist()), np.int64, batch.num_rows),
    )


@dataclass
class _Tally:
    """The sums while the pass goes on."""

    boundaries: LevelBoundaries | None
    limit: int | None
    errors: dict[str, int]  # of the manifest: how many rows failed for which reason
    num_scorers: int
    rows: int = 0
    minimum: float = np.inf
    maximum: float = -np.inf
    longest: int = 0

    def __post_init__(self) -> None:
        levels = 1 + (self.boundaries.num_levels if self.boundaries else 0)
        self.histogram = np.zeros((levels, SCORE_BINS), np.int64)
        self.lengths = np.zeros((levels, LONGEST + 1), np.int64)
        self.cut, self.sums = np.zeros(levels, np.int64), np.zeros(levels)
        self.of_reason: dict[str, list[int]] = {reason: [] for reason in self.errors}
        self.lowest, self.cut_rows = Smallest(_LOWEST), Smallest(_SHOWN_CUT)
        self.drawn = [Smallest(examples_per_level(levels - 1)) for _ in range(levels)]
        self.near = {place: (Smallest(1), Smallest(1)) for place in _boundaries_shown(self.boundaries)}
        self.image_sample = ImageSample(self.limit)
        self.caption_sample = CaptionSample(self.limit)

    def add(self, batch: Batch) -> None:
        self.rows += batch.rows.size
        scored = np.isfinite(batch.scores)
        levels = np.zeros(batch.rows.size, np.int64) if self.boundaries is None else self.boundaries.apply(batch.scores)
        self._add_scores(batch.scores[scored], levels[scored], batch.rows[scored])
        told = scored & (batch.chars >= 0)
        np.add.at(self.lengths, (levels[told], np.minimum(batch.chars[told], LONGEST)), 1)
        self.longest = max(self.longest, int(batch.chars.max(initial=0)))
        cut = scored & batch.truncated
        self.cut += np.bincount(levels[cut], minlength=self.cut.size)
        self.cut_rows.add(priorities(batch.rows[cut]), batch.rows[cut])
        self._add_errors(batch)
        self._add_repeats(batch)

    def _add_scores(self, scores: np.ndarray, levels: np.ndarray, rows: np.ndarray) -> None:
        np.add.at(self.histogram, (levels, score_bins(scores)), 1)
        self.sums += np.bincount(levels, weights=scores, minlength=self.sums.size)
        self.minimum = min(self.minimum, float(scores.min(initial=np.inf)))
        self.maximum = max(self.maximum, float(scores.max(initial=-np.inf)))
        self.lowest.add(scores, rows)
        drawn = priorities(rows)
        for level in np.unique(levels).tolist():
            self.drawn[level].add(drawn[levels == level], rows[levels == level])
        for place, (below, above) in self.near.items():
            assert self.boundaries is not None
            beyond = scores - self.boundaries.boundaries[place]
            below.add(-beyond[beyond < 0], rows[beyond < 0])
            above.add(beyond[beyond >= 0], rows[beyond >= 0])

    def _add_errors(self, batch: Batch) -> None:
        for place in np.flatnonzero(batch.errors.is_valid().to_numpy(zero_copy_only=False)).tolist():
            kind = error_kind(batch.errors[place].as_py())
            rows = self.of_reason[kind if kind in self.of_reason else OTHER_REASONS]
            if len(rows) < _SHOWN_OF_REASON:
                rows.append(int(batch.rows[place]))

    def _add_repeats(self, batch: Batch) -> None:
        seen = batch.has_image & np.isfinite(batch.scores)  # bytes that are no image have a hash as well
        self.image_sample.add(
            batch.images[seen], batch.names[seen], batch.perceptual[seen], batch.has_perceptual[seen],
            batch.rows[seen],
        )  # fmt: skip
        told = seen & batch.has_caption
        self.caption_sample.add(batch.captions[told], batch.images[told], batch.rows[told])

    def result(self) -> Scan:
        reasons = [Reason(printable(text), count, tuple(self.of_reason[text])) for text, count in self.errors.items()]
        return Scan(
            rows=self.rows,
            histogram=self.histogram,
            sums=self.sums,
            minimum=self.minimum,
            maximum=self.maximum,
            lengths=self.lengths,
            longest=self.longest,
            cut=self.cut,
            num_scorers=self.num_scorers,
            reasons=tuple(reasons),
            repeats=Repeats(*self.image_sample.result(), self.caption_sample.result()),
            lowest=self.lowest.rows,
            drawn=tuple(drawn.rows for drawn in self.drawn),
            cut_rows=self.cut_rows.rows,
            boundary_rows=tuple(
                (place, next(iter(below.rows), -1), next(iter(above.rows), -1))
                for place, (below, above) in self.near.items()
            ),
        )


def examples_per_level(num_levels: int) -> int:
    """How many pairs of each level are shown: fewer where there are many levels, to bound the page."""
    return max(2, min(5, 96 // max(1, num_levels))) if num_levels else 12


def _boundaries_shown(boundaries: LevelBoundaries | None) -> list[int]:
    """Places of the boundaries whose pairs are shown: all, or so many at even distances; equal ones count once."""
    if boundaries is None:
        return []
    cuts = boundaries.boundaries
    places = [place for place, cut in enumerate(cuts) if place == 0 or cut != cuts[place - 1]]
    if len(places) <= _BOUNDARIES_SHOWN:
        return places
    return [places[(2 * shown + 1) * len(places) // (2 * _BOUNDARIES_SHOWN)] for shown in range(_BOUNDARIES_SHOWN)]


def priorities(rows: np.ndarray) -> np.ndarray:
    """A fixed draw: float64 (n,) from 0 to 1 for row numbers (n,), as if at random, whatever the batches."""
    return (mixed(rows.astype(np.uint64)) >> np.uint64(11)) * 2.0**-53


def score_bins(scores: np.ndarray) -> np.ndarray:
    """The bins, 0 to `SCORE_BINS` - 1, of finite scores (n,); those beyond -1 and 1 fall into the outermost."""
    return np.clip((scores + 1) * (SCORE_BINS // 2), 0, SCORE_BINS - 1).astype(np.int64)


def bin_score(place: float) -> float:
    """The score at a place of the histogram's axis; bin k reaches from k to k + 1."""
    return place / (SCORE_BINS // 2) - 1


def bin_centers() -> np.ndarray:
    """The score in the middle of each bin, float64 (`SCORE_BINS`,)."""
    return (np.arange(SCORE_BINS) + 0.5) / (SCORE_BINS // 2) - 1


def quantile_bin(counts: np.ndarray, share: float) -> int:
    """The bin that holds a quantile of what was counted in (bins,), 0 to 1, by nearest rank; not all may be empty."""
    below = np.cumsum(counts)
    place = max(int(np.ceil(share * below[-1])) - 1, 0)
    return int(np.searchsorted(below, place, side="right"))
