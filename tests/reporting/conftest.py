"""A small run folder with every artifact that the report shows: made-up images and plausible numbers."""

from __future__ import annotations

import math
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligngpt.experiments.artifacts import (
    CaptionExample,
    CaptionLevel,
    Estimate,
    GateExample,
    GateExamples,
    LevelCaptions,
    LevelStats,
    Summary,
    VariantMetrics,
)
from aligngpt.synthetic.artifacts import PairTruth, Truth
from aligngpt.training.artifacts import LogEntry, ModuleSummary, TrainResult
from aligngpt.utils.io import read_json
from tests.reporting.benchmark_folders import make_results, make_score
from tests.reporting.score_folders import rows_table, write_levels, write_pairs, write_scores

LEVELS = 8
SIDE = 12  # of a grid of image tokens
STEPS = ("generate", "score", "level", "pretrain-none", "finetune-none", "eval-none", "captions")


def make_run(folder: Path, pairs: int = 240, images: int = 24) -> Path:
    """Write a run folder with a fixed seed."""
    rng = random.Random(7)
    kinds = ("mismatched", "dropped", "part", "whole")
    coverage = [rng.random() for _ in range(pairs)]
    rows = [
        {
            "image": f"{index % images:04d}.png",
            "clip_score": 0.1 + 0.4 * value + rng.gauss(0, 0.03),
            "image_hash": index % images,
        }
        for index, value in enumerate(coverage)
    ]
    table = rows_table(rows)
    data, _ = write_pairs(folder / "data", table, num_images=images)
    data.rename(folder / "data" / "pretrain.json")
    write_scores(folder / "scores", table, pairs=folder / "data" / "pretrain.json")
    levels = write_levels(folder / "levels", table, LEVELS)
    boundaries = read_json(levels / "levels.json")["boundaries"]
    assigned = [1 + sum(boundary <= row["clip_score"] for boundary in boundaries) for row in table.to_pylist()]
    ids = table["id"].to_pylist()
    pq.write_table(
        pa.table({"id": ids, "clip_score": table["clip_score"], "alignment_level": pa.array(assigned, pa.int8())}),
        levels / "levels.parquet",
    )
    truth = {
        id_: PairTruth(kind=kinds[min(3, int(4 * value))], coverage=value)
        for id_, value in zip(ids, coverage, strict=True)
    }
    Truth(pairs=truth).write(folder / "data")
    _write_trainings(folder, rng)
    captions = _write_captions(folder)
    for name, accuracy in (("adaptive", 84.0), ("none", 82.0)):
        score = make_score("synthetic", accuracy, (accuracy - 2, accuracy + 2))
        make_results(folder / f"eval-{name}", [score], alignment=name, data_note="Synthetic images.")
    _write_gate_examples(folder, rng)
    counts = [assigned.count(level) for level in range(1, LEVELS + 1)]
    means = [
        sum(value for value, own in zip(coverage, assigned, strict=True) if own == level) / counts[level - 1]
        for level in range(1, LEVELS + 1)
    ]
    Summary(
        synthetic={
            name: VariantMetrics(
                accuracy=Estimate(value=value, ci95=(value - 0.02, value + 0.02)),
                accuracy_by_kind={"color_count": Estimate(value=value, ci95=None)},
            )
            for name, value in (("adaptive", 0.84), ("none", 0.82))
        },
        score_coverage_spearman=0.873,
        stage1_loss_by_level=[0.9] * LEVELS,
        captions_by_level=captions.by_level,
        levels=LevelStats(boundaries=boundaries, counts=counts, mean_coverage=means),
        runtime_s={step: 20.0 + index for index, step in enumerate(STEPS)},
        peak_memory_mb={step: 300.0 * (index + 1) for index, step in enumerate(STEPS)},
        config={"seed": 0, "pretrain": {"learning_rate": 1e-3}},
        versions={"aligngpt": "0.1.0", "torch": "2.13.0"},
    ).write(folder)
    return folder


def make_training(stage: str, alignment: str, loss: float, curve: list[LogEntry] | None = None) -> TrainResult:
    first = stage == "pretrain"
    modules = [("vision_tower", 1_213_440, False), ("projector", 83_456, True)]
    modules += [("alignment_embeddings", 2_048, first)] if alignment == "adaptive" else []
    entry = LogEntry(step=1, loss=loss, learning_rate=1e-3, grad_norm=1.0)
    return TrainResult(
        stage="pretrain" if first else "finetune",
        alignment=alignment,
        global_step=1000,
        global_batch_size=64,
        num_samples=16_000,
        num_without_level=0,
        num_skipped=0,
        num_truncated=0,
        train_runtime=201.4,
        train_loss=loss,
        final_loss=loss,
        log_history=curve or [entry],
        loss_by_level=[0.86, 0.94, 0.86, 0.82, 0.72, 0.68, 0.61, None] if first else None,
        modules=[ModuleSummary(name=name, num_parameters=count, trainable=own) for name, count, own in modules],
    )


def _write_trainings(folder: Path, rng: random.Random) -> None:
    for stage, end in (("pretrain", 0.72), ("finetune", 0.21)):
        for name, penalty in (("adaptive", 0.0), ("none", 0.03)):
            curve = [
                LogEntry(
                    step=20 * index,
                    loss=end + penalty + 3 * math.exp(-9 * index / 50) + abs(rng.gauss(0, 0.03)),
                    learning_rate=1e-3,
                    grad_norm=1.0,
                )
                for index in range(1, 51)
            ]
            (folder / f"{stage}-{name}").mkdir()
            make_training(stage, name, end + penalty, curve).write(folder / f"{stage}-{name}")


def _write_captions(folder: Path) -> LevelCaptions:
    recalls = [0.14, 0.21, 0.33, 0.42, 0.55, 0.63, 0.66, 0.69]
    by_level = [
        CaptionLevel(
            level=level,
            precision=Estimate(value=0.8, ci95=None),
            recall=Estimate(value=recall, ci95=(recall - 0.03, recall + 0.03)),
        )
        for level, recall in enumerate(recalls, start=1)
    ]
    examples = [
        CaptionExample(
            image=f"{index:04d}.png",
            truth=f"All {index} objects.",
            captions=[f"Caption {index} at level {level}." for level in range(1, LEVELS + 1)],
        )
        for index in range(8)
    ]
    captions = LevelCaptions(inputs={}, num_levels=LEVELS, by_level=by_level, examples=examples)
    (folder / "captions").mkdir()
    captions.write(folder / "captions")
    return captions


def _write_gate_examples(folder: Path, rng: random.Random) -> None:
    examples = [
        GateExample(
            image=f"{index:04d}.png",
            question=f"How many objects are there in image {index}?",
            answer="two",
            prediction="two" if index % 3 else "one",
            grid=(SIDE, SIDE),
            image_text_similarity=[rng.gauss(0, 0.5) for _ in range(SIDE * SIDE)],
            gate_weights=[1 / (LEVELS - 1)] * (LEVELS - 1),
        )
        for index in range(7)
    ]
    GateExamples(examples=examples).write(folder)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that no test changes."""
    return make_run(tmp_path_factory.mktemp("made") / "synthetic-run")


@pytest.fixture
def run_folder(made_once: Path, tmp_path: Path) -> Path:
    """A copy of the run folder that a test may change."""
    return Path(shutil.copytree(made_once, tmp_path / "synthetic-run"))
