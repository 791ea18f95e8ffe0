"""VizWiz: questions of blind people about their photographs; the test split is scored by a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import TITLES, Id
from aligngpt.evaluation.benchmark import LLAVA_FILES, Benchmark, BenchmarkFiles
from aligngpt.evaluation.benchmarks import vqa_normalization as vqa
from aligngpt.evaluation.matching import (
    describe_missing,
    match_predictions,
    percent,
    percent_by_category,
    score_targets,
)
from aligngpt.evaluation.types import Predictions, Protocol, Question, Score, Target
from aligngpt.utils.io import write_json

_ANNOTATIONS = ("val*.json", "annotations.json", "Annotations/val.json")
_QUESTIONS = ("llava_test*.jsonl", "llava_val*.jsonl")


@dataclass(frozen=True)
class VizWizLabels:
    """The annotations, and the image of each question id where a question file exists."""

    targets: list[Target]
    image_of: Mapping[str, str]


def read_labels(paths: Sequence[Path]) -> VizWizLabels:
    """Read the official annotations, and the question file that maps question ids to images.

    Raises:
        ValueError: If there are no annotations.
    """
    readers.require_labels(paths, "VizWiz annotations")
    targets: list[Target] = []
    image_of: dict[str, str] = {}
    files = readers.collect_files(readers.list_folders(paths), _QUESTIONS)
    for path in [*files, *readers.collect_files(paths, _ANNOTATIONS)]:
        records = readers.load_records(path)
        if "answers" in records[0][1]:
            targets = readers.parse_records(records, _target, path, "VizWiz annotation")
        elif "question_id" in records[0][1]:
            image_of |= _images(readers.read_questions(path))
    if not targets:
        raise ValueError(f"{paths[0]}: no VizWiz annotations; expected a list of images with their `answers`")
    return VizWizLabels(targets, image_of)


def _target(line: int, record: dict[str, Any]) -> Target:
    answers = tuple(person["answer"] for person in record["answers"])
    return Target(record["image"], vqa.most_common(answers), {"answer_type": record["answer_type"]}, answers=answers)


def _images(questions: Sequence[Question]) -> dict[str, str]:
    return {str(question.id): str(question.image) for question in questions}


def score(labels: VizWizLabels, predictions: Predictions, protocol: Protocol) -> Score:
    """Score by VQA accuracy with VizWiz's own normalization of predictions, and none of the people's answers.

    A model's answers are first normalized as for an upload; a submission is scored as it is.
    """

    def compare(target: Target, text: str | None) -> tuple[str, float]:
        text = (text or "") if predictions.submission else vqa.normalize(text or "")
        parsed = vqa.normalize_words(vqa.strip_punctuation(vqa.join_lines(text)), vqa.VIZWIZ_CONTRACTIONS)
        return parsed, vqa.accuracy(parsed, target.answers)

    samples, counts = score_targets(labels.targets, _by_image(predictions, labels.image_of), compare)
    overall = percent(samples)
    details = {
        "overall": round(overall, 2),
        "per_answer_type": percent_by_category(samples, "answer_type"),
        "overall_unrounded": overall,
    }
    notes = describe_missing(counts, "the official scorer requires every prediction") if protocol == "official" else ()
    return Score(overall, f"{overall:.2f}", samples, counts, details, notes)


def _by_image(predictions: Predictions, image_of: Mapping[str, str]) -> Predictions:
    """Replace question ids by images.

    Raises:
        ValueError: If the ids are numbers and no question file maps them to images.
    """
    if not image_of and all(isinstance(row.id, int) for row in predictions.rows):
        raise ValueError(
            f"{predictions.source}: predictions have question numbers; pass LLaVA's question file with --labels as well"
        )
    return replace(predictions, rows=[replace(row, id=image_of.get(str(row.id), row.id)) for row in predictions.rows])


def write_submission(questions: Path, predictions: Predictions, output: Path) -> None:
    """Write the server's file: normalized predictions of all images in the order of the questions.

    Raises:
        ValueError: If a prediction is missing; the server requires all of them.
    """
    image_of = _images(readers.read_questions(questions))
    images = list(image_of.values())
    matches, counts = match_predictions(images, _by_image(predictions, image_of))
    if counts.n_missing:
        raise ValueError(
            f"{predictions.source}: predictions are missing for {counts.n_missing} of {len(images)} questions; "
            "VizWiz requires all"
        )
    write_json(output, [{"image": image, "answer": vqa.normalize(matches[image].text)} for image in images])


def sample_ids(questions: Sequence[Question], labels: VizWizLabels | None) -> list[Id]:
    """Return the image of each question, the id of its sample."""
    return [str(question.image) for question in questions]


VIZWIZ = Benchmark(
    name="vizwiz",
    title=TITLES["vizwiz"],
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
    read_labels=read_labels,
    score=score,
    write_submission=write_submission,
    official_caveat="the official scorer requires a prediction for every question",
    sample_ids=sample_ids,
)
