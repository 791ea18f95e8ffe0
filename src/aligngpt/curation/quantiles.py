"""Exact order statistics of float32 scores that need not fit into memory, by counting instead of sorting.

A float32 is mapped to a uint32 key that rises with it. One pass over the scores counts the high 16 bits of the keys;
that tells in which of 65,536 buckets each wanted place lies. A second pass counts the low 16 bits within those buckets
alone, which names the value itself. Nothing is estimated: the value is the one that sorting all scores would put there.

Memory, whatever the number of scores: 512 KiB for the first pass, 512 KiB for each bucket that holds a wanted place
(at most one for each place, so 36 MiB for 64 levels and the quantiles of a report), and one batch of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

# Gives the scores from their beginning, batch by batch, as float32 (n,), each time it is called.
ScoreStream = Callable[[], Iterable[np.ndarray]]

PERCENTS = (1, 5, 25, 50, 75, 95, 99)

_BUCKETS = 1 << 16
_LOW_BITS = np.uint32(_BUCKETS - 1)
_SIGN = np.uint32(1 << 31)


def order_keys(scores: np.ndarray) -> np.ndarray:
    """Keys that stand in the same order as the scores, and are equal where they are.

    Args:
        scores: float32 (n,), none of them NaN.

    Returns:
        uint32 (n,).
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # the sum turns -0 into 0, which it equals
    # Positive floats rise with their bits, negative ones fall: set the sign bit of the former, flip all of the latter.
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def scores_of_keys(keys: np.ndarray) -> np.ndarray:
    """The float32 (n,) that `order_keys` made these uint32 (n,) of."""
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float32)


class ScoreRanking:
    """The scores of a stream as if they were sorted; NaN and infinite ones are left out.

    Attributes:
        rows: Scores in the stream, finite or not.
        count: Finite scores, n; their places are 0 to n - 1.
    """

    def __init__(self, stream: ScoreStream) -> None:
        """Count the scores by bucket: the first pass."""
        self._stream = stream
        self._counts = np.zeros(_BUCKETS, np.int64)
        self.rows = 0
        for scores in stream():
            self.rows += scores.size
            self._counts += np.bincount(_finite_keys(scores) >> np.uint32(16), minlength=_BUCKETS)
        self.count = int(self._counts.sum())

    def at(self, places: Sequence[int]) -> np.ndarray:
        """The scores at places of the sorted order, in a pass for all of them.

        Args:
            places: k places, 0 to n - 1, in any order.

        Returns:
            float32 (k,).

        Raises:
            ValueError: If a place is not within 0 to n - 1.
        """
        wanted = np.asarray(places, np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self.count):
            raise ValueError(f"places must be within 0 to {self.count - 1}, got {wanted.min()} to {wanted.max()}")
        up_to = np.cumsum(self._counts)
        buckets = np.searchsorted(up_to, wanted, side="right")
        held = np.unique(buckets)
        low_counts = self._low_counts(held)
        keys = np.empty(wanted.size, np.uint32)
        for index, (place, bucket) in enumerate(zip(wanted, buckets, strict=True)):
            within = place - (up_to[bucket] - self._counts[bucket])
            low = np.searchsorted(np.cumsum(low_counts[np.searchsorted(held, bucket)]), within, side="right")
            keys[index] = (int(bucket) << 16) | int(low)
        return scores_of_keys(keys)

    def percentiles(self) -> dict[str, float]:
        """The scores at `PERCENTS` of the sorted order, by names such as `p50`: at place ceil(p n / 100), as levels."""
        places = [min(-(-percent * self.count // 100), self.count - 1) for percent in PERCENTS]
        return dict(zip((f"p{percent}" for percent in PERCENTS), self.at(places).tolist(), strict=True))

    def _low_counts(self, buckets: np.ndarray) -> np.ndarray:
        """How often each low half occurs in each of these buckets, int64 (buckets, 65536)."""
        counts = np.zeros((buckets.size, _BUCKETS), np.int64)
        slot = np.full(_BUCKETS, -1, np.int32)
        slot[buckets] = np.arange(buckets.size)
        for scores in self._stream():
            keys = _finite_keys(scores)
            slots = slot[keys >> np.uint32(16)]
            held = slots >= 0
            np.add.at(counts, (slots[held], keys[held] & _LOW_BITS), 1)
        return counts


def _finite_keys(scores: np.ndarray) -> np.ndarray:
    return order_keys(scores[np.isfinite(scores)])
