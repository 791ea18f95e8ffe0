"""Made-up folders of scores of any size, as `aligngpt score` writes them, and their pairs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.curation.artifacts import LevelSettings, LevelsSummary, ScorerInfo
from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.scorer_agreement import compare_all
from aligngpt.curation.scoring.store import score_columns
from aligngpt.data.sources import open_source
from tests.curation.score_files import write_manifest
from tests.tiny import make_image

SCORERS = (
    ScorerInfo(name="clip-a", architecture="CLIPModel", weights_hash="a" * 64, dtype="float32"),
    ScorerInfo(name="clip-b", architecture="SiglipModel", weights_hash="b" * 64, dtype="float32"),
)
KINDS: dict[str, pa.DataType] = {
    "id": pa.string(), "image": pa.string(), "clip_score": pa.float32(), "clip_score_clip-b": pa.float32(),
    "text_truncated": pa.bool_(), "error": pa.string(), "caption_chars": pa.int32(), "caption_hash": pa.uint64(),
    "image_hash": pa.uint64(), "image_phash": pa.uint64(), "width": pa.int32(), "height": pa.int32(),
}  # fmt: skip
PART = 10_000


def rows_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return a table of scores of rows written by hand; ids and images are numbered, missing values are null."""
    full = [
        {"id": f"p{index}", "image": f"{index}.png", "text_truncated": False, **row} for index, row in enumerate(rows)
    ]
    columns = [name for name in KINDS if name != "clip_score_clip-b" or any(name in row for row in rows)]
    return pa.table({name: pa.array([row.get(name) for row in full], KINDS[name]) for name in columns})


def synthetic(count: int, images: int | None = None, seed: int = 0) -> pa.Table:
    """Return scores of many pairs, with errors, long captions, duplicates, near-duplicates, repeated captions and ties.

    Args:
        count: Pairs.
        images: Number of image files, `0000.jpg` ...; by default each pair has its own.
        seed: Random seed.
    """
    rng = np.random.default_rng(seed)
    failed = rng.random(count) < 0.002
    quality = rng.random(count)
    scores = (0.1 + 0.16 * quality + rng.normal(0, 0.03, count)).astype(np.float32).clip(-1, 1)
    others = (0.02 + 0.1 * quality + rng.normal(0, 0.03, count)).astype(np.float32).clip(-1, 1)
    chars = (20 + 100 * quality * rng.random(count) + rng.exponential(30, count)).astype(np.int32)
    shown = np.arange(count) if images is None else rng.integers(0, images, count)
    content = np.where(rng.random(count) < 0.03, shown // 2, shown)  # duplicates: two names, the same bytes
    look = np.where(rng.random(count) < 0.01, content // 3, content)
    flip = np.uint64(3) << rng.integers(0, 62, count).astype(np.uint64)
    caption = np.where(rng.random(count) < 0.05, (50 * rng.random(count) ** 3).astype(np.int64), 100 + np.arange(count))
    texts = ["truncated or damaged JPEG image: image file is truncated (%d bytes not processed)", "no such file"]
    columns = {
        "id": pa.array([f"{index:08d}" for index in range(count)]),
        "image": pa.array([f"{index:04d}.jpg" for index in shown.tolist()]),
        "clip_score": pa.array(scores, mask=failed),
        "clip_score_clip-b": pa.array(others, mask=failed),
        "text_truncated": pa.array((chars > 110) & ~failed),
        "error": pa.array([texts[index % 3 // 2].replace("%d", str(index)) if bad else None
                           for index, bad in enumerate(failed.tolist())], pa.string()),
        "caption_chars": pa.array(chars),
        "caption_hash": pa.array(_hashes(caption, 1)),
        "image_hash": pa.array(_hashes(content, 2), mask=failed),
        "image_phash": pa.array(_hashes(look, 3) ^ np.where(look == content, np.uint64(0), flip), mask=failed),
        "width": pa.array(np.full(count, 640, np.int32), mask=failed),
        "height": pa.array(np.full(count, 480, np.int32), mask=failed),
    }  # fmt: skip
    return pa.table(columns)


def _hashes(values: np.ndarray, seed: int) -> np.ndarray:
    """Return a different, random-looking uint64 for each different number."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1 << 64, int(values.max()) + 1, np.uint64)[values]


def write_scores(
    folder: Path, table: pa.Table, part: int = PART, pairs: str | Path | None = None, long_captions: str = "truncate"
) -> Path:
    """Write the parts and the manifest.

    Args:
        part: Rows per part.
        pairs: The pairs that the manifest names.
        long_captions: Policy in the manifest.
    """
    folder.mkdir(parents=True)
    parts: list[Path] = []
    for start in range(0, max(1, table.num_rows), part):
        parts.append(folder / f"part-{len(parts):05d}.parquet")
        pq.write_table(table.slice(start, part), parts[-1])
    scorers = SCORERS[: 1 + ("clip_score_clip-b" in table.column_names)]
    names = [scorer.name for scorer in scorers]
    manifest = write_manifest(
        folder,
        scorers=scorers,
        agreement=compare_all(parts, score_columns(names[1:]), names),
        pairs_hash="c" * 64 if pairs is None else open_source(pairs).fingerprint,
    )
    inputs = manifest.inputs.model_copy(update={"long_captions": long_captions})
    manifest.model_copy(update={"inputs": inputs}).write(folder)
    return folder


def write_levels(folder: Path, table: pa.Table, num_levels: int = 8, scorer: int = 0) -> Path:
    """Write the `levels.json` of a table of scores: levels of equal size of one of its scorers."""
    column = "clip_score" if scorer == 0 else "clip_score_clip-b"
    scores = [math.nan if score is None else score for score in table[column].to_pylist()]
    fitted = LevelBoundaries.fit(scores, num_levels)
    levels = fitted.apply(scores)
    folder.mkdir(parents=True)
    LevelsSummary(
        num_levels=num_levels,
        strategy=fitted.strategy,
        boundaries=fitted.boundaries,
        minimum=fitted.minimum,
        maximum=fitted.maximum,
        counts=tuple(np.bincount(levels, minlength=num_levels + 1)[1:].tolist()),
        mean_score_by_level=(None,) * num_levels,
        score_quantiles={},
        unscored=int((levels == 0).sum()),
        drift=None,
        warnings=(),
        scorer=SCORERS[scorer],
        pairs_hash="c" * 64,
        scores_hash="d" * 64,
        settings=LevelSettings(num_levels=num_levels, strategy="quantile", boundaries=None, boundaries_from=None),
        snapshot="",
        versions={},
    ).write(folder)
    return folder


def write_pairs(folder: Path, table: pa.Table, num_images: int, side: int = 40) -> tuple[Path, Path]:
    """Write the pairs of a table of scores, and images of noise for its first `num_images` image names."""
    images = folder / "images"
    images.mkdir(parents=True)
    records = [
        {"id": name, "image": image,
         "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": f"Caption <{index}>."}]}
        for index, (name, image) in enumerate(zip(table["id"].to_pylist(), table["image"].to_pylist(), strict=True))
    ]  # fmt: skip
    names = dict.fromkeys(table["image"].to_pylist())
    for index, name in enumerate(list(names)[:num_images]):
        make_image(index, (side, side)).save(images / name)
    (folder / "pairs.json").write_text(json.dumps(records))
    return folder / "pairs.json", images
