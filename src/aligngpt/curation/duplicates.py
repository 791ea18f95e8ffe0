"""Images and captions that occur more than once: exact copies, near copies, and captions over many images.

All is found by the hashes in the scores. Up to `LIMIT` rows are looked at whole. Of more, a sample of the *hashes* is
taken, one in `every` by a hash of the hash, so that all rows of an image or a caption are in the sample or none is:
shares found in it hold for the whole, and memory stays under 1 GB. (Near copies have different hashes, so in a sample
most of them lose their partner: there the number is a lower bound. An image or caption that alone fills more than
`LIMIT` rows falls out of the sample.)

Near copies are images of other bytes whose 64-bit perceptual hashes differ in at most `NEAR_BITS` = 4 bits. Cut a
hash into 7 parts: 4 differing bits touch at most 4 of them, so two near hashes agree in some 3 parts. For each of the
35 choices of 3 parts the hashes are sorted by these parts and compared with those that agree in them, at most `_WINDOW`
behind each: no near pair is missed as long as no more than that many different hashes agree in a choice, and
`NearCopies.complete` says whether that held. On 48 photographs, halved, cut to a third, brightened or stored again at
JPEG quality 30, every copy was within 4 bits, and no two photographs were within 15.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

LIMIT = 1 << 22
NEAR_BITS = 4

_PARTS = (9, 9, 9, 9, 9, 9, 10)  # bits of a perceptual hash
_WINDOW = 64
_KEPT = 2_000  # near pairs to choose examples from
_GROUPS_SHOWN = 8
_ROWS_SHOWN = 3
_NEAR_SHOWN = 8
_BIT_COUNTS = np.array([number.bit_count() for number in range(256)], np.uint8)
SPREAD = (2, 3, 10, 100, 1_000)  # first numbers of images of the classes in which reused captions are counted


@dataclass(frozen=True)
class Group:
    """Something that occurs several times: how often, and a few of its rows."""

    count: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Copies:
    """Images with the very same bytes, in a sample of one image in `every`.

    Attributes:
        rows: Pairs that were looked at.
        images: Different images among them.
        shared_rows: Pairs whose image is also that of another pair, under whatever name.
        copied_rows: Pairs whose image also exists under another name.
        groups: Images with the most names, each with rows of different names.
    """

    every: int
    rows: int
    images: int
    shared_rows: int
    copied_rows: int
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class NearCopies:
    """Images that look alike and are not the same bytes, in the sample of `Copies`.

    Attributes:
        images: Different images that have a perceptual hash.
        near: How many of them are near another one.
        pairs: (differing bits, row, row), nearest first, no image twice.
        complete: Whether every near pair was sure to be found.
    """

    images: int
    near: int
    pairs: tuple[tuple[int, int, int], ...]
    complete: bool


@dataclass(frozen=True)
class Reuse:
    """Captions that stand over more than one image, in a sample of one caption in `every`.

    Attributes:
        rows: Pairs that were looked at.
        captions: Different captions among them.
        reused: Those over two or more images.
        reused_rows: Pairs with one of these.
        doubled_rows: Pairs that repeat an earlier pair, caption and image.
        spread: How many captions stand over as many images as each class of `SPREAD` says.
        groups: Captions over the most images, `count` of them, each with rows of different images.
    """

    every: int
    rows: int
    captions: int
    reused: int
    reused_rows: int
    doubled_rows: int
    spread: tuple[int, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Repeats:
    """All that occurs more than once."""

    copies: Copies
    near: NearCopies
    reuse: Reuse


def mixed(values: np.ndarray) -> np.ndarray:
    """uint64 (n,) to uint64 (n,), one to one, each bit of the result hanging on all bits (the mixer of SplitMix64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class _Sample:
    """Rows whose key, an uint64, is in the sample: all until there are more than `limit`, then fewer keys."""

    def __init__(self, limit: int | None) -> None:
        self.every = 1
        self._limit = LIMIT if limit is None else limit
        self._count = 0
        self._chunks: list[tuple[np.ndarray, ...]] = []

    def _add(self, keys: np.ndarray, *values: np.ndarray) -> None:
        self._keep((keys, *values))
        while self._count > self._limit:
            self.every *= 2
            chunks, self._chunks, self._count = self._chunks, [], 0
            for chunk in chunks:
                self._keep(chunk)

    def _keep(self, chunk: tuple[np.ndarray, ...]) -> None:
        if self.every > 1:
            kept = mixed(chunk[0]) % np.uint64(self.every) == 0
            chunk = tuple(values[kept] for values in chunk)
        self._chunks.append(chunk)
        self._count += chunk[0].size

    def _columns(self) -> list[np.ndarray]:
        return [np.concatenate(values) for values in zip(*self._chunks, strict=True)]


class ImageSample(_Sample):
    """Collects images by the hash of their bytes."""

    def add(
        self,
        images: np.ndarray,
        names: np.ndarray,
        perceptual: np.ndarray,
        has_perceptual: np.ndarray,
        rows: np.ndarray,
    ) -> None:
        """Arrays (n,): hashes of bytes (uint64), of names (int64), perceptual (uint64), whether there is one, rows."""
        self._add(images, names, perceptual, has_perceptual, rows)

    def result(self) -> tuple[Copies, NearCopies]:
        """What was found in the sample."""
        if not self._count:
            return Copies(self.every, 0, 0, 0, 0, ()), NearCopies(0, 0, (), True)
        images, names, perceptual, has_perceptual, rows = self._columns()
        order = np.lexsort((rows, names, images))
        images, names, rows = images[order], names[order], rows[order]
        starts, sizes, named = _grouped(images, names)
        copies = Copies(
            every=self.every,
            rows=rows.size,
            images=starts.size,
            shared_rows=int(sizes[sizes > 1].sum()),
            copied_rows=int(sizes[named > 1].sum()),
            groups=_largest(images, names, rows, starts, sizes, named),
        )
        first = order[starts]
        known = first[has_perceptual[first]]
        firsts = np.minimum.reduceat(rows, starts)[has_perceptual[first]]
        return copies, near_copies(perceptual[known], firsts)


class CaptionSample(_Sample):
    """Collects captions by the hash of their text."""

    def add(self, captions: np.ndarray, images: np.ndarray, rows: np.ndarray) -> None:
        """Arrays (n,): hashes of captions (uint64) and of the images they stand over (uint64), and rows."""
        self._add(captions, images, rows)

    def result(self) -> Reuse:
        """What was found in the sample."""
        if not self._count:
            return Reuse(self.every, 0, 0, 0, 0, 0, (0,) * len(SPREAD), ())
        captions, images, rows = self._columns()
        order = np.lexsort((rows, images, captions))
        captions, images, rows = captions[order], images[order], rows[order]
        starts, sizes, imaged = _grouped(captions, images)
        classes = np.searchsorted(SPREAD, imaged[imaged > 1], side="right") - 1
        return Reuse(
            every=self.every,
            rows=rows.size,
            captions=starts.size,
            reused=int((imaged > 1).sum()),
            reused_rows=int(sizes[imaged > 1].sum()),
            doubled_rows=int(rows.size - imaged.sum()),
            spread=tuple(np.bincount(classes, minlength=len(SPREAD)).tolist()),
            groups=_largest(captions, images, rows, starts, sizes, imaged),
        )


def _grouped(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of rows sorted by key, then value: where each key starts, its number of rows and of different values."""
    new_key = np.concatenate([[True], keys[1:] != keys[:-1]])
    new_value = new_key | np.concatenate([[True], values[1:] != values[:-1]])
    starts = np.flatnonzero(new_key)
    return starts, np.diff(starts, append=keys.size), np.add.reduceat(new_value.astype(np.int64), starts)


def _largest(
    keys: np.ndarray, values: np.ndarray, rows: np.ndarray, starts: np.ndarray, sizes: np.ndarray, different: np.ndarray
) -> tuple[Group, ...]:
    """The keys with the most different values, at least two; of equal ones that which comes first in the data."""
    several = np.flatnonzero(different > 1)
    firsts = np.minimum.reduceat(rows, starts)[several]
    groups = []
    for key in several[np.lexsort((firsts, -different[several]))[:_GROUPS_SHOWN]].tolist():
        span = slice(starts[key], starts[key] + sizes[key])
        _, first_of_value = np.unique(values[span], return_index=True)  # rows rise within a value
        shown = np.sort(rows[span][first_of_value])[:_ROWS_SHOWN]
        groups.append(Group(int(different[key]), tuple(shown.tolist())))
    return tuple(groups)


# ---------------------------------------------------------------------------------------------------------- near copies


def near_copies(perceptual: np.ndarray, rows: np.ndarray) -> NearCopies:
    """Find images that look alike.

    Args:
        perceptual: uint64 (n,), a perceptual hash for each different image.
        rows: int64 (n,), a row in which it occurs.
    """
    order = np.lexsort((rows, perceptual))
    values, starts, sizes = np.unique(perceptual[order], return_index=True, return_counts=True)
    rows = rows[order]
    twin, found, complete = near_values(values)
    equal = starts[sizes > 1]
    pairs = [(0, int(rows[start]), int(rows[start + 1])) for start in equal.tolist()]
    pairs += [(bits, int(rows[starts[one]]), int(rows[starts[other]])) for bits, one, other in found]
    return NearCopies(rows.size, int(sizes[twin | (sizes > 1)].sum()), _shown_once(pairs), complete)


def near_values(values: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]], bool]:
    """Find pairs of hashes that differ in at most `NEAR_BITS` bits without comparing all with all.

    Args:
        values: uint64 (n,), all different.

    Returns:
        bool (n,), which have a near one; (bits, place, place) of the nearest pairs, at most `_KEPT`; and whether no
        near pair can have been missed.
    """
    twin, complete = np.zeros(values.size, bool), True
    kept = np.empty((0, 3), np.int64)
    for mask in _masks():
        keys = values & mask
        order = np.argsort(keys)
        keys = keys[order]
        behind = np.arange(values.size)
        for step in range(1, _WINDOW + 1):
            behind = behind[behind < values.size - step]
            behind = behind[keys[behind] == keys[behind + step]]
            if not behind.size:
                break
            one, other = order[behind], order[behind + step]
            bits = _differing_bits(values[one], values[other])
            close = bits <= NEAR_BITS
            twin[one[close]] = twin[other[close]] = True
            pairs = np.stack([bits, np.minimum(one, other), np.maximum(one, other)], axis=1)[close]
            kept = np.unique(np.concatenate([kept, pairs]), axis=0)[:_KEPT] if pairs.size else kept
        else:
            complete = False
    return twin, [(bits, one, other) for bits, one, other in kept.tolist()], complete


def _masks() -> list[np.uint64]:
    """The bits of each choice of 3 of the 7 parts."""
    ends = np.cumsum(_PARTS).tolist()
    parts = [((1 << size) - 1) << (end - size) for size, end in zip(_PARTS, ends, strict=True)]
    return [np.uint64(sum(chosen)) for chosen in combinations(parts, len(parts) - NEAR_BITS)]


def _differing_bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """int64 (n,) of two uint64 (n,)."""
    return _BIT_COUNTS[(one ^ other).view(np.uint8).reshape(-1, 8)].sum(axis=1, dtype=np.int64)


def _shown_once(pairs: list[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """The nearest pairs to be shown, none of which shares an image with one before it."""
    shown: list[tuple[int, int, int]] = []
    seen: set[int] = set()
    for bits, one, other in sorted(pairs):
        if len(shown) < _NEAR_SHOWN and not {one, other} & seen:
            shown.append((bits, min(one, other), max(one, other)))
            seen |= {one, other}
    return tuple(shown)
