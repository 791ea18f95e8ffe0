"""VQAv2: short answers against those of ten people; test-dev and test are scored by a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from aligngpt.evaluation.benchmarks import vqa_normalization as vqa
from aligngpt.evaluation.metrics import mean, means_by_part
from aligngpt.evaluation.readers import load_object, locate, read_answers, read_questions
from aligngpt.evaluation.types import (
    LLAVA_FILES,
    Benchmark,
    BenchmarkFiles,
    Id,
    Predictions,
    Protocol,
    SampleScore,
    Score,
    match_predictions,
    missing_note,
)
from aligngpt.utils.io import write_json

_ANNOTATIONS = ("v2_mscoco_*_annotations.json", "*annotations.json")


@dataclass(frozen=True)
class Annotation:
    """A question's human answers, newlines and tabs already made spaces, and the two divisions it belongs to."""

    id: Id
    answers: tuple[str, ...]
    answer_type: str
    question_type: str


def read_labels(paths: Sequence[Path]) -> list[Annotation]:
    """Read the official annotations: an object whose `annotations` each have ten `answers`.

    Raises:
        ValueError: If it is another file.
    """
    path = locate(paths, _ANNOTATIONS, "VQAv2 annotations")
    records = load_object(path, "VQAv2 annotations, an object with `annotations`").get("annotations")
    if not isinstance(records, list) or not records:
        raise ValueError(f"{path}: no VQAv2 annotations: expected an object with a list `annotations`")
    return [_annotation(record, path, place) for place, record in enumerate(records)]


def _annotation(record: dict[str, Any], path: Path, place: int) -> Annotation:
    try:
        answers = tuple(vqa.one_line(person["answer"]) for person in record["answers"])
        return Annotation(record["question_id"], answers, record["answer_type"], record["question_type"])
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path}: annotation {place} lacks question_id, answer_type, question_type or answers; is it VQAv2's file?"
        ) from None


def score(labels: Sequence[Annotation], answers: Predictions, protocol: Protocol) -> Score:
    """Score by VQA accuracy. A model's answers are normalized first, as for an upload; a submission is not."""
    given, count = match_predictions((label.id for label in labels), answers)
    samples = []
    for label in labels:
        answer = given.get(str(label.id))
        text = "" if answer is None else answer.text
        text = text if answers.submission else vqa.normalize(text)
        prediction, people = _compared(text, label.answers)
        groups = {"answer_type": label.answer_type, "question_type": label.question_type}
        label_text = Counter(label.answers).most_common(1)[0][0]
        right = vqa.accuracy(prediction, people)
        samples.append(
            SampleScore(label.id, right, None if answer is None else answer.text, prediction, label_text, groups)
        )
    overall = 100 * mean(sample.score for sample in samples)
    details = {
        "overall": round(overall, 2),
        "per_answer_type": means_by_part(samples, "answer_type"),
        "per_question_type": means_by_part(samples, "question_type"),
    }
    notes: tuple[str, ...] = ()
    if answers.submission and protocol == "official":
        notes = missing_note(count, "the official loader refuses such a submission")
        if count.extra:
            notes += ("the official loader refuses a submission with answers to other questions",)
    return Score(overall, f"{overall:.2f}", samples, count, details, notes)


def _compared(text: str, people: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The texts that are compared: where all people agree they are taken literally, even their case."""
    prediction = vqa.one_line(text)
    if len(set(people)) == 1:
        return prediction, people
    return _normal(prediction), tuple(_normal(person) for person in people)


@lru_cache(maxsize=1 << 16)
def _normal(text: str) -> str:
    return vqa.plain_words(vqa.strip_punctuation(text))


def write_submission(questions: Path, answers: Predictions, output: Path) -> None:
    """Write what the server scores: every question of the file in its order, normalized, empty where unanswered.

    Args:
        questions: `llava_vqav2_mscoco_test2015.jsonl`, whatever split was asked: the server wants all of test.
    """
    asked = read_questions(questions)
    given, _ = match_predictions((question.id for question in asked), answers)
    texts = {key: vqa.normalize(answer.text) for key, answer in given.items()}
    write_json(output, [{"question_id": one.id, "answer": texts.get(str(one.id), "")} for one in asked])


VQAV2 = Benchmark(
    name="vqav2",
    title="VQAv2",
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
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_answers,
    score=score,
    write_submission=write_submission,
    official_caveat="the official scorer refuses a submission whose questions are not exactly those of the annotations",
)
