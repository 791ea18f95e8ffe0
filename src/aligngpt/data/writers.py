"""Writers: records in the format they were read from, one at a time, with all their fields.

    llava_json    a `.json` file
    json_lines    a `.jsonl` or `.ndjson` file
    parquet       a `.parquet` file, or a folder with the files' own names
    datasets      a folder
    webdataset    a `.tar` or `.tar.gz` file, or a folder with the shards' own names

A file of a folder is written only if it has a record. A record can be written several times: from the second copy on,
its id ends in `~2`, `~3`, ... A level is written as `alignment_level`, from 1; in WebDataset as a member,
`alignment_level.txt`.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.data.records import ID_NAMES, SourceRecord, SourceShard, short_names
from aligngpt.data.sources import Source
from aligngpt.data.table_format import table_schema
from aligngpt.data.webdataset_format import KEY
from aligngpt.utils.io import hash_file, read_json, write_json

LEVEL = "alignment_level"

_SUFFIXES: dict[str, tuple[str, ...]] = {
    "llava_json": (".json",),
    "json_lines": (".jsonl", ".ndjson"),
    "parquet": (".parquet", ""),
    "datasets": ("",),
    "webdataset": (".tar", ".tar.gz", ".tgz", ""),
}
_ROWS_PER_BATCH = 64
_GROUP_ROWS, _GROUP_BYTES = 10_000, 1 << 23  # small, because random access reads whole row groups
_LEVEL_FEATURE = {"dtype": "int8", "_type": "Value"}
_ARROW_FILE = "data-00000-of-00001.arrow"


# Writes a record of a shard: the number of the copy, from 1, and its level, `None` to omit it.
WriteRecord = Callable[[SourceShard, SourceRecord, int, int | None], None]
# The same for one file.
_Write = Callable[[SourceRecord, int, int | None], None]


def check_output(source: Source, output: str | os.PathLike[str]) -> None:
    """Check that the output has a suffix of the source's format.

    Raises:
        ValueError: It has another one.
    """
    if _suffix(output) not in _SUFFIXES[source.kind]:
        expected = " or ".join(f"a {suffix} file" if suffix else "a folder" for suffix in _SUFFIXES[source.kind])
        raise ValueError(f"{output}: expected {expected}, the format of {source.path} ({source.kind})")


def _suffix(output: str | os.PathLike[str]) -> str:
    """Return the format's suffix that an output has; "" for a folder, with or without dots in its name."""
    name = Path(output).name.lower()
    suffixes = {suffix for suffixes in _SUFFIXES.values() for suffix in suffixes}
    return max((suffix for suffix in suffixes if name.endswith(suffix)), key=len)


@contextmanager
def open_writer(
    source: Source, output: str | os.PathLike[str], path: Path, with_levels: bool = False
) -> Iterator[WriteRecord]:
    """Yield a function that writes records in the format of a source; the output is complete when the block ends.

    Args:
        source: The source of the records, which are written in its order.
        output: The final path of the output, which decides between a file and a folder.
        path: The path to write to.
        with_levels: Whether records get their level.

    Raises:
        ValueError: From the function: a second copy needs an id that cannot be changed, or samples of several tars
            have the same name and go into one tar.
    """
    if source.kind in ("parquet", "webdataset") and not _suffix(output):
        with _files(path, source, with_levels) as write:
            yield write
        return
    like = _first_table(source) if source.kind in ("parquet", "datasets") else str(output)
    shard_of: dict[str, int] = {}
    with _BEGIN[source.kind](path, like, source.columns.id, with_levels) as write_record:

        def write_one(shard: SourceShard, record: SourceRecord, copy: int, level: int | None) -> None:
            if source.kind == "webdataset" and len(source.files) > 1:
                name = record.raw[KEY]
                if shard_of.setdefault(name, shard.number) != shard.number:
                    raise ValueError(
                        f"sample {name} is in several tars, which cannot be merged; choose a folder as --output"
                    )
            write_record(record, copy, level)

        yield write_one


