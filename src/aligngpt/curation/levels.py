"""Alignment levels: scores cut into N bins, fitted once and applicable to new data.

Levels count from 1, the worst fitting text, to N. `levels.parquet` holds the level of each pair, `levels.json` where
the boundaries lie and what they were fitted on. Scores are read batch by batch, several times over, and never kept;
boundaries are exact all the same, see `quantiles`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.curation.drift import DriftReport, drift_report
from aligngpt.curation.quantiles import ScoreRanking, ScoreStream
from aligngpt.curation.scoring.store import SCORE, iter_scores, read_manifest, score_columns
from aligngpt.data.sources import open_source
from aligngpt.data.writers import check_output, open_writer
from aligngpt.utils.constants import MAX_LEVELS
from aligngpt.utils.io import atomic_path, hash_file, hash_folder, read_json, versions, write_json

Strategy = Literal["quantile", "uniform", "given"]

LEVELS_JSON = "levels.json"
LEVELS_PARQUET = "levels.parquet"
SCORE_FILES = "part-*.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("clip_score", pa.float32()),
        pa.field("alignment_level", pa.int8()),
    ]
)


@dataclass(frozen=True)
class LevelBoundaries:
    """Where N levels part: the level of a score is 1 plus the number of boundaries it reaches.

    Equal scores therefore always share a level, in whatever order the pairs come.

    Attributes:
        num_levels: N, 2 to 64.
        strategy: `"quantile"` (as many pairs in each level), `"uniform"` (levels of the same width) or `"given"`.
        boundaries: N - 1 scores that never fall; two equal ones mean an empty level between them. Given ones rise,
            and may lie beyond the scores.
        minimum: Lowest score they were fitted on.
        maximum: Highest score they were fitted on.
    """

    num_levels: int
    strategy: Strategy
    boundaries: tuple[float, ...]
    minimum: float
    maximum: float

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If they contradict one another or their ranges.
        """
        _check_choice(self.num_levels, self.strategy)
        if len(self.boundaries) != self.num_levels - 1:
            raise ValueError(
                f"{self.num_levels} levels have {self.num_levels - 1} boundaries, got {len(self.boundaries)}"
            )
        edges = (self.minimum, *self.boundaries, self.maximum)
        if not all(math.isfinite(edge) for edge in edges):
            raise ValueError(f"boundaries, minimum and maximum must be finite, got {edges}")
        if self.strategy == "given":
            if any(lower >= upper for lower, upper in pairwise(self.boundaries)):
                raise ValueError(f"given boundaries must rise, got {', '.join(map(str, self.boundaries))}")
        elif any(lower > upper for lower, upper in pairwise(edges)):
            raise ValueError(f"minimum, boundaries and maximum must not fall, got {edges}")

    @classmethod
    def fit(
        cls, scores: Sequence[float] | np.ndarray, num_levels: int = 8, strategy: Strategy = "quantile"
    ) -> LevelBoundaries:
        """Fit boundaries to scores; those that are NaN or infinite are left out.

        `"quantile"` puts the k-th boundary at the sorted scores' place ceil(k n / N): without ties the levels' counts
        differ by at most one; ties, or fewer scores than levels, leave levels empty. `"uniform"` parts the range from
        the lowest to the highest score equally. If all scores are the same, they are all of level N.

        Args:
            scores: (n,) CLIP scores.
            num_levels: N, 2 to 64.
            strategy: `"quantile"` or `"uniform"`.

        Raises:
            ValueError: If no score is finite, or N or the strategy is none of the above.
        """
        given = np.asarray(scores, dtype=np.float64)
        known = np.sort(given[np.isfinite(given)]) + 0.0  # the sum turns -0 into 0
        return cls._fit(known.size, given.size, lambda places: known[places], num_levels, strategy)

    @classmethod
    def fit_ranking(
        cls, ranking: ScoreRanking, num_levels: int = 8, strategy: Strategy = "quantile"
    ) -> LevelBoundaries:
        """Fit boundaries as `fit` does, to scores that need not fit into memory; the result is the same to the bit."""
        return cls._fit(ranking.count, ranking.rows, ranking.at, num_levels, strategy)

    @classmethod
    def _fit(
        cls, count: int, rows: int, at: Callable[[list[int]], np.ndarray], num_levels: int, strategy: Strategy
    ) -> LevelBoundaries:
        """Fit to `count` finite scores, of which `at` gives those at places of their sorted order."""
        _check_choice(num_levels, strategy)
        if strategy == "given":
            raise ValueError("boundaries that are given are not fitted: the strategy must be 'quantile' or 'uniform'")
        _check_any(count, rows)
        # With fewer scores than levels the last places lie beyond the end: then the highest score is the boundary.
        places = [min(-(-k * count // num_levels), count - 1) for k in range(1, num_levels)]
        lowest, *boundaries, highest = at([0, *(places if strategy == "quantile" else []), count - 1]).tolist()
        if strategy == "uniform":
            boundaries = [lowest + (highest - lowest) * k / num_levels for k in range(1, num_levels)]
        return cls(num_levels, strategy, tuple(boundaries), lowest, highest)

    @classmethod
    def given(cls, boundaries: Sequence[float], ranking: ScoreRanking) -> LevelBoundaries:
        """Take boundaries as they are; `minimum` and `maximum` are those of the scores.

        Args:
            boundaries: N - 1 rising scores.
            ranking: The scores that are to be cut.

        Raises:
            ValueError: If no score is finite, or the boundaries do not rise or are fewer than 1 or more than 63.
        """
        _check_any(ranking.count, ranking.rows)
        lowest, highest = ranking.at([0, ranking.count - 1]).tolist()
        return cls(len(boundaries) + 1, "given", tuple(float(boundary) for boundary in boundaries), lowest, highest)

    def apply(self, scores: Sequence[float] | np.ndarray) -> np.ndarray:
        """Levels of scores, new or those of the fit.

        Args:
            scores: (n,) CLIP scores. Below the fitted range they are of level 1, above it of level N.

        Returns:
            int64 (n,), 1 to N, and 0 where the score is NaN or infinite.
        """
        given = np.asarray(scores, dtype=np.float64)
        levels = 1 + np.searchsorted(np.asarray(self.boundaries), given, side="right")
        return np.where(np.isfinite(given), levels, 0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the boundaries as JSON, atomically."""
        write_json(path, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The fields as they stand in `levels.json`."""
        return {
            "num_levels": self.num_levels,
            "strategy": self.strategy,
            "boundaries": list(self.boundaries),
            "minimum": self.minimum,
            "maximum": self.maximum,
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LevelBoundaries:
        """Read boundaries from a file of `save`, a `levels.json`, or the folder that holds one.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file holds no boundaries, or impossible ones.
        """
        path = levels_file(path, LEVELS_JSON)
        content = read_json(path)
        try:
            return cls(
                content["num_levels"],
                content["strategy"],
                tuple(float(boundary) for boundary in content["boundaries"]),
                float(content["minimum"]),
                float(content["maximum"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: expected the boundaries that `aligngpt level` writes ({error!r})") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True)
class LevelSummary:
    """What the levels look like.

    Attributes:
        boundaries: Where the levels part.
        counts: Pairs of level 1, 2, ... N.
        mean_score_by_level: Mean CLIP score of each level, `None` for an empty one.
        score_quantiles: Scores by percentile, `p1` to `p99`.
        unscored: Pairs without a score, which have no level.
        drift: How these scores differ from those of the fit; `None` if they are the same.
        warnings: What the user should know, one line each.
    """

    boundaries: LevelBoundaries
    counts: tuple[int, ...]
    mean_score_by_level: tuple[float | None, ...]
    score_quantiles: dict[str, float]
    unscored: int
    drift: DriftReport | None = None
    warnings: tuple[str, ...] = ()


def write_levels(
    scores_folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    num_levels: int = 8,
    strategy: Strategy = "quantile",
    boundaries: Sequence[float] | None = None,
    fit_scores: str | os.PathLike[str] | None = None,
    fitted: str | os.PathLike[str] | None = None,
    scorer: str | None = None,
    write_pairs: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
) -> LevelSummary:
    """Give every scored pair its alignment level and write `levels.parquet` and `levels.json`.

    Memory is bounded whatever the number of pairs, but for `write_pairs`.

    Args:
        scores_folder: A finished folder of `aligngpt score`.
        output: The folder to write to; other files in it stay.
        num_levels: N, 2 to 64.
        strategy: `"quantile"` or `"uniform"`.
        boundaries: N - 1 rising scores to be used instead of fitting any.
        fit_scores: Another folder of scores to fit the boundaries on; the summary then has a drift report.
        fitted: A `levels.json` (or its folder) whose boundaries are applied instead of fitting new ones; `num_levels`
            and `strategy` are then those of that file, and the summary has a drift report.
        scorer: Whose scores are cut, by its name in the manifest, where there are several; else the first.
        write_pairs: (pairs file, file to write): the pairs again, with `alignment_level`; those without are left out.

    Raises:
        FileNotFoundError: If an input is missing.
        ValueError: If no pair has a score, an argument is out of range, the fit belongs to another scorer, or the
            pairs of `write_pairs` are not those that were scored.
    """
    manifest = read_manifest(scores_folder)
    column, scored_by = score_column(manifest, scorer)
    ranking = ScoreRanking(score_stream(scores_folder, column))
    _check_any(ranking.count, ranking.rows)
    if fitted is not None:
        fit = _read_fit(fitted, scored_by)
    elif fit_scores is not None:
        fit = _fit_on_scores(fit_scores, boundaries, num_levels, strategy, scored_by)
    else:
        fit = _Fit(_boundaries(ranking, boundaries, num_levels, strategy))
    with atomic_path(Path(output) / LEVELS_PARQUET) as temporary:
        tally = _write_parquet(iter_scores(scores_folder, ["id", column]), fit.boundaries, temporary)
        summary = _summary(fit, tally, ranking.percentiles())
        if write_pairs is not None:
            summary = _write_leveled_pairs(*write_pairs, read_levels(temporary), summary)
    description = {
        **fit.boundaries.as_dict(),
        "counts": list(summary.counts),
        "mean_score_by_level": list(summary.mean_score_by_level),
        "score_quantiles": summary.score_quantiles,
        "unscored": summary.unscored,
        "drift": None if summary.drift is None else asdict(summary.drift),
        "warnings": list(summary.warnings),
        "scorer": scored_by,
        "pairs_hash": manifest["inputs"]["pairs_hash"],
        "scores_hash": hash_folder(scores_folder, (SCORE_FILES,)),
        "fitted_hash": fit.source_hash,
        "versions": versions(),
    }
    write_json(Path(output) / LEVELS_JSON, description)
    return summary


def read_levels(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read the levels by pair id from a `levels.parquet`, or the folder that has one; pairs without a level are absent.

    Raises:
        FileNotFoundError: There is no such file.
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


def _check_choice(num_levels: int, strategy: str) -> None:
    if isinstance(num_levels, bool) or not isinstance(num_levels, int) or not 2 <= num_levels <= MAX_LEVELS:
        raise ValueError(f"num_levels must be an integer from 2 to {MAX_LEVELS}, got {num_levels!r}")
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy must be 'quantile', 'uniform' or 'given', got {strategy!r}")


def _check_any(count: int, rows: int) -> None:
    if count == 0:
        raise ValueError(f"none of the {rows} scores is a finite number: levels need at least one")


def levels_file(path: str | os.PathLike[str], name: str) -> Path:
    """The file itself, or the one of that name in a folder."""
    return Path(path) / name if Path(path).is_dir() else Path(path)


def score_column(manifest: dict[str, Any], scorer: str | None = None) -> tuple[str, dict[str, Any]]:
    """The column that holds a scorer's scores, and the scorer as the manifest describes it.

    Args:
        manifest: Of a folder of scores.
        scorer: The scorer's name; the first one's if not given.

    Raises:
        ValueError: If there is no scorer of that name.
    """
    names = [one["name"] for one in manifest["scorers"]]
    if scorer is not None and scorer not in names:
        raise ValueError(f"no scores of {scorer!r} here: expected one of {', '.join(names)}")
    place = 0 if scorer is None else names.index(scorer)
    return score_columns(names[1:])[place], manifest["scorers"][place]


def score_stream(folder: str | os.PathLike[str], column: str = SCORE) -> ScoreStream:
    """One column of a folder of scores as a stream that can be read again and again; NaN stands for no score."""
    return lambda: (batch.column(0).to_numpy(zero_copy_only=False) for batch in iter_scores(folder, [column]))


# Where the boundaries come from --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    """Boundaries, and what the scores were like that they were fitted on; empty if those are the ones to be cut."""

    boundaries: LevelBoundaries
    counts: tuple[int, ...] | None = None
    quantiles: dict[str, float] | None = None
    source_hash: str | None = None


def _boundaries(
    ranking: ScoreRanking, boundaries: Sequence[float] | None, num_levels: int, strategy: Strategy
) -> LevelBoundaries:
    if boundaries is None:
        return LevelBoundaries.fit_ranking(ranking, num_levels, strategy)
    return LevelBoundaries.given(boundaries, ranking)


def _fit_on_scores(
    folder: str | os.PathLike[str],
    boundaries: Sequence[float] | None,
    num_levels: int,
    strategy: Strategy,
    scored_by: dict[str, Any],
) -> _Fit:
    """Fit on the scores that the same scorer gave to other pairs, under whatever name it stands there."""
    scorers = read_manifest(folder)["scorers"]
    same = [scorer["name"] for scorer in scorers if scorer["weights_hash"] == scored_by["weights_hash"]]
    if not same:
        raise ValueError(_other_scorer(folder, "holds", scorers[0], scored_by))
    column, _ = score_column({"scorers": scorers}, same[0])
    stream = score_stream(folder, column)
    ranking = ScoreRanking(stream)
    fitted = _boundaries(ranking, boundaries, num_levels, strategy)
    counts = np.zeros(fitted.num_levels + 1, np.int64)
    for scores in stream():
        counts += np.bincount(fitted.apply(scores), minlength=counts.size)
    return _Fit(fitted, tuple(counts[1:].tolist()), ranking.percentiles(), hash_folder(folder, (SCORE_FILES,)))


def _read_fit(path: str | os.PathLike[str], scored_by: dict[str, Any]) -> _Fit:
    """Boundaries of another run, with the scores they were fitted on: it may have taken them from elsewhere itself."""
    boundaries = LevelBoundaries.load(path)
    file = levels_file(path, LEVELS_JSON)
    content = read_json(file)
    fitted_on = content.get("scorer")
    if fitted_on is not None and fitted_on["weights_hash"] != scored_by["weights_hash"]:
        raise ValueError(_other_scorer(path, "was fitted on", fitted_on, scored_by))
    drift = content.get("drift")
    if drift is not None:
        return _Fit(boundaries, tuple(drift["fitted_counts"]), drift["fitted_quantiles"], hash_file(file))
    counts = content.get("counts")
    return _Fit(boundaries, None if counts is None else tuple(counts), content.get("score_quantiles"), hash_file(file))


def _other_scorer(path: str | os.PathLike[str], verb: str, found: dict[str, Any], wanted: dict[str, Any]) -> str:
    return (
        f"{path} {verb} scores of {found['name']} ({found['weights_hash'][:8]}), these scores are "
        f"of {wanted['name']} ({wanted['weights_hash'][:8]}): score with the same weights, or fit anew"
    )


# Cutting the scores --------------------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What is counted while the levels are written; index 0 stands for pairs without a score."""

    counts: np.ndarray
    sums: np.ndarray
    below: int = 0
    above: int = 0


def _write_parquet(batches: Iterable[pa.RecordBatch], boundaries: LevelBoundaries, path: Path) -> _Tally:
    """Write `levels.parquet` batch by batch; `batches` have the columns of id and score."""
    size = boundaries.num_levels + 1
    tally = _Tally(np.zeros(size, np.int64), np.zeros(size))
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for batch in batches:
            scores = batch.column(1).to_numpy(zero_copy_only=False)
            levels = boundaries.apply(scores)
            nullable = pa.array(levels, pa.int8(), mask=levels == 0)
            writer.write_batch(pa.record_batch([batch.column(0), batch.column(1), nullable], schema=_SCHEMA))
            known = levels > 0
            tally.counts += np.bincount(levels, minlength=size)
            tally.sums += np.bincount(levels, weights=np.where(known, scores, 0), minlength=size)
            tally.below += int((scores[known] < boundaries.minimum).sum())
            tally.above += int((scores[known] > boundaries.maximum).sum())
    return tally


def _summary(fit: _Fit, tally: _Tally, quantiles: dict[str, float]) -> LevelSummary:
    unscored, *counts = tally.counts.tolist()
    means = [total / count if count else None for total, count in zip(tally.sums[1:].tolist(), counts, strict=True)]
    drift = None
    if fit.counts is not None:
        drift = drift_report(fit.counts, counts, fit.quantiles, quantiles, tally.below, tally.above)
    warnings = _warnings(fit.boundaries, counts, unscored, tally.below + tally.above)
    return LevelSummary(fit.boundaries, tuple(counts), tuple(means), quantiles, unscored, drift, tuple(warnings))


def _warnings(boundaries: LevelBoundaries, counts: list[int], unscored: int, outside: int) -> Iterator[str]:
    scored = sum(counts)
    empty = [str(level) for level, count in enumerate(counts, start=1) if count == 0]
    if empty:
        few = f"there is {scored} scored pair only" if scored == 1 else f"there are {scored} scored pairs only"
        why = few if scored < len(counts) else "no score lies there"
        if scored >= len(counts) and any(lower == upper for lower, upper in pairwise(boundaries.boundaries)):
            why = "many scores are equal"
        yield f"no pair has level {', '.join(empty)} of {len(counts)}: {why}"
    if unscored:
        verb = "has" if unscored == 1 else "have"
        yield f"{unscored} of {scored + unscored} pairs {verb} no score and hence no level"
    if outside:
        verb = "lies" if outside == 1 else "lie"
        yield f"{outside} of {scored} scores {verb} outside the range the boundaries were fitted on"


def _write_leveled_pairs(
    source: str | os.PathLike[str], target: str | os.PathLike[str], levels: dict[str, int], summary: LevelSummary
) -> LevelSummary:
    """Write the pairs that have a level; the summary, with a warning if some have none."""
    pairs = open_source(source)
    check_output(pairs, target)
    retained = skipped = 0
    with atomic_path(target) as temporary, open_writer(pairs, target, temporary, with_levels=True) as write:
        for shard in pairs.shards():
            for record in shard.read(whole=True):
                level = None if record.error is not None else levels.get(record.id)
                if level is None:
                    skipped += 1
                else:
                    write(shard, record, 1, level)
                    retained += 1
        if not retained:
            raise ValueError(f"{source}: none of its {skipped} pairs was scored; pass the data that was scored")
    total = retained + skipped
    warnings = [f"{skipped} of {total} pairs have no level and are not in {target}"] if skipped else []
    return replace(summary, warnings=(*summary.warnings, *warnings))
