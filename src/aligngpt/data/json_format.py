"""Rows of a JSON array or of JSON Lines, a few megabytes of the file at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import IO, Any, NoReturn

from aligngpt.data.duplicate_ids import DuplicateIds
from aligngpt.data.records import SHARD_SIZE, Columns, Fields, Row, SourceShard, add_row_id, open_binary, short_names
from aligngpt.data.schema import RecordError

_BLOCK = 1 << 22
_MAX_RECORD = 1 << 28
_SPACE = " \t\n\r"
_AFTER_VALUE = tuple(_SPACE + ",]")
_DECODER = json.JSONDecoder()

# Reads the rows of a file, from a row of it or from its first.
_ReadRows = Callable[[str, Row | None], Iterator[Row]]


def json_shards(files: tuple[str, ...], columns: Columns, ids: DuplicateIds, *, read: _ReadRows) -> list[SourceShard]:
    """Divide a file into shards, reading it once, and add the ids; a line that is not JSON is a bad record.

    Raises:
        ValueError: The file is not a JSON array (the message names line and column), or no record has a column that
            was asked for.
    """
    (location,), (name,) = files, short_names(files)
    count = 0
    starts: list[Row] = []
    fields: set[str] = set()
    names: list[str] = []
    asked = {name for name in (columns.image, columns.caption, columns.id) if name is not None}
    for row in read(location, None):
        count = row.position + 1
        if row.position % SHARD_SIZE == 0:
            starts.append(row._replace(value=None))
        if isinstance(row.value, dict):
            names = names or list(row.value)
            fields |= asked.intersection(row.value) if len(fields) < len(asked) else set()
            add_row_id(ids, row.value.get(columns.id_in(row.value)), row.position)
    if names and fields != asked:
        columns.among(names)
    shards = []
    for first in starts:
        end = min(first.position + SHARD_SIZE, count)
        label, size = f"{name}[{first.position}:{end}]", end - first.position
        rows = partial(_read, read, location, first, size)
        shards.append(SourceShard(label, rows, columns, start=first.position, size=size))
    return shards


def _read(read: _ReadRows, location: str, first: Row, size: int, fields: Fields) -> Iterator[Row]:
    return islice(read(location, first), size)


class JsonReader:
    """Random access to the records of a JSON array or of JSON Lines."""

    def __init__(self, location: str) -> None:
        self._file = open_binary(location).open()

    def read(self, start: int, size: int) -> Row:
        """Read the row at `Row.start`, of `Row.size`. Raises RecordError if it cannot be read."""
        self._file.seek(start)
        return Row(0, _parse_line(self._file.read(size)), start=start, size=size)


def line_rows(location: str, first: Row | None = None) -> Iterator[Row]:
    """Read the lines that are not blank, from a row or from the first; a broken one has an error."""
    first = first or Row(0, None, line=1)
    with open_binary(location) as file:
        offset, position = first.start, first.position
        file.seek(offset)
        for line, content in enumerate(file, first.line or 1):
            if content.strip():
                value, error = None, None
                try:
                    value = _parse_line(content)
                except RecordError as reason:
                    error = str(reason)
                yield Row(position, value, error=error, start=offset, size=len(content), line=line)
                position += 1
            offset += len(content)


def _parse_line(line: bytes) -> Any:
    """Parse one line of JSON Lines. Raises `RecordError` if it is not UTF-8 or not JSON."""
    try:
        return json.loads(line.rstrip().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise RecordError("not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"broken JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise RecordError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Describe an error of `json` that has no position; Python reads no integer of over 4,300 digits."""
    return "JSON is nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


def array_rows(location: str, first: Row | None = None) -> Iterator[Row]:
    """Read the values of a JSON array, from a row or from the first.

    Raises:
        ValueError: The file is not a JSON array; the message names line and column.
    """
    with open_binary(location) as file:
        text = _TextWindow(file, location, first)
        if first is None:
            if text.next() != "[":
                text.fail("expected a JSON array of records")
            text.skip()
        if first is not None or text.next() != "]":
            yield text.row()
            while text.next() == ",":
                text.skip()
                text.next()
                yield text.row()
        if text.next() != "]":
            text.fail("broken JSON: Expecting ',' delimiter")
        text.skip()
        if text.next():
            text.fail("broken JSON: Extra data")


class _TextWindow:
    """A window that moves over a file's text; `offset` is the byte at its current character."""

    def __init__(self, file: IO[bytes], location: str, first: Row | None) -> None:
        self._file, self._location = file, location
        self._number, self.offset = (0, 0) if first is None else (first.position, first.start)
        file.seek(self.offset)
        if self.offset == 0:
            self.offset = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
            file.seek(self.offset)
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text, self._position = "", 0

    def next(self) -> str:
        """Skip white space and return the next character, "" at the end."""
        while True:
            while self._position < len(self._text) and self._text[self._position] in _SPACE:
                self.skip()
            if self._position < len(self._text) or not self._read_more():
                return self._text[self._position : self._position + 1]

    def skip(self) -> None:
        """Skip a character of one byte."""
        self._position += 1
        self.offset += 1

    def row(self) -> Row:
        """Read a JSON value."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                valid = self._text[self._position : error.pos]
                if not self._read_more():
                    self.offset += len(valid.encode())
                    self.fail(f"broken JSON: {error.msg}")
            except (RecursionError, ValueError) as error:
                self.fail(_reason(error))
            else:
                # A number at the end of the window may continue after it.
                if self._text[end : end + 1] in _AFTER_VALUE or not self._read_more():
                    start, size = self.offset, len(self._text[self._position : end].encode())
                    self.offset += size
                    self._position = end
                    self._number += 1
                    return Row(self._number - 1, value, start=start, size=size)

    def fail(self, reason: str) -> NoReturn:
        """Raise an error that names the current line and column."""
        self._file.seek(0)
        number, line = 1, bytearray()
        for start in range(0, self.offset, _BLOCK):
            block = self._file.read(min(_BLOCK, self.offset - start))
            number += block.count(b"\n")
            line += block
            if b"\n" in block:
                line = line.rpartition(b"\n")[2]
        column = len(line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")) + 1
        raise ValueError(f"{self._location}:{number}:{column}: {reason}")

    def _read_more(self) -> bool:
        """Extend the window, which grows to hold a whole record; return whether the file had more."""
        self._text, self._position = self._text[self._position :], 0
        if len(self._text) > _MAX_RECORD:
            self.fail(f"broken JSON, or a record of over {_MAX_RECORD >> 20} MB")
        block = self._file.read(max(_BLOCK, len(self._text)))
        try:
            self._text += self._decode(block, not block)
        except UnicodeDecodeError as error:
            self.offset += len(self._text.encode()) + error.start
            self.fail("not UTF-8 text; store the file as UTF-8")
        return bool(block)
