"""Convert official checkpoints to model folders of this package.

A checkpoint is checked first, by the names and shapes of its tensors, and written only if all of them fit. The output
folder appears complete or not at all. At most one input file, mapped from disk, and one output file are in memory.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from aligngpt.modeling.alignment import AlignmentGate
from aligngpt.modeling.artifacts import ConversionReport
from aligngpt.modeling.checkpoints import describe_backbones, fingerprint_checkpoint, write_stage1
from aligngpt.modeling.configuration import AlignGPTConfig
from aligngpt.modeling.conversion.official_config import (
    STAGE1_FILE,
    TEMPLATES,
    OfficialConfig,
    to_official_name,
    to_our_name,
)
from aligngpt.modeling.conversion.weight_files import (
    WeightWriter,
    is_mapped,
    iterate_weights,
    list_weight_files,
    open_weights,
    read_shapes,
)
from aligngpt.modeling.generation import build_generation_config
from aligngpt.modeling.hub import check_language_model, read_vision_config, resolve_model
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.processing import AlignGPTProcessor, load_template, name_template
from aligngpt.utils.io import atomic_path, fingerprint_file, read_json, versions
from aligngpt.utils.models import has_weights
from aligngpt.utils.output_dir import OutputDir

ORIGINALS = "official"  # folder of the small files of the official checkpoint, so that the way back is exact
TEMPLATE_FILE = "aligngpt_template.jinja"  # chat template in an exported checkpoint; the official code ignores it
SMALL_FILES = ("config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
VOCABULARY = (
    "language_model.model.embed_tokens.weight",
    "language_model.lm_head.weight",
    "language_model.lm_head.bias",
)
_TABLE = "align_indicators.indicator_embs"
_EMBEDDING = "model.embed_tokens.weight"
_GATE_INPUT = "gated_weight_layer.mlp.0.weight"


@dataclass(frozen=True)
class _Source:
    """An official checkpoint on disk: a folder, or a stage-1 file with the language model that it was trained on."""

    path: Path  # as passed
    folder: Path  # with its config.json
    files: list[Path]  # for stage 1, those of the language model come first
    config: OfficialConfig
    tokenizer_folder: Path
    language_model: Path | None  # of a stage-1 file; None for a complete checkpoint
    shapes: dict[str, torch.Size]  # by official name


def convert_official(
    source: str | Path,
    output: str | Path,
    *,
    vision_tower: str | Path | None = None,
    language_model: str | Path | None = None,
    template: str | Path | None = None,
) -> ConversionReport:
    """Convert an official checkpoint to a model folder; a folder with the same inputs is not written again.

    The model answers as the official code does: its gate reads all text (`gate_text="all"`). A model folder from a
    stage-1 file has a new gate, uses H_N only, and is also a stage-1 checkpoint for `finetune`.

    Args:
        source: A complete checkpoint, `mm_projector_align.bin`, or the folder of that file.
        output: The folder to write.
        vision_tower: The vision tower; required if the path in config.json does not exist here.
        language_model: The language model of a stage-1 file, or of a checkpoint without tokenizer.
        template: Name of a bundled chat template, or a Jinja file; by default the one of an exported model, or that
            of the type of language model.

    Raises:
        FileNotFoundError: A file of the checkpoint, the language model or the vision tower is missing.
        ValueError: A tensor is unknown, missing or has a wrong shape; a file is damaged or a pickle of more than
            tensors; the vision tower is another one; or `output` has other content.
    """
    output = Path(output)
    if Path(source).resolve() in output.resolve().parents:
        raise ValueError(f"{output} is inside {source}; choose a folder outside of it")
    checkpoint = _read_source(Path(source), None if language_model is None else resolve_model(language_model))
    tower = _find_tower(checkpoint, vision_tower)
    template = template or _choose_template(checkpoint)
    inputs = _fingerprint_inputs(checkpoint, tower, template)
    run = OutputDir(output, {"inputs": inputs}, run_file=ConversionReport.FILE, result_file=ConversionReport.FILE)
    if run.done:
        return ConversionReport.read(output)
    processor = _build_processor(checkpoint, tower, template)
    config = _build_config(checkpoint, tower, processor)
    _check_tensors(checkpoint, tower, config)
    report = ConversionReport(
        target="aligngpt",
        kind="complete" if checkpoint.language_model is None else "stage 1",
        inputs=inputs,
        language_model=checkpoint.config.language_model,
        template=inputs["template"],
        num_alignment_levels=config.num_alignment_levels,
        image_seq_length=config.image_seq_length,
        dtype=str(config.dtype).removeprefix("torch."),
        warnings=_list_warnings(checkpoint, tower),
        versions=versions(),
    )
    with atomic_path(output) as folder:
        folder.mkdir()
        _write_weights(checkpoint, tower, config, folder)
        _write_small_files(checkpoint, config, processor, folder)
        if checkpoint.language_model is not None:
            stage1_template = report.template if name_template(processor.chat_template) else str(template)
            _write_stage1(checkpoint, tower, config, processor, stage1_template, folder)
        report.write(folder)
    return report


# Read and check the source ------------------------------------------------------------------------------------------


def _read_source(source: Path, language_model: Path | None) -> _Source:
    folder = source.parent if source.is_file() else source
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; pass an official checkpoint")
    if source.is_dir() and has_weights(source):
        config, files = OfficialConfig.read(folder), list_weight_files(folder)
        tokenizer_folder = _find_tokenizer(folder, language_model)
        return _Source(source, folder, files, config, tokenizer_folder, None, read_shapes(files))
    stage1 = source if source.is_file() else folder / STAGE1_FILE
    if not stage1.is_file():
        raise FileNotFoundError(f"{source} has neither a complete checkpoint nor {STAGE1_FILE}")
    if language_model is None:
        raise ValueError(f"{stage1} is a stage-1 file; pass its language model as --language-model")
    check_language_model(language_model)
    config = _build_stage1_config(stage1, language_model)
    files = [*list_weight_files(language_model), stage1]
    return _Source(source, folder, files, config, language_model, language_model, read_shapes(files))


def _build_stage1_config(stage1: Path, language_model: Path) -> OfficialConfig:
    """Combine the language model's configuration with the vision settings of the config.json next to the file."""
    text = AutoConfig.from_pretrained(language_model)
    if text.model_type not in TEMPLATES:
        raise ValueError(f"{language_model} is a {text.model_type} model; the official code has {', '.join(TEMPLATES)}")
    if (stage1.parent / "config.json").is_file():
        official = OfficialConfig.read(stage1.parent)
        return replace(official, language_model=text.model_type, text_config=text, vocab_size=text.vocab_size)
    return OfficialConfig(text.model_type, text, "", -2, "square", None, text.vocab_size)


