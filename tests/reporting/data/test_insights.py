"""Insights about scored pairs state what the numbers say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligngpt.curation.duplicates import DuplicateGroup, DuplicateImages, NearDuplicates, RepeatedCaptions
from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.scorer_agreement import AgreementDetails
from aligngpt.curation.statistics import ScoreStatistics, collect_statistics
from aligngpt.reporting.data import insights
from tests.reporting.score_folders import rows_table, write_scores

TWO_LEVELS = LevelBoundaries(2, "quantile", (0.3,), 0.1, 0.5)


def scanned(folder: Path, rows: list[dict[str, Any]], boundaries: LevelBoundaries | None = None) -> ScoreStatistics:
    return collect_statistics(write_scores(folder / "scores", rows_table(rows)), boundaries=boundaries)


def test_the_distribution_of_the_scores(tmp_path: Path) -> None:
    rows = [{"clip_score": index / 100} for index in range(10, 51)] + [{"error": "no such file"}]
    assert insights.describe_scores(scanned(tmp_path, rows)) == [
        "41 of 42 pairs have a score, from 0.10 to 0.50; the mean is 0.30, the middle half lies between 0.20 and 0.40."
    ]


def test_no_scores(tmp_path: Path) -> None:
    result = scanned(tmp_path, [{"error": "no such file"}] * 2)
    assert insights.describe_overview(result, "truncate") == [
        "0 of 2 pairs have a score.",
        "2 pairs (100.0%) could not be scored: no such file.",
    ]
    assert insights.describe_lowest(result) == insights.describe_lengths(result) == []


def test_a_single_pair(tmp_path: Path) -> None:
    result = scanned(tmp_path, [{"clip_score": 0.25}], TWO_LEVELS)
    assert insights.describe_overview(result, "truncate")[0] == "1 of 1 pair has a score: 0.25."
    assert insights.describe_lowest(result) == ["The lowest score is 0.250; the median is 0.250."]
    assert insights.describe_levels(result, TWO_LEVELS) == [
        "2 levels of equal size: 0 to 1 pair each. 1 level is empty."
    ]
    (tmp_path / "failed").mkdir()
    assert insights.describe_overview(scanned(tmp_path / "failed", [{"error": "no such file"}]), "truncate") == [
        "0 of 1 pair have a score.",
        "1 pair (100.0%) could not be scored: no such file.",
    ]
    (tmp_path / "two").mkdir()
    result = scanned(tmp_path / "two", [{"clip_score": 0.2}, {"clip_score": 0.4}], TWO_LEVELS)
    assert insights.describe_levels(result, TWO_LEVELS) == ["2 levels of equal size: 1 pair each."]
    (tmp_path / "one").mkdir()
    result = scanned(tmp_path / "one", [{"clip_score": 0.25}, {"error": "no such file"}])
    assert insights.describe_scores(result) == ["1 of 2 pairs has a score: 0.25."]


def test_levels_and_pairs_near_their_boundaries(tmp_path: Path) -> None:
    rows = [{"clip_score": score, "caption_chars": chars} for score, chars in ((0.1, 4), (0.2995, 9), (0.5, 20))]
    result = scanned(tmp_path, rows, TWO_LEVELS)
    assert insights.describe_levels(result, TWO_LEVELS) == ["2 levels of equal size: 1 to 2 pairs each."]
    assert insights.describe_near_boundaries(result, TWO_LEVELS)[0].startswith(
        "1 score (33.3%) is within 0.001 of a boundary"
    )
    assert insights.describe_lengths(result) == [
        "The median caption has 9 characters; 90% have 4 to 20, the longest has 20.",
        "Median caption length rises from 4 at level 1 to 20 at level 2, monotonically.",
    ]
    empty = LevelBoundaries(3, "explicit", (0.6, 0.7), 0.1, 0.5)
    (tmp_path / "again").mkdir()
    assert insights.describe_levels(scanned(tmp_path / "again", rows, empty), empty) == [
        "3 levels with explicit boundaries: 0 to 3 pairs each. 2 levels are empty."
    ]


@pytest.mark.parametrize(
    ("policy", "limit"),
    [("truncate", "the scorer's context"), ("chunk-mean", "64 times the scorer's context")],
)
def test_long_captions(tmp_path: Path, policy: str, limit: str) -> None:
    result = scanned(tmp_path, [{"clip_score": 0.2, "text_truncated": index < 2} for index in range(8)])
    assert insights.describe_truncated(result, policy) == [
        f"2 captions (25.0%) are longer than {limit} and were truncated; the score does not reflect the rest."
    ]
    (tmp_path / "none").mkdir()
    result = scanned(tmp_path / "none", [{"clip_score": 0.2}])
    assert insights.describe_truncated(result, policy) == [f"No caption is longer than {limit}."]


def test_a_long_caption_of_several_scorers(tmp_path: Path) -> None:
    row = {"clip_score": 0.2, "clip_score_clip-b": 0.2, "text_truncated": True}
    assert insights.describe_truncated(scanned(tmp_path, [row]), "truncate") == [
        "1 caption (100.0%) is longer than a scorer's context and was truncated; the score does not reflect the rest."
    ]


def test_data_without_issues(tmp_path: Path) -> None:
    rows = [{"clip_score": 0.2, "caption_hash": index, "image_hash": index} for index in range(3)]
    assert insights.describe_overview(scanned(tmp_path, rows), "truncate")[1:] == [
        "All pairs could be scored.",
        "No caption is longer than the scorer's context.",
        "No image occurs twice.",
        "Every caption occurs with one image only.",
    ]


def test_the_most_frequent_reason_is_named(tmp_path: Path) -> None:
    result = scanned(tmp_path, [{"clip_score": 0.2}, {"error": "b"}, {"error": "a"}, {"error": "b"}])
    assert insights.describe_errors(result) == ["3 pairs (75.0%) could not be scored; the most frequent reason (2): b."]


def test_duplicates() -> None:
    near = NearDuplicates(50, 4, (), True)
    assert insights.describe_duplicates(DuplicateImages(1, 1_000, 50, 990, 0, ()), near) == [
        "990 pairs (99.0%) share their image with another pair; 0 pairs (0.0%) have an image that exists under several "
        "names.",
        "4 images (8.0%) are near-duplicates: perceptual hashes that differ in at most 4 of 64 bits.",
    ]
    sentences = insights.describe_duplicates(DuplicateImages(8, 1_000, 999, 2, 2, ()), NearDuplicates(9, 9, (), False))
    assert sentences[0].startswith("Computed on one image in 8")
    assert "2 pairs (0.2%) have an image that exists under several names." in sentences[1]
    assert "this is a lower bound" in sentences[2]
    assert sentences[-1] == "The search for near-duplicates was limited, so some may be missing."


def test_repeated_captions() -> None:
    few = RepeatedCaptions(1, 10_000, 9_998, 1, 3, 1, (0, 1, 0, 0, 0), (DuplicateGroup(3, (1, 2, 3)),))
    assert insights.describe_repeated_captions(few) == [
        "3 pairs (under 0.1%) have a caption that occurs with more than one image; the most frequent caption occurs "
        "with 3 images.",
        "1 pair (under 0.1%) repeats image and caption of another pair.",
    ]


def test_agreement_names_its_pairs() -> None:
    result = AgreementDetails("clip_score_b", 500_000, 4, 0.84, 0.625, np.diag(np.full(8, 62_500)), (), ())
    assert insights.describe_agreement("a", "b", result) == [
        "a and b agree strongly: Spearman correlation 0.84 over 500,000 pairs (one in 4). With 8 levels of equal size "
        "each, 62.5% of the pairs get the same level from both, 100.0% the same or an adjacent one."
    ]
    flat = AgreementDetails("clip_score_b", 1, 1, None, 1.0, np.eye(8, dtype=int), (), ())
    assert insights.describe_agreement("a", "b", flat) == [
        "a and b cannot be compared by rank: one of them gives every pair the same score."
    ]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([0.1, 0.2, 0.3], "Loss rises from 0.10 at level 1 to 0.30 at level 3, monotonically."),
        ([0.3, 0.4, 0.1], "Loss falls from 0.30 at level 1 to 0.10 at level 3, not monotonically."),
        ([math.nan, 0.4, 0.1], "Loss falls from 0.40 at level 2 to 0.10 at level 3, monotonically."),
        ([0.4, 0.4], "Loss is the same at level 1 and at level 2: 0.40."),
        ([math.nan, 0.4], "Loss: too few levels to compare."),
    ],
)
def test_a_trend_follows_the_values(values: list[float], sentence: str) -> None:
    assert insights.describe_trend(values, "Loss") == sentence
