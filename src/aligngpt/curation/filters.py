"""Rules by which scored pairs are kept or dropped, and the defects that they name.

    error                 the pair has no score
    truncated_caption     the caption was longer than the scorer's text limit
    duplicate_image       the same image, byte for byte, has a higher score elsewhere, or an equal one before
    duplicate_pair        the same image and the same caption are in an earlier record
    reused_caption[:N]    the caption is that of at least N different images, 2 unless given
    mismatch[:PERCENT]    the score is among the lowest, 1 percent unless given
    boundary[:DISTANCE]   the score is within 0.001 of a level's boundary, or the distance given

Comparisons are made over all records that were scored, whichever of them other rules drop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Default of the number that may follow the name, and the range it must lie in; `None` where there is none.
_VALUES: dict[str, tuple[float, float, float] | None] = {
    "error": None,
    "truncated_caption": None,
    "duplicate_image": None,
    "duplicate_pair": None,
    "reused_caption": (2, 2, 1e12),
    "mismatch": (1, 0, 100),
    "boundary": (0.001, 0, 2),
}
DEFECTS = tuple(_VALUES)


@dataclass(frozen=True)
class Defect:
    """A kind of defect and the number that goes with it, as listed at the top of this module."""

    name: str
    value: float | None = None

    def __post_init__(self) -> None:
        """Check the fields, and fill in the value where the kind has one.

        Raises:
            ValueError: If there is no such defect, or its value is out of range.
        """
        if self.name not in _VALUES:
            raise ValueError(f"no defect {self.name!r}: expected one of {', '.join(DEFECTS)}")
        values = _VALUES[self.name]
        if values is None:
            if self.value is not None:
                raise ValueError(f"{self.name} takes no number, got {self.value:g}")
            return
        default, lowest, highest = values
        if self.value is None:
            object.__setattr__(self, "value", default)
        elif not lowest <= self.value <= highest:
            raise ValueError(f"the number of {self.name} must be within {lowest:g} to {highest:g}, got {self.value:g}")

    @classmethod
    def parse(cls, text: str) -> Defect:
        """Read `NAME` or `NAME:NUMBER`.

        Raises:
            ValueError: If it is neither, or out of range.
        """
        name, colon, value = text.partition(":")
        try:
            return cls(name, float(value) if colon else None)
        except ValueError as error:
            if colon and str(error).startswith("could not convert"):
                raise ValueError(f"{text!r}: expected a number behind the colon") from None
            raise

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}:{self.value:g}"


@dataclass(frozen=True)
class SelectionRules:
    """What a record must be like to be kept; it has to pass every rule that is given.

    A record without a score passes no rule on scores, one without a level none on levels, weights among them.

    Attributes:
        min_level: Lowest level that is kept, counted from 1.
        max_level: Highest level that is kept.
        keep_levels: The levels that are kept; all if empty.
        min_score: Lowest score that is kept.
        max_score: Highest score that is kept.
        drop_defects: Records with any of these are dropped.
        only_defects: Records with none of these are dropped, if there are any.
        weights: How often a record of a level is written on average, 0 or more; once if its level is not named. A part
            of one is a probability, drawn from a hash of `seed` and the record's id: neither order nor shards matter,
            and whoever is kept at a weight is kept at a higher one.
        seed: Of the draw.
    """

    min_level: int | None = None
    max_level: int | None = None
    keep_levels: tuple[int, ...] = ()
    min_score: float | None = None
    max_score: float | None = None
    drop_defects: tuple[Defect, ...] = ()
    only_defects: tuple[Defect, ...] = ()
    weights: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If a number is out of range, or two of them leave nothing to keep.
        """
        for level in self.named_levels():
            if level < 1:
                raise ValueError(f"levels count from 1, got {level}")
        for level, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of level {level} must be a number from 0, got {weight}")
        for name, score in (("min_score", self.min_score), ("max_score", self.max_score)):
            if score is not None and math.isnan(score):
                raise ValueError(f"{name} must be a number, got nan")
        ends = (("level", self.min_level, self.max_level), ("score", self.min_score, self.max_score))
        for what, lowest, highest in ends:
            if lowest is not None and highest is not None and lowest > highest:
                raise ValueError(f"no {what} is at least {lowest:g} and at most {highest:g}")

    def named_levels(self) -> list[int]:
        """Every level a rule names."""
        ends = [level for level in (self.min_level, self.max_level) if level is not None]
        return [*ends, *self.keep_levels, *self.weights]

    @property
    def need_levels(self) -> bool:
        """Whether the rules can only be applied to pairs with levels."""
        defects = (*self.drop_defects, *self.only_defects)
        return bool(self.named_levels()) or any(defect.name == "boundary" for defect in defects)

    def as_dict(self) -> dict[str, Any]:
        """The rules as they stand in `selection.json`."""
        return asdict(self) | {
            "keep_levels": list(self.keep_levels),
            "drop_defects": [str(defect) for defect in self.drop_defects],
            "only_defects": [str(defect) for defect in self.only_defects],
            "weights": {str(level): weight for level, weight in self.weights.items()},
        }
