"""The two training stages, from data files to a checkpoint.

A finished stage answers before its inputs are read and before torch is imported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aligngpt.modeling.artifacts import Stage1Checkpoint
from aligngpt.training.artifacts import Stage, TrainConfigFile, TrainResult
from aligngpt.training.configs import FINETUNE_PRESETS, PRETRAIN_PRESETS, FinetuneConfig, PretrainConfig, StageConfig
from aligngpt.utils.config import load_config
from aligngpt.utils.constants import DEFAULT_LEVELS
from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.io import fingerprint_file, hash_file, read_json
from aligngpt.utils.models import find_model
from aligngpt.utils.output_dir import OutputDir, log_complete
from aligngpt.utils.progress import status

logger = logging.getLogger(__name__)

_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_DESCRIPTIONS = ("config.json", "stage1.json")
_MAX_HASHED_BYTES = 512 << 20  # of data that are hashed completely, which takes about a second

PathOrName = str | Path
Config = TypeVar("Config", PretrainConfig, FinetuneConfig)


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

    def identify(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Return what makes two runs use the same inputs.

        Args:
            stored: The result of the run in the output folder, empty if there is none.
        """
        from aligngpt.curation.levels import LEVELS_PARQUET, levels_file

        levels = None if self.levels is None else levels_file(self.levels, LEVELS_PARQUET)
        checkpoints = {"stage1": self.stage1, "language_model": self.language_model, "vision_tower": self.vision_tower}
        if self.stage1 is not None:  # it refers to its backbones, which may have been moved
            checkpoints |= {"language_model": None, "vision_tower": None}
        return {
            "data": identify_data(self.data, stored.get("data")),
            "images": None if self.images is None else identify_images(self.images, stored.get("images")),
            "levels": None if levels is None else identify_data(levels, stored.get("levels")),
            **{name: None if path is None else identify_checkpoint(path) for name, path in checkpoints.items()},
        }


