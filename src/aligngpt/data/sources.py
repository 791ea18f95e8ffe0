"""Image-text pairs of any of five formats as one stream of records, divided into shards that can be read alone.

    llava_json    `.json`, an array of LLaVA's records, or of objects with `image` and `caption` (or `text`)
    json_lines    `.jsonl` or `.ndjson`, the same with a record a line
    parquet       a `.parquet` file, a folder of them, or a pattern such as `{a..d}.parquet`
    datasets      a folder of `datasets`' `save_to_disk`, on this machine
    webdataset    a `.tar` or `.tar.gz` file, a folder of them, or a pattern: `x/{00000..00009}.tar`, `x/*.tar`

Other places may be anything fsspec opens. No input is ever held in memory as a whole.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import fsspec  # type: ignore[import-untyped]

from aligngpt.data import json_format as json_records
from aligngpt.data import table_format as tables
from aligngpt.data import webdataset_format as tars
from aligngpt.data.records import Columns, SourceRecord, SourceShard, open_binary, short_names
from aligngpt.utils.io import read_json

__all__ = ["Columns", "Source", "SourceRecord", "SourceShard", "open_source"]

Kind = Literal["llava_json", "json_lines", "parquet", "datasets", "webdataset"]

_BY_SUFFIX: dict[str, Kind] = {
    ".json": "llava_json",
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".tar.gz": "webdataset",
    ".tgz": "webdataset",
}
_FILES_AT_ONCE = 16
_WHOLE, _PIECES, _PIECE = 1 << 20, 8, 1 << 13  # what is looked at of a file
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Source:
    """An input, opened but not yet read; see `open_source`.

    Attributes:
        kind: Its format.
        path: As it was given, without `file://`.
        images: The folder its image paths start from, where it has paths.
        files: The files it consists of, in the order they are read; a missing one of a pattern is among them.
        columns: Which fields hold image, caption and id.
    """

    kind: Kind
    path: str
    images: Path | None
    files: tuple[str, ...] = field(repr=False)
    columns: Columns

    def shards(self) -> list[SourceShard]:
        """The input's division, always the same: 10,000 records of a JSON file, row groups of about 10,000 rows of a
        Parquet file, 10,000 rows of a datasets folder, one tar each of WebDataset.

        JSON is read once for it, of tables the column of ids alone, of tars nothing.

        Raises:
            ValueError: If a file as a whole is not what its format asks for, or lacks the columns.
        """
        return self._shards

    @cached_property
    def _shards(self) -> list[SourceShard]:
        divide: dict[Kind, Callable[[tuple[str, ...], Columns], list[SourceShard]]] = {
            "llava_json": json_records.array_shards,
            "json_lines": json_records.line_shards,
            "parquet": tables.parquet_shards,
            "datasets": tables.arrow_shards,
            "webdataset": tars.tar_shards,
        }
        images = None if self.images is None else str(self.images)
        return [replace(shard, images=images) for shard in divide[self.kind](self.files, self.columns)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 that tells this input from others: of the content of a JSON file, else of every file's name, size and

        * of Parquet the footer, in which nearly any change shows,
        * of other files up to 1 MiB the content, of larger ones eight pieces of 8 KiB: one that is changed elsewhere,
          and keeps its size, is not noticed. Of files on the web, http or https, the size alone.
        """
        if self.kind in ("llava_json", "json_lines"):
            with open_binary(self.files[0]) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:  # which spares time where files are far away
            looked_at = pool.map(_with_footer if self.kind == "parquet" else _with_pieces, self.files)
            for name, (size, content) in zip(short_names(self.files), looked_at, strict=True):
                digest.update(f"{name}\0{size}\n".encode())
                digest.update(content)
        return digest.hexdigest()


def open_source(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    id_column: str | None = None,
) -> Source:
    """Find out what an input is.

    Args:
        path: A file, a folder, or a pattern; the formats are listed at the top of this module.
        images: What image paths are relative to; not needed where the images come with the records.
        image_column: Field of the image, `image`, `image_path` or `file_name` unless given. In WebDataset the
            extension of the member, any image's unless given.
        caption_column: Field of the text, `conversations`, `caption` or `text` unless given. In WebDataset the
            extension of the member (`txt`), or a field of the sample's `json`.
        id_column: Field of the id, `id` or `key` unless given. In WebDataset a field of the sample's `json`; the
            sample's name where there is none.

    Raises:
        FileNotFoundError: If there is nothing at `path`, or no folder `images`.
        ValueError: If it is of no known format.
    """
    place = _plain(str(path))
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"{images}: no such image folder; images are looked up relative to it")
    kind, files = _folder(place) if _is_folder(place) else _files(place)
    columns = Columns(image_column, caption_column, id_column)
    return Source(kind, place, None if images is None else Path(images), files, columns)


def open_as_scored(
    path: str | os.PathLike[str], manifest: Mapping[str, Any], images: str | os.PathLike[str] | None = None
) -> Source:
    """Open pairs again with the fields they were scored by; arguments and errors as in `open_source`.

    Args:
        manifest: Of the folder of their scores.
    """
    fields = manifest["inputs"]["fields"]
    return open_source(
        path, images, image_column=fields["image"], caption_column=fields["caption"], id_column=fields["id"]
    )


def _plain(place: str) -> str:
    """A place on this machine without `file://`."""
    if "://" not in place:
        return place
    system, root = fsspec.core.url_to_fs(place)
    return str(root) if _is_local(system) else place


def _is_local(system: Any) -> bool:
    return "file" in _protocols(system)


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _kind(name: str) -> Kind | None:
    return next((kind for suffix, kind in _BY_SUFFIX.items() if name.lower().endswith(suffix)), None)


