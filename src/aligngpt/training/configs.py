"""Recipes: every number of a run, as functions that return frozen dataclasses. Imports nothing heavy.

A recipe is changed with `dataclasses.replace`, on the command line, or by starting from the `recipe.json` of a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from aligngpt.utils.constants import MAX_LEVELS, MIN_LEVELS


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class StageConfig:
    """What both stages have in common. Defaults are the paper's, those of stage 1 where the stages differ."""

    learning_rate: float = _field(1e-3, "Peak learning rate.")
    batch_size: int = _field(256, "Samples of one optimizer step, over all devices.")
    device_batch_size: int = _field(32, "Samples that one device takes at a time; the rest is accumulated.")
    epochs: float = _field(1.0, "Passes over the data, unless max_steps is given.")
    max_steps: int | None = _field(None, "Optimiser steps instead of epochs.")
    warmup_ratio: float = _field(0.03, "Share of the steps in which the learning rate rises.")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = _field("cosine", "Shape of the learning rate.")
    weight_decay: float = _field(0.0, "AdamW's weight decay.")
    max_grad_norm: float = _field(1.0, "Gradients are cut to this norm.")
    max_length: int = _field(2048, "Longest sample in tokens, image tokens and <align> counted.")
    precision: Literal["bf16", "float32"] = _field("bf16", "bf16: mixed precision; float32: none.")
    gradient_checkpointing: bool = _field(True, "Compute activations again in the backward pass to save memory.")
    attention: str = _field("sdpa", "Attention implementation: sdpa, eager, flex_attention or flash_attention_2.")
    workers: int = _field(4, "Processes that read and prepare samples.")
    check_images: Literal["none", "header", "decode"] = _field("decode", "How far images are checked beforehand.")
    logging_steps: int = _field(10, "Steps between two entries of the loss curve.")
    save_steps: int = _field(500, "Steps between two checkpoints to resume from.")
    seed: int = _field(0, "Fixes new weights, the order of samples and dropout.")

    def __post_init__(self) -> None:
        _check_finite(self)
        above_zero = ("learning_rate", "batch_size", "device_batch_size", "epochs", "max_length", "max_grad_norm")
        _check_at_least(self, 0, "workers", "weight_decay")
        for name in (*above_zero, "logging_steps", "save_steps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above zero")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}; it must be at least 0 and below 1")
        if self.max_steps is not None and self.max_steps <= 0:
            raise ValueError(f"max_steps is {self.max_steps}; give a number above zero, or leave it out")


def _check_finite(recipe: Any) -> None:
    for name, value in vars(recipe).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}; it must be a finite number")


def _check_at_least(recipe: Any, least: int, *names: str) -> None:
    for name in names:
        if getattr(recipe, name) < least:
            raise ValueError(f"{name} is {getattr(recipe, name)}; it must be at least {least}")


def _check_levels(name: str, number: int) -> None:
    if not MIN_LEVELS <= number <= MAX_LEVELS:
        raise ValueError(f"{name} is {number}; it must be from {MIN_LEVELS} to {MAX_LEVELS}")


@dataclass(frozen=True)
class PretrainConfig(StageConfig):
    """Stage 1, alignment-level-aware pre-training: projector and alignment table learn, everything else is frozen."""

    alignment: Literal["levels", "none"] = _field("levels", "levels: each pair's own level; none: LLaVA's stage 1.")
    num_alignment_levels: int = _field(8, "N, the rows of the alignment table.")
    image_aspect_ratio: Literal["pad", "square"] = _field("square", "square: resize and crop; pad: to a square first.")
    template: str = _field("vicuna_v1", "Chat template of the model to come: a shipped name or a Jinja file.")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_levels("num_alignment_levels", self.num_alignment_levels)


@dataclass(frozen=True)
class FinetuneConfig(StageConfig):
    """Stage 2, adaptive alignment-based instruction tuning: language model, projector and gate learn."""

    learning_rate: float = _field(2e-5, "Peak learning rate.")
    batch_size: int = _field(128, "Samples of one optimizer step, over all devices.")
    device_batch_size: int = _field(16, "Samples that one device takes at a time; the rest is accumulated.")
    alignment: Literal["adaptive", "local", "global", "average", "none"] = _field(
        "adaptive", "How the alignment embedding is made (Table 4); none: LLaVA-1.5."
    )
    alignment_embeddings: Literal["stage1", "random"] = _field(
        "stage1", "random: forget what stage 1 learned, the control of Figure 5."
    )
    num_alignment_levels: int = _field(8, "N, used only where there is no stage 1 to say it.")
    gate_text: Literal["instruction", "all"] = _field("instruction", "What the gate reads; all is the official code's.")
    image_aspect_ratio: Literal["pad", "square"] = _field("pad", "pad: to a square first; square: resize and crop.")
    template: str | None = _field(None, "Chat template, a shipped name or a Jinja file; stage 1's unless given.")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_levels("num_alignment_levels", self.num_alignment_levels)


def paper_pretrain() -> PretrainConfig:
    """Stage 1 of the paper: 558K pairs, batch 256, learning rate 1e-3."""
    return PretrainConfig()


def paper_finetune() -> FinetuneConfig:
    """Stage 2 of the paper: 665K conversations, batch 128, learning rate 2e-5."""
    return FinetuneConfig()


_SCENES: dict[str, Any] = {  # both stages on the drawn world: small samples, no graphics card
    "batch_size": 64,
    "device_batch_size": 64,
    "max_length": 256,
    "precision": "float32",
    "gradient_checkpointing": False,
    "workers": 0,
    "save_steps": 200,
    "image_aspect_ratio": "square",
}


def synthetic_pretrain() -> PretrainConfig:
    """Stage 1 on the drawn world, minutes on two cores."""
    return PretrainConfig(**_SCENES, learning_rate=2e-3, max_steps=500, template="bare")


def synthetic_finetune() -> FinetuneConfig:
    """Stage 2 on the drawn world, minutes on two cores."""
    return FinetuneConfig(**_SCENES, learning_rate=1e-3, max_steps=400)


PRETRAIN_PRESETS = {"paper": paper_pretrain, "synthetic": synthetic_pretrain}
FINETUNE_PRESETS = {"paper": paper_finetune, "synthetic": synthetic_finetune}
