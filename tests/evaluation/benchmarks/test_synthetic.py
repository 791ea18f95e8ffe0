"""The benchmark of the drawn world: scores worked by hand, and a tiny model that answers it in any batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aligngpt.evaluation.benchmarks import synthetic as scenes
from aligngpt.evaluation.benchmarks.synthetic import evaluate, object_precision_recall
from aligngpt.inference.batch_generation import Completion
from aligngpt.modeling.checkpoints import describe_backbones, load_model, save_stage1
from aligngpt.synthetic.dataset import generate_dataset, read_questions
from aligngpt.synthetic.scenes import QUESTION_KINDS, SceneObject, describe
from tests import tiny

LEVELS = 3
RED = SceneObject("large", "red", "circle", "top")
BLUE = SceneObject("small", "blue", "star", "left")
TWIN = SceneObject("small", "red", "circle", "right")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world, a tiny random model with alignment and one without, and a stage-1 checkpoint of it."""
    folder = tmp_path_factory.mktemp("benchmark")
    generate_dataset(folder / "data", pairs=2, conversations=2, questions=14)
    for name, setting in (("adaptive", "adaptive"), ("none", "none")):
        model, processor = tiny.build(folder / "backbones", num_alignment_levels=LEVELS, alignment=setting)
        processor.use_alignment = setting != "none"
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        if setting == "adaptive":
            base = describe_backbones(folder / "backbones" / "llama-False", folder / "backbones" / "clip")
            save_stage1(
                model,
                folder / "stage1",
                base,
                {"template": "bare", "num_alignment_levels": LEVELS, "alignment": "global"},
            )
    return folder


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------------------------------------------------ scoring


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (describe([RED, BLUE, TWIN]), 1.0),
        (describe([TWIN, RED, BLUE]), 1.0),  # in any order
        (describe([RED]), 0.5),  # 2 * 1 / (1 + 3)
        (describe([RED, SceneObject("large", "blue", "star", "left")]), 0.4),  # 2 * 1 / (2 + 3): every attribute counts
        (describe([RED, RED, RED]), 0.3333),  # 2 * 1 / (3 + 3): said thrice, there once
        ("", 0.0),
        ("I see nothing.", 0.0),
    ],
)
def test_a_description_scores_the_f1_of_its_things(text: str, score: float) -> None:
    question = {"kind": "description", "label": describe([RED, BLUE, TWIN]), "objects": [RED, BLUE, TWIN]}
    assert scenes._score(question, text) == score


@pytest.mark.parametrize(("text", "score"), [("two", 1.0), ("Two", 0.0), ("two.", 0.0), ("", 0.0), ("one two", 0.0)])
def test_any_other_answer_is_right_or_wrong(text: str, score: float) -> None:
    assert scenes._score({"kind": "count", "label": "two", "objects": []}, text) == score


def test_named_things_worked_by_hand() -> None:
    texts = ["a small red circle at the top and a red circle.", "a blue star and a green star.", "nothing"]
    truths = [[RED, TWIN, BLUE], [BLUE], [RED]]
    # Right: 2 + 1 + 0; named: 2 + 2 + 0; there: 3 + 1 + 1. Size and place play no part.
    result = object_precision_recall(texts, truths)
    assert (result["precision"], result["recall"]) == (0.75, 0.6)
    assert result["precision_interval"][0] <= 0.75 <= result["precision_interval"][1]
    assert result["recall_interval"][0] <= 0.6 <= result["recall_interval"][1]
    assert object_precision_recall(["nothing"], [[RED]])["precision"] == 0


