"""SEED-Bench: multiple choice by letter; the primary metric covers the image questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import TITLES, Id
from aligngpt.evaluation.benchmark import LLAVA_FILES, Benchmark, BenchmarkFiles
from aligngpt.evaluation.matching import get_predicted_texts, group_samples, match_predictions, percent, score_target
from aligngpt.evaluation.types import Predictions, Protocol, Score, Target
from aligngpt.utils.io import write_jsonl


def read_labels(paths: Sequence[Path]) -> list[Target]:
    """Read `SEED-Bench.json`, or lines with `question_id`, `answer` and `data_type`."""
    path = readers.locate_file(paths, ("SEED-Bench.json", "labels*.jsonl"), "SEED-Bench labels")
    dimensions: dict[Any, str] = {}
    if path.name.removesuffix(".gz").endswith(".json"):
        content = readers.load_object(path, "SEED-Bench labels")
        records = readers.get_list(content, "questions", path, "SEED-Bench labels")
        dimensions = {number: name for name, number in content.get("question_type", {}).items()}
    else:
        records = readers.load_records(path)
    return readers.parse_records(records, partial(_target, dimensions), path, "SEED-Bench question")


def _target(dimensions: Mapping[Any, str], line: int, record: dict[str, Any]) -> Target:
    number = record.get("question_type_id")
    groups = {"data_type": record["data_type"]}
    if number is not None:
        groups["dimension"] = dimensions.get(number, str(number))
    group = "all" if record["data_type"] == "image" else None
    return Target(record["question_id"], record["answer"], groups, group)


def score(targets: Sequence[Target], predictions: Predictions, protocol: Protocol) -> Score:
    """Score by the letter, exactly as given: `B.` and ` B` are wrong.

    Raises:
        ValueError: If there is no image question.
    """
    matches, counts = match_predictions((target.id for target in targets), predictions)
    rows = {target.id: matches.get(str(target.id)) for target in targets}
    notes: list[str] = []
    if protocol == "official":  # ids are looked up as numbers where they can be read as one
        by_id = {row.id: row for row in predictions.rows}
        rows = {name: by_id.get(_as_number(name)) for name in rows}
        counts = counts.model_copy(update={"n_missing": sum(row is None for row in rows.values())})
        num_lost = sum(row is None and str(name) in matches for name, row in rows.items())
        if num_lost:
            notes.append(f"predictions whose id is text, where the official scorer looks up a number: {num_lost}")
    samples = [score_target(target, rows[target.id], _compare) for target in targets]
    by_dimension, by_type = group_samples(samples, "dimension"), group_samples(samples, "data_type")
    stops = [
        name for name, group in by_dimension.items() if not any(row.score == 1 or row.text is None for row in group)
    ]
    if stops and protocol == "official":
        notes.append(f"{', '.join(stops)}: nothing correct and nothing missing; the official scorer stops here")
    images = [sample for sample in samples if sample.aggregation_group]
    if not images:
        raise ValueError("the SEED-Bench labels have no image questions; pass the labels of the image questions")
    accuracy = percent(images)
    printed = {name: round(percent(group), 2) for name, group in by_dimension.items()}
    printed["Total"] = round(percent(samples), 2)
    details = {
        "printed": printed | {name: round(percent(group), 2) for name, group in by_type.items()},
        "image_accuracy_printed": round(accuracy, 2),
        "correct": sum(sample.score == 1 for sample in images),
        "total": len(images),
        "image_accuracy": accuracy,
    }
    return Score(accuracy, f"{accuracy:.2f}", samples, counts, details, tuple(notes))


def _compare(target: Target, text: str | None) -> tuple[str | None, float]:
    return text, float(text == target.label)


def _as_number(name: Id) -> Id:
    try:
        return int(name)
    except ValueError:
        return name


def write_submission(questions: Path, predictions: Predictions, output: Path) -> None:
    """Write the leaderboard's file: a line per question in the order of the label file, empty if it is missing."""
    rows = get_predicted_texts([str(target.id) for target in read_labels([questions])], predictions)
    write_jsonl(output, [{"question_id": name, "prediction": text} for name, text in rows])


SEED = Benchmark(
    name="seed",
    title=TITLES["seed"],
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
    read_labels=read_labels,
    score=score,
    write_submission=write_submission,
    official_caveat="the official scorer looks up predictions of image questions by number: an id in quotes is missing",
)
