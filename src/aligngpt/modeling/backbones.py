"""The two backbones of a new model: whether they are there, and whether they are what they are taken for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING


def require_checkpoint(name: str | Path) -> str | Path:
    """Pass a folder or a hub name on; say so at once where a path does not exist, instead of asking the hub for it.

    Raises:
        FileNotFoundError: It looks like a path, and nothing is there.
    """
    path = Path(name).expanduser()
    looks_like_path = isinstance(name, Path) or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1
    if not path.is_dir() and (looks_like_path or path.parent.is_dir()):
        raise FileNotFoundError(f"no checkpoint folder at {name}: give a folder with config.json, or a hub name")
    return path if path.is_dir() else name


def vision_config_of(vision_tower: str | Path) -> Any:
    """The configuration of the vision part of a checkpoint, be it a whole CLIP or its tower alone.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The checkpoint holds no vision tower.
    """
    config = AutoConfig.from_pretrained(require_checkpoint(vision_tower))
    config = getattr(config, "vision_config", config)
    if not hasattr(config, "patch_size") or not hasattr(config, "image_size"):
        raise ValueError(f"{vision_tower} is a {config.model_type} model: a CLIP or SigLIP vision tower is needed")
    return config


def check_language_model(language_model: str | Path) -> str | Path:
    """Pass a causal language model on.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The checkpoint holds something else.
    """
    checkpoint = require_checkpoint(language_model)
    config = AutoConfig.from_pretrained(checkpoint)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{language_model} is a {config.model_type} model: a causal language model is needed")
    return checkpoint
