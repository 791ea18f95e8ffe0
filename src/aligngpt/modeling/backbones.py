"""Checks of the two backbones of a new model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from aligngpt.modeling.hub import resolve_model


def read_vision_config(vision_tower: str | Path) -> Any:
    """Return the configuration of the vision part of a checkpoint, a complete CLIP or its tower alone.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        ValueError: The checkpoint has no vision tower.
    """
    config = AutoConfig.from_pretrained(resolve_model(vision_tower))
    config = getattr(config, "vision_config", config)
    if not hasattr(config, "patch_size") or not hasattr(config, "image_size"):
        raise ValueError(f"{vision_tower} is a {config.model_type} model; pass a CLIP or SigLIP vision tower")
    return config


def check_language_model(language_model: str | Path) -> None:
    """Check that a checkpoint is a causal language model.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        ValueError: The checkpoint is of another kind.
    """
    config = AutoConfig.from_pretrained(resolve_model(language_model))
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{language_model} is a {config.model_type} model; pass a causal language model")
