"""Rows of Parquet files and of `datasets` folders; the images are in the rows, or the rows have their paths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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


@dataclass(frozen=True)
class _Table:
    """One file of an input.

    Attributes:
        location: Where it is.
        name: Its short name.
        columns: Its columns of images, captions and ids.
        schema: All its columns.
        offset: Rows of the input in the files before it.
    """

    location: str
    name: str
    columns: Columns
    schema: pa.Schema
    offset: int

    @classmethod
    def of(cls, location: str, name: str, columns: Columns, schema: pa.Schema, offset: int) -> _Table:
        """Choose among the columns of the schema. Raises ValueError if they are missing."""
        return cls(location, name, columns.among(schema.names), schema, offset)

    @property
    def needed(self) -> list[str]:
        """The columns that a record is made of."""
        levels = ("alignment_level", "similarity") if self.columns.caption == "conversations" else ("alignment_level",)
        chosen = (self.columns.image, self.columns.caption, self.columns.id, *levels)
        return [name for name in self.schema.names if name in chosen]

    def add_ids(self, ids: DuplicateIds, batch: pa.RecordBatch, row: int) -> None:
        """Add the ids of a batch that begins at a row of the file."""
        if self.columns.id is not None:
            for index, value in enumerate(batch[self.columns.id].to_pylist(), self.offset + row):
                add_row_id(ids, value, index)

    def rows(self, batch: Any, row: int, fields: Fields) -> Iterator[Row]:
        """Make rows of a batch of columns that begins at a row of the file."""
        image = str(self.columns.image)
        kind = self.schema.field(image).type
        for number, value in enumerate(batch.to_pylist(), row):
            if fields == "text":
                value[image] = _without_content(value[image], kind) if image in value else b""
            yield Row(self.offset + number, value, f"{self.name}#{number}", start=number)


def _without_content(value: Any, kind: pa.DataType) -> Any:
    """Return the value of an image column with b"" for content, read or not."""
    if isinstance(value, list):
        return [_without_content(item, kind.value_type) for item in value]
    has_content = isinstance(value, bytes) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
    return b"" if has_content and value is not None else value


@dataclass(frozen=True)
class _Part:
    """Rows of a table that become a shard."""

    table: _Table
    start: int
    rows: int | None
    read: Callable[[Fields], Iterator[Row]]


_Divide = Callable[[str, str, Columns, DuplicateIds, int], tuple[list[_Part], int]]


def parquet_shards(files: tuple[str, ...], columns: Columns) -> list[SourceShard]:
    """Divide Parquet files into shards: as many row groups of one file as reach 10,000 rows.

    A file that is missing, not Parquet, or without the columns is a shard of one bad record.

    Raises:
        ValueError: No file is a Parquet file with the columns.
    """
    return _shards(files, columns, _divide_parquet)


def arrow_shards(files: tuple[str, ...], columns: Columns) -> list[SourceShard]:
    """Divide the files of a `datasets` folder into shards of 10,000 rows.

    A file that is missing, not an Arrow stream, or without the columns is a shard of one bad record.

    Raises:
        ValueError: No file is an Arrow stream with the columns.
    """
    return _shards(files, columns, _divide_arrow)


def _shards(files: tuple[str, ...], columns: Columns, divide: _Divide) -> list[SourceShard]:
    shards: list[SourceShard] = []
    ids, starts, total = DuplicateIds(), [], 0
    errors: list[str] = []
    readable = False
    for file, (location, name) in enumerate(zip(files, short_names(files), strict=True)):
        starts.append(total)
        try:
            parts, rows = divide(location, name, columns, ids, total)
        except FileNotFoundError:
            shards.append(SourceShard(len(shards), name, partial(_missing, location)))
            continue
        except _ERRORS as error:
            if is_transient_error(error):
                raise
            errors.append(f"{location}: {one_line(error)}")
            shards.append(SourceShard(len(shards), name, partial(_unreadable, name, one_line(error)), 1))
            continue
        readable = True
        starts[-1:] = [total + part.start for part in parts]
        for part in parts:
            end = "" if part.rows is None else part.start + part.rows
            label = f"{name}[{part.start}:{end}]"
            shards.append(SourceShard(len(shards), label, part.read, part.rows, file, columns=part.table.columns))
        total += rows
    if errors and not readable:
        raise ValueError(errors[0])
    return _with_duplicates(shards, starts, ids)


def _with_duplicates(shards: list[SourceShard], starts: list[int], ids: DuplicateIds) -> list[SourceShard]:
    indices, firsts = ids.find()
    bounds = [*np.searchsorted(indices, starts).tolist(), len(indices)]
    for shard, low, high in zip(shards, bounds[:-1], bounds[1:], strict=True):
        shard.duplicates.update(zip(indices[low:high].tolist(), firsts[low:high].tolist(), strict=True))
    return shards


def _missing(location: str, fields: Fields) -> Iterator[Row]:
    raise FileNotFoundError(location)


def _unreadable(name: str, reason: str, fields: Fields) -> Iterator[Row]:
    yield Row(0, {"id": f"{name}#0"}, name, error=f"shard cannot be read: {reason}")


def footer(location: str) -> bytes:
    """Return the footer of a Parquet file, which has sizes and statistics of every column; b"" of a missing file."""
    try:
        with open_binary(location) as file:
            file.seek(-_FOOTER_END, 2)
            size = int.from_bytes(file.read(4), "little")
            file.seek(-_FOOTER_END - size, 2)
            return file.read(size)
    except FileNotFoundError:
        return b""
    except (OSError, ValueError):  # shorter than a footer: not Parquet, which reading reports
        return b""


def table_schema(location: str) -> pa.Schema:
    """Return the columns of a Parquet file or an Arrow stream, with their types and metadata.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It is neither.
    """
    if location.lower().endswith(".parquet"):
        with open_binary(location) as file:
            return _open_parquet(file).schema_arrow
    with _open_stream(location) as stream:
        return stream.schema


# Parquet -------------------------------------------------------------------------------------------------------------


def _divide_parquet(
    location: str, name: str, columns: Columns, ids: DuplicateIds, offset: int
) -> tuple[list[_Part], int]:
    with open_binary(location) as file:
        parquet = _open_parquet(file)
        table = _Table.of(location, name, columns, parquet.schema_arrow, offset)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        row = 0
        for group, size in enumerate(sizes):
            if table.columns.id is not None:
                _add_group_ids(ids, table, parquet, group, row)
            row += size
    parts = []
    start = 0
    for first, end, rows in _group_ranges(sizes):
        parts.append(_Part(table, start, rows, partial(_read_parquet, table, start, first, end)))
        start += rows
    return parts, start


def _add_group_ids(ids: DuplicateIds, table: _Table, parquet: pq.ParquetFile, group: int, row: int) -> None:
    try:
        for batch in parquet.iter_batches(_IDS_PER_BATCH, row_groups=[group], columns=[table.columns.id]):
            table.add_ids(ids, batch, row)
            row += batch.num_rows
    except _ERRORS as error:
        if is_transient_error(error):
            raise
        # The group is damaged, which its shard reports; other row groups can be read.


def _open_parquet(file: Any) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        if is_transient_error(error):
            raise
        raise pa.ArrowInvalid(f"not a readable Parquet file: {one_line(error)}") from None


def _group_ranges(sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the first row group, the end of the row groups, and the rows of each shard."""
    first, rows = 0, 0
    for group, size in enumerate(sizes):
        rows += size
        if rows >= SHARD_SIZE or (group == len(sizes) - 1 and rows):
            yield first, group + 1, rows
            first, rows = group + 1, 0


