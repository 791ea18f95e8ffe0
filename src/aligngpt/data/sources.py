"""Image-text pairs and conversations in any of five formats, opened for every consumer.

    llava_json    `.json`, an array of LLaVA's records, or of objects with `image` and `caption` (or `text`)
    json_lines    `.jsonl` or `.ndjson`, the same with one record per line
    parquet       a `.parquet` file, a folder of them, or a pattern such as `{a..d}.parquet`
    datasets      a folder written by `save_to_disk` of `datasets`, on this machine
    webdataset    a `.tar` or `.tar.gz` file, a folder of them, or a pattern: `x/{00000..00009}.tar`, `x/*.tar`

Locations may be anything that fsspec opens. An existing file whose name contains `{}` or `*` is that file. No input is
ever held in memory as a whole. `Source.shards` streams an input, `indexed.open_pairs` and `open_conversations` give
random access to it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import fsspec  # type: ignore[import-untyped]
import numpy as np
from braceexpand import braceexpand

from aligngpt.data import json_format, table_format, webdataset_format
from aligngpt.data.duplicate_ids import DuplicateIds
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
_WHOLE, _PIECES, _PIECE = 1 << 20, 8, 1 << 13  # bytes of a file that its fingerprint covers

# Divide files into shards, and add the ids of their records where they can be read alone.
_DIVIDE: dict[Kind, Callable[[tuple[str, ...], Columns, DuplicateIds], list[SourceShard]]] = {
    "llava_json": partial(json_format.json_shards, read=json_format.array_rows),
    "json_lines": partial(json_format.json_shards, read=json_format.line_rows),
    "parquet": partial(table_format.table_shards, open_table=table_format.ParquetReader),
    "datasets": partial(table_format.table_shards, open_table=table_format.ArrowReader),
    "webdataset": webdataset_format.tar_shards,
}


@dataclass(frozen=True)
class Source:
    """An input, opened but not yet read; see `open_source`.

    Attributes:
        kind: Its format.
        path: As it was passed, without `file://`.
        images: The folder that its image paths are relative to, if it has paths.
        files: Its files, in the order they are read; missing files of a brace pattern are among them.
        columns: Which fields hold image, caption and id.
    """

    kind: Kind
    path: str
    images: Path | None
    files: tuple[str, ...] = field(repr=False)
    columns: Columns

    def shards(self) -> list[SourceShard]:
        """Divide the input, always in the same way.

        A shard is 10,000 records of a JSON file, row groups of about 10,000 rows of a Parquet file, 10,000 rows of a
        `datasets` folder, or one tar. This reads JSON once, only the ids of tables, and nothing of tars.

        Raises:
            ValueError: A file as a whole is not in its format, or lacks the columns.
        """
        return self._shards

    @cached_property
    def _shards(self) -> list[SourceShard]:
        images = None if self.images is None else str(self.images)
        ids = DuplicateIds()
        shards = _DIVIDE[self.kind](self.files, self.columns, ids)
        indices, firsts = ids.find()
        bounds = [*np.searchsorted(indices, [shard.start for shard in shards]).tolist(), len(indices)]
        for number, (low, high) in enumerate(pairwise(bounds)):
            duplicates = dict(zip(indices[low:high].tolist(), firsts[low:high].tolist(), strict=True))
            shards[number] = replace(shards[number], number=number, images=images, duplicates=duplicates)
        return shards

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content of a JSON file; of other formats, of every file's name, size, and

        * the footer of Parquet, in which nearly any change shows,
        * the content of other files up to 1 MiB, and eight pieces of 8 KiB of larger ones: a change elsewhere that
          keeps the size is missed. Of files at http or https only the size is used.
        """
        if self.kind in ("llava_json", "json_lines"):
            with open_binary(self.files[0]) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return self._hash_files(_with_footer if self.kind == "parquet" else _with_pieces, b"")

    @cached_property
    def signature(self) -> str:
        """SHA-256 of the names, sizes and modification times of the files, which reads none of them."""
        return self._hash_files(_size_and_time, repr((self.kind, self.columns)).encode())

    def _hash_files(self, describe: Callable[[str], tuple[int | None, bytes]], prefix: bytes) -> str:
        """Return the SHA-256 of a prefix, and of the name, the size and what else describes each file."""
        digest = hashlib.sha256(prefix)
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:  # saves time where files are remote
            for name, (size, content) in zip(short_names(self.files), pool.map(describe, self.files), strict=True):
                digest.update(f"{name}\0{size}\n".encode() + content)
        return digest.hexdigest()


def open_source(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    id_column: str | None = None,
) -> Source:
    """Determine the format and the files of an input.

    Args:
        path: A file, a folder, or a pattern; the module lists the formats.
        images: The folder that image paths are relative to; not needed if the images come with the records.
        image_column: Field of the image, by default `image`, `image_path` or `file_name`. In WebDataset the extension
            of the member, by default any image's.
        caption_column: Field of the text, by default `conversations`, `caption` or `text`. In WebDataset the extension
            of the member (`txt`), or a field of the sample's `json`.
        id_column: Field of the id, by default `id` or `key`. In WebDataset a field of the sample's `json`; the
            sample's name if there is none.

    Raises:
        FileNotFoundError: There is nothing at `path`, or no folder `images`.
        ValueError: The format is unknown.
    """
    location = _without_file_protocol(str(path))
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"{images}: no such image folder; image paths are relative to it")
    kind, files = _in_folder(location) if _is_folder(location) else _in_pattern(location)
    columns = Columns(image_column, caption_column, id_column)
    return Source(kind, location, None if images is None else Path(images), files, columns)


