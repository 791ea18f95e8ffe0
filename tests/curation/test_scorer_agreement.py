"""Agreement of scorers: the metrics of the manifest, and levels and examples of the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligngpt.curation.scorer_agreement import NUM_LEVELS, AgreementDetails, compare, compare_all, describe_agreements
from aligngpt.curation.scoring.store import open_part, part_metadata, part_path, read_manifest, score_schema
from tests.reporting.score_folders import rows_table, synthetic, write_scores


def compared(folder: Path, table: Any, column: str = "clip_score") -> AgreementDetails:
    write_scores(folder, table, part=700)
    (result,) = describe_agreements(folder, read_manifest(folder), column)
    return result


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def test_levels_and_pairs_are_those_of_the_ranks(tmp_path: Path) -> None:
    table = synthetic(4_000)
    result = compared(tmp_path / "scores", table)
    both = [(row["clip_score"], row["clip_score_clip-b"]) for row in table.to_pylist() if row["clip_score"] is not None]
    x, y = (ranks(np.array(scores)) for scores in zip(*both, strict=True))
    assert (result.column, result.pairs, result.every) == ("clip_score_clip-b", len(both), 1)
    assert result.spearman == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-5)
    a, b = x * NUM_LEVELS // len(both), y * NUM_LEVELS // len(both)
    assert result.close == pytest.approx((np.abs(a - b) <= 1).mean(), abs=0.01)
    assert result.matrix.sum() == len(both) and result.matrix.sum(axis=1) == pytest.approx(len(both) / 8, abs=3)
    existing = [index for index, score in enumerate(table["clip_score"].to_pylist()) if score is not None]
    assert existing[int(np.argmax(x - y))] in result.left_higher
    assert existing[int(np.argmax(y - x))] in result.right_higher


def test_metrics_are_those_of_the_manifest(tmp_path: Path) -> None:
    result = compared(tmp_path / "scores", synthetic(3_000))
    (summary,) = read_manifest(tmp_path / "scores").agreement
    assert (result.pairs, result.spearman, result.equal_levels) == (
        summary.pairs, summary.spearman, summary.equal_levels
    )  # fmt: skip
    assert np.trace(result.matrix) / result.matrix.sum() == pytest.approx(summary.equal_levels, abs=1e-6)


def test_large_inputs_are_sampled_as_for_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aligngpt.curation.scorer_agreement.MAX_PAIRS", 600)
    result = compared(tmp_path / "scores", both([(index / 2_000, abs(index - 999) / 2_000) for index in range(2_000)]))
    assert (result.pairs, result.every, result.matrix.sum()) == (500, 4, 500)
    assert result.right_higher[0] == 0 and all(row % 4 == 0 for row in (*result.left_higher, *result.right_higher))
    assert np.trace(result.matrix) / 500 == pytest.approx(result.equal_levels, abs=1e-6)


def test_the_second_scorer_can_come_first(tmp_path: Path) -> None:
    table = synthetic(1_000)
    one, other = compared(tmp_path / "a", table), compared(tmp_path / "b", table, "clip_score_clip-b")
    assert other.column == "clip_score" and other.spearman == one.spearman
    assert np.array_equal(other.matrix, one.matrix.T)
    assert set(other.left_higher) == set(one.right_higher)


def both(pairs: list[tuple[float | None, float | None]]) -> Any:
    return rows_table([{"clip_score": one, "clip_score_clip-b": other} for one, other in pairs])


def test_the_same_order_on_another_scale_agrees_in_all(tmp_path: Path) -> None:
    result = compared(tmp_path / "same", both([(index / 100, index / 1_000 - 0.5) for index in range(80)]))
    assert (result.spearman, result.equal_levels, result.close, result.left_higher) == (1, 1, 1, ())
    result = compared(tmp_path / "reverse", both([(index / 100, -index / 1_000) for index in range(80)]))
    assert (result.spearman, result.equal_levels) == (-1, 0)
    assert result.left_higher[0] == 79 and result.right_higher[0] == 0


def test_scorers_that_cannot_be_compared(tmp_path: Path) -> None:
    assert compared(tmp_path / "flat", both([(index / 10, 0.5) for index in range(5)])).spearman is None
    apart = write_scores(tmp_path / "apart", both([(0.5, None), (None, 0.5)]))
    assert describe_agreements(apart, read_manifest(apart), "clip_score") == ()
    alone = write_scores(tmp_path / "alone", rows_table([{"clip_score": 0.5}]))
    assert describe_agreements(alone, read_manifest(alone), "clip_score") == ()


def test_of_three_scorers_each_is_compared_with_the_first(tmp_path: Path) -> None:
    table = both([(index / 100, index / 100) for index in range(40)])
    table = table.append_column("clip_score_c", table["clip_score"].cast("float32"))
    write_scores(tmp_path / "scores", table)
    manifest = read_manifest(tmp_path / "scores")
    (summary,) = manifest.agreement
    agreement = [
        summary,
        summary.model_copy(update={"scorers": ("clip-a", "c"), "pairs": 0, "spearman": None}),
        summary.model_copy(update={"scorers": ("clip-b", "c"), "spearman": 0.25}),
    ]
    scorers = [*manifest.scorers, manifest.scorers[0].model_copy(update={"name": "c"})]
    manifest = manifest.model_copy(update={"scorers": scorers, "agreement": agreement})
    manifest.write(tmp_path / "scores")
    result = describe_agreements(tmp_path / "scores", manifest, "clip_score_clip-b")
    assert [(one.column, one.spearman) for one in result] == [("clip_score", 1), ("clip_score_c", 0.25)]
    assert [one.column for one in describe_agreements(tmp_path / "scores", manifest, "clip_score")] == [
        "clip_score_clip-b"
    ]


def metrics(left: np.ndarray, right: np.ndarray) -> tuple[int, float | None, float | None]:
    summary = compare(left, right, ("a", "b"))
    return summary.pairs, summary.spearman, summary.equal_levels


def test_agreement_of_two_scorers() -> None:
    first = np.arange(16, dtype=np.float32)
    assert metrics(first, first**3) == (16, 1.0, 1.0)
    assert metrics(first, -first) == (16, -1.0, 0.0)
    swapped = first.copy()
    swapped[[0, 2]] = swapped[[2, 0]]  # over the boundary of the first two levels: 1 - 6 * 8 / (16 * 255)
    assert metrics(first, swapped) == (16, 0.988235, 0.875)
    ties = np.array([0, 0, 1], np.float32)  # ranks 1.5, 1.5, 3 against 1, 2, 3
    assert metrics(ties, first[:3])[1] == pytest.approx(0.866025)
    gaps = np.where(first == 3, np.nan, first)
    assert metrics(first, gaps)[0] == 15
    assert metrics(first, np.ones(16, np.float32))[1] is None
    assert metrics(first, first * np.nan) == (0, None, None)


@pytest.mark.parametrize("most", [1_000_000, 8, 1])
def test_agreement_is_sampled_evenly_over_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("aligngpt.curation.scorer_agreement.MAX_PAIRS", most)
    schema = score_schema(["b"])
    for number in range(3):
        scores = [score / 100 for score in range(10 * number, 10 * number + 10)]
        columns: dict[str, Any] = {name: [None] * 10 for name in schema.names}
        columns |= {"id": list("abcdefghij"), "text_truncated": [False] * 10, "clip_score": scores}
        columns["clip_score_b"] = [-score for score in scores]
        with open_part(part_path(tmp_path, number), schema, part_metadata({}, str(number))) as write:
            write(columns)
    parts = [part_path(tmp_path, number) for number in range(3)]
    (result,) = compare_all(parts, ["clip_score", "clip_score_b"], ["a", "b"])
    assert result.scorers == ("a", "b")
    assert result.pairs == {1_000_000: 30, 8: 8, 1: 1}[most]
    assert result.spearman == (None if most == 1 else -1)
    assert compare_all(parts, ["clip_score"], ["a"]) == []
