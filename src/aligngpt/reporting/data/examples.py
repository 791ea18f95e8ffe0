"""Example pairs of a report with their captions and images."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.scoring.store import iter_scores, part_path, read_manifest, score_columns
from aligngpt.data.sources import Source, SourceRecord
from aligngpt.reporting.formatting import format_integer, shorten
from aligngpt.reporting.images import embed_thumbnail, find_image_file
from aligngpt.utils.text import printable

SIDE, QUALITY = 160, 75  # of an image: longest side in pixels, JPEG quality
_CAPTION = 280  # characters shown
_REMEDY = "pass the data that were scored"


@dataclass(frozen=True)
class Example:
    """A pair as shown."""

    row: int
    id: str
    image: str | None  # path in the data
    score: float  # NaN without a score
    other_scores: dict[str, float]  # of further scorers, by column
    level: int  # 1 to N; 0 without a score or without levels
    error: str | None
    caption: str | None = None  # shortened; None without the data
    data_uri: str | None = None  # thumbnail; None if there is no readable image


def load_examples(
    folder: str | os.PathLike[str],
    rows: Collection[int],
    column: str,
    boundaries: LevelBoundaries | None,
    source: Source | None,
    images: Path | None,
) -> dict[int, Example]:
    """Return the pairs of some rows of the scores, by row.

    Args:
        folder: The scores.
        rows: Row numbers, from 0.
        column: Column of the score.
        boundaries: Level boundaries, if pairs have levels.
        source: The scored pairs; only shards with one of the rows are read.
        images: Image folder.

    Raises:
        ValueError: The source is not the one that was scored.
    """
    ordered = sorted(rows)
    examples = {example.row: example for example in _read_scores(folder, ordered, column, boundaries)}
    if source is None:
        return {
            row: replace(pair, data_uri=_embed_thumbnail(None, pair.image, images)) for row, pair in examples.items()
        }
    for row, record in _read_records(folder, ordered, source):
        if record.id != examples[row].id:
            raise ValueError(f"{source.path}: pair {row} is {record.id!r}, scored was {examples[row].id!r}; {_REMEDY}")
        caption = None if record.caption is None else _shorten_caption(record.caption)
        data_uri = _embed_thumbnail(record.data, record.image, images)
        examples[row] = replace(examples[row], caption=caption, data_uri=data_uri)
    return examples


def _read_scores(
    folder: str | os.PathLike[str], rows: list[int], column: str, boundaries: LevelBoundaries | None
) -> Iterator[Example]:
    names = [scorer.name for scorer in read_manifest(folder).scorers[1:]]
    others = [name for name in score_columns(names) if name != column]
    selected, start = np.array(rows, np.int64), 0
    for batch in iter_scores(folder, ["id", "image", "error", column, *others]):
        in_batch = selected[(selected >= start) & (selected < start + batch.num_rows)]
        for row, values in zip(in_batch.tolist(), batch.take(in_batch - start).to_pylist(), strict=True):
            scores = {name: math.nan if values[name] is None else values[name] for name in (column, *others)}
            score = scores.pop(column)
            yield Example(
                row=row,
                id=values["id"],
                image=values["image"],
                score=score,
                other_scores=scores,
                level=0 if boundaries is None else int(boundaries.apply([score])[0]),
                error=None if values["error"] is None else printable(values["error"]),
            )
        start += batch.num_rows


def _read_records(
    folder: str | os.PathLike[str], rows: list[int], source: Source
) -> Iterator[tuple[int, SourceRecord]]:
    """Yield the records of some rows; each shard of the source has one part of the scores."""
    parts = [part_path(folder, number) for number in range(read_manifest(folder).shards)]
    shards = source.shards()
    if len(parts) != len(shards):
        raise ValueError(f"{source.path}: {len(shards)} shards, {folder} has scores of {len(parts)}; {_REMEDY}")
    ends = list(accumulate(pq.read_metadata(part).num_rows for part in parts))
    for shard, start, end in zip(shards, [0, *ends], ends, strict=False):
        in_shard = [row for row in rows if start <= row < end]
        records, position = shard.read() if in_shard else iter(()), start
        for row in in_shard:
            record = next(islice(records, row - position, None), None)
            if record is None:
                raise ValueError(f"{source.path}: fewer pairs than {folder}; {_REMEDY}")
            position = row + 1
            yield row, record


def _embed_thumbnail(data: bytes | None, image: str | None, images: Path | None) -> str | None:
    """Return the thumbnail of an image that is stored in the record, or in the image folder."""
    source = data if data is not None or image is None or images is None else find_image_file(images, image)
    return embed_thumbnail(source, SIDE, QUALITY)


def _shorten_caption(caption: str) -> str:
    text = printable(" ".join(caption.split()))
    return text if len(text) <= _CAPTION else f"{shorten(text, _CAPTION)} ({format_integer(len(caption))} characters)"
