"""`examples/add_a_benchmark.py` is a complete benchmark."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.evaluation.benchmark_files import answer_lines, write_lines

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "add_a_benchmark.py"


def test_example_scores_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(1, "2", "count"), (2, "red", "color"), (3, "blue", "color"), (4, "3", "count")]
    labels = [
        {"question_id": name, "image": "x.jpg", "text": "What?", "answer": answer, "topic": topic}
        for name, answer, topic in rows
    ]
    write_lines(tmp_path / "labels.jsonl", labels)
    answer_lines(tmp_path / "answers.jsonl", {1: "2", 2: " Red. ", 3: "green"})
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "labels.jsonl"), str(tmp_path / "answers.jsonl")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert "accuracy 50.0, 95% interval" in printed and "4 questions" in printed
    assert "count: 50.0" in printed and "color: 50.0" in printed
    assert "note: missing predictions, counted as wrong: 1" in printed
