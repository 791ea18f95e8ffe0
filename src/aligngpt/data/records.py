"""Rows of an input, whatever its format, and the records that are made of them."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal, NamedTuple, TypeVar

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa

from aligngpt.data.duplicate_ids import DuplicateIds
from aligngpt.data.schema import (
    Conversation,
    ImageTextPair,
    RecordError,
    check_id,
    check_image_path,
    check_level,
    check_object,
    check_text,
    check_turns,
)
from aligngpt.utils.constants import IMAGE_TOKEN
from aligngpt.utils.text import one_line

SHARD_SIZE = 10_000

IMAGE_NAMES = ("image", "image_path", "file_name")
CAPTION_NAMES = ("conversations", "caption", "text")
ID_NAMES = ("id", "key")
IMAGE_LIST = "images"  # where a conversation has its images, as in TRL's datasets

# Which fields of a row are read: those that scoring needs, all of them, or those that hold text, without the content
# of images, which is b"" then.
Fields = Literal["needed", "all", "text"]

_DAMAGE = (EOFError, tarfile.TarError, zlib.error, pa.ArrowException, UnicodeDecodeError)

T = TypeVar("T", ImageTextPair, Conversation)


@dataclass(frozen=True)
class Columns:
    """The fields of a record that hold its image, caption and id; `None` tries the usual names."""

    image: str | None = None
    caption: str | None = None
    id: str | None = None

    def among(self, names: Iterable[str]) -> Columns:
        """Choose among the columns of a table.

        Raises:
            ValueError: A column that was asked for is missing, or the table has none of the usual names.
        """
        existing = list(names)
        chosen = {
            "image": _first(self.image, (*IMAGE_NAMES, IMAGE_LIST), existing),
            "caption": _first(self.caption, CAPTION_NAMES, existing),
            "id": _first(self.id, ID_NAMES, existing),
        }
        missing = [name for name in ("image", "caption") if chosen[name] is None]
        missing += ["id"] if self.id is not None and chosen["id"] is None else []
        if missing:
            images, captions = " or ".join(IMAGE_NAMES), " or ".join(CAPTION_NAMES)
            expected = {"image": self.image or images, "caption": self.caption or captions, "id": self.id}
            asked = " and ".join(f"a column of {name}s ({expected[name]})" for name in missing)
            options = " and ".join(f"--{name}-column" for name in missing)
            raise ValueError(f"expected {asked}, got the columns {', '.join(existing)}: name it with {options}")
        return Columns(**chosen)

    def image_in(self, row: dict[str, Any]) -> str:
        """Return the field of a row that holds its image."""
        return self.image or _first(None, IMAGE_NAMES, row) or "image"

    def caption_in(self, row: dict[str, Any]) -> str:
        """Return the field of a row that holds its caption."""
        return self.caption or _first(None, CAPTION_NAMES, row) or "conversations"

    def id_in(self, row: dict[str, Any]) -> str:
        """Return the field of a row that holds its id."""
        return self.id or _first(None, ID_NAMES, row) or "id"


def _first(asked: str | None, usual: Iterable[str], existing: Iterable[str]) -> str | None:
    names = [asked] if asked is not None else usual
    return next((name for name in names if name in existing), None)


class Row(NamedTuple):
    """One row of an input as its format stores it, before validation.

    Attributes:
        position: Index in the input, from 0; in its tar for WebDataset.
        value: Its fields by name; any JSON value in a JSON file.
        image_name: What names an image that is stored in the row.
        raw: What a writer needs to write it again, if that is not `value`.
        error: Why it cannot be read, in one line.
        start: Where it begins: a byte of the file, or a row of a table.
        size: Its bytes; 1 for a row of a table.
        line: Its line, from 1; JSON Lines only.
    """

    position: int
    value: Any
    image_name: str | None = None
    raw: Any = None
    error: str | None = None
    start: int = 0
    size: int = 1
    line: int | None = None


@dataclass(frozen=True)
class SourceRecord:
    """One record for scoring, good or bad; there is one for every row of the input, in its order.

    Attributes:
        index: Index in the input, from 0; in its tar for WebDataset.
        id: Its id; `#<index>` if it has none.
        image: Path relative to the image folder, `shard.tar#member` or `file.parquet#row`.
        caption: The text, `None` in a bad record.
        data: The encoded image if it is stored in the row, else `None`.
        error: Why it cannot be scored, in one line; `None` in a good record.
        raw: The record as the file holds it: parsed JSON, a table's row by column, or a sample's members by extension
            with the sample's name as `__key__`. Rows have only the fields that were read.
    """

    index: int
    id: str
    image: str | None
    caption: str | None
    data: bytes | None = field(default=None, repr=False)
    error: str | None = None
    raw: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class SourceShard:
    """A part of an input that can be read alone, in this process or another.

    Attributes:
        name: The name of the shard in messages.
        rows: Starts reading the given fields; picklable.
        columns: Which fields of a row hold image, caption and id.
        file: Index of its file among the source's.
        start: Index of its first row in the input; 0 for WebDataset.
        size: Number of rows, `None` if only reading can determine it.
        number: Its number among the shards, from 0.
        duplicates: For the index of each row whose id an earlier row has, the index of that row.
        images: The folder that image paths are relative to, if it was given.
    """

    name: str
    rows: Callable[[Fields], Iterator[Row]]
    columns: Columns
    file: int = 0
    start: int = 0
    size: int | None = None
    number: int = 0
    duplicates: dict[int, int] = field(default_factory=dict)
    images: str | None = None

    def read(self, whole: bool = False) -> Iterator[SourceRecord]:
        """Read the records in order.

        Args:
            whole: Whether `raw` has all fields of a record, for which more of a table has to be read.

        Raises:
            OSError: Reading failed for a reason that may be transient, such as a network's.
        """
        for row, pair, error in self.read_records(read_pair, "all" if whole else "needed", unique_ids=True):
            raw = row.value if row.raw is None and row.error is None else row.raw
            if pair is None:
                record_id, image = row_names(row, self.columns)
                record_id = record_id or f"#{row.position}"
                yield SourceRecord(row.position, record_id, image, None, error=error, raw=raw)
            else:
                yield SourceRecord(row.position, pair.id, pair.image, pair.caption, pair.encoded, error, raw)

    def read_records(
        self, read: Callable[[Row, Columns, str | None], T], fields: Fields, unique_ids: bool
    ) -> Iterator[tuple[Row, T | None, str | None]]:
        """Read the rows in order, with their records and what is wrong with each.

        Args:
            read: Validates a row.
            fields: Which fields to read.
            unique_ids: Whether a record with the id of an earlier one is bad.

        Raises:
            OSError: As `read`.
        """
        seen: dict[str, int] = {}  # ids of this shard, where no pass over the ids precedes reading
        for row in self._rows(fields):
            try:
                record = read(row, self.columns, self.images)
            except RecordError as error:
                seen.setdefault(row_names(row, self.columns)[0] or f"#{row.position}", row.position)
                yield row, None, str(error)
                continue
            first = self.duplicates.get(row.position, row.position)
            if self.size is None:
                first = min(first, seen.setdefault(record.id, row.position))
            is_duplicate = unique_ids and first != row.position
            yield row, record, f"duplicate id, also that of record {first}" if is_duplicate else None

    def _rows(self, fields: Fields) -> Iterator[Row]:
        """Read the rows; if the shard is missing or damaged, the last row has the `error`."""
        count = 0
        try:
            for row in self.rows(fields):
                count += 1
                yield row
        except (OSError, *_DAMAGE) as error:
            if is_transient_error(error):
                raise
            reason = "no such file" if isinstance(error, FileNotFoundError) else f"damaged: {one_line(error)}"
            part = "the rest of the shard" if count else "shard"
            yield Row(count, {"id": f"{self.name}#{count}"}, self.name, error=f"{part} cannot be read: {reason}")


def is_transient_error(error: Exception) -> bool:
    """Return whether reading may succeed later: errors of a disk or a network have a number, those of content none."""
    if not isinstance(error, OSError) or isinstance(error, FileNotFoundError):
        return False
    return error.errno is not None or isinstance(error, TimeoutError | ConnectionError)


# From a row to a record ----------------------------------------------------------------------------------------------


def read_pair(row: Row, columns: Columns, images: str | None) -> ImageTextPair:
    """Validate a row as an image-text pair.

    Args:
        row: The row. One with `conversations` is in LLaVA's form, unless another caption is asked for.
        columns: Which fields hold image, caption and id.
        images: The image folder, to make absolute paths relative to it.

    Raises:
        RecordError: The row breaks a rule.
    """
    value = _readable(row)
    caption_key, image_key = columns.caption_in(value), columns.image_in(value)
    listed = _listed(value.get(image_key))
    record_id = _record_id(value, row.position, columns)
    if caption_key == "conversations":
        if len(listed) != 1:
            raise RecordError(f"a pair has one image, this record has {len(listed) or 'none'}")
        turns = check_turns(value.get(caption_key), 1)
        if len(turns) != 2:
            raise RecordError(f"a pair has two turns (<image> and its caption), this record has {len(turns)}")
        caption, level = turns[1].text, check_level(value)
    else:
        if not listed:
            raise RecordError(f"{image_key} is missing")
        caption, level = _caption(value.get(caption_key), caption_key), check_level(value, ("alignment_level",))
    image, encoded = _image(listed[0] if len(listed) == 1 else listed, row.image_name, images)
    return ImageTextPair(record_id, image, caption, level, encoded)


def read_conversation(row: Row, columns: Columns, images: str | None) -> Conversation:
    """Validate a row as a conversation.

    Args:
        row: The row; its images are in the image column, one or a list, or in `images`.
        columns: Which fields hold images, conversation and id.
        images: The image folder, to make absolute paths relative to it.

    Raises:
        RecordError: The row breaks a rule.
    """
    value = _readable(row)
    conversations = value.get(columns.caption or "conversations")
    content = value.get(IMAGE_LIST) if columns.image is None else None
    content = value.get(columns.image_in(value)) if content is None else content
    if content == b"" and IMAGE_TOKEN not in str(conversations):  # content that was not read, or there is none
        content = None
    listed, name = _listed(content), row.image_name
    names = [f"{name}[{number}]" if name and len(listed) > 1 else name for number in range(len(listed))]
    pairs = [_image(image, name, images) for image, name in zip(listed, names, strict=True)]
    turns = check_turns(conversations, len(pairs))
    paths, encoded = tuple(path for path, _ in pairs), tuple(content for _, content in pairs)
    return Conversation(_record_id(value, row.position, columns), paths, turns, check_level(value), encoded)


def row_names(row: Row, columns: Columns) -> tuple[str | None, str | None]:
    """Return id and image of a row that may be bad, `None` where they cannot be read, in characters of UTF-8."""
    value = row.value if isinstance(row.value, dict) else {}
    record_id, image = value.get(columns.id_in(value)), value.get(columns.image_in(value))
    has_id = isinstance(record_id, int | str) and not isinstance(record_id, bool) and record_id != ""
    if not isinstance(image, str) or not image:
        has_name = row.error is not None or row.raw is not None or isinstance(_content(image), bytes)
        image = row.image_name if has_name else None
    return _printable(str(record_id)) if has_id else None, None if image is None else _printable(image)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def add_row_id(ids: DuplicateIds, value: Any, index: int) -> None:
    """Add the value of a row's id field to the ids, if it is a valid id.

    The first row with an id keeps it, whatever else is wrong with that row, so that no format has to read more than
    the ids.
    """
    if value is not None:
        with suppress(RecordError):  # reported when the row is read
            ids.add(check_id(value), index)


def _readable(row: Row) -> dict[str, Any]:
    if row.error is not None:
        raise RecordError(row.error)
    return check_object(row.value)


def _record_id(value: dict[str, Any], index: int, columns: Columns) -> str:
    record_id = value.get(columns.id_in(value))
    return f"#{index}" if record_id is None else check_id(record_id)


def _content(image: Any) -> Any:
    """Return what an image column holds, which is bytes, a path, or a dictionary of both."""
    if isinstance(image, dict) and "bytes" in image:
        return image["bytes"] if image["bytes"] is not None else image.get("path")
    return image


def _listed(images: Any) -> list[Any]:
    images = _content(images)
    return images if isinstance(images, list) else [] if images is None else [images]


def _image(value: Any, name: str | None, folder: str | None) -> tuple[str, bytes | None]:
    """Return the path of an image relative to the folder, or the name and content of an image stored in the row."""
    value = _content(value)
    if isinstance(value, bytes):
        return name or "image", value
    if folder is not None and isinstance(value, str) and os.path.isabs(value):
        for start in (os.path.abspath(folder), os.path.realpath(folder)):  # with links to the folder resolved or not
            if os.path.normpath(value).startswith(os.path.join(start, "")):
                return check_image_path(os.path.relpath(value, start)), None
        raise RecordError("image path is absolute and not in the image folder")
    return check_image_path(value), None


def _caption(value: Any, column: str) -> str:
    if value is None:
        raise RecordError(f"{column} is missing (null)")
    if not isinstance(value, str):
        raise RecordError(f"{column} must be a string, got {type(value).__name__}")
    if not value.strip():
        raise RecordError(f"empty {column}")
    return check_text(value, "the caption")


# Files ---------------------------------------------------------------------------------------------------------------


def open_binary(location: str) -> fsspec.core.OpenFile:
    """Open anything that fsspec can open for reading bytes, in a `with` block."""
    return fsspec.open(location, "rb", expand=False)


def short_names(locations: Sequence[str]) -> list[str]:
    """Return the locations without protocol and common folder, so that they do not depend on where the files are."""
    paths = [_path(location).split("/") for location in locations]
    levels = zip(*(path[:-1] for path in paths), strict=False)
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    return ["/".join(path[shared:]) for path in paths]


def _path(location: str) -> str:
    """Return the path after the protocol; of a chain such as `zip://a.tar::s3://b.zip` that of its first link."""
    links = location.split("::")
    return next((link for link in links if "://" in link), links[0]).rpartition("://")[2].replace(os.sep, "/")
