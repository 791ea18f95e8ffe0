"""Duplicate ids, detected in bounded memory."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO

import numpy as np

_IDS_IN_MEMORY = 1 << 20
_PARTITIONS = 64


def hash_id(record_id: str) -> int:
    """Return the 64-bit BLAKE2 hash that represents an id in an index.

    Two of n ids share a hash with a probability of about n^2 / 4e19: 3% for one such pair among a billion ids.
    """
    return int.from_bytes(hashlib.blake2b(record_id.encode(), digest_size=8).digest(), "little")


class DuplicateIds:
    """Detector of ids that occur more than once.

    It keeps a hash and an index per id (16 bytes). Beyond a million ids they go to temporary files, one for each of 64
    partitions of the hashes: a billion ids need 16 GB of disk and 1 GB of memory.
    """

    def __init__(self) -> None:
        self._rows = array("Q")  # a hash and an index in turn
        self._files: list[IO[bytes]] = []
        self._open = ExitStack()

    def add(self, record_id: str, index: int) -> None:
        """Add the id of the record at `index`; indices must be ascending."""
        self._rows.extend((hash_id(record_id), index))
        if len(self._rows) >= 2 * _IDS_IN_MEMORY:
            self._spill()

    def find(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of duplicates, ascending, and for each the index of the first record with its id.

        Returns:
            Two int64 arrays (number of duplicates,).
        """
        with self._open:
            if self._files:
                self._spill()
            parts = [self._find_in(rows) for rows in self._partitions()]
        later, first = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.argsort(later)
        return later[order], first[order]

    def _spill(self) -> None:
        if not self._files:
            files = (tempfile.TemporaryFile() for _ in range(_PARTITIONS))  # noqa: SIM115  closed together in `find`
            self._files = [self._open.enter_context(file) for file in files]
        rows = np.array(self._rows).reshape(-1, 2)
        partition = rows[:, 0] % _PARTITIONS
        for number, file in enumerate(self._files):
            file.write(rows[partition == number].tobytes())
        self._rows = array("Q")

    def _partitions(self) -> Iterator[np.ndarray]:
        if not self._files:
            yield np.array(self._rows).reshape(-1, 2)
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), np.uint64).reshape(-1, 2)

    @staticmethod
    def _find_in(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        indices = rows[:, 1].astype(np.int64)
        _, first, inverse = np.unique(rows[:, 0], return_index=True, return_inverse=True)
        firsts = indices[first[inverse]]
        return indices[indices != firsts], firsts[indices != firsts]
