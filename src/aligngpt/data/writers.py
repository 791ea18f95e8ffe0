"""Records written in the format they were read from, one at a time, with all their fields.

    llava_json    a `.json` file
    json_lines    a `.jsonl` or `.ndjson` file
    parquet       a `.parquet` file, or a folder with the files' own names
    datasets      a folder
    webdataset    a `.tar` or `.tar.gz` file, or a folder with the shards' own names

A file of a folder of which no record is left is not written. A record may be written several times: copies from the
second on have `~2`, `~3`, ... behind their id. With its level a record has `alignment_level`, from 1; in WebDataset it
is a member, `alignment_level.txt`.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
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
_ROWS_AT_ONCE = 64
_GROUP_ROWS, _GROUP_BYTES = 10_000, 1 << 23  # small, because random access reads whole row groups
_LEVEL_FEATURE = {"dtype": "int8", "_type": "Value"}
_ARROW_FILE = "data-00000-of-00001.arrow"


# Writes a record of a shard: which copy of it, counted from 1, and its level, `None` to leave it out.
WriteRecord = Callable[[SourceShard, SourceRecord, int, int | None], None]
# The same for one file.
_Write = Callable[[SourceRecord, int, int | None], None]


def check_output(source: Source, output: str | os.PathLike[str]) -> None:
    """Check that the output's suffix is one of the source's format.

    Raises:
        ValueError: If it is another one.
    """
    wanted = _SUFFIXES[source.kind]
    if _suffix(output) not in wanted:
        asked = " or ".join(f"a {suffix} file" if suffix else "a folder" for suffix in wanted)
        raise ValueError(
            f"{output}: expected {asked}, for {source.path} is {source.kind}, and it is written as it is read"
        )


def _suffix(output: str | os.PathLike[str]) -> str:
    """The suffix an output has of those that stand for a format; "" for a folder, whatever dots are in its name."""
    name = Path(output).name.lower()
    known = {suffix for suffixes in _SUFFIXES.values() for suffix in suffixes}
    return max((suffix for suffix in known if name.endswith(suffix)), key=len)


@contextmanager
def open_writer(
    source: Source, output: str | os.PathLike[str], path: Path, with_levels: bool = False
) -> Iterator[WriteRecord]:
    """Give a function that writes records in the format of a source; the output is whole when the block ends.

    Args:
        source: What the records come from, in its order.
        output: What the output will be called, which tells a file from a folder.
        path: Where to write meanwhile.
        with_levels: Whether records get their level.

    Raises:
        ValueError: From the function, if a record's id cannot be changed as a second copy needs it, or samples of
            several tars have one name and are to be written to one.
    """
    id_column = source.columns.id
    if source.kind in ("parquet", "webdataset") and not _suffix(output):
        begin = partial(_parquet_file, with_levels=with_levels) if source.kind == "parquet" else _tar_file
        with _files(path, source, begin) as write:
            yield write
        return
    if source.kind == "llava_json":
        one_file: AbstractContextManager[_Write] = _json_array(path, id_column)
    elif source.kind == "json_lines":
        one_file = _json_lines(path, id_column)
    elif source.kind == "datasets":
        one_file = _datasets_folder(path, _first_table(source), id_column, with_levels)
    elif source.kind == "parquet":
        one_file = _parquet_file(path, _first_table(source), id_column, with_levels)
    else:
        one_file = _tar_file(path, str(output), id_column)
    shard_of: dict[str, int] = {}
    with one_file as write_record:

        def write_one(shard: SourceShard, record: SourceRecord, copy: int, level: int | None) -> None:
            if source.kind == "webdataset" and len(source.files) > 1:
                _check_name(shard_of, record.raw[KEY], shard.number)
            write_record(record, copy, level)

        yield write_one


def _check_name(shard_of: dict[str, int], name: str, shard: int) -> None:
    """Names of samples differ within a tar only, and would run into one another where several become one."""
    if shard_of.setdefault(name, shard) != shard:
        raise ValueError(f"sample {name} is in several of the tars, which cannot become one: name a folder as output")


def _first_table(source: Source) -> str:
    """The first file that can be read and has the columns: the output is made like it."""
    for place in source.files:
        with suppress(OSError, ValueError):
            source.columns.among(table_schema(place).names)
            return place
    raise ValueError(f"{source.path}: none of its files can be read")


def can_be_written(source: Source, record: SourceRecord) -> bool:
    """Whether a record can be written as it was read: what was lost in a damaged file cannot."""
    if source.kind == "webdataset" and isinstance(record.raw, dict):
        members = [content for name, content in record.raw.items() if name != KEY]
        return bool(members) and (record.error is None or b"" not in members)
    return record.raw is not None


def copy_id(name: str, copy: int) -> str:
    """The id of a copy, which counts from 1."""
    return name if copy == 1 else f"{name}~{copy}"


# One file of each format ---------------------------------------------------------------------------------------------


@contextmanager
def _json_array(path: Path, id_column: str | None) -> Iterator[_Write]:
    """An array with a record a line."""
    between = b"[\n"
    with open(path, "wb") as file:

        def write(record: SourceRecord, copy: int, level: int | None) -> None:
            nonlocal between
            file.write(between + _json(_changed(record.raw, record, id_column, copy, level)))
            between = b",\n"

        yield write
        file.write(b"\n]\n")


@contextmanager
def _json_lines(path: Path, id_column: str | None) -> Iterator[_Write]:
    with open(path, "wb") as file:

        def write(record: SourceRecord, copy: int, level: int | None) -> None:
            file.write(_json(_changed(record.raw, record, id_column, copy, level)) + b"\n")

        yield write


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold as an escape alone
        return json.dumps(value).encode()


@contextmanager
def _parquet_file(path: Path, like: str, id_column: str | None, with_levels: bool) -> Iterator[_Write]:
    schema = _schema(like, with_levels)
    with pq.ParquetWriter(path, schema) as sink, _rows(sink, schema, id_column) as write:
        yield write


@contextmanager
def _datasets_folder(path: Path, like: str, id_column: str | None, with_levels: bool) -> Iterator[_Write]:
    """A folder as `datasets` saves it: an Arrow stream, and what is known about it."""
    path.mkdir(parents=True)
    schema = _schema(like, with_levels)
    with pa.ipc.new_stream(path / _ARROW_FILE, schema) as sink, _rows(sink, schema, id_column) as write:
        yield write
    info, state = (read_json(Path(like).parent / name) for name in ("dataset_info.json", "state.json"))
    if with_levels and info.get("features"):
        info["features"][LEVEL] = _LEVEL_FEATURE
    state["_data_files"] = [{"filename": _ARROW_FILE}]
    state["_fingerprint"] = hash_file(path / _ARROW_FILE)[:16]  # by which `datasets` keeps what it makes of the rows
    write_json(path / "dataset_info.json", info)
    write_json(path / "state.json", state)


@contextmanager
def _rows(sink: Any, schema: pa.Schema, id_column: str | None) -> Iterator[_Write]:
    """Rows of a table, gathered to groups of 10,000 rows or 64 MB."""
    rows: list[Any] = []
    batches: list[pa.RecordBatch] = []

    def pack() -> None:
        batches.append(pa.RecordBatch.from_pylist(rows, schema=schema))
        rows.clear()

    def flush() -> None:
        sink.write_table(pa.Table.from_batches(batches, schema=schema))
        batches.clear()

    def write(record: SourceRecord, copy: int, level: int | None) -> None:
        if copy > 1:
            _check_id_type(schema, _id_key(record.raw, id_column))
        rows.append(_changed(record.raw, record, id_column, copy, level))
        if len(rows) == _ROWS_AT_ONCE:
            pack()
            if sum(map(len, batches)) >= _GROUP_ROWS or sum(batch.nbytes for batch in batches) >= _GROUP_BYTES:
                flush()

    yield write
    pack()
    flush()


def _schema(like: str, with_levels: bool) -> pa.Schema:
    """The columns of a file, and one for the level where it is to be added."""
    schema = table_schema(like)
    if not with_levels or LEVEL in schema.names:
        return schema
    metadata = dict(schema.metadata or {})
    if b"huggingface" in metadata:  # `datasets` notes its own types there, and takes no column it does not find
        noted = json.loads(metadata[b"huggingface"])
        noted["info"]["features"][LEVEL] = _LEVEL_FEATURE
        metadata[b"huggingface"] = json.dumps(noted).encode()
    return schema.append(pa.field(LEVEL, pa.int8())).with_metadata(metadata)


def _check_id_type(schema: pa.Schema, column: str | None) -> None:
    kind = None if column is None else schema.field(column).type
    if kind is not None and not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(
            f"column {column} holds {kind}, and a second copy needs an id of text: give weights of at most 1"
        )


@contextmanager
def _tar_file(path: Path, like: str, id_column: str | None) -> Iterator[_Write]:
    """A tar whose bytes depend on the samples alone, not on the time; packed where `like` is."""
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


def _json_member(content: bytes, field: str, name: str) -> bytes:
    """A json member with another id, if it has one."""
    try:
        fields = json.loads(content)
    except ValueError:
        return content
    return _json(fields | {field: name}) if isinstance(fields, dict) and field in fields else content


# A folder of files ---------------------------------------------------------------------------------------------------


@contextmanager
def _files(
    folder: Path, source: Source, begin: Callable[[Path, str, str | None], AbstractContextManager[_Write]]
) -> Iterator[WriteRecord]:
    """A file for each of the source's, under the same name, as soon as there is a record for it."""
    places = dict(zip(short_names(source.files), source.files, strict=True))
    current = ""
    write_record: _Write | None = None
    with ExitStack() as stack:

        def write(shard: SourceShard, record: SourceRecord, copy: int, level: int | None) -> None:
            nonlocal current, write_record
            name = shard.name if shard.name in places else shard.name.rpartition("[")[0]  # without the rows' range
            if write_record is None or name != current:
                stack.close()
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                current, write_record = name, stack.enter_context(begin(folder / name, places[name], source.columns.id))
            write_record(record, copy, level)

        yield write


# A record that is changed --------------------------------------------------------------------------------------------


def _changed(row: Any, record: SourceRecord, id_column: str | None, copy: int, level: int | None) -> Any:
    """A JSON object or a row with the id of its copy and with its level."""
    if not isinstance(row, dict) or (copy == 1 and level is None):
        return row
    changed = dict(row)
    key = _id_key(row, id_column)
    if copy > 1 and key is not None:
        changed[key] = copy_id(record.id, copy)
    if level is not None:
        changed[LEVEL] = level
        if row.get("similarity") is not None:  # the same level counted from 0, which must not contradict
            changed["similarity"] = level - 1
    return changed


def _id_key(row: Any, id_column: str | None) -> str | None:
    return id_column or next((name for name in ID_NAMES if name in row), None)
