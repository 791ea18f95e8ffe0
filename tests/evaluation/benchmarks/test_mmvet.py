"""MM-Vet: hand-computed means of a judge's scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.readers import load_json, read_predictions
from tests.evaluation.benchmark_files import answer_lines, counts, scored, verdicts, write_json, write_lines


def labels(path: Path, capabilities: dict[str, list[str]]) -> Path:
    questions = {
        name: {"imagename": "x.png", "question": "?", "answer": "x", "capability": own, "imagesource": "web"}
        for name, own in capabilities.items()
    }
    return write_json(path, questions)


def write_scores(path: Path, runs: dict[str, list[float]]) -> Path:
    return write_json(path, {name: {"score": own, "content": list(map(str, own))} for name, own in runs.items()})


CAPABILITIES = {"v1_0": ["rec", "ocr"], "v1_1": ["ocr"], "v1_2": ["ocr", "rec"]}


def test_capabilities_and_combinations_over_runs(tmp_path: Path) -> None:
    known = labels(tmp_path / "mm-vet.json", CAPABILITIES)
    result = scored(
        "mmvet", known, write_scores(tmp_path / "g.json", {"v1_0": [1, 0.5], "v1_1": [0, 0.2], "v1_2": [0.5, 0]})
    )
    # Runs: 1.5 / 3 and 0.7 / 3; rec 1.5 / 2 and 0.5 / 2; ocr as all; ocr alone 0 and 0.2.
    both = {"total": 36.7, "std": 13.3, "runs": [50.0, 23.3]}
    assert result["details"] == {
        "cap-score": {"rec": 50.0, "ocr": 36.7} | both,
        "cap-int-score": {"ocr+rec": 50.0, "ocr": 10.0} | both,
    }
    assert result["formatted"] == "36.7" and result["score"] == pytest.approx(100 * 2.2 / 6)
    assert verdicts(result) == {"v1_0": 0.75, "v1_1": 0.1, "v1_2": 0.25}
    assert result["groups"]["capability"]["rec"] == {"score": 50, "ci95": [25, 75], "n_samples": 2}
    assert result["groups"]["capabilities"]["ocr"]["n_samples"] == 1


def test_rounding_equals_numpy(tmp_path: Path) -> None:
    names = [f"v1_{i}" for i in range(200)]
    known = labels(tmp_path / "mm-vet.json", {name: ["rec"] for name in names})
    given = write_scores(tmp_path / "g.json", {name: [float(i < 72) + 0.9 * (i == 72)] for i, name in enumerate(names)})
    assert scored("mmvet", known, given)["formatted"] == "36.4"  # 36.45, to the even digit


def test_question_without_a_score_counts_as_zero(tmp_path: Path) -> None:
    known = labels(tmp_path / "mm-vet.json", CAPABILITIES)
    given = write_scores(tmp_path / "g.json", {"v1_1": [1.0], "v1_9": [1.0]})
    for result in (scored("mmvet", known, given), scored("mmvet", known, given, "strict")):
        assert result["details"]["cap-score"]["total"] == 33.3
        assert result["counts"] == counts(2, 2, 1, 0)


def test_unreadable_scores(tmp_path: Path) -> None:
    known = labels(tmp_path / "mm-vet.json", CAPABILITIES)
    runs = {"v1_0": [1, None], "v1_1": [0.5, 0.25], "v1_2": [None, None]}
    given = write_json(tmp_path / "g.json", {name: {"score": own} for name, own in runs.items()})
    official, strict = scored("mmvet", known, given), scored("mmvet", known, given, "strict")
    # Officially 0 each: 1.5 / 3 and 0.25 / 3. Strictly skipped: 1.5 / 2 and 0.25 / 1; v1_2 has none.
    assert official["details"]["cap-score"]["runs"] == [50.0, 8.3] and official["n_samples"] == 3
    assert strict["details"]["cap-score"]["runs"] == [75.0, 25.0] and strict["n_samples"] == 2
    assert strict["details"]["cap-int-score"]["ocr+rec"] == 100.0
    assert (verdicts(official), verdicts(strict)) == (
        {"v1_0": 0.5, "v1_1": 0.375, "v1_2": 0},
        {"v1_0": 1, "v1_1": 0.375},
    )
    assert strict["notes"][0] == "questions with an unreadable score, skipped: v1_0, v1_2"


def test_submission(tmp_path: Path) -> None:
    lines = [{"question_id": i, "image": "x.png", "text": "?", "category": "conv"} for i in (0, 1)]
    asked = write_lines(tmp_path / "llava-mm-vet.jsonl", lines)
    write = BENCHMARKS["mmvet"].write_submission
    assert write is not None
    write(asked, read_predictions(answer_lines(tmp_path / "a.jsonl", {1: "A caf\u00e9."})), tmp_path / "results.json")
    assert load_json(tmp_path / "results.json") == {"v1_0": "", "v1_1": "A caf\u00e9."}


def test_wrong_files(tmp_path: Path) -> None:
    known = labels(tmp_path / "mm-vet.json", CAPABILITIES)
    with pytest.raises(ValueError, match="holds predictions, not a judge's scores; run `aligngpt eval judge` first"):
        scored("mmvet", known, write_json(tmp_path / "g.json", {"v1_0": "A cat."}))
    with pytest.raises(ValueError, match=r"expected a judge's scores, a \.json file"):
        scored("mmvet", known, answer_lines(tmp_path / "a.jsonl", {0: "A cat."}))
    with pytest.raises(ValueError, match="v1_1 has 1 scores, v1_0 has 2; every question needs one per run"):
        scored("mmvet", known, write_scores(tmp_path / "g.json", {"v1_0": [1, 1], "v1_1": [1]}))
    for wrong in ([], ["x"], None):
        with pytest.raises(ValueError, match="v1_0: score is missing"):
            scored("mmvet", known, write_json(tmp_path / "g.json", {"v1_0": {"score": wrong}}))
    with pytest.raises(ValueError, match="MM-Vet question v1_0: 'capability' is missing"):
        scored(
            "mmvet",
            write_json(tmp_path / "mm-vet.json", {"v1_0": {}}),
            write_scores(tmp_path / "g.json", {"v1_0": [1]}),
        )
