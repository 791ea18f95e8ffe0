"""Duplicate images, near-duplicate images, and captions that occur with several images, by the hashes in the scores.

Masks for filters (`mask_duplicate_images` and so on) are exact: they read the hashes in as many passes as keep about
200 MB in memory.

Statistics for reports use all rows up to `LIMIT`. Of more, they use a sample of the *hashes*, one in `every` by a hash
of the hash, so that all rows of an image or a caption are in the sample or none is: fractions in it hold for the whole,
and memory stays under 1 GB. (Near-duplicates have different hashes, so that in a sample most of them lose their
partner: there the number is a lower bound. An image or caption that alone has more than `LIMIT` rows leaves the
sample.)

Near-duplicates are images of different bytes whose 64-bit perceptual hashes differ in at most `NEAR_BITS` = 4 bits.
Divide a hash into 7 parts: 4 differing bits touch at most 4 of them, so two near hashes agree in some 3 parts. For each
of the 35 choices of 3 parts the hashes are sorted by these parts and compared with those that agree in them, at most
the next `_WINDOW`: no near pair is missed as long as no more than that many different hashes agree in a choice, and
`NearDuplicates.complete` says whether that held. On 48 photographs, halved, cropped to a third, brightened or stored
again at JPEG quality 30, every version was within 4 bits, and no two photographs were within 15.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa

from aligngpt.curation.scoring.store import is_valid, iter_scores, read_manifest, to_numpy

LIMIT = 1 << 22
NEAR_BITS = 4
SPREAD = (2, 3, 10, 100, 1_000)  # classes of repeated captions: from so many images on

_PARTS = (9, 9, 9, 9, 9, 9, 10)  # bits of a perceptual hash
_WINDOW = 64
_MAX_PAIRS = 2_000  # near pairs to choose examples from
_NUM_GROUPS = 8
_ROWS_PER_GROUP = 3
_NUM_NEAR_EXAMPLES = 8
_BIT_COUNTS = np.array([number.bit_count() for number in range(256)], np.uint8)


# Masks for filters --------------------------------------------------------------------------------------------------


def mask_duplicate_images(folder: str | os.PathLike[str], column: str) -> np.ndarray:
    """Mark all records of an image but the one with the highest score, the first among equals: bool (rows,).

    Args:
        folder: A finished folder of scores.
        column: Its column of scores.
    """
    return _mark_rows(folder, "image_hash", column, lambda images, scores: ~_starts(images))


def mask_duplicate_pairs(folder: str | os.PathLike[str]) -> np.ndarray:
    """Mark all records of an image with one caption but the first: bool (rows,)."""
    return _mark_rows(folder, "image_hash", "caption_hash", lambda images, captions: ~_starts(images, captions))


def mask_repeated_captions(folder: str | os.PathLike[str], min_images: float) -> np.ndarray:
    """Mark all records of a caption that occurs with at least `min_images` different images: bool (rows,)."""

    def mark(captions: np.ndarray, images: np.ndarray) -> np.ndarray:
        group = np.cumsum(_starts(captions)) - 1
        return np.bincount(group, weights=_starts(captions, images))[group] >= min_images

    return _mark_rows(folder, "caption_hash", "image_hash", mark)


def _mark_rows(
    folder: str | os.PathLike[str], key: str, value: str, mark: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Mark rows by two columns, read for a fraction of the keys at a time; all rows of a key are read together.

    Args:
        key: Column of hashes; rows without one are not marked.
        value: Column of hashes, as `key`, or of scores; rows without a score have the lowest.
        mark: Takes keys and values, sorted by key, then hash or descending score, then row; returns the marks.
    """
    mask = np.zeros(read_manifest(folder).counts.rows, bool)
    passes = -(-mask.size // LIMIT)
    for number in range(passes):
        parts, start = [], 0
        for batch in iter_scores(folder, [key, value]):
            keys = to_numpy(batch[key])
            chosen = is_valid(batch[key]) & (keys % np.uint64(passes) == number)
            if pa.types.is_uint64(batch[value].type):
                chosen &= is_valid(batch[value])
                values = to_numpy(batch[value])
            else:
                values = -to_numpy(batch[value], -math.inf)
            parts.append((keys[chosen], values[chosen], start + np.flatnonzero(chosen)))
            start += batch.num_rows
        keys, values, rows = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = np.lexsort((values, keys))
        mask[rows[order]] = mark(keys[order], values[order])
    return mask


def _starts(*columns: np.ndarray) -> np.ndarray:
    """Return where a run of rows that are equal in all columns starts, in sorted columns: bool (n,)."""
    starts = np.ones(columns[0].size, bool)
    starts[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return starts


# Statistics for reports ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DuplicateGroup:
    """An image or a caption that occurs several times: how often, and some of its rows."""

    count: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class DuplicateImages:
    """Images with the same bytes, in a sample of one image in `every`.

    Attributes:
        rows: Pairs in the sample.
        images: Different images among them.
        shared_rows: Pairs whose image is also that of another pair, under any name.
        duplicate_rows: Pairs whose image also exists under another name.
        groups: Images with the most names, each with rows of different names.
    """

    every: int
    rows: int
    images: int
    shared_rows: int
    duplicate_rows: int
    groups: tuple[DuplicateGroup, ...]


@dataclass(frozen=True)
class NearDuplicates:
    """Images that look alike and have different bytes, in the sample of `DuplicateImages`.

    Attributes:
        images: Different images that have a perceptual hash.
        near: How many of them are near another one.
        pairs: (differing bits, row, row), nearest first, no image twice.
        complete: Whether no near pair can have been missed.
    """

    images: int
    near: int
    pairs: tuple[tuple[int, int, int], ...]
    complete: bool


@dataclass(frozen=True)
class RepeatedCaptions:
    """Captions that occur with more than one image, in a sample of one caption in `every`.

    Attributes:
        rows: Pairs in the sample.
        captions: Different captions among them.
        repeated: Those with two or more images.
        repeated_rows: Pairs with one of these.
        duplicate_pairs: Pairs that repeat an earlier pair, caption and image.
        spread: Number of captions by number of images, in the classes of `SPREAD`.
        groups: Captions with the most images, `count` of them, each with rows of different images.
    """

    every: int
    rows: int
    captions: int
    repeated: int
    repeated_rows: int
    duplicate_pairs: int
    spread: tuple[int, ...]
    groups: tuple[DuplicateGroup, ...]


@dataclass(frozen=True)
class DuplicateStats:
    """What occurs more than once."""

    images: DuplicateImages
    near: NearDuplicates
    captions: RepeatedCaptions


def mix_bits(values: np.ndarray) -> np.ndarray:
    """Map uint64 (n,) to uint64 (n,), one to one, each output bit depending on all input bits (SplitMix64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class _Sample:
    """Rows whose key, a uint64, is in the sample: all until there are more than `limit`, then fewer keys."""

    def __init__(self, limit: int | None) -> None:
        self.every = 1
        self._limit = LIMIT if limit is None else limit
        self._count = 0
        self._chunks: list[tuple[np.ndarray, ...]] = []

    def add(self, *columns: np.ndarray) -> None:
        """Add columns (n,), the key first."""
        self._add_chunk(columns)
        while self._count > self._limit:
            self.every *= 2
            chunks, self._chunks, self._count = self._chunks, [], 0
            for chunk in chunks:
                self._add_chunk(chunk)

    def _add_chunk(self, chunk: tuple[np.ndarray, ...]) -> None:
        if self.every > 1:
            chosen = mix_bits(chunk[0]) % np.uint64(self.every) == 0
            chunk = tuple(values[chosen] for values in chunk)
        self._chunks.append(chunk)
        self._count += chunk[0].size

    def _sorted_columns(self) -> list[np.ndarray]:
        """Return all columns, sorted by the first (the key), the second and the last (the row)."""
        columns = [np.concatenate(values) for values in zip(*self._chunks, strict=True)]
        order = np.lexsort((columns[-1], columns[1], columns[0]))
        return [column[order] for column in columns]


class ImageSample(_Sample):
    """Collects images by the hash of their bytes.

    Columns: hashes of bytes (uint64) and of names (int64), perceptual hashes (uint64), whether present, row numbers.
    """

    def count(self) -> tuple[DuplicateImages, NearDuplicates]:
        """Count duplicates in the sample."""
        if not self._count:
            return DuplicateImages(self.every, 0, 0, 0, 0, ()), NearDuplicates(0, 0, (), True)
        images, names, perceptual, has_perceptual, rows = self._sorted_columns()
        starts, sizes, num_names = _group(images, names)
        duplicates = DuplicateImages(
            every=self.every,
            rows=rows.size,
            images=starts.size,
            shared_rows=int(sizes[sizes > 1].sum()),
            duplicate_rows=int(sizes[num_names > 1].sum()),
            groups=_largest_groups(names, rows, starts, sizes, num_names),
        )
        hashed = has_perceptual[starts]
        first_rows = np.minimum.reduceat(rows, starts)
        return duplicates, find_near_duplicates(perceptual[starts[hashed]], first_rows[hashed])


class CaptionSample(_Sample):
    """Collects captions by the hash of their text.

    Columns: hashes of captions and of their images (uint64), row numbers (int64).
    """

    def count(self) -> RepeatedCaptions:
        """Count repeated captions in the sample."""
        if not self._count:
            return RepeatedCaptions(self.every, 0, 0, 0, 0, 0, (0,) * len(SPREAD), ())
        captions, images, rows = self._sorted_columns()
        starts, sizes, num_images = _group(captions, images)
        classes = np.searchsorted(SPREAD, num_images[num_images > 1], side="right") - 1
        return RepeatedCaptions(
            every=self.every,
            rows=rows.size,
            captions=starts.size,
            repeated=int((num_images > 1).sum()),
            repeated_rows=int(sizes[num_images > 1].sum()),
            duplicate_pairs=int(rows.size - num_images.sum()),
            spread=tuple(np.bincount(classes, minlength=len(SPREAD)).tolist()),
            groups=_largest_groups(images, rows, starts, sizes, num_images),
        )


def _group(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where each key starts, its number of rows and of different values, for rows sorted by key, then value."""
    starts = np.flatnonzero(_starts(keys))
    different = np.add.reduceat(_starts(keys, values).astype(np.int64), starts)
    return starts, np.diff(starts, append=keys.size), different


def _largest_groups(
    values: np.ndarray, rows: np.ndarray, starts: np.ndarray, sizes: np.ndarray, different: np.ndarray
) -> tuple[DuplicateGroup, ...]:
    """Return the groups with the most different values, at least two; among equals the first in the data."""
    several = np.flatnonzero(different > 1)
    first_rows = np.minimum.reduceat(rows, starts)[several]
    groups = []
    for index in several[np.lexsort((first_rows, -different[several]))[:_NUM_GROUPS]].tolist():
        span = slice(starts[index], starts[index] + sizes[index])
        _, first_of_value = np.unique(values[span], return_index=True)  # rows ascend within a value
        examples = np.sort(rows[span][first_of_value])[:_ROWS_PER_GROUP]
        groups.append(DuplicateGroup(int(different[index]), tuple(examples.tolist())))
    return tuple(groups)


# Near-duplicates ----------------------------------------------------------------------------------------------------


def find_near_duplicates(perceptual: np.ndarray, rows: np.ndarray) -> NearDuplicates:
    """Find images that look alike.

    Args:
        perceptual: uint64 (n,), a perceptual hash for each different image.
        rows: int64 (n,), a row in which it occurs.
    """
    order = np.lexsort((rows, perceptual))
    values, starts, sizes = np.unique(perceptual[order], return_index=True, return_counts=True)
    rows = rows[order]
    is_near, near_pairs, complete = find_near_values(values)
    equal = starts[sizes > 1]
    pairs = [(0, int(rows[start]), int(rows[start + 1])) for start in equal.tolist()]
    pairs += [(bits, int(rows[starts[left]]), int(rows[starts[right]])) for bits, left, right in near_pairs]
    return NearDuplicates(rows.size, int(sizes[is_near | (sizes > 1)].sum()), _choose_examples(pairs), complete)


def find_near_values(values: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]], bool]:
    """Find pairs of hashes that differ in at most `NEAR_BITS` bits without comparing all with all.

    Args:
        values: uint64 (n,), all different.

    Returns:
        bool (n,), which have a near one; (bits, index, index) of the nearest pairs, at most `_MAX_PAIRS`; and whether
        no near pair can have been missed.
    """
    is_near, complete = np.zeros(values.size, bool), True
    nearest = np.empty((0, 3), np.int64)
    ends = np.cumsum(_PARTS).tolist()
    parts = [((1 << size) - 1) << (end - size) for size, end in zip(_PARTS, ends, strict=True)]
    for chosen in combinations(parts, len(parts) - NEAR_BITS):
        mask = np.uint64(sum(chosen))
        keys = values & mask
        order = np.argsort(keys)
        keys = keys[order]
        current = np.arange(values.size)
        for step in range(1, _WINDOW + 1):
            current = current[current < values.size - step]
            current = current[keys[current] == keys[current + step]]
            if not current.size:
                break
            left, right = order[current], order[current + step]
            different = (values[left] ^ values[right]).view(np.uint8).reshape(-1, 8)
            bits = _BIT_COUNTS[different].sum(axis=1, dtype=np.int64)
            close = bits <= NEAR_BITS
            is_near[left[close]] = is_near[right[close]] = True
            pairs = np.stack([bits, np.minimum(left, right), np.maximum(left, right)], axis=1)[close]
            if pairs.size:
                nearest = np.unique(np.concatenate([nearest, pairs]), axis=0)[:_MAX_PAIRS]
        else:
            complete = False
    return is_near, [(bits, left, right) for bits, left, right in nearest.tolist()], complete


def _choose_examples(pairs: list[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Return the nearest pairs, none of which shares an image with an earlier one."""
    examples: list[tuple[int, int, int]] = []
    used: set[int] = set()
    for bits, left, right in sorted(pairs):
        if len(examples) < _NUM_NEAR_EXAMPLES and not {left, right} & used:
            examples.append((bits, min(left, right), max(left, right)))
            used |= {left, right}
    return tuple(examples)
