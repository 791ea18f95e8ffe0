"""Checkpoints on disk: models, and what stage 1 leaves: projector and table alone, with the base they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from aligngpt.modeling.backbones import require_checkpoint
from aligngpt.modeling.configuration import AlignGPTConfig
from aligngpt.modeling.conversion.weight_files import has_weights
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.processing import AlignGPTProcessor
from aligngpt.utils.io import atomic_path, hash_folder, read_json, write_json

WEIGHTS_FILE = "stage1.safetensors"
INFO_FILE = "stage1.json"
STAGE1_PARTS = ("multi_modal_projector", "alignment_embeddings")
_WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "config.json")


@dataclass(frozen=True)
class Base:
    """The two backbones that a stage-1 checkpoint was trained on.

    Attributes:
        language_model, vision_tower: Folders or hub names.
        language_model_hash, vision_tower_hash: Of weights and configuration; empty for a hub name.
    """

    language_model: str
    vision_tower: str
    language_model_hash: str
    vision_tower_hash: str

    @classmethod
    def of(cls, language_model: str | Path, vision_tower: str | Path) -> Base:
        """Read the hashes of two checkpoint folders."""
        return cls(_absolute(language_model), _absolute(vision_tower), _hash(language_model), _hash(vision_tower))

    @property
    def identity(self) -> dict[str, str]:
        """What tells two bases apart, wherever they lie: the hashes, or the names of hub models."""
        return {
            "language_model": self.language_model_hash or self.language_model,
            "vision_tower": self.vision_tower_hash or self.vision_tower,
        }


def _absolute(checkpoint: str | Path) -> str:
    return str(Path(checkpoint).resolve() if Path(checkpoint).is_dir() else checkpoint)


def _hash(checkpoint: str | Path) -> str:
    return hash_folder(Path(checkpoint), _WEIGHT_PATTERNS) if Path(checkpoint).is_dir() else ""


def save_stage1(model: AlignGPTForConditionalGeneration, output: Path, base: Base, settings: dict[str, Any]) -> None:
    """Write `stage1.safetensors` and `stage1.json`.

    Args:
        model: After stage 1.
        output: Folder.
        base: What the parameters belong to.
        settings: How to build the model around them again: arguments of `from_backbones`.
    """
    state = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part in STAGE1_PARTS
        for name, tensor in getattr(model, part).state_dict().items()
    }
    write_stage1(state, output, base, settings)


def write_stage1(state: dict[str, Tensor], output: Path, base: Base, settings: dict[str, Any]) -> None:
    """Write a stage-1 checkpoint of these tensors; see `save_stage1`."""
    with atomic_path(output / WEIGHTS_FILE) as path:
        save_file(state, path, metadata={"format": "pt"})
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    write_json(output / INFO_FILE, {"base": vars(base), "settings": settings, "tensors": shapes})


def read_base(checkpoint: str | Path) -> Base:
    """The base that a stage-1 checkpoint was trained on, as it says itself.

    Raises:
        FileNotFoundError: It is no stage-1 checkpoint.
    """
    folder = Path(checkpoint)
    if not (folder / INFO_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} is no finished stage-1 checkpoint ({INFO_FILE}, {WEIGHTS_FILE} missing): run aligngpt pretrain"
        )
    return Base(**read_json(folder / INFO_FILE)["base"])


def load_stage1(
    checkpoint: str | Path,
    *,
    language_model: str | Path | None = None,
    vision_tower: str | Path | None = None,
    random_embeddings: bool = False,
    attn_implementation: str | None = None,
    **overrides: Any,
) -> tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor, Base]:
    """Build the model of a stage-1 checkpoint: its backbones, with projector and table in place.

    Args:
        checkpoint: Folder that `save_stage1` wrote.
        language_model: Where the language model lies now, if it has moved.
        vision_tower: Where the vision tower lies now, if it has moved.
        random_embeddings: Draw the alignment table anew and keep the projector (the control of Figure 5).
        attn_implementation: Of the backbones.
        **overrides: Further arguments of `from_backbones`.

    Raises:
        FileNotFoundError: It is no stage-1 checkpoint, or a backbone is not where it was.
        ValueError: A backbone is not the one that stage 1 was trained on, the tensors do not fit it, or alignment is
            asked for and stage 1 was trained without.
    """
    folder = Path(checkpoint)
    trained_on, info = read_base(folder), read_json(folder / INFO_FILE)
    base = Base.of(language_model or trained_on.language_model, vision_tower or trained_on.vision_tower)
    _check_base(folder, trained_on, base)
    settings = {**info["settings"], **overrides}
    if info["settings"]["alignment"] == "none" != settings["alignment"] and not random_embeddings:
        raise ValueError(
            f"{folder} was trained without alignment, so its table is still random: use alignment 'none', a checkpoint "
            "that was trained with levels, or ask for random embeddings by name"
        )
    model, processor = AlignGPTForConditionalGeneration.from_backbones(
        base.language_model,
        base.vision_tower,
        attn_implementation=attn_implementation,
        **settings,
    )
    _load_weights(model, folder / WEIGHTS_FILE)
    if random_embeddings:
        model.alignment_embeddings.reset_parameters()
    return model, processor, base


def load_model(
    checkpoint: str | Path, *, device: str | torch.device | None = None, **options: Any
) -> tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor]:
    """Load a model for use, be it a complete folder or a stage-1 checkpoint on its base.

    Args:
        checkpoint: Model folder, stage-1 checkpoint or hub name.
        device: Where to put it; a GPU if there is one.
        **options: Of `from_pretrained`, such as `dtype`.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It holds another kind of model.
    """
    if (Path(checkpoint) / INFO_FILE).is_file() and not has_weights(Path(checkpoint)):
        model, processor, _ = load_stage1(checkpoint, **options)
    else:
        folder = require_checkpoint(checkpoint)
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind != AlignGPTConfig.model_type:
            raise ValueError(f"{checkpoint} is a {kind} model, not an AlignGPT: give a folder that finetune wrote")
        model = AlignGPTForConditionalGeneration.from_pretrained(folder, **options)
        processor = AlignGPTProcessor.from_pretrained(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device).eval(), processor


def _check_base(folder: Path, trained_on: Base, base: Base) -> None:
    for part in ("language_model", "vision_tower"):
        known, found = getattr(trained_on, f"{part}_hash"), getattr(base, f"{part}_hash")
        if known and found and known != found:
            raise ValueError(
                f"{folder} was trained on a {part} with hash {known[:12]}, but {getattr(base, part)} has {found[:12]}: "
                f"give the {part} that stage 1 used"
            )


def _load_weights(model: AlignGPTForConditionalGeneration, path: Path) -> None:
    parameters = dict(model.named_parameters())
    wanted = {name for name in parameters if name.split(".")[0] in STAGE1_PARTS}
    with safe_open(path, framework="pt") as tensors, torch.no_grad():
        names = set(tensors.keys())
        if names != wanted:
            raise ValueError(f"{path} does not fit the model: it differs in {', '.join(sorted(names ^ wanted))}")
        for name in names:
            tensor = tensors.get_tensor(name)
            if tensor.shape != parameters[name].shape:
                raise ValueError(
                    f"{path}: {name} has shape {tuple(tensor.shape)}, the model wants {tuple(parameters[name].shape)}"
                )
            parameters[name].copy_(tensor)
