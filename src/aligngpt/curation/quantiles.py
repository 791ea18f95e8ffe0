"""Exact order statistics of float32 scores that need not fit into memory, by counting instead of sorting.

A float32 is mapped to a uint32 key of the same order. One pass over the scores counts the upper 16 bits of the keys,
which locates the bucket, one of 65,536, of each requested rank. A second pass counts the lower 16 bits within those
buckets only, which gives the value itself. Nothing is estimated: the value is the one that sorting would give.

Memory, for any number of scores: 512 KiB for the first pass, 512 KiB for each bucket with a requested rank (at most one
for each rank, so 36 MiB for 64 levels and the quantiles of a report), and one batch of scores.

A quantile p of n scores is, everywhere in this project, the lowest score that at least a fraction p of the scores does
not exceed (`inverted_cdf` of numpy): the one at rank ceil(p n) - 1, counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

# Returns the scores from the first on, batch by batch, as float32 (n,), each time it is called.
ScoreStream = Callable[[], Iterable[np.ndarray]]

PERCENTS = (1, 5, 25, 50, 75, 95, 99)

_BUCKETS = 1 << 16
_LOW_BITS = np.uint32(_BUCKETS - 1)
_SIGN = np.uint32(1 << 31)


def quantile_rank(part: float, whole: float, count: int) -> int:
    """Return the rank of the quantile part / whole of `count` scores, counted from 0; see the top of this module."""
    return max(math.ceil(part * count / whole) - 1, 0)


def order_keys(scores: np.ndarray) -> np.ndarray:
    """Return keys in the same order as the scores, equal where scores are equal.

    Args:
        scores: float32 (n,), none of them NaN.

    Returns:
        uint32 (n,).
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # the sum turns -0 into 0
    # Positive floats have the order of their bits, negative ones the reverse: set the sign bit, or flip all bits.
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def scores_of_keys(keys: np.ndarray) -> np.ndarray:
    """Return the float32 (n,) of keys of `order_keys`, uint32 (n,)."""
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float32)


class ScoreRanking:
    """The finite scores of a stream by rank, as if they were sorted.

    Args:
        stream: Read once to count the scores by bucket, and once in each call of `at`.

    Attributes:
        rows: Scores in the stream, finite or not.
        count: Finite scores, n; their ranks are 0 to n - 1.
    """

    def __init__(self, stream: ScoreStream) -> None:
        self._stream = stream
        self._counts = np.zeros(_BUCKETS, np.int64)
        self.rows = 0
        for scores in stream():
            self.rows += scores.size
            self._counts += np.bincount(_finite_keys(scores) >> np.uint32(16), minlength=_BUCKETS)
        self.count = int(self._counts.sum())

    def at(self, ranks: Sequence[int]) -> np.ndarray:
        """Return the scores at ranks of the sorted order, in one pass for all of them.

        Args:
            ranks: k ranks, 0 to n - 1, in any order.

        Returns:
            float32 (k,).

        Raises:
            ValueError: A rank is not within 0 to n - 1.
        """
        requested = np.asarray(ranks, np.int64)
        if requested.size and not (requested.min() >= 0 and requested.max() < self.count):
            raise ValueError(f"ranks must be within 0 to {self.count - 1}, got {requested.min()} to {requested.max()}")
        cumulative = np.cumsum(self._counts)
        buckets = np.searchsorted(cumulative, requested, side="right")
        used = np.unique(buckets)
        low_counts = self._low_counts(used)
        keys = np.empty(requested.size, np.uint32)
        for index, (rank, bucket) in enumerate(zip(requested, buckets, strict=True)):
            within = rank - (cumulative[bucket] - self._counts[bucket])
            low = np.searchsorted(np.cumsum(low_counts[np.searchsorted(used, bucket)]), within, side="right")
            keys[index] = (int(bucket) << 16) | int(low)
        return scores_of_keys(keys)

    def percentiles(self) -> dict[str, float]:
        """Return the scores at `PERCENTS`, by names such as `p50`."""
        ranks = [quantile_rank(percent, 100, self.count) for percent in PERCENTS]
        return dict(zip((f"p{percent}" for percent in PERCENTS), self.at(ranks).tolist(), strict=True))

    def _low_counts(self, buckets: np.ndarray) -> np.ndarray:
        """Return how often each lower half occurs in each of these buckets, int64 (buckets, 65536)."""
        counts = np.zeros((buckets.size, _BUCKETS), np.int64)
        slot = np.full(_BUCKETS, -1, np.int32)
        slot[buckets] = np.arange(buckets.size)
        for scores in self._stream():
            keys = _finite_keys(scores)
            slots = slot[keys >> np.uint32(16)]
            used = slots >= 0
            np.add.at(counts, (slots[used], keys[used] & _LOW_BITS), 1)
        return counts


def _finite_keys(scores: np.ndarray) -> np.ndarray:
    return order_keys(scores[np.isfinite(scores)])