def _files(place: str) -> tuple[Kind, tuple[str, ...]]:
    """A file, or the files of a pattern: of braces, which may name missing ones, or of stars, which finds those there
    are."""
    files = tuple(file for name in _expanded(place) for file in (_found(name) if "*" in name else [name]))
    if not files:
        raise FileNotFoundError(f"{place}: no file is called so")
    kind = _kind(files[0])
    other = next((file for file in files if _kind(file) is None or _kind(file) != kind), None)
    if kind is None or other is not None:
        suffixes = Path(other or place).suffixes
        packed = "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else None
        raise ValueError(
            f"{place}: expected .json, .jsonl, .ndjson, .parquet or .tar, or a folder of Parquet files, of tars or of "
            f"`datasets`, got {f'{packed}: unpack it first' if packed else suffixes[-1] if suffixes else 'no suffix'}"
        )
    if kind in ("llava_json", "json_lines") and len(files) > 1:
        raise ValueError(f"{place}: expected one {Path(files[0]).suffix} file, got {len(files)}: put them into one")
    if not any(_exists(file) for file in files):
        what = "no such file" if len(files) == 1 else f"none of its {len(files)} files exists"
        raise FileNotFoundError(f"{place}: {what}")
    return kind, files


def _found(pattern: str) -> list[str]:
    """The files a pattern of stars stands for, in the order of their names."""
    system, root = fsspec.core.url_to_fs(pattern)
    return [_named(system, name, pattern) for name in sorted(system.glob(root)) if system.isfile(name)]


def _named(system: Any, name: str, like: str) -> str:
    """A file of a file system as `like` names its own, with the protocol or without."""
    return str(system.unstrip_protocol(name)) if "://" in like else name


def _expanded(place: str) -> list[str]:
    """Every `{00000..00009}`, `{a..c}` and `{a,b}` written out; numbers keep their zeros."""
    found = _BRACES.search(place)
    if found is None:
        return [place]
    inside = found[1].split(",")
    first, _, last = inside[0].partition("..")
    if len(inside) == 1 and first.isdigit() and last.isdigit():
        inside = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    elif len(inside) == 1 and len(first) == len(last) == 1:
        inside = [chr(letter) for letter in range(ord(first), ord(last) + 1)]
    if len(inside) == 0:
        raise ValueError(f"{place}: {{{found[1]}}} counts downwards; write the lower end first")
    return [file for part in inside for file in _expanded(f"{place[: found.start()]}{part}{place[found.end() :]}")]


def _folder(place: str) -> tuple[Kind, tuple[str, ...]]:
    """A folder of `datasets`, or of Parquet files or tars, below it too, in the order of their names."""
    system, root = fsspec.core.url_to_fs(place)
    names = sorted(system.find(root))
    for name in ("state.json", "dataset_dict.json"):
        if f"{root}/{name}" in names and not _is_local(system):
            raise ValueError(f"{place}: a folder of `datasets` is read where it lies on this machine: copy it here")
    if f"{root}/state.json" in names:
        return "datasets", tuple(f"{root}/{one['filename']}" for one in read_json(f"{root}/state.json")["_data_files"])
    if f"{root}/dataset_dict.json" in names:
        splits = ", ".join(read_json(f"{root}/dataset_dict.json")["splits"])
        raise ValueError(f"{place} holds several sets ({splits}): give the folder of one of them")
    found = {kind: [name for name in names if _kind(name) == kind] for kind in ("parquet", "webdataset")}
    if all(found.values()):
        counts = f"{len(found['parquet'])} Parquet files and {len(found['webdataset'])} tars"
        raise ValueError(f"{place} holds {counts}: give a pattern of one kind, such as {place}/*.tar")
    for kind in ("parquet", "webdataset"):
        if found[kind]:
            return kind, tuple(_named(system, name, place) for name in found[kind])
    raise ValueError(f"{place}: expected a folder of `datasets`, of .parquet or of .tar files, found none of them")


def _is_folder(place: str) -> bool:
    """Whether a place is a folder; on the web there are none, and to ask for one is to fetch the whole file."""
    system, root = fsspec.core.url_to_fs(place)
    return not _is_web(system) and bool(system.isdir(root))


def _exists(place: str) -> bool:
    return _size(place) is not None


def _with_footer(place: str) -> tuple[int | None, bytes]:
    """A Parquet file's size and footer."""
    return _size(place), tables.footer(place)


def _with_pieces(place: str) -> tuple[int | None, bytes]:
    """A file's size, and its content or pieces of it evenly spaced from its first byte to its last.

    No content of a missing file, nor on the web, where a server that knows no pieces would send all of it.
    """
    size = _size(place)
    if size is None or _is_web(fsspec.core.url_to_fs(place)[0]):
        return size, b""
    return size, _pieces(place, size)


def _pieces(place: str, size: int) -> bytes:
    with open_binary(place) as file:
        if size <= _WHOLE:
            return file.read()
        content = b""
        for number in range(_PIECES):
            file.seek(number * (size - _PIECE) // (_PIECES - 1))
            content += file.read(_PIECE)
        return content


def _size(place: str) -> int | None:
    """A file's size, -1 where a server does not tell it; `None` if there is no such file."""
    system, root = fsspec.core.url_to_fs(place)
    if not _is_web(system) and not system.isfile(root):  # on the web that begins to fetch it
        return None
    try:
        size = system.size(root)
    except FileNotFoundError:
        return None
    return -1 if size is None else size


def _is_web(system: Any) -> bool:
    return not {"http", "https"}.isdisjoint(_protocols(system))