def _find_tokenizer(folder: Path, language_model: Path | None) -> Path:
    for candidate in (folder, language_model):
        if candidate is not None and any((candidate / name).is_file() for name in TOKENIZER_FILES):
            return candidate
    raise FileNotFoundError(f"{language_model or folder} has no tokenizer; pass the language model as --language-model")


def _find_tower(source: _Source, vision_tower: str | Path | None) -> Path:
    if vision_tower is not None:
        return resolve_model(vision_tower)
    named = source.config.vision_tower
    for candidate in (Path(named), source.folder / named) if named else ():
        if candidate.is_dir():
            return candidate
    reason = f"config.json names the vision tower {named!r}, which does not exist" if named else "no vision tower"
    raise FileNotFoundError(f"{source.path}: {reason}; pass --vision-tower")


def _choose_template(source: _Source) -> str | Path:
    if (source.folder / TEMPLATE_FILE).is_file():
        return source.folder / TEMPLATE_FILE
    if source.config.language_model == "llama" and "<|start_header_id|>" in _load_tokenizer(source).get_vocab():
        return "llama_3_family"
    return TEMPLATES[source.config.language_model]


def _fingerprint_inputs(source: _Source, tower: Path, template: str | Path) -> dict[str, Any]:
    text = load_template(template)
    tokenizer = [source.tokenizer_folder / name for name in TOKENIZER_FILES]
    return {
        "weights": {path.name: fingerprint_file(path) for path in source.files},
        "vision_tower": fingerprint_checkpoint(tower),
        "tokenizer": {path.name: fingerprint_file(path) for path in tokenizer if path.is_file()},
        "template": name_template(text) or f"custom {hashlib.sha256(text.encode()).hexdigest()[:12]}",
    }


