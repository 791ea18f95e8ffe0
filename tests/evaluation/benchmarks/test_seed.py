"""SEED-Bench: hand-computed cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.readers import read_predictions
from tests.evaluation.benchmark_files import counts, scored, verdicts, write_json, write_lines


def labels(path: Path, records: list[tuple[Any, str, str, int]]) -> Path:
    names = ("question_id", "answer", "data_type", "question_type_id")
    content = {
        "questions": [dict(zip(names, record, strict=True)) for record in records],
        "question_type": {"Scene": 1, "Action": 10},
    }
    return write_json(path, content)


def answers(path: Path, rows: list[tuple[Any, str]]) -> Path:
    return write_lines(path, [{"question_id": name, "text": text} for name, text in rows])


@pytest.mark.parametrize(
    ("text", "right"),
    [("B", 1), ("b", 0), ("B.", 0), ("B ", 0), (" B", 0), ("B\n", 0), ("(B)", 0), ("", 0), ("\uff22", 0), ("BB", 0)],
)
def test_answer_must_equal_the_letter(text: str, right: int, tmp_path: Path) -> None:
    known = labels(tmp_path / "SEED-Bench.json", [("7", "B", "image", 1)])
    assert verdicts(scored("seed", known, answers(tmp_path / "a.jsonl", [(7, text)]))) == {"7": right}


def test_dimensions_and_data_types(tmp_path: Path) -> None:
    known = labels(
        tmp_path / "SEED-Bench.json",
        [("1", "A", "image", 1), ("2", "A", "image", 1), ("3", "A", "image", 1), ("v4", "B", "video", 10)],
    )
    result = scored("seed", known, answers(tmp_path / "a.jsonl", [(1, "A"), (2, "B"), (3, "B"), ("v4", "B")]))
    assert result["details"] == {
        "printed": {"Scene": 33.33, "Action": 100.0, "Total": 50.0, "image": 33.33, "video": 100.0},
        "image_accuracy_printed": 33.33,
        "correct": 1,
        "total": 3,
        "image_accuracy": pytest.approx(100 / 3),
    }
    assert (result["score"], result["n_samples"]) == (pytest.approx(100 / 3), 3)
    assert result["groups"]["dimension"]["Action"] == {"score": 100, "ci95": None, "n_samples": 1}


def test_ids_are_looked_up_as_numbers(tmp_path: Path) -> None:
    known = labels(
        tmp_path / "SEED-Bench.json", [("1", "A", "image", 1), ("2", "A", "image", 1), ("v3", "A", "video", 10)]
    )
    given = answers(tmp_path / "a.jsonl", [("1", "A"), (2, "A"), ("v3", "A")])
    official, strict = scored("seed", known, given), scored("seed", known, given, "strict")
    assert verdicts(official) == {"1": 0, "2": 1, "v3": 1}
    assert official["counts"]["n_missing"] == 1 and strict["counts"]["n_missing"] == 0
    assert verdicts(strict) == {"1": 1, "2": 1, "v3": 1}
    assert official["notes"][0] == "predictions whose id is text, where the official scorer looks up a number: 1"
    assert official["protocols"] == {"official": 50, "strict": 100}


def test_missing_extra_and_duplicate_predictions(tmp_path: Path) -> None:
    # The benchmark repeats an id; both rows count, and both get the last prediction.
    known = write_lines(
        tmp_path / "labels.jsonl",
        [
            {"question_id": "1", "answer": "A", "data_type": "image"},
            {"question_id": "5", "answer": "A", "data_type": "image"},
            {"question_id": "5", "answer": "B", "data_type": "image"},
        ],
    )
    result = scored("seed", known, answers(tmp_path / "a.jsonl", [(5, "A"), (5, "B"), (9, "A")]))
    assert [item["score"] for item in result["samples"]] == [0, 0, 1]
    assert result["counts"] == counts(3, 1, 1, 1)
    assert "dimension" not in result["groups"]


def test_dimension_without_correct_predictions_stops_the_official_scorer(tmp_path: Path) -> None:
    known = labels(tmp_path / "SEED-Bench.json", [("1", "A", "image", 1), ("2", "A", "image", 10)])
    wrong = scored("seed", known, answers(tmp_path / "a.jsonl", [(1, "A"), (2, "B")]))
    assert wrong["notes"] == ["Action: nothing correct and nothing missing; the official scorer stops here"]
    missing = scored("seed", known, answers(tmp_path / "a.jsonl", [(1, "A")]))
    assert missing["notes"] == []


def test_submission(tmp_path: Path) -> None:
    known = labels(
        tmp_path / "SEED-Bench.json", [("2", "A", "image", 1), ("v1", "B", "video", 10), ("3", "C", "image", 1)]
    )
    write = BENCHMARKS["seed"].write_submission
    assert write is not None
    write(known, read_predictions(answers(tmp_path / "a.jsonl", [("v1", "B"), (2, "\u00e9")])), tmp_path / "up.jsonl")
    assert (tmp_path / "up.jsonl").read_text() == (
        '{"question_id": "2", "prediction": "\\u00e9"}\n'
        '{"question_id": "v1", "prediction": "B"}\n'
        '{"question_id": "3", "prediction": ""}\n'
    )


def test_wrong_files(tmp_path: Path) -> None:
    given = answers(tmp_path / "a.jsonl", [(1, "A")])
    with pytest.raises(ValueError, match="SEED-Bench labels have no image questions"):
        scored("seed", labels(tmp_path / "SEED-Bench.json", [("1", "A", "video", 10)]), given)
    with pytest.raises(ValueError, match="expected SEED-Bench labels, an object with a list `questions`"):
        scored("seed", write_json(tmp_path / "SEED-Bench.json", {"data": []}), given)
    with pytest.raises(ValueError, match="SEED-Bench question 1: 'data_type' is missing"):
        scored("seed", write_json(tmp_path / "SEED-Bench.json", {"questions": [{"question_id": 1}]}), given)
