"""How far scorers agree on the same pairs, by rank, because their scores have different scales."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from aligngpt.curation.artifacts import ScoreManifest, ScorerAgreement
from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.scoring.store import iter_part, part_path, score_columns
from aligngpt.curation.statistics import SmallestRows

NUM_LEVELS = 8  # equally full ones, in which scorers are compared
MAX_PAIRS = 1_000_000

_NUM_EXAMPLES = 5


@dataclass(frozen=True)
class AgreementDetails:
    """Two scorers over the pairs that both scored.

    Attributes:
        column: Column of the other scorer.
        pairs: Compared pairs, as in the manifest.
        every: One pair in `every` of the input was compared.
        spearman: Rank correlation, as in the manifest.
        equal_levels: Fraction of pairs with equal levels, as in the manifest.
        matrix: int64 (8, 8), pairs by level of the first scorer (row) and of the other (column), levels equally full.
        left_higher: Rows that the left scorer ranks highest above the right one, by difference of rank.
        right_higher: The reverse.
    """

    column: str
    pairs: int
    every: int
    spearman: float | None
    equal_levels: float
    matrix: np.ndarray
    left_higher: tuple[int, ...]
    right_higher: tuple[int, ...]

    @property
    def close(self) -> float:
        """Fraction of pairs whose levels differ by at most one."""
        levels = np.arange(NUM_LEVELS)
        return float(self.matrix[np.abs(levels[:, None] - levels) <= 1].sum()) / self.pairs


def compare_all(parts: Sequence[Path], columns: Sequence[str], names: Sequence[str]) -> list[ScorerAgreement]:
    """Compare every two scorers, on at most a million pairs at equal distances in the input.

    Args:
        parts: Parts of a folder of scores.
        columns: Columns of the scorers.
        names: Names of the scorers, in the same order.
    """
    if len(columns) < 2:
        return []
    scores, _ = sample_scores(parts, columns)
    return [
        compare(scores[:, left], scores[:, right], (names[left], names[right]))
        for left, right in combinations(range(len(columns)), 2)
    ]


def compare(left: np.ndarray, right: np.ndarray, names: tuple[str, str]) -> ScorerAgreement:
    """Compare the scores (n,) that two scorers give to the same pairs; pairs without both scores are ignored."""
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    both = np.isfinite(left) & np.isfinite(right)
    x, y = left[both].astype(np.float64), right[both].astype(np.float64)
    if not x.size:
        return ScorerAgreement(scorers=names, pairs=0, spearman=None, equal_levels=None)
    varied = np.ptp(x) > 0 and np.ptp(y) > 0
    return ScorerAgreement(
        scorers=names,
        pairs=x.size,
        spearman=round(float(spearmanr(x, y).statistic), 6) if varied else None,
        equal_levels=round(float((assign_equal_levels(x) == assign_equal_levels(y)).mean()), 6),
    )


def describe_agreements(
    folder: str | os.PathLike[str], manifest: ScoreManifest, column: str
) -> tuple[AgreementDetails, ...]:
    """Compare the scorer of a column with each of the others in detail.

    Args:
        folder: The scores.
        manifest: Their manifest.
        column: Column of the first scorer.
    """
    names = [scorer.name for scorer in manifest.scorers]
    columns = score_columns(names[1:])
    summaries = {frozenset(agreement.scorers): agreement for agreement in manifest.agreement if agreement.pairs}
    if not summaries:
        return ()
    scores, every = sample_scores([part_path(folder, number) for number in range(manifest.shards)], columns)
    first = columns.index(column)
    pairs = [frozenset((names[first], name)) for name in names]
    return tuple(
        _describe(columns[index], summaries[pair], scores[:, first], scores[:, index], every)
        for index, pair in enumerate(pairs)
        if pair in summaries
    )


def _describe(
    column: str, summary: ScorerAgreement, left: np.ndarray, right: np.ndarray, every: int
) -> AgreementDetails:
    from scipy.stats import rankdata

    both = np.isfinite(left) & np.isfinite(right)
    rows = every * np.flatnonzero(both)
    x, y = left[both].astype(np.float64), right[both].astype(np.float64)
    matrix = np.zeros((NUM_LEVELS, NUM_LEVELS), np.int64)
    np.add.at(matrix, (assign_equal_levels(x) - 1, assign_equal_levels(y) - 1), 1)
    higher = rankdata(x) - rankdata(y)
    examples = _largest(higher, rows), _largest(-higher, rows)
    return AgreementDetails(
        column, summary.pairs, every, summary.spearman, summary.equal_levels or 0.0, matrix, *examples
    )


def _largest(differences: np.ndarray, rows: np.ndarray) -> tuple[int, ...]:
    """Return the rows with the largest differences above 0."""
    largest = SmallestRows(_NUM_EXAMPLES)
    largest.add(-differences[differences > 0], rows[differences > 0])
    return largest.rows


def sample_scores(parts: Sequence[Path], columns: Sequence[str]) -> tuple[np.ndarray, int]:
    """Return every k-th row of scores, k the smallest power of 2 that leaves at most `MAX_PAIRS`.

    Returns:
        float32 (n, scorers), NaN for no score; and k: row i is row i * k of the input.
    """
    chunks: list[np.ndarray] = []
    step, row = 1, 0
    for batch in (batch for part in parts for batch in iter_part(part, columns)):
        rows = np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1)
        chunks.append(rows[-row % step :: step])
        row += len(rows)
        while sum(map(len, chunks)) > MAX_PAIRS:
            chunks, step = [np.concatenate(chunks)[::2]], 2 * step
    return np.concatenate(chunks) if chunks else np.zeros((0, len(columns)), np.float32), step


def assign_equal_levels(scores: np.ndarray) -> np.ndarray:
    """Return the level, 1 to `NUM_LEVELS`, of finite scores (n,) if levels are fitted to these scores; int64 (n,)."""
    return LevelBoundaries.fit(scores, NUM_LEVELS).apply(scores)
