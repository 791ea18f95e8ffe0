"""The demo: its steps, and one run of the smoke preset with almost no training."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligngpt.experiments import runner
from aligngpt.experiments.artifacts import StepCost, StepCosts, Summary
from aligngpt.experiments.configs import DEMO_PRESETS
from aligngpt.experiments.demo import plan_steps, run_demo
from aligngpt.experiments.runner import read_costs
from aligngpt.synthetic.backbones import BUNDLED_FOLDER
from aligngpt.synthetic.scenes import QUESTION_KINDS
from aligngpt.training.artifacts import TrainResult
from aligngpt.utils.config import read_yaml


def test_the_variants_differ_in_alignment_only(tmp_path: Path) -> None:
    steps = {step.name: step for step in plan_steps(DEMO_PRESETS["synthetic"](), tmp_path)}
    variants = {}
    for variant in ("adaptive", "none"):
        files = [tmp_path / "configs" / f"{stage}-{variant}.yaml" for stage in ("pretrain", "finetune")]
        configs = [read_yaml(file) for file in files]
        commands = [" ".join(steps[f"{stage}-{variant}"].command) for stage in ("pretrain", "finetune", "eval")]
        alignment = ["levels" if variant == "adaptive" else variant, variant]
        assert [config.pop("alignment") for config in configs] == alignment
        if variant == "adaptive":
            assert f" --levels {tmp_path / 'levels'}" in commands[0]
            commands[0] = commands[0].replace(f" --levels {tmp_path / 'levels'}", "")
        variants[variant] = (configs, [command.replace(f"-{variant}", "") for command in commands])
    assert variants["adaptive"] == variants["none"]
    assert steps["pretrain-none"].after == ("generate",)
    assert set(steps["pretrain-adaptive"].after) == {"generate", "level"}
    assert all(set(step.after) <= set(steps) for step in steps.values())


def write_costs(folder: Path, done: bool) -> None:
    StepCosts(steps={"generate": StepCost(runtime_s=1.0, peak_memory_mb=1.0, done=done)}).write(folder)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a run was started and interrupted in its first step."""
    monkeypatch.setattr("aligngpt.experiments.demo.run_steps", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_demo(DEMO_PRESETS["synthetic-smoke"](), tmp_path)
    return tmp_path


def interrupt(*args: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def test_another_config_in_the_folder_is_refused(started: Path) -> None:
    write_costs(started, done=True)
    with pytest.raises(KeyboardInterrupt):
        run_demo(DEMO_PRESETS["synthetic-smoke"](), started)
    stage = replace(DEMO_PRESETS["synthetic-smoke"]().pretrain, learning_rate=1e-5)
    with pytest.raises(
        ValueError, match=r"belongs to another run: config\.pairs is 96 there, 97 requested; .*learning_rate"
    ):
        run_demo(replace(DEMO_PRESETS["synthetic-smoke"](), pairs=97, pretrain=stage), started)
    assert json.loads((started / "run_config.json").read_text())["config"]["pairs"] == 96


def test_a_folder_without_a_finished_step_takes_another_config(started: Path) -> None:
    write_costs(started, done=False)
    with pytest.raises(KeyboardInterrupt):
        run_demo(replace(DEMO_PRESETS["synthetic-smoke"](), pairs=97), started)
    assert json.loads((started / "run_config.json").read_text())["config"]["pairs"] == 97
    assert not (started / "steps.json").exists()


def test_the_process_that_runs_the_steps_is_light() -> None:
    code = "import sys, aligngpt.experiments.demo; print({'torch', 'pyarrow', 'scipy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()", "its memory counts in the peak of each step"


# One run -------------------------------------------------------------------------------------------------------------

STEPS = (
    *("generate", "score", "level", "captions"),
    *(f"{stage}-{variant}" for stage in ("pretrain", "finetune", "eval") for variant in ("adaptive", "none")),
)
STAGE_FILES = ("config.yaml", "run_config.json", "skipped.jsonl", "train_results.json")
FILES = (
    *("run_config.json", "config.yaml", "steps.json", "metrics.json", "report.html"),
    *("data/questions.jsonl", *(f"data/{name}.json" for name in ("dataset_info", "pretrain", "finetune", "truth"))),
    *("scores/manifest.json", "levels/levels.json", "levels/levels.parquet", "captions/captions.json"),
    *(f"logs/{name}.log" for name in STEPS),
    *(f"configs/{stage}-{variant}.yaml" for stage in ("pretrain", "finetune") for variant in ("adaptive", "none")),
    *(
        f"pretrain-{variant}/{name}"
        for variant in ("adaptive", "none")
        for name in ("stage1.safetensors", "stage1.json", *STAGE_FILES)
    ),
    *(
        f"finetune-{variant}/{name}"
        for variant in ("adaptive", "none")
        for name in ("model.safetensors", "config.json", "tokenizer.json", *STAGE_FILES)
    ),
    *(
        "gate_examples.json",
        "eval-adaptive/synthetic/gate_stats.json",
        *(f"eval-{variant}/synthetic/{n}" for variant in ("adaptive", "none") for n in ("answers.jsonl", "score.json")),
    ),
)


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """A finished run of the smoke preset, for all tests of this file."""
    if not (BUNDLED_FOLDER / "llm" / "config.json").is_file():
        pytest.skip("the package has no backbones")
    folder = tmp_path_factory.mktemp("run") / "smoke"
    return folder, run_demo(DEMO_PRESETS["synthetic-smoke"](), folder)


def test_the_run_writes_every_file(smoke_run: tuple[Path, Summary]) -> None:
    folder, _ = smoke_run
    assert [name for name in FILES if not (folder / name).is_file()] == []
    assert len(list((folder / "data" / "images").glob("*.png"))) == 96 + 28
    assert set(read_costs(folder)) == set(STEPS)


def test_the_summary_has_the_metrics(smoke_run: tuple[Path, Summary]) -> None:
    folder, summary = smoke_run
    assert Summary.read(folder) == summary
    num_levels = summary.config["num_levels"]
    assert [row.level for row in summary.captions_by_level] == list(range(1, num_levels + 1))
    assert all(0 <= row.precision.value <= 1 and 0 <= row.recall.value <= 1 for row in summary.captions_by_level)
    losses = [loss for loss in summary.stage1_loss_by_level if loss is not None]
    assert len(losses) == num_levels and min(losses) > 0
    assert -1 <= summary.score_coverage_spearman <= 1
    assert set(summary.synthetic) == {"adaptive", "none"}
    for metrics in summary.synthetic.values():
        assert tuple(metrics.accuracy_by_kind) == QUESTION_KINDS
        assert set(metrics.description) == {"precision", "recall"}
        by_kind = [estimate.value for estimate in metrics.accuracy_by_kind.values()]
        assert metrics.accuracy.value == pytest.approx(np.mean(by_kind), abs=1e-3)
        assert metrics.accuracy.ci95 is not None
        low, high = metrics.accuracy.ci95
        assert low <= metrics.accuracy.value <= high
    difference = summary.synthetic["adaptive"].accuracy.value - summary.synthetic["none"].accuracy.value
    assert summary.adaptive_minus_none is not None
    assert summary.adaptive_minus_none.value == pytest.approx(difference, abs=1e-3)
    assert set(summary.runtime_s) == set(summary.peak_memory_mb) == set(STEPS)
    assert all(value > 0 for value in (*summary.runtime_s.values(), *summary.peak_memory_mb.values()))
    assert sum(summary.levels.counts) == 96 and summary.levels.counts == [12] * num_levels
    assert all(math.isfinite(boundary) for boundary in summary.levels.boundaries)
    assert summary.config == json.loads((folder / "run_config.json").read_text())["config"]


def test_each_variant_trains_its_modules(smoke_run: tuple[Path, Summary]) -> None:
    folder, _ = smoke_run
    runs = {name: TrainResult.read(folder / name) for name in STEPS if "-" in name and "eval" not in name}
    assert {name: run.global_step for name, run in runs.items()} == dict.fromkeys(runs, 6)
    assert {name: (run.num_skipped, run.num_truncated) for name, run in runs.items()} == dict.fromkeys(runs, (0, 0))
    assert runs["pretrain-adaptive"].num_without_level == 0
    trained = {name: {module.name for module in run.modules if module.trainable} for name, run in runs.items()}
    assert trained == {
        "pretrain-adaptive": {"multi_modal_projector", "alignment_embeddings"},
        "pretrain-none": {"multi_modal_projector"},
        "finetune-adaptive": {"multi_modal_projector", "alignment_gate", "language_model"},
        "finetune-none": {"multi_modal_projector", "language_model"},
    }


def test_the_report_is_one_file(smoke_run: tuple[Path, Summary]) -> None:
    folder, _ = smoke_run
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>") and "data:image/" in page
    assert not any(f'src="{scheme}' in page for scheme in ("http", "//", "data/images"))


def test_a_second_call_does_no_work(smoke_run: tuple[Path, Summary], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, summary = smoke_run

    def start(*args: Any) -> None:
        raise AssertionError(f"step {args[0].name} was done already")

    monkeypatch.setattr(runner, "_Process", start)
    assert run_demo(DEMO_PRESETS["synthetic-smoke"](), folder) == summary
