"""Rows of an input, whatever its format, and the records that are made of them."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Literal, NamedTuple

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa

from aligngpt.data.duplicate_ids import DuplicateIds
from aligngpt.data.schema import (
    Conversation,
    ImageTextPair,
    RecordError,
    check_conversation,
    check_id,
    check_image_path,
    check_level,
    check_object,
    check_pair,
    check_text,
    readable_names,
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
        number: Its number among the shards, from 0.
        name: The name of the shard in messages.
        rows: Starts reading the given fields; picklable.
        size: Number of rows, `None` if only reading can determine it.
        file: Index of its file among the source's.
        duplicates: For the index of each row whose id an earlier row has, the index of that row.
        images: The folder that image paths are relative to, if it was given.
        columns: Which fields of a row hold image, caption and id.
    """

    number: int
    name: str
    rows: Callable[[Fields], Iterator[Row]]
    size: int | None = None
    file: int = 0
    duplicates: dict[int, int] = field(default_factory=dict)
    images: str | None = None
    columns: Columns = field(default_factory=Columns)

    def read(self, whole: bool = False) -> Iterator[SourceRecord]:
        """Read the records in order.

        Args:
            whole: Whether `raw` has all fields of a record, for which more of a table has to be read.

        Raises:
            OSError: Reading failed for a reason that may be transient, such as a network's.
        """
        seen: dict[str, int] = {}
        for row in self.read_rows("all" if whole else "needed"):
            yield self._record(row, seen)

    def read_rows(self, fields: Fields) -> Iterator[Row]:
        """Read the rows in order; if the shard is missing or damaged, the last row has the `error`.

        Raises:
            OSError: As `read`.
        """
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

    def duplicate_of(self, record_id: str, index: int, seen: dict[str, int]) -> str | None:
        """Return the reason if an earlier record has this id, else `None`.

        Args:
            record_id: The id of a record.
            index: Its index.
            seen: Ids of this shard so far, kept here where no pass over the ids precedes reading.
        """
        first = self.duplicates.get(index)
        if first is None and self.size is None:
            first = seen.setdefault(record_id, index)
        return None if first is None or first == index else f"duplicate id, also that of record {first}"

    def _record(self, row: Row, seen: dict[str, int]) -> SourceRecord:
        record = row_record(row, self.columns)
        if record.error is not None:
            seen.setdefault(record.id, row.position)
            return record
        duplicate = self.duplicate_of(record.id, row.position, seen)
        if duplicate is not None:
            return replace(record, error=duplicate)
        if record.data is None and record.image is not None and os.path.isabs(record.image):
            try:
                return replace(record, image=relative_image_path(record.image, self.images))
            except RecordError as error:
                return replace(record, caption=None, error=str(error))
        return record


def relative_image_path(path: str, folder: str | None) -> str:
    """Return an absolute path relative to the image folder, with links on the way to the folder resolved or not.

    Raises:
        RecordError: It is not in the folder.
    """
    if folder is None:
        raise RecordError("image path is absolute; it must be relative to the image folder")
    for start in (os.path.abspath(folder), os.path.realpath(folder)):
        if os.path.normpath(path).startswith(os.path.join(start, "")):
            return os.path.relpath(path, start)
    raise RecordError("image path is absolute and not in the image folder")


def is_transient_error(error: Exception) -> bool:
    """Return whether reading may succeed later: errors of a disk or a network have a number, those of content none."""
    has_number = error.errno is not None if isinstance(error, OSError) else False
    transient = has_number or isinstance(error, TimeoutError | ConnectionError)
    return transient and not isinstance(error, FileNotFoundError)


# From a row to a record ----------------------------------------------------------------------------------------------


