"""TextVQA: hand-computed cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.benchmarks.textvqa import question_in
from tests.evaluation.benchmark_files import counts, scored, verdicts, write_json, write_lines

S = "Answer the question using a single word or phrase."


def labels(path: Path, records: list[tuple[int, str, str, list[str]]]) -> Path:
    names = ("question_id", "image_id", "question", "answers")
    return write_json(path, {"data": [dict(zip(names, record, strict=True)) for record in records]})


def answers(path: Path, rows: list[tuple[Any, str, str]]) -> Path:
    return write_lines(path, [{"question_id": name, "prompt": prompt, "text": text} for name, prompt, text in rows])


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        (f"What?\nReference OCR token: a, b\n{S}", "What?"),
        (f"Reference OCR token: a, b\nWhat?\n{S}", "What?"),
        (f"Reference OCR token:\nWhat?\n{S}", None),  # the official search string ends with a space
        (f"What?\nReference OCR token: \n{S}", "What?"),
        (f"What?\n{S}", "What?"),
        ("OCR tokens: a, b. Question: What?\nAnd? Short answer:", "What?\nAnd?"),
        ("OCR tokens: a, b. What?", None),
        ("What?", None),
        (f"What?\nReference OCR token: a\nb\n{S}", None),
        (f"One\nTwo\n{S}", None),
    ],
)
def test_question_in_prompt(prompt: str, question: str | None) -> None:
    assert question_in(prompt) == question


@pytest.mark.parametrize(
    ("people", "text", "right"),
    [
        (["Dakota"] * 10, "dakota.", 1),
        (["two"] * 10, "2", 1),  # people's answers are normalized even if all agree
        (["John's"] * 10, "John's", 1),
        (["1,000"] * 10, "1000", 1),
        (["the cat"] * 9 + ["dog"], "Cat!", 1),
        (["a", "A.", "the"] + ["x"] * 7, "", 0.9),
        (["x"] * 10, "", 0),
        (["x"] * 2 + ["y"] * 8, "X", 0.6),
        (["dont"] * 10, "don't", 1),
    ],
)
def test_answer(people: list[str], text: str, right: float, tmp_path: Path) -> None:
    known = labels(tmp_path / "labels.json", [(1, "i", "What?", people)])
    result = scored("textvqa", known, answers(tmp_path / "a.jsonl", [("i", f"WHAT?\n{S}", text)]))
    assert verdicts(result) == {1: pytest.approx(right)}


def test_mean_over_predictions_or_strictly_over_questions(tmp_path: Path) -> None:
    known = labels(
        tmp_path / "labels.json",
        [(1, "i", "One?", ["a1"] * 10), (2, "i", "Two?", ["a2"] * 10), (3, "j", "One?", ["a3"] * 10)],
    )
    rows = [("i", f"One?\n{S}", "x"), ("i", f"One?\n{S}", "a1"), ("j", f"One?\n{S}", "a3"), ("k", f"One?\n{S}", "a1")]
    given = answers(tmp_path / "a.jsonl", rows)
    official, strict = scored("textvqa", known, given), scored("textvqa", known, given, "strict")
    assert official["counts"] == strict["counts"] == counts(4, 1, 1, 1)
    assert official["score"] == pytest.approx(100 * 2 / 3) and official["details"]["samples"] == 3
    assert verdicts(strict) == {1: 1, 2: 0, 3: 1}
    assert official["protocols"] == strict["protocols"]
    assert not any(note.startswith("official ") for note in official["notes"])  # both are equal here
    fewer = scored("textvqa", known, answers(tmp_path / "b.jsonl", rows[1:2]))
    assert fewer["protocols"] == {"official": pytest.approx(100), "strict": pytest.approx(100 / 3)}
    assert any(note.startswith("official 100.00, strict 33.33: ") for note in fewer["notes"])


def test_predictions_without_prompt_match_by_question_id(tmp_path: Path) -> None:
    known = labels(tmp_path / "labels.json", [(1, "i", "One?", ["x"] * 10), (2, "i", "Two?", ["y"] * 10)])
    given = write_lines(tmp_path / "a.jsonl", [{"question_id": 2, "text": "y"}, {"question_id": 1, "text": "y"}])
    assert verdicts(scored("textvqa", known, given)) == {2: 1, 1: 0}


def test_prompt_without_question_is_reported(tmp_path: Path) -> None:
    known = labels(tmp_path / "labels.json", [(1, "i", "One?", ["x"] * 10)])
    given = answers(tmp_path / "a.jsonl", [("i", f"One?\n{S}", "x"), ("i", "One?", "x")])
    with pytest.raises(ValueError, match=r"a.jsonl:2: the prompt 'One\?' contains no question"):
        scored("textvqa", known, given)


def test_wrong_files(tmp_path: Path) -> None:
    given = answers(tmp_path / "a.jsonl", [("i", f"One?\n{S}", "x")])
    with pytest.raises(ValueError, match="expected TextVQA annotations, an object with a list `data`"):
        scored("textvqa", write_json(tmp_path / "labels.json", {"questions": []}), given)
    with pytest.raises(ValueError, match="TextVQA annotation 1: 'answers' is missing"):
        record = {"question_id": 1, "image_id": "i", "question": "One?"}
        scored("textvqa", write_json(tmp_path / "labels.json", {"data": [record]}), given)
    with pytest.raises(ValueError, match="none of its 1 predictions"):
        scored("textvqa", labels(tmp_path / "labels.json", [(1, "j", "One?", ["x"] * 10)]), given)
