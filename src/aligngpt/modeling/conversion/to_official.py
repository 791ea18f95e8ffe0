"""Export model folders of this package as checkpoints that the official code reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from aligngpt.modeling.artifacts import ConversionReport, Stage1Checkpoint
from aligngpt.modeling.checkpoints import fingerprint_checkpoint
from aligngpt.modeling.configuration import AlignGPTConfig
from aligngpt.modeling.conversion.from_official import (
    ORIGINALS,
    SMALL_FILES,
    TEMPLATE_FILE,
    TOKENIZER_FILES,
    VOCABULARY,
)
from aligngpt.modeling.conversion.official_config import (
    STAGE1_FILE,
    TOWER_COPY,
    build_official_fields,
    to_official_name,
)
from aligngpt.modeling.conversion.weight_files import iterate_weights, list_weight_files, write_index
from aligngpt.modeling.hub import read_vision_config, resolve_model
from aligngpt.modeling.processing import AlignGPTProcessor, name_template
from aligngpt.utils.io import atomic_path, fingerprint_file, read_json, versions, write_json
from aligngpt.utils.output_dir import OutputDir

TOWER_FOLDER = "vision_tower"
_OFFICIAL_IMAGE_TOKENS = 576  # a constant of the official code


def export_official(
    source: str | Path,
    output: str | Path,
    *,
    vision_tower: str | Path | None = None,
    language_model: str | Path | None = None,
) -> ConversionReport:
    """Write a checkpoint for the official loader: `pytorch_model.bin`, config.json, tokenizer and vision tower.

    A folder that came from an official checkpoint gets that checkpoint's own small files back. A stage-1 checkpoint
    becomes `mm_projector_align.bin` with its config.json. The chat template is kept in `aligngpt_template.jinja`.

    Args:
        source: A model folder or stage-1 checkpoint of this package.
        output: The folder to write; with the same source it is not written again.
        vision_tower: The tower that config.json names; by default the absolute path of `output/vision_tower`, which is
            written.
        language_model: Origin of the tokenizer files for a model that was trained here.

    Raises:
        FileNotFoundError: `source` has no weights, or there are no tokenizer files.
        ValueError: The official code does not support the model, or `output` has other content.
    """
    source, output = Path(source), Path(output)
    is_stage1 = (source / Stage1Checkpoint.FILE).is_file()
    config, processor = _load_stage1(source) if is_stage1 else _load_model(source)
    weights = Stage1Checkpoint.WEIGHTS
    files = {weights: fingerprint_file(source / weights)} if is_stage1 else fingerprint_checkpoint(source)
    inputs = {"weights": files, "vision_tower": str(vision_tower or "")}
    run = OutputDir(output, {"inputs": inputs}, run_file=ConversionReport.FILE, result_file=ConversionReport.FILE)
    if run.done:
        return ConversionReport.read(output)
    small_files = {} if is_stage1 else _find_small_files(source, language_model)
    report = ConversionReport(
        target="official",
        kind="stage 1" if is_stage1 else "complete",
        inputs=inputs,
        language_model=config.text_config.model_type,
        template=name_template(processor.chat_template) or "custom",
        num_alignment_levels=config.num_alignment_levels,
        image_seq_length=config.image_seq_length,
        dtype=str(config.dtype or config.text_config.dtype).removeprefix("torch."),
        warnings=[] if is_stage1 else _list_warnings(config),
        versions=versions(),
    )
    with atomic_path(output) as folder:
        folder.mkdir()
        if is_stage1:
            tower = str(vision_tower or Stage1Checkpoint.read(source).backbones.vision_tower)
            tensors = iterate_weights([source / weights])
            state = {to_official_name(name): _own_storage(tensor) for name, tensor in tensors}
            config.dtype = state["mm_projector.0.weight"].dtype
            torch.save(state, folder / STAGE1_FILE)
        else:
            tower = str(vision_tower or output.resolve() / TOWER_FOLDER)
            config.text_config.vocab_size = _count_official_rows(config, small_files)
            _write_weights(source, folder, config.text_config.vocab_size)
            _write_tower(source, config, processor, folder / TOWER_FOLDER)
        _write_settings(config, processor, small_files, tower, folder)
        (folder / TEMPLATE_FILE).write_text(processor.chat_template, encoding="utf-8")
        report.write(folder)
    return report


def _load_model(source: Path) -> tuple[AlignGPTConfig, AlignGPTProcessor]:
    if not (source / "config.json").is_file():
        raise FileNotFoundError(f"{source} has no config.json; pass a folder that `finetune` or `convert` wrote")
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, AlignGPTConfig):
        raise ValueError(f"{source} is a {config.model_type} model; pass a model folder of this package")
    processor = AlignGPTProcessor.from_pretrained(source)
    if not processor.use_alignment or not config.multimodal_projector_bias:
        reason = "a projector without biases" if processor.use_alignment else "a model without alignment"
        raise ValueError(f"{source}: the official code does not support {reason}")
    build_official_fields(config, vision_tower="", model_max_length=0, image_aspect_ratio="pad")  # check its support
    return config, processor


def _load_stage1(source: Path) -> tuple[AlignGPTConfig, AlignGPTProcessor]:
    """Build configuration and processor of a stage-1 checkpoint from its backbones and settings."""
    stage1 = Stage1Checkpoint.read(source)
    if stage1.settings.alignment == "none":
        raise ValueError(f"{source}: the official code does not support a model without alignment")
    llm, tower = resolve_model(stage1.backbones.language_model), resolve_model(stage1.backbones.vision_tower)
    processor = AlignGPTProcessor.from_backbones(
        llm, tower, template=stage1.settings.template, image_aspect_ratio=stage1.settings.image_aspect_ratio
    )
    levels = stage1.settings.num_alignment_levels
    text, vision = AutoConfig.from_pretrained(llm), read_vision_config(tower)
    return AlignGPTConfig(text_config=text, vision_config=vision, num_alignment_levels=levels), processor


def _count_official_rows(config: AlignGPTConfig, small_files: dict[str, Path]) -> int:
    """Return the vocabulary size without the rows of the placeholders."""
    if "config.json" in small_files:
        return read_json(small_files["config.json"])["vocab_size"]
    size, placeholders = config.text_config.vocab_size, sorted((config.image_token_id, config.align_token_id))
    return placeholders[0] if placeholders == [size - 2, size - 1] else size


def _find_small_files(source: Path, language_model: str | Path | None) -> dict[str, Path]:
    """Return the small files of the original official checkpoint, or the tokenizer files of the language model."""
    originals = source / ORIGINALS
    if originals.is_dir():
        return {path.name: path for path in sorted(originals.iterdir())}
    if language_model is None:
        raise FileNotFoundError(
            f"{source} has no copy of the tokenizer files for the official code; pass its language model as "
            "--language-model"
        )
    folder = resolve_model(language_model)
    names = {*TOKENIZER_FILES, *SMALL_FILES} - {"config.json"}
    files = {name: folder / name for name in sorted(names) if (folder / name).is_file()}
    if not any(name in files for name in TOKENIZER_FILES):
        raise FileNotFoundError(f"{folder} has no tokenizer files; pass the folder of the language model")
    return files


def _list_warnings(config: AlignGPTConfig) -> list[str]:
    warnings = []
    if config.gate_text != "all":
        warnings.append("the official gate reads all text, this model's only the instruction; answers will differ")
    if config.alignment != "adaptive":
        warnings.append(f"the official code always uses the gate; the setting of this model is {config.alignment!r}")
    if config.image_seq_length != _OFFICIAL_IMAGE_TOKENS:
        warnings.append(
            f"the official code has a constant of {_OFFICIAL_IMAGE_TOKENS} image tokens, this model has "
            f"{config.image_seq_length}; change N_IMAGE_TOKEN there"
        )
    return warnings


def _write_weights(source: Path, folder: Path, vocab_size: int) -> None:
    """Write one `.bin` file for each file of the source, which is what is held in memory."""
    files = list_weight_files(source)
    weight_map: dict[str, str] = {}
    total = 0
    for number, path in enumerate(files, start=1):
        file = "pytorch_model.bin" if len(files) == 1 else f"pytorch_model-{number:05d}-of-{len(files):05d}.bin"
        state = {
            to_official_name(name): _own_storage(tensor[:vocab_size] if name in VOCABULARY else tensor)
            for name, tensor in iterate_weights([path])
        }
        torch.save(state, folder / file)
        weight_map |= dict.fromkeys(state, file)
        total += sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if len(files) > 1:
        write_index(folder / "pytorch_model.bin.index.json", weight_map, total)


def _own_storage(tensor: Tensor) -> Tensor:
    """Return a tensor with its own storage, since `torch.save` writes the complete storage."""
    is_complete = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if is_complete else tensor.clone()


def _write_tower(source: Path, config: AlignGPTConfig, processor: AlignGPTProcessor, folder: Path) -> None:
    folder.mkdir()
    state = {
        to_official_name(name).removeprefix(f"{TOWER_COPY}vision_tower."): _own_storage(tensor)
        for name, tensor in iterate_weights(list_weight_files(source))
        if name.startswith("vision_tower.")
    }
    torch.save(state, folder / "pytorch_model.bin")
    config.vision_config.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def _write_settings(
    config: AlignGPTConfig, processor: AlignGPTProcessor, small_files: dict[str, Path], tower: str, folder: Path
) -> None:
    for name, path in small_files.items():
        shutil.copyfile(path, folder / name)
    original: dict[str, Any] = read_json(small_files["config.json"]) if "config.json" in small_files else {}
    if original.get("model_type", "").startswith("aligngpt"):
        fields = {**original, "mm_vision_tower": tower}
    else:
        fields = build_official_fields(
            config,
            vision_tower=tower,
            model_max_length=min(processor.tokenizer.model_max_length, config.text_config.max_position_embeddings),
            image_aspect_ratio=processor.image_aspect_ratio,
        )
    write_json(folder / "config.json", fields)
