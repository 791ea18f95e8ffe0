"""VQAv2: hand-computed cases of the comparison and of the submission."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.readers import load_json, read_predictions
from tests.evaluation.benchmark_files import answer_lines, counts, scored, verdicts, write_json, write_lines


def label_file(path: Path, people: dict[int, list[str]], kinds: dict[int, str] | None = None) -> Path:
    records = [
        {
            "question_id": name,
            "image_id": 1,
            "question_type": "what is",
            "answer_type": (kinds or {}).get(name, "other"),
            "answers": [{"answer": one, "answer_confidence": "yes", "answer_id": i} for i, one in enumerate(answers)],
        }
        for name, answers in people.items()
    ]
    return write_json(path, {"annotations": records})


def submission(path: Path, texts: dict[int, str]) -> Path:
    return write_json(path, [{"question_id": name, "answer": text} for name, text in texts.items()])


@pytest.mark.parametrize(
    ("people", "text", "raw", "converted"),
    [
        # All people agree: literal comparison, including the case, except newlines, tabs and outer spaces.
        (["yes"] * 10, "yes", 1, 1),
        (["yes"] * 10, "Yes", 0, 1),
        (["yes"] * 10, " yes\n", 1, 1),
        (["yes"] * 10, "yes.", 0, 1),
        (["Yes"] * 10, "Yes", 1, 0),
        (["two"] * 10, "two", 1, 0),
        (["two"] * 10, "2", 0, 0),
        (["it's"] * 10, "it's", 1, 0),
        (["1,000"] * 10, "1,000", 1, 0),
        (["a\tb", "a b"] * 5, "a\nb", 1, 0),  # equal after the first step; normalization removes the article
        ([""] * 10, "", 1, 1),
        # People differ: both sides are normalized.
        (["yes"] * 9 + ["no"], "Yes!", 1, 1),
        (["two"] * 9 + ["3"], "2", 1, 1),
        (["The cat"] * 9 + ["dog"], "a cat", 1, 1),
        (["t-shirt"] * 9 + ["shirt"], "t shirt", 1, 1),
        (["dont know"] * 9 + ["no"], "don't know", 1, 1),
        (["it's"] * 9 + ["its"], "it's", 1, 0),
        # Number of people who agree, after normalization.
        (["no"] * 1 + ["yes"] * 9, "no", 0.3, 0.3),
        (["no"] * 2 + ["yes"] * 8, "no", 0.6, 0.6),
        (["no", "No", "no."] + ["yes"] * 7, "no", 0.9, 0.9),
        (["no", "No", "no.", "NO!"] + ["yes"] * 6, "no", 1, 1),
        (["a"] * 5 + ["the"] * 5, "", 1, 1),  # articles alone normalize to an empty answer
        (["yes"] * 9 + ["no"], "", 0, 0),
    ],
)
def test_answer(people: list[str], text: str, raw: float, converted: float, tmp_path: Path) -> None:
    labels = label_file(tmp_path / "annotations.json", {7: people})
    as_it_is = scored("vqav2", labels, submission(tmp_path / "raw.json", {7: text}))
    assert verdicts(as_it_is) == {7: pytest.approx(raw)}
    of_a_model = scored("vqav2", labels, answer_lines(tmp_path / "answers.jsonl", {7: text}))
    assert verdicts(of_a_model) == {7: pytest.approx(converted)}


def test_means_by_type_with_two_digits(tmp_path: Path) -> None:
    people = {1: ["yes"] * 10, 2: ["no"] * 10, 3: ["1"] + ["2"] * 9}
    labels = label_file(tmp_path / "annotations.json", people, {1: "yes/no", 2: "yes/no", 3: "number"})
    result = scored("vqav2", labels, answer_lines(tmp_path / "a.jsonl", {1: "Yes", 2: "Yes", 3: "one"}))
    assert result["score"] == pytest.approx(100 * 1.3 / 3)
    assert result["formatted"] == "43.33"
    assert result["details"] == {
        "overall": 43.33,
        "per_answer_type": {"number": 30.0, "yes/no": 50.0},
        "per_question_type": {"what is": 43.33},
    }
    assert result["groups"]["answer_type"]["yes/no"]["score"] == 50
    assert result["groups"]["answer_type"]["number"]["n_samples"] == 1


def test_missing_extra_and_duplicate_predictions(tmp_path: Path) -> None:
    labels = label_file(tmp_path / "annotations.json", {1: ["yes"] * 10, 2: ["no"] * 10, 3: [""] * 10})
    answers = answer_lines(tmp_path / "a.jsonl", [(1, "no"), (9, "yes"), (1, "yes")])
    result = scored("vqav2", labels, answers)
    assert verdicts(result) == {1: 1, 2: 0, 3: 1}  # the last line counts; a missing prediction is an empty answer
    assert result["counts"] == counts(3, 2, 1, 1)
    assert result["samples"][1].get("text") is None
    refused = scored("vqav2", labels, submission(tmp_path / "s.json", {1: "yes", 9: "no"}))
    assert sum("rejects" in note for note in refused["notes"]) == 2


def test_submission_has_every_question_in_order(tmp_path: Path) -> None:
    questions = write_lines(
        tmp_path / "q.jsonl",
        [{"question_id": name, "image": "x.jpg", "text": "What?", "category": "default"} for name in (5, 3, 4)],
    )
    answers = read_predictions(answer_lines(tmp_path / "a.jsonl", {3: "The Cat.", 5: "Two"}))
    write = BENCHMARKS["vqav2"].write_submission
    assert write is not None
    write(questions, answers, tmp_path / "upload" / "m.json")
    assert load_json(tmp_path / "upload" / "m.json") == [
        {"question_id": 5, "answer": "2"},
        {"question_id": 3, "answer": "cat"},
        {"question_id": 4, "answer": ""},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"questions": []}, "expected VQAv2 annotations, an object with a list `annotations`"),
        ({"annotations": [{"question_id": 1}]}, "VQAv2 annotation 1: 'answers' is missing"),
        ([1], "expected VQAv2 annotations in an object with a list `annotations`, got a list"),
    ],
)
def test_wrong_file(content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        BENCHMARKS["vqav2"].read_labels([tmp_path])
