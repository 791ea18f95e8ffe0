"""Checkpoints: complete models, and stage-1 checkpoints (projector and alignment table, with their backbones)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from aligngpt.modeling.artifacts import BackboneReference, Stage1Checkpoint, Stage1Settings
from aligngpt.modeling.configuration import AlignGPTConfig
from aligngpt.modeling.conversion.weight_files import list_weight_files
from aligngpt.modeling.hub import resolve_model
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.processing import AlignGPTProcessor
from aligngpt.utils.io import atomic_path, fingerprint_file
from aligngpt.utils.models import BUNDLED_MODELS, has_weights

STAGE1_MODULES = ("multi_modal_projector", "alignment_embeddings")


def fingerprint_checkpoint(folder: Path) -> dict[str, str]:
    """Return the fingerprint of each weight file and of `config.json`, without reading them completely.

    Raises:
        FileNotFoundError: The folder has no weights or no `config.json`.
    """
    files = [*list_weight_files(folder), folder / "config.json"]
    return {path.name: fingerprint_file(path) for path in files}


def describe_backbones(language_model: str | Path, vision_tower: str | Path) -> BackboneReference:
    """Return the reference to two backbones, with their fingerprints.

    Raises:
        FileNotFoundError: A checkpoint does not exist.
    """
    return BackboneReference(
        language_model=_portable_name(language_model),
        vision_tower=_portable_name(vision_tower),
        language_model_files=fingerprint_checkpoint(resolve_model(language_model)),
        vision_tower_files=fingerprint_checkpoint(resolve_model(vision_tower)),
    )


def _portable_name(name: str | Path) -> str:
    """Return a hub name unchanged, a bundled model by its name, and a folder as an absolute path."""
    path = Path(name).expanduser().resolve()
    bundled = {folder.resolve(): known for known, folder in BUNDLED_MODELS.items()}
    return bundled.get(path) or (str(path) if path.is_dir() else str(name))


def save_stage1(
    model: AlignGPTForConditionalGeneration, output: Path, backbones: BackboneReference, settings: dict[str, Any]
) -> None:
    """Write `stage1.safetensors` and `stage1.json` of a model after stage 1, with the fields of `Stage1Settings`."""
    state = {
        f"{module}.{name}": tensor.detach().cpu().contiguous()
        for module in STAGE1_MODULES
        for name, tensor in getattr(model, module).state_dict().items()
    }
    write_stage1(state, output, backbones, settings)


def write_stage1(
    state: dict[str, Tensor], output: Path, backbones: BackboneReference, settings: dict[str, Any]
) -> None:
    """Write a stage-1 checkpoint with these tensors; see `save_stage1`."""
    with atomic_path(output / Stage1Checkpoint.WEIGHTS) as path:
        save_file(state, path, metadata={"format": "pt"})
    Stage1Checkpoint(
        backbones=backbones,
        settings=Stage1Settings(**settings),
        tensors={name: list(tensor.shape) for name, tensor in state.items()},
    ).write(output)


def load_stage1(
    checkpoint: str | Path,
    *,
    language_model: str | Path | None = None,
    vision_tower: str | Path | None = None,
    random_embeddings: bool = False,
    attn_implementation: str | None = None,
    **overrides: Any,
) -> tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor, BackboneReference]:
    """Build the model of a stage-1 checkpoint: its backbones, with projector and alignment table loaded.

    Args:
        checkpoint: Folder that `save_stage1` wrote.
        language_model: The language model, if it has moved.
        vision_tower: The vision tower, if it has moved.
        random_embeddings: Load only the projector and initialize the alignment table (the control of Figure 5).
        attn_implementation: Of the backbones.
        **overrides: Further arguments of `from_backbones`.

    Raises:
        FileNotFoundError: It is not a stage-1 checkpoint, or a backbone does not exist.
        ValueError: A backbone differs from the one of stage 1, the tensors do not fit it, or alignment is requested
            and stage 1 was trained without.
    """
    folder = Path(checkpoint)
    stage1 = Stage1Checkpoint.read(folder)
    backbones = describe_backbones(
        language_model or stage1.backbones.language_model, vision_tower or stage1.backbones.vision_tower
    )
    _check_backbones(folder, stage1.backbones, backbones)
    settings = {**dict(stage1.settings), **overrides}
    if stage1.settings.alignment == "none" != settings["alignment"] and not random_embeddings:
        raise ValueError(
            f"{folder} was trained without alignment, so its alignment table is random; use alignment 'none', a "
            "checkpoint that was trained with levels, or random embeddings"
        )
    model, processor = AlignGPTForConditionalGeneration.from_backbones(
        backbones.language_model, backbones.vision_tower, attn_implementation=attn_implementation, **settings
    )
    _load_weights(model, folder / Stage1Checkpoint.WEIGHTS)
    if random_embeddings:
        model.alignment_embeddings.reset_parameters()
    return model, processor, backbones


def load_model(
    model: str | Path, *, device: str | torch.device | None = None, **options: Any
) -> tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor]:
    """Load a model and its processor for inference, from a complete model folder or a stage-1 checkpoint.

    Args:
        model: Model folder, stage-1 checkpoint or hub name.
        device: Device of the model; by default a GPU if there is one.
        **options: Arguments of `from_pretrained`, such as `dtype`.

    Raises:
        FileNotFoundError: The model does not exist.
        ValueError: It is a model of another kind.
    """
    folder = resolve_model(model)
    if (folder / Stage1Checkpoint.FILE).is_file() and not has_weights(folder):
        loaded, processor, _ = load_stage1(folder, **options)
    else:
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind != AlignGPTConfig.model_type:
            raise ValueError(f"{model} is a {kind} model, not AlignGPT; pass a folder that `aligngpt finetune` wrote")
        loaded = AlignGPTForConditionalGeneration.from_pretrained(folder, **options)
        processor = AlignGPTProcessor.from_pretrained(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return loaded.to(device).eval(), processor


def _check_backbones(folder: Path, expected: BackboneReference, actual: BackboneReference) -> None:
    for part, files in expected.identity.items():
        differing = sorted(name for name, value in files.items() if actual.identity[part].get(name) != value)
        if differing:
            raise ValueError(
                f"{folder} was trained on another {part}: {', '.join(differing)} of {getattr(actual, part)} differ "
                f"from {getattr(expected, part)}; pass the {part} of stage 1"
            )


def _load_weights(model: AlignGPTForConditionalGeneration, path: Path) -> None:
    parameters = dict(model.named_parameters())
    expected = {name for name in parameters if name.split(".")[0] in STAGE1_MODULES}
    with safe_open(path, framework="pt") as tensors, torch.no_grad():
        names = set(tensors.keys())
        if names != expected:
            raise ValueError(f"{path} does not fit the model; the tensors {', '.join(sorted(names ^ expected))} differ")
        for name in names:
            tensor = tensors.get_tensor(name)
            if tensor.shape != parameters[name].shape:
                raise ValueError(
                    f"{path}: {name} has shape {tuple(tensor.shape)}, but the model has {tuple(parameters[name].shape)}"
                )
            parameters[name].copy_(tensor)
