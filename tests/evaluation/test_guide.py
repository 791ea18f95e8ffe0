"""The guide to evaluation: its example benchmark works, and its tables have every benchmark."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.scoring import score_files
from tests.evaluation.benchmark_files import answer_lines, counts, write_lines

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guides" / "evaluate.md").read_text(encoding="utf-8")


def test_the_example_benchmark(tmp_path: Path) -> None:
    benchmark = runpy.run_path(str(ROOT / "examples" / "add_a_benchmark.py"))["MY_BENCHMARK"]
    records = [
        {"question_id": i, "image": "a.jpg", "text": "How many dogs?", "answer": answer, "topic": topic}
        for i, (answer, topic) in enumerate([("2", "count"), ("no", "count"), ("no", "existence")])
    ]
    write_lines(tmp_path / "labels.jsonl", records)
    (question, *_) = benchmark.read_questions(tmp_path / "labels.jsonl")
    assert question.prompt == "How many dogs?"
    given = answer_lines(tmp_path / "a.jsonl", {0: "2", 1: "Yes", 5: "No"})
    result = score_files(benchmark, [tmp_path], given).model_dump()
    assert result["score"] == pytest.approx(100 / 3)
    assert result["groups"]["topic"]["count"]["score"] == 50
    assert result["counts"] == counts(3, 1, 1, 0)


def test_the_tables_name_every_benchmark() -> None:
    scored, differences = (
        PAGE.split(f"## {title}")[1].split("\n## ")[0]
        for title in ("Score prediction files of any model", "Two protocols")
    )
    for text, expected in (
        (scored, set(BENCHMARKS)),
        (differences, {name for name, one in BENCHMARKS.items() if one.official_caveat} - {"mmbench_cn"}),
    ):
        names = {
            name for row in re.findall(r"^\| (`[^|]*)\|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
        }
        assert names == expected
