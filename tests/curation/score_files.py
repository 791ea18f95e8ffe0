"""Small sources of every format with folders of scores and levels made up for them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligngpt.curation.levels import write_levels
from aligngpt.curation.scoring.batches import caption_hash
from aligngpt.curation.scoring.store import SCHEMA, part_path
from aligngpt.data.sources import Source, open_source
from tests.image_files import make_image

FORMATS = ("llava_json", "json_lines", "parquet", "datasets", "webdataset")
NAMES = tuple(f"p{number}" for number in range(12))


def encoded(seed: int) -> bytes:
    """An image as PNG."""
    buffer = io.BytesIO()
    make_image(seed, (8, 6)).save(buffer, "png")
    return buffer.getvalue()


def llava(name: str, **extra: Any) -> dict[str, Any]:
    """A record of LLaVA's JSON with fields of its own."""
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": f"Caption of {name}, ünïcode."}]
    return {"id": name, "image": f"{name}.png", "conversations": turns, "note": {"tags": ["a", 1, None]}, **extra}


def rows(names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a table that holds its images."""
    return [
        {"id": name, "image": {"bytes": encoded(place), "path": None}, "caption": f"Caption of {name}", "size": [place]}
        for place, name in enumerate(names)
    ]


def make_source(folder: Path, kind: str, names: Sequence[str] = NAMES) -> Source:
    """A source of one of `FORMATS`, in two files where the format can have them."""
    folder.mkdir(parents=True)
    half = len(names) // 2
    if kind == "llava_json":
        (folder / "pairs.json").write_text(json.dumps([llava(name) for name in names]))
        return open_source(folder / "pairs.json")
    if kind == "json_lines":
        (folder / "pairs.jsonl").write_text("".join(json.dumps(llava(name)) + "\n" for name in names))
        return open_source(folder / "pairs.jsonl")
    if kind == "datasets":
        datasets = pytest.importorskip("datasets")
        text, sizes = datasets.Value("string"), datasets.List(datasets.Value("int16"))
        features = datasets.Features(id=text, image=datasets.Image(), caption=text, size=sizes)
        datasets.Dataset.from_list(rows(names), features=features).save_to_disk(folder / "set", num_shards=2)
        return open_source(folder / "set")
    for number, part in enumerate((names[:half], names[half:])):
        if kind == "parquet":
            pq.write_table(
                pa.Table.from_pylist(rows(names)).slice(number * half, len(part)), folder / f"{number}.parquet"
            )
        else:
            samples = [
                (name, {"png": encoded(names.index(name)), "txt": f"Caption of {name}".encode()}) for name in part
            ]
            write_tar(folder / f"{number}.tar", samples)
    return open_source(folder)


def write_tar(path: Path, samples: Sequence[tuple[str, Mapping[str, bytes]]]) -> Path:
    """A tar of samples, each a name and its members by their extension."""
    with tarfile.open(path, "w") as tar:
        for name, members in samples:
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def write_scores(folder: Path, source: Source, columns: Mapping[str, Sequence[Any]]) -> Path:
    """The finished folder of scores of a source, a part for each of its shards.

    Args:
        columns: Values by column in the source's order; `clip_score` at least. Without a score there is an error.
    """
    folder.mkdir(parents=True)
    read = [list(shard.read()) for shard in source.shards()]
    records = [[(record.id, record.image) for record in part] for part in read]
    total = sum(map(len, records))
    captions = [record.caption for part in read for record in part]
    values: dict[str, Sequence[Any]] = {
        "text_truncated": [False] * total,
        "caption_hash": [None if caption is None else caption_hash(caption) for caption in captions],
        "error": [None if score is not None else "no such file" for score in columns["clip_score"]],
        **columns,
    }
    start = 0
    for number, part in enumerate(records):
        place = slice(start, start + len(part))
        known = {"id": [name for name, _ in part], "image": [image for _, image in part]}
        known |= {name: list(column)[place] for name, column in values.items()}
        arrays = [pa.array(known.get(column.name, [None] * len(part)), column.type) for column in SCHEMA]
        pq.write_table(pa.table(arrays, schema=SCHEMA), part_path(folder, number))
        start += len(part)
    manifest = {
        "complete": True,
        "shards": len(records),
        "scorers": [{"name": "tiny", "weights_hash": "0123456789"}],
        "inputs": {"pairs_hash": source.fingerprint, "fields": asdict(source.columns)},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def grade(
    folder: Path, source: Source, scores: Sequence[float | None], num_levels: int = 4, **columns: Sequence[Any]
) -> tuple[Path, Path]:
    """Folders of scores and of levels of a source."""
    scored = write_scores(folder / "scores", source, {"clip_score": scores, **columns})
    write_levels(scored, folder / "levels", num_levels=num_levels)
    return scored, folder / "levels"
