"""The two training stages, from data files to a checkpoint.

A finished stage answers before its inputs are read and before torch is imported.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aligngpt.training.artifacts import Stage, TrainResult
from aligngpt.training.configs import FinetuneConfig, PretrainConfig, StageConfig
from aligngpt.utils.io import fingerprint_file
from aligngpt.utils.models import find_model
from aligngpt.utils.output_dir import OutputDir
from aligngpt.utils.progress import status

logger = logging.getLogger(__name__)

_WEIGHT_SUFFIXES = (".safetensors", ".bin")


def pretrain(
    config: PretrainConfig,
    *,
    data: str | Path,
    images: str | Path,
    language_model: str | Path,
    vision_tower: str | Path,
    output: str | Path,
    levels: str | Path | None = None,
    strict: bool = False,
) -> TrainResult:
    """Run stage 1 and write a stage-1 checkpoint; return the result of a finished run, resume an interrupted one.

    Args:
        config: Configuration of the stage.
        data: Image-text pairs.
        images: Folder that image paths are relative to.
        language_model, vision_tower: Checkpoint folders or hub names.
        output: Folder of the checkpoint, which also gets `config.yaml`, `run_config.json` and `train_results.json`.
        levels: `levels.parquet` or its folder; without it, the data have the levels.
        strict: Stop at the first bad record instead of skipping it.

    Raises:
        ValueError: Levels are missing or do not fit, or `output` belongs to another run.
        StrictDataError: A record is bad and `strict` is set.
    """
    from aligngpt.curation.levels import LEVELS_PARQUET, levels_file

    inputs = {
        "data": identify_data(data),
        "levels": None if levels is None else identify_data(levels_file(levels, LEVELS_PARQUET)),
        "language_model": identify_checkpoint(language_model),
        "vision_tower": identify_checkpoint(vision_tower),
    }
    run = open_run("pretrain", config, inputs, output)
    if run.done:
        return _read_result(run)
    with run.lock():
        with status("loading torch and transformers"):
            from aligngpt.training.runner import run_pretrain
        return run_pretrain(
            run,
            config,
            data=data,
            images=images,
            language_model=language_model,
            vision_tower=vision_tower,
            levels=levels,
            strict=strict,
        )


def finetune(
    config: FinetuneConfig,
    *,
    data: str | Path,
    images: str | Path,
    output: str | Path,
    stage1: str | Path | None = None,
    language_model: str | Path | None = None,
    vision_tower: str | Path | None = None,
    strict: bool = False,
) -> TrainResult:
    """Run stage 2 and write a complete model; return the result of a finished run, resume an interrupted one.

    Args:
        config: Configuration of the stage.
        data: Conversations.
        images: Folder that image paths are relative to.
        output: Folder of the model, which also gets `config.yaml`, `run_config.json` and `train_results.json`.
        stage1: Stage-1 checkpoint; optional with `alignment_embeddings="random"` and both backbones.
        language_model, vision_tower: The backbones, if they were moved since stage 1.
        strict: Stop at the first bad record instead of skipping it.

    Raises:
        FileNotFoundError: The stage-1 checkpoint does not exist.
        ValueError: There is no stage-1 checkpoint and no request for random embeddings, or `output` belongs to another
            run.
        StrictDataError: A record is bad and `strict` is set.
    """
    if stage1 is None and (config.alignment_embeddings != "random" or not language_model or not vision_tower):
        raise ValueError(
            "stage1 is missing; pass a stage-1 checkpoint, or alignment_embeddings='random', language_model and "
            "vision_tower"
        )
    inputs = {
        "data": identify_data(data),
        "stage1": None if stage1 is None else identify_checkpoint(stage1),
        "language_model": identify_checkpoint(language_model) if language_model and not stage1 else None,
        "vision_tower": identify_checkpoint(vision_tower) if vision_tower and not stage1 else None,
    }
    run = open_run("finetune", config, inputs, output)
    if run.done:
        return _read_result(run)
    with run.lock():
        with status("loading torch and transformers"):
            from aligngpt.training.runner import run_finetune
        return run_finetune(
            run,
            config,
            data=data,
            images=images,
            stage1=stage1,
            language_model=language_model,
            vision_tower=vision_tower,
            strict=strict,
        )


def open_run(stage: Stage, config: StageConfig, inputs: Mapping[str, Any], output: str | Path) -> OutputDir:
    """Return the output folder of a run; its identity has the fields of `TrainConfigFile` except the versions."""
    identity = {"schema_version": 1, "stage": stage, "config": dataclasses.asdict(config), "inputs": dict(inputs)}
    return OutputDir(output, identity, result_file=TrainResult.FILE)


def _read_result(run: OutputDir) -> TrainResult:
    logger.info("%s is complete; nothing to do", run.path)
    return TrainResult.read(run.path)


def identify_data(path: str | Path) -> dict[str, Any]:
    """Return name, number, total size and last modification (ns) of the files at a path, without reading them."""
    from aligngpt.data.sources import open_source

    existing = Path(path)
    files = [existing] if existing.is_file() else [Path(file) for file in open_source(path).files]
    stats = [file.stat() for file in files if file.exists()]
    return {
        "name": existing.name,
        "files": len(files),
        "size": sum(stat.st_size for stat in stats),
        "modified": max((stat.st_mtime_ns for stat in stats), default=None),
    }


def identify_checkpoint(checkpoint: str | Path) -> dict[str, str] | str:
    """Return the fingerprints of a checkpoint's weights and JSON description, or a hub name unchanged."""
    folder = find_model(checkpoint)
    if folder is None:
        return str(checkpoint)
    described = {"config.json", "stage1.json"}
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _WEIGHT_SUFFIXES or path.name in described]
    return {path.name: fingerprint_file(path) for path in files}
