"""Each quality issue by hand; those that compare rows, compared with slow loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligngpt.curation import duplicates
from aligngpt.curation.filters import QUALITY_ISSUES, QualityIssue
from aligngpt.curation.scoring.store import iter_scores
from tests.curation.score_files import make_source, write_scores


@pytest.fixture
def scored(tmp_path: Path) -> Any:
    """Write a folder of scores with these columns, of a source of JSON Lines."""

    def make(**columns: list[Any]) -> Path:
        names = [f"p{number}" for number in range(len(columns["clip_score"]))]
        source = make_source(tmp_path / "source", "json_lines", names)
        return write_scores(tmp_path / "scores", source, columns)

    return make


def find(folder: Path, issue: str, boundaries: tuple[float, ...] = ()) -> list[int]:
    """Return the numbers of the rows that have an issue, found batch by batch."""
    mask = QualityIssue.parse(issue).prepare(folder, "clip_score", boundaries)
    indices: list[int] = []
    start = 0
    for batch in iter_scores(folder, ["text_truncated", "error", "clip_score"]):
        for low in range(0, batch.num_rows, 5):
            part = batch.slice(low, 5)
            indices += (start + low + np.flatnonzero(mask(part, start + low))).tolist()
        start += batch.num_rows
    return indices


def test_issues_of_a_row_alone(scored: Any) -> None:
    folder = scored(clip_score=[0.1, None, 0.3, 0.25, 0.2499, 0.2], text_truncated=[True] + [False] * 4 + [True])
    assert find(folder, "truncated_caption") == [0, 5]
    assert find(folder, "error") == [1]
    assert find(folder, "boundary", (0.25, 0.305)) == [3, 4]
    assert find(folder, "boundary:0.01", (0.25, 0.305)) == [2, 3, 4]


@pytest.mark.parametrize(
    ("percent", "indices"), [("", []), (":20", [0]), (":39", [0]), (":60", [0, 3]), (":80", [0, 2, 3, 5]), (":0", [])]
)
def test_mismatches_are_the_lowest_scores_and_ties_stay_together(scored: Any, percent: str, indices: list[int]) -> None:
    # 0.1 < 0.2 < 0.3 = 0.3 < 0.4: of 60 percent, three of five, the two that tie would be parted
    folder = scored(clip_score=[0.1, None, 0.3, 0.2, 0.4, 0.3])
    assert find(folder, f"mismatch{percent}") == indices


def test_all_scores_are_the_lowest_hundred_percent(scored: Any) -> None:
    assert find(scored(clip_score=[0.1, None, 0.3]), "mismatch:100") == [0, 2]


def test_of_one_image_the_best_scored_record_is_no_duplicate(scored: Any) -> None:
    folder = scored(clip_score=[0.1, 0.3, 0.3, 0.2, None, 0.5, 0.1], image_hash=[7, 7, 7, 8, 8, None, None])
    assert find(folder, "duplicate_image") == [0, 2, 4]


def test_of_one_pair_the_first_record_is_no_duplicate(scored: Any) -> None:
    folder = scored(clip_score=[0.1] * 6, image_hash=[7, 7, 7, 8, 7, None], caption_hash=[1, 2, 1, 1, 2, 1])
    assert find(folder, "duplicate_pair") == [2, 4]


def test_a_caption_is_reused_where_its_images_differ(scored: Any) -> None:
    folder = scored(clip_score=[0.1] * 8, image_hash=[1, 2, 3, 1, 1, 4, 5, None], caption_hash=[9, 9, 9, 8, 8, 7, 7, 7])
    assert find(folder, "reused_caption") == [0, 1, 2, 5, 6], "8 stands twice with one image_hash"
    assert find(folder, "reused_caption:3") == [0, 1, 2]


def duplicates_by_hand(rows: list[tuple[float | None, int | None, int | None]]) -> dict[str, list[int]]:
    """Return the numbers of rows (score, image_hash, caption) that repeat others, each compared with all."""
    image, pair, caption = [], [], []
    for index, (score, image_hash, text) in enumerate(rows):
        value = -9 if score is None else score
        for other, (other_score, other_hash, other_text) in enumerate(rows):
            other_value = -9 if other_score is None else other_score
            better = other_value > value or (other_value == value and other < index)
            if image_hash is not None and image_hash == other_hash and better:
                image.append(index)
            if None not in (image_hash, text) and (image_hash, text) == (other_hash, other_text) and other < index:
                pair.append(index)
        images = {p for _, p, t in rows if t == text and p is not None}
        if text is not None and image_hash is not None and len(images) >= 3:
            caption.append(index)
    return {"duplicate_image": sorted(set(image)), "duplicate_pair": sorted(set(pair)), "reused_caption:3": caption}


@pytest.mark.parametrize("at_once", [4, 1 << 22])
def test_duplicates_are_those_of_comparing_all_rows(scored: Any, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(duplicates, "LIMIT", at_once)
    generator = np.random.default_rng(at_once)
    hashes = [*generator.integers(0, 2**64, 9, dtype=np.uint64).tolist(), None]
    rows = [
        (
            [None, 0.1, 0.2, 0.3][generator.integers(4)],
            hashes[generator.integers(10)],
            hashes[generator.integers(10)],
        )
        for _ in range(60)
    ]
    score, image_hash, caption = (list(column) for column in zip(*rows, strict=True))
    folder = scored(clip_score=score, image_hash=image_hash, caption_hash=caption)
    for name, indices in duplicates_by_hand(rows).items():
        assert 0 < len(indices) < 60
        assert find(folder, name) == indices, name


def test_issues_are_parsed_and_formatted() -> None:
    for name in QUALITY_ISSUES:
        assert QualityIssue.parse(str(QualityIssue(name))) == QualityIssue(name)
    assert QualityIssue("mismatch").value == 1 and str(QualityIssue.parse("mismatch:2.5")) == "mismatch:2.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blurred", "'blurred' is not a quality issue; choose from error, truncated_caption"),
        ("error:1", "error takes no number, got 1"),
        ("mismatch:101", "the number of mismatch must be from 0 to 100, got 101"),
        ("mismatch:nan", "must be from"),
        ("reused_caption:1", "must be from 2"),
        ("mismatch:x", "'mismatch:x': 'x' after the colon is not a number"),
        ("mismatch:", "after the colon is not a number"),
    ],
)
def test_other_issues_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityIssue.parse(text)
