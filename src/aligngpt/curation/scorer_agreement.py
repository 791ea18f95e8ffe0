"""Where two scorers differ: what lies behind the agreement that the manifest tells, over the very same pairs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from aligngpt.curation.scorer_ranks import NUM_LEVELS, equally_full_levels, mean_ranks, sampled_scores
from aligngpt.curation.scoring.store import part_path, score_columns
from aligngpt.curation.statistics import Smallest

_SHOWN = 5


@dataclass(frozen=True)
class Agreement:
    """Two scorers over the pairs that both gave a score.

    Attributes:
        column: The column of the other scorer.
        pairs: How many pairs were compared.
        every: One pair of so many in the input was looked at.
        spearman: Rank correlation of the scores, -1 to 1; `None` if one of them gave the same score to all.
        equal_levels: Share of pairs with the same level.
        matrix: int64 (8, 8), pairs by level of the first scorer (row) and of the other (column), levels equally full.
        first_higher: Rows that the first scorer ranks highest above the other, by difference of rank.
        other_higher: The reverse.
    """

    column: str
    pairs: int
    every: int
    spearman: float | None
    equal_levels: float
    matrix: np.ndarray
    first_higher: tuple[int, ...]
    other_higher: tuple[int, ...]

    @property
    def close(self) -> float:
        """Share of pairs whose levels differ by one at most."""
        apart = np.abs(np.subtract.outer(np.arange(NUM_LEVELS), np.arange(NUM_LEVELS)))
        return float(self.matrix[apart <= 1].sum()) / self.pairs


def agreements(folder: str | os.PathLike[str], manifest: dict[str, Any], column: str) -> tuple[Agreement, ...]:
    """Compare the scorer of a column with each of the others.

    Args:
        folder: The scores.
        manifest: What it says of them.
        column: The first scorer's column.
    """
    names = [scorer["name"] for scorer in manifest["scorers"]]
    columns = score_columns(names[1:])
    told = {frozenset(one["scorers"]): one for one in manifest["agreement"]}
    if not any(one["pairs"] for one in told.values()):
        return ()
    scores, every = sampled_scores([part_path(folder, number) for number in range(manifest["shards"])], columns)
    first = columns.index(column)
    others = [(place, told[frozenset((names[first], names[place]))]) for place in range(len(names)) if place != first]
    return tuple(
        _agreement(columns[place], found, scores[:, first], scores[:, place], every)
        for place, found in others
        if found["pairs"]
    )


def _agreement(column: str, told: dict[str, Any], firsts: np.ndarray, others: np.ndarray, every: int) -> Agreement:
    both = np.isfinite(firsts) & np.isfinite(others)
    rows = every * np.flatnonzero(both)
    x, y = (scores[both].astype(np.float64) for scores in (firsts, others))
    matrix = np.zeros((NUM_LEVELS, NUM_LEVELS), np.int64)
    np.add.at(matrix, (equally_full_levels(x) - 1, equally_full_levels(y) - 1), 1)
    higher = mean_ranks(x) - mean_ranks(y)
    return Agreement(
        column=column,
        pairs=told["pairs"],
        every=every,
        spearman=told["spearman"],
        equal_levels=told["equal_levels"],
        matrix=matrix,
        first_higher=_largest(higher, rows),
        other_higher=_largest(-higher, rows),
    )


def _largest(differences: np.ndarray, rows: np.ndarray) -> tuple[int, ...]:
    """The rows with the largest differences above 0."""
    largest = Smallest(_SHOWN)
    largest.add(-differences[differences > 0], rows[differences > 0])
    return largest.rows
