"""Model folders of this package to checkpoints that the official code reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from aligngpt.modeling.backbones import read_vision_config
from aligngpt.modeling.checkpoints import INFO_FILE, WEIGHTS_FILE, read_stage1
from aligngpt.modeling.configuration import AlignGPTConfig
from aligngpt.modeling.conversion.from_official import MANIFEST, ORIGINALS, SMALL_FILES, TOKENIZER_FILES, VOCABULARY
from aligngpt.modeling.conversion.official_config import STAGE1_FILE, TOWER_COPY, official_fields, official_name
from aligngpt.modeling.conversion.weight_files import list_weight_files, open_weights
from aligngpt.modeling.processing import AlignGPTProcessor
from aligngpt.utils.io import atomic_path, read_json, versions, write_json

TOWER_FOLDER = "vision_tower"
_OFFICIAL_IMAGE_TOKENS = 576  # a constant of the official code


def export_official(
    source: str | Path,
    output: str | Path,
    *,
    vision_tower: str | Path | None = None,
    base_llm: str | Path | None = None,
) -> dict[str, Any]:
    """Write what the official loader reads: `pytorch_model.bin`, config.json, tokenizer, and the tower beside them.

    A folder that came from an official checkpoint gets that checkpoint's own small files back. A stage-1 checkpoint
    becomes `mm_projector_align.bin` and its config.json, which names the tower of its base.

    Args:
        source: A model folder of this package.
        output: The folder to write.
        vision_tower: What config.json is to name as the tower; by default the full path of `output/vision_tower`, which
            is written.
        base_llm: Where the tokenizer files come from, for a model that was trained here.

    Returns:
        The content of `conversion.json`.

    Raises:
        FileNotFoundError: `source` is no folder with weights, or no tokenizer files are known.
        ValueError: The official code cannot hold the model, or `output` holds something.
    """
    source, output = Path(source), Path(output)
    is_stage1 = (source / INFO_FILE).is_file()
    config, processor = _load_stage1(source) if is_stage1 else _load(source)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"{output} holds something, which would be replaced: choose a new folder or remove this one")
    if is_stage1:
        return _export_stage1(source, output, config, processor, vision_tower)
    small = _small_files(source, base_llm)
    warnings = _warnings(config)
    config.text_config.vocab_size = _official_vocabulary(config, small)
    with atomic_path(output) as folder:
        folder.mkdir()
        _write_weights(source, folder, config.text_config.vocab_size)
        _write_tower(source, config, processor, folder / TOWER_FOLDER)
        tower = str(vision_tower or output.resolve() / TOWER_FOLDER)
        _write_settings(config, processor, small, tower, folder)
        report = {"source": str(source), "to": "official", "warnings": warnings, "versions": versions()}
        write_json(folder / MANIFEST, report)
    return report


def _load(source: Path) -> tuple[AlignGPTConfig, AlignGPTProcessor]:
    if not (source / "config.json").is_file():
        raise FileNotFoundError(f"{source} has no config.json: give a model folder that finetune or convert wrote")
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, AlignGPTConfig):
        raise ValueError(f"{source} is a {config.model_type} model: give a model folder of this package")
    processor = AlignGPTProcessor.from_pretrained(source)
    if not processor.use_alignment or not config.multimodal_projector_bias:
        what = "a projector without biases" if processor.use_alignment else "a model without alignment"
        raise ValueError(f"{source}: the official code cannot hold {what}")
    official_fields(
        config, vision_tower="", model_max_length=0, image_aspect_ratio="pad"
    )  # its language model is known
    return config, processor


def _load_stage1(source: Path) -> tuple[AlignGPTConfig, AlignGPTProcessor]:
    """Configuration and processor of a stage-1 checkpoint, of its base and what it says of itself."""
    stage1 = read_stage1(source)
    base, settings = stage1.backbones, dict(stage1.settings)
    if settings["alignment"] == "none":
        raise ValueError(f"{source}: the official code cannot hold a model without alignment")
    text, vision = AutoConfig.from_pretrained(base.language_model), read_vision_config(base.vision_tower)
    processor = AlignGPTProcessor.from_backbones(
        base.language_model, base.vision_tower, image_aspect_ratio=settings["image_aspect_ratio"]
    )
    levels = settings["num_alignment_levels"]
    return AlignGPTConfig(text_config=text, vision_config=vision, num_alignment_levels=levels), processor


def _export_stage1(
    source: Path, output: Path, config: AlignGPTConfig, processor: AlignGPTProcessor, vision_tower: str | Path | None
) -> dict[str, Any]:
    tower = str(vision_tower or read_stage1(source).backbones.vision_tower)
    with atomic_path(output) as folder:
        folder.mkdir()
        with open_weights(source / WEIGHTS_FILE) as tensors:
            state = {official_name(ours): _alone(tensors[ours]) for ours in tensors}
        config.dtype = state["mm_projector.0.weight"].dtype
        torch.save(state, folder / STAGE1_FILE)
        _write_settings(config, processor, {}, tower, folder)
        report = {"source": str(source), "to": "official", "warnings": [], "versions": versions()}
        write_json(folder / MANIFEST, report)
    return report


def _official_vocabulary(config: AlignGPTConfig, small: dict[str, Path]) -> int:
    """Rows without those that were added for the placeholders: as the original says, else by where these stand."""
    if "config.json" in small:
        return read_json(small["config.json"])["vocab_size"]
    size, placeholders = config.text_config.vocab_size, sorted((config.image_token_id, config.align_token_id))
    return placeholders[0] if placeholders == [size - 2, size - 1] else size


def _small_files(source: Path, base_llm: str | Path | None) -> dict[str, Path]:
    """The official checkpoint's own small files where they are kept, else the tokenizer files of the base."""
    kept = source / ORIGINALS
    if kept.is_dir():
        return {path.name: path for path in sorted(kept.iterdir())}
    if base_llm is None:
        raise FileNotFoundError(
            f"{source} does not keep the tokenizer files that the official code reads: give the folder of its language "
            "model with --base-llm"
        )
    names = (*TOKENIZER_FILES, *SMALL_FILES)
    found = {name: Path(base_llm) / name for name in names if (Path(base_llm) / name).is_file()}
    found.pop("config.json", None)
    if not any(name in found for name in TOKENIZER_FILES):
        raise FileNotFoundError(f"{base_llm} has no tokenizer files: give the folder of the language model")
    return found


