"""The questions on which two models differ, made ready to be looked at: what was asked, the image, both answers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligngpt.data.schema import RecordError, check_image_path
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.compare import compare_folders
from aligngpt.evaluation.readers import find, read_answers
from aligngpt.evaluation.types import Benchmark, Id, Question

_NO_DATA = "add --data with the folder of the benchmarks' files"
_SAID_ALIKE = ("Answer ", "Reference OCR token:", "When the provided information is insufficient")  # of prompts' lines


def compare_outputs(first: Path, second: Path, data: Path | None, at_most: int) -> list[dict[str, Any]]:
    """Compare two folders of `aligngpt eval run`, with questions on which they differ.

    Args:
        first, second: The folders.
        data: LLaVA's `playground/data/eval`.
        at_most: How many questions of each benchmark.

    Returns:
        What `compare.compare_folders` returns, each with what `differing_questions` chose.

    Raises:
        ValueError: If no benchmark has a score in both, or a question file is broken.
    """
    compared = []
    for one in compare_folders(first, second):
        answers = [folder / one["benchmark"] / "answers.jsonl" for folder in (first, second)]
        compared.append(one if "reason" in one else one | differing_questions(one, data, answers, at_most))
    return compared


def differing_questions(
    comparison: Mapping[str, Any], data: Path | None, answers: Sequence[Path] = (), at_most: int = 12
) -> dict[str, Any]:
    """Choose questions on which two models differ, as many for the one as for the other, drawn with a fixed seed.

    Args:
        comparison: What `compare.compare` returned.
        data: LLaVA's `playground/data/eval`; without it questions and images stay unknown.
        answers: Both models' answers files, for benchmarks that a judge marks.
        at_most: How many are chosen.

    Returns:
        `shown`, those of the comparison's `differing` with `question` (a string or None) and `image` (a path, the
        content of an image, or None) added, and `missing`: why questions are unknown, None if they are known.

    Raises:
        ValueError: If the question file is another one or broken.
    """
    benchmark = BENCHMARKS[comparison["benchmark"]]
    path = data and find(data, benchmark.files.questions)
    asked = _by_item(benchmark, path, data) if path and data else {}
    missing = None if path else f"{data} has no {benchmark.files.questions}" if data else _NO_DATA
    said = [_model_texts(benchmark, path, asked) for path in answers] or [{}, {}]
    shown = []
    for one in _chosen(comparison["differing"], at_most):
        name, questions = str(one["id"]), asked.get(str(one["id"]), [])
        prompts = [_asked(question) for question in questions]
        texts = [known.get(name, text) for known, text in zip(said, one["texts"], strict=True)]
        image = _image(questions[0], benchmark, data) if questions and data else None
        shown.append(one | {"texts": texts, "question": "\n".join(prompts) or None, "image": image})
    return {"shown": shown, "missing": missing}


def _chosen(differing: Sequence[dict[str, Any]], at_most: int) -> list[dict[str, Any]]:
    """Of each side as many as of the other while there are any, the widest differences first."""
    drawn = random.Random(0).sample(list(differing), len(differing))
    sides: list[list[dict[str, Any]]] = [[], []]
    for one in sorted(drawn, key=lambda one: -abs(one["scores"][0] - one["scores"][1])):
        sides[one["scores"][1] > one["scores"][0]].append(one)
    half = at_most // 2
    first = max(half, at_most - len(sides[1]))
    kept = sides[0][:first]
    return kept + sides[1][: at_most - len(kept)]


def _by_item(benchmark: Benchmark, path: Path, data: Path) -> dict[str, list[Question]]:
    """The questions by the id of the item that they are scored in."""
    questions = benchmark.read_questions(path)
    names: Sequence[Id] = [question.id for question in questions]
    if benchmark.sample_ids is not None:
        labels = [file for name in benchmark.files.labels if (file := find(data, name))]
        names = benchmark.sample_ids(questions, benchmark.read_labels(labels) if labels else None)
    found: dict[str, list[Question]] = {}
    for name, question in zip(names, questions, strict=True):
        found.setdefault(str(name), []).append(question)
    return found


def _model_texts(benchmark: Benchmark, path: Path, asked: Mapping[str, Sequence[Question]]) -> dict[str, str]:
    """The answers that a judge marked, by item; none where the score holds them itself."""
    if benchmark.judge is None or not path.is_file():
        return {}
    texts = {str(row.id): row.text for row in read_answers(path).rows}
    return {sample: texts[str(own[0].id)] for sample, own in asked.items() if str(own[0].id) in texts}


def _asked(question: Question) -> str:
    """A prompt without the lines below the first that are the same for every question, such as how to answer."""
    first, *others = (question.stored_prompt or question.prompt).split("\n")
    return "\n".join([first, *(line for line in others if not line.startswith(_SAID_ALIKE))])


def _image(question: Question, benchmark: Benchmark, data: Path) -> Path | bytes | None:
    if not isinstance(question.image, str):
        return question.image if isinstance(question.image, bytes) else None
    try:
        return data / (benchmark.files.images or "") / check_image_path(question.image)
    except RecordError:
        return None
