"""Rows of Parquet files and of `datasets` folders; the images are in the rows, or the rows have their paths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.data.duplicate_ids import DuplicateIds
from aligngpt.data.records import (
    SHARD_SIZE,
    Columns,
    Fields,
    Row,
    SourceShard,
    add_row_id,
    is_transient_error,
    open_binary,
    short_names,
)
from aligngpt.data.schema import RecordError
from aligngpt.utils.text import one_line

_ROWS_PER_BATCH = 64
_IDS_PER_BATCH = 1 << 16
_FOOTER_END = 8
_ERRORS = (OSError, ValueError, EOFError, pa.ArrowException)


class _TableReader:
    """One open file of an input.

    Args:
        name: Its short name.
        columns: Which columns to read.
        schema: All its columns.
        offset: Rows of the input in the files before it.

    Raises:
        ValueError: It lacks the columns.
    """

    def __init__(self, name: str, columns: Columns, schema: pa.Schema, offset: int) -> None:
        self.columns = columns.among(schema.names)
        self._name, self._schema, self._offset = name, schema, offset
        levels = ("alignment_level", "similarity") if self.columns.caption == "conversations" else ("alignment_level",)
        needed = (self.columns.image, self.columns.caption, self.columns.id, *levels)
        self._needed = [column for column in schema.names if column in needed]

    def _add_ids(self, ids: DuplicateIds, batches: Iterable[pa.RecordBatch], row: int) -> None:
        """Add the ids of batches that begin at a row, up to damage, which the shard reports."""
        try:
            for batch in batches:
                for index, value in enumerate(batch[self.columns.id].to_pylist(), self._offset + row):
                    add_row_id(ids, value, index)
                row += batch.num_rows
        except _ERRORS as error:
            if is_transient_error(error):
                raise

    def _rows(self, batch: Any, row: int, fields: Fields) -> Iterator[Row]:
        """Make rows of a batch that begins at a row of the file."""
        image = str(self.columns.image)
        kind = self._schema.field(image).type
        for number, value in enumerate(batch.to_pylist(), row):
            if fields == "text":
                value[image] = _without_content(value[image], kind) if image in value else b""
            yield Row(self._offset + number, value, f"{self._name}#{number}", start=number)


def _without_content(value: Any, kind: pa.DataType) -> Any:
    """Return the value of an image column with b"" for content, read or not."""
    if isinstance(value, list):
        return [_without_content(item, kind.value_type) for item in value]
    has_content = isinstance(value, bytes) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
    return b"" if has_content and value is not None else value


class ParquetReader(_TableReader):
    """A Parquet file.

    A row is read with its row group. Recent row groups stay in memory, so small row groups, or rows without images,
    are fast.

    Args:
        location: The file.
        name: Its short name.
        columns: Which columns to read.
        offset: Rows of the input in the files before it.
        cache_bytes: Memory for recent row groups; one is always kept.
    """

    def __init__(self, location: str, name: str, columns: Columns, offset: int = 0, cache_bytes: int = 0) -> None:
        file = open_binary(location).open()
        try:
            self._parquet = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            if is_transient_error(error):
                raise
            raise pa.ArrowInvalid(f"not a readable Parquet file: {one_line(error)}") from None
        super().__init__(name, columns, self._parquet.schema_arrow, offset)
        metadata = self._parquet.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self.num_rows: int = metadata.num_rows
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._cache_bytes = cache_bytes

    def bounds(self) -> list[int]:
        """Return the first row of each shard, and the end: row groups that reach 10,000 rows together."""
        bounds, start = [0], 0
        for end in self._starts.tolist():
            if end - start >= SHARD_SIZE or end == self.num_rows > start:
                bounds.append(end)
                start = end
        return bounds

    def add_ids(self, ids: DuplicateIds) -> None:
        """Add the ids of the rows; damage affects only its row group."""
        for group, row in enumerate(self._starts[:-1].tolist()):
            columns = [self.columns.id]
            self._add_ids(ids, self._parquet.iter_batches(_IDS_PER_BATCH, row_groups=[group], columns=columns), row)

    def iter_rows(self, start: int, stop: int, fields: Fields) -> Iterator[Row]:
        """Read the rows of a shard."""
        groups = list(range(*np.searchsorted(self._starts, (start, stop))))
        columns = {"all": None, "needed": self._needed, "text": self._text_columns()}[fields]
        for batch in self._parquet.iter_batches(_ROWS_PER_BATCH, row_groups=groups, columns=columns):
            yield from self._rows(batch, start, fields)
            start += batch.num_rows

    def _text_columns(self) -> list[str]:
        """Return the parts of the needed columns without the content of images, but with their number."""
        image, schema = self.columns.image, self._parquet.schema
        leaves = [leaf for leaf in map(schema.column, range(len(schema))) if leaf.path.split(".")[0] == image]
        text = [leaf.path for leaf in leaves if leaf.logical_type.type == "STRING"]
        if not text and any(leaf.max_repetition_level for leaf in leaves):
            text = [str(image)]
        return [*(name for name in self._needed if name != image), *text]

    def read(self, start: int, size: int) -> Row:
        """Read the row at `Row.start`, of `Row.size`. Raises RecordError if it cannot be read."""
        group = int(np.searchsorted(self._starts, start, side="right")) - 1
        rows = self._group(group).slice(start - int(self._starts[group]), size)
        return next(self._rows(rows, start, "needed"))

    def _group(self, group: int) -> pa.Table:
        if group not in self._cache:
            try:
                self._cache[group] = self._parquet.read_row_group(group, self._needed, use_threads=False)
            except _ERRORS as error:
                if is_transient_error(error):
                    raise
                raise RecordError(f"row group {group} is damaged: {one_line(error)}") from None
            while len(self._cache) > 1 and sum(table.nbytes for table in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group]


class ArrowReader(_TableReader):
    """An Arrow stream, mapped into memory; its rows before any damage can be read."""

    def __init__(self, location: str, name: str, columns: Columns, offset: int = 0) -> None:
        stream = pa.ipc.open_stream(pa.memory_map(location))
        super().__init__(name, columns, stream.schema, offset)
        batches: list[pa.RecordBatch] = []
        self._damage: Exception | None = None
        try:
            for batch in stream:
                batches.append(batch)
        except _ERRORS as error:
            if is_transient_error(error):
                raise
            self._damage = error
        self._all = pa.Table.from_batches(batches, stream.schema)
        self._selected = self._all.select(self._needed)
        self.num_rows: int = self._all.num_rows

    def bounds(self) -> list[int]:
        """Return the first row of each shard, and the end, twice if the file is damaged there."""
        return [*range(0, self.num_rows, SHARD_SIZE), *[self.num_rows] * (1 if self._damage is None else 2)]

    def add_ids(self, ids: DuplicateIds) -> None:
        """Add the ids of the rows."""
        self._add_ids(ids, self._selected.to_batches(), 0)

    def iter_rows(self, start: int, stop: int, fields: Fields) -> Iterator[Row]:
        """Read the rows of a shard; an empty one has the damage."""
        if start == stop and self._damage is not None:
            raise self._damage
        rows = (self._all if fields == "all" else self._selected).slice(start, stop - start)
        for batch in rows.to_batches(_ROWS_PER_BATCH):
            yield from self._rows(self._without_images(batch) if fields == "text" else batch, start, fields)
            start += batch.num_rows

    def _without_images(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Reduce the image column to what is not the content of images."""
        image = self.columns.image
        kind = batch.column(image).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return batch.drop_columns([image])
        return batch.set_column(batch.schema.get_field_index(image), image, _paths(batch.column(image)))

    def read(self, start: int, size: int) -> Row:
        """Read the row at `Row.start`, of `Row.size`. Raises RecordError if it cannot be read."""
        if start >= self.num_rows:
            raise RecordError("row is missing: the file has changed")
        return next(self._rows(self._selected.slice(start, size), start, "needed"))


