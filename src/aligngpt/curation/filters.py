"""Filters of scored pairs, and the quality issues that they name.

    error                 the pair has no score
    truncated_caption     the caption was longer than the scorer's context
    duplicate_image       the same image, byte for byte, occurs with a higher score, or with an equal one earlier
    duplicate_pair        the same image and caption occur earlier
    reused_caption[:N]    the caption occurs with at least N different images (default 2)
    mismatch[:PERCENT]    the score is among the lowest (default 1 percent)
    boundary[:DISTANCE]   the score is within this distance of a level boundary (default 0.001)

Comparisons include all scored records, also those that other filters skip.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa

from aligngpt.curation.choices import QUALITY_ISSUES
from aligngpt.curation.duplicates import mask_duplicate_images, mask_duplicate_pairs, mask_repeated_captions
from aligngpt.curation.levels import stream_scores
from aligngpt.curation.quantiles import ScoreRanking
from aligngpt.curation.scoring.store import is_valid
from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.text import suggest

# Returns which rows of a batch of scores have an issue, bool (n,), given the batch and the number of its first row.
IssueMask = Callable[[pa.RecordBatch, int], np.ndarray]


@dataclass(frozen=True)
class QualityIssue:
    """A quality issue and its number, as listed at the top of this module.

    Raises:
        ValueError: There is no such issue, or its number is out of range.
    """

    name: str
    value: float | None = None

    def __post_init__(self) -> None:
        if self.name not in QUALITY_ISSUES:
            hint = suggest(self.name, QUALITY_ISSUES) or f"; choose from {', '.join(QUALITY_ISSUES)}"
            raise ArgumentError(f"{self.name!r} is not a quality issue{hint}")
        values = QUALITY_ISSUES[self.name]
        if values is None:
            if self.value is not None:
                raise ArgumentError(f"{self.name} takes no number, got {self.value:g}")
            return
        _, default, lowest, highest = values
        if self.value is None:
            object.__setattr__(self, "value", default)
        elif not lowest <= self.value <= highest:
            raise ArgumentError(f"the number of {self.name} must be from {lowest:g} to {highest:g}, got {self.value:g}")

    @classmethod
    def parse(cls, text: str) -> QualityIssue:
        """Parse `NAME` or `NAME:NUMBER`.

        Raises:
            ValueError: It is neither, or out of range.
        """
        name, colon, value = text.partition(":")
        try:
            number = float(value) if colon else None
        except ValueError:
            raise ArgumentError(f"{text!r}: {value!r} after the colon is not a number") from None
        return cls(name, number)

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}:{self.value:g}"

    def prepare(self, folder: str | os.PathLike[str], column: str, boundaries: tuple[float, ...]) -> IssueMask:
        """Prepare to find the issue, which for some takes passes over the scores.

        Args:
            folder: A finished folder of scores.
            column: Its column of scores.
            boundaries: Level boundaries, for `boundary`.

        Returns:
            A function of a batch with the columns `text_truncated`, `error` and `column`.
        """
        value = self.value or 0
        if self.name == "truncated_caption":
            return lambda batch, start: batch["text_truncated"].to_numpy(zero_copy_only=False)
        if self.name == "error":
            return lambda batch, start: is_valid(batch["error"])
        if self.name == "mismatch":
            ranking = ScoreRanking(stream_scores(folder, column))
            rank = int(value * ranking.count / 100)  # scores equal to the next one are retained
            threshold = np.inf if rank >= ranking.count else float(ranking.at([rank])[0])
            return lambda batch, start: _scores(batch, column) < threshold
        if self.name == "boundary":
            near = np.asarray(boundaries)
            return lambda batch, start: (np.abs(_scores(batch, column)[:, None] - near) <= value).any(axis=1)
        if self.name == "duplicate_image":
            mask = mask_duplicate_images(folder, column)
        elif self.name == "duplicate_pair":
            mask = mask_duplicate_pairs(folder)
        else:
            mask = mask_repeated_captions(folder, value)
        return lambda batch, start: mask[start : start + batch.num_rows]


def _scores(batch: pa.RecordBatch, column: str) -> np.ndarray:
    return batch[column].to_numpy(zero_copy_only=False).astype(np.float64)


@dataclass(frozen=True)
class FilterConfig:
    """Filters; a record is retained if it passes all of them.

    A record without a score passes no filter on scores, one without a level no filter on levels, weights included.

    Attributes:
        min_level: Lowest level to retain, counted from 1.
        max_level: Highest level to retain.
        keep_levels: Levels to retain; empty for all.
        min_score: Lowest score to retain.
        max_score: Highest score to retain.
        exclude: Records with any of these quality issues are skipped; `NAME` or `NAME:NUMBER`.
        only: Records with none of these quality issues are skipped, if there are any.
        level_weights: How often a record of a level is written on average, 0 or more; default once. A fraction is a
            probability, sampled by a hash of `seed` and the id: neither order nor shards matter, and a record that is
            retained at a weight is retained at a higher one.
        seed: Seed of the sampling.

    Raises:
        ValueError: A number is out of range, or no record can pass.
    """

    min_level: int | None = None
    max_level: int | None = None
    keep_levels: tuple[int, ...] = ()
    min_score: float | None = None
    max_score: float | None = None
    exclude: tuple[QualityIssue, ...] = ()
    only: tuple[QualityIssue, ...] = ()
    level_weights: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("exclude", "only"):
            issues = [QualityIssue.parse(issue) if isinstance(issue, str) else issue for issue in getattr(self, name)]
            object.__setattr__(self, name, tuple(issues))
        object.__setattr__(self, "keep_levels", tuple(self.keep_levels))
        for level in self.named_levels:
            if level < 1:
                raise ArgumentError(f"levels count from 1, got {level}")
        for level, weight in self.level_weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ArgumentError(f"the weight of level {level} must be a number from 0, got {weight}")
        for name, score in (("min_score", self.min_score), ("max_score", self.max_score)):
            if score is not None and math.isnan(score):
                raise ArgumentError(f"{name} must be a number, got nan")
        ranges = (("level", self.min_level, self.max_level), ("score", self.min_score, self.max_score))
        for quantity, lowest, highest in ranges:
            if lowest is not None and highest is not None and lowest > highest:
                raise ArgumentError(f"no {quantity} is at least {lowest:g} and at most {highest:g}")

    @property
    def named_levels(self) -> list[int]:
        """Every level that a filter names."""
        limits = [level for level in (self.min_level, self.max_level) if level is not None]
        return [*limits, *self.keep_levels, *self.level_weights]

    @property
    def needs_levels(self) -> bool:
        """Whether the filters require pairs with levels."""
        return bool(self.named_levels) or any(issue.name == "boundary" for issue in (*self.exclude, *self.only))

    def to_dict(self) -> dict[str, Any]:
        """Return the filters as they are written to `filter.json`."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | {
            "keep_levels": list(self.keep_levels),
            "exclude": [str(issue) for issue in self.exclude],
            "only": [str(issue) for issue in self.only],
            "level_weights": {str(level): weight for level, weight in self.level_weights.items()},
        }
