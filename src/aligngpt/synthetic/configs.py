"""How the drawn world's base models are made: the recipe alone, which imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class BackboneTrainingConfig:
    """Sizes, steps and seed of the small CLIP and the small language model; the defaults made what is shipped."""

    clip_steps: int = _field(1500, "Optimiser steps of the CLIP.")
    clip_batch: int = _field(256, "Pairs of one step of the CLIP.")
    clip_learning_rate: float = _field(1.5e-3, "Peak learning rate of the CLIP.")
    llm_steps: int = _field(4500, "Optimiser steps of the language model.")
    llm_batch: int = _field(64, "Documents of one step of the language model.")
    llm_learning_rate: float = _field(3e-3, "Peak learning rate of the language model.")
    image_size: int = _field(48, "Pixels a side that the vision tower sees.")
    patch_size: int = _field(8, "Pixels a side of one patch.")
    seed: int = _field(0, "Fixes weights, scenes and words.")
    threads: int = _field(1, "Processor threads; the two models are made side by side.")
