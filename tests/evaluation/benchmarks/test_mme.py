"""MME: hand-computed cases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.benchmarks.mme import TASKS, read_yes_no
from tests.evaluation.benchmark_files import counts, scored, write_lines

S = "Answer the question using a single word or phrase."
Y = "Please answer yes or no."


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("YES, it is", "yes"),
        ("No way", "no"),
        ("yesno", "yes"),
        ("noyes", "no"),  # n, o, y, e: the first four characters
        (" yes", "yes"),
        ("  yes", "other"),
        ("eyes", "yes"),
        ("ayes!", "yes"),
        ("know", "no"),
        ("snow", "no"),
        ("Not sure", "no"),
        ("cannot", "other"),
        ("It is no", "other"),
        ("yep", "other"),
        ("ye", "other"),
        ("n", "other"),
        ("", "other"),
        ("\n", "other"),
        ("**No**", "no"),
        ("(no)", "no"),
        ("true", "other"),
        ("\u662f", "other"),
    ],
)
def test_read_yes_no(text: str, read: str) -> None:
    assert read_yes_no(text) == read


def skeleton(folder: Path, tasks: dict[str, Sequence[tuple[str, ...]]], newline: str = "\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for task, lines in tasks.items():
        text = "".join("\t".join(line) + newline for line in lines)
        (folder / f"{task}.txt").write_text(text, encoding="utf-8", newline="")
    return folder


def answers(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    return write_lines(path, [{"question_id": n, "prompt": f"{q}\n{S}", "text": text} for n, q, text in rows])


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Return the labels of two images of a perception task and one image of a cognition task."""
    return skeleton(
        tmp_path / "eval_tool" / "Your_Results",
        {
            "count": [
                ("1.jpg", f"One? {Y}", "Yes"),
                ("1.jpg", f"Two? {Y}", "No"),
                ("2.jpg", f"One?  {Y}", "Yes"),
                ("2.jpg", f"Two?  {Y}", "No"),
            ],
            "code_reasoning": [("a.png", f"One? {Y}", "Yes"), ("a.png", f"Two? {Y}", "No")],
        },
    )


ALL = [
    ("count/1.jpg", "One?", "Yes"),
    ("count/1.jpg", "Two?", "No"),
    ("code_reasoning/images/a.png", "One?", "yes"),
    ("count/2.jpg", "One?", "No"),
    ("count/2.jpg", "Two?", "no"),
    ("code_reasoning/images/a.png", "Two?", "other"),
]


def test_accuracy_and_accuracy_plus(labels: Path, tmp_path: Path) -> None:
    result = scored("mme", labels, answers(tmp_path / "a.jsonl", ALL))
    # count: three of four lines, one of two images; code: one of two lines, no image.
    assert result["details"] == {
        "perception": 125.0,
        "cognition": 50.0,
        "tasks": {"count": 125.0, "code_reasoning": 50.0},
    }
    assert (result["score"], result["formatted"], result["n_samples"]) == (125, "125.00", 2)
    assert result["groups"]["task"]["count"]["score"] == 125
    assert result["groups"]["task"]["code_reasoning"]["score"] == 50
    assert [item["score"] for item in result["samples"]] == [1, 0.25, 0.25]
    assert [part["prediction"] for part in result["samples"][1]["parts"]] == ["no", "no"]
    assert result["protocols"]["strict"] == 125
    assert any("no predictions for existence" in note for note in result["notes"])


def test_label_locations(labels: Path, tmp_path: Path) -> None:
    given = answers(tmp_path / "a.jsonl", ALL)
    for path in (tmp_path, labels.parent, labels):
        assert scored("mme", path, given)["score"] == 125
    release = tmp_path / "release" / "MME_Benchmark_release_version"
    for name, lines in {
        "count/1.txt": f"One? {Y}\tYes\nTwo? {Y}\tNo\n",
        "count/2.txt": f"One?  {Y}\tYes\r\nTwo?  {Y}\tNo\r\n",
        "code_reasoning/questions_answers_YN/a.txt": f"One? {Y}\tYes\nTwo? {Y}\tNo",
    }.items():
        (release / name).parent.mkdir(parents=True, exist_ok=True)
        (release / name).write_text(lines, newline="")
    for path in (release, release.parent):
        assert scored("mme", path, given)["details"]["tasks"] == {"count": 125, "code_reasoning": 50}


def test_windows_line_ends(labels: Path, tmp_path: Path) -> None:
    lines = [("1.jpg", f"One? {Y}", "Yes"), ("1.jpg", f"Two? {Y}", "No")]
    windows = skeleton(tmp_path / "windows", {"count": lines}, newline="\r\n")
    assert scored("mme", windows, answers(tmp_path / "a.jsonl", ALL[:2]))["score"] == 200
    results = skeleton(tmp_path / "results", {"count": [(*line, line[2]) for line in lines]}, newline="\r\n")
    assert scored("mme", (), results)["score"] == 200