def _list_warnings(source: _Source, tower: Path) -> list[str]:
    warnings = []
    exported = (source.folder / TEMPLATE_FILE).is_file()
    if source.config.language_model != "llama" and not exported:
        warnings.append(
            f"a {source.config.language_model} checkpoint does not record its chat template; if its answers look "
            "wrong, convert it again with --template"
        )
    patches, expected = (_read_patches(files) for files in (source.files, list_weight_files(tower)))
    if patches is not None and expected is not None:
        same_shape = patches.shape == expected.shape
        if not same_shape or not torch.allclose(expected, patches, atol=1e-2, rtol=1e-2):
            warnings.append(
                f"the checkpoint has a copy of its vision tower that differs from {tower}; as in the official "
                "code, the latter is used. Check that it is the tower of the training"
            )
    return warnings


def _read_patches(files: list[Path]) -> Tensor | None:
    """Return the patch embedding of a vision tower, or of its copy in a checkpoint, in float32."""
    tensors = iterate_weights(files)
    return next((tensor.float() for name, tensor in tensors if name.endswith(".patch_embedding.weight")), None)


def _check_tensors(source: _Source, tower: Path, config: AlignGPTConfig) -> None:
    """Check that every tensor of model and tower exists with its shape, and no other tensor."""
    length = config.image_seq_length
    if _GATE_INPUT in source.shapes and source.shapes[_GATE_INPUT][1] != length:
        raise ValueError(
            f"the gate has {source.shapes[_GATE_INPUT][1]} image tokens, but the vision tower has {length}; pass the "
            "tower of the training as --vision-tower"
        )
    with torch.device("meta"):
        model = AlignGPTForConditionalGeneration(config)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    _check_tower(tower, {name: expected.pop(name) for name in list(expected) if name.startswith("vision_tower.")})
    if config.tie_word_embeddings:
        expected.pop(VOCABULARY[1], None)
    for official, name in _name_tensors(source, config).items():
        if name not in expected:
            raise ValueError(
                f"{source.path}: unknown tensor {official}; no official AlignGPT with a "
                f"{source.config.language_model} language model has it"
            )
        shape, required = source.shapes[official], expected.pop(name)
        if name in VOCABULARY and shape[:1] == (source.config.vocab_size,):
            shape = torch.Size((required[0], *shape[1:]))  # rows for the placeholders are added when writing
        if shape != required:
            raise ValueError(
                f"{source.path}: {official} has shape {tuple(source.shapes[official])}, but config.json and the vision "
                f"tower require {tuple(required)}; check that both belong to this checkpoint"
            )
    missing = [name for name in expected if source.language_model is None or not name.startswith("alignment_gate.")]
    if missing:
        more = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        raise ValueError(
            f"{source.path} lacks {to_official_name(missing[0])}{more}; check that it is complete and that config.json "
            "fits"
        )


def _name_tensors(source: _Source, config: AlignGPTConfig) -> dict[str, str]:
    """Return our name of each official tensor that is converted, empty if the official code has no such tensor."""
    names = {official: to_our_name(official) for official in source.shapes}
    tied = VOCABULARY[1] if config.tie_word_embeddings else None
    return {official: name for official, name in names.items() if name is not None and name != tied}


