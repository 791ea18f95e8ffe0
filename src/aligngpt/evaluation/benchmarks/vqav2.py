"""VQAv2: short answers compared with those of ten people; test-dev and test are scored by a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import TITLES
from aligngpt.evaluation.benchmark import LLAVA_FILES, Benchmark, BenchmarkFiles
from aligngpt.evaluation.benchmarks import vqa_normalization as vqa
from aligngpt.evaluation.matching import (
    describe_missing,
    get_predicted_texts,
    percent,
    percent_by_category,
    score_targets,
)
from aligngpt.evaluation.types import Predictions, Protocol, Score, Target
from aligngpt.utils.io import write_json


def read_labels(paths: Sequence[Path]) -> list[Target]:
    """Read the official annotations: an object whose `annotations` each have ten `answers`."""
    path = readers.locate_file(paths, ("v2_mscoco_*_annotations.json", "*annotations.json"), "VQAv2 annotations")
    return readers.parse_list(path, "annotations", _target, "VQAv2 annotation")


def _target(line: int, record: dict[str, Any]) -> Target:
    answers = tuple(vqa.join_lines(person["answer"]) for person in record["answers"])
    groups = {"answer_type": record["answer_type"], "question_type": record["question_type"]}
    return Target(record["question_id"], vqa.most_common(answers), groups, answers=answers)


def score(targets: Sequence[Target], predictions: Predictions, protocol: Protocol) -> Score:
    """Score by VQA accuracy. Predictions are normalized first, as for an upload; a submission is not."""

    def compare(target: Target, text: str | None) -> tuple[str, float]:
        text = vqa.join_lines((text or "") if predictions.submission else vqa.normalize(text or ""))
        if len(set(target.answers)) == 1:  # people who all agree are compared literally, including the case
            return text, vqa.accuracy(text, target.answers)
        parsed = vqa.process(text)
        return parsed, vqa.accuracy(parsed, [vqa.process(answer) for answer in target.answers])

    samples, counts = score_targets(targets, predictions, compare)
    overall = percent(samples)
    details = {
        "overall": round(overall, 2),
        "per_answer_type": percent_by_category(samples, "answer_type"),
        "per_question_type": percent_by_category(samples, "question_type"),
    }
    notes: tuple[str, ...] = ()
    if predictions.submission and protocol == "official":
        notes = describe_missing(counts, "the official loader rejects such a submission")
        if counts.n_extra:
            notes += ("the official loader rejects a submission with predictions for other questions",)
    return Score(overall, f"{overall:.2f}", samples, counts, details, notes)


def write_submission(questions: Path, predictions: Predictions, output: Path) -> None:
    """Write the server's file: normalized predictions in the order of the questions, empty where one is missing.

    The questions are those of the whole test set, which the server expects for every split.
    """
    rows = get_predicted_texts([question.id for question in readers.read_questions(questions)], predictions)
    write_json(output, [{"question_id": name, "answer": vqa.normalize(text)} for name, text in rows])


VQAV2 = Benchmark(
    name="vqav2",
    title=TITLES["vqav2"],
    metric="VQA accuracy",
    files=BenchmarkFiles(
        questions="vqav2/llava_vqav2_mscoco_test-dev2015.jsonl",
        images="vqav2/test2015",
        labels=(),
        answers="vqav2/answers/llava_vqav2_mscoco_test-dev2015/{model}/merge.jsonl",
        source="images: http://images.cocodataset.org/zips/test2015.zip; question files: " + LLAVA_FILES,
        submission="vqav2/answers_upload/llava_vqav2_mscoco_test-dev2015/{model}.json",
        submission_questions="vqav2/llava_vqav2_mscoco_test2015.jsonl",
    ),
    max_new_tokens=128,
    read_labels=read_labels,
    score=score,
    write_submission=write_submission,
    official_caveat="the official scorer rejects a submission whose questions differ from the annotations",
)
