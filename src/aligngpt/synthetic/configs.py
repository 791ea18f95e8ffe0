"""Configuration of the training of the small backbones. Imports nothing heavy."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

from aligngpt.utils.config import STRICT


@dataclass(frozen=True, config=STRICT)
class BackboneTrainingConfig:
    """Sizes, steps and seed of the small CLIP and the small language model; the defaults made the bundled ones."""

    clip_steps: int = Field(default=1500, ge=1, description="Optimizer steps of the CLIP model.")
    clip_batch: int = Field(default=256, ge=1, description="Pairs per step of the CLIP model.")
    clip_learning_rate: float = Field(default=1.5e-3, gt=0, description="Peak learning rate of the CLIP model.")
    llm_steps: int = Field(default=4500, ge=1, description="Optimizer steps of the language model.")
    llm_batch: int = Field(default=64, ge=1, description="Documents per step of the language model.")
    llm_learning_rate: float = Field(default=3e-3, gt=0, description="Peak learning rate of the language model.")
    image_size: int = Field(default=48, ge=1, description="Width and height of an image in pixels.")
    patch_size: int = Field(default=8, ge=1, description="Width and height of a patch in pixels.")
    seed: int = Field(default=0, ge=0, description="Random seed of weights, scenes and texts.")
    threads: int = Field(default=1, ge=1, description="CPU threads; the two models are trained at the same time.")


BACKBONE_PRESETS = {"bundled": BackboneTrainingConfig}
