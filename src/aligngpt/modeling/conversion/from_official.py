"""Official checkpoints to model folders of this package, and back, file by file.

A checkpoint is looked through first, by the names and shapes of its tensors, and written only when everything fits.
The folder appears whole or not at all. Of the weights no more is held in memory than one file of them, mapped from the
disk, and one file that is being written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from aligngpt.modeling.alignment import AlignmentGate
from aligngpt.modeling.backbones import check_language_model, read_vision_config
from aligngpt.modeling.checkpoints import describe_backbones, write_stage1
from aligngpt.modeling.configuration import AlignGPTConfig
from aligngpt.modeling.conversion.official_config import (
    STAGE1_FILE,
    TEMPLATES,
    TOWER_COPY,
    OfficialConfig,
    official_name,
    our_name,
)
from aligngpt.modeling.conversion.weight_files import (
    WeightWriter,
    has_weights,
    is_mapped,
    list_weight_files,
    open_weights,
    read_shapes,
)
from aligngpt.modeling.generation import build_generation_config
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.processing import AlignGPTProcessor, load_template
from aligngpt.utils.io import atomic_path, hash_file, hash_folder, read_json, versions, write_json

MANIFEST = "conversion.json"
ORIGINALS = "official"  # the small files of the official checkpoint, kept so that the way back is exact
SMALL_FILES = ("config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
_TABLE = "align_indicators.indicator_embs"
VOCABULARY = (
    "language_model.model.embed_tokens.weight",
    "language_model.lm_head.weight",
    "language_model.lm_head.bias",
)
_GATE_INPUT = "gated_weight_layer.mlp.0.weight"


@dataclass(frozen=True)
class _Source:
    """An official checkpoint as it lies on the disk.

    Attributes:
        path: What was given: a folder, or the file of stage 1.
        files: All files with weights; those of the base model first where the checkpoint is one of stage 1.
        config: Its settings.
        language_model: Folder with the tokenizer, and with the language model in stage 1.
        base_llm: The base of a stage-1 file; `None` for a complete checkpoint.
        shapes: Shape of each tensor by its official name.
    """

    path: Path
    files: list[Path]
    config: OfficialConfig
    language_model: Path
    base_llm: Path | None
    shapes: dict[str, torch.Size]


def convert_official(
    source: str | Path,
    output: str | Path,
    *,
    vision_tower: str | Path | None = None,
    base_llm: str | Path | None = None,
    template: str | Path | None = None,
) -> dict[str, Any]:
    """Make a model folder of an official checkpoint; one that was made of the same before is left as it is.

    The folder answers as the official code does: its gate reads all text (`gate_text="all"`). One that is made from the
    file of stage 1 has a new gate, uses H_N alone, and is a stage-1 checkpoint for `finetune` as well.

    Args:
        source: A complete checkpoint, or `mm_projector_align.bin`, or the folder it lies in.
        output: The folder to write.
        vision_tower: Where the vision tower lies; needed where config.json names another machine's path.
        base_llm: The language model below a stage-1 file; the tokenizer of a checkpoint that has none.
        template: Chat template, a shipped name or a Jinja file; by the kind of language model otherwise.

    Returns:
        The content of `conversion.json`.

    Raises:
        FileNotFoundError: A folder, a file of the checkpoint or the vision tower is missing.
        ValueError: A tensor is unknown, missing or of a wrong shape; a file is damaged or is a pickle that is more than
            tensors; the vision tower is another one; or `output` holds something else.
    """
    output = Path(output)
    if Path(source).resolve() in output.resolve().parents:
        raise ValueError(f"{output} lies inside {source}: choose a folder beside it")
    found = _look_at(Path(source), None if base_llm is None else Path(base_llm))
    tower = _tower_folder(found, vision_tower)
    template = template or _template_of(found)
    inputs = _inputs(found, tower, template)
    done = _already_made(output, inputs)
    if done is not None:
        return done
    processor = _processor(found, tower, template)
    config = _configuration(found, tower, processor)
    _check_tensors(found, tower, config)
    warnings = _warnings(found, tower)
    with atomic_path(output) as folder:
        folder.mkdir()
        _write_weights(found, tower, config, folder)
        _write_small_files(found, config, processor, folder)
        if found.base_llm is not None:
            _write_stage1(found, tower, config, processor, template, folder)
        report = {"inputs": inputs, "warnings": warnings, **_summary(found, config, template), "versions": versions()}
        write_json(folder / MANIFEST, report)
    return report


# ------------------------------------------------------------------------------------------------- looking at what is


def _look_at(source: Path, base_llm: Path | None) -> _Source:
    folder = source.parent if source.is_file() else source
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder: give an official checkpoint")
    if source.is_dir() and has_weights(source):
        config, files = OfficialConfig.read(folder), list_weight_files(folder)
        tokenizer = _folder_with_tokenizer(folder, base_llm)
        return _Source(source, files, config, tokenizer, None, read_shapes(files))
    stage1 = source if source.is_file() else folder / STAGE1_FILE
    if not stage1.is_file():
        raise FileNotFoundError(f"{source} has neither a complete checkpoint nor {STAGE1_FILE}: is this the folder?")
    if base_llm is None:
        raise ValueError(f"{stage1} is a stage-1 file, which belongs to a language model: give it with --base-llm")
    check_language_model(base_llm)
    config = _stage1_config(stage1, base_llm)
    files = [*list_weight_files(base_llm), stage1]
    return _Source(source, files, config, base_llm, base_llm, read_shapes(files))


def _stage1_config(stage1: Path, base_llm: Path) -> OfficialConfig:
    """The base model's own configuration, with what the config.json beside the file says of the vision side."""
    text = AutoConfig.from_pretrained(base_llm)
    if text.model_type not in TEMPLATES:
        raise ValueError(f"{base_llm} is a {text.model_type} model; the official code has {', '.join(TEMPLATES)}")
    if (stage1.parent / "config.json").is_file():
        beside = OfficialConfig.read(stage1.parent)
        return OfficialConfig(
            text.model_type,
            text,
            beside.vision_tower,
            beside.vision_feature_layer,
            beside.image_aspect_ratio,
            beside.model_max_length,
            text.vocab_size,
        )
    return OfficialConfig(text.model_type, text, "", -2, "square", None, text.vocab_size)


