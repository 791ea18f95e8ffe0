"""Rows of a JSON array or of JSON Lines, a few megabytes of the file at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np

from aligngpt.data.duplicate_ids import DuplicateIds
from aligngpt.data.records import SHARD_SIZE, Columns, Fields, Row, SourceShard, add_row_id, open_binary, short_names
from aligngpt.data.schema import RecordError

_BLOCK = 1 << 22
_MAX_RECORD = 1 << 28
_SPACE = " \t\n\r"
_AFTER_VALUE = tuple(_SPACE + ",]")
_DECODER = json.JSONDecoder()


class Value(NamedTuple):
    """A JSON value of a file, or the `RecordError` of a broken line; its first byte, size, and line in JSON Lines."""

    value: Any
    start: int
    size: int
    line: int | None = None


_Values = Callable[..., Iterator[Value]]


def array_shards(files: tuple[str, ...], columns: Columns) -> list[SourceShard]:
    """Divide a JSON array into shards, reading it once.

    Raises:
        ValueError: The file is not a JSON array (the message names line and column), or no record has a column that
            was asked for.
    """
    return _shards(files[0], columns, array_values)


def line_shards(files: tuple[str, ...], columns: Columns) -> list[SourceShard]:
    """Divide JSON Lines into shards, reading them once; a line that is not JSON is a bad record.

    Raises:
        ValueError: No record has a column that was asked for.
    """
    return _shards(files[0], columns, line_values)


class JsonReader:
    """Random access to the records of a JSON array or of JSON Lines."""

    def __init__(self, location: str) -> None:
        self._file = open_binary(location).open()

    def read(self, start: int, size: int) -> Row:
        """Read the row at `Row.start`, of `Row.size`. Raises RecordError if it cannot be read."""
        self._file.seek(start)
        return Row(0, _parse_line(self._file.read(size)), start=start, size=size)


def array_values(location: str, start: int | None = None, line: int | None = None) -> Iterator[Value]:
    """Read the values of a JSON array.

    Args:
        location: The file.
        start: The byte of the first value to read, the array's first by default.
        line: Not used; `line_values` has it.

    Raises:
        ValueError: The file is not a JSON array; the message names line and column.
    """
    with open_binary(location) as file:
        text = _Text(file, location, start)
        if start is None:
            if text.next() != "[":
                text.fail("expected a JSON array of records")
            text.skip()
        if start is not None or text.next() != "]":
            yield text.value()
            while text.next() == ",":
                text.skip()
                text.next()
                yield text.value()
        if text.next() != "]":
            text.fail("broken JSON: Expecting ',' delimiter")
        text.skip()
        if text.next():
            text.fail("broken JSON: Extra data")


class _Text:
    """A window that moves over a file's text; `offset` is the byte at its current character."""

    def __init__(self, file: IO[bytes], location: str, start: int | None) -> None:
        file.seek(start or 0)
        ahead = file.read(3)
        if ahead == codecs.BOM_UTF8:
            start, ahead = 3, b""
        self.offset = start or 0
        self._file, self._location = file, location
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text, self._position = "", 0
        self._ahead = ahead

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

    def value(self) -> Value:
        """Read a JSON value."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                valid = self._text[self._position : error.pos]
                if not self._read_more():
                    self.offset += len(valid.encode())
                    self.fail(f"broken JSON: {error.msg}")
            except RecursionError:
                self.fail("JSON is nested too deeply")
            except ValueError:  # Python reads no integer of over 4,300 digits
                self.fail("a number has too many digits")
            else:
                # A number at the end of the window may continue after it.
                if self._text[end : end + 1] in _AFTER_VALUE or not self._read_more():
                    start, size = self.offset, len(self._text[self._position : end].encode())
                    self.offset += size
                    self._position = end
                    return Value(value, start, size)

    def fail(self, reason: str) -> NoReturn:
        """Raise an error that names the current line and column."""
        self._file.seek(0)
        before: list[bytes] = []
        left = self.offset
        lines = 0
        while left > 0:
            block = self._file.read(min(left, _BLOCK))
            left -= len(block)
            lines += block.count(b"\n")
            before = [block] if b"\n" in block else [*before, block]
        column = len(b"".join(before).rpartition(b"\n")[2].removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")) + 1
        raise ValueError(f"{self._location}:{lines + 1}:{column}: {reason}")

    def _read_more(self) -> bool:
        """Extend the window, which grows to hold a whole record; return whether the file had more."""
        self._text, self._position = self._text[self._position :], 0
        if len(self._text) > _MAX_RECORD:
            self.fail(f"broken JSON, or a record of over {_MAX_RECORD >> 20} MB")
        block = self._ahead + self._file.read(max(_BLOCK, len(self._text)))
        self._ahead = b""
        try:
            self._text += self._decode(block, not block)
        except UnicodeDecodeError as error:
            self.offset += len(self._text.encode()) + error.start
            self.fail("not UTF-8 text; store the file as UTF-8")
        return bool(block)


def line_values(location: str, start: int | None = None, line: int | None = 1) -> Iterator[Value]:
    """Read the lines that are not blank; the value of a broken one is a `RecordError`.

    Args:
        location: The file.
        start: The byte of the first line to read, the file's first by default.
        line: The number of that line.
    """
    with open_binary(location) as file:
        file.seek(start or 0)
        offset = start or 0
        for number, content in enumerate(file, line or 1):
            if content.strip():
                try:
                    value = _parse_line(content)
                except RecordError as error:
                    value = error
                yield Value(value, offset, len(content), number)
            offset += len(content)


def _parse_line(line: bytes) -> Any:
    """Parse one line of JSON Lines. Raises `RecordError` if it is not UTF-8 or not JSON."""
    try:
        return json.loads(line.rstrip().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise RecordError("not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"broken JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise RecordError("JSON is nested too deeply") from None
    except ValueError:  # Python reads no integer of over 4,300 digits
        raise RecordError("a number has too many digits") from None


def _read(values: _Values, location: str, first: Value, index: int, count: int, fields: Fields) -> Iterator[Row]:
    selected = islice(values(location, first.start, first.line), count)
    for number, (value, start, size, line) in enumerate(selected, index):
        error = str(value) if isinstance(value, RecordError) else None
        yield Row(number, value if error is None else None, None, None, error, start, size, line)


def _shards(location: str, columns: Columns, values: _Values) -> list[SourceShard]:
    """Record where every shard begins, and which ids are duplicates."""
    ids, count = DuplicateIds(), 0
    starts: list[Value] = []
    fields: set[str] = set()
    names: list[str] = []
    asked = {name for name in (columns.image, columns.caption, columns.id) if name is not None}
    for value in values(location):
        if count % SHARD_SIZE == 0:
            starts.append(value._replace(value=None))
        if isinstance(value.value, dict):
            names = names or list(value.value)
            fields |= asked.intersection(value.value) if len(fields) < len(asked) else set()
            add_row_id(ids, value.value.get(columns.id_in(value.value)), count)
        count += 1
    if names and fields != asked:
        columns.among(names)
    (name,) = short_names([location])
    indices, firsts = ids.find()
    shards = []
    for number, first in enumerate(starts):
        index = number * SHARD_SIZE
        size = min(SHARD_SIZE, count - index)
        within = slice(*np.searchsorted(indices, (index, index + size)))
        duplicates = dict(zip(indices[within].tolist(), firsts[within].tolist(), strict=True))
        rows = partial(_read, values, location, first, index, size)
        label = f"{name}[{index}:{index + size}]"
        shards.append(SourceShard(number, label, rows, size, duplicates=duplicates, columns=columns))
    return shards
