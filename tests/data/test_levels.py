"""Levels on ties, constants, few pairs and NaN, against a slow count by hand, and the files they are kept in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligngpt.data.levels import LevelBoundaries, read_levels, write_levels
from aligngpt.data.pairs import ImageTextPair, read_pairs, write_pairs
from aligngpt.data.scores import SCHEMA

NAN = float("nan")


def write_scores(folder: Path, scores: list[float | None], weights_hash: str = "0123456789", ids: Any = None) -> Path:
    """A finished folder of scores in two shards, as `score_pairs` leaves it."""
    folder.mkdir()
    names = ids or [f"p{number}" for number in range(len(scores))]
    columns = {
        "id": names,
        "image": [f"{name}.png" for name in names],
        "clip_score": scores,
        "text_truncated": [False] * len(scores),
        "error": [None if score is not None else "no such file" for score in scores],
    }
    table = pa.table(columns, schema=SCHEMA)
    half = len(scores) // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(part, folder / f"part-{number:05d}.parquet")
    manifest = {
        "complete": True,
        "shards": 2,
        "scorer": {"name": "tiny", "weights_hash": weights_hash},
        "inputs": {"pairs_hash": "abc"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_quantile_levels_of_a_worked_example() -> None:
    scores = [0.5, 0.1, 0.4, 0.2, 0.3]
    boundaries = LevelBoundaries.fit(scores, 2)
    assert boundaries == LevelBoundaries(2, "quantile", (0.4,), 0.1, 0.5)
    assert boundaries.apply(scores).tolist() == [2, 1, 2, 1, 1]
    assert LevelBoundaries.fit(scores, 3).boundaries == (0.3, 0.5)


def test_uniform_levels_of_a_worked_example() -> None:
    boundaries = LevelBoundaries.fit([0.0, 1.0, 0.25, 0.9], 4, "uniform")
    assert boundaries == LevelBoundaries(4, "uniform", (0.25, 0.5, 0.75), 0.0, 1.0)
    assert boundaries.apply([0.0, 0.2499, 0.25, 0.5, 0.7499, 0.75, 1.0]).tolist() == [1, 1, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("strategy", ["quantile", "uniform"])
def test_the_level_is_one_plus_the_boundaries_reached(strategy: Any) -> None:
    scores = np.random.default_rng(0).normal(size=200).round(1)
    boundaries = LevelBoundaries.fit(scores, 8, strategy)
    by_hand = [1 + sum(boundary <= score for boundary in boundaries.boundaries) for score in scores]
    assert boundaries.apply(scores).tolist() == by_hand


@pytest.mark.parametrize("count", [8, 9, 15, 16, 63, 100])
@pytest.mark.parametrize("num_levels", [2, 3, 8])
def test_quantile_counts_differ_by_at_most_one_without_ties(count: int, num_levels: int) -> None:
    scores = np.random.default_rng(count).permutation(count) / count
    counts = np.bincount(LevelBoundaries.fit(scores, num_levels).apply(scores), minlength=num_levels + 1)
    assert counts[0] == 0 and len(counts) == num_levels + 1
    assert counts[1:].max() - counts[1:].min() <= 1 and counts.sum() == count


def test_ties_share_a_level_whatever_the_order() -> None:
    generator = np.random.default_rng(0)
    scores = np.repeat([0.1, 0.2, 0.3, 0.4], [50, 3, 40, 7])
    boundaries = LevelBoundaries.fit(scores, 8)
    expected = dict(zip(scores.tolist(), boundaries.apply(scores).tolist(), strict=True))
    assert expected == {0.1: 4, 0.2: 5, 0.3: 8, 0.4: 8}
    for _ in range(5):
        shuffled = generator.permutation(scores)
        assert LevelBoundaries.fit(shuffled, 8) == boundaries
        assert boundaries.apply(shuffled).tolist() == [expected[score] for score in shuffled.tolist()]


@pytest.mark.parametrize("strategy", ["quantile", "uniform"])
@pytest.mark.parametrize("scores", [[0.3], [0.3] * 20, [-0.0, 0.0]])
def test_constants_are_all_of_the_top_level(strategy: Any, scores: list[float]) -> None:
    assert set(LevelBoundaries.fit(scores, 8, strategy).apply(scores).tolist()) == {8}


def test_fewer_pairs_than_levels_keep_their_order_and_reach_both_ends() -> None:
    scores = [0.3, 0.1, 0.2]
    assert LevelBoundaries.fit(scores, 8).apply(scores).tolist() == [8, 1, 3]
    assert LevelBoundaries.fit(scores, 8, "uniform").apply(scores).tolist() == [8, 1, 5]


@pytest.mark.parametrize("strategy", ["quantile", "uniform"])
def test_what_is_no_number_is_neither_fitted_nor_given_a_level(strategy: Any) -> None:
    clean = [0.4, 0.1, 0.3, 0.2]
    spoiled = [0.4, NAN, 0.1, 0.3, float("inf"), 0.2, -float("inf")]
    boundaries = LevelBoundaries.fit(spoiled, 2, strategy)
    assert boundaries == LevelBoundaries.fit(clean, 2, strategy)
    assert boundaries.apply(spoiled).tolist() == [2, 0, 1, 2, 0, 1, 0]


@pytest.mark.parametrize("scores", [[], [NAN], [NAN, float("inf")]])
def test_no_finite_score_is_an_error(scores: list[float]) -> None:
    with pytest.raises(ValueError, match=f"none of the {len(scores)} scores is a finite number"):
        LevelBoundaries.fit(scores)


def test_boundaries_apply_to_new_data() -> None:
    boundaries = LevelBoundaries.fit(np.arange(80) / 100, 8)
    assert boundaries.apply([-1.0, 0.0, 0.05, 0.1, 0.75, 5.0, NAN]).tolist() == [1, 1, 1, 2, 8, 8, 0]
    assert boundaries.apply([]).tolist() == []
    floats = np.array([0.1, 0.2, 0.3], np.float32)
    assert LevelBoundaries.fit(floats, 3).apply(floats).tolist() == [1, 2, 3]


def test_uniform_boundaries_never_rise_above_the_highest_score() -> None:
    for seed in range(50):
        lowest, width = np.random.default_rng(seed).random(2)
        scores = [float(lowest), float(lowest + width * 1e-16), float(np.nextafter(lowest, 2))]
        assert LevelBoundaries.fit(scores, 64, "uniform").apply(scores).max() == 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((1, "quantile", (), 0, 1), "num_levels must be an integer from 2 to 64, got 1"),
        ((65, "quantile", (0.5,) * 64, 0, 1), "num_levels must be an integer from 2 to 64, got 65"),
        ((2.0, "quantile", (0.5,), 0, 1), "num_levels must be an integer"),
        ((True, "quantile", (), 0, 1), "num_levels must be an integer"),
        ((2, "equal", (0.5,), 0, 1), "strategy must be 'quantile' or 'uniform', got 'equal'"),
        ((3, "quantile", (0.5,), 0, 1), "3 levels have 2 boundaries, got 1"),
        ((3, "quantile", (0.5, 0.4), 0, 1), "must not fall"),
        ((2, "quantile", (1.5,), 0, 1), "must not fall"),
        ((2, "quantile", (NAN,), 0, 1), "must be finite"),
    ],
)
def test_impossible_boundaries_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LevelBoundaries(*fields)


def test_saved_boundaries_are_the_same_after_loading(tmp_path: Path) -> None:
    boundaries = LevelBoundaries.fit(np.random.default_rng(0).normal(size=99).astype(np.float32), 7)
    boundaries.save(tmp_path / "levels.json")
    assert LevelBoundaries.load(tmp_path / "levels.json") == boundaries == LevelBoundaries.load(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"num_levels": 3}', "{"])
def test_loading_other_files_is_an_error_that_names_them(tmp_path: Path, content: str) -> None:
    (tmp_path / "levels.json").write_text(content)
    with pytest.raises(ValueError, match=r"levels\.json"):
        LevelBoundaries.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"other\.json: no such file"):
        LevelBoundaries.load(tmp_path / "other.json")


def test_levels_are_written_and_read(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", [0.4, 0.1, None, 0.3, 0.2])
    summary = write_levels(scores, tmp_path / "levels", num_levels=2)
    assert summary.counts == (2, 2) and summary.unscored == 1
    assert summary.mean_score_by_level == pytest.approx((0.15, 0.35))
    assert summary.warnings == ("1 of 5 pairs have no score and hence no level",)
    assert read_levels(tmp_path / "levels") == {"p0": 2, "p1": 1, "p3": 2, "p4": 1}
    assert read_levels(tmp_path / "levels" / "levels.parquet") == read_levels(tmp_path / "levels")
    table = pq.read_table(tmp_path / "levels" / "levels.parquet")
    assert table.schema.names == ["id", "clip_score", "alignment_level"]
    assert table["alignment_level"].type == pa.int8()
    assert table["alignment_level"].to_pylist() == [2, 1, None, 2, 1]
    assert table["clip_score"].null_count == 1
    content = json.loads((tmp_path / "levels" / "levels.json").read_text())
    assert (content["num_levels"], content["strategy"], content["counts"]) == (2, "quantile", [2, 2])
    assert content["boundaries"] == pytest.approx([0.3]) and content["unscored"] == 1
    assert content["scorer"]["name"] == "tiny" and len(content["scores_hash"]) == 64
    assert sorted(path.name for path in (tmp_path / "levels").iterdir()) == ["levels.json", "levels.parquet"]


def test_empty_levels_are_reported(tmp_path: Path) -> None:
    few = write_levels(write_scores(tmp_path / "few", [0.1, 0.2, 0.3]), tmp_path / "levels")
    assert few.counts == (1, 0, 1, 0, 0, 0, 0, 1)
    assert few.mean_score_by_level[1] is None
    (warning,) = few.warnings
    assert warning.startswith("no pair has level 2, 4, 5, 6, 7: 3 scored pairs with 3 different scores for 8 levels")
    constant = write_levels(write_scores(tmp_path / "constant", [0.5] * 20), tmp_path / "levels")
    assert "20 scored pairs with 1 different scores" in constant.warnings[0]
    assert json.loads((tmp_path / "levels" / "levels.json").read_text())["mean_score_by_level"] == [None] * 7 + [0.5]


def test_fitted_boundaries_apply_to_other_scores(tmp_path: Path) -> None:
    old = write_scores(tmp_path / "old", [0.1, 0.2, 0.3, 0.4])
    write_levels(old, tmp_path / "levels", num_levels=2)
    new = write_scores(tmp_path / "new", [0.25, 0.35, 0.9])
    summary = write_levels(new, tmp_path / "new-levels", fitted=tmp_path / "levels" / "levels.json")
    assert read_levels(tmp_path / "new-levels") == {"p0": 1, "p1": 2, "p2": 2}
    assert summary.boundaries == LevelBoundaries.load(tmp_path / "levels")
    assert summary.warnings == ("1 of 3 scores lie outside the range the boundaries were fitted on",)
    foreign = write_scores(tmp_path / "foreign", [0.25, 0.35], weights_hash="fedcba9876")
    with pytest.raises(ValueError, match=r"fitted on scores of tiny \(01234567\).*of tiny \(fedcba98\)"):
        write_levels(foreign, tmp_path / "x", fitted=tmp_path / "levels")
    assert not (tmp_path / "x").exists()


def test_nothing_scored_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the 2 scores"):
        write_levels(write_scores(tmp_path / "scores", [None, None]), tmp_path / "levels")
    with pytest.raises(FileNotFoundError, match="aligngpt score"):
        write_levels(tmp_path / "nowhere", tmp_path / "levels")
    with pytest.raises(FileNotFoundError, match="aligngpt level"):
        read_levels(tmp_path / "levels")


def test_pairs_are_written_with_their_levels(tmp_path: Path) -> None:
    # p2 has no score; p0 stands there again, as the error row of a record with a duplicate id
    scores = write_scores(tmp_path / "scores", [0.1, 0.2, None, None], ids=["p0", "p1", "p2", "p0"])
    pairs = [ImageTextPair(f"p{number}", f"{number}.png", "x", 7, "<image>\nWhat?") for number in range(4)]
    write_pairs(tmp_path / "pairs.json", pairs)
    target = tmp_path / "leveled.jsonl"
    summary = write_levels(scores, tmp_path / "l", num_levels=2, write_pairs=(tmp_path / "pairs.json", target))
    leveled = read_pairs(target, tmp_path, check_images="none").records
    assert [(pair.id, pair.alignment_level, pair.prompt) for pair in leveled] == [
        ("p0", 1, "<image>\nWhat?"),
        ("p1", 2, "<image>\nWhat?"),
    ]
    assert summary.warnings[-1] == f"2 of 4 pairs have no level and are left out of {target}"
    write_pairs(tmp_path / "other.json", [ImageTextPair("other", "0.png", "x")])
    with pytest.raises(ValueError, match="none of its 1 pairs was scored"):
        write_levels(scores, tmp_path / "l", num_levels=2, write_pairs=(tmp_path / "other.json", target))
