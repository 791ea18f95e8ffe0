"""Defects of scored pairs, found in a folder of scores; `rules` lists them.

Most are told from the row itself. The three that compare rows need the hashes of all of them: those are read in as many
passes as keep about 200 MB in memory, and leave one byte for each row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from aligngpt.curation.filters import Defect
from aligngpt.curation.levels import score_stream
from aligngpt.curation.quantiles import ScoreRanking
from aligngpt.curation.scoring.store import iter_scores

_ROWS_AT_ONCE = 1 << 22

# Tells which rows of a batch of scores have a defect, given the batch and the place of its first row: bool (n,).
DefectMask = Callable[[pa.RecordBatch, int], np.ndarray]


def defect_mask(
    defect: Defect, scores_folder: str | os.PathLike[str], column: str, boundaries: tuple[float, ...]
) -> DefectMask:
    """Prepare to find a defect, which for some takes passes over the scores.

    Args:
        defect: What to look for.
        scores_folder: A finished folder of `aligngpt score`.
        column: Its column of scores.
        boundaries: Those of the levels, for `boundary`.

    Returns:
        A function of a batch with the columns `text_truncated`, `error` and `column`.
    """
    value = defect.value or 0
    if defect.name == "truncated_caption":
        return lambda batch, start: batch["text_truncated"].to_numpy(zero_copy_only=False)
    if defect.name == "error":
        return lambda batch, start: batch["error"].is_valid().to_numpy(zero_copy_only=False)
    if defect.name == "mismatch":
        return _mismatch(ScoreRanking(score_stream(scores_folder, column)), column, value)
    if defect.name == "boundary":
        near = np.asarray(boundaries)
        return lambda batch, start: (np.abs(_scores(batch, column)[:, None] - near) <= value).any(axis=1)
    rows = _REPEATS[defect.name](scores_folder, column, value)
    return lambda batch, start: rows[start : start + batch.num_rows]


def _scores(batch: pa.RecordBatch, column: str) -> np.ndarray:
    return batch[column].to_numpy(zero_copy_only=False).astype(np.float64)


def _mismatch(ranking: ScoreRanking, column: str, percent: float) -> DefectMask:
    """The lowest scores, at most `percent` of them: those that equal the first score to stay do so too."""
    place = int(percent * ranking.count / 100)
    stays = np.inf if place >= ranking.count else float(ranking.at([place])[0])
    return lambda batch, start: _scores(batch, column) < stays


# Rows that repeat one another ----------------------------------------------------------------------------------------


def _duplicate_image(folder: str | os.PathLike[str], column: str, value: float) -> np.ndarray:
    """All records of an image but the best scored, the first among equals."""
    found = _no_rows(folder)
    for image, score, place in _gathered(folder, "image_hash", column, found.size):
        order = np.lexsort((-np.nan_to_num(score, nan=-np.inf), image))
        found[place[order]] = ~_begins(image[order])
    return found


def _duplicate_pair(folder: str | os.PathLike[str], column: str, value: float) -> np.ndarray:
    """All records of an image with one caption but the first."""
    found = _no_rows(folder)
    for image, caption, place in _gathered(folder, "image_hash", "caption_hash", found.size):
        order = np.lexsort((caption, image))
        found[place[order]] = ~_begins(image[order], caption[order])
    return found


def _reused_caption(folder: str | os.PathLike[str], column: str, value: float) -> np.ndarray:
    """All records of a caption that stands with at least `value` different images."""
    found = _no_rows(folder)
    for caption, image, place in _gathered(folder, "caption_hash", "image_hash", found.size):
        order = np.lexsort((image, caption))
        group = np.cumsum(_begins(caption[order])) - 1
        images = np.bincount(group, weights=_begins(caption[order], image[order]))
        found[place[order]] = images[group] >= value
    return found


_REPEATS: dict[str, Callable[[str | os.PathLike[str], str, float], np.ndarray]] = {
    "duplicate_image": _duplicate_image,
    "duplicate_pair": _duplicate_pair,
    "reused_caption": _reused_caption,
}


def _no_rows(folder: str | os.PathLike[str]) -> np.ndarray:
    return np.zeros(sum(batch.num_rows for batch in iter_scores(folder, ["text_truncated"])), bool)


def _gathered(
    folder: str | os.PathLike[str], key: str, other: str, rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Two columns and the rows' places, of a share of the hashes at a time; all rows of one hash come together.

    Rows without a hash are left out; a score that is missing is NaN.
    """
    passes = max(1, -(-rows // _ROWS_AT_ONCE))
    for share in range(passes):
        parts, start = [], 0
        for batch in iter_scores(folder, [key, other]):
            hashes = batch[key].fill_null(0).to_numpy()
            wanted = batch[key].is_valid().to_numpy(zero_copy_only=False) & (hashes % np.uint64(passes) == share)
            if pa.types.is_uint64(batch[other].type):
                wanted &= batch[other].is_valid().to_numpy(zero_copy_only=False)
                others = batch[other].fill_null(0).to_numpy()
            else:
                others = batch[other].to_numpy(zero_copy_only=False)
            parts.append((hashes[wanted], others[wanted], start + np.flatnonzero(wanted)))
            start += batch.num_rows
        if parts:
            keys, values, places = (np.concatenate(columns) for columns in zip(*parts, strict=True))
            yield keys, values, places


def _begins(*columns: np.ndarray) -> np.ndarray:
    """Where a run of rows that are equal in all columns begins, in sorted columns: bool (n,)."""
    begins = np.ones(columns[0].size, bool)
    begins[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return begins
