"""Configuration of the end-to-end runs. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from aligngpt.training.configs import (
    FinetuneConfig,
    PretrainConfig,
    _check_at_least,
    _check_levels,
    _field,
    synthetic_finetune,
    synthetic_pretrain,
)


@dataclass(frozen=True)
class DemoConfig:
    """The main job on the drawn world.

    It trains with alignment and without, so each arm sets `alignment` itself, and `num_levels` is that of both stages.
    """

    pairs: int = _field(16_000, "Image-text pairs of stage 1.")
    conversations: int = _field(10_000, "Conversations of stage 2.")
    questions: int = _field(1_400, "Questions of the benchmark, evenly over its seven kinds.")
    captioned: int = _field(200, "Test scenes that the stage-1 model captions at each level.")
    num_levels: int = _field(8, "N, the alignment levels.")
    strategy: Literal["quantile", "uniform"] = _field("quantile", "How scores are divided into levels (Eq. 1).")
    seed: int = _field(0, "Fixes the world; training has pretrain.seed and finetune.seed.")
    threads: int | None = _field(None, "Processor threads of each of the two arms; half of the cores unless given.")
    pretrain: PretrainConfig = field(default_factory=lambda: synthetic_pretrain())
    finetune: FinetuneConfig = field(default_factory=lambda: synthetic_finetune())

    def __post_init__(self) -> None:
        _check_at_least(self, 1, "pairs", "conversations", "questions", "captioned")
        _check_levels("num_levels", self.num_levels)
        if self.threads is not None:
            _check_at_least(self, 1, "threads")
        for stage, setting in (("pretrain", "levels"), ("finetune", "adaptive")):
            recipe = getattr(self, stage)
            if recipe.alignment != setting:
                raise ValueError(
                    f"{stage}.alignment is {recipe.alignment}, but the job trains with {setting} and with none: "
                    "leave it out"
                )
            object.__setattr__(self, stage, replace(recipe, num_alignment_levels=self.num_levels))


def synthetic() -> DemoConfig:
    """The end-to-end run on the synthetic dataset, as `make demo` runs it."""
    return DemoConfig()


def synthetic_smoke() -> DemoConfig:
    """The same steps with almost no training, about a minute; its metrics mean nothing."""
    return DemoConfig(
        pairs=96,
        conversations=96,
        questions=28,
        captioned=8,
        pretrain=replace(synthetic_pretrain(), max_steps=6, batch_size=16, device_batch_size=16, logging_steps=2),
        finetune=replace(synthetic_finetune(), max_steps=6, batch_size=16, device_batch_size=16, logging_steps=2),
    )


DEMO_PRESETS = {"synthetic": synthetic, "synthetic-smoke": synthetic_smoke}
DEMO_FIXED = (
    ("pretrain", "alignment"),
    ("pretrain", "num_alignment_levels"),
    ("finetune", "alignment"),
    ("finetune", "num_alignment_levels"),
)
"""Fields of a `DemoConfig` that the run sets itself."""
