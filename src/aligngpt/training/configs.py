"""Training configurations and their presets. Imports nothing heavy.

A field that exists in `transformers.TrainingArguments` or in TRL's configs has their name and meaning.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from aligngpt.modeling.settings import AlignmentName
from aligngpt.utils.config import STRICT
from aligngpt.utils.constants import MAX_LEVELS, MIN_LEVELS


@dataclass(frozen=True, config=STRICT)
class StageConfig:
    """Fields of both stages. The defaults are the paper's, those of stage 1 where the stages differ."""

    learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    per_device_train_batch_size: int = Field(default=32, ge=1, description="Samples per device and forward pass.")
    gradient_accumulation_steps: int = Field(
        default=8,
        ge=1,
        description="Forward passes per optimizer step; times the batch size per device this is the global batch size.",
    )
    num_train_epochs: float = Field(default=1.0, gt=0, description="Passes over the data; max_steps overrides it.")
    max_steps: int = Field(default=-1, ge=-1, description="Optimizer steps; -1 derives them from num_train_epochs.")
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="Fraction of the steps used for warmup.")
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        default="cosine", description="Learning-rate schedule."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradient clipping norm.")
    max_length: int = Field(default=2048, ge=1, description="Maximum tokens per sample, image tokens included.")
    bf16: bool = Field(default=True, description="Train in bfloat16 mixed precision instead of float32.")
    gradient_checkpointing: bool = Field(default=True, description="Recompute activations to save memory.")
    attn_implementation: str = Field(
        default="sdpa", description="Attention implementation: sdpa, eager, flex_attention or flash_attention_2."
    )
    dataloader_num_workers: int = Field(default=4, ge=0, description="Worker processes that prepare samples.")
    logging_steps: int = Field(default=10, ge=1, description="Steps between two entries of the loss history.")
    save_steps: int = Field(default=500, ge=1, description="Steps between two checkpoints to resume from.")
    seed: int = Field(default=0, ge=0, description="Random seed of new weights, sample order and dropout.")
    report_to: str = Field(default="none", description="Experiment tracker, such as tensorboard or wandb.")

    def __post_init__(self) -> None:
        if self.max_steps == 0:
            raise ValueError("max_steps: expected at least 1, or -1 to train for num_train_epochs, got 0")


@dataclass(frozen=True, config=STRICT)
class PretrainConfig(StageConfig):
    """Stage 1, alignment-level-aware pre-training: projector and alignment embeddings are trained."""

    alignment: Literal["levels", "none"] = Field(
        default="levels", description="levels: condition on the level of each pair; none: stage 1 of LLaVA-1.5."
    )
    num_alignment_levels: int | None = Field(
        default=None,
        ge=MIN_LEVELS,
        le=MAX_LEVELS,
        description="Number of levels N, set by `--num-levels` of aligngpt level; none: that of --levels, else 8.",
    )
    image_aspect_ratio: Literal["pad", "square"] = Field(
        default="square", description="square: resize and crop; pad: first pad to a square."
    )
    template: str = Field(
        default="vicuna_v1", description="Chat template of the final model: a bundled name or a Jinja file."
    )


@dataclass(frozen=True, config=STRICT)
class FinetuneConfig(StageConfig):
    """Stage 2, adaptive alignment-based instruction tuning: language model, projector and gate are trained."""

    learning_rate: float = Field(default=2e-5, gt=0, description="Peak learning rate.")
    per_device_train_batch_size: int = Field(default=16, ge=1, description="Samples per device and forward pass.")
    alignment: AlignmentName = Field(
        default="adaptive", description="Alignment setting (Table 4 of the paper); none: LLaVA-1.5."
    )
    alignment_embeddings: Literal["stage1", "random"] = Field(
        default="stage1", description="Initial alignment embeddings; random is the control of Figure 5 of the paper."
    )
    num_alignment_levels: int | None = Field(
        default=None, ge=MIN_LEVELS, le=MAX_LEVELS, description="Number of levels N; none: that of stage 1, else 8."
    )
    gate_text: Literal["instruction", "all"] = Field(
        default="instruction", description="Text that the gate reads; all is what the official code does."
    )
    image_aspect_ratio: Literal["pad", "square"] = Field(
        default="pad", description="pad: first pad to a square; square: resize and crop."
    )
    template: str | None = Field(
        default=None, description="Chat template: a bundled name or a Jinja file; none: as stage 1."
    )


_SYNTHETIC: dict[str, Any] = {  # small samples, no GPU
    "per_device_train_batch_size": 64,
    "gradient_accumulation_steps": 1,
    "max_length": 256,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_num_workers": 0,
    "save_steps": 200,
    "image_aspect_ratio": "square",
}
_SMOKE: dict[str, Any] = {**_SYNTHETIC, "per_device_train_batch_size": 16, "max_steps": 6, "logging_steps": 2}


def paper_pretrain() -> PretrainConfig:
    """Return the paper's stage 1, for 558K pairs."""
    return PretrainConfig()


def paper_finetune() -> FinetuneConfig:
    """Return the paper's stage 2, for 665K conversations."""
    return FinetuneConfig()


def synthetic_pretrain() -> PretrainConfig:
    """Return stage 1 on the synthetic dataset, minutes on two cores."""
    return PretrainConfig(**_SYNTHETIC, learning_rate=2e-3, max_steps=500, template="bare")


def synthetic_finetune() -> FinetuneConfig:
    """Return stage 2 on the synthetic dataset, minutes on two cores."""
    return FinetuneConfig(**_SYNTHETIC, learning_rate=1e-3, max_steps=400)


def smoke_pretrain() -> PretrainConfig:
    """Return a stage 1 of a few steps, which only tests that everything runs."""
    return PretrainConfig(**_SMOKE, learning_rate=2e-3, template="bare")


def smoke_finetune() -> FinetuneConfig:
    """Return a stage 2 of a few steps, which only tests that everything runs."""
    return FinetuneConfig(**_SMOKE, learning_rate=1e-3)


PRETRAIN_PRESETS = {"paper": paper_pretrain, "synthetic": synthetic_pretrain, "smoke": smoke_pretrain}
FINETUNE_PRESETS = {"paper": paper_finetune, "synthetic": synthetic_finetune, "smoke": smoke_finetune}
