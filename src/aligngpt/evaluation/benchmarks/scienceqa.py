"""ScienceQA: multiple choice; the reported number is that of the questions with an image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.evaluation.metrics import mean
from aligngpt.evaluation.readers import folders, gather, kind, lacking, load_json, load_object, locate, read_answers
from aligngpt.evaluation.types import (
    LLAVA_FILES,
    Benchmark,
    BenchmarkFiles,
    Prediction,
    Predictions,
    Protocol,
    Question,
    SampleScore,
    Score,
    match_predictions,
)

OPTIONS = "ABCDE"
FAILED = "FAILED"
_SUFFIX = "\nAnswer with the option's letter from the given choices directly."
_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")
_SPLIT = "test"


@dataclass(frozen=True)
class Problem:
    """A question: how many choices it has, which is right (from 0), and whether it has an image."""

    id: str
    choices: int
    answer: int
    has_image: bool
    groups: dict[str, str]


def read_labels(paths: Sequence[Path]) -> list[Problem]:
    """Read `problems.json` and the test ids of `pid_splits.json`; either brings the other one that lies beside it.

    Of several files of a kind the last one counts, so that a part of the split can be named after the folder.

    Raises:
        ValueError: If one is missing, no such file, or names a question the other lacks.
    """
    files: dict[str, Path] = {}
    contents: dict[str, Any] = {}
    for path in gather(paths, ("problems.json", "pid_splits.json")):
        content = load_object(path, "ScienceQA's problems or its splits")
        name = _name_of(content, path)
        files[name], contents[name] = path, content
    for name in ("problems.json", "pid_splits.json"):
        if name not in contents:
            files[name] = locate(folders(paths), (name,), name)
            contents[name] = load_object(files[name], name)
            _name_of(contents[name], files[name])
    ids = contents["pid_splits.json"][_SPLIT]
    return [_problem(str(name), contents["problems.json"], files["problems.json"]) for name in ids]


def _name_of(content: dict[str, Any], path: Path) -> str:
    if isinstance(content.get(_SPLIT), list):
        return "pid_splits.json"
    first = next(iter(content.values()), None)
    if isinstance(first, dict) and "choices" in first:
        return "problems.json"
    raise ValueError(f"{path}: neither ScienceQA's problems nor its splits with a list {_SPLIT!r}")


def _problem(name: str, problems: dict[str, Any], path: Path) -> Problem:
    try:
        record = problems[name]
        groups = {"image": "with" if record["image"] else "without"}
        groups |= {key: record[key] for key in ("subject", "grade") if record.get(key)}
        return Problem(name, len(record["choices"]), record["answer"], bool(record["image"]), groups)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: question {name} of the split: {lacking(error)}") from None


def read_option(text: str) -> str:
    """Read the letter out of an answer: alone, before a period and a space, or in the one `The answer is X.`"""
    if len(text) == 1 and text in OPTIONS:
        return text
    if len(text) >= 3 and text[0] in OPTIONS and text[1:3] == ". ":
        return text[0]
    said = _ANSWER_IS.findall(text)
    return said[0] if len(said) == 1 else FAILED


def score(labels: Sequence[Problem], answers: Predictions, protocol: Protocol) -> Score:
    """Score by the letter.

    Raises:
        ValueError: If no question counts as one with an image.
    """
    given, count = match_predictions((label.id for label in labels), answers)
    samples = [_item(label, given.get(label.id), protocol) for label in labels]
    imaged = [sample for sample in samples if sample.aggregation_group]
    if not imaged:
        raise ValueError(
            f"{answers.source}: no question with an image; the official scorer looks for <image> in the stored "
            "prompts, --protocol strict in the labels"
        )
    total, img = 100 * mean(sample.score for sample in samples), 100 * mean(sample.score for sample in imaged)
    details = {
        "total": len(samples),
        "correct": sum(sample.score == 1 for sample in samples),
        "accuracy": total,
        "img_total": len(imaged),
        "img_correct": sum(sample.score == 1 for sample in imaged),
        "img_accuracy": img,
    }
    return Score(img, f"{img:.2f}", samples, count, details)


def _item(label: Problem, answer: Prediction | None, protocol: Protocol) -> SampleScore:
    prediction = FAILED if answer is None else read_option(answer.text)
    chosen = OPTIONS[: label.choices].find(prediction)
    prompted = answer is not None and "<image>" in answer.prompt
    imaged = prompted if protocol == "official" else label.has_image
    return SampleScore(
        label.id,
        float(chosen == label.answer),
        None if answer is None else answer.text,
        prediction,
        OPTIONS[label.answer] if 0 <= label.answer < len(OPTIONS) else str(label.answer),
        label.groups,
        "all" if imaged else None,
    )


def read_questions(path: Path) -> list[Question]:
    """Read `llava_test_CQM-A.json`: context, question and options, to which the way of answering is added.

    Raises:
        ValueError: If it is another file.
    """
    records = load_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{path}: expected ScienceQA's questions, an array, got {kind(records)}")
    return [_question(record, path, place) for place, record in enumerate(records)]


def _question(record: dict[str, Any], path: Path, place: int) -> Question:
    try:
        name, asked, image = record["id"], record["conversations"][0]["value"], record.get("image")
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path}: question {place}: {lacking(error)}") from None
    prompt = asked.replace("<image>", "").strip() + _SUFFIX
    stored = f"<image>\n{prompt}" if image else prompt
    return Question(name, prompt, image, "with image" if image else "without image", stored)


SCIENCEQA = Benchmark(
    name="scienceqa",
    title="SQA-I",
    metric="accuracy of questions with an image",
    files=BenchmarkFiles(
        questions="scienceqa/llava_test_CQM-A.json",
        images="scienceqa/images/test",
        labels=("scienceqa/problems.json", "scienceqa/pid_splits.json"),
        answers="scienceqa/answers/{model}.jsonl",
        source="images and labels: https://github.com/lupantech/ScienceQA; question file: " + LLAVA_FILES,
    ),
    max_new_tokens=1024,
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_answers,
    score=score,
    official_caveat="the official scorer finds the questions with an image by the stored prompts, so that one "
    "without an "
    "answer is left out of their number",
)