def _check_tower(tower: Path, expected: dict[str, torch.Size]) -> None:
    shapes = read_shapes(list_weight_files(tower))
    actual = {name.removeprefix("vision_model."): shape for name, shape in shapes.items()}
    for full_name, shape in expected.items():
        name = full_name.removeprefix("vision_tower.").removeprefix("vision_model.")
        if actual.get(name) != shape:
            problem = f"has {name} with shape {tuple(actual[name])}" if name in actual else f"lacks {name}"
            raise ValueError(f"{tower} {problem}, expected {tuple(shape)}; fetch the complete vision tower again")


# Build the model ----------------------------------------------------------------------------------------------------


def _load_tokenizer(source: _Source) -> Any:
    """Load the tokenizer with the class of its settings, or with that of the type of language model."""
    folder = source.tokenizer_folder
    model_file, settings_file = folder / "tokenizer.model", folder / "tokenizer_config.json"
    is_slow_only = model_file.is_file() and not (folder / "tokenizer.json").is_file()
    if is_slow_only and model_file.read_bytes()[:1] != b"\n":  # the first byte of a SentencePiece model
        raise ValueError(f"{model_file} is not a SentencePiece model (perhaps a Git LFS pointer); fetch it again")
    settings = read_json(settings_file) if settings_file.is_file() else {}
    class_name = settings.get("tokenizer_class")
    if class_name is None and is_slow_only and source.config.language_model in ("llama", "mistral"):
        class_name = "LlamaTokenizer"
    if class_name is not None and hasattr(transformers, class_name):
        # The transformers version of the official code uses legacy=True if the file does not have the field.
        options = {"legacy": settings.get("legacy") is not False} if class_name.startswith("Llama") else {}
        return getattr(transformers, class_name).from_pretrained(folder, **options)
    # Without a configuration, the tokenizer would read the folder's own, which is the official one.
    return AutoTokenizer.from_pretrained(folder, config=source.config.text_config)


def _build_processor(source: _Source, tower: Path, template: str | Path) -> AlignGPTProcessor:
    tokenizer = _load_tokenizer(source)
    if source.config.model_max_length:
        tokenizer.model_max_length = source.config.model_max_length
    image_processor = AutoImageProcessor.from_pretrained(tower, backend="pil")
    processor = AlignGPTProcessor(
        image_processor, tokenizer, load_template(template), image_aspect_ratio=source.config.image_aspect_ratio
    )
    turns = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "x"}]
    try:
        encoding = processor.encode(processor.render(turns))
    except ValueError as error:
        raise ValueError(f"template {str(template)!r} is invalid: {error}") from error
    if not any(encoding.answer_mask):
        raise ValueError(f"template {str(template)!r} does not mark the answers; see docs/about/method.md")
    return processor


def _build_config(source: _Source, tower: Path, processor: AlignGPTProcessor) -> AlignGPTConfig:
    if _TABLE not in source.shapes:
        raise ValueError(
            f"{source.files[-1]} lacks {_TABLE}, the alignment embeddings, as checkpoints that the official code saves "
            f"during stage 1 do; pass the {STAGE1_FILE} of its end"
        )
    for name in (_TABLE, _GATE_INPUT, _EMBEDDING):
        if name in source.shapes and len(source.shapes[name]) != 2:
            raise ValueError(f"{source.path}: {name} has shape {tuple(source.shapes[name])}, expected a matrix")
    vision = read_vision_config(tower)
    layer = source.config.vision_feature_layer
    if not -vision.num_hidden_layers <= layer <= vision.num_hidden_layers:
        raise ValueError(
            f"{source.path}: mm_vision_select_layer is {layer}, but {tower} has {vision.num_hidden_layers} layers; "
            "pass the tower of the training as --vision-tower"
        )
    # The official code casts everything else to the type of the language model.
    dtype = next((tensor.dtype for name, tensor in iterate_weights(source.files) if name == _EMBEDDING), None)
    if dtype is None:
        raise ValueError(f"{source.path} lacks {_EMBEDDING}; fetch the complete checkpoint again")
    text = source.config.text_config
    text.vocab_size = max(text.vocab_size, len(processor.tokenizer))
    text.dtype = dtype
    config = AlignGPTConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=processor.image_token_id,
        align_token_id=processor.align_token_id,
        num_alignment_levels=source.shapes[_TABLE][0],
        gate_hidden_size=source.shapes.get(_GATE_INPUT, (256,))[0],
        alignment="global" if source.language_model is not None else "adaptive",
        gate_text="all",
        vision_feature_layer=layer,
        dtype=dtype,
    )
    config.architectures = [AlignGPTForConditionalGeneration.__name__]
    processor.image_seq_length = config.image_seq_length
    return config


