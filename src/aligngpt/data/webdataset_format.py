"""Records of WebDataset: the members of a tar that share a name make one sample, `0001.jpg` and `0001.txt`."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import IO, Any, cast

from aligngpt.data.records import (
    CAPTION_NAMES,
    Columns,
    SourceRecord,
    SourceShard,
    open_binary,
    row_record,
    short_names,
)
from aligngpt.data.schema import RecordError
from aligngpt.utils.text import one_line

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm")
CAPTION_SUFFIXES = ("txt", "text", "caption")
KEY = "__key__"

_LARGEST_MEMBER = 1 << 28
_BLOCK = 1 << 20
_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}

Sample = dict[str, Any]


def tar_shards(files: tuple[str, ...], columns: Columns) -> list[SourceShard]:
    """One shard for each tar; nothing is read. Ids need to differ within a tar only."""
    names = short_names(files)
    return [
        SourceShard(number, name, partial(_read_tar, place, name, columns))
        for number, (place, name) in enumerate(zip(files, names, strict=True))
    ]


def _read_tar(place: str, shard: str, columns: Columns) -> Iterator[SourceRecord]:
    seen: dict[str, int] = {}
    for index, (sample, damage) in enumerate(_samples(place)):
        record = _sample_record(sample, damage, index, columns, shard)
        first = seen.setdefault(record.id, index)
        if first != index and record.error is None:
            record = replace(record, error=f"duplicate id, also that of record {first}")
        yield record


def _sample_record(sample: Sample, damage: str | None, index: int, columns: Columns, shard: str) -> SourceRecord:
    wanted = (columns.image.lower(),) if columns.image else IMAGE_SUFFIXES
    ends = {name: {name, name.rpartition(".")[2]} for name in sample if name != KEY}
    suffix = next((name for name, end in ends.items() if not end.isdisjoint(wanted)), None)
    image = f"{shard}#{sample[KEY]}{f'.{suffix}' if suffix else ''}"
    row: Sample = {"id": sample[KEY], "image": sample[suffix] if suffix else None}
    try:
        if damage is not None:
            raise RecordError(damage)
        row |= _id_and_caption(sample, columns)
    except RecordError as error:
        return SourceRecord(index, str(row["id"]), image, None, error=str(error), raw=sample)
    record = row_record(row, index, Columns(), image)
    return replace(record, image=image, raw=sample)


def _id_and_caption(sample: Sample, columns: Columns) -> Sample:
    """The fields of a record that its members tell, beside the image."""
    fields: Any = {}
    if "json" in sample:
        try:
            fields = json.loads(sample["json"])
        except (ValueError, RecursionError) as error:
            raise RecordError(f"broken json member: {one_line(error)}") from None
    fields = fields if isinstance(fields, dict) else {}
    named = fields.get(columns.id or "id")
    found = {"id": sample[KEY] if named is None else named}
    suffixes = (columns.caption,) if columns.caption else CAPTION_SUFFIXES
    member = next((suffix for suffix in suffixes if suffix in sample), None)
    if member is not None:
        try:
            return found | {"caption": sample[member].decode("utf-8-sig")}
        except UnicodeDecodeError:
            raise RecordError(f"the {member} member is not UTF-8 text") from None
    name = next((name for name in ((columns.caption,) if columns.caption else CAPTION_NAMES) if name in fields), None)
    if name is None:
        wanted = columns.caption or " or ".join(CAPTION_NAMES)
        raise RecordError(f"no caption: expected a {suffixes[0]} member, or {wanted} in a json member")
    return found | {"conversations" if isinstance(fields[name], list) else "caption": fields[name]}


def _samples(place: str) -> Iterator[tuple[Sample, str | None]]:
    """Samples in order, each with what is wrong with it; a damaged stretch of the tar is a sample of its own."""
    sample: Sample = {}
    damage = None
    for key, suffix, content, wrong in _members(place):
        if sample and key != sample[KEY]:
            yield sample, damage
            sample, damage = {}, None
        sample[KEY] = key
        damage = damage or wrong
        if suffix:
            sample[suffix] = content
    if sample:
        yield sample, damage


def _members(place: str) -> Iterator[tuple[str, str, bytes, str | None]]:
    """Name, extension, content and defect of each file. Behind a damaged stretch it goes on at the next header."""
    with open_binary(place) as file:
        stream = _unpacked(file)
        tar, end, content_end = _opened(stream), 0, 0
        while (member := _next(tar, stream)) is not None:
            if stream.header is not None and stream.header < member.offset:
                lost = f"tar damaged from byte {end} to byte {member.offset}: what stood there is lost"
                yield f"byte {end}", "", b"", lost
            end, content_end = tar.offset, member.offset_data + member.size
            tar.members = []  # type: ignore[attr-defined]  # else every header that was read stays in memory
            folder, _, name = member.name.rpartition("/")
            base, _, suffix = name.partition(".")
            if member.isfile() and base and not (base.startswith("__") and base.endswith("__")):
                key = f"{folder}/{base}".lstrip("/")
                yield key, suffix.lower(), *_content(tar, member)
            stream.header = None
        if stream.header is not None or stream.broken is not None or stream.tell() < content_end:
            why = f" ({one_line(stream.broken)})" if stream.broken is not None else ""
            yield f"byte {end}", "", b"", f"tar cut short or damaged{why}: what stood here is lost"


class _Forward:
    """A stream that is read but never turned back, whatever is packed in it and wherever it comes from.

    Attributes:
        header: Where the first block stood that was read like a header and is not empty, since this was set to `None`.
        broken: Why the packed stream could not be unpacked further, which is where it ends.
        ended: Whether its end has been seen.
    """

    def __init__(self, file: Any, ahead: bytes = b"") -> None:
        self.header: int | None = None
        self.broken: Exception | None = None
        self.ended = False
        self._file, self._ahead, self._at = file, ahead, 0

    def read(self, size: int = _BLOCK) -> bytes:
        """The next `size` bytes, fewer at the end alone."""
        parts, left = [self._ahead[:size]], size - len(self._ahead[:size])
        self._ahead = self._ahead[size:]
        while left and not self.ended:
            parts.append(self._more(left))
            left -= len(parts[-1])
        block = b"".join(parts)
        if size == tarfile.BLOCKSIZE and self.header is None and block.strip(b"\0"):
            self.header = self._at
        self._at += len(block)
        return block

    def _more(self, size: int) -> bytes:
        try:
            block: bytes = self._file.read(size)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of a disk or a network, not of the content
                raise
            self.broken, block = error, b""
        self.ended = not block
        return block

    def tell(self) -> int:
        """How many bytes have been passed."""
        return self._at

    def seek(self, place: int) -> None:
        """Pass on to a place."""
        if place < self._at:
            raise tarfile.StreamError(f"byte {place} has been passed, this is byte {self._at}")
        while self._at < place and not self.ended:
            self.read(min(_BLOCK, place - self._at))


def _unpacked(file: IO[bytes]) -> _Forward:
    head = file.read(max(map(len, _PACKED)))
    unpack = next((unpack for magic, unpack in _PACKED.items() if head.startswith(magic)), None)
    return _Forward(file, head) if unpack is None else _Forward(unpack(_Forward(file, head)))


def _opened(stream: _Forward) -> tarfile.TarFile:
    try:
        return tarfile.TarFile(fileobj=cast(IO[bytes], stream), ignore_zeros=True)
    except tarfile.ReadError:
        why = f": {one_line(stream.broken)}" if stream.broken is not None else ""
        raise tarfile.ReadError(f"not a readable tar file{why}") from None


def _next(tar: tarfile.TarFile, stream: _Forward) -> tarfile.TarInfo | None:
    while True:
        try:
            return tar.next()
        except tarfile.ReadError:  # the file ends within the member before, or a header lacks the one it belongs to
            if stream.ended:
                return None
            tar.offset = stream.tell()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[bytes, str | None]:
    if member.size > _LARGEST_MEMBER:
        return b"", f"member {member.name} holds {member.size:,} bytes, more than {_LARGEST_MEMBER:,}"
    reader = tar.extractfile(member)
    assert reader is not None
    try:
        return reader.read(), None
    except tarfile.ReadError:
        return b"", f"member {member.name} is cut short: the tar ends within it"
