"""Records of Parquet files and of `datasets` folders: the images stand in the rows, or the rows name their paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.data.records import (
    SHARD_SIZE,
    Columns,
    IdLog,
    SourceRecord,
    SourceShard,
    may_pass,
    note_id,
    open_binary,
    row_record,
    short_names,
)
from aligngpt.utils.text import one_line

_ROWS_AT_ONCE = 64
_IDS_AT_ONCE = 1 << 16
_FOOTER_END = 8
# What decides beside image, caption and id whether a record of LLaVA's form is good.
_LEVELS = ("alignment_level", "similarity")


@dataclass(frozen=True)
class _Table:
    """One file of an input.

    Attributes:
        place: Where it is.
        name: Its short name.
        columns: Its columns of images, captions and ids.
        needed: All columns that scoring reads.
        before: Rows of the input in front of it.
    """

    place: str
    name: str
    columns: Columns
    needed: list[str]
    before: int

    @classmethod
    def of(cls, place: str, name: str, columns: Columns, names: Sequence[str], before: int) -> _Table:
        """Choose among the columns `names`. Raises ValueError if they are not there."""
        chosen = columns.among(names)
        wanted = (chosen.image, chosen.caption, chosen.id, *(_LEVELS if chosen.caption == "conversations" else ()))
        return cls(place, name, chosen, [column for column in names if column in wanted], before)

    def note(self, ids: IdLog, batch: pa.RecordBatch, row: int) -> None:
        """Note the ids of some rows, the first of which is `row`."""
        if self.columns.id is not None:
            for offset, value in enumerate(batch[self.columns.id].to_pylist(), self.before + row):
                note_id(ids, value, offset)


@dataclass(frozen=True)
class _Part:
    """What becomes a shard: rows of a table from `start` on, and what reads them, given the columns to read."""

    table: _Table
    start: int
    rows: int | None
    read: Callable[[list[str] | None], Iterator[SourceRecord]]


_Divide = Callable[[str, str, Columns, IdLog, int], tuple[list[_Part], int]]


def parquet_shards(files: tuple[str, ...], columns: Columns) -> list[SourceShard]:
    """Divide Parquet files: as many row groups of one file as reach 10,000 rows. A larger row group is one shard.

    A file that is missing, no Parquet, or without the columns is a shard of one bad record.

    Raises:
        ValueError: If no file is a Parquet file with the columns.
    """
    return _shards(files, columns, _divide_parquet)


def arrow_shards(files: tuple[str, ...], columns: Columns) -> list[SourceShard]:
    """Divide a folder of `datasets`: 10,000 rows of one of its files.

    A file that is missing, no Arrow stream, or without the columns is a shard of one bad record.

    Raises:
        ValueError: If no file is an Arrow stream with the columns.
    """
    return _shards(files, columns, _divide_arrow)


def _shards(files: tuple[str, ...], columns: Columns, divide: _Divide) -> list[SourceShard]:
    shards: list[SourceShard] = []
    ids, begins, total = IdLog(), [], 0
    refused: list[str] = []
    readable = False
    for place, name in zip(files, short_names(files), strict=True):
        begins.append(total)
        try:
            parts, rows = divide(place, name, columns, ids, total)
        except FileNotFoundError:
            shards.append(SourceShard(len(shards), name, partial(_missing, place)))
            continue
        except (OSError, ValueError, EOFError, pa.ArrowException) as error:
            if may_pass(error):
                raise
            refused.append(f"{place}: {one_line(error)}")
            shards.append(SourceShard(len(shards), name, partial(_refused, name, one_line(error)), 1))
            continue
        readable = True
        begins[-1:] = [total + part.start for part in parts]
        for part in parts:
            end = "" if part.rows is None else part.start + part.rows
            narrow, whole = partial(part.read, part.table.needed), partial(part.read, None)
            shards.append(SourceShard(len(shards), f"{name}[{part.start}:{end}]", narrow, part.rows, whole=whole))
        total += rows
    if refused and not readable:
        raise ValueError(refused[0])
    return _with_duplicates(shards, begins, ids)


def footer(place: str) -> bytes:
    """The footer of a Parquet file, which holds the sizes and the statistics of every column; b"" of a missing file."""
    try:
        with open_binary(place) as file:
            file.seek(-_FOOTER_END, 2)
            size = int.from_bytes(file.read(4), "little")
            file.seek(-_FOOTER_END - size, 2)
            return file.read(size)
    except FileNotFoundError:
        return b""
    except (OSError, ValueError):  # shorter than a footer: no Parquet, which is said when it is read
        return b""


def table_schema(place: str) -> pa.Schema:
    """The columns of a Parquet file or of an Arrow stream, with their types and what is noted about them.

    Raises:
        OSError: If there is no such file, or it cannot be read.
        ValueError: If it is neither.
    """
    if place.lower().endswith(".parquet"):
        with open_binary(place) as file:
            return _opened(file).schema_arrow
    with _stream(place) as stream:
        return stream.schema


# Parquet -------------------------------------------------------------------------------------------------------------


def _divide_parquet(place: str, name: str, columns: Columns, ids: IdLog, before: int) -> tuple[list[_Part], int]:
    with open_binary(place) as file:
        parquet = _opened(file)
        table = _Table.of(place, name, columns, parquet.schema_arrow.names, before)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        row = 0
        for group, size in enumerate(sizes):
            if table.columns.id is not None:
                _note_group(ids, table, parquet, group, row)
            row += size
    parts = []
    start = 0
    for first, last, rows in _runs(sizes):
        parts.append(_Part(table, start, rows, partial(_read_parquet, table, start, first, last)))
        start += rows
    return parts, start


def _note_group(ids: IdLog, table: _Table, parquet: pq.ParquetFile, group: int, row: int) -> None:
    try:
        for batch in parquet.iter_batches(_IDS_AT_ONCE, row_groups=[group], columns=[table.columns.id]):
            table.note(ids, batch, row)
            row += batch.num_rows
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        if may_pass(error):
            raise
        # It is damaged there, which is said by the shard that meets it; the other row groups can be read.


def _opened(file: Any) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        if may_pass(error):
            raise
        raise pa.ArrowInvalid(f"not a readable Parquet file: {one_line(error)}") from None


def _runs(sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """First row group, the one behind the last, and rows of each shard."""
    first, rows = 0, 0
    for group, size in enumerate(sizes):
        rows += size
        if rows >= SHARD_SIZE or (group == len(sizes) - 1 and rows):
            yield first, group + 1, rows
            first, rows = group + 1, 0


def _read_parquet(
    table: _Table, start: int, first: int, last: int, columns: list[str] | None
) -> Iterator[SourceRecord]:
    with open_binary(table.place) as file:
        groups = list(range(first, last))
        batches = _opened(file).iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=columns)
        for row, values in enumerate((value for batch in batches for value in batch.to_pylist()), start):
            yield row_record(values, table.before + row, table.columns, f"{table.name}#{row}")


# Arrow ---------------------------------------------------------------------------------------------------------------


def _divide_arrow(place: str, name: str, columns: Columns, ids: IdLog, before: int) -> tuple[list[_Part], int]:
    with _stream(place) as stream:
        table = _Table.of(place, name, columns, stream.schema.names, before)
        rows, damaged = 0, False
        try:
            for batch in stream:
                table.note(ids, batch, rows)
                rows += batch.num_rows
        except (OSError, ValueError, EOFError, pa.ArrowException) as error:
            if may_pass(error):
                raise
            damaged = True  # the last part meets it again and says so
    parts = []
    for start in range(0, rows, SHARD_SIZE):
        stop = min(start + SHARD_SIZE, rows)
        parts.append(_Part(table, start, stop - start, partial(_read_arrow, table, start, stop)))
    if damaged:
        parts.append(_Part(table, rows, None, partial(_read_arrow, table, rows, None)))
    return parts, rows


@contextmanager
def _stream(place: str) -> Iterator[pa.RecordBatchStreamReader]:
    """An Arrow stream, mapped into memory, so that what is passed over is not read."""
    with pa.memory_map(place) as content, pa.ipc.open_stream(content) as stream:
        yield stream


def _read_arrow(table: _Table, start: int, stop: int | None, columns: list[str] | None) -> Iterator[SourceRecord]:
    """Rows `start` to `stop` of a file; batches before them are passed without being read, the file being mapped."""
    row = 0
    with _stream(table.place) as stream:
        for batch in stream:
            end = batch.num_rows if stop is None else min(stop - row, batch.num_rows)
            for low in range(max(start - row, 0), end, _ROWS_AT_ONCE):
                part = batch.slice(low, min(_ROWS_AT_ONCE, end - low))
                rows = (part if columns is None else part.select(columns)).to_pylist()
                for place, values in enumerate(rows, row + low):
                    yield row_record(values, table.before + place, table.columns, f"{table.name}#{place}")
            row += batch.num_rows
            if stop is not None and row >= stop:
                return


# Shards --------------------------------------------------------------------------------------------------------------


def _with_duplicates(shards: list[SourceShard], begins: list[int], ids: IdLog) -> list[SourceShard]:
    places, firsts = ids.duplicates()
    cuts = [*np.searchsorted(places, begins).tolist(), len(places)]
    for shard, low, high in zip(shards, cuts[:-1], cuts[1:], strict=True):
        shard.duplicates.update(zip(places[low:high].tolist(), firsts[low:high].tolist(), strict=True))
    return shards


def _missing(place: str) -> Iterator[SourceRecord]:
    raise FileNotFoundError(place)


def _refused(name: str, reason: str) -> Iterator[SourceRecord]:
    yield SourceRecord(0, f"{name}#0", name, None, error=f"shard cannot be read: {reason}")
