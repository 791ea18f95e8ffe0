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
    """Return a stream of the scores in batches of `size`."""

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(scores), size):
            yield scores[start : start + size]

    return batches


def test_keys_have_the_order_of_the_scores_and_can_be_inverted() -> None:
    keys = order_keys(EDGE_CASES)
    assert keys.dtype == np.uint32
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    assert scores_of_keys(keys).tobytes() == EDGE_CASES.tobytes()


def test_both_zeros_have_one_key() -> None:
    keys = order_keys(np.array([-0.0, 0.0], np.float32))
    assert keys[0] == keys[1]
    assert scores_of_keys(keys).tobytes() == np.zeros(2, np.float32).tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_every_rank_is_that_of_sorting(seed: int) -> None:
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


def test_the_stream_is_read_once_to_count_and_once_for_any_number_of_ranks() -> None:
    reads: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        reads.append(len(reads))
        yield EDGE_CASES

    ranking = ScoreRanking(batches)
    assert len(reads) == 1
    ranking.at([0, 3, 9])
    assert len(reads) == 2


def test_percentiles_are_those_of_the_inverted_cdf() -> None:
    scores = np.random.default_rng(0).permutation(200).astype(np.float32)
    percentiles = ScoreRanking(stream_of(scores)).percentiles()
    assert percentiles == {"p1": 1, "p5": 9, "p25": 49, "p50": 99, "p75": 149, "p95": 189, "p99": 197}
    expected = np.percentile(scores, [1, 5, 25, 50, 75, 95, 99], method="inverted_cdf")
    assert list(percentiles.values()) == expected.tolist()
    assert set(ScoreRanking(stream_of(scores[:1])).percentiles().values()) == {scores[0]}


def test_ranks_beyond_the_scores_are_refused() -> None:
    ranking = ScoreRanking(stream_of(EDGE_CASES))
    assert ranking.at([]).tolist() == []
    with pytest.raises(ValueError, match="ranks must be within 0 to 9, got 3 to 10"):
        ranking.at([3, 10])
    with pytest.raises(ValueError, match="got -1 to 0"):
        ranking.at([-1, 0])


def test_a_stream_without_a_finite_score_has_no_ranks() -> None:
    assert ScoreRanking(stream_of(np.zeros(0, np.float32))).count == 0
    ranking = ScoreRanking(stream_of(np.array([np.nan], np.float32)))
    assert (ranking.rows, ranking.count) == (1, 0)
