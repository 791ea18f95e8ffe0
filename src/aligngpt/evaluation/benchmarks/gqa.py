"""GQA: exact match with one answer, balanced questions alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.evaluation.metrics import mean
from aligngpt.evaluation.readers import lacking, load_object, locate, read_answers, read_questions
from aligngpt.evaluation.types import (
    LLAVA_FILES,
    Benchmark,
    BenchmarkFiles,
    Predictions,
    Protocol,
    SampleScore,
    Score,
    group_samples,
    match_predictions,
    missing_note,
)

_NO_STEPS = ("exist", "query: name", "choose name")
_DETAILED = {
    "structural type": "structural_type",
    "semantic type": "semantic_type",
    "steps number": "steps",
    "words number": "words",
}


@dataclass(frozen=True)
class Question:
    """A balanced question: its answer, its categories, and the group of objects it could be answered by."""

    id: str
    answer: str
    groups: dict[str, str]
    answers_from: str | None


def read_labels(paths: Sequence[Path]) -> list[Question]:
    """Read the official questions: an object of question id to question; those that are not balanced are left out.

    Raises:
        ValueError: If it is another file, or none of its questions is balanced.
    """
    path = locate(
        paths, ("testdev_balanced_questions.json", "*questions.json", "data/*questions.json"), "GQA questions"
    )
    records = load_object(path, "GQA questions, an object of question id to question")
    try:
        labels = [_question(name, record) for name, record in records.items() if record["isBalanced"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no GQA questions: {lacking(error)}") from None
    if not labels:
        raise ValueError(f"{path}: none of its {len(records)} questions is balanced, and only those are scored")
    return labels


def _question(name: str, record: dict[str, Any]) -> Question:
    structural = record["types"]["structural"]
    steps = [f"{step['operation']}: {step['argument']}" for step in record.get("semantic") or ()]
    groups = {
        "form": "open" if structural == "query" else "binary",
        "structural_type": structural,
        "semantic_type": record["types"]["semantic"],
        "steps": str(sum(not any(word in step for word in _NO_STEPS) for step in steps)),
        "words": str(len(record["question"].split())),
    }
    return Question(name, record["answer"], groups, (record.get("groups") or {}).get("global"))


def score(labels: Sequence[Question], answers: Predictions, protocol: Protocol) -> Score:
    """Score by exact match. Of a model's answer periods at the end and case are dropped, of a prediction nothing."""
    given, count = match_predictions((label.id for label in labels), answers)
    samples, told = [], []
    for label in labels:
        answer = given.get(label.id)
        prediction = None if answer is None else answer.text if answers.submission else _prediction(answer.text)
        told.append(prediction)
        right = float(prediction == label.answer)
        samples.append(
            SampleScore(
                label.id, right, None if answer is None else answer.text, prediction, label.answer, label.groups
            )
        )
    accuracy = 100 * mean(sample.score for sample in samples)
    forms = {form: 100 * mean(sample.score for sample in part) for form, part in group_samples(samples, "form").items()}
    distribution = _distribution(labels, told)
    details = {
        "n": len(samples),
        "correct": sum(sample.score == 1 for sample in samples),
        "accuracy_unrounded": accuracy,
        "printed": {
            "binary": round(forms.get("binary", 0.0), 2),
            "open": round(forms.get("open", 0.0), 2),
            "accuracy": round(accuracy, 2),
            "distribution": None if distribution is None else round(distribution, 2),
        },
        "detailed": {title: _part_means(samples, group) for title, group in _DETAILED.items()},
    }
    notes = missing_note(count, "the official scorer stops with an error") if protocol == "official" else ()
    return Score(accuracy, f"{accuracy:.2f}", samples, count, details, notes)


def _prediction(text: str) -> str:
    return text.rstrip(".").lower()


def _part_means(samples: Sequence[SampleScore], group: str) -> dict[str, dict[str, float]]:
    parts = group_samples(samples, group)
    return {
        part: {"accuracy": round(100 * mean(sample.score for sample in parts[part]), 2), "n": len(parts[part])}
        for part in sorted(parts)
    }


def _distribution(labels: Sequence[Question], told: Sequence[str | None]) -> float | None:
    """Chi-square distance of told answers from right ones within each group, weighted by group, over 100."""
    gold: dict[str, Counter[str]] = {}
    predicted: dict[str, Counter[str | None]] = {}
    for label, prediction in zip(labels, told, strict=True):
        if label.answers_from is not None:
            gold.setdefault(label.answers_from, Counter())[label.answer] += 1
            predicted.setdefault(label.answers_from, Counter())[prediction] += 1
    distance = 0.0
    for group, answers in gold.items():
        off = sum((predicted[group][answer] - times) ** 2 / times for answer, times in answers.items())
        distance += off * answers.total()
    total = sum(answers.total() for answers in gold.values())
    return distance / total / 100 if total else None


GQA = Benchmark(
    name="gqa",
    title="GQA",
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
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_answers,
    score=score,
    official_caveat="the official scorer stops at a question without an answer",
)
