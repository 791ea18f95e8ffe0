"""Alignment levels: scores cut into N bins, fitted once and applicable to new data.

Levels count from 1, the worst fitting text, to N. `levels.parquet` holds the level of each pair, `levels.json` where
the boundaries lie and what they were fitted on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.artifacts import atomic_path, hash_file, hash_folder, read_json, versions, write_json
from aligngpt.data.pairs import MAX_LEVELS, read_pairs
from aligngpt.data.pairs import write_pairs as write_pairs_file
from aligngpt.data.scores import read_manifest, read_scores

Strategy = Literal["quantile", "uniform"]

LEVELS_JSON = "levels.json"
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
    """Where N levels part: the level of a score is 1 plus the number of boundaries it reaches.

    Equal scores therefore always share a level, in whatever order the pairs come.

    Attributes:
        num_levels: N, 2 to 64.
        strategy: `"quantile"` (as many pairs in each level) or `"uniform"` (levels of the same width).
        boundaries: N - 1 scores that never fall; two equal ones mean an empty level between them.
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
        if any(lower > upper for lower, upper in pairwise(edges)):
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
        _check_choice(num_levels, strategy)
        given = np.asarray(scores, dtype=np.float64)
        known = np.sort(given[np.isfinite(given)])
        if known.size == 0:
            raise ValueError(f"none of the {given.size} scores is a finite number: levels need at least one")
        lowest, highest = float(known[0]), float(known[-1])
        if strategy == "quantile":
            # With fewer scores than levels the last places lie beyond the end: then the highest score is the boundary.
            places = (min(-(-k * known.size // num_levels), known.size - 1) for k in range(1, num_levels))
            boundaries = [float(known[place]) for place in places]
        else:
            boundaries = [lowest + (highest - lowest) * k / num_levels for k in range(1, num_levels)]
        return cls(num_levels, strategy, tuple(boundaries), lowest, highest)

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
        unscored: Pairs without a score, which have no level.
        warnings: What the user should know, one line each.
    """

    boundaries: LevelBoundaries
    counts: tuple[int, ...]
    mean_score_by_level: tuple[float | None, ...]
    unscored: int
    warnings: tuple[str, ...] = ()


def write_levels(
    scores_folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    num_levels: int = 8,
    strategy: Strategy = "quantile",
    fitted: str | os.PathLike[str] | None = None,
    write_pairs: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
) -> LevelSummary:
    """Give every scored pair its alignment level and write `levels.parquet` and `levels.json`.

    Args:
        scores_folder: A finished folder of `aligngpt score`.
        output: The folder to write to; other files in it stay.
        num_levels: N, 2 to 64.
        strategy: `"quantile"` or `"uniform"`.
        fitted: A `levels.json` (or its folder) whose boundaries are applied instead of fitting new ones; `num_levels`
            and `strategy` are then those of that file.
        write_pairs: (pairs file, file to write): the pairs again, with `alignment_level`; those without are left out.

    Raises:
        FileNotFoundError: If an input is missing.
        ValueError: If no pair has a score, an argument is out of range, `fitted` belongs to another scorer, or the
            pairs of `write_pairs` are not those that were scored.
    """
    folder = Path(output)
    manifest, table = read_manifest(scores_folder), read_scores(scores_folder)
    scores = table["clip_score"].to_numpy().astype(np.float64)
    boundaries = LevelBoundaries.fit(scores, num_levels, strategy) if fitted is None else _fitted(fitted, manifest)
    levels = boundaries.apply(scores)
    summary = _summary(boundaries, scores, levels)
    if write_pairs is not None:
        by_id = {name: level for name, level in zip(table["id"].to_pylist(), levels.tolist(), strict=True) if level}
        summary = _write_leveled_pairs(*write_pairs, by_id, summary)
    nullable = pa.array(levels, pa.int8(), mask=levels == 0)
    with atomic_path(folder / LEVELS_PARQUET) as temporary:
        pq.write_table(pa.table([table["id"], table["clip_score"], nullable], schema=_SCHEMA), temporary)
    description = {
        **boundaries.as_dict(),
        "counts": list(summary.counts),
        "mean_score_by_level": list(summary.mean_score_by_level),
        "unscored": summary.unscored,
        "warnings": list(summary.warnings),
        "scorer": manifest["scorer"],
        "pairs_hash": manifest["inputs"]["pairs_hash"],
        "scores_hash": hash_folder(scores_folder, ("part-*.parquet",)),
        "fitted_hash": None if fitted is None else hash_file(levels_file(fitted, LEVELS_JSON)),
        "versions": versions(),
    }
    write_json(folder / LEVELS_JSON, description)
    return summary


def read_levels(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read the levels by pair id from a `levels.parquet`, or the folder that holds one; pairs without one are absent.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = levels_file(path, LEVELS_PARQUET)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `aligngpt level` writes it")
    table = pq.read_table(path, columns=["id", "alignment_level"])
    known = table.filter(table["alignment_level"].is_valid())
    return dict(zip(known["id"].to_pylist(), known["alignment_level"].to_pylist(), strict=True))


def _check_choice(num_levels: int, strategy: str) -> None:
    if isinstance(num_levels, bool) or not isinstance(num_levels, int) or not 2 <= num_levels <= MAX_LEVELS:
        raise ValueError(f"num_levels must be an integer from 2 to {MAX_LEVELS}, got {num_levels!r}")
    if strategy not in ("quantile", "uniform"):
        raise ValueError(f"strategy must be 'quantile' or 'uniform', got {strategy!r}")


def levels_file(path: str | os.PathLike[str], name: str) -> Path:
    """The file itself, or the one of that name in a folder."""
    return Path(path) / name if Path(path).is_dir() else Path(path)


def _fitted(path: str | os.PathLike[str], manifest: dict[str, Any]) -> LevelBoundaries:
    """Boundaries of another run, which say nothing about the scores of another scorer."""
    boundaries = LevelBoundaries.load(path)
    fitted_on = read_json(levels_file(path, LEVELS_JSON)).get("scorer")
    scored_by = manifest["scorer"]
    if fitted_on is not None and fitted_on["weights_hash"] != scored_by["weights_hash"]:
        raise ValueError(
            f"{path} was fitted on scores of {fitted_on['name']} ({fitted_on['weights_hash'][:8]}), these scores are "
            f"of {scored_by['name']} ({scored_by['weights_hash'][:8]}): score with the same weights, or fit anew"
        )
    return boundaries


def _summary(boundaries: LevelBoundaries, scores: np.ndarray, levels: np.ndarray) -> LevelSummary:
    counts = np.bincount(levels, minlength=boundaries.num_levels + 1)
    sums = np.bincount(levels, weights=np.where(levels > 0, scores, 0.0), minlength=boundaries.num_levels + 1)
    means = [float(total / count) if count else None for total, count in zip(sums[1:], counts[1:], strict=True)]
    empty = [str(level) for level, count in enumerate(counts[1:], start=1) if count == 0]
    known = scores[levels > 0]
    outside = int(((known < boundaries.minimum) | (known > boundaries.maximum)).sum())
    warnings = []
    if empty:
        warnings.append(
            f"no pair has level {', '.join(empty)}: {known.size} scored pairs with {np.unique(known).size} different "
            f"scores for {boundaries.num_levels} levels"
        )
    if counts[0]:
        warnings.append(f"{counts[0]} of {scores.size} pairs have no score and hence no level")
    if outside:
        warnings.append(f"{outside} of {known.size} scores lie outside the range the boundaries were fitted on")
    return LevelSummary(boundaries, tuple(counts[1:].tolist()), tuple(means), int(counts[0]), tuple(warnings))


def _write_leveled_pairs(
    source: str | os.PathLike[str], target: str | os.PathLike[str], levels: dict[str, int], summary: LevelSummary
) -> LevelSummary:
    """Write the pairs that have a level; the summary, with a warning if some have none."""
    pairs = read_pairs(source, ".", check_images="none").records
    if not any(pair.id in levels for pair in pairs):
        raise ValueError(
            f"{source}: none of its {len(pairs)} pairs was scored; give the file the scores were made from"
        )
    known = [replace(pair, alignment_level=levels[pair.id]) for pair in pairs if levels.get(pair.id)]
    write_pairs_file(target, known)
    left_out = len(pairs) - len(known)
    warnings = [f"{left_out} of {len(pairs)} pairs have no level and are left out of {target}"] if left_out else []
    return replace(summary, warnings=(*summary.warnings, *warnings))
