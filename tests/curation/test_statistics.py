"""The statistics of scores are those of a slow loop over all rows, for any size of the parts."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligngpt.curation import statistics
from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.statistics import ScoreStatistics, SmallestRows, collect_statistics
from tests.reporting.score_folders import rows_table, synthetic, write_scores


@pytest.fixture(scope="module")
def table() -> Any:
    return synthetic(3_000, images=500)


@pytest.fixture(scope="module")
def boundaries(table: Any) -> LevelBoundaries:
    return LevelBoundaries.fit([score for score in table["clip_score"].to_pylist() if score is not None], 5)


@pytest.fixture(scope="module")
def folder(table: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scores(tmp_path_factory.mktemp("scanned") / "scores", table, part=1_000)


@pytest.fixture(scope="module")
def scanned(folder: Path, boundaries: LevelBoundaries) -> ScoreStatistics:
    return collect_statistics(folder, boundaries=boundaries)


@pytest.fixture(scope="module")
def rows(table: Any, boundaries: LevelBoundaries) -> list[dict[str, Any]]:
    """Return the rows with their level, by a slow loop."""
    rows = table.to_pylist()
    for row in rows:
        score = row["clip_score"]
        row["level"] = 0 if score is None else 1 + sum(boundary <= score for boundary in boundaries.boundaries)
    return list(rows)


def test_the_smallest_are_those_that_sorting_puts_first() -> None:
    rng = random.Random(3)
    keys = [float(rng.randrange(40)) for _ in range(500)]
    smallest = SmallestRows(7)
    for start in range(0, 500, 33):
        part = np.arange(start, min(500, start + 33))
        smallest.add(np.array([keys[row] for row in part]), part)
    assert smallest.rows == tuple(sorted(range(500), key=lambda row: (keys[row], row))[:7])


def test_counts_are_those_of_a_slow_loop(scanned: ScoreStatistics, rows: list[dict[str, Any]]) -> None:
    scored = [row for row in rows if row["level"]]
    assert (scanned.rows, scanned.scored) == (3_000, len(scored))
    assert scanned.minimum == min(row["clip_score"] for row in scored)
    assert scanned.maximum == max(row["clip_score"] for row in scored)
    for level in range(1, 6):
        mine = [row for row in scored if row["level"] == level]
        assert scanned.counts[level] == len(mine)
        assert scanned.sums[level] / len(mine) == pytest.approx(np.mean([row["clip_score"] for row in mine]))
        assert scanned.truncated[level] == sum(row["text_truncated"] for row in mine)
        lengths = Counter(row["caption_chars"] for row in mine)
        assert {length: count for length, count in enumerate(scanned.lengths[level].tolist()) if count} == lengths
    assert scanned.longest == max(row["caption_chars"] for row in rows)
    assert scanned.num_scorers == 2


def test_quantiles_are_those_of_levels(scanned: ScoreStatistics, rows: list[dict[str, Any]]) -> None:
    scores = sorted(row["clip_score"] for row in rows if row["level"])
    for percent in (1, 25, 50, 99):
        exact = scores[math.ceil(percent * len(scores) / 100) - 1]
        assert scanned.quantiles[f"p{percent}"] == exact
        position = statistics.quantile_bin(scanned.histogram.sum(axis=0), percent / 100)
        assert statistics.bin_score(position) <= exact < statistics.bin_score(position + 1)


def test_lowest_and_boundary_rows(
    scanned: ScoreStatistics, rows: list[dict[str, Any]], boundaries: LevelBoundaries
) -> None:
    scored = [index for index, row in enumerate(rows) if row["level"]]
    ranked = sorted(scored, key=lambda index: (rows[index]["clip_score"], index))
    assert scanned.lowest == tuple(ranked[:24])
    assert [index for index, *_ in scanned.boundary_rows] == [0, 1, 2, 3]
    for index, below, above in scanned.boundary_rows:
        boundary = boundaries.boundaries[index]
        assert rows[below]["clip_score"] == max(
            rows[row]["clip_score"] for row in scored if rows[row]["clip_score"] < boundary
        )
        assert rows[above]["clip_score"] == min(
            rows[row]["clip_score"] for row in scored if rows[row]["clip_score"] >= boundary
        )


def test_examples_have_their_level_and_differ(scanned: ScoreStatistics, rows: list[dict[str, Any]]) -> None:
    assert scanned.examples[0] == ()
    for level in range(1, 6):
        sample = scanned.examples[level]
        assert len(set(sample)) == len(sample) == 5
        assert all(rows[row]["level"] == level for row in sample)
    assert len(scanned.truncated_rows) == 5 and all(rows[row]["text_truncated"] for row in scanned.truncated_rows)


def test_random_keys_are_uniform() -> None:
    sample = statistics.random_keys(np.arange(100_000))
    assert sample.min() >= 0 and sample.max() < 1
    counts, _ = np.histogram(sample, bins=10, range=(0, 1))
    assert np.abs(counts - 10_000).max() < 500
    assert abs(np.corrcoef(sample[1:], sample[:-1])[0, 1]) < 0.02


@pytest.mark.parametrize("part", [1, 64, 5_000])
def test_the_division_into_parts_changes_nothing(
    scanned: ScoreStatistics, table: Any, boundaries: LevelBoundaries, part: int, tmp_path: Path
) -> None:
    some = table.slice(0, 300) if part == 1 else table
    again = collect_statistics(write_scores(tmp_path / "scores", some, part=part), boundaries=boundaries)
    wanted = (
        collect_statistics(write_scores(tmp_path / "whole", some, part=300), boundaries=boundaries)
        if part == 1
        else scanned
    )
    for one in fields(ScoreStatistics):
        mine, theirs = getattr(again, one.name), getattr(wanted, one.name)
        if one.name == "sums":  # floats are added in another order
            assert np.allclose(mine, theirs)
        else:
            assert np.array_equal(mine, theirs) if isinstance(theirs, np.ndarray) else mine == theirs, one.name


def test_reasons_are_those_of_the_manifest(tmp_path: Path) -> None:
    errors = ["no such file", "cut at byte 17", "cut at byte 1,024", "12 x 3.5 pixels", None, "cut at byte 9"]
    table = rows_table([{"error": error, "clip_score": None if error else 0.2} for error in errors])
    result = collect_statistics(write_scores(tmp_path / "scores", table)).reasons
    assert [(reason.text, reason.count, reason.rows) for reason in result] == [
        ("cut at byte N", 3, (1, 2, 5)),
        ("no such file", 1, (0,)),
        ("N x N pixels", 1, (3,)),
    ]


def test_many_reasons_are_counted_together(tmp_path: Path) -> None:
    table = rows_table([{"error": "why " + "x" * index} for index in range(500)])
    result = collect_statistics(write_scores(tmp_path / "scores", table)).reasons
    assert len(result) == 101
    assert (result[0].text, result[0].count, result[0].rows) == ("other reasons", 400, (100, 101, 102))
    assert (result[1].text, result[1].rows) == ("why ", (0,))


def test_reasons_can_be_shown(tmp_path: Path) -> None:
    table = rows_table([{"error": "no\x1b[31m \u202efile\u2028"}])
    (result,) = collect_statistics(write_scores(tmp_path / "scores", table)).reasons
    assert (result.text, result.rows) == ("no\\x1b[Nm \\u202efile\\u2028", (0,))


def test_scores_without_any_score_or_level(tmp_path: Path) -> None:
    nothing = collect_statistics(write_scores(tmp_path / "nothing", rows_table([{"error": "no such file"}] * 3)))
    assert (nothing.rows, nothing.scored, nothing.lowest, nothing.examples) == (3, 0, (), ((),))
    some = collect_statistics(write_scores(tmp_path / "some", rows_table([{"clip_score": 0.25}, {"clip_score": 0.5}])))
    assert some.examples == (tuple(sorted((0, 1), key=lambda row: statistics.random_keys(np.array([row]))[0])),)
    assert some.boundary_rows == () and some.counts.tolist() == [2]


def test_captions_of_any_length_are_counted(tmp_path: Path) -> None:
    table = rows_table([{"clip_score": 0.2, "caption_chars": length} for length in (0, 5, 100_000)])
    result = collect_statistics(write_scores(tmp_path / "scores", table))
    assert result.longest == 100_000
    assert np.flatnonzero(result.lengths[0]).tolist() == [0, 5, statistics.MAX_LENGTH]


def test_many_levels_show_few_pairs_each() -> None:
    assert [statistics.examples_per_level(levels) for levels in (0, 2, 8, 16, 32, 64)] == [12, 5, 5, 5, 3, 2]
    cuts = LevelBoundaries.fit(np.linspace(0, 1, 1_000), 64)
    shown = statistics._choose_boundaries(cuts)
    assert len(shown) == 8 and shown == sorted(set(shown))
    assert statistics._choose_boundaries(LevelBoundaries(4, "quantile", (0.2, 0.2, 0.3), 0.2, 0.4)) == [0, 2]


def test_files_that_are_no_images_are_no_duplicates(tmp_path: Path) -> None:
    rows = [{"image_hash": 7, "caption_hash": 8, "error": "not an image"}] * 3
    rows += [{"image_hash": 9, "caption_hash": 8, "clip_score": 0.2}]
    duplicates = collect_statistics(write_scores(tmp_path / "scores", rows_table(rows))).duplicates
    assert (duplicates.images.rows, duplicates.images.shared_rows, duplicates.captions.repeated) == (1, 0, 0)
