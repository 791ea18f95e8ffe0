"""The figures of a run in one file, gathered from what its steps wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aligngpt.curation.levels import read_levels
from aligngpt.curation.scoring.store import read_scores
from aligngpt.utils.io import read_json, versions

ARMS = ("adaptive", "none")


def summarize(folder: Path, costs: Mapping[str, Mapping[str, float]], recipe: dict[str, Any]) -> dict[str, Any]:
    """What `summary.json` holds.

    Args:
        folder: A finished run.
        costs: `seconds` and `memory_mb` of each step.
        recipe: The resolved recipe.
    """
    results = {arm: read_json(folder / f"eval-{arm}" / "results.json") for arm in ARMS}
    captions = read_json(folder / "captions" / "captions.json")["by_level"]
    return {
        "spearman_score_coverage": _score_follows_coverage(folder),
        "caption_recall_by_level": [level["recall"] for level in captions],
        "caption_precision_by_level": [level["precision"] for level in captions],
        "stage1_loss_by_level": read_json(folder / "pretrain-adaptive" / "train_results.json")["loss_by_level"],
        "accuracy": {arm: results[arm]["accuracy"] for arm in ARMS},
        "accuracy_interval": {arm: results[arm]["interval"] for arm in ARMS},
        "accuracy_by_kind": {
            arm: {kind: part["accuracy"] for kind, part in results[arm]["by_kind"].items()} for arm in ARMS
        },
        "description": {arm: results[arm]["description"] for arm in ARMS},
        "levels": _levels(folder),
        "seconds": {name: cost["seconds"] for name, cost in costs.items()},
        "memory_mb": {name: cost["memory_mb"] for name, cost in costs.items()},
        "recipe": recipe,
        "versions": versions(),
    }


def _score_follows_coverage(folder: Path) -> float:
    """Spearman's correlation of CLIP score and true coverage over all scored pairs."""
    truth = read_json(folder / "data" / "truth.json")
    table = read_scores(folder / "scores").select(["id", "clip_score"]).drop_null()
    scores = table["clip_score"].to_numpy()
    coverages = np.array([truth[pair]["coverage"] for pair in table["id"].to_pylist()])
    return round(float(np.corrcoef(_ranks(scores), _ranks(coverages))[0, 1]), 4)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[places]


def _levels(folder: Path) -> dict[str, Any]:
    fitted = read_json(folder / "levels" / "levels.json")
    truth = read_json(folder / "data" / "truth.json")
    coverages: dict[int, list[float]] = {level: [] for level in range(1, fitted["num_levels"] + 1)}
    for pair, level in read_levels(folder / "levels").items():
        coverages[level].append(truth[pair]["coverage"])
    means = [round(float(np.mean(values)), 4) if values else None for values in coverages.values()]
    return {"boundaries": fitted["boundaries"], "counts": fitted["counts"], "mean_coverage": means}
