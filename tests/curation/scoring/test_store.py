"""A folder of scores: parts with metadata, streams of rows, counts, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligngpt.curation.scoring.store import (
    SCHEMA,
    count_rows,
    is_finished,
    iter_scores,
    open_part,
    part_metadata,
    part_path,
    read_manifest,
    read_scores,
    sample_failures,
    score_schema,
)
from tests.curation.score_files import write_manifest

INPUTS: dict[str, Any] = {"pairs_hash": "0" * 64, "scorers": [{"weights_hash": "a"}], "shards": 2}
METADATA = part_metadata(INPUTS, "pairs.json[0:3]")


def rows(*errors: str | None, start: int = 0, schema: pa.Schema = SCHEMA) -> dict[str, list[Any]]:
    """Return one row for each error, with a score of a hundredth of its number for each `None`."""
    columns: dict[str, list[Any]] = {name: [None] * len(errors) for name in schema.names}
    indices = range(start, start + len(errors))
    columns["id"] = [f"p{index}" for index in indices]
    columns["error"] = list(errors)
    columns["text_truncated"] = [index % 2 == 1 and error is None for index, error in zip(indices, errors, strict=True)]
    columns["clip_score"] = [None if error else index / 100 for index, error in zip(indices, errors, strict=True)]
    return columns


def finished(folder: Path, *parts: dict[str, list[Any]]) -> Path:
    for number, columns in enumerate(parts):
        with open_part(part_path(folder, number), SCHEMA, METADATA) as write:
            write(columns)
    write_manifest(folder)
    return folder


def test_a_folder_is_read_whole_and_as_a_stream(tmp_path: Path) -> None:
    finished(tmp_path, rows(None, "bad", None), rows(start=3), rows(None, start=3))
    table = read_scores(tmp_path)
    assert table.schema.equals(SCHEMA) and table["id"].to_pylist() == ["p0", "p1", "p2", "p3"]
    assert table["clip_score"].to_pylist() == pytest.approx([0, None, 0.02, 0.03])
    batches = list(iter_scores(tmp_path, ("error", "id")))
    assert [batch.schema.names for batch in batches] == [["error", "id"]] * 2
    assert [name for batch in batches for name in batch["id"].to_pylist()] == ["p0", "p1", "p2", "p3"]
    assert sample_failures([part_path(tmp_path, 0)]) == {"bad": [{"id": "p1", "image": None, "error": "bad"}]}
    streamed = pa.Table.from_batches(list(iter_scores(tmp_path, SCHEMA.names)))
    assert streamed.replace_schema_metadata().equals(table.combine_chunks())


def test_a_folder_that_is_not_finished_is_not_read(tmp_path: Path) -> None:
    for read in (read_scores, read_manifest, lambda folder: next(iter_scores(folder, SCHEMA.names))):
        with pytest.raises(FileNotFoundError, match="pass a folder written by `aligngpt score`"):
            read(tmp_path)
    finished(tmp_path, rows(None))
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "run_config.json").touch()
    for read in (read_scores, read_manifest, lambda folder: next(iter_scores(folder, SCHEMA.names))):
        with pytest.raises(ValueError, match="scoring is not finished"):
            read(tmp_path)
    manifest = write_manifest(tmp_path)
    manifest.model_copy(update={"shards": 2}).write(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_scores(tmp_path)


def test_columns_of_further_scorers_follow_the_first() -> None:
    names = score_schema(["b", "c d"]).names
    assert names[:5] == ["id", "image", "clip_score", "clip_score_b", "clip_score_c d"]
    assert [name for name in names if name not in ("clip_score_b", "clip_score_c d")] == SCHEMA.names


def test_a_part_appears_when_it_is_closed(tmp_path: Path) -> None:
    part = part_path(tmp_path, 7)
    (tmp_path / ".part-00007.0123.tmp.parquet").write_bytes(b"left by a run that was killed")
    (tmp_path / ".part-00008.0123.tmp.parquet").write_bytes(b"another run's")
    with open_part(part, SCHEMA, METADATA) as write:
        write(rows(None, None))
        assert not part.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".part-00008.0123.tmp.parquet", "part-00007.parquet"]
    with pytest.raises(KeyboardInterrupt), open_part(part_path(tmp_path, 1), SCHEMA, METADATA) as write:
        write(rows(None))
        raise KeyboardInterrupt
    assert len(list(tmp_path.iterdir())) == 2


def test_row_groups_have_a_fixed_size(tmp_path: Path) -> None:
    contents = []
    for number, step in enumerate((64, 64)):
        with open_part(part_path(tmp_path, number), SCHEMA, METADATA) as write:
            for start in range(0, 12_800, step):
                write(rows(*[None] * step, start=start))
        contents.append(part_path(tmp_path, number).read_bytes())
    assert contents[0] == contents[1]
    sizes = pq.ParquetFile(part_path(tmp_path, 0)).metadata
    assert [sizes.row_group(group).num_rows for group in range(sizes.num_row_groups)] == [10_000, 48, 2752]


def test_parts_carry_what_they_depend_on(tmp_path: Path) -> None:
    part = part_path(finished(tmp_path, rows(None)), 0)
    assert is_finished(part, METADATA) and not is_finished(part_path(tmp_path, 1), METADATA)
    assert is_finished(part, part_metadata(dict(reversed(INPUTS.items())), "pairs.json[0:3]"))
    others = [part_metadata(INPUTS, "pairs.json[3:6]"), part_metadata(INPUTS | {"shards": 3}, "pairs.json[0:3]")]
    for metadata in others:
        with pytest.raises(ValueError, match=r"part-00000\.parquet does not hold the scores of its shard; delete it"):
            is_finished(part, metadata)
    for content in (b"", b"no parquet"):
        part.write_bytes(content)
        with pytest.raises(ValueError, match="does not hold the scores"):
            is_finished(part, METADATA)


def test_failures_are_counted_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(
        tmp_path,
        rows(None, "declares 30,000 x 4 pixels", None, "declares 7 x 1.5 pixels"),
        rows("no such file", "no id", None, None, "no such file", "no such file", start=4),
    )
    parts = [part_path(folder, number) for number in range(2)]
    assert count_rows(parts).model_dump() == {
        "scored": 4,
        "failed": 6,
        "truncated": 1,
        "errors": {"no such file": 3, "declares N x N pixels": 2, "no id": 1},
    }
    monkeypatch.setattr("aligngpt.curation.scoring.store._MAX_REASONS", 1)
    assert count_rows(parts).errors == {"declares N x N pixels": 2, "other reasons": 4}