def row_record(row: Row, columns: Columns) -> SourceRecord:
    """Make a record for scoring of a row, which is bad if the row breaks a rule of a pair."""
    raw = row.value if row.raw is None and row.error is None else row.raw
    if row.error is None:
        try:
            pair = read_pair(row, columns)
            return SourceRecord(row.position, pair.id, pair.image, pair.caption, pair.encoded, raw=raw)
        except RecordError as error:
            reason = str(error)
    record_id, image = row_names(row, columns)
    return SourceRecord(row.position, record_id or f"#{row.position}", image, None, error=row.error or reason, raw=raw)


def read_pair(row: Row, columns: Columns) -> ImageTextPair:
    """Validate a row as an image-text pair; an absolute image path stays absolute.

    Args:
        row: The row. One with `conversations` is in LLaVA's form, unless another caption is asked for.
        columns: Which fields hold image, caption and id.

    Raises:
        RecordError: The row breaks a rule.
    """
    value = _readable(row)
    caption_key = columns.caption_in(value)
    image_key = columns.image_in(value)
    image = value.get(image_key)
    image, encoded = _image(image[0] if isinstance(image, list) and len(image) == 1 else image, row.image_name)
    record_id = _record_id(value, row.position, columns)
    if caption_key == "conversations":
        pair = check_pair({**value, "image": _from_root(image), "id": record_id}, row.position)
        path = image if isinstance(image, str) else pair.image
        return ImageTextPair(record_id, path, pair.caption, pair.alignment_level, encoded)
    if image is None:
        raise RecordError(f"{image_key} is missing")
    if encoded is None:
        check_image_path(_from_root(image))
    level = check_level(value, ("alignment_level",))
    return ImageTextPair(record_id, image, _caption(value.get(caption_key), caption_key), level, encoded)


def read_conversation(row: Row, columns: Columns) -> Conversation:
    """Validate a row as a conversation; absolute image paths stay absolute.

    Args:
        row: The row; its images are in the image column, one or a list, or in `images`.
        columns: Which fields hold images, conversation and id.

    Raises:
        RecordError: The row breaks a rule.
    """
    value = _readable(row)
    turns = value.get(columns.caption or "conversations")
    images = value.get(IMAGE_LIST) if columns.image is None else None
    images = value.get(columns.image_in(value)) if images is None else images
    if images == b"" and IMAGE_TOKEN not in str(turns):  # content that was not read, or there is none
        images = None
    listed = images if isinstance(images, list) else [] if images is None else [images]
    prefix = row.image_name if len(listed) != 1 else None
    named = [_image(image, f"{prefix}[{number}]" if prefix else row.image_name) for number, image in enumerate(listed)]
    record_id = _record_id(value, row.position, columns)
    changed = {"conversations": turns, "image": [_from_root(image) for image, _ in named], "id": record_id}
    conversation = check_conversation({**value, **changed}, row.position)
    names, encoded = tuple(str(image) for image, _ in named), tuple(data for _, data in named)
    return Conversation(record_id, names, conversation.turns, conversation.alignment_level, encoded)


def row_names(row: Row, columns: Columns) -> tuple[str | None, str | None]:
    """Return id and image of a row that may be bad, `None` where they cannot be read."""
    value = row.value if isinstance(row.value, dict) else {}
    image = value.get(columns.image_in(value))
    record_id, path = readable_names({"id": value.get(columns.id_in(value)), "image": image})
    has_name = row.error is not None or row.raw is not None or _image(image, None)[1] is not None
    return record_id, path or (row.image_name if has_name else None)


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


def _from_root(image: Any) -> Any:
    """Make an absolute path relative to the root, to check its text; its location is checked with the image folder."""
    return image.lstrip("/") if isinstance(image, str) and os.path.isabs(image) else image


def _image(value: Any, name: str | None) -> tuple[Any, bytes | None]:
    """Return what names an image, and its content if the row has it: bytes, a path, or a dictionary of both."""
    if isinstance(value, dict) and "bytes" in value:
        value = value["bytes"] if value["bytes"] is not None else value.get("path")
    return (name or "image", value) if isinstance(value, bytes) else (value, None)


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
