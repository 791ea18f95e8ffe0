"""SEED-Bench: multiple choice by letter; the reported number is that of the image questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.evaluation.metrics import mean
from aligngpt.evaluation.readers import lacking, load_json, load_records, locate, read_answers, read_questions
from aligngpt.evaluation.types import (
    LLAVA_FILES,
    Benchmark,
    BenchmarkFiles,
    Id,
    MatchCounts,
    Prediction,
    Predictions,
    Protocol,
    SampleScore,
    Score,
    group_samples,
    match_predictions,
)
from aligngpt.utils.io import atomic_path


@dataclass(frozen=True)
class Label:
    """A question's letter, whether it is about an image or a video, and what it tests, where the file says so."""

    id: Id
    answer: str
    data_type: str
    dimension: str | None

    @property
    def key(self) -> Id:
        """The id the official scorer looks up: an integer if it can be read as one."""
        try:
            return int(self.id)
        except ValueError:
            return self.id


def read_labels(paths: Sequence[Path]) -> list[Label]:
    """Read `SEED-Bench.json`, or lines with `question_id`, `answer` and `data_type`.

    Raises:
        ValueError: If it is another file.
    """
    path = locate(paths, ("SEED-Bench.json", "labels*.jsonl"), "SEED-Bench labels")
    names: dict[Any, str] = {}
    if path.name.removesuffix(".gz").endswith(".json"):
        content = load_json(path)
        if not isinstance(content, dict) or not content.get("questions"):
            raise ValueError(f"{path}: no SEED-Bench labels: expected an object with a list `questions`")
        names = {number: name for name, number in content.get("question_type", {}).items()}
        records = list(enumerate(content["questions"], start=1))
    else:
        records = load_records(path)
    return [_label(record, names, path, line) for line, record in records]


def _label(record: dict[str, Any], names: Mapping[Any, str], path: Path, line: int) -> Label:
    try:
        number = record.get("question_type_id")
        dimension = None if number is None else names.get(number, str(number))
        return Label(record["question_id"], record["answer"], record["data_type"], dimension)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: question {line}: {lacking(error)}; are these SEED-Bench's labels?") from None


def score(labels: Sequence[Label], answers: Predictions, protocol: Protocol) -> Score:
    """Score by the letter, exactly as given: `B.` and ` B` are wrong.

    Raises:
        ValueError: If there is no image question.
    """
    by_text, count = match_predictions((label.id for label in labels), answers)
    notes: tuple[str, ...] = ()
    if protocol == "official":
        by_id = {row.id: row for row in answers.rows}
        found = {label.id: by_id.get(label.key) for label in labels}
        lost = sum(row is None and str(name) in by_text for name, row in found.items())
        count = MatchCounts(sum(row is None for row in found.values()), count.extra, count.duplicate)
        if lost:
            notes = (f"answers whose id is text, where the official scorer looks for a number: {lost}",)
    else:
        found = {label.id: by_text.get(str(label.id)) for label in labels}
    samples = [_item(label, found[label.id]) for label in labels]
    images = [sample for sample in samples if sample.aggregation_group]
    if not images:
        raise ValueError("the labels have no image questions, which are what is reported")
    image = 100 * mean(sample.score for sample in images)
    details = _details(samples, image)
    stops = [
        name
        for name, part in group_samples(samples, "dimension").items()
        if not any(_counted(sample) for sample in part)
    ]
    if stops and protocol == "official":
        notes += (f"{', '.join(stops)}: nothing right and nothing missing, at which the official scorer stops",)
    return Score(image, f"{image:.2f}", samples, count, details, notes)


def _counted(sample: SampleScore) -> bool:
    return sample.score == 1 or sample.text is None


def _item(label: Label, answer: Prediction | None) -> SampleScore:
    text = None if answer is None else answer.text
    groups = {"data_type": label.data_type} | ({"dimension": label.dimension} if label.dimension else {})
    aggregation_group = "all" if label.data_type == "image" else None
    return SampleScore(label.id, float(text == label.answer), text, text, label.answer, groups, aggregation_group)


def _details(samples: Sequence[SampleScore], image: float) -> dict[str, Any]:
    formatted = {
        name: round(100 * mean(sample.score for sample in part), 2)
        for name, part in group_samples(samples, "dimension").items()
    }
    formatted["Total"] = round(100 * mean(sample.score for sample in samples), 2)
    for data_type, part in group_samples(samples, "data_type").items():
        formatted[data_type] = round(100 * mean(sample.score for sample in part), 2)
    images = [sample for sample in samples if sample.aggregation_group]
    return {
        "printed": formatted,
        "image_accuracy_printed": round(image, 2),
        "correct": sum(sample.score == 1 for sample in images),
        "total": len(images),
        "image_accuracy": image,
    }


def write_submission(questions: Path, answers: Predictions, output: Path) -> None:
    """Write the leaderboard's form, one line a question in the order of the label file, empty where unanswered."""
    labels = read_labels([questions])
    given, _ = match_predictions((label.id for label in labels), answers)
    texts = {name: answer.text for name, answer in given.items()}
    lines = [{"question_id": str(one.id), "prediction": texts.get(str(one.id), "")} for one in labels]
    with atomic_path(output) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


SEED = Benchmark(
    name="seed",
    title="SEED-I",
    metric="accuracy of image questions",
    files=BenchmarkFiles(
        questions="seed_bench/llava-seed-bench.jsonl",
        images="seed_bench",
        labels=("seed_bench/SEED-Bench.json",),
        answers="seed_bench/answers/{model}/merge.jsonl",
        source="images and labels: https://github.com/AILab-CVC/SEED-Bench; question file: " + LLAVA_FILES,
        submission="seed_bench/answers_upload/{model}.jsonl",
        submission_questions="seed_bench/SEED-Bench.json",
    ),
    max_new_tokens=128,
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_answers,
    score=score,
    write_submission=write_submission,
    official_caveat="the official scorer looks answers to image questions up by a number: an id in quotes is not found",
)
