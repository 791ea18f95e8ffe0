"""The page on benchmarks keeps its word: its thirteenth benchmark works, its table is that of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.scoring import score_files
from tests.evaluation.benchmark_files import answer_lines, counts, write_json

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
PHOTOS = ROOT.parent / "shared" / "photos"


@pytest.fixture
def probes() -> Any:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "benchmarks.md", "exec"), names)
    return names["PROBES"]


def test_a_thirteenth_benchmark(probes: Any, tmp_path: Path) -> None:
    records = [
        {"question_id": i, "image": "a.jpg", "text": "Is there a boat?", "label": label, "category": category}
        for i, (label, category) in enumerate([("yes", "random"), ("no", "random"), ("no", "popular")])
    ]
    write_json(tmp_path / "probes.json", records)
    (question, *_) = probes.read_questions(tmp_path / "probes.json")
    assert question.prompt == "Is there a boat?\nAnswer the question using a single word or phrase."
    result = score_files(
        probes, [tmp_path], answer_lines(tmp_path / "a.jsonl", {0: "Yes", 1: "Yes", 5: "No"})
    ).model_dump()
    assert result["score"] == pytest.approx(100 / 3)
    assert result["groups"]["category"]["random"]["score"] == 50
    assert result["counts"] == counts(3, 1, 1, 0)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no ../shared/photos beside the repository")
def test_on_the_probes_of_the_photographs(probes: Any, tmp_path: Path) -> None:
    labels = json.loads((PHOTOS / "probes.json").read_text(encoding="utf-8"))
    right = answer_lines(tmp_path / "a.jsonl", {one["question_id"]: one["label"].title() for one in labels})
    result = score_files(probes, [PHOTOS], right).model_dump()
    assert (result["score"], result["n_samples"]) == (100, len(labels))
    assert set(result["groups"]["category"]) == {one["category"] for one in labels}
    assert all((PHOTOS / "images" / one.image).is_file() for one in probes.read_questions(PHOTOS / "probes.json"))


def test_the_tables_name_every_benchmark() -> None:
    scored, oddities = (PAGE.split(f"## {title}")[1].split("\n\n") for title in ("What is scored", "Two protocols"))
    named = set(re.findall(r"`(\w+)`(?=[^|]*\|)", "\n".join(re.findall(r"^\| (`[^|]*\|)", "\n".join(scored), re.M))))
    assert named == set(BENCHMARKS)
    odd = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`[^|]*\|)", "\n".join(oddities), re.M))))
    assert odd == {name for name, one in BENCHMARKS.items() if one.official_caveat} - {"mmbench_cn"}
