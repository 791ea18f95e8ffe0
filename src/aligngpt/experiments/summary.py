"""Collect the metrics of a run from the files of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from aligngpt.curation.levels import read_levels
from aligngpt.curation.scoring.store import read_scores
from aligngpt.evaluation.artifacts import BenchmarkScore, Comparison, GroupScore, SkippedComparison
from aligngpt.experiments.artifacts import (
    VARIANTS,
    Difference,
    Estimate,
    LevelCaptions,
    LevelStats,
    StepCost,
    Summary,
    VariantMetrics,
)
from aligngpt.synthetic.artifacts import Truth
from aligngpt.synthetic.scenes import QUESTION_KINDS
from aligngpt.training.artifacts import TrainResult
from aligngpt.utils.io import read_json, versions

Comparisons = Sequence[Comparison | SkippedComparison]


def summarize(folder: Path, costs: Mapping[str, StepCost], config: dict[str, Any], comparisons: Comparisons) -> Summary:
    """Return the metrics of a finished run.

    Args:
        folder: Folder of the run.
        costs: Cost of each step.
        config: The resolved config.
        comparisons: Comparison of the variants, as `compare_variants` returns it.
    """
    coverage = {pair: truth.coverage for pair, truth in Truth.read(folder / "data").pairs.items()}
    return Summary(
        synthetic={name: _read_variant(folder / f"eval-{name}") for name in VARIANTS},
        adaptive_minus_none=_read_difference(comparisons),
        score_coverage_spearman=_correlate_scores(folder / "scores", coverage),
        stage1_loss_by_level=TrainResult.read(folder / "pretrain-adaptive").loss_by_level or [],
        captions_by_level=LevelCaptions.read(folder / "captions").by_level,
        levels=_read_levels(folder / "levels", coverage),
        runtime_s={name: cost.runtime_s for name, cost in costs.items()},
        peak_memory_mb={name: cost.peak_memory_mb for name, cost in costs.items()},
        config=config,
        versions=versions(),
    )


def compare_variants(folder: Path) -> Comparisons:
    """Compare the results of the variants, adaptive minus none; return nothing if one of them has no score."""
    from aligngpt.evaluation.compare import compare

    results = [folder / f"eval-{name}" for name in VARIANTS]
    if not all((path / "synthetic" / BenchmarkScore.FILE).is_file() for path in results):
        return []
    return [_rename(row, *VARIANTS.values()) for row in compare(*results, data=folder / "data")]


def _rename(row: Comparison | SkippedComparison, model: str, baseline: str) -> Comparison | SkippedComparison:
    """Return a comparison with names of the variants instead of names of folders."""
    if isinstance(row, SkippedComparison):
        return row
    named = {"model": row.model.model_copy(update={"name": model})}
    return row.model_copy(update=named | {"baseline": row.baseline.model_copy(update={"name": baseline})})


def _read_variant(folder: Path) -> VariantMetrics:
    score = BenchmarkScore.read(folder / "synthetic")
    kinds, objects = score.groups["kind"], score.groups.get("objects", {})
    return VariantMetrics(
        accuracy=_read_estimate(score),
        accuracy_by_kind={kind: _read_estimate(kinds[kind]) for kind in QUESTION_KINDS if kind in kinds},
        description={name: _read_estimate(group) for name, group in objects.items()},
    )


def _read_estimate(score: BenchmarkScore | GroupScore) -> Estimate:
    """Return a score in percent as a fraction; an interval without width is the score itself."""
    value = (score.score or 0.0) / 100
    low, high = score.ci95 or (100 * value, 100 * value)
    return Estimate(value=round(value, 4), ci95=(round(low / 100, 4), round(high / 100, 4)))


def _read_difference(comparisons: Comparisons) -> Difference | None:
    for comparison in comparisons:
        if isinstance(comparison, Comparison):
            low, high = (round(bound / 100, 4) for bound in comparison.ci95)
            return Difference(
                value=round(comparison.difference / 100, 4), ci95=(low, high), p_value=round(comparison.p_value, 6)
            )
    return None


def _correlate_scores(folder: Path, coverage: Mapping[str, float]) -> float:
    """Return Spearman's rank correlation of CLIP score and true coverage over all scored pairs."""
    table = read_scores(folder).select(["id", "clip_score"]).drop_null()
    truth = [coverage[pair] for pair in table["id"].to_pylist()]
    return round(float(spearmanr(table["clip_score"].to_numpy(), truth).statistic), 4)


def _read_levels(folder: Path, coverage: Mapping[str, float]) -> LevelStats:
    fitted = read_json(folder / "levels.json")
    values: dict[int, list[float]] = {level: [] for level in range(1, fitted["num_levels"] + 1)}
    for pair, level in read_levels(folder).items():
        values[level].append(coverage[pair])
    means = [round(float(np.mean(level)), 4) if level else None for level in values.values()]
    return LevelStats(boundaries=fitted["boundaries"], counts=fitted["counts"], mean_coverage=means)
