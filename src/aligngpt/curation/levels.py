"""Alignment levels: scores binned into N levels, by boundaries fitted once that apply to new data too.

Levels count from 1, the lowest scores, to N. `levels.parquet` holds the level of each pair, `levels.json` the
boundaries and what they were fitted on, see `LevelsSummary`. Scores are read batch by batch, several times, and never
held in memory; boundaries are exact all the same, see `quantiles`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import to_jsonable_python

from aligngpt.curation.artifacts import LevelSettings, LevelsSummary, ScoreManifest, ScorerInfo
from aligngpt.curation.choices import FIT_STRATEGIES, STRATEGIES, FitStrategy, Strategy
from aligngpt.curation.drift import report_drift
from aligngpt.curation.quantiles import ScoreRanking, ScoreStream
from aligngpt.curation.scoring.store import PART_PATTERN, SCORE, iter_scores, read_manifest, score_columns
from aligngpt.utils.constants import MAX_LEVELS, MIN_LEVELS
from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.io import atomic_path, hash_file, hash_folder, hash_stats, versions
from aligngpt.utils.output_dir import OutputDir, log_complete
from aligngpt.utils.text import suggest

LEVELS_JSON = LevelsSummary.FILE
LEVELS_PARQUET = "levels.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("clip_score", pa.float32()),
        pa.field("alignment_level", pa.int8()),
    ]
)


@dataclass(frozen=True)
class LevelBoundaries:
    """The scores that separate N levels: the level of a score is 1 plus the number of boundaries it reaches.

    Equal scores therefore always have the same level, in any order of the pairs.

    Attributes:
        num_levels: N, 2 to 64.
        strategy: `"quantile"` (equally full levels), `"uniform"` (equally wide levels) or `"explicit"`.
        boundaries: N - 1 scores that never descend; two equal ones mean an empty level between them. Explicit ones
            ascend, and may lie beyond the scores.
        minimum: Lowest score they were fitted on.
        maximum: Highest score they were fitted on.

    Raises:
        ValueError: The fields contradict one another or their ranges.
    """

    num_levels: int
    strategy: Strategy
    boundaries: tuple[float, ...]
    minimum: float
    maximum: float

    def __post_init__(self) -> None:
        _check_choice(self.num_levels, self.strategy)
        if len(self.boundaries) != self.num_levels - 1:
            raise ValueError(
                f"{self.num_levels} levels have {self.num_levels - 1} boundaries, got {len(self.boundaries)}"
            )
        edges = (self.minimum, *self.boundaries, self.maximum)
        if not all(math.isfinite(edge) for edge in edges):
            raise ValueError(f"boundaries, minimum and maximum must be finite, got {edges}")
        if self.strategy == "explicit":
            if any(lower >= upper for lower, upper in pairwise(self.boundaries)):
                raise ValueError(f"explicit boundaries must ascend, got {', '.join(map(str, self.boundaries))}")
        elif any(lower > upper for lower, upper in pairwise(edges)):
            raise ValueError(f"minimum, boundaries and maximum must not descend, got {edges}")

    @classmethod
    def fit(
        cls,
        scores: Sequence[float] | np.ndarray | ScoreRanking,
        num_levels: int = 8,
        strategy: Strategy = "quantile",
    ) -> LevelBoundaries:
        """Fit boundaries to the finite ones of scores.

        `"quantile"` takes the scores at ranks ceil(k n / N) as boundaries: without ties the counts of the levels
        differ by at most one; ties, or fewer scores than levels, leave levels empty. `"uniform"` divides the range
        from the lowest to the highest score equally. If all scores are equal, they all have level N.

        Args:
            scores: (n,) CLIP scores, or the ranking of scores that need not fit into memory, with equal results.
            num_levels: N, 2 to 64.
            strategy: `"quantile"` or `"uniform"`.

        Raises:
            ValueError: No score is finite, or N or the strategy is none of the above.
        """
        _check_choice(num_levels, strategy)
        if strategy not in FIT_STRATEGIES:
            raise ValueError(f"the strategy of a fit must be {' or '.join(FIT_STRATEGIES)}, got {strategy}")
        at: Callable[[Sequence[int]], Any]
        if isinstance(scores, ScoreRanking):
            count, rows, at = scores.count, scores.rows, scores.at
        else:
            values = np.asarray(scores, dtype=np.float64)
            finite = np.sort(values[np.isfinite(values)]) + 0.0  # the sum turns -0 into 0
            count, rows, at = finite.size, values.size, finite.take
        _check_scored(count, rows)
        ranks = [min(-(-k * count // num_levels), count - 1) for k in range(1, num_levels)]
        lowest, *boundaries, highest = at([0, *(ranks if strategy == "quantile" else []), count - 1]).tolist()
        if strategy == "uniform":
            boundaries = [lowest + (highest - lowest) * k / num_levels for k in range(1, num_levels)]
        return cls(num_levels, strategy, tuple(boundaries), lowest, highest)

    @classmethod
    def of(cls, summary: LevelsSummary) -> LevelBoundaries:
        """Return the boundaries of a summary."""
        return cls(summary.num_levels, summary.strategy, summary.boundaries, summary.minimum, summary.maximum)

    def apply(self, scores: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the level of each score.

        Args:
            scores: (n,) CLIP scores. Below the fitted range they have level 1, above it level N.

        Returns:
            int64 (n,), 1 to N, and 0 where the score is NaN or infinite.
        """
        values = np.asarray(scores, dtype=np.float64)
        levels = 1 + np.searchsorted(np.asarray(self.boundaries), values, side="right")
        return np.where(np.isfinite(values), levels, 0)


