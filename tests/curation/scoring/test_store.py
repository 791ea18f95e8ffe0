"""A folder of scores: parts that say what they belong to, streams of them, counts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligngpt.curation.scorer_ranks import agreements, compare
from aligngpt.curation.scoring.store import (
    SCHEMA,
    PartWriter,
    ScoreCounts,
    claim_folder,
    is_finished,
    iter_errors,
    iter_scores,
    part_mark,
    part_path,
    read_manifest,
    read_scores,
    score_schema,
)
from aligngpt.utils.io import write_json

INPUTS: dict[str, Any] = {"pairs_hash": "0" * 64, "scorers": [{"weights_hash": "a"}], "shards": 2}
MARK = part_mark(INPUTS, "pairs.json[0:3]")


def rows(*errors: str | None, start: int = 0, schema: pa.Schema = SCHEMA) -> dict[str, list[Any]]:
    """One row for each error, or for each `None` a score of a hundredth of its place."""
    columns: dict[str, list[Any]] = {name: [None] * len(errors) for name in schema.names}
    places = range(start, start + len(errors))
    columns["id"] = [f"p{place}" for place in places]
    columns["error"] = list(errors)
    columns["text_truncated"] = [place % 2 == 1 and error is None for place, error in zip(places, errors, strict=True)]
    columns["clip_score"] = [None if error else place / 100 for place, error in zip(places, errors, strict=True)]
    return columns


def finished(folder: Path, *parts: dict[str, list[Any]]) -> Path:
    for number, columns in enumerate(parts):
        writer = PartWriter(part_path(folder, number), SCHEMA, MARK)
        writer.write(columns)
        writer.close()
    write_json(folder / "manifest.json", {"complete": True, "shards": len(parts)})
    return folder


def test_a_folder_is_read_whole_and_as_a_stream(tmp_path: Path) -> None:
    finished(tmp_path, rows(None, "bad", None), rows(start=3), rows(None, start=3))
    table = read_scores(tmp_path)
    assert table.schema.equals(SCHEMA) and table["id"].to_pylist() == ["p0", "p1", "p2", "p3"]
    assert table["clip_score"].to_pylist() == pytest.approx([0, None, 0.02, 0.03])
    batches = list(iter_scores(tmp_path, ("error", "id")))
    assert [batch.schema.names for batch in batches] == [["error", "id"]] * 2
    assert [name for batch in batches for name in batch["id"].to_pylist()] == ["p0", "p1", "p2", "p3"]
    assert list(iter_errors(tmp_path)) == [{"id": "p1", "image": None, "error": "bad"}]
    assert pa.Table.from_batches(list(iter_scores(tmp_path))).replace_schema_metadata().equals(table.combine_chunks())


def test_a_folder_that_is_not_finished_is_not_read(tmp_path: Path) -> None:
    for read in (read_scores, read_manifest, lambda folder: next(iter_scores(folder))):
        with pytest.raises(FileNotFoundError, match="expected a folder written by `aligngpt score`"):
            read(tmp_path)
    finished(tmp_path, rows(None))
    write_json(tmp_path / "manifest.json", {"complete": False})
    for read in (read_scores, read_manifest, lambda folder: next(iter_scores(folder))):
        with pytest.raises(ValueError, match="cut off before its end"):
            read(tmp_path)
    write_json(tmp_path / "manifest.json", {"complete": True, "shards": 2})
    with pytest.raises(FileNotFoundError):
        read_scores(tmp_path)


def test_further_scorers_stand_behind_the_first() -> None:
    names = score_schema(["b", "c d"]).names
    assert names[:5] == ["id", "image", "clip_score", "clip_score_b", "clip_score_c d"]
    assert [name for name in names if name not in ("clip_score_b", "clip_score_c d")] == SCHEMA.names


def test_a_part_appears_when_it_is_closed(tmp_path: Path) -> None:
    part = part_path(tmp_path, 7)
    (tmp_path / ".part-00007.0123.tmp.parquet").write_bytes(b"left by a run that was killed")
    (tmp_path / ".part-00008.0123.tmp.parquet").write_bytes(b"another run's")
    writer = PartWriter(part, SCHEMA, MARK)
    writer.write(rows(None, None))
    assert not part.exists()
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".part-00008.0123.tmp.parquet", "part-00007.parquet"]
    discarded = PartWriter(part_path(tmp_path, 1), SCHEMA, MARK)
    discarded.write(rows(None))
    discarded.discard(KeyboardInterrupt())
    assert len(list(tmp_path.iterdir())) == 2


def test_a_part_of_many_rows_is_written_in_groups_that_do_not_depend_on_how_they_came(tmp_path: Path) -> None:
    contents = []
    for number, step in enumerate((64, 64)):
        writer = PartWriter(part_path(tmp_path, number), SCHEMA, MARK)
        for start in range(0, 12_800, step):
            writer.write(rows(*[None] * step, start=start))
        writer.close()
        contents.append(part_path(tmp_path, number).read_bytes())
    assert contents[0] == contents[1]
    sizes = pq.ParquetFile(part_path(tmp_path, 0)).metadata
    assert [sizes.row_group(group).num_rows for group in range(sizes.num_row_groups)] == [10_000, 48, 2752]


def test_parts_say_what_they_belong_to(tmp_path: Path) -> None:
    part = part_path(finished(tmp_path, rows(None)), 0)
    assert is_finished(part, MARK) and not is_finished(part_path(tmp_path, 1), MARK)
    assert is_finished(part, part_mark(dict(reversed(INPUTS.items())), "pairs.json[0:3]"))
    others = [part_mark(INPUTS, "pairs.json[3:6]"), part_mark(INPUTS | {"shards": 3}, "pairs.json[0:3]")]
    for mark in others:
        with pytest.raises(ValueError, match=r"part-00000\.parquet does not hold the scores expected there: delete it"):
            is_finished(part, mark)
    for content in (b"", b"no parquet"):
        part.write_bytes(content)
        with pytest.raises(ValueError, match="does not hold the scores expected"):
            is_finished(part, MARK)


def test_a_folder_is_claimed_for_its_inputs(tmp_path: Path) -> None:
    header = {"inputs": INPUTS}
    assert claim_folder(tmp_path, header) is None
    assert json.loads((tmp_path / "manifest.json").read_text()) == header | {"complete": False}
    assert claim_folder(tmp_path, header) is None
    other = {"inputs": INPUTS | {"pairs_hash": "1", "scorers": []}}
    message = r"another input \(pairs_hash, scorers differ\): give another output folder, or delete this one"
    with pytest.raises(ValueError, match=message):
        claim_folder(tmp_path, other)
    write_json(tmp_path / "manifest.json", header | {"complete": True})
    assert claim_folder(tmp_path, header) == header | {"complete": True}
    finished(tmp_path, rows(None))
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards but no manifest\.json"):
        claim_folder(tmp_path, header)


def test_failures_are_counted_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(
        tmp_path,
        rows(None, "declares 30,000 x 4 pixels", None, "declares 7 x 1.5 pixels"),
        rows("no such file", "no id", None, None, "no such file", "no such file", start=4),
    )
    counts = ScoreCounts()
    for number in range(2):
        counts.add(part_path(folder, number))
    assert counts.as_dict() == {
        "scored": 4,
        "failed": 6,
        "truncated": 1,
        "errors": {"no such file": 3, "declares N x N pixels": 2, "no id": 1},
    }
    monkeypatch.setattr("aligngpt.curation.scoring.store._MOST_REASONS", 1)
    few = ScoreCounts()
    for number in range(2):
        few.add(part_path(folder, number))
    assert few.errors == {"declares N x N pixels": 2, "other reasons": 4}


# Agreement ----------------------------------------------------------------------------------------------------------


def test_agreement_of_two_scorers() -> None:
    import numpy as np

    first = np.arange(16, dtype=np.float32)
    assert compare(first, first**3) == {"pairs": 16, "spearman": 1.0, "equal_levels": 1.0}
    assert compare(first, -first) == {"pairs": 16, "spearman": -1.0, "equal_levels": 0.0}
    swapped = first.copy()
    swapped[[0, 2]] = swapped[[2, 0]]  # over the boundary of the first two levels: 1 - 6 * 8 / (16 * 255)
    assert compare(first, swapped) == {"pairs": 16, "spearman": 0.988235, "equal_levels": 0.875}
    ties = np.array([0, 0, 1], np.float32)  # ranks 1.5, 1.5, 3 against 1, 2, 3
    assert compare(ties, first[:3])["spearman"] == pytest.approx(0.866025)
    gaps = np.where(first == 3, np.nan, first)
    assert compare(first, gaps)["pairs"] == 15
    assert compare(first, np.ones(16, np.float32))["spearman"] is None
    assert compare(first, first * np.nan) == {"pairs": 0, "spearman": None, "equal_levels": None}


@pytest.mark.parametrize("most", [1_000_000, 8, 1])
def test_agreement_is_sampled_evenly_over_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("aligngpt.curation.scorer_ranks.MOST_PAIRS", most)
    schema = score_schema(["b"])
    for number in range(3):
        columns = rows(*[None] * 10, start=10 * number, schema=schema)
        columns["clip_score_b"] = [-score for score in columns["clip_score"]]
        writer = PartWriter(part_path(tmp_path, number), schema, MARK)
        writer.write(columns)
        writer.close()
    parts = [part_path(tmp_path, number) for number in range(3)]
    (found,) = agreements(parts, ["clip_score", "clip_score_b"], ["a", "b"])
    assert found["scorers"] == ["a", "b"]
    assert found["pairs"] == {1_000_000: 30, 8: 8, 1: 1}[most]
    assert found["spearman"] == (None if most == 1 else -1)
    assert agreements(parts, ["clip_score"], ["a"]) == []