def _read_parquet(table: _Table, row: int, first: int, end: int, fields: Fields) -> Iterator[Row]:
    with open_binary(table.location) as file:
        parquet, groups = _open_parquet(file), list(range(first, end))
        columns = {"all": None, "needed": table.needed, "text": _text_columns(table, parquet.schema)}[fields]
        for batch in parquet.iter_batches(_ROWS_PER_BATCH, row_groups=groups, columns=columns):
            yield from table.rows(batch, row, fields)
            row += batch.num_rows


def _text_columns(table: _Table, schema: pq.ParquetSchema) -> list[str]:
    """Return the parts of the needed columns without the content of images, but with what tells how many there are."""
    image = table.columns.image
    parts = [name for name in table.needed if name != image]
    leaves = [schema.column(number) for number in range(len(schema))]
    text = [leaf.path for leaf in leaves if leaf.path.split(".")[0] == image and leaf.logical_type.type == "STRING"]
    is_list = any(leaf.path.split(".")[0] == image and leaf.max_repetition_level for leaf in leaves)
    return [*parts, *(text or ([str(image)] if is_list else []))]


class ParquetReader:
    """Random access to the rows of a Parquet file.

    A row is read with its row group. Recent row groups stay in memory, so small row groups, or rows without images,
    are fast.

    Args:
        location: The file.
        name: Its short name.
        columns: Which columns to read.
        cache_bytes: Memory for recent row groups; one is always kept.
    """

    def __init__(self, location: str, name: str, columns: Columns, cache_bytes: int) -> None:
        self._parquet = _open_parquet(open_binary(location).open())
        self._table = _Table.of(location, name, columns, self._parquet.schema_arrow, 0)
        metadata = self._parquet.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._cache_bytes = cache_bytes

    def read(self, start: int, size: int) -> Row:
        """Read the row at `Row.start`, of `Row.size`. Raises RecordError if it cannot be read."""
        group = int(np.searchsorted(self._starts, start, side="right")) - 1
        rows = self._group(group).slice(start - int(self._starts[group]), size)
        return next(self._table.rows(rows, start, "needed"))

    def _group(self, group: int) -> pa.Table:
        if group not in self._cache:
            try:
                self._cache[group] = self._parquet.read_row_group(group, self._table.needed, use_threads=False)
            except _ERRORS as error:
                if is_transient_error(error):
                    raise
                raise RecordError(f"row group {group} is damaged: {one_line(error)}") from None
            while len(self._cache) > 1 and sum(table.nbytes for table in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group]


