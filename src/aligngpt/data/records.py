"""One record of an input, whatever its format: what it holds, and the shard of the input it stands in."""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import IO, Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa

from aligngpt.data.schema import RecordError, check_id, check_image_path, check_pair, check_text, known_names
from aligngpt.utils.text import one_line

SHARD_SIZE = 10_000

IMAGE_NAMES = ("image", "image_path", "file_name")
CAPTION_NAMES = ("conversations", "caption", "text")
ID_NAMES = ("id", "key")

_BEYOND_REPAIR = (EOFError, tarfile.TarError, zlib.error, pa.ArrowException, UnicodeDecodeError)
_IDS_IN_MEMORY = 1 << 20
_PARTS = 64


@dataclass(frozen=True)
class Columns:
    """Which fields of a record hold its image, caption and id; `None` where the usual names are to be tried."""

    image: str | None = None
    caption: str | None = None
    id: str | None = None

    def among(self, names: Iterable[str]) -> Columns:
        """Choose among the columns a table has.

        Raises:
            ValueError: If a column that was asked for is missing, or none of the usual names is there.
        """
        known = list(names)
        found = {
            "image": _first(self.image, IMAGE_NAMES, known),
            "caption": _first(self.caption, CAPTION_NAMES, known),
            "id": _first(self.id, ID_NAMES, known),
        }
        missing = [what for what in ("image", "caption") if found[what] is None]
        missing += ["id"] if self.id is not None and found["id"] is None else []
        if missing:
            images, captions = " or ".join(IMAGE_NAMES), " or ".join(CAPTION_NAMES)
            wanted = {"image": self.image or images, "caption": self.caption or captions, "id": self.id}
            asked = " and ".join(f"a column of {what}s ({wanted[what]})" for what in missing)
            options = " and ".join(f"--{what}-column" for what in missing)
            raise ValueError(f"expected {asked}, got the columns {', '.join(known)}: name it with {options}")
        return Columns(**found)


def _first(asked: str | None, usual: Iterable[str], known: list[str]) -> str | None:
    names = [asked] if asked is not None else usual
    return next((name for name in names if name in known), None)


@dataclass(frozen=True)
class SourceRecord:
    """One record, good or bad; there is one for every record of the input, in its order.

    Attributes:
        index: Its place in the input, counted from 0; in its tar for WebDataset.
        id: Its id; `#<index>` where it has none.
        image: What names its image: a path relative to the image folder, `shard.tar#member` or `file.parquet#row`.
        caption: The text, `None` in a bad record.
        data: The encoded image where it comes with the record, else `None`.
        error: Why it cannot be scored, in one line; `None` in a good record.
        raw: The record as the file holds it: the parsed JSON, the row as a dictionary, or the members of a sample by
            their extension, with the sample's name under `__key__`. Of a row only what scoring needs, unless the shard
            is read `whole`.
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
        number: Its place among the shards, counted from 0.
        name: What is read, for messages.
        records: Starts reading; a function of a module with its arguments bound, so that it can be pickled.
        size: How many records it holds, `None` where only reading can tell.
        duplicates: For the place of each record whose id stood before: the place where it stood.
        whole: The same with every field of a row, where `records` gives fewer.
        images: The folder that image paths start from, where it is known.
    """

    number: int
    name: str
    records: Callable[[], Iterator[SourceRecord]]
    size: int | None = None
    duplicates: dict[int, int] = field(default_factory=dict)
    whole: Callable[[], Iterator[SourceRecord]] | None = None
    images: str | None = None

    def read(self, whole: bool = False) -> Iterator[SourceRecord]:
        """Read the records in order.

        Where the rest of a shard cannot be read, or the shard is missing, the last record says so in its `error`.

        Args:
            whole: Whether `raw` is to hold every field of a record, for which more of a table has to be read.

        Raises:
            OSError: If reading fails for a reason that may pass, such as a network's.
        """
        count = 0
        try:
            for record in self.whole() if whole and self.whole is not None else self.records():
                count += 1
                if record.error is None:
                    yield self._checked(record)
                else:
                    yield record
        except (OSError, *_BEYOND_REPAIR) as error:
            if may_pass(error):
                raise
            reason = "no such file" if isinstance(error, FileNotFoundError) else f"damaged: {one_line(error)}"
            what = f"shard cannot be read: {reason}" if not count else f"the rest of the shard cannot be read: {reason}"
            yield SourceRecord(count, f"{self.name}#{count}", self.name, None, error=what)

    def _checked(self, record: SourceRecord) -> SourceRecord:
        """A good record with an error where it is a duplicate, or its path leads out of the image folder."""
        first = self.duplicates.get(record.index)
        if first is not None:
            return replace(record, error=f"duplicate id, also that of record {first}")
        if record.data is None and record.image is not None and os.path.isabs(record.image):
            return self._relative(record, record.image)
        return record

    def _relative(self, record: SourceRecord, path: str) -> SourceRecord:
        if self.images is None:
            reason = "image path is absolute; it must be relative to the image folder"
        elif (inside := _inside(path, self.images)) is not None:
            return replace(record, image=inside)
        else:
            reason = "image path is absolute and does not lie in the image folder"
        return replace(record, caption=None, error=reason)


