"""Sentences about scored pairs say what the numbers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligngpt.curation.duplicates import Copies, Group, NearCopies, Reuse
from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.scorer_agreement import Agreement
from aligngpt.curation.scoring import scorers
from aligngpt.curation.statistics import Scan, scan
from aligngpt.reporting.data import insights as findings
from tests.reporting.score_folders import rows_table, write_scores

PERCENT = "\N{NO-BREAK SPACE}%"
CUTS = LevelBoundaries(2, "quantile", (0.3,), 0.1, 0.5)


def scanned(folder: Path, rows: list[dict[str, Any]], boundaries: LevelBoundaries | None = None) -> Scan:
    return scan(write_scores(folder / "scores", rows_table(rows)), boundaries=boundaries)


def test_how_the_scores_spread(tmp_path: Path) -> None:
    found = scanned(tmp_path, [{"clip_score": place / 100} for place in range(10, 51)] + [{"error": "no such file"}])
    assert findings.scores(found) == [
        "41 of 42 pairs have a score, from 0.10 to 0.50; half of the scores lie between 0.20 and 0.40, and their mean "
        "is 0.30."
    ]


def test_no_scores_at_all(tmp_path: Path) -> None:
    found = scanned(tmp_path, [{"error": "no such file"}] * 2)
    assert findings.headline(found, "truncate") == [
        "None of the 2 pairs has a score.",
        f"2 pairs (100.0{PERCENT}) could not be scored, all for the same reason: no such file.",
    ]
    assert findings.suspects(found) == findings.lengths(found) == []


def test_a_single_pair(tmp_path: Path) -> None:
    found = scanned(tmp_path, [{"clip_score": 0.25}], CUTS)
    assert findings.headline(found, "truncate")[0] == "The only pair has a score, 0.25."
    assert findings.suspects(found) == ["The lowest score is 0.250, and the median 0.250."]
    assert findings.levels(found, CUTS)[0].endswith("and hold 0 to 1 pair each. 1 level is empty.")
    (tmp_path / "bad").mkdir()
    assert findings.headline(scanned(tmp_path / "bad", [{"error": "no such file"}]), "truncate") == [
        "The scores hold 1 pair and no score.",
        f"1 pair (100.0{PERCENT}) could not be scored: no such file.",
    ]
    (tmp_path / "two").mkdir()
    found = scanned(tmp_path / "two", [{"clip_score": 0.2}, {"clip_score": 0.4}], CUTS)
    assert findings.levels(found, CUTS) == ["The 2 levels are cut to be equally full and hold 1 pair each."]
    (tmp_path / "one").mkdir()
    found = scanned(tmp_path / "one", [{"clip_score": 0.25}, {"error": "no such file"}])
    assert findings.scores(found) == ["1 of 2 pairs has a score, 0.25."]


def test_levels_and_what_lies_at_their_boundaries(tmp_path: Path) -> None:
    rows = [{"clip_score": score, "caption_chars": chars} for score, chars in ((0.1, 4), (0.2995, 9), (0.5, 20))]
    found = scanned(tmp_path, rows, CUTS)
    assert findings.levels(found, CUTS) == ["The 2 levels are cut to be equally full and hold 1 to 2 pairs each."]
    assert findings.near_boundaries(found, CUTS)[0].startswith(f"1 score (33.3{PERCENT}) lies within 0.001 of")
    assert findings.lengths(found) == [
        "The median caption has 9 characters; nine in ten have 4 to 20, and the longest has 20.",
        "The median length of a level's captions rises from 4 at level 1 to 20 at level 2, at every step.",
    ]
    empty = LevelBoundaries(3, "given", (0.6, 0.7), 0.1, 0.5)
    (tmp_path / "again").mkdir()
    assert findings.levels(scanned(tmp_path / "again", rows, empty), empty) == [
        "The 3 levels are cut where told and hold 0 to 3 pairs each. 2 levels are empty."
    ]


@pytest.mark.parametrize(
    ("policy", "limit"),
    [("truncate", "the scorer reads"), ("chunk-mean", "the 64 pieces that the scorer reads")],
)
def test_long_captions(tmp_path: Path, policy: str, limit: str) -> None:
    found = scanned(tmp_path, [{"clip_score": 0.2, "text_truncated": place < 2} for place in range(8)])
    said = f"2 captions (25.0{PERCENT}) are longer than {limit} and were cut: what stands at their end did not count."
    assert findings.cut(found, policy) == [said]
    (tmp_path / "none").mkdir()
    assert findings.cut(scanned(tmp_path / "none", [{"clip_score": 0.2}]), policy) == [
        f"No caption is longer than {limit}."
    ]


def test_a_long_caption_of_several_scorers(tmp_path: Path) -> None:
    row = {"clip_score": 0.2, "clip_score_clip-b": 0.2, "text_truncated": True}
    assert findings.cut(scanned(tmp_path, [row]), "truncate") == [
        f"1 caption (100.0{PERCENT}) is longer than a scorer reads and was cut: what stands at its end did not count."
    ]


def test_the_pieces_are_as_many_as_the_scorer_reads() -> None:
    assert findings.MOST_PIECES == scorers._MOST_CHUNKS


def test_nothing_wrong_is_said_too(tmp_path: Path) -> None:
    rows = [{"clip_score": 0.2, "caption_hash": place, "image_hash": place} for place in range(3)]
    assert findings.headline(scanned(tmp_path, rows), "truncate")[1:] == [
        "Every pair could be scored.",
        "No caption is longer than the scorer reads.",
        "No image occurs twice.",
        "Every caption stands over one image only.",
    ]


def test_reasons(tmp_path: Path) -> None:
    found = scanned(tmp_path, [{"clip_score": 0.2}, {"error": "b"}, {"error": "a"}, {"error": "b"}])
    assert findings.bad(found) == [f"3 pairs (75.0{PERCENT}) could not be scored, 2 of them for this reason: b."]
    (tmp_path / "again").mkdir()
    found = scanned(tmp_path / "again", [{"error": "a"}, {"error": "b"}])
    assert findings.bad(found) == [f"2 pairs (100.0{PERCENT}) could not be scored, each for a reason of its own."]


def test_copies() -> None:
    near = NearCopies(50, 4, (), True)
    assert findings.copies(Copies(1, 1_000, 50, 990, 0, ()), near) == [
        f"990 pairs (99.0{PERCENT}) share their image with another pair; none has one that also exists under another "
        "name.",
        f"4 images (8.0{PERCENT}) look like another one: their perceptual hashes differ in at most 4 of 64 bits.",
    ]
    said = findings.copies(Copies(8, 1_000, 999, 2, 2, ()), NearCopies(9, 9, (), False))
    assert said[0].startswith("Looked at was one image in 8")
    assert f"2 pairs (0.2{PERCENT}) have one that also exists under another name." in said[1]
    assert said[2].endswith("Of all images it is more: the like of most is not among those looked at.")
    assert said[-1] == "So many images look alike that some of them may have been missed."


def test_captions_used_again() -> None:
    few = Reuse(1, 10_000, 9_998, 1, 3, 1, (0, 1, 0, 0, 0), (Group(3, (1, 2, 3)),))
    assert findings.reuse(few) == [
        f"3 pairs (under 0.1{PERCENT}) have a caption that stands over more than one image; the one used most stands "
        "over 3.",
        f"1 pair (under 0.1{PERCENT}) repeats an earlier pair, image and caption.",
    ]


def test_agreement_names_its_pairs() -> None:
    found = Agreement("clip_score_b", 500_000, 4, 0.84, 0.625, np.diag(np.full(8, 62_500)), (), ())
    assert findings.agreement("a", "b", found) == [
        "a and b rank the pairs closely alike: rank correlation 0.84 over 500,000 pairs, one in 4. Cut into 8 equally "
        f"full levels each, 62.5{PERCENT} of the pairs get the same level from both, and 100.0{PERCENT} the same or "
        "the next."
    ]
    flat = Agreement("clip_score_b", 1, 1, None, 1.0, np.eye(8, dtype=int), (), ())
    assert findings.agreement("a", "b", flat) == [
        "a and b cannot be compared by rank: one of them gives every pair the same score."
    ]