# Arrow ---------------------------------------------------------------------------------------------------------------


def _divide_arrow(
    location: str, name: str, columns: Columns, ids: DuplicateIds, offset: int
) -> tuple[list[_Part], int]:
    with _open_stream(location) as stream:
        table = _Table.of(location, name, columns, stream.schema, offset)
        rows, damaged = 0, False
        try:
            for batch in stream:
                table.add_ids(ids, batch, rows)
                rows += batch.num_rows
        except _ERRORS as error:
            if is_transient_error(error):
                raise
            damaged = True  # the last part reads it again and reports it
    parts = []
    for start in range(0, rows, SHARD_SIZE):
        stop = min(start + SHARD_SIZE, rows)
        parts.append(_Part(table, start, stop - start, partial(_read_arrow, table, start, stop)))
    if damaged:
        parts.append(_Part(table, rows, None, partial(_read_arrow, table, rows, None)))
    return parts, rows


@contextmanager
def _open_stream(location: str) -> Iterator[pa.RecordBatchStreamReader]:
    """Open an Arrow stream, mapped into memory, so that skipped batches are not read."""
    with pa.memory_map(location) as content, pa.ipc.open_stream(content) as stream:
        yield stream


def _read_arrow(table: _Table, start: int, stop: int | None, fields: Fields) -> Iterator[Row]:
    """Read rows `start` to `stop` of a file; batches before them are skipped without reading."""
    row = 0
    with _open_stream(table.location) as stream:
        for batch in stream:
            end = batch.num_rows if stop is None else min(stop - row, batch.num_rows)
            for low in range(max(start - row, 0), end, _ROWS_PER_BATCH):
                part = batch.slice(low, min(_ROWS_PER_BATCH, end - low))
                yield from table.rows(_select(part, table, fields), row + low, fields)
            row += batch.num_rows
            if stop is not None and row >= stop:
                return


def _select(batch: pa.RecordBatch, table: _Table, fields: Fields) -> pa.RecordBatch:
    """Select columns of a batch, and for `"text"` the parts that are not the content of images."""
    if fields == "all":
        return batch
    batch = batch.select(table.needed)
    image = batch.schema.get_field_index(table.columns.image)
    if fields == "needed":
        return batch
    kind = batch.column(image).type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return batch.drop_columns([table.columns.image])
    return batch.set_column(image, table.columns.image, _paths(batch.column(image)))


def _paths(column: Any) -> Any:
    """Reduce structs of images to their paths; other columns stay as they are."""
    if pa.types.is_list(column.type):
        return pa.ListArray.from_arrays(column.offsets, _paths(column.values))
    if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return column
    return pa.StructArray.from_arrays([column.field("path")], ["path"], mask=column.is_null())


class ArrowReader:
    """Random access to the rows of an Arrow stream, mapped into memory."""

    def __init__(self, location: str, name: str, columns: Columns) -> None:
        self._stream = pa.ipc.open_stream(pa.memory_map(location))
        self._table = _Table.of(location, name, columns, self._stream.schema, 0)
        batches = []
        try:
            for batch in self._stream:
                batches.append(batch)
        except _ERRORS as error:  # rows before the damage can be read
            if is_transient_error(error):
                raise
        self._rows = pa.Table.from_batches(batches, self._stream.schema).select(self._table.needed)

    def read(self, start: int, size: int) -> Row:
        """Read the row at `Row.start`, of `Row.size`. Raises RecordError if it cannot be read."""
        if start >= self._rows.num_rows:
            raise RecordError("row is missing: the file has changed")
        return next(self._table.rows(self._rows.slice(start, size), start, "needed"))
