"""A tiny model whose answers are short, and runs of it on miniatures of the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.run import evaluate
from tests import tiny

LEVELS = 4
MOCKED = [name for name in BENCHMARKS if name != "synthetic"]
_ENDS = 24  # of the 256 byte tokens: answers of about ten tokens, some empty


def save_model(folder: Path, name: str = "model", **config: Any) -> Path:
    """Write a tiny random model to `folder/name`."""
    model, processor = tiny.build(folder / "backbones", num_alignment_levels=LEVELS, **config)
    processor.use_alignment = config.get("alignment") != "none"
    ends = torch.randperm(255, generator=torch.Generator().manual_seed(0))[:_ENDS].add(4).tolist()
    model.generation_config.eos_token_id = [3, *ends]
    model.save_pretrained(folder / name)
    processor.save_pretrained(folder / name)
    return folder / name


def run(model: Path, data: Path, output: Path, *names: str, **options: Any) -> Any:
    """Run some benchmarks, or all of them; the content of `results.json`."""
    return evaluate(model, tasks=names or "all", data=data, output=output, **options).model_dump(mode="json")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
