"""POPE: hand-computed cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligngpt.evaluation.benchmarks.pope import read_yes_no
from tests.evaluation.benchmark_files import answer_lines, counts, scored, verdicts, write_lines


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("no", "no"),
        ("No", "no"),
        ("not", "no"),
        ("NO", "yes"),
        ("Not", "yes"),
        ("nO", "yes"),
        ("yes", "yes"),
        ("", "yes"),
        ("maybe", "yes"),
        ("No.", "no"),
        ("No, there is none", "no"),
        ("Yes,no", "yes"),  # without the comma it is one word
        ("There is not one", "no"),
        ("There isn't one", "yes"),
        ("Yes, there is no doubt.", "no"),
        ("Yes. No.", "yes"),  # only the first sentence
        (". no", "yes"),
        ("  no", "no"),
        ("no\n", "yes"),  # only spaces separate words
        ("\tno", "yes"),
        ("no\u00a0dog", "yes"),
        ("nothing", "yes"),
        ("No!", "yes"),
        ("(no)", "yes"),
        ("\u6ca1\u6709", "yes"),
    ],
)
def test_read_yes_no(text: str, read: str) -> None:
    assert read_yes_no(text) == read


def labels(folder: Path, subset: str, words: list[str]) -> Path:
    lines = [
        {"question_id": i, "image": f"{i}.jpg", "text": "Is there a dog?", "label": word}
        for i, word in enumerate(words, start=1)
    ]
    write_lines(folder / "coco" / f"coco_pope_{subset}.json", lines)
    return folder


def questions(folder: Path, subsets: dict[str, range]) -> Path:
    lines = [
        {"question_id": name, "image": f"{i}.jpg", "text": "Is there a dog?\nBriefly.", "category": subset}
        for subset, names in subsets.items()
        for i, name in enumerate(names, start=1)
    ]
    return write_lines(folder / "llava_pope_test.jsonl", lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return labels of two subsets: 1 to 4 are yes, yes, no, no; 11 and 12 are yes, no."""
    folder = tmp_path / "pope"
    labels(folder, "popular", ["yes", "yes", "no", "no"])
    labels(folder, "random", ["yes", "no"])
    questions(folder, {"popular": range(1, 5), "random": range(11, 13)})
    return folder


def test_f1_of_each_subset_and_their_mean(folder: Path, tmp_path: Path) -> None:
    texts = {1: "Yes", 11: "Yes", 2: "No", 3: "Yes", 12: "No", 4: "No"}  # only the order within a subset counts
    result = scored("pope", folder, answer_lines(tmp_path / "a.jsonl", texts))
    assert result["details"]["popular"] == {
        "n": 4,
        "TP": 1,
        "FP": 1,
        "TN": 1,
        "FN": 1,
        "accuracy": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "yes_ratio": 0.5,
    }
    assert result["details"]["random"]["f1"] == 1
    assert (result["score"], result["formatted"], result["details"]["mean_f1"]) == (75, "75.00", 0.75)
    assert {name: part["score"] for name, part in result["groups"]["subset"].items()} == {"popular": 50, "random": 100}
    assert verdicts(result) == {1: 1, 2: 0, 3: 0, 4: 1, 11: 1, 12: 1}
    assert result["protocols"]["strict"] == 75 and result["notes"] == []


def test_missing_prediction_shifts_the_later_ones_officially(folder: Path, tmp_path: Path) -> None:
    texts = {2: "Yes", 3: "No", 4: "No", 11: "Yes", 12: "No"}  # all correct, 1 is missing
    given = answer_lines(tmp_path / "a.jsonl", texts)
    official, strict = scored("pope", folder, given), scored("pope", folder, given, "strict")
    # By position: predictions yes, no, no; labels yes, yes, no.
    part = official["details"]["popular"]
    assert (part["n"], part["TP"], part["FN"], part["TN"]) == (3, 1, 1, 1)
    assert official["details"]["popular"]["f1"] == pytest.approx(2 / 3)
    # By question: a missing prediction is wrong, here a false negative.
    assert (strict["details"]["popular"]["TP"], strict["details"]["popular"]["FN"]) == (1, 1)
    assert strict["details"]["popular"]["TN"] == 2
    assert verdicts(strict) == {1: 0, 2: 1, 3: 1, 4: 1, 11: 1, 12: 1}
    assert strict["counts"] == official["counts"] == counts(5, 1, 0, 0)
    assert "popular: predictions compared with the label of another question: 3" in official["notes"]
    assert "popular: 3 predictions for 4 labels, paired by position" in official["notes"]


