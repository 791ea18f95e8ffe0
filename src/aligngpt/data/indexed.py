"""Random access to the records of a source, for training: a small index in memory, the records on disk."""

from __future__ import annotations

import logging
import os
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic

import numpy as np

from aligngpt.data.duplicate_ids import hash_id
from aligngpt.data.json_format import JsonReader
from aligngpt.data.records import Columns, Row, SourceShard, T, read_conversation, read_pair, row_names, short_names
from aligngpt.data.schema import BadRecord, Conversation, ImageTextPair, RecordError, StrictDataError, images_of
from aligngpt.data.sources import Source
from aligngpt.data.table_format import ArrowReader, ParquetReader
from aligngpt.data.webdataset_format import TarReader, decompress
from aligngpt.utils.progress import progress, status

_FIELDS = {"shard": "<u4", "index": "<i8", "start": "<i8", "size": "<i8", "id": "<u8", "level": "u1", "length": "<i4"}
_ENTRY = np.dtype(list(_FIELDS.items()))
_PACK = struct.Struct("<IqqqQBi").pack
_MAX_OPEN_FILES = 64
_CACHE_BYTES = 1 << 28
_MAX_LISTED = 5  # bad records that an error lists

_Reader = JsonReader | ParquetReader | ArrowReader | TarReader

logger = logging.getLogger(__name__)


def open_pairs(source: Source) -> IndexedSource[ImageTextPair]:
    """Index image-text pairs; a record with the id of an earlier one is bad. Errors: `IndexedSource`."""
    return IndexedSource(source, read_pair, unique_ids=True)


def open_conversations(source: Source) -> IndexedSource[Conversation]:
    """Index conversations, whose ids may repeat. Errors: `IndexedSource`."""
    return IndexedSource(source, read_conversation, unique_ids=False)