def pretrain(
    config: PretrainConfig | str = "paper",
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
        config: Configuration of the stage, or name of a preset: `paper`, `synthetic` or `smoke`.
        data: Image-text pairs in any format that `data.sources.open_source` reads.
        language_model, vision_tower: Checkpoint folders, bundled models or hub names.
        output: Folder of the checkpoint, which also gets `config.yaml`, `run_config.json`, `skipped.jsonl` and
            `train_results.json`.
        images: Folder that image paths are relative to.
        levels: Folder written by `aligngpt level`, or its `levels.parquet`; without it, the data have the levels.
        strict: Stop at the first bad record instead of skipping it.

    Raises:
        FileNotFoundError: An input does not exist.
        ArgumentError: `num_alignment_levels` is not the number of levels in `levels`.
        ValueError: Levels are missing or do not fit, the preset does not exist, or `output` belongs to another run.
        StrictDataError: A record is bad and `strict` is set.
    """
    from aligngpt.curation.levels import LEVELS_JSON, LEVELS_PARQUET, levels_file

    config = load_config(PRETRAIN_PRESETS, config) if isinstance(config, str) else config
    summary = None if levels is None else levels_file(levels, LEVELS_PARQUET).with_name(LEVELS_JSON)
    if config.alignment == "none" or summary is None or not summary.is_file():
        config = _set_num_levels(config, None, "")
    else:
        config = _set_num_levels(config, read_json(summary)["num_levels"], summary)
    inputs = StageInputs(data, images, language_model, vision_tower, levels=levels, strict=strict)
    return _run("pretrain", config, inputs, output)


def finetune(
    config: FinetuneConfig | str = "paper",
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
        config: As in `pretrain`.
        data: Conversations in any format that `data.sources.open_source` reads.
        output: Folder of the model; also gets the files that `pretrain` lists.
        images, strict: As in `pretrain`.
        stage1: Stage-1 checkpoint; optional with `alignment_embeddings="random"` and both backbones.
        language_model, vision_tower: The backbones, if they were moved since stage 1.

    Raises:
        ArgumentError: There is no stage-1 checkpoint and no request for random embeddings, or `num_alignment_levels` is
            not that of stage 1.
        ValueError: As `pretrain`.
    """
    config = load_config(FINETUNE_PRESETS, config) if isinstance(config, str) else config
    if stage1 is None and (config.alignment_embeddings != "random" or not language_model or not vision_tower):
        raise ArgumentError(
            "--stage1 is missing; without it, pass --alignment-embeddings random, --language-model and --vision-tower"
        )
    num_levels = None if stage1 is None else Stage1Checkpoint.read(stage1).settings.num_alignment_levels
    config = _set_num_levels(config, num_levels, f"stage 1 in {stage1}")
    inputs = StageInputs(data, images, language_model, vision_tower, stage1=stage1, strict=strict)
    return _run("finetune", config, inputs, output)


def _set_num_levels(config: Config, expected: int | None, source: object) -> Config:
    """Set `num_alignment_levels` to the number of an input if there is one, else to the default if it is not set."""
    existing = config.num_alignment_levels
    if expected is not None and existing not in (None, expected):
        raise ArgumentError(
            f"num_alignment_levels is {existing}, but {source} has {expected} levels; omit --num-alignment-levels, or "
            "set the number with aligngpt level --num-levels"
        )
    return dataclasses.replace(config, num_alignment_levels=expected or existing or DEFAULT_LEVELS)


def _run(stage: Stage, config: StageConfig, inputs: StageInputs, output: PathOrName) -> TrainResult:
    """Return the result of a finished run, or run the stage in `output`, which it locks."""
    file = Path(output) / TrainConfigFile.FILE
    content = read_json(file) if file.is_file() else {}
    stored = content.get("inputs") if isinstance(content, dict) else None
    identity = {"schema_version": TrainConfigFile.VERSION, "stage": stage, "config": dataclasses.asdict(config)}
    identity["inputs"] = inputs.identify(stored if isinstance(stored, dict) else {})
    run = OutputDir(output, identity, result_file=TrainResult.FILE)  # with the versions a TrainConfigFile
    if run.done:
        log_complete(run.path)
        return TrainResult.read(run.path)
    with run.lock():
        with status("loading torch and transformers"):
            from aligngpt.training import runner
        run_stage: Any = {"pretrain": runner.run_pretrain, "finetune": runner.run_finetune}[stage]
        return run_stage(run, config, inputs)


def identify_data(path: PathOrName, stored: Any = None) -> dict[str, Any]:
    """Return name, number, total size, last modification (ns) and fingerprint of the files at a path.

    The fingerprint is a hash of the content, of samples of it where the files have more than 512 MB.

    Args:
        path: Data as `open_source` reads them.
        stored: An earlier result, which is returned for the same content. Files are read only if it has another time.
    """
    from aligngpt.data.sources import open_source

    source = None if Path(path).is_file() else open_source(path)
    files = [Path(path)] if source is None else [Path(file) for file in source.files]
    local = [file for file in files if file.exists()]
    stats = [file.stat() for file in local]
    size = sum(stat.st_size for stat in stats)
    modified = max((stat.st_mtime_ns for stat in stats), default=None)
    data: dict[str, Any] = {"name": Path(path).name, "files": len(files), "size": size, "modified": modified}
    earlier = stored if isinstance(stored, dict) else {}
    if local and earlier == {**earlier, **data}:
        return earlier
    if source is not None and not local:  # remote files
        return {**data, "fingerprint": source.signature}
    hash_content = hash_file if size <= _MAX_HASHED_BYTES else fingerprint_file
    digest = hashlib.sha256("\n".join(map(hash_content, local)).encode())
    data["fingerprint"] = digest.hexdigest()[:16]
    return earlier if earlier == {**data, "modified": earlier.get("modified")} else data


def identify_images(folder: PathOrName, stored: Any = None) -> dict[str, str]:
    """Return the path of an image folder, as given and absolute; `stored`, if one of the two is the same there."""
    paths = {"path": str(Path(folder)), "absolute": str(Path(folder).resolve())}
    same = isinstance(stored, dict) and any(stored.get(name) == path for name, path in paths.items())
    return stored if same else paths


def identify_checkpoint(checkpoint: PathOrName) -> dict[str, str] | str:
    """Return the fingerprints of a checkpoint's weights and description, or a hub name unchanged."""
    folder = find_model(checkpoint)
    if folder is None:
        return str(checkpoint)
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _WEIGHT_SUFFIXES or path.name in _DESCRIPTIONS]
    return {path.name: fingerprint_file(path) for path in files}
