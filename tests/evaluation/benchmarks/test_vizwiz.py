"""VizWiz: hand-computed cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.readers import load_json, read_predictions
from tests.evaluation.benchmark_files import answer_lines, counts, scored, verdicts, write_json, write_lines


def label_file(path: Path, people: dict[str, list[str]], kind: str = "other") -> Path:
    records = [
        {
            "image": image,
            "question": "What?",
            "answer_type": kind,
            "answerable": 1,
            "answers": [{"answer": one, "answer_confidence": "yes"} for one in answers],
        }
        for image, answers in people.items()
    ]
    return write_json(path, records)


def submission(path: Path, texts: dict[str, str]) -> Path:
    return write_json(path, [{"image": image, "answer": text} for image, text in texts.items()])


def questions(path: Path, images: list[str]) -> Path:
    lines = [{"question_id": i, "image": image, "text": "What?", "category": "x"} for i, image in enumerate(images)]
    return write_lines(path, lines)


@pytest.mark.parametrize(
    ("people", "text", "raw", "converted"),
    [
        (["yes"] * 10, "Yes.", 1, 1),  # the prediction is always normalized
        (["2"] * 10, "two", 1, 1),
        (["two"] * 10, "two", 0, 0),  # people's answers never are
        (["Yes"] * 10, "Yes", 0, 0),
        (["cat."] * 9 + ["cat"], "cat", 0.3, 0.3),
        (["a cat"] * 10, "a cat", 0, 0),
        (["coca cola"] * 10, "Coca-Cola", 1, 1),
        (["can't"] * 10, "cant", 1, 1),
        (["don't"] * 10, "dont", 0, 1),  # normalized to don\u2019t from a submission, to don't from a model
        (["don\u2019t"] * 10, "dont", 1, 0),
        (["it's"] * 10, "it's", 1, 0),
        (["1,000"] * 10, "1,000", 0, 0),
        (["1000"] * 10, "1,000", 1, 1),
        (["x"] * 2 + ["y"] * 8, "x\n", 0.6, 0.6),
        ([""] * 10, "", 1, 1),
        (["unanswerable"] * 4 + ["unsuitable"] * 6, "Unanswerable", 1, 1),
    ],
)
def test_answer(people: list[str], text: str, raw: float, converted: float, tmp_path: Path) -> None:
    labels = label_file(tmp_path / "val.json", {"i.jpg": people})
    as_it_is = scored("vizwiz", labels, submission(tmp_path / "s.json", {"i.jpg": text}))
    assert verdicts(as_it_is) == {"i.jpg": pytest.approx(raw)}
    of_a_model = scored("vizwiz", labels, answer_lines(tmp_path / "a.jsonl", {"i.jpg": text}))
    assert verdicts(of_a_model) == {"i.jpg": pytest.approx(converted)}


def test_question_numbers_need_the_question_file(tmp_path: Path) -> None:
    labels = label_file(tmp_path / "labels" / "val.json", {"b.jpg": ["red"] * 10, "a.jpg": ["blue"] * 10})
    answers = answer_lines(tmp_path / "a.jsonl", {0: "red", 1: "red"})
    with pytest.raises(ValueError, match="pass LLaVA's question file with --labels as well"):
        scored("vizwiz", labels, answers)
    asked = questions(tmp_path / "q.jsonl", ["a.jpg", "b.jpg"])
    assert verdicts(scored("vizwiz", [labels, asked], answers)) == {"b.jpg": 1, "a.jpg": 0}
    questions(tmp_path / "labels" / "llava_val.jsonl", ["a.jpg", "b.jpg"])  # found in the folder of the labels
    assert verdicts(scored("vizwiz", labels, answers)) == {"b.jpg": 1, "a.jpg": 0}


def test_means_and_missing_predictions(tmp_path: Path) -> None:
    labels = label_file(tmp_path / "val.json", {"a.jpg": ["x"] * 10, "b.jpg": ["y"] * 10, "c.jpg": ["z"] + ["w"] * 9})
    result = scored("vizwiz", labels, submission(tmp_path / "s.json", {"a.jpg": "x", "c.jpg": "z", "d.jpg": "q"}))
    assert result["details"]["overall"] == 43.33
    assert result["details"]["per_answer_type"] == {"other": 43.33}
    assert result["counts"] == counts(3, 1, 1, 0)
    assert any("requires every prediction" in note for note in result["notes"])


def test_submission(tmp_path: Path) -> None:
    write = BENCHMARKS["vizwiz"].write_submission
    assert write is not None
    asked = questions(tmp_path / "q.jsonl", ["b.jpg", "a.jpg"])
    write(
        asked,
        read_predictions(answer_lines(tmp_path / "a.jsonl", {1: "It's red", 0: "Dont know."})),
        tmp_path / "u.json",
    )
    assert load_json(tmp_path / "u.json") == [
        {"image": "b.jpg", "answer": "don't know"},
        {"image": "a.jpg", "answer": "it 's red"},
    ]
    with pytest.raises(ValueError, match="predictions are missing for 1 of 2 questions"):
        write(asked, read_predictions(answer_lines(tmp_path / "a.jsonl", {1: "red"})), tmp_path / "v.json")
    assert not (tmp_path / "v.json").exists()


def test_wrong_files(tmp_path: Path) -> None:
    answers = submission(tmp_path / "s.json", {"a.jpg": "x"})
    with pytest.raises(ValueError, match="no VizWiz annotations; expected a list of images"):
        scored("vizwiz", write_json(tmp_path / "test.json", [{"image": "a.jpg", "question": "?"}]), answers)
    with pytest.raises(ValueError, match=r"val.json: VizWiz annotation 1: 'answer_type' is missing"):
        scored("vizwiz", write_json(tmp_path / "val.json", [{"image": "a.jpg", "answers": [{"answer": "x"}]}]), answers)
