"""Format numbers, intervals and names for the reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aligngpt.utils.text import printable

STAGE_NAMES = {"pretrain": "Stage 1", "finetune": "Stage 2"}
NO_VALUE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


def format_decimal(value: float | None, digits: int = 2) -> str:
    """Return `0.84` with a typographic minus sign, or a dash for None and NaN."""
    return NO_VALUE if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", _MINUS)


def format_difference(value: float, digits: int = 1) -> str:
    """Return a difference with its sign: `+0.4`; `±0.0` if it rounds to zero."""
    formatted = format_decimal(abs(value), digits)
    sign = "\N{PLUS-MINUS SIGN}" if float(formatted) == 0 else "+" if value > 0 else _MINUS
    return f"{sign}{formatted}"


def format_interval(bounds: Sequence[float] | None, digits: int = 1) -> str:
    """Return `61.2 to 63.9`, or a dash if bounds are unknown or equal (too few samples for an interval)."""
    if not bounds or math.isnan(bounds[0]) or bounds[0] == bounds[1]:
        return NO_VALUE
    return f"{format_decimal(bounds[0], digits)} to {format_decimal(bounds[1], digits)}"


def format_percent(fraction: float, digits: int = 1) -> str:
    """Return `84.2%` for 0.842, or a dash for NaN."""
    return NO_VALUE if math.isnan(fraction) else f"{format_decimal(100 * fraction, digits)}%"


def format_percent_of(part: float, whole: float) -> str:
    """Return `84.2%`; `under 0.1%` for a positive part that would round to zero; a dash if the whole is 0."""
    fraction = part / whole if whole else math.nan
    return f"under {format_percent(0.001)}" if 0 < fraction < 0.0005 else format_percent(fraction)


def format_percent_range(bounds: Sequence[float]) -> str:
    """Return `82.9% to 85.5%`."""
    return f"{format_percent(bounds[0])} to {format_percent(bounds[1])}"


def format_integer(value: float | None) -> str:
    """Return `16,000`, or a dash for None and NaN."""
    return NO_VALUE if value is None or math.isnan(value) else f"{value:,.0f}"


def format_score_range(low: float | None, high: float | None) -> str:
    """Return the scores of a level, `0.201 to 0.232`; `None` is an open end, the lower bound is inclusive."""
    if low is None:
        return "all scores" if high is None else f"below {format_decimal(high, 3)}"
    return (
        f"{format_decimal(low, 3)} and above"
        if high is None
        else f"{format_decimal(low, 3)} to {format_decimal(high, 3)}"
    )


def format_duration(seconds: float) -> str:
    """Return `4.2 s`, `48 s`, `9 min 48 s` or `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_memory(megabytes: float) -> str:
    """Return `640 MB` or `2.1 GB`."""
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"


def format_count(number: int, noun: str) -> str:
    """Return `1 question` or `2 questions`."""
    return f"{format_integer(number)} {noun}{'' if number == 1 else 's'}"


def join_words(words: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def format_label(name: str) -> str:
    """Return an identifier as a label: `color_count` becomes `Color count`."""
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def shorten(text: str, length: int) -> str:
    """Return the text, cut to `length` characters and an ellipsis."""
    return text if len(text) <= length else f"{text[:length].rstrip()}…"


def abbreviate(name: str, length: int = 80) -> str:
    """Return a name with unprintable characters escaped, abbreviated in the middle if it is long."""
    name = printable(name)
    return name if len(name) <= length else f"{name[: length // 2]}…{name[-length // 2 :]}"
