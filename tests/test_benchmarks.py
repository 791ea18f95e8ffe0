"""The scripts under benchmarks/ run, at sizes where their figures mean little, and say what they are to say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import convert_memory

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def test_convert_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(convert_memory, "HIDDEN", 256)
    monkeypatch.setattr(convert_memory, "INTERMEDIATE", 512)
    options = ["convert_memory", "--gigabytes", "0.001", "--files", "2", "--output", str(tmp_path / "result.json")]
    monkeypatch.setattr("sys.argv", options)
    convert_memory.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "result.json").read_text())
    assert printed["convert"]["within_bound"] and printed["to_official"]["within_bound"]
    assert printed["convert"]["peak_mb"] > 100


def test_the_recorded_conversion_kept_its_bound() -> None:
    recorded = json.loads((RESULTS / "convert_memory.json").read_text())
    assert recorded["checkpoint_mb"] > 2000
    for way in ("convert", "to_official"):
        assert recorded[way]["peak_mb"] <= recorded["bound_mb"] == recorded["largest_file_mb"] + 1000
