"""Two models on the same questions: tests worked by hand, and what may be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest

from aligngpt.cli.output import plain
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.compare import Side, compare, read_side, score_side
from aligngpt.evaluation.metrics import two_sided_binomial
from aligngpt.evaluation.types import SampleScore
from aligngpt.utils.io import write_json as write_whole
from tests.evaluation.benchmark_files import answer_lines, scored, write_lines


def side(scores: Sequence[float], benchmark: str = "gqa", protocol: str = "official", source: str = "a") -> Side:
    return Side(
        source, BENCHMARKS[benchmark], protocol, [SampleScore(i, score, str(score)) for i, score in enumerate(scores)]
    )


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (0, 6), (3, 3), (5, 12), (40, 60)])
def test_the_exact_test_against_all_tosses(one: int, other: int) -> None:
    tosses, fewer = one + other, min(one, other)
    exact = min(1.0, 2 * sum(comb(tosses, heads) for heads in range(fewer + 1)) / 2**tosses)
    assert two_sided_binomial(one, other) == two_sided_binomial(other, one) == pytest.approx(exact, rel=1e-9)


def test_many_tosses() -> None:
    assert two_sided_binomial(50_000, 50_000) == 1
    assert 0 < two_sided_binomial(49_000, 51_000) < 1e-9
    assert two_sided_binomial(0, 5_000) == 0  # too small for a float


def test_mcnemar_by_hand() -> None:
    # 6 questions on which B alone is right, 1 on which A alone is, 3 on which both are.
    result = compare(side([0] * 6 + [1] + [1] * 3), side([1] * 6 + [0] + [1] * 3, source="b"))
    assert (result["first_better"], result["second_better"], result["same"]) == (1, 6, 3)
    assert result["test"] == "McNemar's exact test"
    assert result["p_value"] == pytest.approx(2 * (1 + 7) / 2**7)
    assert result["scores"] == [40, pytest.approx(90)]
    assert result["difference"] == pytest.approx(50)
    assert result["interval"][0] < 50 < result["interval"][1]
    assert result["answers"] == ["a", "b"] and result["left_out"] == 0
    assert result["differing"][6] == {"id": 6, "label": None, "scores": [1, 0], "texts": ["1", "0"]}


def test_the_sign_test_where_answers_are_partly_right() -> None:
    result = compare(side([0.3, 0.9, 1.0]), side([0.6, 0.9, 0.3]))
    assert result["test"] == "sign test"
    assert (result["first_better"], result["second_better"], result["p_value"]) == (1, 1, 1)


def test_the_interval_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(3)
    ones = (rng.random(400) < 0.5).astype(float)
    others = ones.copy()
    others[:20] = 1 - others[:20]
    result = compare(side(ones.tolist()), side(others.tolist()))
    spread = 100 * 2 * 1.96 * np.std(others - ones) / np.sqrt(400)
    low, high = result["interval"]
    assert high - low == pytest.approx(spread, rel=0.15)
    assert high - low < 5  # two independent samples would vary by about 14
    assert compare(side(ones.tolist()), side(ones.tolist()))["interval"] == [0, 0]


def test_the_test_is_right_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    below = 0
    for _ in range(200):
        ones, others = (rng.random((2, 100)) < 0.5).astype(float).tolist()
        below += compare(side(ones), side(others))["p_value"] < 0.05
    assert below <= 16  # 10 are to be expected at most


def test_questions_are_paired_by_id_and_strangers_left_out() -> None:
    first = Side(
        "a", BENCHMARKS["gqa"], "official", [SampleScore(1, 1), SampleScore(2, 0), SampleScore(3, 1), SampleScore(3, 0)]
    )
    second = Side(
        "b",
        BENCHMARKS["gqa"],
        "official",
        [SampleScore("3", 1), SampleScore(4, 1), SampleScore(2, 1), SampleScore(3, 1)],
    )
    result = compare(first, second)
    assert (result["count"], result["left_out"]) == (3, 2)
    assert (result["first_better"], result["second_better"]) == (0, 2)
    with pytest.raises(ValueError, match="have no question in common"):
        compare(side([1]), Side("b", BENCHMARKS["gqa"], "official", [SampleScore(9, 1)]))


def test_what_is_scored_otherwise_is_not_compared() -> None:
    with pytest.raises(ValueError, match="a is scored as gqa, official protocol, a as mme, official protocol"):
        compare(side([1]), side([1], "mme"))
    with pytest.raises(ValueError, match="score both alike"):
        compare(side([1]), side([1], protocol="strict"))


@pytest.fixture
def pope(tmp_path: Path) -> tuple[Path, Path, Path]:
    """POPE labels and the answers of two models."""
    words = ["yes", "no"] * 4
    lines = [{"question_id": i, "image": f"{i}.jpg", "text": "?", "label": word} for i, word in enumerate(words)]
    labels = write_lines(tmp_path / "coco_pope_random.json", lines)
    right = {i: word.title() for i, word in enumerate(words)}
    first = answer_lines(tmp_path / "first.jsonl", right | {0: "No", 1: "Yes"})
    return labels, first, answer_lines(tmp_path / "second.jsonl", right)


def test_a_headline_that_is_no_mean(pope: tuple[Path, Path, Path]) -> None:
    labels, *files = pope
    first, second = (score_side(BENCHMARKS["pope"], [labels], one, "official") for one in files)
    result = compare(first, second)
    assert result["scores"] == [pytest.approx(75), 100]
    assert result["difference"] == pytest.approx(25)
    assert result["p_value"] == 0.5
    assert [one["id"] for one in result["differing"]] == [0, 1]


def test_stored_results_compare_as_answers_do(pope: tuple[Path, Path, Path], tmp_path: Path) -> None:
    labels, *files = pope
    direct = compare(*(score_side(BENCHMARKS["pope"], [labels], one, "strict") for one in files))
    stored = []
    for place, one in enumerate(files):
        write_whole(tmp_path / f"{place}.json", plain(scored("pope", labels, one, "strict")))
        stored.append(read_side(tmp_path / f"{place}.json"))
    again = compare(*stored)
    assert {**again, "answers": None} == {**direct, "answers": None}


def test_two_judges_are_named(pope: tuple[Path, Path, Path], tmp_path: Path) -> None:
    labels, *files = pope
    for one, answered in zip(files, ({"gpt-4-0613": 8}, {"not named": 8}), strict=True):
        folder = tmp_path / one.stem
        write_whole(folder / "score.json", plain(scored("pope", labels, one)))
        write_whole(folder / "reviews-judge.json", {"judge": {"model": "llama"}, "answered_by": answered})
    first, second = (read_side(tmp_path / one.stem / "score.json") for one in files)
    result = compare(first, second)
    assert result["judges"] == ["gpt-4-0613", "llama"]
    assert result["notes"] == ["marked by different judges, gpt-4-0613 and llama: part of the difference may be theirs"]
    assert compare(first, first)["notes"] == [] == compare(replace(first, judge=None), second)["notes"]


def test_questions_outside_the_headline_do_not_count(tmp_path: Path) -> None:
    problems = {name: {"choices": ["x", "y"], "answer": 0, "image": image} for name, image in (("1", "i"), ("2", None))}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["1", "2"]}))
    first = answer_lines(tmp_path / "a.jsonl", {"1": "A", "2": "A"})
    second = answer_lines(tmp_path / "b.jsonl", {"1": "A", "2": "B"})
    sides = [score_side(BENCHMARKS["scienceqa"], [tmp_path], one, "strict") for one in (first, second)]
    assert compare(*sides)["count"] == 1


@pytest.mark.parametrize(
    "content", [{}, {"samples": [{}], "benchmark": "gqa", "protocol": "official"}, {"samples": [], "benchmark": "x"}]
)
def test_what_is_no_results_file(content: dict, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"r\.json: no results of aligngpt eval score --output; .* need --benchmark and --labels"
    ):
        read_side(tmp_path / "r.json")