def test_missing_prediction_for_a_no_counts_as_a_yes(folder: Path, tmp_path: Path) -> None:
    strict = scored(
        "pope", folder, answer_lines(tmp_path / "a.jsonl", {1: "Yes", 2: "Yes", 3: "No", 11: "Yes"}), "strict"
    )
    assert (strict["details"]["popular"]["FP"], strict["details"]["random"]["FP"]) == (1, 1)


def test_note_about_different_protocols(folder: Path, tmp_path: Path) -> None:
    texts = [(4, "No"), (3, "No"), (2, "Yes"), (1, "Yes"), (11, "Yes"), (12, "No")]  # correct, in another order
    result = scored("pope", folder, answer_lines(tmp_path / "a.jsonl", texts))
    assert result["protocols"] == {"official": 50, "strict": 100}
    assert result["notes"][-1].startswith("official 50.00, strict 100.00: the official scorer pairs")
    assert any("divides by zero" in note for note in result["notes"])


def test_more_predictions_than_labels(folder: Path, tmp_path: Path) -> None:
    texts = [(1, "Yes"), (2, "Yes"), (3, "No"), (4, "No"), (4, "Yes"), (11, "Yes"), (12, "No"), (99, "No")]
    given = answer_lines(tmp_path / "a.jsonl", texts)
    official = scored("pope", folder, given)
    assert official["counts"] == counts(8, 0, 1, 1)
    assert (official["score"], official["details"]["popular"]["n"]) == (100, 5)
    assert official["details"]["popular"]["yes_ratio"] == 3 / 5  # over all predictions, also those without a label
    assert scored("pope", folder, given, "strict")["details"]["popular"]["FP"] == 1  # the last of two counts


def test_file_locations(folder: Path, tmp_path: Path) -> None:
    given = answer_lines(tmp_path / "a.jsonl", {1: "Yes", 2: "Yes", 3: "No", 4: "No"})
    popular = folder / "coco" / "coco_pope_popular.json"
    for labels_given in ([folder / "coco"], [folder]):
        with pytest.raises(ValueError, match="no predictions for the random questions"):
            scored("pope", labels_given, given)
    alone = scored("pope", popular, given)
    assert alone["score"] == 100 and list(alone["groups"]["subset"]) == ["popular"]
    (folder / "llava_pope_test.jsonl").rename(tmp_path / "elsewhere.jsonl")
    assert scored("pope", popular, given)["score"] == 100  # a single subset uses the ids of the labels
    with pytest.raises(ValueError, match="the subsets popular, random need LLaVA's question file"):
        scored("pope", folder, given)
    more = answer_lines(tmp_path / "b.jsonl", {1: "Yes", 2: "Yes", 3: "No", 4: "No", 11: "Yes", 12: "No"})
    assert scored("pope", [folder, tmp_path / "elsewhere.jsonl"], more)["score"] == 100


def test_wrong_files(folder: Path, tmp_path: Path) -> None:
    given = answer_lines(tmp_path / "a.jsonl", {1: "Yes"})
    with pytest.raises(ValueError, match="no POPE labels"):
        scored("pope", folder / "llava_pope_test.jsonl", given)
    wrong = write_lines(tmp_path / "x.json", [{"question_id": 1, "label": "A"}])
    with pytest.raises(ValueError, match=r"x\.json:1: label is 'A', expected yes or no"):
        scored("pope", wrong, given)
    other = labels(tmp_path / "other", "random", ["yes"] * 2)
    questions(other, {"random": range(1, 4)})
    with pytest.raises(ValueError, match=r"labels are missing for 1 of 3 questions, the first about 3\.jpg"):
        scored("pope", other, given, "strict")
