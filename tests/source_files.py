"""Small inputs in every format."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.data.indexed import IndexedSource, open_conversations, open_pairs
from aligngpt.data.schema import Conversation, ImageTextPair
from aligngpt.data.sources import Source, SourceRecord, open_source

COUNT = 25


def turns(caption: Any) -> list[dict[str, Any]]:
    return [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": caption}]


def llava(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"p{number}", "image": f"{number}.png", "conversations": turns(f"cäption {number}")} | changes


def indexed(
    records: Sequence[ImageTextPair] | Sequence[Conversation], images: Path, folder: Path | None = None
) -> IndexedSource[Any]:
    """Write pairs or conversations to a file, by default next to their images, and index it."""
    pairs = isinstance(next(iter(records), None), ImageTextPair)
    values = []
    for record in records:
        if isinstance(record, ImageTextPair):
            value = {"id": record.id, "image": record.image, "conversations": turns(record.caption)}
        else:
            roles = {"user": "human", "assistant": "gpt"}
            texts = [{"from": roles[turn.role], "value": turn.text} for turn in record.turns]
            value = {"id": record.id, "image": list(record.images), "conversations": texts}
        values.append(value | ({} if record.alignment_level is None else {"alignment_level": record.alignment_level}))
    path = write_lines(Path(tempfile.mkdtemp(dir=folder or images.parent)), values)
    source = open_source(path, images)
    return open_pairs(source) if pairs else open_conversations(source)


def read(source: Source) -> list[SourceRecord]:
    return [record for shard in source.shards() for record in shard.read()]


def errors(source: Source) -> list[str | None]:
    return [record.error for record in read(source)]


def facts(source: Source) -> list[tuple[str, str | None]]:
    return [(record.id, record.caption) for record in read(source)]


def write_json(folder: Path, values: Any, name: str = "pairs.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(folder: Path, values: list[Any]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values), encoding="utf-8")
    return path


def write_parquet(path: Path, columns: dict[str, Any], **settings: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, **settings)
    return path


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(numbers: range, folder: str = "") -> dict[str, bytes]:
    """Return two members for each sample: an image of 700 bytes, and its text."""
    members = {}
    for number in numbers:
        members[f"{folder}p{number}.jpg"] = bytes([number % 256]) * 700
        members[f"{folder}p{number}.txt"] = f"cäption {number}".encode()
    return members


def datasets_folder(folder: Path, table: pa.Table, files: int = 2) -> Path:
    """Write a folder as `save_to_disk` does, as far as it is read."""
    folder.mkdir()
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    size = -(-table.num_rows // files)
    for number, name in enumerate(names):
        part = table.slice(number * size, size)
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(part, max_chunksize=4)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def every_format(folder: Path) -> dict[str, Source]:
    """Write the same pairs in all five formats, with the images in the records where possible."""
    numbers = range(COUNT)
    columns: dict[str, list[Any]] = {
        "id": [f"p{number}" for number in numbers],
        "image": [{"bytes": bytes([number]) * 700, "path": None} for number in numbers],
        "caption": [f"cäption {number}" for number in numbers],
    }
    write_parquet(folder / "parquet" / "a.parquet", {name: column[:13] for name, column in columns.items()})
    write_parquet(folder / "parquet" / "b.parquet", {name: column[13:] for name, column in columns.items()})
    write_tar(folder / "tars" / "00.tar", samples(range(13)))
    write_tar(folder / "tars" / "01.tar", samples(range(13, COUNT)))
    paths = {
        "llava_json": write_json(folder, [llava(number) for number in numbers]),
        "json_lines": write_lines(folder, [llava(number) for number in numbers]),
        "parquet": folder / "parquet",
        "datasets": datasets_folder(folder / "set", pa.table(columns)),
        "webdataset": folder / "tars",
    }
    return {kind: open_source(place) for kind, place in paths.items()}