def _first_table(source: Source) -> str:
    """Return the first file that can be read and has the columns; the output gets its schema."""
    for location in source.files:
        with suppress(OSError, ValueError):
            source.columns.among(table_schema(location).names)
            return location
    raise ValueError(f"{source.path}: none of its files can be read")


def can_be_written(source: Source, record: SourceRecord) -> bool:
    """Return whether a record can be written as it was read, which a damaged one cannot."""
    if source.kind == "webdataset" and isinstance(record.raw, dict):
        members = [content for name, content in record.raw.items() if name != KEY]
        return bool(members) and (record.error is None or b"" not in members)
    return record.raw is not None


def copy_id(record_id: str, copy: int) -> str:
    """Return the id of a copy, numbered from 1."""
    return record_id if copy == 1 else f"{record_id}~{copy}"


# One file of each format ---------------------------------------------------------------------------------------------


@contextmanager
def _json_file(path: Path, like: str, id_column: str | None, with_levels: bool) -> Iterator[_Write]:
    """Write one record per line, as an array if `like` is JSON and not JSON Lines."""
    is_array = like.lower().endswith(".json")
    separator, next_separator, end = (b"[\n", b",\n", b"\n]\n") if is_array else (b"", b"\n", b"\n")
    with open(path, "wb") as file:

        def write(record: SourceRecord, copy: int, level: int | None) -> None:
            nonlocal separator
            file.write(separator + _json(_changed(record, id_column, copy, level)))
            separator = next_separator

        yield write
        file.write(end)


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # an unpaired surrogate, which JSON can only have as an escape
        return json.dumps(value).encode()


@contextmanager
def _parquet_file(path: Path, like: str, id_column: str | None, with_levels: bool) -> Iterator[_Write]:
    schema = _schema(like, with_levels)
    with pq.ParquetWriter(path, schema) as sink, _rows(sink, schema, id_column) as write:
        yield write


@contextmanager
def _datasets_folder(path: Path, like: str, id_column: str | None, with_levels: bool) -> Iterator[_Write]:
    """Write a folder as `datasets` saves it: an Arrow stream, and two JSON files that describe it."""
    path.mkdir(parents=True)
    schema = _schema(like, with_levels)
    with pa.ipc.new_stream(path / _ARROW_FILE, schema) as sink, _rows(sink, schema, id_column) as write:
        yield write
    info, state = (read_json(Path(like).parent / name) for name in ("dataset_info.json", "state.json"))
    if with_levels and info.get("features"):
        info["features"][LEVEL] = _LEVEL_FEATURE
    state["_data_files"] = [{"filename": _ARROW_FILE}]
    state["_fingerprint"] = hash_file(path / _ARROW_FILE)[:16]  # `datasets` caches by it
    write_json(path / "dataset_info.json", info)
    write_json(path / "state.json", state)


@contextmanager
def _rows(sink: Any, schema: pa.Schema, id_column: str | None) -> Iterator[_Write]:
    """Write rows of a table in groups of 10,000 rows or 8 MB."""
    rows: list[Any] = []
    batches: list[pa.RecordBatch] = []

    def add_batch() -> None:
        batches.append(pa.RecordBatch.from_pylist(rows, schema=schema))
        rows.clear()

    def flush() -> None:
        sink.write_table(pa.Table.from_batches(batches, schema=schema))
        batches.clear()

    def write(record: SourceRecord, copy: int, level: int | None) -> None:
        if copy > 1:
            _check_id_type(schema, _id_key(record.raw, id_column))
        rows.append(_changed(record, id_column, copy, level))
        if len(rows) == _ROWS_PER_BATCH:
            add_batch()
            if sum(map(len, batches)) >= _GROUP_ROWS or sum(batch.nbytes for batch in batches) >= _GROUP_BYTES:
                flush()

    yield write
    add_batch()
    flush()


