"""How far several scorers agree on the same pairs, by rank: their scores lie on scales of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.scoring.store import iter_part

NUM_LEVELS = 8
MOST_PAIRS = 1_000_000


def agreements(parts: Sequence[Path], columns: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Compare every two scorers, over at most a million pairs that stand evenly spaced in the input.

    Args:
        parts: The parts of a folder of scores.
        columns: The scorers' columns.
        names: Their names, in the same order.

    Returns:
        For each two scorers `scorers` (their names), `pairs` (how many both scored), `spearman` (rank correlation,
        -1 to 1, tied scores sharing their mean rank; `None` where one gave all pairs the same score) and
        `equal_levels` (share of the pairs that both put into the same of 8 equally full levels, 0 to 1).
    """
    if len(columns) < 2:
        return []
    scores, _ = sampled_scores(parts, columns)
    return [
        {"scorers": [names[first], names[second]], **compare(scores[:, first], scores[:, second])}
        for first, second in combinations(range(len(columns)), 2)
    ]


def compare(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Compare two scorers' scores of the same pairs, (n,) both; see `agreements`. Pairs without both are left out."""
    known = np.isfinite(first) & np.isfinite(second)
    pair = (first[known].astype(np.float64), second[known].astype(np.float64))
    if not known.any():
        return {"pairs": 0, "spearman": None, "equal_levels": None}
    ranks = [mean_ranks(scores) for scores in pair]
    varied = all(np.ptp(rank) > 0 for rank in ranks)
    levels = [equally_full_levels(scores) for scores in pair]
    return {
        "pairs": int(known.sum()),
        "spearman": round(float(np.corrcoef(np.stack(ranks))[0, 1]), 6) if varied else None,
        "equal_levels": round(float((levels[0] == levels[1]).mean()), 6),
    }


def sampled_scores(parts: Sequence[Path], columns: Sequence[str]) -> tuple[np.ndarray, int]:
    """The scores that are compared: of the input's rows every k-th, k the least power of 2 that leaves few enough.

    Returns:
        float32 (n, scorers), NaN for no score, n at most `MOST_PAIRS`; and k: row i of them is row i * k of the input.
    """
    kept: list[np.ndarray] = []
    step, row = 1, 0
    for batch in (batch for part in parts for batch in iter_part(part, columns)):
        rows = np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1)
        kept.append(rows[-row % step :: step])
        row += len(rows)
        while sum(map(len, kept)) > MOST_PAIRS:
            kept, step = [np.concatenate(kept)[::2]], 2 * step
    return np.concatenate(kept) if kept else np.zeros((0, len(columns)), np.float32), step


def mean_ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from 1 of finite scores (n,), float64 (n,); equal scores share their mean rank."""
    low, high = (pc.rank(pa.array(scores), tiebreaker=way).to_numpy() for way in ("min", "max"))
    ranks: np.ndarray = (low + high) / 2
    return ranks


def equally_full_levels(scores: np.ndarray) -> np.ndarray:
    """The level, 1 to `NUM_LEVELS`, of finite scores (n,) if these alone were levelled; int64 (n,)."""
    return LevelBoundaries.fit(scores, NUM_LEVELS).apply(scores)