def _folder_with_tokenizer(folder: Path, base_llm: Path | None) -> Path:
    for candidate in (folder, base_llm):
        if candidate is not None and any((candidate / name).is_file() for name in TOKENIZER_FILES):
            return candidate
    raise FileNotFoundError(f"{base_llm or folder} has no tokenizer: give the language model's folder with --base-llm")


def _tower_folder(found: _Source, given: str | Path | None) -> Path:
    if given is not None:
        if not Path(given).is_dir():
            raise FileNotFoundError(f"{given}: no such folder; give the vision tower's checkpoint with --vision-tower")
        return Path(given)
    named = found.config.vision_tower
    here = found.path.parent if found.path.is_file() else found.path
    for candidate in (Path(named), here / named) if named else ():
        if candidate.is_dir():
            return candidate
    where = f"config.json names the vision tower {named!r}, which is not there" if named else "no vision tower is named"
    raise FileNotFoundError(f"{found.path}: {where}: give its folder with --vision-tower")


def _template_of(found: _Source) -> str:
    if found.config.language_model == "llama" and "<|start_header_id|>" in _tokenizer(found).get_vocab():
        return "llama_3_family"
    return TEMPLATES[found.config.language_model]


def _inputs(found: _Source, tower: Path, template: str | Path) -> dict[str, Any]:
    """What the output depends on; the same inputs need not be converted again."""
    return {
        "weights": {path.name: hash_file(path) for path in found.files},
        "vision_tower": hash_folder(tower, ("*.safetensors", "*.bin", "*.json")),
        "tokenizer": hash_folder(found.language_model, TOKENIZER_FILES),
        "template": load_template(template),
    }


