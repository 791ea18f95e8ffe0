"""The pairs to be shown, with their captions and images: a few hundred rows out of any number."""

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
from aligngpt.data.schema import RecordError, check_image_path
from aligngpt.data.sources import Source, SourceRecord
from aligngpt.reporting.formatting import integer, shortened
from aligngpt.reporting.images import thumbnail
from aligngpt.utils.text import printable

SIDE, QUALITY = 160, 75  # of an image: its longest side in pixels, and of its JPEG
_CAPTION, _NAME = 280, 80  # characters shown


@dataclass(frozen=True)
class Example:
    """A pair as it is shown.

    Attributes:
        score: NaN without one; `others` has those of further scorers, by column.
        level: 1 to N, 0 without a score or without levels.
        caption: Cut to what can be read at a glance; `None` where it is not known.
        data_uri: A data URI; `None` where there is none that can be read.
    """

    row: int
    id: str
    image: str | None
    score: float
    others: dict[str, float]
    level: int
    error: str | None
    caption: str | None = None
    data_uri: str | None = None


def gather(
    folder: str | os.PathLike[str],
    rows: Collection[int],
    column: str,
    boundaries: LevelBoundaries | None,
    source: Source | None,
    images: Path | None,
) -> dict[int, Example]:
    """Look rows up in the scores and, where it is given, in the source that was scored.

    Args:
        folder: The scores.
        rows: Numbers of the rows, from 0.
        column: Whose scores are shown as the score.
        boundaries: Where their levels part, if they have any.
        source: The pairs; of its shards only those that hold one of the rows are read.
        images: The folder image paths start from.

    Raises:
        ValueError: If the source is another one than was scored.
    """
    examples = {example.row: example for example in _examples(folder, sorted(rows), column, boundaries)}
    if source is None:
        if images is not None:
            for row, example in examples.items():
                examples[row] = replace(example, data_uri=_image(None, example.image, images))
        return examples
    for row, record in _records(folder, sorted(rows), source):
        if record.id != examples[row].id:
            raise ValueError(
                f"{source.path}: pair {row} is {record.id!r} here and {examples[row].id!r} in {folder}: give the pairs "
                "that were scored"
            )
        caption = None if record.caption is None else _caption(record.caption)
        data_uri = _image(record.data, record.image, images)
        examples[row] = replace(examples[row], caption=caption, data_uri=data_uri)
    return examples


def _examples(
    folder: str | os.PathLike[str], rows: list[int], column: str, boundaries: LevelBoundaries | None
) -> Iterator[Example]:
    names = [scorer["name"] for scorer in read_manifest(folder)["scorers"][1:]]
    others = [name for name in score_columns(names) if name != column]
    wanted, first = np.array(rows, np.int64), 0
    for batch in iter_scores(folder, ["id", "image", "error", column, *others]):
        held = wanted[(wanted >= first) & (wanted < first + batch.num_rows)]
        for row, values in zip(held.tolist(), batch.take(held - first).to_pylist(), strict=True):
            score = _number(values[column])
            yield Example(
                row=row,
                id=values["id"],
                image=values["image"],
                score=score,
                others={name: _number(values[name]) for name in others},
                level=0 if boundaries is None else int(boundaries.apply([score])[0]),
                error=None if values["error"] is None else printable(values["error"]),
            )
        first += batch.num_rows


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _records(folder: str | os.PathLike[str], rows: list[int], source: Source) -> Iterator[tuple[int, SourceRecord]]:
    """The source's records at these rows: its shards have one part of the scores each."""
    parts = [part_path(folder, number) for number in range(read_manifest(folder)["shards"])]
    shards = source.shards()
    if len(parts) != len(shards):
        raise ValueError(
            f"{source.path} has {len(shards)} shards and {folder} scores of {len(parts)}: give the pairs that were "
            "scored"
        )
    ends = list(accumulate(pq.read_metadata(part).num_rows for part in parts))
    for shard, first, end in zip(shards, [0, *ends], ends, strict=False):
        held = [row for row in rows if first <= row < end]
        reading, place = shard.read() if held else iter(()), first
        for row in held:
            record = next(islice(reading, row - place, None), None)
            if record is None:
                raise ValueError(f"{source.path} has fewer pairs than {folder}: give the pairs that were scored")
            place = row + 1
            yield row, record


def _image(data: bytes | None, image: str | None, images: Path | None) -> str | None:
    """The image as a small data URI: of the bytes that come with the record, else of the file of that name."""
    if data is not None:
        return thumbnail(data, SIDE, QUALITY)
    if image is None or images is None:
        return None
    try:
        return thumbnail(images / check_image_path(image), SIDE, QUALITY)
    except RecordError:
        return None


def _caption(caption: str) -> str:
    text = printable(" ".join(caption.split()))
    return text if len(text) <= _CAPTION else f"{shortened(text, _CAPTION)} ({integer(len(caption))} characters)"


def short_name(name: str) -> str:
    """An id or a path as it is shown, with its middle left out where it is long."""
    name = printable(name)
    return name if len(name) <= _NAME else f"{name[: _NAME // 2]}…{name[-_NAME // 2 :]}"
