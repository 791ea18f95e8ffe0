"""A folder of CLIP scores, s = cos(E_image, E_text): written shard by shard, cut off and continued, read as a stream.

    part-00000.parquet ...   one for each shard of the input, one row for each of its records, in its order
    manifest.json            what was scored, by which weights, with what result

Each part carries the hash of what it depends on, so that parts of different inputs cannot be mixed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aligngpt.utils.io import atomic_path, read_json, write_json

MANIFEST = "manifest.json"
SCORE = "clip_score"

_ROWS_IN_GROUP = 10_000
_ROWS_AT_ONCE = 1 << 16
_MOST_REASONS = 100
OTHER_REASONS = "other reasons"
_MARK = b"aligngpt"
_NUMBER = re.compile(r"\d[\d,.]*")


def score_schema(others: Sequence[str] = ()) -> pa.Schema:
    """The columns of a part.

    Args:
        others: Names of the scorers beside the first; each has a column `clip_score_<name>` behind the first one's.
    """
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("image", pa.string()),
            *(pa.field(column, pa.float32()) for column in score_columns(others)),
            pa.field("text_truncated", pa.bool_(), nullable=False),
            pa.field("error", pa.string()),
            pa.field("caption_chars", pa.int32()),
            pa.field("caption_hash", pa.uint64()),
            pa.field("image_hash", pa.uint64()),
            pa.field("image_phash", pa.uint64()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
        ]
    )


def score_columns(others: Sequence[str] = ()) -> list[str]:
    """The columns of scores: the first scorer's, and those of the others by their names."""
    return [SCORE, *(f"{SCORE}_{name}" for name in others)]


SCHEMA = score_schema()


@dataclass(frozen=True)
class ScoreSummary:
    """What a folder of scores holds, and what the run that ended with it did.

    Attributes:
        scored: Pairs with a score.
        failed: Rows with an error instead.
        truncated: Captions of which a part was not read.
        errors: How many rows failed for which reason, numbers in it written as N; the most frequent first.
        agreement: For each two scorers their names (`scorers`), `pairs` compared, `spearman` and `equal_levels`.
        seconds: Time of this run.
        shards: Shards of the input.
        resumed_shards: How many of them were finished before this run.
        missing_shards: How many are left to other runs, with `--shard`; the counts above leave them out.
    """

    scored: int
    failed: int
    truncated: int
    errors: dict[str, int]
    agreement: tuple[dict[str, Any], ...]
    seconds: float
    shards: int
    resumed_shards: int
    missing_shards: int = 0


# Reading ------------------------------------------------------------------------------------------------------------


def read_scores(folder: str | os.PathLike[str]) -> pa.Table:
    """Read a finished folder of scores as one table, in the input's order; see `iter_scores` for large ones.

    Raises:
        FileNotFoundError: If the folder, its manifest or one of its parts is missing.
        ValueError: If the run that writes it has not finished.
    """
    manifest = read_manifest(folder)
    parts = (part_path(folder, number) for number in range(manifest["shards"]))
    tables = [pq.read_table(part, partitioning=None).replace_schema_metadata() for part in parts]
    return pa.concat_tables(tables or [SCHEMA.empty_table()])


def iter_scores(folder: str | os.PathLike[str], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Stream a finished folder of scores, at most 65,536 rows at a time, in the input's order.

    Args:
        folder: The folder.
        columns: The columns wanted, in this order; all unless given.

    Raises:
        FileNotFoundError: If the folder, its manifest or one of its parts is missing.
        ValueError: If the run that writes it has not finished.
    """
    manifest = read_manifest(folder)
    for number in range(manifest["shards"]):
        yield from iter_part(part_path(folder, number), columns)


def iter_part(part: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Stream one part; arguments as in `iter_scores`."""
    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=None if columns is None else list(columns)):
            yield batch if columns is None else batch.select(list(columns))


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the manifest of a finished folder of scores. Errors: `read_scores`."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: expected a folder written by `aligngpt score`, found no {MANIFEST} there")
    manifest: dict[str, Any] = read_json(path)
    if not manifest.get("complete"):
        raise ValueError(f"{folder}: scoring was cut off before its end; run the same `aligngpt score` again to finish")
    return manifest


def part_path(folder: str | os.PathLike[str], number: int) -> Path:
    """Where the scores of a shard stand."""
    return Path(folder) / f"part-{number:05d}.parquet"


# Writing ------------------------------------------------------------------------------------------------------------


