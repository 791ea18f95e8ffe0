"""TextVQA: short answers about text in images; prompts include the words that OCR detected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import TITLES, Id, PredictionCounts
from aligngpt.evaluation.benchmark import LLAVA_FILES, Benchmark, BenchmarkFiles
from aligngpt.evaluation.benchmarks import vqa_normalization as vqa
from aligngpt.evaluation.matching import count_duplicates, match_predictions, percent, score_target
from aligngpt.evaluation.types import Prediction, Predictions, Protocol, Question, Score, Target

_OLD_PROMPT = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)


def read_labels(paths: Sequence[Path]) -> list[Target]:
    """Read `TextVQA_0.5.1_val.json`, an object with `data`; `Target.data` is image and lower-case question."""
    path = readers.locate_file(paths, ("TextVQA_0.5.1_val*.json", "labels.json"), "TextVQA annotations")
    return readers.parse_list(path, "data", _target, "TextVQA annotation")


def _target(line: int, record: dict[str, Any]) -> Target:
    answers = tuple(vqa.normalize(answer) for answer in record["answers"])
    key = (record["image_id"], record["question"].lower())
    return Target(record["question_id"], vqa.most_common(answers), answers=answers, data=key)


def question_in(prompt: str) -> str | None:
    """Return the question within a prompt, or None if the prompt has none of the official forms."""
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        match = _OLD_PROMPT.search(prompt)
        return match[1] if match else None
    if "Reference OCR token: " in prompt and len(lines) == 3:
        return lines[1] if prompt.startswith("Reference OCR token:") else lines[0]
    return lines[0] if len(lines) == 2 else None


def _compare(target: Target, text: str | None) -> tuple[str | None, float]:
    parsed = None if text is None else vqa.normalize(text)
    return parsed, 0.0 if parsed is None else vqa.accuracy(parsed, target.answers)


def score(targets: Sequence[Target], predictions: Predictions, protocol: Protocol) -> Score:
    """Score by VQA accuracy, both sides normalized: officially over the predictions, strictly over the questions."""
    by_key = {target.data: target for target in targets}
    by_id = {str(target.id): target for target in targets}
    pairs = [(row, _find_target(row, by_key, by_id, predictions.source)) for row in predictions.rows]
    matches = [(row, target) for row, target in pairs if target is not None]
    if not matches:
        match_predictions(by_id, predictions)  # raises: no prediction matches
    last = {str(target.id): row for row, target in matches}
    counts = PredictionCounts(
        n_predictions=len(pairs),
        n_missing=len(by_id) - len(last),
        n_extra=len(pairs) - len(matches),
        n_duplicates=count_duplicates(target.id for _, target in matches),
    )
    notes: tuple[str, ...] = ()
    if protocol == "official":
        samples = [score_target(target, row, _compare) for row, target in matches]
        if counts.n_extra:
            notes = ("the official scorer stops at a prediction for another question; here they are skipped",)
    else:
        samples = [score_target(target, last.get(str(target.id)), _compare) for target in targets]
    accuracy = percent(samples)
    details = {"samples": len(samples), "printed_accuracy": f"{accuracy:.2f}", "accuracy": accuracy}
    return Score(accuracy, f"{accuracy:.2f}", samples, counts, details, notes)


def _find_target(
    row: Prediction, by_key: Mapping[tuple[str, str], Target], by_id: Mapping[str, Target], source: str
) -> Target | None:
    if not row.prompt:
        return by_id.get(str(row.id))
    question = question_in(row.prompt)
    if question is None:
        raise ValueError(
            f"{source}:{row.line}: the prompt {row.prompt[:40]!r} contains no question; expected the question, a line "
            "`Reference OCR token: ...` and the answer instruction"
        )
    return by_key.get((str(row.id), question.lower()))


def sample_ids(questions: Sequence[Question], targets: Sequence[Target] | None) -> list[Id]:
    """Return the id that the labels give each question; question files have the image instead."""
    ids = {target.data: target.id for target in targets or ()}
    return [ids.get((str(question.id), (question_in(question.prompt) or "").lower()), "") for question in questions]


TEXTVQA = Benchmark(
    name="textvqa",
    title=TITLES["textvqa"],
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
    read_labels=read_labels,
    score=score,
    official_caveat="the official score is the mean over the predictions: a question without one is skipped, a "
    "question with two counts twice",
    sample_ids=sample_ids,
)
