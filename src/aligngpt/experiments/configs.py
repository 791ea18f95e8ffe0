"""Configuration of the end-to-end runs. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from aligngpt.curation.choices import FitStrategy
from aligngpt.training.configs import (
    FinetuneConfig,
    PretrainConfig,
    smoke_finetune,
    smoke_pretrain,
    synthetic_finetune,
    synthetic_pretrain,
)
from aligngpt.utils.config import STRICT
from aligngpt.utils.constants import DEFAULT_LEVELS, MAX_LEVELS, MIN_LEVELS


@dataclass(frozen=True, config=STRICT)
class DemoConfig:
    """The end-to-end run on the synthetic dataset: it trains one variant with alignment and one without."""

    pairs: int = Field(default=16_000, ge=1, description="Image-text pairs of stage 1.")
    conversations: int = Field(default=10_000, ge=1, description="Conversations of stage 2.")
    questions: int = Field(default=1_400, ge=1, description="Questions of the benchmark, over its seven kinds.")
    captioned: int = Field(default=200, ge=1, description="Test images that the stage-1 model captions at each level.")
    num_levels: int = Field(
        default=DEFAULT_LEVELS, ge=MIN_LEVELS, le=MAX_LEVELS, description="Number of alignment levels N."
    )
    strategy: FitStrategy = Field(default="quantile", description="How scores are binned (Eq. 1).")
    seed: int = Field(default=0, ge=0, description="Random seed of the data; see also pretrain.seed.")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of a step; none: half of the cores.")
    pretrain: PretrainConfig = Field(default_factory=synthetic_pretrain)
    finetune: FinetuneConfig = Field(default_factory=synthetic_finetune)

    def __post_init__(self) -> None:
        for stage, setting in (("pretrain", "levels"), ("finetune", "adaptive")):
            config: Any = getattr(self, stage)
            if config.alignment != setting:
                raise ValueError(
                    f"{stage}.alignment: the run trains {setting} and none; remove this field, got {config.alignment!r}"
                )
            if config.num_alignment_levels not in (None, DEFAULT_LEVELS, self.num_levels):
                raise ValueError(
                    f"{stage}.num_alignment_levels: the run has num_levels {self.num_levels}; remove this field, got "
                    f"{config.num_alignment_levels}"
                )
            object.__setattr__(self, stage, dataclasses.replace(config, num_alignment_levels=self.num_levels))


def synthetic() -> DemoConfig:
    """Return the run of `make demo`."""
    return DemoConfig()


def synthetic_smoke() -> DemoConfig:
    """Return the same steps with almost no training; the metrics mean nothing."""
    sizes: dict[str, Any] = {"pairs": 96, "conversations": 96, "questions": 28, "captioned": 8}
    return DemoConfig(**sizes, pretrain=smoke_pretrain(), finetune=smoke_finetune())


DEMO_PRESETS = {"synthetic": synthetic, "synthetic-smoke": synthetic_smoke}