def _inside(path: str, folder: str) -> str | None:
    """An absolute path as it is relative to a folder, links on the way to the folder followed or not."""
    for start in (os.path.abspath(folder), os.path.realpath(folder)):
        if os.path.normpath(path).startswith(os.path.join(start, "")):
            return os.path.relpath(path, start)
    return None


def may_pass(error: Exception) -> bool:
    """Whether reading may succeed another time: errors of a disk or a network have a number, those of content none."""
    passing = error.errno is not None if isinstance(error, OSError) else False
    return (passing or isinstance(error, TimeoutError | ConnectionError)) and not isinstance(error, FileNotFoundError)


def row_record(row: Any, index: int, columns: Columns, name: str | None = None) -> SourceRecord:
    """Make a record of one row of a table, or of one object of a JSON file.

    Args:
        row: The row: its values by column. One with `conversations` is LLaVA's, unless another caption is asked for.
        index: Its place in the input, counted from 0.
        columns: Where image, caption and id stand; the usual names are tried where it says nothing.
        name: What the image is called where it is stored in the row.
    """
    data = None
    try:
        if not isinstance(row, dict):
            check_pair(row, index)  # says what it is instead
        image_key = _first(columns.image, IMAGE_NAMES, list(row)) or "image"
        image, data = _image(row.get(image_key), name)
        caption_key = _first(columns.caption, CAPTION_NAMES, list(row))
        value = id_of(row, columns)
        known = f"#{index}" if value is None else check_id(value)
        if caption_key in (None, "conversations"):
            pair = check_pair(row | {"image": _from_root(image), "id": known}, index)
            return SourceRecord(index, known, image, pair.caption, data, raw=row)
        if image is None:
            raise RecordError(f"no {image_key}")
        if data is None:
            check_image_path(_from_root(image))
        return SourceRecord(index, known, image, _caption(row[caption_key], caption_key), data, raw=row)
    except RecordError as error:
        return _bad(row, index, columns, name if data is not None else None, str(error))


def id_of(row: Any, columns: Columns) -> Any:
    """What stands where a row has its id; `None` where it has none."""
    return row.get(_first(columns.id, ID_NAMES, list(row)) or "id") if isinstance(row, dict) else None


def note_id(ids: IdLog, value: Any, index: int) -> None:
    """Note what stands where a record has its id, if it is one.

    The first record with an id keeps it, whatever else is wrong with that record, so that no format has to look at more
    than ids.
    """
    if value is not None:
        with suppress(RecordError):  # said of the record when it is read
            ids.add(check_id(value), index)


def _from_root(image: Any) -> Any:
    """An absolute path as one relative to the root; where it leads is checked where the image folder is known."""
    return image.lstrip("/") if isinstance(image, str) and os.path.isabs(image) else image