def _already_made(output: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if (output / MANIFEST).is_file():
        report = read_json(output / MANIFEST)
        if report.get("inputs") == inputs:
            return report
    raise ValueError(f"{output} holds something else, which would be replaced: choose a new folder or remove this one")


def _warnings(found: _Source, tower: Path) -> list[str]:
    warnings = []
    if found.config.language_model != "llama":
        warnings.append(
            f"a {found.config.language_model} checkpoint does not say which template it was tuned with: if its answers "
            "look wrong, convert it again with --template"
        )
    name = f"{TOWER_COPY}vision_tower.vision_model.embeddings.patch_embedding.weight"
    for path in found.files if name in found.shapes else ():
        with open_weights(path) as tensors:
            if name in tensors and not _is_copy(tensors[name], tower):
                warnings.append(
                    f"the checkpoint holds a copy of its vision tower that differs from {tower}, which is used, as the "
                    "official code does: make sure that it is the tower of the training"
                )
    return warnings


def _is_copy(patches: Tensor, tower: Path) -> bool:
    for path in list_weight_files(tower):
        with open_weights(path) as tensors:
            for name in tensors:
                if name.endswith("embeddings.patch_embedding.weight"):
                    there = tensors[name]
                    same = there.shape == patches.shape
                    return same and torch.allclose(there.float(), patches.float(), atol=1e-2, rtol=1e-2)
    return True


# ---------------------------------------------------------------------------------------------- the model to be made


def _tokenizer(found: _Source) -> Any:
    """Of the class that the checkpoint names; by the language model's kind where it names none that is known."""
    model_file = found.language_model / "tokenizer.model"
    alone = model_file.is_file() and not (found.language_model / "tokenizer.json").is_file()
    if alone and model_file.read_bytes()[:1] != b"\n":  # how a SentencePiece file begins
        raise ValueError(f"{model_file} is no SentencePiece model (a pointer of Git LFS, perhaps): fetch it again")
    path = found.language_model / "tokenizer_config.json"
    named = read_json(path).get("tokenizer_class") if path.is_file() else None
    if named is None and alone and found.config.language_model in ("llama", "mistral"):
        named = "LlamaTokenizer"
    if named is not None and hasattr(transformers, named):
        # Where the file does not say `legacy`, the transformers of the official code takes it for true.
        legacy = (
            {"legacy": not path.is_file() or read_json(path).get("legacy") is not False}
            if named.startswith("Llama")
            else {}
        )
        return getattr(transformers, named).from_pretrained(found.language_model, **legacy)
    # The configuration is given so that the tokenizer does not look at the folder's own, which is the official one.
    return AutoTokenizer.from_pretrained(found.language_model, config=found.config.text_config)


def _processor(found: _Source, tower: Path, template: str | Path) -> AlignGPTProcessor:
    tokenizer = _tokenizer(found)
    if found.config.model_max_length:
        tokenizer.model_max_length = found.config.model_max_length
    image_processor = AutoImageProcessor.from_pretrained(tower, backend="pil")
    processor = AlignGPTProcessor(
        image_processor, tokenizer, load_template(template), image_aspect_ratio=found.config.image_aspect_ratio
    )
    turns = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "x"}]
    try:
        answered = processor.encode(processor.render(turns))
    except ValueError as error:
        raise ValueError(f"template {str(template)!r} cannot be used: {error}") from error
    if not any(answered.answer_mask):
        raise ValueError(f"template {str(template)!r} does not mark the answers: see docs/method.md for its variables")
    return processor


