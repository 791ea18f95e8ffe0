"""GQA: hand-computed cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.benchmark_files import answer_lines, counts, scored, verdicts, write_json


def question(
    answer: str, structural: str = "query", group: str | None = None, steps: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    operations = [step.split(": ") for step in steps]
    return {
        "question": "What is that thing?",
        "answer": answer,
        "imageId": "n1",
        "isBalanced": True,
        "types": {"structural": structural, "semantic": "attr", "detailed": "x"},
        "groups": {"global": group, "local": "l"},
        "semantic": [{"operation": name, "argument": argument} for name, argument in operations],
    } | more


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("couch", 1),
        ("Couch", 1),
        ("COUCH.", 1),
        ("couch...", 1),
        ("couch. ", 0),  # only trailing periods are removed
        (" couch", 0),
        ("couch\n", 0),
        ("couch!", 0),
        (".couch", 0),
        ("a couch", 0),
        ("couches", 0),
        ("cou.ch", 0),
        ("", 0),
        ("\uff43ouch", 0),
    ],
)
def test_answer(text: str, right: int, tmp_path: Path) -> None:
    labels = write_json(tmp_path / "questions.json", {"1": question("couch")})
    result = scored("gqa", labels, answer_lines(tmp_path / "a.jsonl", {"1": text}))
    assert verdicts(result) == {"1": right}


def test_submissions_are_compared_literally(tmp_path: Path) -> None:
    labels = write_json(tmp_path / "questions.json", {"1": question("couch"), "2": question("couch")})
    rows = [{"questionId": "1", "prediction": "Couch"}, {"questionId": "2", "prediction": "couch"}]
    result = scored("gqa", labels, write_json(tmp_path / "p.json", rows))
    assert verdicts(result) == {"1": 0, "2": 1}


def test_categories(tmp_path: Path) -> None:
    questions = {
        "1": question("yes", "verify", steps=("select: dog (1)", "exist: ?")),
        "2": question("yes", "logical", steps=("select: dog (1)", "filter color: red")),
        "3": question("cat", "query", steps=("select: dog (1)", "query: name"), question="What is it there?"),
        "4": question("cat", "query", steps=("choose name: dog|cat", "query: color")),
        "5": question("cat", "query", isBalanced=False),
    }
    texts = {"1": "yes", "2": "no", "3": "cat", "4": "dog", "5": "cat"}
    result = scored("gqa", write_json(tmp_path / "q.json", questions), answer_lines(tmp_path / "a.jsonl", texts))
    details = result["details"]
    assert (details["n"], details["correct"], result["score"]) == (4, 2, 50)
    assert details["printed"] == {"binary": 50.0, "open": 50.0, "accuracy": 50.0, "distribution": None}
    assert details["detailed"] == {
        "structural type": {
            "logical": {"accuracy": 0.0, "n": 1},
            "query": {"accuracy": 50.0, "n": 2},
            "verify": {"accuracy": 100.0, "n": 1},
        },
        "semantic type": {"attr": {"accuracy": 50.0, "n": 4}},
        "steps number": {"1": {"accuracy": 66.67, "n": 3}, "2": {"accuracy": 0.0, "n": 1}},
        "words number": {"4": {"accuracy": 50.0, "n": 4}},
    }
    assert result["groups"]["form"]["binary"]["n_samples"] == 2
    assert result["counts"]["n_extra"] == 1  # the unbalanced question


def test_distribution_by_hand(tmp_path: Path) -> None:
    # Group furniture: labels couch, couch, chair; predictions couch, chair, chair.
    # (1 - 2)^2 / 2 + (2 - 1)^2 / 1 = 1.5, over 3 questions; group animal agrees, over 1.
    questions = {
        "1": question("couch", group="furniture"),
        "2": question("couch", group="furniture"),
        "3": question("chair", group="furniture"),
        "4": question("dog", group="animal"),
        "5": question("red"),
    }
    texts = {"1": "couch", "2": "chair", "3": "chair", "4": "dog", "5": "blue"}
    result = scored("gqa", write_json(tmp_path / "q.json", questions), answer_lines(tmp_path / "a.jsonl", texts))
    assert result["details"]["printed"]["distribution"] == round((1.5 * 3 + 0 * 1) / 4 / 100, 2)


def test_missing_and_duplicate_predictions(tmp_path: Path) -> None:
    labels = write_json(tmp_path / "q.json", {"1": question("a"), "2": question("b"), "3": question("c")})
    answers = answer_lines(tmp_path / "a.jsonl", [(1, "x"), ("3", "c"), (1, "a")])
    result = scored("gqa", labels, answers)
    assert verdicts(result) == {"1": 1, "2": 0, "3": 1}
    assert result["counts"] == counts(3, 1, 0, 1)
    assert result["notes"] == ["missing predictions, counted as wrong: 1; the official scorer stops with an error"]
    assert scored("gqa", labels, answers, "strict")["notes"] == []


def test_wrong_files(tmp_path: Path) -> None:
    answers = answer_lines(tmp_path / "a.jsonl", {"1": "x"})
    with pytest.raises(ValueError, match="no question is balanced"):
        scored("gqa", write_json(tmp_path / "q.json", {"1": question("a", isBalanced=False)}), answers)
    with pytest.raises(ValueError, match="GQA question 1: 'isBalanced' is missing"):
        scored("gqa", write_json(tmp_path / "q.json", {"1": {"answer": "a"}}), answers)
    with pytest.raises(ValueError, match="GQA question data: a field is missing or of another type"):
        scored("gqa", write_json(tmp_path / "q.json", {"data": []}), answers)
    with pytest.raises(ValueError, match="none of its 1 predictions is"):
        scored("gqa", write_json(tmp_path / "q.json", {"2": question("a")}), answers)