def _check_choice(num_levels: int, strategy: str) -> None:
    if isinstance(num_levels, bool) or not isinstance(num_levels, int) or not MIN_LEVELS <= num_levels <= MAX_LEVELS:
        raise ValueError(f"num_levels must be an integer from {MIN_LEVELS} to {MAX_LEVELS}, got {num_levels!r}")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")


def _check_scored(count: int, rows: int) -> None:
    if count == 0:
        raise ValueError(f"none of the {rows} scores is finite; levels need at least one score")


# Writing and reading ------------------------------------------------------------------------------------------------


def assign_levels(
    scores: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    num_levels: int | None = None,
    strategy: FitStrategy | None = None,
    boundaries: Sequence[float] | None = None,
    boundaries_from: str | os.PathLike[str] | None = None,
    scorer: str | None = None,
) -> LevelsSummary:
    """Assign an alignment level to every scored pair, and write `levels.parquet` and `levels.json`.

    Memory is bounded for any number of pairs. The same call on the same scores is skipped.

    Args:
        scores: A finished folder of `aligngpt score`.
        output: Folder for the levels.
        num_levels: N, 2 to 64; default 8.
        strategy: `"quantile"` (equally full levels, the default) or `"uniform"` (equally wide levels).
        boundaries: N - 1 ascending scores, instead of fitting them.
        boundaries_from: Levels whose boundaries are used (a `levels.json` or its folder), or another folder of scores
            to fit the boundaries on; the summary then has a drift report.
        scorer: Name of the scorer whose scores are binned; default the first.

    Raises:
        FileNotFoundError: An input is missing.
        ValueError: No pair has a score, an argument is out of range or contradicts another, `boundaries_from` belongs
            to another scorer, or `output` holds other levels.
    """
    origin, output = None if boundaries_from is None else Path(boundaries_from), Path(output)
    check_level_arguments(num_levels, strategy, boundaries, origin)
    manifest = read_manifest(scores)
    column, scored_by = score_column(manifest, scorer)
    fits = boundaries is None and not _holds_levels(origin)
    settings = LevelSettings(
        num_levels=(num_levels or 8) if fits else None,
        strategy=(strategy or "quantile") if fits else None,
        boundaries=None if boundaries is None else tuple(boundaries),
        boundaries_from=None if origin is None else _hash_origin(origin),
    )
    snapshot = hash_stats(sorted(Path(scores).glob(PART_PATTERN)))
    if all((output / name).is_file() for name in (LEVELS_JSON, LEVELS_PARQUET)):
        existing = LevelsSummary.read(output)
        if (existing.snapshot, existing.settings, existing.scorer) == (snapshot, settings, scored_by):
            log_complete(output)
            return existing
    scores_hash = hash_folder(scores, (PART_PATTERN,))
    inputs: dict[str, Any] = {"scorer": scored_by, "scores_hash": scores_hash, "settings": settings}
    folder = OutputDir(output, to_jsonable_python(inputs), run_file=LEVELS_JSON, result_file=LEVELS_JSON)
    folder.check()
    ranking = ScoreRanking(stream_scores(scores, column))
    _check_scored(ranking.count, ranking.rows)
    fit = _find_boundaries(ranking, settings, origin, scored_by)
    with folder.lock():
        with atomic_path(output / LEVELS_PARQUET) as temporary:
            binned = _write_parquet(iter_scores(scores, ["id", column]), fit.boundaries, temporary)
        fields = _summarize(fit, binned, ranking.percentiles()) | inputs
        pairs_hash = manifest.inputs.pairs_hash
        summary = LevelsSummary(**fields, pairs_hash=pairs_hash, snapshot=snapshot, versions=versions())
        summary.write(output)
    return summary