def claim_folder(folder: Path, header: dict[str, Any]) -> dict[str, Any] | None:
    """Begin or continue a folder; the manifest of an earlier run with the same inputs, if it had finished.

    Args:
        folder: The folder.
        header: The manifest's fields that are known beforehand; two runs with the same `inputs` may share a folder.

    Raises:
        ValueError: If it holds scores of other inputs, or parts without a manifest.
    """
    path = folder / MANIFEST
    if path.is_file():
        manifest: dict[str, Any] = read_json(path)
        found, wanted = manifest.get("inputs", {}), header["inputs"]
        differing = [key for key in wanted if found.get(key) != wanted[key]]
        if differing:
            raise ValueError(
                f"{folder} holds scores of another input ({', '.join(differing)} differ): "
                "give another output folder, or delete this one to score anew"
            )
        return manifest if manifest.get("complete") else None
    if any(folder.glob("part-*.parquet")):
        raise ValueError(f"{folder} holds shards but no {MANIFEST}: give another output folder, or delete this one")
    write_json(path, header | {"complete": False})
    return None


def part_mark(inputs: dict[str, Any], shard: str) -> dict[bytes, bytes]:
    """What a part of a shard says of itself: the hash of all it depends on, and the shard's name."""
    inputs_hash = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return {_MARK: json.dumps({"inputs_hash": inputs_hash, "shard": shard}).encode()}


def is_finished(part: Path, mark: dict[bytes, bytes]) -> bool:
    """Whether an earlier run wrote this part.

    Raises:
        ValueError: If there is one of another shard or of other inputs.
    """
    if not part.is_file():
        return False
    try:
        found = pq.read_schema(part).metadata or {}
    except pa.ArrowInvalid:
        found = {}
    if found.get(_MARK) != mark[_MARK]:
        raise ValueError(f"{part} does not hold the scores expected there: delete it to score its pairs again")
    return True


class PartWriter:
    """Writes one part as its rows come, in row groups of 10,000; it appears under its name when it is closed whole.

    Args:
        part: The file.
        schema: Its columns.
        mark: See `part_mark`.
    """

    def __init__(self, part: Path, schema: pa.Schema, mark: dict[bytes, bytes]) -> None:
        for left in part.parent.glob(f".{part.stem}.*.tmp{part.suffix}"):
            left.unlink(missing_ok=True)  # of a run that was killed
        self._schema = schema.with_metadata(mark)
        self._open = ExitStack()
        self._temporary = self._open.enter_context(atomic_path(part))
        self._writer = self._open.enter_context(pq.ParquetWriter(self._temporary, self._schema))
        self._waiting: list[pa.Table] = []

    def write(self, columns: dict[str, list[Any]]) -> None:
        """Add rows."""
        self._waiting.append(pa.table(columns, schema=self._schema))
        if sum(map(len, self._waiting)) >= _ROWS_IN_GROUP:
            self._flush()

    def close(self) -> None:
        """End the file and give it its name."""
        self._flush()
        self._open.close()

    def discard(self, error: BaseException) -> None:
        """Remove what was written."""
        self._open.__exit__(type(error), error, error.__traceback__)

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks(), row_group_size=_ROWS_IN_GROUP)
            self._waiting = []


def error_kind(reason: str) -> str:
    """A reason without its numbers, which are written as N."""
    return _NUMBER.sub("N", reason)


@dataclass
class ScoreCounts:
    """Counts over parts, see `ScoreSummary`."""

    scored: int = 0
    failed: int = 0
    truncated: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, part: Path) -> None:
        """Count a part's rows."""
        for batch in iter_part(part, ("text_truncated", "error")):
            failed = len(batch) - batch["error"].null_count
            self.failed += failed
            self.scored += len(batch) - failed
            self.truncated += pc.sum(batch["text_truncated"]).as_py() or 0
            if failed:
                self._add_reasons(batch["error"].drop_null().to_pylist())

    def _add_reasons(self, reasons: list[str]) -> None:
        for reason, count in Counter(map(error_kind, reasons)).items():
            known = reason in self.errors or len(self.errors) < _MOST_REASONS
            self.errors[reason if known else OTHER_REASONS] += count

    def as_dict(self) -> dict[str, Any]:
        """As in the manifest; the most frequent errors first."""
        errors = dict(self.errors.most_common())
        return {"scored": self.scored, "failed": self.failed, "truncated": self.truncated, "errors": errors}


def iter_errors(folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The rows that failed, of all parts that are there: `id`, `image` and `error`, in the input's order."""
    for part in sorted(Path(folder).glob("part-*.parquet")):
        for batch in iter_part(part, ("id", "image", "error")):
            if batch["error"].null_count < len(batch):
                yield from batch.filter(batch["error"].is_valid()).to_pylist()
