"""A folder of CLIP scores, s = cos(E_image, E_text): written shard by shard, resumed, and read as a stream.

    run_config.json          what the folder is a run of, see `ScoreRunConfig`
    part-00000.parquet ...   one for each shard of the pairs, one row for each record, in order
    manifest.json            what was scored and the result, see `ScoreManifest`; written last

Each part carries the hash of what it depends on, so that parts of different inputs cannot be mixed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aligngpt.curation.artifacts import ScoreCounts, ScoreManifest, ScoreRunConfig
from aligngpt.utils.io import atomic_path

SCORE = "clip_score"
PART_PATTERN = "part-*.parquet"
OTHER_REASONS = "other reasons"
Failures = dict[str, list[dict[str, Any]]]

_ROWS_PER_GROUP = 10_000
_ROWS_PER_BATCH = 1 << 16
_MAX_REASONS = 100
_METADATA_KEY = b"aligngpt"
_NUMBER = re.compile(r"\d[\d,.]*")


def score_schema(others: Sequence[str] = ()) -> pa.Schema:
    """Return the columns of a part.

    Args:
        others: Names of the scorers after the first; each has a column `clip_score_<name>`.
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
    """Return the columns of scores: that of the first scorer, and those of the others by name."""
    return [SCORE, *(f"{SCORE}_{name}" for name in others)]


SCHEMA = score_schema()


# Reading ------------------------------------------------------------------------------------------------------------


def read_manifest(folder: str | os.PathLike[str]) -> ScoreManifest:
    """Read the manifest of a finished folder of scores.

    Raises:
        FileNotFoundError: The folder was not written by `aligngpt score`.
        ValueError: The run that writes it has not finished.
    """
    folder = Path(folder)
    if (folder / ScoreManifest.FILE).is_file():
        return ScoreManifest.read(folder)
    if (folder / ScoreRunConfig.FILE).is_file():
        raise ValueError(f"{folder}: scoring is not finished; run the same `aligngpt score` again to resume it")
    raise FileNotFoundError(f"{folder}: no {ScoreManifest.FILE}; pass a folder written by `aligngpt score`")


def read_scores(folder: str | os.PathLike[str]) -> pa.Table:
    """Read a finished folder of scores as one table, in the order of the pairs; see `iter_scores` for large ones.

    Raises:
        FileNotFoundError, ValueError: As `read_manifest`, or a part is missing.
    """
    parts = [part_path(folder, number) for number in range(read_manifest(folder).shards)]
    tables = [pq.read_table(part, partitioning=None).replace_schema_metadata() for part in parts]
    return pa.concat_tables(tables or [SCHEMA.empty_table()])


def iter_scores(folder: str | os.PathLike[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Stream a finished folder of scores, at most 65,536 rows at a time, in the order of the pairs.

    Args:
        folder: The folder.
        columns: The columns to read, in this order.

    Raises:
        FileNotFoundError, ValueError: As `read_manifest`, or a part is missing.
    """
    for number in range(read_manifest(folder).shards):
        yield from iter_part(part_path(folder, number), columns)


def iter_part(part: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Stream one part; arguments as in `iter_scores`."""
    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(_ROWS_PER_BATCH, columns=list(columns)):
            yield batch.select(list(columns))


def to_numpy(values: pa.Array, null: float = 0) -> np.ndarray:
    """Return a column as an array (n,), with `null` for null."""
    return values.fill_null(null).to_numpy(zero_copy_only=False)


def is_valid(values: pa.Array) -> np.ndarray:
    """Return where a column is not null, bool (n,)."""
    return values.is_valid().to_numpy(zero_copy_only=False)


def sample_failures(parts: Iterable[Path], limit: int = 5) -> Failures:
    """Return `id`, `image` and `error` of the first failed rows by normalized reason, in the order of the pairs."""
    failures: Failures = {}
    for batch in (batch for part in parts for batch in iter_part(part, ("id", "image", "error"))):
        for row in batch.filter(batch["error"].is_valid()).to_pylist():
            kind = normalize_reason(row["error"])
            rows = failures.setdefault(kind, []) if kind in failures or len(failures) < _MAX_REASONS else []
            if len(rows) < limit:
                rows.append(row)
    return failures


def part_path(folder: str | os.PathLike[str], number: int) -> Path:
    """Return the path of the scores of a shard."""
    return Path(folder) / f"part-{number:05d}.parquet"


def count_rows(parts: Iterable[Path]) -> ScoreCounts:
    """Count the rows of parts by outcome."""
    scored = failed = truncated = 0
    errors: Counter[str] = Counter()
    for batch in (batch for part in parts for batch in iter_part(part, ("text_truncated", "error"))):
        failures = len(batch) - batch["error"].null_count
        failed += failures
        scored += len(batch) - failures
        truncated += pc.sum(batch["text_truncated"]).as_py() or 0
        for reason, count in Counter(map(normalize_reason, batch["error"].drop_null().to_pylist())).items():
            errors[reason if reason in errors or len(errors) < _MAX_REASONS else OTHER_REASONS] += count
    return ScoreCounts(scored=scored, failed=failed, truncated=truncated, errors=dict(errors.most_common()))


def normalize_reason(reason: str) -> str:
    """Return a reason with its numbers written as N."""
    return _NUMBER.sub("N", reason)


# Writing ------------------------------------------------------------------------------------------------------------


def part_metadata(inputs: dict[str, Any], shard: str) -> dict[bytes, bytes]:
    """Return the metadata of a part: the hash of all that it depends on, and the name of its shard."""
    inputs_hash = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return {_METADATA_KEY: json.dumps({"inputs_hash": inputs_hash, "shard": shard}).encode()}


def is_finished(part: Path, metadata: dict[bytes, bytes]) -> bool:
    """Return whether an earlier run wrote this part.

    Raises:
        ValueError: The part belongs to another shard or other inputs.
    """
    if not part.is_file():
        return False
    try:
        existing = pq.read_schema(part).metadata or {}
    except pa.ArrowInvalid:
        existing = {}
    if existing.get(_METADATA_KEY) != metadata[_METADATA_KEY]:
        raise ValueError(f"{part} does not hold the scores of its shard; delete it to score the shard again")
    return True


@contextmanager
def open_part(
    part: Path, schema: pa.Schema, metadata: dict[bytes, bytes]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Write one part in row groups of 10,000. The file appears under its name when the block succeeds.

    Args:
        part: The file.
        schema: Its columns.
        metadata: See `part_metadata`.

    Yields:
        A function that adds rows, given as columns.
    """
    for remains in part.parent.glob(f".{part.stem}.*.tmp{part.suffix}"):
        remains.unlink(missing_ok=True)  # of a killed run
    schema = schema.with_metadata(metadata)
    waiting: list[pa.Table] = []

    def write(columns: dict[str, Any]) -> None:
        waiting.append(pa.table(columns, schema=schema))
        if sum(map(len, waiting)) >= _ROWS_PER_GROUP:
            flush()

    def flush() -> None:
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks(), row_group_size=_ROWS_PER_GROUP)
            waiting.clear()

    with atomic_path(part) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        yield write
        flush()