def _schema(like: str, with_levels: bool) -> pa.Schema:
    """Return the columns of a file, with one for the level if it has to be added."""
    schema = table_schema(like)
    if not with_levels or LEVEL in schema.names:
        return schema
    metadata = dict(schema.metadata or {})
    if b"huggingface" in metadata:  # `datasets` lists its types there and refuses other columns
        description = json.loads(metadata[b"huggingface"])
        description["info"]["features"][LEVEL] = _LEVEL_FEATURE
        metadata[b"huggingface"] = json.dumps(description).encode()
    return schema.append(pa.field(LEVEL, pa.int8())).with_metadata(metadata)


def _check_id_type(schema: pa.Schema, column: str | None) -> None:
    kind = None if column is None else schema.field(column).type
    if kind is not None and not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"column {column} has type {kind}, but a second copy needs a text id; use weights up to 1")


@contextmanager
def _tar_file(path: Path, like: str, id_column: str | None, with_levels: bool) -> Iterator[_Write]:
    """Write a tar whose bytes depend only on the samples, not on the time; compressed if `like` is."""
    with ExitStack() as stack:
        file: Any = stack.enter_context(open(path, "wb"))
        if like.lower().endswith("gz"):
            file = stack.enter_context(gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0))
        tar = stack.enter_context(tarfile.open(fileobj=file, mode="w"))

        def write(record: SourceRecord, copy: int, level: int | None) -> None:
            members = {name: content for name, content in record.raw.items() if name != KEY}
            if copy > 1 and "json" in members:
                members["json"] = _json_member(members["json"], id_column or "id", copy_id(record.id, copy))
            if level is not None:
                members[f"{LEVEL}.txt"] = str(level).encode()
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{copy_id(record.raw[KEY], copy)}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

        yield write


def _json_member(content: bytes, field: str, record_id: str) -> bytes:
    """Return a json member with its id replaced, if it has one."""
    with suppress(ValueError):
        fields = json.loads(content)
        if isinstance(fields, dict) and field in fields:
            return _json(fields | {field: record_id})
    return content


_BEGIN: dict[str, Callable[[Path, str, str | None, bool], AbstractContextManager[_Write]]] = {
    "llava_json": _json_file,
    "json_lines": _json_file,
    "parquet": _parquet_file,
    "datasets": _datasets_folder,
    "webdataset": _tar_file,
}


# A folder of files ---------------------------------------------------------------------------------------------------


@contextmanager
def _files(folder: Path, source: Source, with_levels: bool) -> Iterator[WriteRecord]:
    """Write a file for each of the source's, under the same name, once it has a record."""
    names = short_names(source.files)
    current: int | None = None
    write_record: _Write
    with ExitStack() as stack:

        def write(shard: SourceShard, record: SourceRecord, copy: int, level: int | None) -> None:
            nonlocal current, write_record
            if shard.file != current:
                stack.close()
                current, path = shard.file, folder / names[shard.file]
                path.parent.mkdir(parents=True, exist_ok=True)
                begin = _BEGIN[source.kind](path, source.files[current], source.columns.id, with_levels)
                write_record = stack.enter_context(begin)
            write_record(record, copy, level)

        yield write


# Changed records -----------------------------------------------------------------------------------------------------


def _changed(record: SourceRecord, id_column: str | None, copy: int, level: int | None) -> Any:
    """Return a JSON object or a row with the id of the copy and with the level."""
    row = record.raw
    if not isinstance(row, dict) or (copy == 1 and level is None):
        return row
    changed = dict(row)
    key = _id_key(row, id_column)
    if copy > 1 and key is not None:
        changed[key] = copy_id(record.id, copy)
    if level is not None:
        changed[LEVEL] = level
        if row.get("similarity") is not None:  # the same level from 0, which has to agree
            changed["similarity"] = level - 1
    return changed


def _id_key(row: Any, id_column: str | None) -> str | None:
    return id_column or next((name for name in ID_NAMES if name in row), None)