def _without_file_protocol(location: str) -> str:
    if "://" not in location:
        return location
    system, root = fsspec.core.url_to_fs(location)
    return str(root) if _is_local(system) else location


def _is_local(system: Any) -> bool:
    return "file" in system.protocol


def _is_web(system: Any) -> bool:
    return "http" in system.protocol  # also in "https"


def _kind(name: str) -> Kind | None:
    return next((kind for suffix, kind in _BY_SUFFIX.items() if name.lower().endswith(suffix)), None)


def _in_pattern(location: str) -> tuple[Kind, tuple[str, ...]]:
    """Return a file, or the files of a pattern: of braces, which may name missing ones, or of stars, which match."""
    if ("*" in location or "{" in location) and _size(location) is None:
        files = tuple(file for name in braceexpand(location) for file in (_glob(name) if "*" in name else [name]))
    else:
        files = (location,)
    if not files:
        raise FileNotFoundError(f"{location}: no file matches")
    kind = _kind(files[0])
    mismatch = next((file for file in files if _kind(file) is None or _kind(file) != kind), None)
    if kind is None or mismatch is not None:
        suffixes = Path(mismatch or location).suffixes
        compressed = "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else None
        hint = f"{compressed}: decompress it first" if compressed else suffixes[-1] if suffixes else "no suffix"
        raise ValueError(
            f"{location}: expected .json, .jsonl, .ndjson, .parquet or .tar, or a folder of Parquet files, of tars or "
            f"of `datasets`, got {hint}"
        )
    if kind in ("llava_json", "json_lines") and len(files) > 1:
        raise ValueError(f"{location}: expected one {Path(files[0]).suffix} file, got {len(files)}; merge them")
    if not any(_size(file) is not None for file in files):
        reason = "no such file" if len(files) == 1 else f"none of its {len(files)} files exists"
        raise FileNotFoundError(f"{location}: {reason}")
    return kind, files


def _glob(pattern: str) -> list[str]:
    """Return the files that match a pattern, sorted by name."""
    system, root = fsspec.core.url_to_fs(pattern)
    return [_named(system, name, pattern) for name in sorted(system.glob(root)) if system.isfile(name)]


def _named(system: Any, name: str, like: str) -> str:
    """Name a file of a file system as `like` does, with the protocol or without."""
    return str(system.unstrip_protocol(name)) if "://" in like else name


def _in_folder(location: str) -> tuple[Kind, tuple[str, ...]]:
    """Return the files of a `datasets` folder, or the Parquet files or tars in a folder and below, sorted by name."""
    system, root = fsspec.core.url_to_fs(location)
    names = sorted(system.find(root))
    for name in ("state.json", "dataset_dict.json"):
        if f"{root}/{name}" in names and not _is_local(system):
            raise ValueError(f"{location}: a `datasets` folder has to be on this machine; copy it here")
    if f"{root}/state.json" in names:
        files = read_json(f"{root}/state.json")["_data_files"]
        return "datasets", tuple(f"{root}/{file['filename']}" for file in files)
    if f"{root}/dataset_dict.json" in names:
        splits = ", ".join(read_json(f"{root}/dataset_dict.json")["splits"])
        raise ValueError(f"{location} has several splits ({splits}); pass the folder of one of them")
    tables, tars = ([name for name in names if _kind(name) == kind] for kind in ("parquet", "webdataset"))
    if tables and tars:
        counts = f"{len(tables)} Parquet files and {len(tars)} tars"
        raise ValueError(f"{location} has {counts}; pass a pattern for one kind, such as {location}/*.tar")
    if not tables and not tars:
        raise ValueError(f"{location}: expected a folder of `datasets`, of .parquet or of .tar files, found neither")
    return "parquet" if tables else "webdataset", tuple(_named(system, name, location) for name in tables or tars)


def _is_folder(location: str) -> bool:
    """Return whether a location is a folder; the web has none, and asking for one would fetch the whole file."""
    system, root = fsspec.core.url_to_fs(location)
    return not _is_web(system) and bool(system.isdir(root))


# What identifies an input --------------------------------------------------------------------------------------------


def _with_footer(location: str) -> tuple[int | None, bytes]:
    return _size(location), table_format.footer(location)


def _with_pieces(location: str) -> tuple[int | None, bytes]:
    """Return a file's size, and its content or pieces evenly spaced from its first byte to its last.

    The content is b"" for a missing file and on the web, where a server without ranges would send all of it.
    """
    size = _size(location)
    if size is None or _is_web(fsspec.core.url_to_fs(location)[0]):
        return size, b""
    with open_binary(location) as file:
        if size <= _WHOLE:
            return size, file.read()
        content = b""
        for number in range(_PIECES):
            file.seek(number * (size - _PIECE) // (_PIECES - 1))
            content += file.read(_PIECE)
        return size, content


def _size(location: str) -> int | None:
    """Return a file's size, -1 if a server does not report it, `None` if there is no such file."""
    system, root = fsspec.core.url_to_fs(location)
    with suppress(FileNotFoundError):
        if _is_web(system) or system.isfile(root):  # on the web `isfile` would fetch it
            size = system.size(root)
            return -1 if size is None else size
    return None


def _size_and_time(location: str) -> tuple[int | None, bytes]:
    """Return a file's size, and on this machine its modification time in nanoseconds."""
    system, root = fsspec.core.url_to_fs(location)
    return _size(location), b"%d" % (os.stat(root).st_mtime_ns if _is_local(system) and os.path.exists(root) else 0)
