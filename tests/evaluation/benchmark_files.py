"""Small label and answers files, and the score of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.scoring import score_files
from aligngpt.evaluation.types import Protocol


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def answer_lines(path: Path, texts: Any, prompt: str = "What?\nBriefly.") -> Path:
    """LLaVA's answers file with a text for each id, from a mapping or pairs."""
    pairs = texts.items() if isinstance(texts, dict) else texts
    return write_lines(path, [{"question_id": name, "prompt": prompt, "text": text} for name, text in pairs])


def scored(
    name: str, labels: Path | Sequence[Path], answers: Path, protocol: Protocol = "official", **options: Any
) -> dict[str, Any]:
    return score_files(BENCHMARKS[name], [labels] if isinstance(labels, Path) else labels, answers, protocol, **options)


def verdicts(result: dict[str, Any]) -> dict[Any, float]:
    return {sample["id"]: sample["score"] for sample in result["samples"]}
