"""The synthetic benchmark: scores worked by hand, and the files of its dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligngpt.evaluation.artifacts import SampleScore
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.benchmarks import synthetic as benchmark
from aligngpt.evaluation.types import Prediction, Predictions, Target
from aligngpt.synthetic.dataset import generate_dataset, read_questions
from aligngpt.synthetic.scenes import QUESTION_KINDS, SceneObject, describe
from tests.evaluation.benchmark_files import answer_lines, scored

RED = SceneObject("large", "red", "circle", "top")
BLUE = SceneObject("small", "blue", "star", "left")
TWIN = SceneObject("small", "red", "circle", "right")


def score(kind: str, answer: str, objects: list[SceneObject], text: str) -> SampleScore:
    target = Target(1, answer, {"kind": kind}, data=objects)
    return benchmark.score([target], Predictions("a", [Prediction(1, text)]), "official").samples[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (describe([RED, BLUE, TWIN]), 1.0),
        (describe([TWIN, RED, BLUE]), 1.0),  # in any order
        (describe([RED]), 0.5),  # 2 * 1 / (1 + 3)
        (describe([RED, SceneObject("large", "blue", "star", "left")]), 0.4),  # 2 * 1 / (2 + 3): every attribute counts
        (describe([RED, RED, RED]), 1 / 3),  # 2 * 1 / (3 + 3): named three times, there once
        ("", 0.0),
        ("I see nothing.", 0.0),
    ],
)
def test_a_description_scores_the_f1_of_its_objects(text: str, expected: float) -> None:
    assert score("description", "x", [RED, BLUE, TWIN], text).score == pytest.approx(expected)


@pytest.mark.parametrize(("text", "expected"), [("two", 1.0), ("Two", 0.0), ("two.", 0.0), ("", 0.0), ("one two", 0.0)])
def test_any_other_answer_is_right_or_wrong(text: str, expected: float) -> None:
    assert score("count", "two", [], text).score == expected


def test_objects_of_descriptions_worked_by_hand() -> None:
    texts = ["a small red circle at the top and a red circle.", "a blue star and a green star.", "nothing"]
    objects = [[RED, TWIN, BLUE], [BLUE], [RED]]
    # Right: 2 + 1 + 0; named: 2 + 2 + 0; there: 3 + 1 + 1. Size and place play no part.
    counts = [benchmark.match_objects(text, own) for text, own in zip(texts, objects, strict=True)]
    assert counts == [(2, 2, 3), (1, 2, 1), (0, 0, 1)]


def test_the_score_of_a_dataset(tmp_path: Path) -> None:
    """Right answers but to the first question of each kind; a description names its first object."""
    generate_dataset(tmp_path / "data", pairs=2, conversations=2, questions=14)
    questions = read_questions(tmp_path / "data")
    texts = {question["question_id"]: question["label"] for question in questions}
    for kind in QUESTION_KINDS:
        first = next(question for question in questions if question["category"] == kind)
        texts[first["question_id"]] = describe(first["objects"][:1]) if kind == "description" else "wrong"
    result = scored("synthetic", tmp_path / "data", answer_lines(tmp_path / "answers.jsonl", texts))
    first, second = (question["objects"] for question in questions if question["category"] == "description")
    partly = 2 / (1 + len(first))
    expected = {kind: (50, 2) for kind in QUESTION_KINDS} | {"description": (pytest.approx(50 * (partly + 1)), 2)}
    kinds = result["groups"]["kind"]
    assert {kind: (group["score"], group["n_samples"]) for kind, group in kinds.items()} == expected
    assert result["score"] == pytest.approx(100 * (6 + partly + 1) / 14)
    assert (result["n_samples"], result["notes"]) == (14, [])  # the samples of single objects do not count
    objects = result["groups"]["objects"]
    assert objects["precision"]["score"] == 100
    assert objects["recall"]["score"] == pytest.approx(100 * (1 + len(second)) / (len(first) + len(second)))
    missing = scored("synthetic", tmp_path / "data", answer_lines(tmp_path / "answers.jsonl", {0: texts[0]}))
    assert missing["score"] == 0 and missing["counts"]["n_missing"] == 13


def test_its_questions(tmp_path: Path) -> None:
    generate_dataset(tmp_path / "data", pairs=2, conversations=2, questions=14)
    files = BENCHMARKS["synthetic"].files
    questions = BENCHMARKS["synthetic"].read_questions(tmp_path / "data" / files.questions)
    assert [question.id for question in questions] == list(range(14))
    assert {question.kind for question in questions} == set(QUESTION_KINDS)
    assert all((tmp_path / "data" / str(files.images) / str(question.image)).is_file() for question in questions)
