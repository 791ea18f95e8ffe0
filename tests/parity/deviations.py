"""Measures the deviation from a recording and keeps it for the report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.parity.tolerances import TOLERANCES

Cases = dict[str, Any]  # name of a case -> an array, a number, a text or a list
Pairs = dict[str, tuple[Cases, Cases]]  # quantity -> ours and the recorded

MEASURED: dict[tuple[str, str], float] = {}


def deviation(ours: Any, recorded: Any, relative: bool = False) -> float:
    """Largest absolute difference, or the L2 norm of the difference over that of what was recorded.

    Infinite where a number is none, and where shapes, lengths or texts differ.
    """
    one, other = np.asarray(ours), np.asarray(recorded)
    if one.dtype.kind in "UO" or other.dtype.kind in "UO":
        return 0.0 if one.tolist() == other.tolist() else math.inf
    if one.shape != other.shape:
        return math.inf
    if one.size == 0:
        return 0.0
    difference = one.astype(np.float64) - other.astype(np.float64)
    if not np.isfinite(difference).all():
        return math.inf
    if relative:
        return float(np.linalg.norm(difference) / np.linalg.norm(other.astype(np.float64)))
    return float(np.abs(difference).max())


def check(recording: str, quantity: str, ours: Cases, recorded: Cases) -> None:
    """Hold all cases of one quantity to its tolerance and remember the worst."""
    tolerance = TOLERANCES[recording, quantity]
    assert ours.keys() == recorded.keys() and ours
    found = {name: deviation(ours[name], recorded[name], tolerance.relative) for name in ours}
    worst = max(found, key=lambda name: found[name])
    MEASURED[recording, quantity] = found[worst]
    assert found[worst] <= tolerance.bound, (
        f"{recording}, {quantity}, {worst}: deviates by {found[worst]:.2e}, allowed: {tolerance}"
    )
