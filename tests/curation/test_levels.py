"""Levels of ties, constants, few pairs and NaN, compared with a slow count, and the files they are written to."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from aligngpt.cli import cli
from aligngpt.curation.artifacts import LevelsSummary
from aligngpt.curation.levels import LevelBoundaries, assign_levels, read_levels
from aligngpt.curation.quantiles import ScoreRanking
from tests.curation.score_files import scorer_info, write_manifest

NAN = float("nan")


def write_scores(
    folder: Path,
    scores: list[float | None],
    weights_hash: str = "0123456789",
    ids: list[str] | None = None,
    second: list[float | None] | None = None,
    parts: int = 2,
) -> Path:
    """Write a finished folder of scores in several parts, of two scorers if `second` is given."""
    folder.mkdir()
    names = ids or [f"p{number}" for number in range(len(scores))]
    columns: dict[str, Any] = {
        "id": names,
        "image": [f"{name}.png" for name in names],
        "clip_score": pa.array(scores, pa.float32()),
        "text_truncated": [False] * len(scores),
        "error": pa.array([None if score is not None else "no such file" for score in scores], pa.string()),
    }
    scorers = [scorer_info("tiny", weights_hash)]
    if second is not None:
        columns["clip_score_second"] = pa.array(second, pa.float32())
        scorers.append(scorer_info("second", "second-hash"))
    table = pa.table(columns)
    size = -(-len(scores) // parts)
    for number in range(parts):
        pq.write_table(table.slice(number * size, size), folder / f"part-{number:05d}.parquet")
    write_manifest(folder, scorers=scorers)
    return folder


def load(path: Path) -> LevelBoundaries:
    """Read the boundaries of a `levels.json`, or of the folder that holds one."""
    return LevelBoundaries.of(LevelsSummary.read(path))


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


def test_ties_have_one_level_in_any_order() -> None:
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
def test_values_that_are_not_finite_have_no_level(strategy: Any) -> None:
    clean = [0.4, 0.1, 0.3, 0.2]
    spoiled = [0.4, NAN, 0.1, 0.3, float("inf"), 0.2, -float("inf")]
    boundaries = LevelBoundaries.fit(spoiled, 2, strategy)
    assert boundaries == LevelBoundaries.fit(clean, 2, strategy)
    assert boundaries.apply(spoiled).tolist() == [2, 0, 1, 2, 0, 1, 0]


@pytest.mark.parametrize("scores", [[], [NAN], [NAN, float("inf")]])
def test_no_finite_score_is_an_error(scores: list[float]) -> None:
    with pytest.raises(ValueError, match=f"none of the {len(scores)} scores is finite"):
        LevelBoundaries.fit(scores)


def boundaries_by_hand(scores: list[float], num_levels: int, strategy: str) -> list[float]:
    """The boundaries of finite scores without sorting: each is looked for by counting what lies below it."""
    if strategy == "uniform":
        lowest, highest = min(scores), max(scores)
        return [lowest + (highest - lowest) * k / num_levels for k in range(1, num_levels)]
    result = []
    for k in range(1, num_levels):
        index = math.ceil(Fraction(k * len(scores), num_levels))
        there = [s for s in scores if sum(other < s for other in scores) <= index < sum(other <= s for other in scores)]
        result.append(there[0] if there else max(scores))
    return result


def cases() -> dict[str, np.ndarray]:
    """Scores of every awkward kind, float32; NaN stands for no score."""
    generator = np.random.default_rng(0)
    usual = generator.normal(0.25, 0.05, 60).astype(np.float32)
    kinds = {
        "usual": usual,
        "ties": usual.round(2),
        "heavy ties": generator.choice(np.array([0.1, 0.2, 0.2, 0.2, 0.3], np.float32), 50),
        "both signs": generator.normal(0, 1e-3, 41).astype(np.float32),
        "zeros": np.array([-0.0, 0.0, -0.1, 0.1, -0.0], np.float32),
        "one value": np.full(5, 0.3, np.float32),
        "one score": np.array([0.3], np.float32),
        "few": np.array([0.3, 0.1, 0.2], np.float32),
    }
    missing = np.array([NAN, float("inf"), -float("inf")], np.float32)
    return kinds | {f"{name}, spoiled": np.insert(scores, 0, missing) for name, scores in kinds.items()}


@pytest.mark.parametrize("strategy", ["quantile", "uniform"])
@pytest.mark.parametrize("num_levels", [2, 3, 8, 64])
@pytest.mark.parametrize("kind", cases())
def test_streamed_boundaries_are_those_of_a_slow_count_to_the_bit(kind: str, num_levels: int, strategy: Any) -> None:
    scores = cases()[kind]
    finite = [float(score) for score in scores if np.isfinite(score)]
    by_hand = boundaries_by_hand(finite, num_levels, strategy)
    fitted = LevelBoundaries.fit(scores, num_levels, strategy)
    assert fitted == LevelBoundaries(num_levels, strategy, tuple(by_hand), min(finite), max(finite))
    for size in (1, 7, 1000):
        batches = [scores[start : start + size] for start in range(0, len(scores), size)]
        ranking = ScoreRanking(partial(iter, batches))
        assert repr(LevelBoundaries.fit(ranking, num_levels, strategy)) == repr(fitted), "-0.0 and 0.0 differ"


def test_streamed_scores_without_a_finite_one_are_an_error() -> None:
    ranking = ScoreRanking(lambda: [np.array([NAN, NAN], np.float32)])
    with pytest.raises(ValueError, match="none of the 2 scores is finite"):
        LevelBoundaries.fit(ranking)


def test_given_boundaries_are_taken_as_they_are(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", [0.125, 0.5, 0.25])
    boundaries = LevelBoundaries.of(assign_levels(scores, tmp_path / "levels", boundaries=[0.25, 0.75]))
    assert boundaries == LevelBoundaries(3, "explicit", (0.25, 0.75), 0.125, 0.5)
    assert boundaries.apply([0.125, 0.25, 0.5, 0.75]).tolist() == [1, 2, 2, 3]
    with pytest.raises(ValueError, match="explicit boundaries must ascend"):
        assign_levels(scores, tmp_path / "other", boundaries=[0.75, 0.25])
    with pytest.raises(ValueError, match="num_levels must be an integer from 2 to 64, got 65"):
        assign_levels(scores, tmp_path / "other", boundaries=[index / 64 for index in range(64)])
    with pytest.raises(ValueError, match="the strategy of a fit must be"):
        LevelBoundaries.fit([0.1], 2, "explicit")


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
        ((2, "equal", (0.5,), 0, 1), "strategy must be one of quantile, uniform, explicit, got 'equal'"),
        ((3, "quantile", (0.5,), 0, 1), "3 levels have 2 boundaries, got 1"),
        ((3, "quantile", (0.5, 0.4), 0, 1), "must not descend"),
        ((2, "quantile", (1.5,), 0, 1), "must not descend"),
        ((2, "quantile", (NAN,), 0, 1), "must be finite"),
        ((3, "explicit", (0.4, 0.4), 0, 1), "explicit boundaries must ascend, got 0.4, 0.4"),
    ],
)
def test_impossible_boundaries_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LevelBoundaries(*fields)


def test_saved_boundaries_are_the_same_after_loading(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=99).astype(np.float32)
    assign_levels(write_scores(tmp_path / "scores", values.tolist()), tmp_path / "levels", num_levels=7)
    expected = LevelBoundaries.fit(values, 7)
    assert load(tmp_path / "levels" / "levels.json") == load(tmp_path / "levels") == expected


@pytest.mark.parametrize("content", ["{}", "[]", '{"num_levels": 3}', "{"])
def test_loading_other_files_is_an_error_that_names_them(tmp_path: Path, content: str) -> None:
    (tmp_path / "levels.json").write_text(content)
    with pytest.raises(ValueError, match=r"levels\.json"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"other\.json: no such file"):
        load(tmp_path / "other.json")


def test_levels_are_written_and_read(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", [0.4, 0.1, None, 0.3, 0.2])
    summary = assign_levels(scores, tmp_path / "levels", num_levels=2)
    assert summary.counts == (2, 2) and summary.unscored == 1
    assert summary.mean_score_by_level == pytest.approx((0.15, 0.35))
    assert summary.warnings == ("1 of 5 pairs has no score and hence no level",)
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
    few = assign_levels(write_scores(tmp_path / "few", [0.1, 0.2, 0.3]), tmp_path / "levels")
    assert few.counts == (1, 0, 1, 0, 0, 0, 0, 1)
    assert few.mean_score_by_level[1] is None
    (warning,) = few.warnings
    assert warning == "no pair has level 2, 4, 5, 6, 7 of 8: there are only 3 scored pairs"
    (warning,) = assign_levels(write_scores(tmp_path / "one", [0.1]), tmp_path / "levels-1", num_levels=2).warnings
    assert warning == "no pair has level 1 of 2: there is only 1 scored pair"
    constant = assign_levels(write_scores(tmp_path / "constant", [0.5] * 20), tmp_path / "levels-2")
    assert constant.warnings == ("no pair has level 1, 2, 3, 4, 5, 6, 7 of 8: many scores are equal",)
    uneven = assign_levels(
        write_scores(tmp_path / "uneven", [0.1, 0.9, 0.8]), tmp_path / "l", num_levels=3, strategy="uniform"
    )
    assert uneven.warnings == ("no pair has level 2 of 3: no score is in its range",)
    assert json.loads((tmp_path / "levels-2" / "levels.json").read_text())["mean_score_by_level"] == [None] * 7 + [0.5]


def test_fitted_boundaries_apply_to_other_scores(tmp_path: Path) -> None:
    old = write_scores(tmp_path / "old", [0.1, 0.2, 0.3, 0.4])
    assign_levels(old, tmp_path / "levels", num_levels=2)
    new = write_scores(tmp_path / "new", [0.25, 0.35, 0.9])
    summary = assign_levels(new, tmp_path / "new-levels", boundaries_from=tmp_path / "levels" / "levels.json")
    assert read_levels(tmp_path / "new-levels") == {"p0": 1, "p1": 2, "p2": 2}
    assert LevelBoundaries.of(summary) == load(tmp_path / "levels")
    assert summary.warnings == ("1 of 3 scores is outside the range that the boundaries were fitted on",)
    foreign = write_scores(tmp_path / "foreign", [0.25, 0.35], weights_hash="fedcba9876")
    with pytest.raises(ValueError, match=r"belongs to the scorer tiny \(01234567\), the scores to tiny \(fedcba98\)"):
        assign_levels(foreign, tmp_path / "x", boundaries_from=tmp_path / "levels")
    assert not (tmp_path / "x").exists()


def test_scores_of_other_pairs_give_boundaries_and_a_drift_report(tmp_path: Path) -> None:
    old = write_scores(tmp_path / "old", [0.1, 0.2, 0.3, 0.4, None])
    new = write_scores(tmp_path / "new", [0.05, 0.35, 0.3, 0.9, 0.45])
    summary = assign_levels(new, tmp_path / "levels", num_levels=2, boundaries_from=old)
    assert read_levels(tmp_path / "levels") == {"p0": 1, "p1": 2, "p2": 2, "p3": 2, "p4": 2}
    assert LevelBoundaries.of(summary) == LevelBoundaries.fit(np.array([0.1, 0.2, 0.3, 0.4], np.float32), 2)
    drift = summary.drift
    assert drift is not None
    assert (drift.fitted_counts, drift.counts, drift.below, drift.above) == ((2, 2), (1, 4), 0.2, 0.4)
    assert drift.population_stability_index == pytest.approx((0.2 - 0.5) * math.log(0.4) + 0.3 * math.log(1.6))
    assert drift.fitted_quantiles is not None
    assert (drift.fitted_quantiles["p50"], drift.quantiles["p50"]) == pytest.approx((0.2, 0.35))
    content = json.loads((tmp_path / "levels" / "levels.json").read_text())
    assert content["drift"]["population_stability_index"] == drift.population_stability_index
    assert content["drift"]["fitted_counts"] == [2, 2] and content["counts"] == [1, 4]
    assert content["score_quantiles"] == drift.quantiles

    assign_levels(old, tmp_path / "old-levels", num_levels=2)
    by_file = assign_levels(new, tmp_path / "again", boundaries_from=tmp_path / "old-levels")
    assert by_file.drift == drift, "a levels.json says as much about the fit as the scores it was fitted on"
    chained = assign_levels(old, tmp_path / "chained", boundaries_from=tmp_path / "again")
    assert chained.drift is not None
    assert chained.drift.fitted_counts == (2, 2), "boundaries passed on are still compared with their own fit"
    assert chained.drift.population_stability_index == 0


def test_scores_of_another_scorer_are_not_fitted_on(tmp_path: Path) -> None:
    ours, foreign = write_scores(tmp_path / "ours", [0.1, 0.2]), write_scores(tmp_path / "foreign", [0.1], "fedcba9876")
    with pytest.raises(ValueError, match=r"foreign belongs to the scorer tiny \(fedcba98\), the scores to tiny"):
        assign_levels(ours, tmp_path / "levels", boundaries_from=foreign)
    assert not (tmp_path / "levels").exists()


def test_the_scores_of_a_second_scorer_are_cut_by_name(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", [0.1, 0.2, 0.3, 0.4], second=[0.4, 0.3, None, 0.1])
    summary = assign_levels(scores, tmp_path / "levels", num_levels=2, scorer="second")
    assert read_levels(tmp_path / "levels") == {"p0": 2, "p1": 1, "p3": 1}
    assert summary.counts == (2, 1)
    assert json.loads((tmp_path / "levels" / "levels.json").read_text())["scorer"]["name"] == "second"
    first = write_scores(tmp_path / "first", [0.4, 0.3], weights_hash="second-hash")
    fitted = assign_levels(first, tmp_path / "l", num_levels=2, boundaries_from=scores)
    assert fitted.boundaries == summary.boundaries, "the same weights are found whatever their place and name"
    with pytest.raises(ValueError, match="no scores of 'third'; choose from tiny, second"):
        assign_levels(scores, tmp_path / "levels", scorer="third")


def test_given_boundaries_cut_the_scores(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", [0.1, 0.26, 0.3, 0.9])
    summary = assign_levels(scores, tmp_path / "levels", boundaries=[0.25, 0.5, 0.95])
    assert summary.counts == (1, 2, 1, 0) and summary.drift is None
    assert load(tmp_path / "levels") == LevelBoundaries.of(summary)
    assert summary.strategy == "explicit"


def test_levels_are_the_same_however_the_scores_are_cut_into_files(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(0.25, 0.05, 500).round(3).tolist()
    one = assign_levels(write_scores(tmp_path / "one", scores, parts=1), tmp_path / "levels-1")
    many = assign_levels(write_scores(tmp_path / "many", scores, parts=9), tmp_path / "levels-9")
    assert LevelBoundaries.of(one) == LevelBoundaries.of(many) == LevelBoundaries.fit(np.array(scores, np.float32))
    assert one.counts == many.counts
    assert read_levels(tmp_path / "levels-1") == read_levels(tmp_path / "levels-9")
    order = pq.read_table(tmp_path / "levels-9" / "levels.parquet")["id"].to_pylist()
    assert order == [f"p{number}" for number in range(500)]


def test_nothing_scored_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the 2 scores"):
        assign_levels(write_scores(tmp_path / "scores", [None, None]), tmp_path / "levels")
    with pytest.raises(FileNotFoundError, match="aligngpt score"):
        assign_levels(tmp_path / "nowhere", tmp_path / "levels")
    with pytest.raises(FileNotFoundError, match="aligngpt level"):
        read_levels(tmp_path / "levels")


def test_levels_of_other_settings_or_scores_are_not_overwritten(tmp_path: Path) -> None:
    scores, output = write_scores(tmp_path / "scores", [0.4, 0.1, 0.3, 0.2]), tmp_path / "levels"
    first = assign_levels(scores, output, num_levels=2)
    with pytest.raises(
        ValueError, match=r"belongs to another run: settings\.num_levels is 2 there, 4 requested; choose another"
    ):
        assign_levels(scores, output, num_levels=4)
    others = write_scores(tmp_path / "others", [0.5, 0.1])
    with pytest.raises(ValueError, match="scores_hash is"):
        assign_levels(others, output, num_levels=2)
    assert load(output) == LevelBoundaries.of(first)
    with pytest.raises(ValueError, match=r"exists and has no levels\.json"):
        assign_levels(scores, others)


def test_the_same_levels_are_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, output = write_scores(tmp_path / "scores", [0.4, 0.1, 0.3, 0.2]), tmp_path / "levels"
    first = assign_levels(scores, output, num_levels=2)
    content = {path.name: path.read_bytes() for path in output.iterdir()}
    (scores / "part-00000.parquet").touch()  # read again, found to be the same
    assert assign_levels(scores, output, num_levels=2).scores_hash == first.scores_hash
    assert (output / "levels.parquet").read_bytes() == content["levels.parquet"]
    monkeypatch.setattr("aligngpt.curation.levels.hash_folder", None)
    monkeypatch.setattr("aligngpt.curation.levels.iter_scores", None)
    assert assign_levels(scores, output, num_levels=2).counts == (2, 2), "neither hashed nor read"


# ------------------------------------------------------------------------------------------------------- the command


def level(*arguments: object) -> Result:
    """Run `aligngpt level`."""
    return CliRunner().invoke(cli, ["level", *map(str, arguments)], prog_name="aligngpt")


def test_the_command_uses_boundaries_of_other_scores_and_prints_the_drift(tmp_path: Path) -> None:
    old = write_scores(tmp_path / "old", [0.1, 0.2, 0.3, 0.4])
    new = write_scores(tmp_path / "new", [0.05, 0.35, 0.3, 0.9, 0.45])
    arguments = ("--scores", new, "--boundaries-from", old, "--output", tmp_path / "levels", "--num-levels", 2)
    done = level(*arguments)
    assert done.exit_code == 0, done.output
    assert "Drift: refit" in done.stdout
    printed = [[part.strip() for part in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    for row in (
        ["population stability index", "-", "0.416"],
        ["fraction in level 1", "0.500", "0.200"],
        ["score p50", "0.200", "0.350"],
        ["below the fitted range", "0.000", "0.200"],
        ["above the fitted range", "0.000", "0.400"],
    ):
        assert row in printed
    assert "3 of 5 scores are outside the range" in done.stderr
    assert "Next: aligngpt pretrain" in done.stdout and f"--levels {tmp_path / 'levels'}" in done.stdout
    assert json.loads(level(*arguments, "--json").stdout)["drift"]["fitted_counts"] == [2, 2]


def test_the_command_cuts_at_given_boundaries(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "scores", [0.1, 0.26, 0.3, 0.9])
    done = level("--scores", scores, "--output", tmp_path / "levels", "--boundaries", "0.25,0.5", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["counts"] == [1, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--scores F --boundaries-from J --boundaries 0.1", "boundaries cannot be combined with"),
        ("--scores F --boundaries-from J --num-levels 2", "num_levels and strategy are those of"),
        ("--scores F --boundaries-from J --strategy uniform", "num_levels and strategy are those of"),
        ("--scores F --boundaries 0.1 --num-levels 2", "boundaries cannot be combined with"),
        ("--scores F --boundaries 0.2,0.1", "expected ascending numbers such as 0.2,0.25,0.3, got '0.2,0.1'"),
        ("--scores F --boundaries 0.1,nan", "expected ascending numbers"),
        ("--scores F --boundaries 0.1,x", "expected ascending numbers"),
    ],
)
def test_boundaries_come_from_one_place(tmp_path: Path, arguments: str, message: str) -> None:
    (tmp_path / "levels.json").write_text("{}")
    paths = {"F": tmp_path, "J": tmp_path / "levels.json"}
    done = level(*(paths.get(word, word) for word in arguments.split()), "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
