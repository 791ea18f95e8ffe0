"""What is made of answers: the answers file, the gate's means, score, submission, and a row of the results."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aligngpt.evaluation.artifacts import JudgeResult
from aligngpt.evaluation.gates import gate_means
from aligngpt.evaluation.prediction_files import PartFile, Record, read_lines, read_parts, write_lines
from aligngpt.evaluation.readers import find, read_answers
from aligngpt.evaluation.scoring import score_files
from aligngpt.evaluation.tasks import RunSettings, Task
from aligngpt.evaluation.types import Benchmark
from aligngpt.modeling.alignment import needs_gate
from aligngpt.utils.io import hash_file, hash_folder, read_json, versions, write_json

_LABEL_FILES = tuple(f"**/*.{suffix}{packed}" for suffix in ("json", "jsonl", "txt") for packed in ("", ".gz"))


def finish(task: Task, run: Mapping[str, Any]) -> bool:
    """Put the answers together in the order of the questions and close the run; False while some are missing."""
    records = read_parts(task.parts, len(task.questions))
    if len(records) < len(task.questions):
        return False
    ordered = [records[place] for place in range(len(task.questions))]
    lines = [record.line for record in ordered]
    write_lines(task.answers, lines)
    unreadable = [
        {
            "question_id": question.id,
            "image": question.image if isinstance(question.image, str) else None,
            "reason": line["metadata"]["unreadable_image"],
        }
        for question, line in zip(task.questions, lines, strict=True)
        if "unreadable_image" in line["metadata"]
    ]
    counts = {
        "questions": len(lines),
        "with_image": sum(question.image is not None for question in task.questions),
        "unreadable_images": len(unreadable),
        "empty_answers": sum(not line["text"] for line in lines),
    }
    seconds = round(sum(record.seconds for record in ordered), 2)
    closed = {**run, "complete": True, "seconds": seconds, "counts": counts, "unreadable_images": unreadable}
    write_json(task.folder / "run.json", closed)
    shutil.rmtree(task.parts)
    return True


def reopen(task: Task) -> bool:
    """Open a finished run again if images that could not be read can be now: these alone are to be asked again."""
    run = read_json(task.folder / "run.json")
    if not run["unreadable_images"]:
        return False
    seconds = run["seconds"] / len(task.questions)
    records = [Record(place, line, seconds) for place, line in enumerate(read_lines(task.answers))]
    if not any(map(task.readable_now, records)):
        return False
    with PartFile(task.parts / "before.jsonl") as part:
        part.add(records)
    for pattern in ("score.json", "gates.json", "submission.*", "reviews.*"):  # they are of the answers before
        for path in task.folder.glob(pattern):
            path.unlink()
    write_json(task.folder / "run.json", run | {"complete": False})
    return True


def evaluate_answers(task: Task, settings: RunSettings) -> dict[str, Any]:
    """Judge, score and submit finished answers, each where it can be done and is not done yet.

    Returns:
        A row of `results.json`.
    """
    path, reasons, failed = task.folder / "score.json", [], False
    for step in (_judge, _score, _gates, _submit):
        if step is _score and failed:
            path.unlink(missing_ok=True)  # reviews that may be there are not by the judge that was asked
            continue
        try:
            reason = step(task, settings)
        except (OSError, ValueError, ImportError) as error:  # the answers are there whatever becomes of them
            reason, failed = " ".join(str(error).split()), True
        if reason is not None:
            reasons.append(reason)
    run = read_json(task.folder / "run.json")
    score = read_json(path) if path.is_file() else {}
    return {
        "benchmark": task.benchmark.name,
        "title": task.benchmark.title,
        "metric": task.benchmark.metric,
        "score": score.get("score"),
        "formatted": score.get("formatted"),
        "interval": score.get("interval"),
        "count": score.get("count"),
        "missing": score.get("answers", {}).get("missing"),
        "questions": run["counts"]["questions"],
        "limit": run["limit"],
        "unreadable_images": run["counts"]["unreadable_images"],
        "alignment": run["alignment"],
        "judge": _judge_of(task) if score else None,
        "submission": next((path.name for path in task.folder.glob("submission.*")), None),
        "reasons": reasons,
        "failed": failed,
    }


def unfinished_row(benchmark: Benchmark, reason: str) -> dict[str, Any]:
    """The row of a benchmark without answers, or without all of them."""
    return {"benchmark": benchmark.name, "title": benchmark.title, "score": None, "reasons": [reason]}


# Steps: each says why it was not done, if it was not -----------------------------------------------------------------


def _judge(task: Task, settings: RunSettings) -> str | None:
    if task.benchmark.judge is None:
        return None
    path = reviews_file(task)
    if settings.judge is None:
        return None if path.is_file() else "not judged: give --judge-url and --judge-model"
    from aligngpt.evaluation.judge.judge import judge_predictions

    judge_predictions(task.benchmark, settings.data, task.answers, path, settings.judge, settings.progress)
    return None


def reviews_file(task: Task) -> Path:
    """Where a judge's reviews of the answers go."""
    return task.folder / f"reviews{Path(task.benchmark.files.reviews or 'reviews.jsonl').suffix}"


