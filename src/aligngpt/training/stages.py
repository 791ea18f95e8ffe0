"""The two training stages, from data files to a checkpoint.

A finished stage answers before its inputs are read and before torch is imported.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.training.artifacts import Stage, TrainResult
from aligngpt.training.configs import FinetuneConfig, PretrainConfig, StageConfig
from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.io import fingerprint_file
from aligngpt.utils.models import find_model
from aligngpt.utils.output_dir import OutputDir, log_complete
from aligngpt.utils.progress import status

logger = logging.getLogger(__name__)

_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_DESCRIPTIONS = ("config.json", "stage1.json")

PathOrName = str | Path


@dataclass(frozen=True)
class StageInputs:
    """Inputs of a stage, see `pretrain` and `finetune`."""

    data: PathOrName
    images: PathOrName | None
    language_model: PathOrName | None
    vision_tower: PathOrName | None
    levels: PathOrName | None = None
    stage1: PathOrName | None = None
    strict: bool = False

    def identify(self) -> dict[str, Any]:
        """Return what makes two runs use the same inputs: names, sizes, times and fingerprints, no paths."""
        from aligngpt.curation.levels import LEVELS_PARQUET, levels_file

        checkpoints = {"stage1": self.stage1, "language_model": self.language_model, "vision_tower": self.vision_tower}
        if self.stage1 is not None:  # it refers to its backbones, which may have been moved
            checkpoints |= {"language_model": None, "vision_tower": None}
        return {
            "data": identify_data(self.data),
            "levels": None if self.levels is None else identify_data(levels_file(self.levels, LEVELS_PARQUET)),
            **{name: None if path is None else identify_checkpoint(path) for name, path in checkpoints.items()},
        }


def pretrain(
    config: PretrainConfig,
    *,
    data: PathOrName,
    language_model: PathOrName,
    vision_tower: PathOrName,
    output: PathOrName,
    images: PathOrName | None = None,
    levels: PathOrName | None = None,
    strict: bool = False,
) -> TrainResult:
    """Run stage 1 and write a stage-1 checkpoint; return the result of a finished run, resume an interrupted one.

    Args:
        config: Configuration of the stage.
        data: Image-text pairs in any format that `data.sources.open_source` reads.
        language_model, vision_tower: Checkpoint folders, bundled models or hub names.
        output: Folder of the checkpoint, which also gets `config.yaml`, `run_config.json`, `skipped.jsonl` and
            `train_results.json`.
        images: Folder that image paths are relative to.
        levels: Folder written by `aligngpt level`, or its `levels.parquet`; without it, the data have the levels.
        strict: Stop at the first bad record instead of skipping it.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: Levels are missing or do not fit, or `output` belongs to another run.
        StrictDataError: A record is bad and `strict` is set.
    """
    inputs = StageInputs(data, images, language_model, vision_tower, levels=levels, strict=strict)
    return _run("pretrain", config, inputs, output)


def finetune(
    config: FinetuneConfig,
    *,
    data: PathOrName,
    output: PathOrName,
    images: PathOrName | None = None,
    stage1: PathOrName | None = None,
    language_model: PathOrName | None = None,
    vision_tower: PathOrName | None = None,
    strict: bool = False,
) -> TrainResult:
    """Run stage 2 and write a complete model; return the result of a finished run, resume an interrupted one.

    Args:
        config: Configuration of the stage.
        data: Conversations in any format that `data.sources.open_source` reads.
        output: Folder of the model; also gets the files that `pretrain` lists.
        images, strict: As in `pretrain`.
        stage1: Stage-1 checkpoint; optional with `alignment_embeddings="random"` and both backbones.
        language_model, vision_tower: The backbones, if they were moved since stage 1.

    Raises:
        ArgumentError: There is no stage-1 checkpoint and no request for random embeddings.
        ValueError: As `pretrain`.
    """
    if stage1 is None and (config.alignment_embeddings != "random" or not language_model or not vision_tower):
        raise ArgumentError(
            "--stage1 is missing; without it, pass --alignment-embeddings random, --language-model and --vision-tower"
        )
    inputs = StageInputs(data, images, language_model, vision_tower, stage1=stage1, strict=strict)
    return _run("finetune", config, inputs, output)


def _run(stage: Stage, config: StageConfig, inputs: StageInputs, output: PathOrName) -> TrainResult:
    """Return the result of a finished run, or run the stage in `output`, which it locks."""
    identity = {"schema_version": 1, "stage": stage, "config": dataclasses.asdict(config), "inputs": inputs.identify()}
    run = OutputDir(output, identity, result_file=TrainResult.FILE)  # with the versions a TrainConfigFile
    if run.done:
        log_complete(run.path)
        return TrainResult.read(run.path)
    with run.lock():
        with status("loading torch and transformers"):
            from aligngpt.training import runner
        run_stage: Any = {"pretrain": runner.run_pretrain, "finetune": runner.run_finetune}[stage]
        return run_stage(run, config, inputs)


def identify_data(path: PathOrName) -> dict[str, Any]:
    """Return name, number, total size and last modification (ns) of the files at a path, without reading them."""
    from aligngpt.data.sources import open_source

    source = None if Path(path).is_file() else open_source(path)
    files = [Path(path)] if source is None else [Path(file) for file in source.files]
    stats = [file.stat() for file in files if file.exists()]
    return {
        "name": Path(path).name,
        "files": len(files),
        "size": sum(stat.st_size for stat in stats),
        "modified": max((stat.st_mtime_ns for stat in stats), default=None),
        **({} if stats or source is None else {"signature": source.signature}),  # remote files
    }


def identify_checkpoint(checkpoint: PathOrName) -> dict[str, str] | str:
    """Return the fingerprints of a checkpoint's weights and description, or a hub name unchanged."""
    folder = find_model(checkpoint)
    if folder is None:
        return str(checkpoint)
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _WEIGHT_SUFFIXES or path.name in _DESCRIPTIONS]
    return {path.name: fingerprint_file(path) for path in files}
