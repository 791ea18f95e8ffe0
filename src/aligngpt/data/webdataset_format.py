"""Rows of WebDataset: the members of a tar that share a name are one sample, `0001.jpg` and `0001.txt`."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, cast

from aligngpt.data.duplicate_ids import DuplicateIds
from aligngpt.data.records import (
    CAPTION_NAMES,
    IMAGE_LIST,
    Columns,
    Fields,
    Row,
    SourceShard,
    is_transient_error,
    open_binary,
    short_names,
)
from aligngpt.data.schema import RecordError
from aligngpt.utils.text import one_line

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm")
CAPTION_SUFFIXES = ("txt", "text", "caption")
KEY = "__key__"
LEVEL_SUFFIX = "alignment_level.txt"

_MAX_MEMBER = 1 << 28
_BLOCK = 1 << 20
_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_MAGIC = max(map(len, _COMPRESSED))


def tar_shards(files: tuple[str, ...], columns: Columns, ids: DuplicateIds) -> list[SourceShard]:
    """Return one shard for each tar without reading it. Ids have to be unique within a tar only."""
    return [
        SourceShard(name, partial(_read_tar, location, name, columns), Columns(), number)
        for number, (location, name) in enumerate(zip(files, short_names(files), strict=True))
    ]


def _read_tar(location: str, shard: str, columns: Columns, fields: Fields) -> Iterator[Row]:
    with open_binary(location) as file:
        for index, sample in enumerate(_samples(file, _image_suffixes(columns) if fields == "text" else ())):
            yield _row(sample, index, columns, shard)


class TarReader:
    """Random access to the samples of a tar that is not compressed."""

    def __init__(self, location: str, name: str, columns: Columns) -> None:
        self._file = open_binary(location).open()
        self._name, self._columns = name, columns

    def read(self, start: int, size: int) -> Row:
        """Read the row at `Row.start`, of `Row.size`. Raises RecordError if it cannot be read."""
        self._file.seek(start)
        content = io.BytesIO(self._file.read(size))
        with suppress(tarfile.ReadError):
            for sample in _samples(content, ()):
                return _row(sample, 0, self._columns, self._name)
        raise RecordError("sample is missing: the tar has changed")


def decompress(location: str, target: Path) -> bool:
    """Write a compressed tar without its compression, as far as it can be decompressed; return whether it is one."""
    with open_binary(location) as file:
        if _decompressor(file.read(_MAGIC)) is None:
            return False
    with open_binary(location) as file, open(target, "wb") as output:
        output.writelines(iter(_open_stream(file).read, b""))
    return True


def _image_suffixes(columns: Columns) -> tuple[str, ...]:
    return (columns.image.lower(),) if columns.image else IMAGE_SUFFIXES


def _has_suffix(member: str, suffixes: tuple[str, ...]) -> bool:
    return member in suffixes or member.rpartition(".")[2] in suffixes


def _row(sample: Row, index: int, columns: Columns, shard: str) -> Row:
    """Complete the row of a sample, whose `raw` are its members."""
    members, key, error = sample.raw, sample.raw[KEY], sample.error
    suffixes = _image_suffixes(columns)
    images = [name for name in members if name != KEY and _has_suffix(name, suffixes)]
    image = f"{shard}#{key}{f'.{images[0]}' if images else ''}"
    value: dict[str, Any] = {"id": key, "image": members[images[0]] if images else None}
    if error is None:
        try:
            value |= _id_and_caption(members, columns)
        except RecordError as reason:
            error = str(reason)
    if len(images) > 1 and "conversations" in value:
        value[IMAGE_LIST] = [members[name] for name in images]
    return sample._replace(position=index, value=value, image_name=image, error=error)


def _id_and_caption(members: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """Return the fields of a record that the members of its sample hold, without the image."""
    fields: Any = {}
    if "json" in members:
        try:
            fields = json.loads(members["json"])
        except (ValueError, RecursionError) as error:
            raise RecordError(f"broken json member: {one_line(error)}") from None
    fields = fields if isinstance(fields, dict) else {}
    record_id = fields.get(columns.id or "id")
    level = fields.get("alignment_level")
    if LEVEL_SUFFIX in members:
        level = members[LEVEL_SUFFIX].decode("utf-8", "replace")
        level = int(level) if level.strip().isdecimal() else level
    row = {"id": members[KEY] if record_id is None else record_id, "alignment_level": level}
    suffixes = (columns.caption,) if columns.caption else CAPTION_SUFFIXES
    member = next((suffix for suffix in suffixes if suffix in members), None)
    if member is not None:
        try:
            return row | {"caption": members[member].decode("utf-8-sig")}
        except UnicodeDecodeError:
            raise RecordError(f"the {member} member is not UTF-8 text") from None
    names = (columns.caption,) if columns.caption else CAPTION_NAMES
    name = next((name for name in names if name in fields), None)
    if name is None:
        expected = columns.caption or " or ".join(CAPTION_NAMES)
        raise RecordError(f"caption is missing: expected a {suffixes[0]} member, or {expected} in a json member")
    return row | {"conversations" if isinstance(fields[name], list) else "caption": fields[name]}


def _samples(file: Any, unread: tuple[str, ...]) -> Iterator[Row]:
    """Read the samples in order, with their members by extension; a damaged part of the tar is a sample of its own.

    Args:
        file: The tar.
        unread: Suffixes of members whose content is not read; it is b"" then.
    """
    for key, group in groupby(_members(file, unread), itemgetter(0)):
        parts = list(group)
        members = {KEY: key} | {suffix: content for _, suffix, content, *_ in parts if suffix}
        damage = next((damage for _, _, _, damage, *_ in parts if damage is not None), None)
        start, end = parts[0][-2], parts[-1][-1]
        yield Row(0, None, None, members, damage, start, end - start)


def _members(file: Any, unread: tuple[str, ...]) -> Iterator[tuple[str, str, bytes, str | None, int, int]]:
    """Yield name, extension, content, damage, first byte and end of each member.

    After a damaged part, reading resumes at the next header.
    """
    stream = _open_stream(file)
    tar, end, content_end = _open_tar(stream), 0, 0
    while (member := _next(tar, stream)) is not None:
        if stream.header is not None and stream.header < member.offset:
            lost = f"tar damaged from byte {end} to byte {member.offset}: its content is lost"
            yield f"byte {end}", "", b"", lost, end, member.offset
        end, content_end = tar.offset, member.offset_data + member.size
        tar.members = []  # type: ignore[attr-defined]  # else every header that was read stays in memory
        folder, _, name = member.name.rpartition("/")
        base, _, suffix = name.partition(".")
        if member.isfile() and base and not (base.startswith("__") and base.endswith("__")):
            key, suffix = f"{folder}/{base}".lstrip("/"), suffix.lower()
            content, damage = (b"", None) if unread and _has_suffix(suffix, unread) else _content(tar, member)
            yield key, suffix, content, damage, member.offset, end
        stream.header = None
    if stream.header is not None or stream.broken is not None or stream.tell() < content_end:
        reason = f" ({one_line(stream.broken)})" if stream.broken is not None else ""
        yield f"byte {end}", "", b"", f"tar cut short or damaged{reason}: its content from here is lost", end, end


class _Forward:
    """A stream that is only read forward, compressed or not, local or remote.

    Attributes:
        header: Where the first block was that was read like a header and is not empty, since this was set to `None`.
        broken: Why the stream could not be decompressed further, which is where it ends.
        ended: Whether its end was reached.
    """

    def __init__(self, file: Any, ahead: bytes = b"", size: int | None = None) -> None:
        self._read = getattr(file, "read1", file.read)  # `read` of a decompressor loses what precedes damage
        self.header: int | None = None
        self.broken: Exception | None = None
        self.ended = False
        self._file, self._ahead, self._position = file, ahead, 0
        self._size = size  # of a file in which reading can skip

    def read(self, size: int = _BLOCK) -> bytes:
        """Read `size` bytes, fewer only at the end."""
        parts, left = [self._ahead[:size]], size - len(self._ahead[:size])
        self._ahead = self._ahead[size:]
        while left and not self.ended:
            try:
                block: bytes = self._read(left)
            except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
                if is_transient_error(error):
                    raise
                self.broken, block = error, b""
            self.ended = not block
            parts.append(block)
            left -= len(block)
        block = b"".join(parts)
        if size == tarfile.BLOCKSIZE and self.header is None and block.strip(b"\0"):
            self.header = self._position
        self._position += len(block)
        return block

    def tell(self) -> int:
        """Return how many bytes were passed."""
        return self._position

    def seek(self, position: int) -> None:
        """Move forward to a position."""
        if position < self._position:
            raise tarfile.StreamError(f"byte {position} was passed, the stream is at byte {self._position}")
        if self._size is not None and position - self._position > len(self._ahead):
            self._ahead, self._position = b"", self._file.seek(min(position, self._size))
        while self._position < position and not self.ended:
            self.read(min(_BLOCK, position - self._position))


def _decompressor(head: bytes) -> Any:
    return next((decompressor for magic, decompressor in _COMPRESSED.items() if head.startswith(magic)), None)


def _open_stream(file: IO[bytes]) -> _Forward:
    head = file.read(_MAGIC)
    decompressor = _decompressor(head)
    if decompressor is None:
        if not file.seekable():
            return _Forward(file, head)
        size = file.seek(0, 2)
        file.seek(len(head))
        return _Forward(file, head, size)
    return _Forward(decompressor(_Forward(file, head)))


def _open_tar(stream: _Forward) -> tarfile.TarFile:
    try:
        return tarfile.TarFile(fileobj=cast(IO[bytes], stream), ignore_zeros=True)
    except tarfile.ReadError:
        reason = f": {one_line(stream.broken)}" if stream.broken is not None else ""
        raise tarfile.ReadError(f"not a readable tar file{reason}") from None


def _next(tar: tarfile.TarFile, stream: _Forward) -> tarfile.TarInfo | None:
    while True:
        try:
            return tar.next()
        except tarfile.ReadError:  # the file ends within the member before, or a header lacks the one it belongs to
            if stream.ended:
                return None
            tar.offset = stream.tell()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[bytes, str | None]:
    if member.size > _MAX_MEMBER:
        return b"", f"member {member.name} holds {member.size:,} bytes, more than {_MAX_MEMBER:,}"
    reader = tar.extractfile(member)
    assert reader is not None
    try:
        return reader.read(), None
    except tarfile.ReadError:
        return b"", f"member {member.name} is cut short: the tar ends within it"