def _warnings(config: AlignGPTConfig) -> list[str]:
    warnings = []
    if config.gate_text != "all":
        warnings.append("the official gate reads all text, this model's reads the instruction: answers will differ")
    if config.alignment != "adaptive":
        warnings.append(f"the official code always mixes by the gate, this model is set to {config.alignment!r}")
    if config.image_seq_length != _OFFICIAL_IMAGE_TOKENS:
        warnings.append(
            f"the official code has {_OFFICIAL_IMAGE_TOKENS} image tokens built in, this model has "
            f"{config.image_seq_length}: change N_IMAGE_TOKEN there"
        )
    return warnings


def _write_weights(source: Path, folder: Path, words: int) -> None:
    """One `.bin` for each file of ours, so that no more than that is held in memory."""
    files = list_weight_files(source)
    names = [
        "pytorch_model.bin" if len(files) == 1 else f"pytorch_model-{place:05d}-of-{len(files):05d}.bin"
        for place in range(1, len(files) + 1)
    ]
    weight_map: dict[str, str] = {}
    size = 0
    for path, name in zip(files, names, strict=True):
        with open_weights(path) as tensors:
            state: dict[str, Tensor] = {}
            for ours in tensors:
                tensor = tensors[ours][:words] if ours in VOCABULARY else tensors[ours]
                state[official_name(ours)] = _alone(tensor)
        torch.save(state, folder / name)
        weight_map |= dict.fromkeys(state, name)
        size += sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _alone(tensor: Tensor) -> Tensor:
    """A tensor that shares its storage with nothing else, since the whole storage is what torch.save writes."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _write_tower(source: Path, config: AlignGPTConfig, processor: AlignGPTProcessor, folder: Path) -> None:
    folder.mkdir()
    state: dict[str, Tensor] = {}
    for path in list_weight_files(source):
        with open_weights(path) as tensors:
            for ours in tensors:
                if ours.startswith("vision_tower."):
                    name = official_name(ours).removeprefix(f"{TOWER_COPY}vision_tower.")
                    state[name] = _alone(tensors[ours])
    torch.save(state, folder / "pytorch_model.bin")
    config.vision_config.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def _write_settings(
    config: AlignGPTConfig, processor: AlignGPTProcessor, small: dict[str, Path], tower: str, folder: Path
) -> None:
    for name, path in small.items():
        shutil.copyfile(path, folder / name)
    if "config.json" in small and read_json(small["config.json"]).get("model_type", "").startswith("aligngpt"):
        fields = {**read_json(small["config.json"]), "mm_vision_tower": tower}
    else:
        fields = official_fields(
            config,
            vision_tower=tower,
            model_max_length=min(processor.tokenizer.model_max_length, config.text_config.max_position_embeddings),
            image_aspect_ratio=processor.image_aspect_ratio,
        )
    write_json(folder / "config.json", fields)