def _judge_of(task: Task) -> dict[str, Any] | None:
    """Who wrote the reviews, as far as that is recorded beside them."""
    path = task.folder / "reviews-judge.json"
    if not path.is_file():
        return None
    result = JudgeResult.read(path)
    return {
        "model": result.config["judge_model"],
        "answered_by": result.answered_by,
        "cost": result.usage.cost,
        "unreadable": len(result.unreadable),
    }


def _score(task: Task, settings: RunSettings) -> str | None:
    benchmark, path = task.benchmark, task.folder / "score.json"
    if settings.limit is not None:
        return f"not scored: --limit {settings.limit} asks the first questions alone"
    answers = task.answers if benchmark.judge is None else reviews_file(task)
    if not answers.is_file():
        path.unlink(missing_ok=True)
        return None
    if not benchmark.files.labels:
        return "scored by a server"
    labels = _labels(benchmark, settings.data)
    if labels:
        alone = replace(benchmark, read_labels=benchmark.read_labels_for_run or benchmark.read_labels)
        _make(task, path, [*labels, answers], lambda: write_json(path, _finite(score_files(alone, labels, answers))))
        return None
    if path.is_file():
        return None
    missing = [name for name in benchmark.files.labels if find(settings.data, name) is None]
    return f"not scored: no {', '.join(missing)} in {settings.data}"


def _labels(benchmark: Benchmark, data: Path) -> list[Path]:
    """The label files, or those that do as well; none if some of either are missing."""
    for names in (benchmark.files.labels, benchmark.files.other_labels):
        found = [path for name in names if (path := find(data, name)) is not None]
        if len(found) == len(names):
            return found
    return []


def _gates(task: Task, settings: RunSettings) -> str | None:
    path, score = task.folder / "gates.json", task.folder / "score.json"
    if not needs_gate(read_json(task.folder / "run.json")["alignment"]):
        return None

    def write() -> None:
        samples = read_json(score)["samples"] if score.is_file() else ()
        means = gate_means(task.benchmark, task.questions, read_lines(task.answers), samples)
        if means is not None:
            write_json(path, means)

    _make(task, path, [task.answers, *([score] if score.is_file() else [])], write)
    return None


def _submit(task: Task, settings: RunSettings) -> str | None:
    benchmark = task.benchmark
    if benchmark.write_submission is None or benchmark.files.submission is None:
        return None
    if settings.limit is not None:
        return f"no submission: --limit {settings.limit} asks the first questions alone"
    path = task.folder / f"submission{Path(benchmark.files.submission).suffix}"
    name = benchmark.files.submission_questions
    questions = task.question_file if name is None else find(settings.data, name)
    if questions is None:
        return None if path.is_file() else f"no submission: {name} is not in {settings.data}"
    write, source = benchmark.write_submission, questions
    _make(task, path, [source, task.answers], lambda: write(source, read_answers(task.answers, null_text=""), path))
    return None


def _make(task: Task, path: Path, sources: Sequence[Path], write: Callable[[], object]) -> None:
    """Write a file, unless it was made of the same content by the same version; `run.json` says of what it was."""
    made_of = {"aligngpt": versions()["aligngpt"]} | {source.name: _hash(source) for source in sources}
    run = read_json(task.folder / "run.json")
    known = run.get("made_of", {})
    if path.is_file() and known.get(path.name) == made_of:
        return
    path.unlink(missing_ok=True)  # if it cannot be made again, the old one is no longer right
    write()
    write_json(task.folder / "run.json", run | {"made_of": known | {path.name: made_of}})


def _hash(path: Path) -> str:
    """Of a file, or of the texts of a folder: labels may lie beside images."""
    try:
        return hash_file(path) if path.is_file() else hash_folder(path, _LABEL_FILES)
    except FileNotFoundError:
        return "no labels"  # what reads them says it better


def _finite(value: Any) -> Any:
    """A result as JSON can hold it: NaN and infinities become null, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): _finite(sample) for key, sample in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(sample) for sample in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
