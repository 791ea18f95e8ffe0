"""LLaVA-Bench: hand-computed cases of parsing reviews and of their means."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.benchmarks.llava_bench import read_review
from tests.evaluation.benchmark_files import answer_lines, counts, scored, verdicts, write_lines


@pytest.mark.parametrize(
    ("content", "scores"),
    [
        ("8 10\nBoth are fine.", (8, 10)),
        ("8 10", (8, 10)),
        ("8.5 9\n", (8.5, 9)),
        ("8,10\nx", (8, 10)),
        ("8, 10\nx", (-1, -1)),
        ("8 10 \nx", (-1, -1)),
        (" 8 10\nx", (-1, -1)),
        ("8  10\nx", (-1, -1)),
        ("8\t10\nx", (-1, -1)),
        ("8 10\r\nx", (8, 10)),
        ("8\n10", (-1, -1)),
        ("8/10 9/10\nx", (-1, -1)),
        ("8 ten\nx", (-1, -1)),
        ("Assistant 1: 8 10", (-1, -1)),
        ("", (-1, -1)),
        ("\n8 10", (-1, -1)),
        ("7 8 9", (-1, -1)),
        ("1e1 -2\n", (10, -2)),
        ("-1 -1", (-1, -1)),
        ("\uff18 9", (8, 9)),
    ],
)
def test_read_review(content: str, scores: tuple[float, float]) -> None:
    assert read_review(content) == scores


def test_nan_and_infinity_are_numbers() -> None:
    reference, model = read_review("nan inf\nx")
    assert math.isnan(reference) and math.isinf(model)


def reviews(path: Path, rows: list[tuple[int, str, Any]]) -> Path:
    return write_lines(
        path,
        [
            {"id": i, "question_id": name, "category": f"llava_bench_{category}", "content": "", "tuple": scores}
            for i, (name, category, scores) in enumerate(rows)
        ],
    )


def questions(path: Path, names: list[int]) -> Path:
    lines = [{"question_id": name, "image": "1.jpg", "text": "?", "category": "conv"} for name in names]
    return write_lines(path, lines)


def test_relative_scores_by_category(tmp_path: Path) -> None:
    rows = [(0, "conv", [8, 10]), (1, "detail", [9, 6.5]), (2, "conv", [9, 4])]
    result = scored("llava_bench", (), reviews(tmp_path / "r.jsonl", rows))
    # All: 26/3 and 20.5/3; to three digits 8.667 and 6.833, 78.8 percent.
    assert result["details"] == {
        "all": {"relative": 78.8, "reference": 86.7, "model": 68.3},
        "llava_bench_conv": {"relative": 82.4, "reference": 85.0, "model": 70.0},
        "llava_bench_detail": {"relative": 72.2, "reference": 90.0, "model": 65.0},
    }
    assert result["formatted"] == "78.8" and result["score"] == pytest.approx(100 * 6.833 / 8.667)
    assert verdicts(result) == {0: 1, 1: 0.65, 2: 0.4}
    assert result["groups"]["category"]["llava_bench_conv"]["score"] == pytest.approx(100 * 14 / 17)


def test_means_are_rounded_to_three_digits_before_the_division(tmp_path: Path) -> None:
    rows = [(i, "conv", [1, 1 if i < 2 else 0]) for i in range(3)]
    result = scored("llava_bench", (), reviews(tmp_path / "r.jsonl", rows))
    assert result["score"] == pytest.approx(66.7)  # 0.667 / 1, not 2 / 3


def test_unreadable_reviews(tmp_path: Path) -> None:
    rows = [(0, "conv", [8, 6]), (1, "conv", [-1, -1]), (2, "detail", [9, 9])]
    given = reviews(tmp_path / "r.jsonl", rows)
    official, strict = scored("llava_bench", (), given), scored("llava_bench", (), given, "strict")
    assert official["details"]["all"] == {"relative": 87.5, "reference": 53.3, "model": 46.7} | {
        "relative": round(4.667 / 5.333 * 100, 1)
    }
    assert strict["details"]["all"] == {"relative": 88.2, "reference": 85.0, "model": 75.0}
    assert official["notes"][0] == "unreadable reviews, counted as -1 for both: questions 1"
    assert strict["notes"][0] == "unreadable reviews, skipped: questions 1"
    assert strict["notes"][1].startswith("official 87.51, strict 88.24: the official summary counts")
    with pytest.raises(ValueError, match="no review is readable"):
        scored("llava_bench", (), reviews(tmp_path / "r.jsonl", rows[1:2]), "strict")


def test_reviews_without_scores_are_read(tmp_path: Path) -> None:
    lines = [{"question_id": 0, "content": "8 6\nWell."}, {"question_id": 1, "content": "Well."}]
    result = scored("llava_bench", (), write_lines(tmp_path / "r.jsonl", lines))
    assert [item["prediction"] for item in result["samples"]] == [6, -1]
    assert list(result["details"]) == ["all"] and result["groups"] == {}


def test_ignored_missing_extra_and_duplicate_reviews(tmp_path: Path) -> None:
    given = reviews(tmp_path / "r.jsonl", [(0, "conv", [8, 8]), (1, "conv", [8, 4]), (1, "conv", [8, 2])])
    assert scored("llava_bench", (), given, ignore=("1",))["details"]["all"]["relative"] == 100
    with pytest.raises(ValueError, match="no answer to question 7; check --ignore"):
        scored("llava_bench", (), given, ignore=("7", "1"))
    asked = questions(tmp_path / "questions.jsonl", [1, 2, 3])
    result = scored("llava_bench", asked, given)
    assert result["counts"] == counts(3, 2, 1, 1)
    assert result["details"]["all"]["relative"] == round(4.667 / 8 * 100, 1)  # officially all lines count
    strict = scored("llava_bench", asked, given, "strict")
    assert verdicts(strict) == {1: 0.2}


def test_score_that_is_not_finite(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"question_id": 0, "tuple": [NaN, 3]}\n{"question_id": 1, "tuple": [8, 4]}\n')
    official = scored("llava_bench", (), tmp_path / "r.jsonl")
    assert official["score"] is None and official["formatted"] == "nan"
    assert official["protocols"]["strict"] == 50


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds predictions, not reviews; run `aligngpt eval judge` first"):
        scored("llava_bench", (), answer_lines(tmp_path / "a.jsonl", {0: "A hill."}))
    (tmp_path / "r.jsonl").write_text(json.dumps({"question_id": 0, "tuple": [1]}) + "\n")
    with pytest.raises(ValueError, match=r"r\.jsonl:1: tuple is missing; expected two scores"):
        scored("llava_bench", (), tmp_path / "r.jsonl")
    given = reviews(tmp_path / "r.jsonl", [(0, "conv", [8, 8])])
    with pytest.raises(ValueError, match="none of its 1 predictions"):
        scored("llava_bench", questions(tmp_path / "q.jsonl", [5]), given)