def _configuration(found: _Source, tower: Path, processor: AlignGPTProcessor) -> AlignGPTConfig:
    if _TABLE not in found.shapes:
        raise ValueError(
            f"{found.files[-1]} lacks {_TABLE}, the alignment embeddings: checkpoints that the official code saves in "
            f"the middle of stage 1 leave them out; give the {STAGE1_FILE} of its end"
        )
    for name in (_TABLE, _GATE_INPUT, "model.embed_tokens.weight"):
        if name in found.shapes and len(found.shapes[name]) != 2:
            raise ValueError(f"{found.path}: {name} has shape {tuple(found.shapes[name])}, but is a table of two sides")
    vision = read_vision_config(tower)
    layer = found.config.vision_feature_layer
    if not -vision.num_hidden_layers <= layer <= vision.num_hidden_layers:
        raise ValueError(
            f"{found.path}: mm_vision_select_layer is {layer}, but {tower} has {vision.num_hidden_layers} layers: give "
            "the tower that the model was trained with as --vision-tower"
        )
    text, dtype = found.config.text_config, _dtype(found)
    text.vocab_size = max(text.vocab_size, len(processor.tokenizer))
    text.dtype = dtype
    config = AlignGPTConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=processor.image_token_id,
        align_token_id=processor.align_token_id,
        num_alignment_levels=found.shapes[_TABLE][0],
        gate_hidden_size=found.shapes.get(_GATE_INPUT, (256,))[0],
        alignment="global" if found.base_llm is not None else "adaptive",
        gate_text="all",
        vision_feature_layer=found.config.vision_feature_layer,
        dtype=dtype,
    )
    config.architectures = [AlignGPTForConditionalGeneration.__name__]
    processor.image_seq_length = config.image_seq_length
    return config


def _dtype(found: _Source) -> torch.dtype:
    """That of the language model; the official code brings everything else to it as well."""
    for path in found.files:
        with open_weights(path) as tensors:
            if "model.embed_tokens.weight" in tensors:
                return tensors["model.embed_tokens.weight"].dtype
    raise ValueError(f"{found.path} lacks model.embed_tokens.weight: is the checkpoint complete?")


def _check_tensors(found: _Source, tower: Path, config: AlignGPTConfig) -> None:
    """Every tensor of the model is there, in its shape, and no other; and so is every tensor of the tower."""
    with torch.device("meta"):
        model = AlignGPTForConditionalGeneration(config)
    _check_tower(tower, {name: value.shape for name, value in model.vision_tower.state_dict().items()})
    wanted = {name: value.shape for name, value in model.state_dict().items() if not name.startswith("vision_tower.")}
    if config.tie_word_embeddings:
        wanted.pop(VOCABULARY[1], None)
    gated = config.image_seq_length
    if _GATE_INPUT in found.shapes and found.shapes[_GATE_INPUT][1] != gated:
        raise ValueError(
            f"the gate reads {found.shapes[_GATE_INPUT][1]} image tokens, but the vision tower gives {gated}: give the "
            "tower that the model was trained with as --vision-tower"
        )
    for official, shape in found.shapes.items():
        try:
            name = our_name(official)
        except KeyError:
            name = ""
        if name is None or (config.tie_word_embeddings and name == VOCABULARY[1]):
            continue
        if name not in wanted:
            raise ValueError(
                f"{found.path}: unknown tensor {official}: no official AlignGPT with a {found.config.language_model} "
                "language model has it; is it another model's checkpoint?"
            )
        _check_shape(found, official, shape, name, wanted.pop(name))
    if found.base_llm is not None:
        wanted = {name: shape for name, shape in wanted.items() if not name.startswith("alignment_gate.")}
    if wanted:
        first = official_name(next(iter(wanted)))
        raise ValueError(
            f"{found.path} lacks {first}{f' and {len(wanted) - 1} more tensors' if len(wanted) > 1 else ''}: is the "
            "checkpoint complete, and does its config.json belong to it?"
        )


def _check_tower(tower: Path, wanted: dict[str, torch.Size]) -> None:
    there = {name.removeprefix("vision_model."): shape for name, shape in read_shapes(list_weight_files(tower)).items()}
    for name, shape in wanted.items():
        name = name.removeprefix("vision_model.")
        if there.get(name) != shape:
            has = f"has {name} with shape {tuple(there[name])}, but wants" if name in there else f"lacks {name}, shape"
            raise ValueError(f"{tower} {has} {tuple(shape)}: fetch the vision tower again, whole, with its config.json")


def _check_shape(found: _Source, official: str, shape: torch.Size, name: str, wanted: torch.Size) -> None:
    if name in VOCABULARY and shape[:1] == (found.config.vocabulary,):
        shape = torch.Size((wanted[0], *shape[1:]))  # rows for the placeholders are added while writing
    if shape != wanted:
        raise ValueError(
            f"{found.path}: {official} has shape {tuple(found.shapes[official])}, but config.json and the vision tower "
            f"want {tuple(wanted)}: is it the config.json, or the tower, of another model?"
        )


