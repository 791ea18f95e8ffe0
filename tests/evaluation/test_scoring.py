"""What is made of any benchmark's score: headline, intervals, sub-scores, the other protocol, and items as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligngpt.evaluation.artifacts import BenchmarkScore, PredictionCounts, SampleScore
from aligngpt.evaluation.benchmark import Benchmark
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.matching import match_predictions
from aligngpt.evaluation.scoring import compute_interval, compute_metric, resample_metric, score_files
from aligngpt.evaluation.types import Prediction, Predictions
from tests.evaluation.benchmark_files import answer_lines, scored, write_json

MEAN: Benchmark = BENCHMARKS["gqa"]
SUM: Benchmark = BENCHMARKS["mme"]


def samples(scores: list[float], aggregation_group: str | None = "all", first: int = 0) -> list[SampleScore]:
    return [SampleScore(first + i, score, aggregation_group=aggregation_group) for i, score in enumerate(scores)]


def test_every_benchmark_is_whole() -> None:
    assert list(BENCHMARKS) == [
        "vqav2", "gqa", "vizwiz", "scienceqa", "textvqa", "pope", "mme", "mmbench", "mmbench_cn", "seed", "llava_bench",
        "mmvet", "synthetic",
    ]  # fmt: skip
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert benchmark.files.submission is None or benchmark.write_submission is not None
        assert "{model}" in benchmark.files.answers
    short = {"vqav2", "gqa", "vizwiz", "textvqa", "pope", "mme", "seed"}
    assert {name for name, one in BENCHMARKS.items() if one.max_new_tokens == 128} == short
    assert {name for name, one in BENCHMARKS.items() if one.write_submission} == {
        "vqav2", "vizwiz", "mmbench", "mmbench_cn", "seed", "mmvet",
    }  # fmt: skip


def test_headlines_of_strata() -> None:
    both = samples([1, 0, 1, 1], "a") + samples([0, 1], "b", 4) + samples([1] * 9, None, 6)
    assert compute_metric(both, MEAN) == 100 * (0.75 + 0.5) / 2
    assert compute_metric(both, SUM) == 200 * (0.75 + 0.5)
    assert math.isnan(compute_metric([], MEAN))
    ratio = [
        SampleScore(1, 1, value=3, weight=4),
        SampleScore(2, 0, value=0, weight=0),
        SampleScore(3, 0, value=1, weight=4),
    ]
    assert compute_metric(ratio, MEAN) == 50
    assert compute_metric(ratio[1:2], MEAN) == 0


def test_an_interval_is_that_of_the_headline() -> None:
    many = samples([1.0, 0.0] * 200)
    low, high = compute_interval(many, MEAN) or (0, 0)
    assert high - low == pytest.approx(100 * 2 * 1.96 * 0.5 / math.sqrt(400), rel=0.1)
    assert low < 50 < high
    assert compute_interval([], MEAN) is None
    assert compute_interval(samples([1.0, 1.0]), MEAN) is None  # no width
    # The sum of two strata varies as their variances add up.
    low, high = compute_interval(samples([1.0, 0.0] * 200, "a") + samples([1.0, 0.0] * 200, "b", 400), SUM) or (0, 0)
    assert high - low == pytest.approx(200 * math.sqrt(2) * 2 * 1.96 * 0.5 / math.sqrt(400), rel=0.1)


def test_models_are_resampled_together() -> None:
    rng = np.random.default_rng(1)
    ones = samples((rng.random(100) < 0.5).astype(float).tolist())
    others = [replace(sample, score=min(1.0, sample.score + (i == 0))) for i, sample in enumerate(ones)]
    first, second = resample_metric([ones, others], MEAN)
    assert set(np.round(second - first, 6)) <= {float(i) for i in range(10)}
    assert first.std() > 3


def test_the_result_of_a_small_file(tmp_path: Path) -> None:
    def question(answer: str, structural: str) -> dict[str, Any]:
        types = {"structural": structural, "semantic": "attr"}
        return {"question": "Which one?", "answer": answer, "isBalanced": True, "types": types}

    labels = {str(i): question("yes", "verify" if i % 2 else "query") for i in range(12)}
    texts = {str(i): "Yes" if i % 3 else "No" for i in range(11)}
    given = answer_lines(tmp_path / "a.jsonl", texts)
    result = scored("gqa", write_json(tmp_path / "q.json", labels), given)
    assert list(result) == [
        "schema_version", "benchmark", "metric", "higher_is_better", "protocol", "score", "formatted", "ci95",
        "n_samples", "counts", "protocols", "groups", "details", "notes", "samples",
    ]  # fmt: skip
    assert (result["benchmark"], result["protocol"], result["n_samples"]) == ("gqa", "official", 12)
    assert result["score"] == pytest.approx(100 * 7 / 12)
    assert result["ci95"][0] < result["score"] < result["ci95"][1]
    form = result["groups"]["form"]
    assert form["binary"]["n_samples"] == form["open"]["n_samples"] == 6
    assert form["binary"]["score"] == pytest.approx(100 * 3 / 6)
    assert result["samples"][1] == {
        "id": "1",
        "score": 1.0,
        "text": "Yes",
        "prediction": "yes",
        "label": "yes",
        "groups": {"form": "binary", "structural_type": "verify", "semantic_type": "attr", "steps": "0", "words": "2"},
    }
    score_files(MEAN, [tmp_path / "q.json"], given).write(tmp_path)
    assert json.loads((tmp_path / "score.json").read_text()) == json.loads(json.dumps(result))
    assert BenchmarkScore.read(tmp_path).samples[1].groups["words"] == "2"


def test_numbered_parts_stand_in_their_order(tmp_path: Path) -> None:
    labels = {}
    for i in (2, 10, 1):
        question = " ".join(["w"] * i)
        labels[str(i)] = {"question": question, "answer": "x", "isBalanced": True} | {
            "types": {"structural": "query", "semantic": "attr"}
        }
    result = scored("gqa", write_json(tmp_path / "q.json", labels), answer_lines(tmp_path / "a.jsonl", {"1": "x"}))
    assert list(result["groups"]["words"]) == ["1", "2", "10"]


def test_answers_to_other_questions_are_told(tmp_path: Path) -> None:
    labels = {
        "1": {"question": "Q?", "answer": "x", "isBalanced": True, "types": {"structural": "query", "semantic": "a"}}
    }
    given = answer_lines(tmp_path / "a.jsonl", {"1": "x", "2": "x", "3": "x"})
    result = scored("gqa", write_json(tmp_path / "q.json", labels), given)
    assert result["notes"] == ["answers to no question of the labels: 2 of 3"]
    assert scored("gqa", tmp_path / "q.json", given, ignore=("2", "3"))["notes"] == []


def test_match_counts() -> None:
    rows = [Prediction(1, "a"), Prediction("1", "b"), Prediction("x", "c"), Prediction(3, "d")]
    found, count = match_predictions([1, 2, "x"], Predictions("file", rows))
    assert {name: row.text for name, row in found.items()} == {"1": "b", "x": "c"}
    assert (count.n_missing, count.n_extra, count.n_duplicates) == (1, 1, 1)
    with pytest.raises(ValueError, match=r"file: none of its 4 predictions .* begin with 1, those .* with '7'"):
        match_predictions([7], Predictions("file", rows))


@pytest.mark.parametrize(
    "sample",
    [
        SampleScore(1, 0.5),
        SampleScore("a", 1.0, "x", ["x"], "y", {"kind": "z", "many": ("u", "v")}, None, 2.0, 3.0),
        SampleScore(1, 0.0, "", None, None, {}, "part", 0.0, 0.0),
    ],
)
def test_samples_are_read_as_they_were_written(sample: SampleScore, tmp_path: Path) -> None:
    whole = BenchmarkScore(
        benchmark="gqa", metric="accuracy", protocol="official", score=None, formatted="nan", ci95=None, n_samples=1,
        counts=PredictionCounts(n_predictions=1, n_missing=0, n_extra=0, n_duplicates=0), protocols={}, groups={},
        details={"accuracy": math.nan}, notes=[], samples=[replace(sample, parts=(sample,))],
    )  # fmt: skip
    (back,) = BenchmarkScore.read(whole.write(tmp_path)).samples
    assert back == replace(sample, parts=(sample,)) and back.terms == sample.terms
    assert json.loads((tmp_path / "score.json").read_text())["details"] == {"accuracy": None}


@pytest.mark.parametrize("sample", [{"id": 1}, {"score": 1}, {"id": 1, "score": "x"}])
def test_what_is_no_sample(sample: dict[str, Any], tmp_path: Path) -> None:
    labels = {"1": {"question": "Q", "answer": "x", "isBalanced": True, "types": {"structural": "a", "semantic": "b"}}}
    given = answer_lines(tmp_path / "a.jsonl", {"1": "x"})
    result = scored("gqa", write_json(tmp_path / "q.json", labels), given)
    with pytest.raises(ValueError, match=r"score\.json: samples\.0\."):
        BenchmarkScore.read(write_json(tmp_path / "score.json", result | {"samples": [sample]}))