def test_results_are_means_by_kind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = sorted(read_questions(folder / "data"), key=lambda question: question["kind"])

    def told(*args: Any, **options: Any) -> list[Completion]:
        """Right answers but to the first question of each kind; of a description its first thing is told."""
        texts = [question["label"] for question in questions]
        for kind in QUESTION_KINDS:
            first = next(place for place, question in enumerate(questions) if question["kind"] == kind)
            objects = questions[first]["objects"]
            texts[first] = describe(objects[:1]) if kind == "description" else "wrong"
        return [Completion(text, [0.5, 0.5], [0.0] * 9) for text in texts]

    monkeypatch.setattr(scenes, "generate_all", told)
    result = evaluate(folder / "adaptive", folder / "data", tmp_path)
    number = len(next(q for q in questions if q["kind"] == "description")["objects"])
    partly = round(2 / (1 + number), 4)
    expected = {kind: (0.5, 2) for kind in QUESTION_KINDS} | {"description": (round((partly + 1) / 2, 4), 2)}
    assert {kind: (part["accuracy"], part["count"]) for kind, part in result["by_kind"].items()} == expected
    assert result["accuracy"] == pytest.approx((6 * 1 + partly + 1) / 14, abs=1e-4)
    assert result["description"]["precision"] == 1
    gates = json.loads((tmp_path / "gates.json").read_text())
    assert gates["by_kind"]["count"] == {"weights": [0.5, 0.5], "entropy": 0.6931}


# -------------------------------------------------------------------------------------------------- a model's answers


def test_a_model_is_asked_everything(folder: Path, tmp_path: Path) -> None:
    result = evaluate(folder / "adaptive", folder / "data", tmp_path / "out", batch_size=5)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["answers.jsonl", "gates.json", "results.json"]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == result
    assert (result["benchmark"], result["alignment"], result["count"]) == ("scenes", "adaptive", 14)
    assert set(result["by_kind"]) == set(QUESTION_KINDS)
    questions = {question["question_id"]: question for question in read_questions(folder / "data")}
    rows = read_lines(tmp_path / "out" / "answers.jsonl")
    assert sorted(row["question_id"] for row in rows) == list(range(14))
    model, processor = load_model(folder / "adaptive")
    for row in rows:
        question = questions[row["question_id"]]
        assert (row["prompt"], row["label"], row["image"]) == (question["text"], question["label"], question["image"])
        assert row["score"] == scenes._score(question, row["text"])
    gates = json.loads((tmp_path / "out" / "gates.json").read_text())
    for example in gates["examples"]:
        image = tiny.Image.open(folder / "data" / "images" / example["image"])
        text = processor.render(
            [{"role": "user", "content": f"<image>\n{example['question']}"}], add_generation_prompt=True
        )
        with torch.no_grad():
            seen = model(**processor([image], text, return_tensors="pt"), return_gate_weights=True)
        assert example["gate_weights"] == pytest.approx(seen.gate_weights[0].tolist(), abs=1e-4)
        assert example["dots"] == pytest.approx(seen.image_text_similarity[0].tolist(), abs=1e-3)
        assert example["grid"] == [3, 3] and len(example["dots"]) == 9
    for part in gates["by_kind"].values():
        assert sum(part["weights"]) == pytest.approx(1, abs=1e-3) and len(part["weights"]) == LEVELS - 1


def test_batches_of_any_size_give_the_same_answers(folder: Path, tmp_path: Path) -> None:
    evaluate(folder / "adaptive", folder / "data", tmp_path / "1", batch_size=1)
    evaluate(folder / "adaptive", folder / "data", tmp_path / "6", batch_size=6)
    rows = [read_lines(tmp_path / size / "answers.jsonl") for size in "16"]
    assert rows[0] == rows[1]
    assert len({row["text"] for row in rows[0]}) > 1
    gates = [json.loads((tmp_path / size / "gates.json").read_text())["by_kind"] for size in "16"]
    for kind in QUESTION_KINDS:
        assert gates[0][kind]["weights"] == pytest.approx(gates[1][kind]["weights"], abs=1e-4)


def test_the_setting_can_be_another_one(folder: Path, tmp_path: Path) -> None:
    result = evaluate(folder / "adaptive", folder / "data", tmp_path / "level", alignment=2, limit=7)
    assert (result["alignment"], result["count"]) == ("2", 7)
    assert (tmp_path / "level" / "gates.json").is_file()
    result = evaluate(folder / "none", folder / "data", tmp_path / "none", limit=7)
    assert result["alignment"] == "none"
    assert sorted(path.name for path in (tmp_path / "none").iterdir()) == ["answers.jsonl", "results.json"]


def test_questions_without_a_description_have_none_to_measure(folder: Path, tmp_path: Path) -> None:
    result = evaluate(folder / "none", folder / "data", tmp_path, limit=3)
    assert set(result["by_kind"]) == {"count", "color_count", "existence"}
    assert result["description"] is None