def _paths(column: Any) -> Any:
    """Reduce structs of images to their paths; other columns stay as they are."""
    if pa.types.is_list(column.type):
        return pa.ListArray.from_arrays(column.offsets, _paths(column.values))
    if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return column
    return pa.StructArray.from_arrays([column.field("path")], ["path"], mask=column.is_null())


_Reader = type[ParquetReader] | type[ArrowReader]


def table_shards(
    files: tuple[str, ...], columns: Columns, ids: DuplicateIds, *, open_table: _Reader
) -> list[SourceShard]:
    """Divide the files of an input into shards of about 10,000 rows, and add the ids.

    A file that is missing, not in its format, or without the columns is a shard of one bad record.

    Raises:
        ValueError: No file is in its format and has the columns.
    """
    shards: list[SourceShard] = []
    errors: list[str] = []
    readable, offset = False, 0
    for file, (location, name) in enumerate(zip(files, short_names(files), strict=True)):
        try:
            reader = open_table(location, name, columns, offset)
            if reader.columns.id is not None:
                reader.add_ids(ids)
        except _ERRORS as error:
            if is_transient_error(error):
                raise
            reason = "no such file" if isinstance(error, FileNotFoundError) else one_line(error)
            errors += [] if isinstance(error, FileNotFoundError) else [f"{location}: {reason}"]
            shards.append(SourceShard(name, partial(_unreadable, name, reason), columns, file, offset, 1))
            continue
        readable = True
        for start, stop in pairwise(reader.bounds()):
            rows = partial(_read, open_table, (location, name, columns, offset), start, stop)
            size = stop - start or None  # a damaged part has an unknown number of rows
            label = f"{name}[{start}:{stop if size else ''}]"
            shards.append(SourceShard(label, rows, reader.columns, file, offset + start, size))
        offset += reader.num_rows
    if errors and not readable:
        raise ValueError(errors[0])
    return shards


def _read(open_table: _Reader, table: Any, start: int, stop: int, fields: Fields) -> Iterator[Row]:
    yield from open_table(*table).iter_rows(start, stop, fields)


def _unreadable(name: str, reason: str, fields: Fields) -> Iterator[Row]:
    yield Row(0, {"id": f"{name}#0"}, name, error=f"shard cannot be read: {reason}")


def footer(location: str) -> bytes:
    """Return the footer of a Parquet file, which has sizes and statistics of every column; b"" if it has none."""
    try:
        with open_binary(location) as file:
            file.seek(-_FOOTER_END, 2)
            size = int.from_bytes(file.read(4), "little")
            file.seek(-_FOOTER_END - size, 2)
            return file.read(size)
    except (OSError, ValueError):  # missing, or shorter than a footer: not Parquet, which reading reports
        return b""


def table_schema(location: str) -> pa.Schema:
    """Return the columns of a Parquet file or an Arrow stream, with their types and metadata.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It is neither.
    """
    if location.lower().endswith(".parquet"):
        with open_binary(location) as file:
            return pq.read_schema(file)
    return pa.ipc.open_stream(pa.memory_map(location)).schema
