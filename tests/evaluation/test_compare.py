"""Two models on the same questions: tests worked by hand, and what may be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest

from aligngpt.evaluation.artifacts import DifferingSample, JudgeResult, JudgeUsage, PredictionCounts, SampleScore
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.compare import ScoredModel, compare_models, read_scored_model, score_model
from aligngpt.evaluation.metrics import paired_test
from tests.evaluation.benchmark_files import answer_lines, scored, write_json, write_lines


def side(
    scores: Sequence[float], benchmark: str = "gqa", protocol: str = "official", name: str = "model"
) -> ScoredModel:
    samples = [SampleScore(i, score, str(score)) for i, score in enumerate(scores)]
    return ScoredModel(name, f"{name}.json", BENCHMARKS[benchmark], protocol, samples)


def coins(heads: int, tails: int) -> float:
    return paired_test([1] * heads + [0] * tails, [0] * heads + [1] * tails).p_value


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (0, 6), (3, 3), (5, 12), (40, 60)])
def test_the_exact_test_against_all_tosses(one: int, other: int) -> None:
    tosses, fewer = one + other, min(one, other)
    exact = min(1.0, 2 * sum(comb(tosses, heads) for heads in range(fewer + 1)) / 2**tosses)
    assert coins(one, other) == coins(other, one) == pytest.approx(exact, rel=1e-9)


def test_many_tosses() -> None:
    assert coins(50_000, 50_000) == 1
    assert 0 < coins(49_000, 51_000) < 1e-9
    assert coins(0, 5_000) == 0  # too small for a float


def test_mcnemar_by_hand() -> None:
    # 6 questions on which the model alone is right, 1 on which the baseline alone is, 3 on which both are.
    result = compare_models(side([1] * 6 + [0] + [1] * 3, name="adaptive"), side([0] * 6 + [1] + [1] * 3, name="none"))
    assert (result.model.n_better, result.baseline.n_better, result.n_equal) == (6, 1, 3)
    assert result.test == "McNemar"
    assert result.p_value == pytest.approx(2 * (1 + 7) / 2**7)
    assert (result.model.score, result.baseline.score) == (pytest.approx(90), 40)
    assert result.difference == pytest.approx(50)
    assert result.ci95[0] < 50 < result.ci95[1]
    assert (result.model.name, result.baseline.name, result.n_unpaired) == ("adaptive", "none", 0)
    assert result.differing[6] == DifferingSample(id=6, label=None, scores=(0, 1), texts=("0", "1"))


def test_the_sign_test_where_answers_are_partly_right() -> None:
    result = compare_models(side([0.3, 0.9, 1.0]), side([0.6, 0.9, 0.3]))
    assert result.test == "sign"
    assert (result.model.n_better, result.baseline.n_better, result.p_value) == (1, 1, 1)


def test_the_interval_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(3)
    ones = (rng.random(400) < 0.5).astype(float)
    others = ones.copy()
    others[:20] = 1 - others[:20]
    result = compare_models(side(others.tolist()), side(ones.tolist()))
    spread = 100 * 2 * 1.96 * np.std(others - ones) / np.sqrt(400)
    low, high = result.ci95
    assert high - low == pytest.approx(spread, rel=0.15)
    assert high - low < 5  # two independent samples would vary by about 14
    assert compare_models(side(ones.tolist()), side(ones.tolist())).ci95 == (0, 0)


def test_the_test_is_right_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    below = 0
    for _ in range(200):
        ones, others = (rng.random((2, 100)) < 0.5).astype(float).tolist()
        below += compare_models(side(ones), side(others)).p_value < 0.05
    assert below <= 16  # 10 are to be expected at most


def test_questions_are_paired_by_id_and_strangers_left_out() -> None:
    pairs: list[list[tuple[int | str, int]]] = [
        [(1, 1), (2, 0), (3, 1), (3, 0)],
        [("3", 1), (4, 1), (2, 1), (3, 1)],
    ]
    samples = [[SampleScore(*pair) for pair in own] for own in pairs]
    second, first = (ScoredModel("a", "a", BENCHMARKS["gqa"], "official", own) for own in samples)
    result = compare_models(first, second)
    assert (result.n_samples, result.n_unpaired) == (3, 2)
    assert (result.model.n_better, result.baseline.n_better) == (2, 0)
    with pytest.raises(ValueError, match="have no question in common"):
        compare_models(side([1]), ScoredModel("b", "b", BENCHMARKS["gqa"], "official", [SampleScore(9, 1)]))


def test_what_is_scored_otherwise_is_not_compared() -> None:
    with pytest.raises(ValueError, match=r"scored as gqa by the official protocol, .* as mme by the official protocol"):
        compare_models(side([1]), side([1], "mme"))
    with pytest.raises(ValueError, match="score both alike"):
        compare_models(side([1]), side([1], protocol="strict"))


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
    first, second = (score_model(BENCHMARKS["pope"], [labels], one, "official") for one in files)
    result = compare_models(second, first)
    assert (result.model.score, result.baseline.score) == (100, pytest.approx(75))
    assert result.difference == pytest.approx(25)
    assert result.p_value == 0.5
    assert [one.id for one in result.differing] == [0, 1]


def test_stored_results_compare_as_answers_do(pope: tuple[Path, Path, Path], tmp_path: Path) -> None:
    labels, *files = pope
    direct = [score_model(BENCHMARKS["pope"], [labels], one, "strict") for one in files]
    stored = []
    for place, one in enumerate(files):
        path = write_json(tmp_path / f"{place}.json", scored("pope", labels, one, "strict"))
        stored.append(read_scored_model(path, one.stem))
    again = compare_models(*stored)
    sources = [replace(one, source="") for one in stored]
    assert compare_models(*sources) == compare_models(*(replace(one, source="") for one in direct))
    assert again.model.source == str(tmp_path / "0.json")


def judge_result(answered_by: dict[str, int]) -> JudgeResult:
    usage = JudgeUsage(n_replies=8, n_replies_without_usage=0, prompt_tokens=1, completion_tokens=1, cost=None)
    return JudgeResult(
        benchmark="pope", config={"judge_model": "llama"}, answered_by=answered_by, system_fingerprints=[], n_samples=8,
        counts=PredictionCounts(n_predictions=8, n_missing=0, n_extra=0, n_duplicates=0), unanswered=[], unreadable=[],
        scores={}, notes=[], usage=usage, usage_this_call=usage,
    )  # fmt: skip


def test_two_judges_are_named(pope: tuple[Path, Path, Path], tmp_path: Path) -> None:
    labels, *files = pope
    for one, answered in zip(files, ({"gpt-4-0613": 8}, {"not named": 8}), strict=True):
        folder = tmp_path / one.stem
        write_json(folder / "score.json", scored("pope", labels, one))
        judge_result(answered).write(folder / "reviews-judge.json")
    first, second = (read_scored_model(tmp_path / one.stem / "score.json") for one in files)
    result = compare_models(first, second)
    assert (result.model.judge, result.baseline.judge) == ("gpt-4-0613", "llama")
    assert result.notes == ["scored by different judges, gpt-4-0613 and llama: part of the difference may be theirs"]
    assert compare_models(first, first).notes == [] == compare_models(replace(first, judge=None), second).notes


def test_questions_outside_the_headline_do_not_count(tmp_path: Path) -> None:
    problems = {name: {"choices": ["x", "y"], "answer": 0, "image": image} for name, image in (("1", "i"), ("2", None))}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["1", "2"]}))
    first = answer_lines(tmp_path / "a.jsonl", {"1": "A", "2": "A"})
    second = answer_lines(tmp_path / "b.jsonl", {"1": "A", "2": "B"})
    sides = [score_model(BENCHMARKS["scienceqa"], [tmp_path], one, "strict") for one in (first, second)]
    assert compare_models(*sides).n_samples == 1


@pytest.mark.parametrize(
    "content", [{}, {"samples": [{}], "benchmark": "gqa", "protocol": "official"}, {"samples": [], "benchmark": "x"}]
)
def test_what_is_no_results_file(content: dict, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError,
        match=r"r\.json: not a score file of `aligngpt eval score --output` .* pass --benchmark and --labels",
    ):
        read_scored_model(tmp_path / "r.json")