# Write the model folder ---------------------------------------------------------------------------------------------


def _write_weights(source: _Source, tower: Path, config: AlignGPTConfig, folder: Path) -> None:
    writer = WeightWriter(folder)
    names, rows = _name_tensors(source, config), config.text_config.vocab_size
    for path in source.files:
        with open_weights(path) as tensors:
            for official, tensor in tensors.items():
                if official in names:
                    extends = names[official] in VOCABULARY and len(tensor) < rows
                    converted = _append_rows(path, official, rows) if extends else tensor
                    writer.add(names[official], converted.to(config.dtype))
            writer.release_mapped()
    vision = AutoModel.from_pretrained(tower, config=config.vision_config, dtype=config.dtype)
    for name, tensor in vision.state_dict().items():
        writer.add(f"vision_tower.{name}", tensor)
    if source.language_model is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # stage 1 has no gate; the new one is the same for each conversion
            gate = AlignmentGate(config.image_seq_length, config.num_alignment_levels, config.gate_hidden_size)
        for name, tensor in gate.state_dict().items():
            writer.add(f"alignment_gate.{name}", tensor.to(config.dtype))
    writer.close()


def _append_rows(path: Path, official: str, rows: int) -> Tensor:
    """Return a tensor with zero rows appended for the placeholders; these rows are never read nor generated.

    The tensor is copied in parts, and the file mapped again for each, so that the mapped table and its copy are never
    both in memory: with a large vocabulary they are the largest tensors of a model.
    """
    with open_weights(path) as tensors:
        table = tensors[official]
        length, extended = table.shape[0], table.new_zeros(rows, *table.shape[1:])
    step = length if not is_mapped(path) else max(1, length // 8)
    for start in range(0, length, step):
        with open_weights(path) as tensors:
            extended[start : min(start + step, length)] = tensors[official][start : start + step]
    return extended


def _write_small_files(source: _Source, config: AlignGPTConfig, processor: AlignGPTProcessor, folder: Path) -> None:
    config.save_pretrained(folder)
    build_generation_config(config.text_config, processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / ORIGINALS).mkdir()
    for name in (*SMALL_FILES, *TOKENIZER_FILES):
        for origin in (source.folder, source.tokenizer_folder):
            if (origin / name).is_file():
                shutil.copyfile(origin / name, folder / ORIGINALS / name)
                break


def _write_stage1(
    source: _Source, tower: Path, config: AlignGPTConfig, processor: AlignGPTProcessor, template: str, folder: Path
) -> None:
    names = _name_tensors(source, config)
    tensors = iterate_weights(source.files[-1:])
    state = {names[name]: tensor.to(config.dtype).contiguous() for name, tensor in tensors if name in names}
    settings = {
        "template": template,
        "num_alignment_levels": config.num_alignment_levels,
        "image_aspect_ratio": processor.image_aspect_ratio,
        "alignment": config.alignment,
    }
    assert source.language_model is not None
    write_stage1(state, folder, describe_backbones(source.language_model, tower), settings)