def read_levels(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read the levels by pair id from a `levels.parquet`, or the folder that holds one; pairs without one are absent.

    Raises:
        FileNotFoundError: The file does not exist.
    """
    return {pair: level for ids, levels in iter_levels(path) for pair, level in zip(ids, levels.tolist(), strict=True)}


def iter_levels(path: str | os.PathLike[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Read ids and levels (n,) of the pairs with a level in batches; arguments and errors as `read_levels`."""
    path = levels_file(path, LEVELS_PARQUET)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `aligngpt level` writes it")
    for batch in pq.ParquetFile(path).iter_batches(columns=["id", "alignment_level"]):
        leveled = batch.filter(batch["alignment_level"].is_valid())
        yield leveled["id"].to_pylist(), leveled["alignment_level"].to_numpy()


def levels_file(path: str | os.PathLike[str], name: str) -> Path:
    """Return the file itself, or the file of that name in a folder."""
    return Path(path) / name if Path(path).is_dir() else Path(path)


def read_summary(levels: str | os.PathLike[str]) -> LevelsSummary:
    """Read `levels.json` of a folder of levels, or of the folder of a `levels.parquet`; errors as `Artifact.read`."""
    return LevelsSummary.read(levels_file(levels, LEVELS_PARQUET).with_name(LEVELS_JSON))


def score_column(manifest: ScoreManifest, scorer: str | None = None) -> tuple[str, ScorerInfo]:
    """Return the column of a scorer's scores, and the scorer.

    Args:
        manifest: Manifest of a folder of scores.
        scorer: Name of the scorer; default the first.

    Raises:
        ValueError: There is no scorer of that name.
    """
    names = [info.name for info in manifest.scorers]
    if scorer is not None and scorer not in names:
        hint = suggest(scorer, names) or f"; choose from {', '.join(names)}"
        raise ArgumentError(f"no scores of {scorer!r}{hint}")
    index = 0 if scorer is None else names.index(scorer)
    return score_columns(names[1:])[index], manifest.scorers[index]


def stream_scores(folder: str | os.PathLike[str], column: str = SCORE) -> ScoreStream:
    """Return one column of a folder of scores as a stream that can be read repeatedly; a missing score is NaN."""
    return lambda: (batch.column(0).to_numpy(zero_copy_only=False) for batch in iter_scores(folder, [column]))


# Origin of the boundaries -------------------------------------------------------------------------------------------


class _Fit(NamedTuple):
    """Boundaries, and counts and quantiles of the scores they were fitted on, unless these are the scores to bin."""

    boundaries: LevelBoundaries
    counts: tuple[int, ...] | None = None
    quantiles: dict[str, float] | None = None


def check_level_arguments(
    num_levels: int | None,
    strategy: str | None,
    boundaries: Sequence[float] | None,
    boundaries_from: str | os.PathLike[str] | None,
) -> None:
    """Check that arguments of `assign_levels` do not contradict one another.

    Raises:
        ValueError: They do.
    """
    named = num_levels is not None or strategy is not None
    if boundaries is not None and (named or boundaries_from is not None):
        raise ArgumentError("boundaries cannot be combined with num_levels, strategy or boundaries_from")
    if named and boundaries_from is not None and _holds_levels(Path(boundaries_from)):
        raise ArgumentError(f"num_levels and strategy are those of {boundaries_from}; omit them")


def _holds_levels(path: Path | None) -> bool:
    return path is not None and (path.is_file() or (path / LEVELS_JSON).is_file())


def _hash_origin(path: Path) -> str:
    if _holds_levels(path):
        return hash_file(levels_file(path, LEVELS_JSON))
    read_manifest(path)
    return hash_folder(path, (PART_PATTERN,))


def _find_boundaries(
    ranking: ScoreRanking, settings: LevelSettings, origin: Path | None, scored_by: ScorerInfo
) -> _Fit:
    if settings.boundaries is not None:
        lowest, highest = ranking.at([0, ranking.count - 1]).tolist()
        num_levels = len(settings.boundaries) + 1
        return _Fit(LevelBoundaries(num_levels, "explicit", settings.boundaries, lowest, highest))
    fitting: dict[str, Any] = {"num_levels": settings.num_levels, "strategy": settings.strategy}
    if origin is None:
        return _Fit(LevelBoundaries.fit(ranking, **fitting))
    if _holds_levels(origin):
        summary = LevelsSummary.read(origin)
        if summary.scorer.weights_hash != scored_by.weights_hash:
            raise ValueError(_describe_other_scorer(origin, summary.scorer, scored_by))
        try:
            boundaries = LevelBoundaries.of(summary)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from error
        if summary.drift is not None:  # its boundaries were fitted elsewhere themselves
            return _Fit(boundaries, summary.drift.fitted_counts, summary.drift.fitted_quantiles)
        return _Fit(boundaries, summary.counts, summary.score_quantiles)
    manifest = read_manifest(origin)
    same = [scorer.name for scorer in manifest.scorers if scorer.weights_hash == scored_by.weights_hash]
    if not same:
        raise ValueError(_describe_other_scorer(origin, manifest.scorers[0], scored_by))
    stream = stream_scores(origin, score_column(manifest, same[0])[0])
    ranking = ScoreRanking(stream)
    fitted = LevelBoundaries.fit(ranking, **fitting)
    counts = np.zeros(fitted.num_levels + 1, np.int64)
    for scores in stream():
        counts += np.bincount(fitted.apply(scores), minlength=counts.size)
    return _Fit(fitted, tuple(counts[1:].tolist()), ranking.percentiles())


def _describe_other_scorer(path: Path, existing: ScorerInfo, expected: ScorerInfo) -> str:
    return (
        f"{path} belongs to the scorer {existing.name} ({existing.weights_hash[:8]}), the scores to {expected.name} "
        f"({expected.weights_hash[:8]}); score with the same weights, or fit new boundaries"
    )


# Binning ------------------------------------------------------------------------------------------------------------


class _Binned(NamedTuple):
    """Counts and sums of scores by level, 0 for no level, and the number of scores below and above the fit."""

    counts: np.ndarray
    sums: np.ndarray
    below: int
    above: int


def _write_parquet(batches: Iterable[pa.RecordBatch], boundaries: LevelBoundaries, path: Path) -> _Binned:
    """Write `levels.parquet` batch by batch, from batches with the columns of id and score."""
    size = boundaries.num_levels + 1
    counts, sums, below, above = np.zeros(size, np.int64), np.zeros(size), 0, 0
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for batch in batches:
            scores = batch.column(1).to_numpy(zero_copy_only=False)
            levels = boundaries.apply(scores)
            leveled = levels > 0
            nullable = pa.array(levels, pa.int8(), mask=~leveled)
            writer.write_batch(pa.record_batch([*batch.columns, nullable], schema=_SCHEMA))
            counts += np.bincount(levels, minlength=size)
            sums += np.bincount(levels, weights=np.where(leveled, scores, 0), minlength=size)
            below += int((scores[leveled] < boundaries.minimum).sum())
            above += int((scores[leveled] > boundaries.maximum).sum())
    return _Binned(counts, sums, below, above)


def _summarize(fit: _Fit, binned: _Binned, quantiles: dict[str, float]) -> dict[str, Any]:
    """Return the fields of `LevelsSummary` that describe the levels."""
    unscored, *counts = binned.counts.tolist()
    means = [total / count if count else None for total, count in zip(binned.sums[1:].tolist(), counts, strict=True)]
    drift = None
    if fit.counts is not None:
        drift = report_drift(fit.counts, counts, fit.quantiles, quantiles, binned.below, binned.above)
    return asdict(fit.boundaries) | {
        "counts": tuple(counts),
        "mean_score_by_level": tuple(means),
        "score_quantiles": quantiles,
        "unscored": unscored,
        "drift": drift,
        "warnings": tuple(_warnings(fit.boundaries, counts, unscored, binned.below + binned.above)),
    }


def _warnings(boundaries: LevelBoundaries, counts: list[int], unscored: int, outside: int) -> Iterator[str]:
    scored = sum(counts)
    empty = [str(level) for level, count in enumerate(counts, start=1) if count == 0]
    if empty:
        few = f"there is only {scored} scored pair" if scored == 1 else f"there are only {scored} scored pairs"
        reason = few if scored < len(counts) else "no score is in its range"
        if scored >= len(counts) and any(lower == upper for lower, upper in pairwise(boundaries.boundaries)):
            reason = "many scores are equal"
        yield f"no pair has level {', '.join(empty)} of {len(counts)}: {reason}"
    if unscored:
        verb = "has" if unscored == 1 else "have"
        yield f"{unscored} of {scored + unscored} pairs {verb} no score and hence no level"
    if outside:
        verb = "is" if outside == 1 else "are"
        yield f"{outside} of {scored} scores {verb} outside the range that the boundaries were fitted on"
