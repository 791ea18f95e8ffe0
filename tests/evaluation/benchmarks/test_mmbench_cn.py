"""MMBench-CN: MMBench's rules on Chinese text, and its own answer instruction."""

# ruff: noqa: RUF001 - these cases test full-width punctuation

from __future__ import annotations

from pathlib import Path

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS
from tests.evaluation.benchmark_files import scored, write_lines

HEAD = "index\tquestion\thint\tA\tB\tanswer\n"


def labels(path: Path) -> Path:
    path.write_text(HEAD + "1\t这是什么？\t看图\t天坛\t故宫\tB\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("答案: B", "B"),
        ("答案是 B", "B"),
        ("(B)", "B"),
        ("B。", None),
        ("B、", None),
        ("（B）", None),
        ("【B】", None),
        ("答案：B", None),
        ("答案是B", None),
        ("Ｂ", None),
        ("故宫。", "B"),
        ("B、天坛", "A"),  # matches the text
        ("天坛和故宫", None),
        ("我认为这是北京的故宫", None),  # longer than twice four characters
    ],
)
def test_letters_and_texts(text: str, letter: str | None, tmp_path: Path) -> None:
    given = write_lines(tmp_path / "a.jsonl", [{"question_id": 1, "text": text}])
    result = scored("mmbench_cn", labels(tmp_path / "labels.tsv"), given)
    (part,) = result["samples"][0]["parts"]
    assert part.get("prediction") == letter
    assert result["score"] == 100 * (letter == "B")


def test_prompt(tmp_path: Path) -> None:
    (one,) = BENCHMARKS["mmbench_cn"].read_questions(labels(tmp_path / "labels.tsv"))
    assert one.prompt == "看图\n这是什么？\nA. 天坛\nB. 故宫\n请直接回答选项字母。"
    assert BENCHMARKS["mmbench_cn"].files.questions == "mmbench_cn/mmbench_dev_cn_20231003.tsv"
