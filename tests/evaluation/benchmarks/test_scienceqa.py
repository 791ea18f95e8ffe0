"""ScienceQA: hand-computed cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.benchmarks.scienceqa import read_option
from tests.evaluation.benchmark_files import counts, scored, verdicts, write_json, write_lines

L = "Answer with the option's letter from the given choices directly."


def labels(folder: Path, problems: dict[str, tuple[int, int, bool]], split: list[str] | None = None) -> Path:
    """Write problems with number of choices, correct choice and whether there is an image, by id."""
    records = {
        name: {"choices": ["x"] * choices, "answer": answer, "image": "image.png" if image else None, "split": "test"}
        for name, (choices, answer, image) in problems.items()
    }
    write_json(folder / "problems.json", records)
    write_json(folder / "pid_splits.json", {"train": [], "test": list(problems) if split is None else split})
    return folder


def answers(path: Path, rows: list[tuple[str, str, bool]]) -> Path:
    lines = [
        {"question_id": name, "prompt": ("<image>\n" if image else "") + f"Which?\n{L}", "text": text}
        for name, text, image in rows
    ]
    return write_lines(path, lines)


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("A", "A"),
        ("E", "E"),
        ("F", "FAILED"),
        ("a", "FAILED"),
        ("A.", "FAILED"),
        ("A. ", "A"),
        ("A. stone", "A"),
        ("A. B. C. D. E", "A"),
        ("A.stone", "FAILED"),
        ("A) stone", "FAILED"),
        (" A", "FAILED"),
        ("A\n", "FAILED"),
        ("(A)", "FAILED"),
        ("AB", "FAILED"),
        ("", "FAILED"),
        ("A\u3002 x", "FAILED"),
        ("\uff21", "FAILED"),
        ("F. stone", "FAILED"),
        ("LECTURE: text. The answer is B.", "B"),
        ("The answer is B", "FAILED"),
        ("The answer is B\n", "FAILED"),
        ("The answer is B.\nBECAUSE: it is.", "B"),
        ("The answer is BC", "B"),
        ("The answer is (B).", "FAILED"),
        ("the answer is B.", "FAILED"),
        ("The answer is b.", "FAILED"),
        ("The answer is Z.", "Z"),
        ("The answer is A. The answer is A.", "FAILED"),
        ("The answer is A. The answer is B.", "FAILED"),
        ("A. The answer is B.", "A"),
    ],
)
def test_read_option(text: str, option: str) -> None:
    assert read_option(text) == option


def test_letter_must_be_a_choice(tmp_path: Path) -> None:
    folder = labels(tmp_path, {"1": (2, 1, True), "2": (2, 2, True), "3": (5, 4, True), "4": (6, 5, True)})
    rows = [("1", "B", True), ("2", "C", True), ("3", "E", True), ("4", "The answer is F.", True)]
    result = scored("scienceqa", folder, answers(tmp_path / "a.jsonl", rows))
    assert verdicts(result) == {"1": 1, "2": 0, "3": 1, "4": 0}
    assert [item["prediction"] for item in result["samples"]] == ["B", "C", "E", "F"]


def test_images_by_prompt_or_by_label(tmp_path: Path) -> None:
    problems = {"1": (2, 0, True), "2": (2, 0, True), "3": (2, 0, False), "4": (2, 0, True)}
    folder = labels(tmp_path, problems)
    rows = [("1", "A", True), ("2", "B", True), ("3", "A", False), ("2", "A", True)]
    given = answers(tmp_path / "a.jsonl", rows)  # 4 is missing, the last one for 2 counts
    official = scored("scienceqa", folder, given)
    assert official["details"] == {
        "total": 4,
        "correct": 3,
        "accuracy": 75.0,
        "img_total": 2,
        "img_correct": 2,
        "img_accuracy": 100.0,
    }
    assert (official["score"], official["formatted"], official["n_samples"]) == (100, "100.00", 2)
    assert official["counts"] == counts(4, 1, 0, 1)
    assert official["notes"][0].startswith("official 100.00, strict 66.67: the official scorer identifies")
    strict = scored("scienceqa", folder, given, "strict")
    assert (strict["score"], strict["n_samples"]) == (pytest.approx(200 / 3), 3)
    assert strict["protocols"] == official["protocols"]
    assert official["groups"]["image"]["with"]["n_samples"] == 3


def test_subject_and_grade_categories(tmp_path: Path) -> None:
    folder = labels(tmp_path, {"1": (2, 0, True), "2": (2, 0, True)})
    problems = json.loads((folder / "problems.json").read_text())
    problems["1"] |= {"subject": "natural science", "grade": "grade5"}
    problems["2"] |= {"subject": "social science", "grade": "grade5"}
    write_json(folder / "problems.json", problems)
    result = scored("scienceqa", folder, answers(tmp_path / "a.jsonl", [("1", "A", True), ("2", "B", True)]))
    assert {name: part["score"] for name, part in result["groups"]["subject"].items()} == {
        "natural science": 100,
        "social science": 0,
    }
    assert result["groups"]["grade"]["grade5"]["score"] == 50


def test_part_of_the_split(tmp_path: Path) -> None:
    folder = labels(tmp_path, {"1": (2, 0, True), "2": (2, 0, True)})
    part = write_json(folder / "pid_splits_part.json", {"test": ["2"]})
    given = answers(tmp_path / "a.jsonl", [("1", "A", True), ("2", "B", True)])
    assert verdicts(scored("scienceqa", folder, given)) == {"1": 1, "2": 0}
    assert verdicts(scored("scienceqa", [folder, part], given)) == {"2": 0}
    assert verdicts(scored("scienceqa", part, given)) == {"2": 0}
    assert verdicts(scored("scienceqa", folder / "problems.json", given)) == {"1": 1, "2": 0}


def test_prompts_without_image_placeholder(tmp_path: Path) -> None:
    folder = labels(tmp_path, {"1": (2, 0, True)})
    given = answers(tmp_path / "a.jsonl", [("1", "A", False)])
    with pytest.raises(ValueError, match="looks for <image> in the stored prompts, --protocol strict in the labels"):
        scored("scienceqa", folder, given)
    strict = scored("scienceqa", folder, given, "strict")
    assert strict["protocols"] == {"official": None, "strict": 100}
    assert strict["notes"][0].startswith("no score by the official protocol")


def test_wrong_files(tmp_path: Path) -> None:
    given = answers(tmp_path / "a.jsonl", [("1", "A", True)])
    read: Any = BENCHMARKS["scienceqa"].read_labels
    with pytest.raises(ValueError, match="neither ScienceQA's problems nor its splits"):
        read([write_json(tmp_path / "labels.json", {"data": []})])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no problems\.json in this folder"):
        read([tmp_path / "empty"])
    folder = labels(tmp_path / "labels", {"1": (2, 0, True)}, split=["1", "9"])
    with pytest.raises(ValueError, match="ScienceQA question 9: '9' is missing"):
        scored("scienceqa", folder, given)


def test_questions_become_prompts(tmp_path: Path) -> None:
    value = "<image>\nContext: A stone.\nWhich?\nA. one\nB. two"
    records = [
        {"id": "5", "image": "5/image.png", "conversations": [{"from": "human", "value": value}]},
        {"id": "6", "conversations": [{"from": "human", "value": "Which?\nA. one\nB. two"}]},
    ]
    one, other = BENCHMARKS["scienceqa"].read_questions(write_json(tmp_path / "q.json", records))
    assert (one.id, one.image) == ("5", "5/image.png")
    assert one.prompt == f"Context: A stone.\nWhich?\nA. one\nB. two\n{L}"
    assert one.stored_prompt == f"<image>\n{one.prompt}"
    assert (other.image, other.prompt) == (None, f"Which?\nA. one\nB. two\n{L}")
    assert other.stored_prompt == other.prompt
