"""ScienceQA: multiple choice; the primary metric covers the questions with an image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import TITLES
from aligngpt.evaluation.benchmark import LLAVA_FILES, Benchmark, BenchmarkFiles
from aligngpt.evaluation.benchmarks.option_matching import ANSWER_WITH_LETTER
from aligngpt.evaluation.matching import match_predictions, percent, score_targets
from aligngpt.evaluation.types import Predictions, Protocol, Question, Score, Target

OPTIONS = "ABCDE"
FAILED = "FAILED"
_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")
_PROBLEMS, _SPLITS = "problems.json", "pid_splits.json"
_SPLIT = "test"


def read_labels(paths: Sequence[Path]) -> list[Target]:
    """Read `problems.json` and the test ids of `pid_splits.json`; a missing one is read from the folder of the other.

    The last of several files of a kind counts, so that a part of the split can be passed after the folder.
    `Target.data` is the number of choices and the index of the correct one.

    Raises:
        ValueError: If one is missing or another file, or the split names a question without a problem.
    """
    files: dict[str, Path] = {}
    contents: dict[str, Any] = {}

    def load(path: Path) -> None:
        content = readers.load_object(path, "ScienceQA's problems or splits")
        name = _file_kind(content, path)
        files[name], contents[name] = path, content

    for path in readers.collect_files(paths, (_PROBLEMS, _SPLITS)):
        load(path)
    for name in (_PROBLEMS, _SPLITS):
        if name not in contents:
            load(readers.locate_file(readers.list_folders(paths), (name,), name))
    problems = contents[_PROBLEMS]
    ids = [(str(name), problems) for name in contents[_SPLITS][_SPLIT]]
    return readers.parse_records(ids, _target, files[_PROBLEMS], "ScienceQA question")


def _file_kind(content: dict[str, Any], path: Path) -> str:
    if isinstance(content.get(_SPLIT), list):
        return _SPLITS
    first = next(iter(content.values()), None)
    if isinstance(first, dict) and "choices" in first:
        return _PROBLEMS
    raise ValueError(f"{path}: neither ScienceQA's problems nor its splits with a list {_SPLIT!r}")


def _target(name: str, problems: dict[str, Any]) -> Target:
    record = problems[name]
    groups = {"image": "with" if record["image"] else "without"}
    groups |= {key: record[key] for key in ("subject", "grade") if record.get(key)}
    correct = record["answer"]
    label = OPTIONS[correct] if 0 <= correct < len(OPTIONS) else str(correct)
    group = "all" if record["image"] else None
    return Target(name, label, groups, group, data=(len(record["choices"]), correct))


def read_option(text: str) -> str:
    """Return the letter of an answer: alone, before a period and a space, or in a single `The answer is X.`"""
    if len(text) == 1 and text in OPTIONS:
        return text
    if len(text) >= 3 and text[0] in OPTIONS and text[1:3] == ". ":
        return text[0]
    matches = _ANSWER_IS.findall(text)
    return matches[0] if len(matches) == 1 else FAILED


def _compare(target: Target, text: str | None) -> tuple[str, float]:
    num_choices, correct = target.data
    option = FAILED if text is None else read_option(text)
    return option, float(OPTIONS[:num_choices].find(option) == correct)


def score(targets: Sequence[Target], predictions: Predictions, protocol: Protocol) -> Score:
    """Score by the letter.

    Raises:
        ValueError: If no question counts as one with an image.
    """
    if protocol == "official":  # a question has an image if the stored prompt of its prediction has the placeholder
        matches, _ = match_predictions((target.id for target in targets), predictions)
        imaged = {name for name, row in matches.items() if "<image>" in row.prompt}
        targets = [replace(target, aggregation_group="all" if target.id in imaged else None) for target in targets]
    samples, counts = score_targets(targets, predictions, _compare)
    images = [sample for sample in samples if sample.aggregation_group]
    if not images:
        raise ValueError(
            f"{predictions.source}: no question with an image; the official protocol looks for <image> in the stored "
            "prompts, --protocol strict in the labels"
        )
    accuracy = percent(images)
    details = {
        "total": len(samples),
        "correct": sum(sample.score == 1 for sample in samples),
        "accuracy": percent(samples),
        "img_total": len(images),
        "img_correct": sum(sample.score == 1 for sample in images),
        "img_accuracy": accuracy,
    }
    return Score(accuracy, f"{accuracy:.2f}", samples, counts, details)


def read_questions(path: Path) -> list[Question]:
    """Read `llava_test_CQM-A.json`: context, question and options, followed by the answer instruction."""
    return readers.parse_lines(path, _question, "ScienceQA question")


def _question(line: int, record: dict[str, Any]) -> Question:
    image = record.get("image")
    prompt = record["conversations"][0]["value"].replace("<image>", "").strip() + ANSWER_WITH_LETTER
    stored = f"<image>\n{prompt}" if image else prompt
    return Question(record["id"], prompt, image, "with image" if image else "without image", stored)


SCIENCEQA = Benchmark(
    name="scienceqa",
    title=TITLES["scienceqa"],
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
    score=score,
    official_caveat="the official scorer identifies questions with an image by the stored prompts, so one without "
    "a prediction does not count",
)
