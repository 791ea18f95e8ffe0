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
    """The score as its file has it."""
    paths = [labels] if isinstance(labels, Path) else labels
    return score_files(BENCHMARKS[name], paths, answers, protocol, **options).model_dump(mode="json")


def counts(n_predictions: int, n_missing: int, n_extra: int, n_duplicates: int) -> dict[str, int]:
    return {
        "n_predictions": n_predictions,
        "n_missing": n_missing,
        "n_extra": n_extra,
        "n_duplicates": n_duplicates,
    }


def verdicts(result: dict[str, Any]) -> dict[Any, float]:
    return {sample["id"]: sample["score"] for sample in result["samples"]}
