"""How numbers and names are written on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

KIND_NAMES = {
    "count": "How many in all",
    "color_count": "How many of a color",
    "existence": "Is there one",
    "color_at": "Color at a place",
    "shape_at": "Shape at a place",
    "place_of": "Place of a thing",
    "description": "Description",
}
ALIGNMENT_NAMES = {"adaptive": "Adaptive alignment", "none": "No alignment"}
STAGE_NAMES = {"pretrain": "Stage 1", "finetune": "Stage 2"}
NO_VALUE = "\N{EN DASH}"
NO_BREAK = "\N{NO-BREAK SPACE}"


def kind_name(kind: str) -> str:
    """A question kind in words."""
    return KIND_NAMES.get(kind, kind.replace("_", " ").capitalize())


def decimal(value: float, places: int = 2) -> str:
    """`0.84`, with a real minus sign; a dash for NaN."""
    return NO_VALUE if math.isnan(value) else f"{value:.{places}f}".replace("-", "\N{MINUS SIGN}")


def percent(share: float, places: int = 1) -> str:
    """`84.2 %` for 0.842; the two parts stay on one line."""
    return NO_VALUE if math.isnan(share) else f"{decimal(100 * share, places)}{NO_BREAK}%"


def percent_of(part: float, whole: float) -> str:
    """`84.2 %` of a whole, `under 0.1 %` where so little would be written as none, a dash where the whole is 0."""
    share = part / whole if whole else math.nan
    return f"under {percent(0.001)}" if 0 < share < 0.0005 else percent(share)


def percent_range(interval: Sequence[float]) -> str:
    """`82.9 to 85.5 %`."""
    return f"{decimal(100 * interval[0], 1)} to {percent(interval[1])}"


def points(share: float) -> str:
    """A difference of shares in signed percentage points: `+0.5`."""
    return f"{'+' if share >= 0 else ''}{decimal(100 * share, 1)}"


def integer(value: float) -> str:
    """`16,000`."""
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """`48 s`, `9 min 48 s` or `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def memory(megabytes: float) -> str:
    """`640 MB` or `2.1 GB`."""
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"


def count_of(number: int, noun: str) -> str:
    """`1 question`, `2 questions`."""
    return f"{integer(number)} {noun}{'' if number == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def shortened(words: str, length: int) -> str:
    """`words`, or so many characters of them and an ellipsis."""
    return words if len(words) <= length else f"{words[:length].rstrip()}…"
