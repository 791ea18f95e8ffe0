"""Exact order statistics in two passes, against sorting, on scores of every sign and size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from aligngpt.curation.quantiles import ScoreRanking, ScoreStream, order_keys, scores_of_keys

TINY = float(np.finfo(np.float32).smallest_subnormal)
HUGE = float(np.finfo(np.float32).max)
EDGE_CASES = np.array([-HUGE, -1, -0.25, -TINY, 0.0, TINY, 0.1, np.nextafter(np.float32(0.1), 1), 1, HUGE], np.float32)


def stream_of(scores: np.ndarray, size: int = 7) -> ScoreStream:
    """The scores in batches of `size`, from their beginning each time it is called."""

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(scores), size):
            yield scores[start : start + size]

    return batches


def test_keys_rise_with_the_scores_and_lead_back_to_them() -> None:
    keys = order_keys(EDGE_CASES)
    assert keys.dtype == np.uint32
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    assert scores_of_keys(keys).tobytes() == EDGE_CASES.tobytes()


def test_both_zeros_have_one_key() -> None:
    keys = order_keys(np.array([-0.0, 0.0], np.float32))
    assert keys[0] == keys[1]
    assert scores_of_keys(keys).tobytes() == np.zeros(2, np.float32).tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_every_place_is_that_of_sorting(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Few distinct values of every size for ties, and many that differ in the low bits of one bucket alone.
    close = np.float32(0.25) + generator.integers(0, 200, 60).astype(np.float32) * np.float32(2**-25)
    scores = np.concatenate([generator.choice(EDGE_CASES, 40), close, generator.normal(size=50).astype(np.float32)])
    scores = generator.permutation(scores)
    spoiled = np.insert(scores, [0, 10, 70], np.array([np.nan, np.inf, -np.inf], np.float32))
    ranking = ScoreRanking(stream_of(spoiled))
    assert (ranking.rows, ranking.count) == (153, 150)
    assert ranking.at(range(150)).tobytes() == np.sort(scores).tobytes()
    assert ranking.at([149, 0, 75, 75]).tobytes() == np.sort(scores)[[149, 0, 75, 75]].tobytes()


def test_the_stream_is_read_once_to_count_and_once_for_any_number_of_places() -> None:
    reads: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        reads.append(len(reads))
        yield EDGE_CASES

    ranking = ScoreRanking(batches)
    assert len(reads) == 1
    ranking.at([0, 3, 9])
    assert len(reads) == 2


def test_percentiles_stand_at_the_places_of_levels() -> None:
    scores = np.random.default_rng(0).permutation(200).astype(np.float32)
    percentiles = ScoreRanking(stream_of(scores)).percentiles()
    assert percentiles == {"p1": 2, "p5": 10, "p25": 50, "p50": 100, "p75": 150, "p95": 190, "p99": 198}
    assert set(ScoreRanking(stream_of(scores[:1])).percentiles().values()) == {scores[0]}


def test_places_beyond_the_scores_are_refused() -> None:
    ranking = ScoreRanking(stream_of(EDGE_CASES))
    assert ranking.at([]).tolist() == []
    with pytest.raises(ValueError, match="places must be within 0 to 9, got 3 to 10"):
        ranking.at([3, 10])
    with pytest.raises(ValueError, match="got -1 to 0"):
        ranking.at([-1, 0])


def test_a_stream_without_a_finite_score_has_no_places() -> None:
    assert ScoreRanking(stream_of(np.zeros(0, np.float32))).count == 0
    ranking = ScoreRanking(stream_of(np.array([np.nan], np.float32)))
    assert (ranking.rows, ranking.count) == (1, 0)
