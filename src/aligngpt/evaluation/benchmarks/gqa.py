"""GQA: exact match with one answer, over the balanced questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import TITLES, SampleScore
from aligngpt.evaluation.benchmark import LLAVA_FILES, Benchmark, BenchmarkFiles
from aligngpt.evaluation.matching import describe_missing, group_samples, percent, percent_by_category, score_targets
from aligngpt.evaluation.types import Predictions, Protocol, Score, Target

_QUESTIONS = ("testdev_balanced_questions.json", "*questions.json", "data/*questions.json")
_LOOKUPS = ("exist", "query: name", "choose name")  # operations that do not count as reasoning steps
_DETAILED = {
    "structural type": "structural_type",
    "semantic type": "semantic_type",
    "steps number": "steps",
    "words number": "words",
}


def read_labels(paths: Sequence[Path]) -> list[Target]:
    """Read the official questions, an object of question id to question; questions that are not balanced are skipped.

    Raises:
        ValueError: If no question is balanced.
    """
    path = readers.locate_file(paths, _QUESTIONS, "GQA questions")
    targets = readers.parse_object(path, _target, "GQA question")
    if not targets:
        raise ValueError(f"{path}: no question is balanced; pass the balanced questions, which alone are scored")
    return targets


def _target(name: str, record: dict[str, Any]) -> Target | None:
    if not record["isBalanced"]:
        return None
    structural = record["types"]["structural"]
    steps = [f"{step['operation']}: {step['argument']}" for step in record.get("semantic") or ()]
    groups = {
        "form": "open" if structural == "query" else "binary",
        "structural_type": structural,
        "semantic_type": record["types"]["semantic"],
        "steps": str(sum(not any(lookup in step for lookup in _LOOKUPS) for step in steps)),
        "words": str(len(record["question"].split())),
    }
    return Target(name, record["answer"], groups, data=(record.get("groups") or {}).get("global"))


def score(targets: Sequence[Target], predictions: Predictions, protocol: Protocol) -> Score:
    """Score by exact match. Trailing periods and case are ignored in a model's answers, but not in a submission."""

    def compare(target: Target, text: str | None) -> tuple[str | None, float]:
        parsed = text if text is None or predictions.submission else text.rstrip(".").lower()
        return parsed, float(parsed == target.label)

    samples, counts = score_targets(targets, predictions, compare)
    accuracy = percent(samples)
    forms = percent_by_category(samples, "form")
    distribution = _distribution(targets, samples)
    details = {
        "n": len(samples),
        "correct": sum(sample.score == 1 for sample in samples),
        "accuracy_unrounded": accuracy,
        "printed": {
            "binary": forms.get("binary", 0.0),
            "open": forms.get("open", 0.0),
            "accuracy": round(accuracy, 2),
            "distribution": None if distribution is None else round(distribution, 2),
        },
        "detailed": {
            title: {
                value: {"accuracy": round(percent(group), 2), "n": len(group)}
                for value, group in sorted(group_samples(samples, category).items())
            }
            for title, category in _DETAILED.items()
        },
    }
    notes = describe_missing(counts, "the official scorer stops with an error") if protocol == "official" else ()
    return Score(accuracy, f"{accuracy:.2f}", samples, counts, details, notes)


def _distribution(targets: Sequence[Target], samples: Sequence[SampleScore]) -> float | None:
    """Return the chi-square distance of predictions from labels within each group of objects, weighted, over 100."""
    gold: dict[str, Counter[str]] = {}
    predicted: dict[str, Counter[str | None]] = {}
    for target, sample in zip(targets, samples, strict=True):
        if target.data is not None:
            gold.setdefault(target.data, Counter())[target.label] += 1
            predicted.setdefault(target.data, Counter())[sample.prediction] += 1
    distance = 0.0
    for group, labels in gold.items():
        chi_square = sum((predicted[group][label] - count) ** 2 / count for label, count in labels.items())
        distance += chi_square * labels.total()
    total = sum(labels.total() for labels in gold.values())
    return distance / total / 100 if total else None


GQA = Benchmark(
    name="gqa",
    title=TITLES["gqa"],
    metric="accuracy",
    files=BenchmarkFiles(
        questions="gqa/llava_gqa_testdev_balanced.jsonl",
        images="gqa/data/images",
        labels=("gqa/data/testdev_balanced_questions.json",),
        answers="gqa/answers/llava_gqa_testdev_balanced/{model}/merge.jsonl",
        source="images and labels: https://cs.stanford.edu/people/dorarad/gqa/download.html; question file: "
        + LLAVA_FILES,
    ),
    max_new_tokens=128,
    read_labels=read_labels,
    score=score,
    official_caveat="the official scorer stops at a missing prediction",
)