class IndexedSource(Generic[T]):
    """The valid records of a source as a sequence; a record is read from disk when it is accessed.

    Indexing reads and validates all text once, and no images. The index takes 41 bytes per record. An instance can be
    pickled to worker processes; each process opens the files itself.

    Args:
        source: The input.
        read: Validates a row.
        unique_ids: Whether a record with the id of an earlier one is bad.

    Attributes:
        bad: The records that are not in the sequence.

    Raises:
        ValueError: A file is not in its format, or image paths come without a folder.
    """

    def __init__(self, source: Source, read: Callable[[Row, Columns, str | None], T], *, unique_ids: bool) -> None:
        self.source = source
        self.bad: list[BadRecord] = []
        self._read: Callable[[Row, Columns, str | None], T] = read
        self._names = short_names(source.files)
        self._readers: OrderedDict[int, _Reader] = OrderedDict()
        self._process = os.getpid()
        with status(f"reading {source.path}"):
            self._locations, self._scratch = _with_random_access(source)
            shards = source.shards()
        self._shards = [(shard.file, shard.columns, shard.images) for shard in shards]
        entries = bytearray()
        sizes = [shard.size for shard in shards if shard.size is not None]
        with progress(f"indexing {source.path}", sum(sizes) if len(sizes) == len(shards) else None) as advance:
            for shard in shards:
                before = len(entries)
                for row, record in self._valid(shard, unique_ids):
                    facts = (hash_id(record.id), record.alignment_level or 0, _length(record))
                    entries += _PACK(shard.number, row.position, row.start, row.size, *facts)
                advance(shard.size or (len(entries) - before) // _ENTRY.itemsize)
        self._entries = np.frombuffer(entries, _ENTRY)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> T:
        """Read a record.

        Raises:
            RecordError: It cannot be read, or the file has changed.
        """
        entry = self._entries[index]
        file, columns, images = self._shards[entry["shard"]]
        row = self._reader(file).read(int(entry["start"]), int(entry["size"]))
        return self._read(row._replace(position=int(entry["index"])), columns, images)

    @property
    def ids(self) -> np.ndarray:
        """uint64 (records,), the hash of each id, see `hash_id`."""
        return self._entries["id"]

    @property
    def levels(self) -> np.ndarray:
        """uint8 (records,), the level that each record has, 0 if it has none."""
        return self._entries["level"]

    @property
    def lengths(self) -> np.ndarray:
        """int32 (records,), words of each caption or of all turns, at least 1; negative for a record without images."""
        return self._entries["length"]

    def describe(self, index: int, reason: str, record: T | None = None) -> BadRecord:
        """Describe a record of the sequence that cannot be used.

        Args:
            index: Its index in the sequence.
            reason: What is wrong, in one line.
            record: The record, if it could be read.
        """
        entry = self._entries[index]
        source = self._names[self._shards[entry["shard"]][0]]
        images = [] if record is None else [image for image, _ in images_of(record)]
        record_id = None if record is None else record.id
        return BadRecord(source, int(entry["index"]), record_id, ", ".join(images) or None, reason)

    def check(self, strict: bool = False) -> None:
        """Check that there are records; log the bad ones, or raise with `strict`.

        Raises:
            ValueError: No record is valid, which is more often the wrong input than bad data.
            StrictDataError: A record is bad and `strict` is set.
        """
        more = len(self.bad) - _MAX_LISTED
        listed = "; ".join(map(str, self.bad[:_MAX_LISTED])) + (f"; and {more} more" if more > 0 else "")
        summary = f"{len(self.bad)} of {len(self) + len(self.bad)} records are bad: {listed}"
        if strict and self.bad:
            raise StrictDataError(summary)
        if not len(self):
            raise ValueError(f"{self.source.path}: {summary if self.bad else 'there are no records'}")
        if self.bad:
            logger.warning("skipped: %s", summary)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open files, and the folder of decompressed tars, which its creator deletes."""
        return self.__dict__ | {"_readers": OrderedDict(), "_scratch": None}

    def _valid(self, shard: SourceShard, unique_ids: bool) -> Iterator[tuple[Row, T]]:
        """Yield the valid rows of a shard with their records, and collect the bad ones."""
        for row, record, error in shard.read_records(self._read, "text", unique_ids):
            if record is None or error is not None:
                names = row_names(row, shard.columns)
                self.bad.append(BadRecord(self._names[shard.file], row.position, *names, str(error), row.line))
                continue
            paths = [image for image, encoded in images_of(record) if encoded is None]
            if paths and self.source.images is None:
                raise ValueError(f"{self.source.path} has image paths such as {paths[0]}; pass --images, their folder")
            yield row, record

    def _reader(self, file: int) -> _Reader:
        if self._process != os.getpid():  # after a fork, which would share the positions of open files
            self._readers, self._process = OrderedDict(), os.getpid()
        if file not in self._readers:
            self._readers[file] = self._open(file)
            if len(self._readers) > _MAX_OPEN_FILES:
                self._readers.popitem(last=False)
        self._readers.move_to_end(file)
        return self._readers[file]

    def _open(self, file: int) -> _Reader:
        location, table = self._locations[file], (self._names[file], self.source.columns)
        try:
            if self.source.kind == "parquet":
                cache_bytes = _CACHE_BYTES // min(len(self._locations), _MAX_OPEN_FILES)
                return ParquetReader(location, *table, cache_bytes=cache_bytes)
            if self.source.kind in ("datasets", "webdataset"):
                return (ArrowReader if self.source.kind == "datasets" else TarReader)(location, *table)
            return JsonReader(location)
        except FileNotFoundError:
            raise RecordError(f"{location} was removed") from None


def _with_random_access(source: Source) -> tuple[list[str], tempfile.TemporaryDirectory[str] | None]:
    """Return where to read each file, and a folder with compressed tars decompressed, which have no random access."""
    locations = list(source.files)
    if source.kind != "webdataset":
        return locations, None
    scratch = tempfile.TemporaryDirectory(prefix="aligngpt-tars-")
    for number, location in enumerate(locations):
        target = Path(scratch.name) / f"{number}.tar"
        with suppress(FileNotFoundError):  # its shard reports it
            if decompress(location, target):
                locations[number] = str(target)
    return locations, scratch


def _length(record: ImageTextPair | Conversation) -> int:
    if isinstance(record, ImageTextPair):
        return max(1, len(record.caption.split()))
    words = max(1, sum(len(turn.text.split()) for turn in record.turns))
    return words if record.images else -words
