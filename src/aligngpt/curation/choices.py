"""Choices of curation, and the quality issues of filters, without importing a library."""

from __future__ import annotations

from typing import Literal, get_args

FitStrategy = Literal["quantile", "uniform"]
Strategy = FitStrategy | Literal["explicit"]
LongCaptions = Literal["truncate", "chunk-mean"]
Backend = Literal["local", "ray"]
DriftStatus = Literal["stable", "shifted", "refit"]

FIT_STRATEGIES: tuple[str, ...] = get_args(FitStrategy)
STRATEGIES: tuple[str, ...] = (*FIT_STRATEGIES, "explicit")
LONG_CAPTIONS: tuple[str, ...] = get_args(LongCaptions)
BACKENDS: tuple[str, ...] = get_args(Backend)

# Name of the number that an issue takes, its default and its range; `None` for no number.
QUALITY_ISSUES: dict[str, tuple[str, float, float, float] | None] = {
    "error": None,
    "truncated_caption": None,
    "duplicate_image": None,
    "duplicate_pair": None,
    "reused_caption": ("IMAGES", 2, 2, 1e12),
    "mismatch": ("PERCENT", 1, 0, 100),
    "boundary": ("DISTANCE", 0.001, 0, 2),
}
