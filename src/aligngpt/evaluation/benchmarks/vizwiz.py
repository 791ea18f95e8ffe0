"""VizWiz: questions of blind people about their photographs; test is scored by a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aligngpt.evaluation.benchmarks import vqa_normalization as vqa
from aligngpt.evaluation.metrics import mean, means_by_part
from aligngpt.evaluation.readers import folders, gather, lacking, load_records, read_answers, read_questions
from aligngpt.evaluation.types import (
    LLAVA_FILES,
    Benchmark,
    BenchmarkFiles,
    Id,
    Predictions,
    Protocol,
    Question,
    SampleScore,
    Score,
    match_predictions,
    missing_note,
)
from aligngpt.utils.io import write_json

_ANNOTATIONS = ("val*.json", "annotations.json", "Annotations/val.json")
_QUESTIONS = ("llava_test*.jsonl", "llava_val*.jsonl")


@dataclass(frozen=True)
class Annotation:
    """The ten answers to an image's question, as they were given."""

    image: str
    answers: tuple[str, ...]
    answer_type: str


@dataclass(frozen=True)
class Labels:
    """Annotations, and the image of each question id where a question file was found."""

    annotations: list[Annotation]
    image_of: dict[str, str]


def read_labels(paths: Sequence[Path]) -> Labels:
    """Read the official annotations, and the question file that says which image a question id speaks of.

    Raises:
        ValueError: If no annotations are given.
    """
    if not paths:
        raise ValueError("nothing says where the VizWiz annotations are: give --labels")
    annotations: list[Annotation] = []
    image_of: dict[str, str] = {}
    for path in [*gather(folders(paths), _QUESTIONS), *gather(paths, _ANNOTATIONS)]:
        records = load_records(path)
        if "answers" in records[0][1]:
            annotations = [_annotation(record, path, line) for line, record in records]
        elif "question_id" in records[0][1]:
            image_of |= {str(one.id): str(one.image) for one in read_questions(path)}
    if not annotations:
        raise ValueError(f"{paths[0]}: no VizWiz annotations, a list of images with their `answers`")
    return Labels(annotations, image_of)


def _annotation(record: dict, path: Path, line: int) -> Annotation:
    try:
        answers = tuple(person["answer"] for person in record["answers"])
        return Annotation(record["image"], answers, record["answer_type"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}:{line}: no VizWiz annotation: {lacking(error)}") from None


def score(labels: Labels, answers: Predictions, protocol: Protocol) -> Score:
    """Score by VQA accuracy with VizWiz's own normalization of the prediction, and none of the human answers.

    A model's answers are normalized as for an upload first; a submission is scored as it stands.
    """
    by_image = _by_image(answers, labels.image_of)
    given, count = match_predictions((label.image for label in labels.annotations), by_image)
    samples = []
    for label in labels.annotations:
        answer = given.get(label.image)
        text = "" if answer is None else answer.text
        prediction = _normal(text if answers.submission else vqa.normalize(text))
        samples.append(
            SampleScore(
                label.image,
                vqa.accuracy(prediction, label.answers),
                None if answer is None else answer.text,
                prediction,
                Counter(label.answers).most_common(1)[0][0],
                {"answer_type": label.answer_type},
            )
        )
    overall = 100 * mean(sample.score for sample in samples)
    details = {
        "overall": round(overall, 2),
        "per_answer_type": means_by_part(samples, "answer_type"),
        "overall_unrounded": overall,
    }
    notes = missing_note(count, "the official scorer wants every one") if protocol == "official" else ()
    return Score(overall, f"{overall:.2f}", samples, count, details, notes)


def _normal(text: str) -> str:
    return vqa.plain_words(vqa.strip_punctuation(vqa.one_line(text)), vqa.VIZWIZ_CONTRACTIONS)


def _by_image(answers: Predictions, image_of: dict[str, str]) -> Predictions:
    """The answers named by their images instead of by number.

    Raises:
        ValueError: If numbers stand for images and no question file says which.
    """
    if not image_of and all(isinstance(row.id, int) for row in answers.rows):
        raise ValueError(
            f"{answers.source}: answers go by question number here; name LLaVA's question file with --labels as well"
        )
    return replace(answers, rows=[replace(row, id=image_of.get(str(row.id), row.id)) for row in answers.rows])


def write_submission(questions: Path, answers: Predictions, output: Path) -> None:
    """Write what the server scores: every image in the order of the question file, with its normalized answer.

    Raises:
        ValueError: If a question has no answer; the server wants every one.
    """
    asked = read_questions(questions)
    image_of: dict[str, str] = {str(one.id): str(one.image) for one in asked}
    ids: list[Id] = [str(one.image) for one in asked]
    given, count = match_predictions(ids, _by_image(answers, image_of))
    if count.missing:
        raise ValueError(
            f"{answers.source}: {count.missing} of {len(asked)} questions have no answer; VizWiz wants all"
        )
    write_json(output, [{"image": image, "answer": vqa.normalize(given[str(image)].text)} for image in ids])


def sample_ids(questions: Sequence[Question], labels: Labels | None) -> list[Id]:
    """Items go by image."""
    return [str(question.image) for question in questions]


VIZWIZ = Benchmark(
    name="vizwiz",
    title="VizWiz",
    metric="VQA accuracy",
    files=BenchmarkFiles(
        questions="vizwiz/llava_test.jsonl",
        images="vizwiz/test",
        labels=(),
        answers="vizwiz/answers/{model}.jsonl",
        source="images: https://vizwiz.cs.colorado.edu/VizWiz_final/images/test.zip; question file: " + LLAVA_FILES,
        submission="vizwiz/answers_upload/{model}.json",
    ),
    max_new_tokens=128,
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_answers,
    score=score,
    write_submission=write_submission,
    official_caveat="the official scorer wants an answer to every question",
    sample_ids=sample_ids,
)
