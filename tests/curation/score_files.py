"""Small sources of every format, with invented scores and levels."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligngpt.curation.artifacts import (
    DataFields,
    ScoreCounts,
    ScoreInputs,
    ScoreManifest,
    ScorerAgreement,
    ScorerInfo,
)
from aligngpt.curation.levels import assign_levels
from aligngpt.curation.scoring.batches import caption_hash
from aligngpt.curation.scoring.store import SCHEMA, count_rows, part_path, score_columns
from aligngpt.data.sources import Source, open_source
from tests.image_files import make_image

FORMATS = ("llava_json", "json_lines", "parquet", "datasets", "webdataset")
NAMES = tuple(f"p{number}" for number in range(12))


def encoded(seed: int) -> bytes:
    """Return an image as PNG."""
    buffer = io.BytesIO()
    make_image(seed, (8, 6)).save(buffer, "png")
    return buffer.getvalue()


def llava(name: str, **extra: Any) -> dict[str, Any]:
    """Return a record of LLaVA's JSON with additional fields."""
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": f"Caption of {name}, ünïcode."}]
    return {"id": name, "image": f"{name}.png", "conversations": turns, "note": {"tags": ["a", 1, None]}, **extra}


def rows(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return rows of a table that holds its images."""
    return [
        {"id": name, "image": {"bytes": encoded(n), "path": None}, "caption": f"Caption of {name}", "size": [n]}
        for n, name in enumerate(names)
    ]


def make_source(folder: Path, kind: str, names: Sequence[str] = NAMES) -> Source:
    """Write a source of one of `FORMATS`, in two files where the format can have them."""
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
    """Write a tar of samples, each a name and its members by extension."""
    with tarfile.open(path, "w") as tar:
        for name, members in samples:
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def write_scores(folder: Path, source: Source, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write the finished folder of scores of a source, a part for each of its shards.

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
        position = slice(start, start + len(part))
        existing = {"id": [name for name, _ in part], "image": [image for _, image in part]}
        existing |= {name: list(column)[position] for name, column in values.items()}
        arrays = [pa.array(existing.get(column.name, [None] * len(part)), column.type) for column in SCHEMA]
        pq.write_table(pa.table(arrays, schema=SCHEMA), part_path(folder, number))
        start += len(part)
    fields = DataFields(image=source.columns.image, caption=source.columns.caption, id=source.columns.id)
    write_manifest(folder, pairs_hash=source.fingerprint, fields=fields)
    return folder


def scorer_info(name: str = "tiny", weights_hash: str = "0123456789") -> ScorerInfo:
    return ScorerInfo(name=name, architecture="CLIPModel", weights_hash=weights_hash, dtype="float32")


def write_manifest(
    folder: Path,
    *,
    scorers: Sequence[ScorerInfo] = (scorer_info(),),
    agreement: Sequence[ScorerAgreement] = (),
    pairs_hash: str = "abc",
    fields: DataFields | None = None,
    counts: ScoreCounts | None = None,
) -> ScoreManifest:
    """Write the manifest of the parts of a folder."""
    parts = sorted(folder.glob("part-*.parquet"))
    inputs = ScoreInputs(
        pairs_hash=pairs_hash,
        fields=fields or DataFields(),
        images_hash=None,
        scorers=[scorer.model_dump(exclude={"name"}) for scorer in scorers],
        columns=score_columns([scorer.name for scorer in scorers[1:]]),
        long_captions="truncate",
        shards=len(parts),
    )
    manifest = ScoreManifest(
        inputs=inputs,
        scorers=list(scorers),
        shards=len(parts),
        counts=counts or count_rows(parts),
        agreement=list(agreement),
        seconds=1.0,
        versions={"aligngpt": "0"},
    )
    manifest.write(folder)
    return manifest


def write_curated(
    folder: Path, source: Source, scores: Sequence[float | None], num_levels: int = 4, **columns: Sequence[Any]
) -> tuple[Path, Path]:
    """Write folders of scores and of levels of a source."""
    scored = write_scores(folder / "scores", source, {"clip_score": scores, **columns})
    assign_levels(scored, folder / "levels", num_levels=num_levels)
    return scored, folder / "levels"
