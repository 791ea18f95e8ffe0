"""What is made of answers: the answers file, the gate's means, score, submission, and a row of the results."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aligngpt.artifacts import read_json, write_json
from aligngpt.evaluation.answer_files import read_parts, write_lines
from aligngpt.evaluation.benchmark import Benchmark
from aligngpt.evaluation.files import read_answers
from aligngpt.evaluation.gates import gate_means
from aligngpt.evaluation.plan import RunSettings, Task, find
from aligngpt.evaluation.scoring import score_files


def finish(task: Task, run: Mapping[str, Any]) -> bool:
    """Put the answers together in the order of the questions and close the run; False while some are missing."""
    records = read_parts(task.parts, len(task.questions))
    if len(records) < len(task.questions):
        return False
    ordered = [records[place] for place in range(len(task.questions))]
    lines = [record.line for record in ordered]
    write_lines(task.answers, lines)
    gates = gate_means(task.questions, lines)
    if gates is not None:
        write_json(task.folder / "gates.json", gates)
    unreadable = [
        {
            "question_id": question.id,
            "image": question.image if isinstance(question.image, str) else None,
            "reason": line["metadata"]["unreadable_picture"],
        }
        for question, line in zip(task.questions, lines, strict=True)
        if "unreadable_picture" in line["metadata"]
    ]
    counts = {
        "questions": len(lines),
        "with_picture": sum(question.image is not None for question in task.questions),
        "unreadable_pictures": len(unreadable),
        "empty_answers": sum(not line["text"] for line in lines),
    }
    seconds = round(sum(record.seconds for record in ordered), 2)
    closed = {**run, "complete": True, "seconds": seconds, "counts": counts, "unreadable_pictures": unreadable}
    write_json(task.folder / "run.json", closed)
    shutil.rmtree(task.parts)
    return True


def evaluate_answers(task: Task, settings: RunSettings) -> dict[str, Any]:
    """Judge, score and submit finished answers, each where it can be done and is not done yet.

    Returns:
        A row of `results.json`.
    """
    reasons = [reason for step in (_judge, _score, _submit) if (reason := _attempt(step, task, settings)) is not None]
    run = read_json(task.folder / "run.json")
    path = task.folder / "score.json"
    score = read_json(path) if path.is_file() else {}
    return {
        "benchmark": task.benchmark.name,
        "title": task.benchmark.title,
        "metric": task.benchmark.metric,
        "score": score.get("score"),
        "printed": score.get("printed"),
        "interval": score.get("interval"),
        "count": score.get("count"),
        "missing": score.get("answers", {}).get("missing"),
        "questions": run["counts"]["questions"],
        "unreadable_pictures": run["counts"]["unreadable_pictures"],
        "alignment": run["alignment"],
        "submission": next((path.name for path in task.folder.glob("submission.*")), None),
        "reasons": reasons,
    }


def unfinished_row(benchmark: Benchmark, reason: str) -> dict[str, Any]:
    """The row of a benchmark without answers, or without all of them."""
    return {"benchmark": benchmark.name, "title": benchmark.title, "score": None, "reasons": [reason]}


def _attempt(step: Callable[[Task, RunSettings], str | None], task: Task, settings: RunSettings) -> str | None:
    """Why a step was not done, if it was not: the answers are there whatever becomes of it."""
    try:
        return step(task, settings)
    except (OSError, ValueError, ImportError) as error:
        return " ".join(str(error).split())


def _judge(task: Task, settings: RunSettings) -> str | None:
    if task.benchmark.judge is None:
        return None
    path = reviews_file(task)
    if settings.judge is None:
        return None if path.is_file() else "not judged: give --judge-url and --judge-model"
    from aligngpt.evaluation.judge import review

    review(task.benchmark, settings.data, task.answers, path, settings.judge, settings.progress)
    (task.folder / "score.json").unlink(missing_ok=True)
    return None


def reviews_file(task: Task) -> Path:
    """Where a judge's reviews of the answers go."""
    return task.folder / f"reviews{Path(task.benchmark.layout.reviews or 'reviews.jsonl').suffix}"


def _score(task: Task, settings: RunSettings) -> str | None:
    benchmark, path = task.benchmark, task.folder / "score.json"
    answers = task.answers if benchmark.judge is None else reviews_file(task)
    if path.is_file() or not answers.is_file():
        return None
    layout = benchmark.layout
    if not layout.labels:
        return "scored by a server"
    wanted = [layout.labels] + ([layout.other_labels] if layout.other_labels else [])
    for names in wanted:
        labels = [found for name in names if (found := find(settings.data, name)) is not None]
        if len(labels) == len(names):
            read = benchmark.read_labels_alone or benchmark.read_labels
            write_json(path, _finite(score_files(replace(benchmark, read_labels=read), labels, answers)))
            return None
    missing = [name for name in layout.labels if find(settings.data, name) is None]
    return f"not scored: no {', '.join(missing)} in {settings.data}"


def _submit(task: Task, settings: RunSettings) -> str | None:
    benchmark = task.benchmark
    if benchmark.write_submission is None or benchmark.layout.submission is None:
        return None
    path = task.folder / f"submission{Path(benchmark.layout.submission).suffix}"
    if path.is_file():
        return None
    name = benchmark.layout.submission_questions
    questions = task.question_file if name is None else find(settings.data, name)
    if questions is None:
        return f"no submission: {name} is not in {settings.data}"
    benchmark.write_submission(questions, read_answers(task.answers, null_text=""), path)
    return None


def _finite(value: Any) -> Any:
    """A result as JSON can hold it: NaN and infinities become null, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