def _image(value: Any, name: str | None) -> tuple[Any, bytes | None]:
    """What names an image, and its bytes where they are stored: bytes, a path, or a dictionary of both."""
    if isinstance(value, dict) and "bytes" in value:
        value = value["bytes"] if value["bytes"] is not None else value.get("path")
    return (name, value) if isinstance(value, bytes) else (value, None)


def _caption(value: Any, column: str | None) -> str:
    if value is None:
        raise RecordError(f"no {column} (null)")
    if not isinstance(value, str):
        raise RecordError(f"{column} must be a string, got {type(value).__name__}")
    if not value.strip():
        raise RecordError(f"empty {column}")
    return check_text(value, "the caption")


def _bad(row: Any, index: int, columns: Columns, name: str | None, reason: str) -> SourceRecord:
    row = row if isinstance(row, dict) else {}
    id_key = _first(columns.id, ID_NAMES, list(row)) or "id"
    image_key = _first(columns.image, IMAGE_NAMES, list(row)) or "image"
    known_id, known_image = known_names({"id": row.get(id_key), "image": row.get(image_key)})
    return SourceRecord(index, known_id or f"#{index}", name or known_image, None, error=reason, raw=row)


def open_binary(place: str) -> fsspec.core.OpenFile:
    """Open anything fsspec knows for reading bytes, in a `with` block."""
    return fsspec.open(place, "rb")


def short_names(places: Sequence[str]) -> list[str]:
    """The places without protocol and the folder they have in common, so that they are the same wherever it lies."""
    paths = [_path(place).split("/") for place in places]
    levels = zip(*(path[:-1] for path in paths), strict=False)
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    return ["/".join(path[shared:]) for path in paths]


def _path(place: str) -> str:
    """What stands behind the protocol; of a chain of them, `zip://a.tar::s3://b.zip`, behind the first."""
    links = place.split("::")
    return next((link for link in links if "://" in link), links[0]).rpartition("://")[2].replace(os.sep, "/")


class IdLog:
    """Finds ids that stood before, in memory that does not grow with their number.

    Of each id 8 bytes of a hash are kept; beyond a million ids they go to temporary files, one for each of 64 ranges
    of the hash, so a billion ids need 16 GB of disk and 1 GB of memory. Two different ids have one hash with a
    probability of about n^2 / 4e19: 3 % for one such pair among a billion ids.
    """

    def __init__(self) -> None:
        self._hashes, self._places = array("Q"), array("Q")
        self._files: list[IO[bytes]] = []
        self._open = ExitStack()

    def add(self, name: str, place: int) -> None:
        """Note an id and where it stands; places rise."""
        self._hashes.append(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))
        self._places.append(place)
        if len(self._hashes) >= _IDS_IN_MEMORY:
            self._spill()

    def duplicates(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of ids that stood before, rising, and for each the first place where it stood; int64 (n,) both."""
        with self._open:
            if self._files:
                self._spill()
            found = [self._repeated(part) for part in self._parts()]
        later, first = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        order = np.argsort(later)
        return later[order], first[order]

    def _rows(self) -> np.ndarray:
        return np.stack([np.array(self._hashes, np.uint64), np.array(self._places, np.uint64)], axis=1)

    def _spill(self) -> None:
        if not self._files:
            files = (tempfile.TemporaryFile() for _ in range(_PARTS))  # noqa: SIM115  closed together, when all are read
            self._files = [self._open.enter_context(file) for file in files]
        rows = self._rows()
        part_of = rows[:, 0] % _PARTS
        for part, file in enumerate(self._files):
            file.write(rows[part_of == part].tobytes())
        self._hashes, self._places = array("Q"), array("Q")

    def _parts(self) -> Iterator[np.ndarray]:
        if not self._files:
            yield self._rows()
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), np.uint64).reshape(-1, 2)

    @staticmethod
    def _repeated(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(rows[:, 0], kind="stable")  # places rise within one hash
        hashes, places = rows[order, 0], rows[order, 1].astype(np.int64)
        again = np.zeros(len(rows), bool)
        again[1:] = hashes[1:] == hashes[:-1]
        begins = np.maximum.accumulate(np.where(again, 0, np.arange(len(rows))))
        return places[again], places[begins[again]]
