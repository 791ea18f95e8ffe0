"""Names of data types and the syntax of alignment settings, without importing torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, get_args

from aligngpt.utils.errors import ArgumentError

AlignmentName = Literal["adaptive", "global", "local", "average", "none"]
Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[str, ...] = get_args(Dtype)
ALIGNMENT_NAMES: tuple[str, ...] = get_args(AlignmentName)
MAX_WEIGHT = 100.0  # absolute value of an explicit weight; the paper's settings use 0 to 1

Setting = str | int | tuple[float, ...]


def parse_setting(value: Any, num_levels: int | None = None) -> Setting:
    """Return an alignment setting as a name, a level or a tuple of weights.

    Args:
        value: One of `ALIGNMENT_NAMES`; a level 1..N, as a number or in digits; or N weights from -100 to 100, as a
            sequence or separated by commas.
        num_levels: N; without it, levels and the number of weights are not checked against N.

    Raises:
        ArgumentError: It is none of these.
    """
    setting = _parse_text(value) if isinstance(value, str) else value
    if isinstance(setting, str) and setting in ALIGNMENT_NAMES:
        return setting
    if isinstance(setting, Integral) and setting is not True and 1 <= int(setting) <= (num_levels or math.inf):
        return int(setting)
    if isinstance(setting, Sequence) and not isinstance(setting, str) and len(setting) == (num_levels or len(setting)):
        weights = tuple(float(weight) for weight in setting)
        if all(abs(weight) <= MAX_WEIGHT for weight in weights):  # false for NaN
            return weights
    levels = "a level from 1" if num_levels is None else f"a level from 1 to {num_levels}"
    raise ArgumentError(
        f"alignment {value!r} is invalid; use one of {', '.join(ALIGNMENT_NAMES)}, {levels}, or "
        f"{num_levels or 'N'} weights from -{MAX_WEIGHT:.0f} to {MAX_WEIGHT:.0f} separated by commas"
    )


def _parse_text(text: str) -> Any:
    text = text.strip()
    try:
        return [float(part) for part in text.split(",")] if "," in text else int(text)
    except ValueError:
        return text


def needs_gate(alignment: Any) -> bool:
    """Whether a parsed setting reads the gate's weights."""
    return isinstance(alignment, str) and alignment in ("adaptive", "local")