def test_prompt_forms(labels: Path, tmp_path: Path) -> None:
    rows = [
        {"question_id": "count/1.jpg", "prompt": f"One? {Y}", "text": "Yes"},
        {"question_id": "count/1.jpg", "prompt": "Two?", "text": "No"},
        {"question_id": "count/2.jpg", "prompt": f"One?  {Y}\n{S}", "text": "Yes"},
        {"question_id": "count/x/2.png", "prompt": f"Two?\n{S}", "text": "No"},
        {"question_id": "count/2.jpg", "prompt": "Three?", "text": "No"},
    ]
    result = scored("mme", labels, write_lines(tmp_path / "a.jsonl", rows))
    assert result["details"]["tasks"] == {"count": 200}
    assert result["counts"] == counts(5, 2, 1, 0)


def test_pairs_by_position_and_by_image(labels: Path, tmp_path: Path) -> None:
    # Both questions of image 1 are correct, both of image 2 wrong; their lines alternate.
    rows = [ALL[0], ("count/2.jpg", "One?", "No"), ALL[1], ("count/2.jpg", "Two?", "Yes")]
    given = answers(tmp_path / "a.jsonl", rows)
    official, strict = scored("mme", labels, given), scored("mme", labels, given, "strict")
    assert official["details"]["tasks"] == {"count": 50}
    assert strict["details"]["tasks"] == {"count": 100, "code_reasoning": 0}
    assert official["protocols"] == strict["protocols"] == {"official": 50, "strict": 100}
    assert "pairs of lines about two different images: 2" in official["notes"]
    assert official["notes"][-1].startswith(
        "official 50.00, strict 100.00: the official scorer pairs predictions by position"
    )
    orderly = scored("mme", labels, answers(tmp_path / "b.jsonl", [rows[0], rows[2], rows[3], rows[1]]))
    assert orderly["details"]["tasks"] == {"count": 100}


def test_missing_line(labels: Path, tmp_path: Path) -> None:
    given = answers(tmp_path / "a.jsonl", ALL[:4])
    with pytest.raises(ValueError, match=r"count has 3 predictions; .* use --protocol strict"):
        scored("mme", labels, given)
    strict = scored("mme", labels, given, "strict")
    assert strict["details"]["tasks"] == {"count": 50 + 50, "code_reasoning": 50}
    assert strict["counts"]["n_missing"] == 2
    assert strict["protocols"]["official"] is None
    repeated = scored(
        "mme", labels, answers(tmp_path / "b.jsonl", [*ALL, ALL[2], ("count/1.jpg", "One?", "no")]), "strict"
    )
    assert repeated["details"]["tasks"]["count"] == 50
    assert repeated["counts"]["n_duplicates"] == 2


def test_inputs_that_stop_the_official_scorer(labels: Path, tmp_path: Path) -> None:
    rows = [("count/1.jpg", "One?", "maybe"), ("count/1.jpg", "Two?", "\tperhaps")]
    result = scored("mme", labels, answers(tmp_path / "a.jsonl", rows))
    assert result["score"] == 0
    assert any(note.startswith("count: no prediction is yes or no") for note in result["notes"])
    assert any(note.startswith("predictions with a tab or a newline") for note in result["notes"])
    rows += [("code_reasoning/a.png", question, "maybe") for question in ("One?", "Two?")]
    notes = scored("mme", labels, answers(tmp_path / "b.jsonl", rows))["notes"]
    assert [note for note in notes if "yes or no" in note] == [
        "count, code_reasoning: no prediction is yes or no; the official scorer stops, here it scores 0"
    ]


def test_result_lines_include_their_labels(tmp_path: Path) -> None:
    lines = [("1.jpg", f"One? {Y}", "Yes", "yes"), ("1.jpg", f"Two? {Y}", "No", "")]
    folder = skeleton(tmp_path / "results", {"OCR": lines})
    as_lines = write_lines(tmp_path / "lines.jsonl", [{"category": "OCR", "line": "\t".join(line)} for line in lines])
    for given in (folder, as_lines, folder / "OCR.txt"):
        for known in ((), folder):
            assert scored("mme", known, given)["details"]["tasks"] == {"OCR": 50}


def test_wrong_files(labels: Path, tmp_path: Path) -> None:
    given = answers(tmp_path / "a.jsonl", ALL)
    with pytest.raises(ValueError, match="pass the official label files with --labels"):
        scored("mme", (), given)
    with pytest.raises(
        ValueError, match="none of its 1 predictions has a label; check that these are predictions for MME"
    ):
        scored("mme", labels, answers(tmp_path / "b.jsonl", [("7", "One?", "yes")]))
    with pytest.raises(ValueError, match="has no answer; pass result lines, not labels"):
        scored("mme", labels, labels)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no MME labels; expected existence\.txt"):
        scored("mme", tmp_path / "empty", given)
    with pytest.raises(ValueError, match="no result files; expected existence"):
        scored("mme", labels, tmp_path / "empty")
    with pytest.raises(ValueError, match="notes is not an MME task"):
        scored("mme", skeleton(tmp_path / "x", {"notes": []}) / "notes.txt", given)
    broken = skeleton(tmp_path / "y", {"count": [("1.jpg", "One?", "Yes", "no", "what")]})
    with pytest.raises(ValueError, match=re.escape("count.txt:1: expected image, question, Yes or No")):
        scored("mme", broken, given)


def test_14_tasks() -> None:
    assert len(TASKS) == len(set(TASKS)) == 14
    assert BENCHMARKS["mme"].scale == 200
