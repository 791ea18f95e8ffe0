"""Output folders as `aligngpt eval run` writes them, with four benchmarks, and comparisons of two models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from aligngpt.evaluation.artifacts import (
    BenchmarkResult,
    BenchmarkScore,
    ComparedModel,
    Comparison,
    DifferingSample,
    EvalResults,
    EvalRunConfig,
    GateMeans,
    GateStats,
    GroupScore,
    PredictionCounts,
    UnreadableImageRecord,
)

QUESTIONS = 30
WEIGHTS = {"gqa": [0.5, 0.3, 0.2], "pope": [0.2, 0.3, 0.5]}
TITLES = {"gqa": "GQA", "pope": "POPE", "textvqa": "TextVQA", "vqav2": "VQAv2"}


def make_score(name: str, value: float, ci95: tuple[float, float] | None = None, **changes: Any) -> BenchmarkScore:
    fields: dict[str, Any] = {
        "benchmark": name,
        "metric": "F1" if name == "pope" else "accuracy",
        "protocol": "official",
        "score": value,
        "formatted": f"{value:.1f}",
        "ci95": ci95,
        "n_samples": QUESTIONS,
        "counts": PredictionCounts(n_predictions=QUESTIONS, n_missing=0, n_extra=0, n_duplicates=0),
        "protocols": {"official": value, "strict": value},
        "groups": {},
        "details": {},
        "notes": [],
        "samples": [],
    }
    return BenchmarkScore(**fields | changes)


def make_gate(weights: list[float], n_samples: int = QUESTIONS, ci95: tuple[float, float] | None = None) -> GateMeans:
    entropy = -sum(weight * math.log(weight) for weight in weights)
    return GateMeans(n_samples=n_samples, weights=weights, entropy=entropy, entropy_ci95=ci95)


def make_results(folder: Path, scores: list[BenchmarkScore], **changes: Any) -> Path:
    """Write the files of some benchmarks, each with a run of `QUESTIONS` questions."""
    rows = []
    for score in scores:
        name = score.benchmark
        (folder / name).mkdir(parents=True)
        score.write(folder / name)
        _make_config(name).write(folder / name)
        if weights := WEIGHTS.get(name):
            kinds = {"one": make_gate(weights), "two": make_gate(weights[::-1])}
            GateStats(overall=make_gate(weights), by_kind=kinds, by_group={}).write(folder / name)
        title = TITLES.get(name, "Synthetic")
        fields: dict[str, Any] = {"title": title, "metric": score.metric, "score": score.score, "ci95": score.ci95}
        fields |= {"n_samples": score.n_samples, "n_questions": QUESTIONS, "alignment": "adaptive", "seconds": 61.0}
        rows.append(BenchmarkResult(benchmark=name, **fields | changes))
    EvalResults(model="tiny", model_hash="0", versions={"torch": "2.13"}, benchmarks=rows).write(
        folder / "results.json"
    )
    return folder


def make_output(folder: Path) -> Path:
    """Write the results of GQA, POPE (with an unreadable image), TextVQA (with notes), and VQAv2 without a score."""
    groups = {
        "form": {"open": _group(60.0, (40.0, 80.0)), "binary": _group(73.3, (53.0, 93.0))},
        "structural_type": {"query": _group(60.0, (40.0, 80.0)), "verify": _group(73.3, None)},
    }
    counts = PredictionCounts(n_predictions=29, n_missing=1, n_extra=0, n_duplicates=0)
    note = "official 20.69, strict 20.00: the official score is the mean over the lines of the predictions"
    scores = [
        make_score("gqa", 66.667, (50.0, 83.3), groups=groups),
        make_score("pope", 80.0, (61.5, 92.3)),
        make_score(
            "textvqa", 20.69, (6.9, 34.5), counts=counts, protocols={"official": 20.69, "strict": 20.0}, notes=[note]
        ),
    ]
    make_results(folder, scores)
    unreadable = UnreadableImageRecord(question_id=3, image="<3>.jpg", reason="truncated image")
    edit_row(folder, "pope", n_unreadable_images=1, unreadable_images=[unreadable.model_dump()])
    results = EvalResults.read(folder)
    row = BenchmarkResult(benchmark="vqav2", title="VQAv2", metric="accuracy", reasons=["scored by a server"])
    results.model_copy(update={"benchmarks": [*results.benchmarks, row]}).write(folder / "results.json")
    return folder


def _group(score: float, ci95: tuple[float, float] | None) -> GroupScore:
    return GroupScore(score=score, ci95=ci95, n_samples=15)


def _make_config(name: str) -> EvalRunConfig:
    return EvalRunConfig(
        benchmark=name,
        model="tiny",
        model_hash="0",
        template="vicuna_v1",
        template_hash="0",
        alignment="adaptive",
        dtype="float32",
        generation={"do_sample": False},
        limit=None,
        data_hash="0",
        data_note=None,
        image_sizes=[],
        versions={},
    )


def make_comparison(name: str, difference: float, ci95: tuple[float, float], **changes: Any) -> Comparison:
    """Return a comparison of `ours` with `other <b>`; 3 samples are better in either, one of them is shown."""
    sample = DifferingSample(
        id=1, label="thing", scores=(1.0, 0.0), texts=("Thing.", "<i>Hat</i>"), question="What is <1>?"
    )
    fields: dict[str, Any] = {
        "benchmark": name,
        "title": TITLES.get(name, name),
        "metric": "accuracy",
        "protocol": "official",
        "model": ComparedModel(name="ours", source="a", score=60.0, n_better=3, judge=None),
        "baseline": ComparedModel(name="other <b>", source="b", score=60.0 - difference, n_better=2, judge=None),
        "n_samples": QUESTIONS,
        "n_unpaired": 0,
        "n_equal": QUESTIONS - 5,
        "difference": difference,
        "ci95": ci95,
        "test": "McNemar",
        "p_value": 0.625,
        "differing": [sample] * 5,
        "examples": [sample],
    }
    return Comparison(**fields | changes)


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_row(folder: Path, benchmark: str, **changes: Any) -> None:
    """Change the row of a benchmark in `results.json`."""
    content = json.loads((folder / "results.json").read_text())
    rows = [row | changes if row["benchmark"] == benchmark else row for row in content["benchmarks"]]
    edit(folder / "results.json", benchmarks=rows)
