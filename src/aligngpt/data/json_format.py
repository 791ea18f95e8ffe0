"""Records of a JSON array or of JSON Lines, a few megabytes of the file at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import IO, Any, NoReturn

import numpy as np

from aligngpt.data.records import (
    SHARD_SIZE,
    Columns,
    IdLog,
    SourceRecord,
    SourceShard,
    id_of,
    note_id,
    open_binary,
    row_record,
    short_names,
)
from aligngpt.data.schema import RecordError, parse_line

_BLOCK = 1 << 22
_LONGEST_RECORD = 1 << 28
_SPACE = " \t\n\r"
_BEHIND_VALUE = tuple(_SPACE + ",]")
_DECODER = json.JSONDecoder()


def array_shards(files: tuple[str, ...], columns: Columns) -> list[SourceShard]:
    """Divide a JSON array, which is read once for it.

    Raises:
        ValueError: If the file is no JSON array; the message names line and column.
    """
    return _shards(files[0], columns, array_values, _read_array)


def line_shards(files: tuple[str, ...], columns: Columns) -> list[SourceShard]:
    """Divide JSON Lines, which are read once for it; a line that is no JSON is a bad record."""
    return _shards(files[0], columns, line_values, _read_lines)


def array_values(place: str, offset: int | None = None) -> Iterator[tuple[int, Any]]:
    """Each value of a JSON array, with the byte where it begins.

    Args:
        place: The file.
        offset: The byte where the first value wanted begins; the array's first unless given.

    Raises:
        ValueError: If the file is no JSON array; the message names line and column.
    """
    with open_binary(place) as file:
        text = _Text(file, place, offset)
        if offset is None:
            if text.next() != "[":
                text.fail("expected a JSON array of records")
            text.skip()
        if offset is not None or text.next() != "]":
            yield text.offset, text.value()
            while text.next() == ",":
                text.skip()
                text.next()
                yield text.offset, text.value()
        if text.next() != "]":
            text.fail("broken JSON: Expecting ',' delimiter")
        text.skip()
        if text.next():
            text.fail("broken JSON: Extra data")


class _Text:
    """A window that moves over a file's text; `offset` is the byte it stands at."""

    def __init__(self, file: IO[bytes], place: str, offset: int | None) -> None:
        file.seek(offset or 0)
        start = file.read(3)
        if start == codecs.BOM_UTF8:
            offset, start = 3, b""
        self.offset = offset or 0
        self._file, self._place = file, place
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text, self._at = "", 0
        self._ahead = start

    def next(self) -> str:
        """The next character that is no white space, not yet passed; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self.skip()
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Pass a character of one byte."""
        self._at += 1
        self.offset += 1

    def value(self) -> Any:
        """Pass a JSON value."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                passed = self._text[self._at : error.pos]
                if not self._more():
                    self.offset += len(passed.encode())
                    self.fail(f"broken JSON: {error.msg}")
            except RecursionError:
                self.fail("JSON nested too deeply to be read")
            except ValueError:  # Python reads no integer of over 4,300 digits
                self.fail("a number of too many digits to be read")
            else:
                # A number at the end of the window may go on behind it.
                if self._text[end : end + 1] in _BEHIND_VALUE or not self._more():
                    self.offset += len(self._text[self._at : end].encode())
                    self._at = end
                    return value

    def fail(self, what: str) -> NoReturn:
        """Raise an error that names the line and column where the window stands."""
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
        raise ValueError(f"{self._place}:{lines + 1}:{column}: {what}")

    def _more(self) -> bool:
        """Read on; whether there was anything left. The window grows with a record that does not fit it."""
        self._text, self._at = self._text[self._at :], 0
        if len(self._text) > _LONGEST_RECORD:
            self.fail(f"broken JSON, or a record of over {_LONGEST_RECORD >> 20} MB")
        block = self._ahead + self._file.read(max(_BLOCK, len(self._text)))
        self._ahead = b""
        try:
            self._text += self._decode(block, not block)
        except UnicodeDecodeError as error:
            self.offset += len(self._text.encode()) + error.start
            self.fail("not UTF-8 text; store the file as UTF-8")
        return bool(block)


def line_values(place: str, offset: int | None = None) -> Iterator[tuple[int, Any]]:
    """Each line that is not blank, parsed, with the byte where it begins; a `RecordError` in place of a broken one.

    Args:
        place: The file.
        offset: The byte where the first line wanted begins; the file's first unless given.
    """
    with open_binary(place) as file:
        file.seek(offset or 0)
        at = offset or 0
        for line in file:
            if line.strip():
                try:
                    yield at, parse_line(line)
                except RecordError as error:
                    yield at, error
            at += len(line)


def _read_array(place: str, columns: Columns, start: int, offset: int, count: int) -> Iterator[SourceRecord]:
    return _records(islice(array_values(place, offset), count), columns, start)


def _read_lines(place: str, columns: Columns, start: int, offset: int, count: int) -> Iterator[SourceRecord]:
    return _records(islice(line_values(place, offset), count), columns, start)


def _records(values: Iterator[tuple[int, Any]], columns: Columns, start: int) -> Iterator[SourceRecord]:
    for index, (_, value) in enumerate(values, start):
        if isinstance(value, RecordError):
            yield SourceRecord(index, f"#{index}", None, None, error=str(value))
        else:
            yield row_record(value, index, columns)


def _shards(place: str, columns: Columns, values: Any, read: Any) -> list[SourceShard]:
    """Note where every shard begins, and which ids stood before."""
    ids, count = IdLog(), 0
    offsets: list[int] = []
    (name,) = short_names([place])

    def noted() -> Iterator[tuple[int, Any]]:
        for offset, value in values(place):
            if len(offsets) * SHARD_SIZE == count:
                offsets.append(offset)
            yield offset, value

    for _, value in noted():
        note_id(ids, id_of(value, columns), count)
        count += 1
    places, firsts = ids.duplicates()
    shards = []
    for number, offset in enumerate(offsets):
        start = number * SHARD_SIZE
        size = min(SHARD_SIZE, count - start)
        within = slice(*np.searchsorted(places, (start, start + size)))
        duplicates = dict(zip(places[within].tolist(), firsts[within].tolist(), strict=True))
        reading = partial(read, place, columns, start, offset, size)
        shards.append(SourceShard(number, f"{name}[{start}:{start + size}]", reading, size, duplicates))
    return shards