# ------------------------------------------------------------------------------------------------------------ writing


def _write_weights(found: _Source, tower: Path, config: AlignGPTConfig, folder: Path) -> None:
    writer = WeightWriter(folder)
    for path in found.files:
        with open_weights(path) as tensors:
            for official in tensors:
                name = our_name(official)
                if name is None or (config.tie_word_embeddings and name == VOCABULARY[1]):
                    continue
                if name in VOCABULARY and found.shapes[official][0] < config.text_config.vocab_size:
                    writer.add(name, _with_rows(path, official, config.text_config.vocab_size).to(config.dtype))
                else:
                    writer.add(name, tensors[official].to(config.dtype))
            writer.release_mapped()
    for name, tensor in _tower_weights(tower, config):
        writer.add(name, tensor)
    if found.base_llm is not None:
        for name, tensor in _new_gate(config).state_dict().items():
            writer.add(f"alignment_gate.{name}", tensor.to(config.dtype))
    writer.close()


def _with_rows(path: Path, official: str, rows: int) -> Tensor:
    """A tensor with rows of zeros below, for the placeholders; these are never read nor chosen as answers.

    It is read in parts, and the file is mapped anew for each, so that the mapped table and its copy are never both
    whole in memory: with a large vocabulary these are the largest tensors of a model.
    """
    with open_weights(path) as tensors:
        table = tensors[official]
        known, grown = table.shape[0], table.new_zeros(rows, *table.shape[1:])
    part = known if not is_mapped(path) else max(1, known // 8)
    for start in range(0, known, part):
        with open_weights(path) as tensors:
            grown[start : min(start + part, known)] = tensors[official][start : start + part]
    return grown


def _tower_weights(tower: Path, config: AlignGPTConfig) -> Iterator[tuple[str, Tensor]]:
    loaded = AutoModel.from_pretrained(tower, config=config.vision_config, dtype=config.dtype)
    for name, tensor in loaded.state_dict().items():
        yield f"vision_tower.{name}", tensor


def _new_gate(config: AlignGPTConfig) -> AlignmentGate:
    """Stage 1 has no gate yet; the same one is drawn each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AlignmentGate(config.image_seq_length, config.num_alignment_levels, config.gate_hidden_size)


def _write_small_files(found: _Source, config: AlignGPTConfig, processor: AlignGPTProcessor, folder: Path) -> None:
    config.save_pretrained(folder)
    build_generation_config(config.text_config, processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / ORIGINALS).mkdir()
    here = found.path.parent if found.path.is_file() else found.path
    for name in (*SMALL_FILES, *TOKENIZER_FILES):
        for place in (here, found.language_model):
            if (place / name).is_file():
                shutil.copyfile(place / name, folder / ORIGINALS / name)
                break


def _write_stage1(
    found: _Source, tower: Path, config: AlignGPTConfig, processor: AlignGPTProcessor, template: Any, folder: Path
) -> None:
    state = {}
    with open_weights(found.files[-1]) as tensors:
        for official in tensors:
            name = our_name(official)
            if name is not None:
                state[name] = tensors[official].to(config.dtype).contiguous()
    settings = {
        "template": str(template),
        "num_alignment_levels": config.num_alignment_levels,
        "image_aspect_ratio": processor.image_aspect_ratio,
        "alignment": config.alignment,
    }
    assert found.base_llm is not None
    write_stage1(state, folder, describe_backbones(found.base_llm, tower), settings)


def _summary(found: _Source, config: AlignGPTConfig, template: str | Path) -> dict[str, Any]:
    return {
        "kind": "stage 1" if found.base_llm is not None else "complete",
        "language_model": found.config.language_model,
        "template": str(template),
        "num_alignment_levels": config.num_alignment_levels,
        "image_seq_length": config.image_seq_length,
        "dtype": str(config.dtype).removeprefix("torch."),
    }
