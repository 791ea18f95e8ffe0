"""TextVQA: short answers about text in images, with the words a reader of text found given along."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aligngpt.evaluation.benchmarks import vqa_normalization as vqa
from aligngpt.evaluation.metrics import mean
from aligngpt.evaluation.readers import lacking, load_object, locate, read_answers, read_questions
from aligngpt.evaluation.types import (
    LLAVA_FILES,
    Benchmark,
    BenchmarkFiles,
    Id,
    MatchCounts,
    Prediction,
    Predictions,
    Protocol,
    Question,
    SampleScore,
    Score,
    count_duplicates,
    match_predictions,
)

_OLD_FORM = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)


@dataclass(frozen=True)
class Annotation:
    """A question about an image, with the ten answers."""

    id: int | str
    image: str
    question: str
    answers: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """What the official scorer finds it by."""
        return self.image, self.question.lower()


def read_labels(paths: Sequence[Path]) -> list[Annotation]:
    """Read `TextVQA_0.5.1_val.json`, an object with `data`.

    Raises:
        ValueError: If it is another file.
    """
    path = locate(paths, ("TextVQA_0.5.1_val*.json", "labels.json"), "TextVQA annotations")
    records = load_object(path, "TextVQA's annotations, an object with `data`").get("data")
    try:
        if records:
            return [
                Annotation(one["question_id"], one["image_id"], one["question"], tuple(one["answers"]))
                for one in records
            ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: no TextVQA annotations with answers: {lacking(error)}") from None
    raise ValueError(f"{path}: no TextVQA annotations: expected an object with a list `data`")


def question_in(prompt: str) -> str | None:
    """The question within a prompt, or None if the prompt has none of the known forms."""
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        found = _OLD_FORM.search(prompt)
        return found[1] if found else None
    if "Reference OCR token: " in prompt and len(lines) == 3:
        return lines[1] if prompt.startswith("Reference OCR token:") else lines[0]
    return lines[0] if len(lines) == 2 else None


def score(labels: Sequence[Annotation], answers: Predictions, protocol: Protocol) -> Score:
    """Score by VQA accuracy, both sides normalized: over the lines of the answers, or strictly over the questions."""
    by_key = {label.key: label for label in labels}
    by_id = {str(label.id): label for label in labels}
    pairs = [(row, _label_of(row, by_key, by_id, answers.source)) for row in answers.rows]
    known = [(row, label) for row, label in pairs if label is not None]
    if not known:
        match_predictions(by_id, answers)  # says that nothing fits
    answered = {str(label.id): row for row, label in known}
    count = MatchCounts(
        len(by_id) - len(answered), len(pairs) - len(known), count_duplicates(label.id for _, label in known)
    )
    if protocol == "official":
        samples = [_item(label, row) for row, label in known]
    else:
        samples = [_item(label, answered.get(str(label.id))) for label in labels]
    accuracy = 100 * mean(sample.score for sample in samples)
    notes: tuple[str, ...] = ()
    if protocol == "official" and count.extra:
        notes = ("the official scorer stops at an answer to another question; here such answers are left out",)
    details = {"samples": len(samples), "printed_accuracy": f"{accuracy:.2f}", "accuracy": accuracy}
    return Score(accuracy, f"{accuracy:.2f}", samples, count, details, notes)


def _label_of(
    row: Prediction, by_key: dict[tuple[str, str], Annotation], by_id: dict[str, Annotation], source: str
) -> Annotation | None:
    if not row.prompt:
        return by_id.get(str(row.id))
    question = question_in(row.prompt)
    if question is None:
        raise ValueError(
            f"{source}:{row.line}: no question can be read out of the prompt {row.prompt[:40]!r}; expected the "
            "question, a line `Reference OCR token: ...` and the way of answering"
        )
    return by_key.get((str(row.id), question.lower()))


def _item(label: Annotation, answer: Prediction | None) -> SampleScore:
    prediction = None if answer is None else vqa.normalize(answer.text)
    people = [vqa.normalize(person) for person in label.answers]
    right = 0.0 if prediction is None else vqa.accuracy(prediction, people)
    text = None if answer is None else answer.text
    return SampleScore(label.id, right, text, prediction, Counter(people).most_common(1)[0][0])


def sample_ids(questions: Sequence[Question], labels: Sequence[Annotation] | None) -> list[Id]:
    """Questions go by their image here; the number they are scored by is in the labels alone."""
    numbers = {label.key: label.id for label in labels or ()}
    return [numbers.get((str(one.id), (question_in(one.prompt) or "").lower()), "") for one in questions]


TEXTVQA = Benchmark(
    name="textvqa",
    title="TextVQA",
    metric="VQA accuracy",
    files=BenchmarkFiles(
        questions="textvqa/llava_textvqa_val_v051_ocr.jsonl",
        images="textvqa/train_images",
        labels=("textvqa/TextVQA_0.5.1_val.json",),
        answers="textvqa/answers/{model}.jsonl",
        source="images: https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip; labels: "
        "https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json; question file: " + LLAVA_FILES,
    ),
    max_new_tokens=128,
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_answers,
    score=score,
    official_caveat="the official score is the mean over the lines of the answers: a question without one is left "
    "out, one "
    "with two counts twice",
    sample_ids=sample_ids,
)
