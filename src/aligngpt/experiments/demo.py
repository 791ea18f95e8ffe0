"""The end-to-end run on the synthetic dataset, with alignment and without. Each step is a command:

generate -> score -> level -> pretrain-adaptive -> captions, finetune-adaptive -> eval-adaptive
generate ->                   pretrain-none     -> finetune-none               -> eval-none       -> summary, report
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from aligngpt.curation.artifacts import LevelsSummary, ScoreManifest
from aligngpt.evaluation.artifacts import BenchmarkScore
from aligngpt.experiments.artifacts import GateExamples, LevelCaptions, StepCosts, Summary
from aligngpt.experiments.configs import DemoConfig
from aligngpt.experiments.runner import Step, read_costs, run_steps
from aligngpt.synthetic.artifacts import DatasetInfo
from aligngpt.training.artifacts import TrainResult
from aligngpt.training.configs import FinetuneConfig, PretrainConfig
from aligngpt.utils.config import CONFIG_FILE, write_yaml
from aligngpt.utils.io import versions
from aligngpt.utils.output_dir import OutputDir

_START_SECONDS = 6.0  # start of a command and loading of a small model
# Seconds on two idle cores with one thread per step, for the estimate of the time left.
_SECONDS_PER = {"image": 6e-4, "scored pair": 1.5e-3, "stage-1 sample": 5e-3, "stage-2 sample": 8e-3, "answer": 8e-3}


def run_demo(config: DemoConfig, output: str | Path) -> Summary:
    """Run the pipeline, or what is left of it, and write `metrics.json` and `report.html`.

    Args:
        config: Configuration of the run.
        output: Folder of the run.

    Raises:
        ValueError: The folder belongs to a run with another config, or another process holds it.
        StepFailed: A step failed; the message has its error and names its log.
    """
    directory = OutputDir(output, {"config": asdict(config)}, result_file=Summary.FILE)
    folder = directory.path
    with directory.lock():
        reset = not any(cost.done for cost in read_costs(folder).values())  # nothing depends on the config yet
        directory.start(reset=reset, versions=versions())
        if reset:
            (folder / StepCosts.FILE).unlink(missing_ok=True)
        write_yaml(folder / CONFIG_FILE, config)
        costs = run_steps(plan_steps(config, folder), folder, threads=config.threads)

        # Imported here: they load torch, whose memory would count in the peak of each step.
        from aligngpt.experiments.gate_examples import collect_gate_examples
        from aligngpt.experiments.summary import compare_variants, summarize
        from aligngpt.reporting import report_run

        comparisons = compare_variants(folder)
        summary = summarize(folder, costs, directory.identity["config"], comparisons)
        summary.write(folder)
        if not (folder / GateExamples.FILE).is_file():
            collect_gate_examples(folder / "finetune-adaptive", folder / "data").write(folder)
        report_run(folder, comparisons=comparisons)
    return summary


def plan_steps(config: DemoConfig, folder: Path) -> list[Step]:
    """Return the commands of the run, and write the configs of its training stages to `configs/`."""
    data, scores, levels = folder / "data", folder / "scores", folder / "levels"
    sizes = {name: getattr(config, name) for name in ("pairs", "conversations", "questions", "seed")}
    pairs = {"data": data / "pretrain.json", "images": data / "images"}
    binning = {"scores": scores, "output": levels, "num_levels": config.num_levels, "strategy": config.strategy}
    stage1 = folder / "pretrain-adaptive"
    captions = {"model": stage1, "data": data, "output": folder / "captions", "limit": config.captioned}
    return [
        Step(
            "generate",
            _build_command("synthetic generate", output=data, **sizes),
            data / DatasetInfo.FILE,
            expected_seconds=_expect("image", config.pairs + config.questions),
        ),
        Step(
            "score",
            _build_command("score", **pairs, scorer="synthetic-clip", output=scores, batch_size=256),
            scores / ScoreManifest.FILE,
            after=("generate",),
            expected_seconds=_expect("scored pair", config.pairs),
        ),
        Step("level", _build_command("level", **binning), levels / LevelsSummary.FILE, after=("score",)),
        *_plan_variant(config, folder, "none"),
        *_plan_variant(config, folder, "adaptive"),
        Step(
            "captions",
            _build_command("synthetic captions", **captions),
            folder / "captions" / LevelCaptions.FILE,
            after=(stage1.name,),
            expected_seconds=_expect("answer", config.captioned * config.num_levels),
        ),
    ]


def _plan_variant(config: DemoConfig, folder: Path, variant: Literal["none", "adaptive"]) -> list[Step]:
    """Return both stages and the evaluation of one variant; variants differ in their alignment only."""
    data = folder / "data"
    images = data / "images"
    stage1, stage2, results = (folder / f"{name}-{variant}" for name in ("pretrain", "finetune", "eval"))
    levels = {} if variant == "none" else {"levels": folder / "levels"}
    pretrain = replace(config.pretrain, alignment="none" if variant == "none" else "levels")
    finetune = replace(config.finetune, alignment=variant)
    backbones = {"language_model": "synthetic-llm", "vision_tower": "synthetic-clip"}
    pairs: dict[str, Any] = {"data": data / "pretrain.json", "images": images, **levels, **backbones}
    conversations = {"data": data / "finetune.json", "images": images, "stage1": stage1}
    return [
        Step(
            stage1.name,
            _build_command("pretrain", **pairs, output=stage1, config=_write_config(pretrain, folder, stage1.name)),
            stage1 / TrainResult.FILE,
            after=("generate",) if variant == "none" else ("generate", "level"),
            expected_seconds=_expect("stage-1 sample", _count_samples(pretrain, config.pairs)),
        ),
        Step(
            stage2.name,
            _build_command(
                "finetune", **conversations, output=stage2, config=_write_config(finetune, folder, stage2.name)
            ),
            stage2 / TrainResult.FILE,
            after=(stage1.name,),
            expected_seconds=_expect("stage-2 sample", _count_samples(finetune, config.conversations)),
        ),
        Step(
            results.name,
            _build_command("eval run", tasks="synthetic", model=stage2, data=data, output=results, batch_size=100),
            results / "synthetic" / BenchmarkScore.FILE,
            after=(stage2.name,),
            expected_seconds=_expect("answer", config.questions),
        ),
    ]


def _expect(unit: str, count: float) -> float:
    return _START_SECONDS + _SECONDS_PER[unit] * count


def _count_samples(config: PretrainConfig | FinetuneConfig, available: int) -> float:
    """Return the number of training samples that a stage processes."""
    batch_size = config.per_device_train_batch_size * config.gradient_accumulation_steps
    return batch_size * config.max_steps if config.max_steps > 0 else config.num_train_epochs * available


def _build_command(verb: str, **options: Any) -> tuple[str, ...]:
    """Return `("score", "--batch-size", "8")` for `_build_command("score", batch_size=8)`."""
    flags = ((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items())
    return (*verb.split(), *(part for flag in flags for part in flag))


def _write_config(config: PretrainConfig | FinetuneConfig, folder: Path, name: str) -> Path:
    path = folder / "configs" / f"{name}.yaml"
    write_yaml(path, config)
    return path
