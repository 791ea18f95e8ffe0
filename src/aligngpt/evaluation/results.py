"""Derive reviews, score, gate statistics, submission and a row of the results from complete predictions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aligngpt.evaluation.artifacts import (
    BenchmarkResult,
    BenchmarkScore,
    GateMeans,
    GateStats,
    JudgeResult,
    JudgeSummary,
    UnreadableImageRecord,
)
from aligngpt.evaluation.benchmark import Benchmark
from aligngpt.evaluation.metrics import bootstrap_interval
from aligngpt.evaluation.readers import find, read_predictions
from aligngpt.evaluation.scoring import score_files
from aligngpt.evaluation.tasks import EvalSettings, Task, TaskState
from aligngpt.utils.io import write_jsonl
from aligngpt.utils.text import one_line

_DERIVED_FILES = (BenchmarkScore.FILE, GateStats.FILE, "submission.*", "reviews.*")
_MAX_VALUES = 30  # categories with more values are omitted from the gate statistics

Line = Mapping[str, Any]


def finish_task(state: TaskState, settings: EvalSettings, previous: BenchmarkResult | None) -> BenchmarkResult:
    """Complete the predictions of a benchmark if all are there, derive its files, and return its row.

    A call for one shard derives nothing. `previous` is the row of an earlier call.
    """
    task = state.task
    if settings.shard is not None or len(state.records) < len(task.questions):
        reason = f"{len(state.records)} of {len(task.questions)} questions are answered"
        if len(state.records) == len(task.questions):
            reason += "; run the command without --shard to merge the shards"
        return _build_row(state, reasons=[reason])
    measured = round(sum(record.seconds for record in state.records.values()), 2)
    seconds = previous.seconds if state.is_complete and previous else measured
    lines = [state.records[index].line for index in range(len(task.questions))]
    unreadable = _list_unreadable_images(task, lines)
    _write_answers(task, lines)
    reasons, failed = _derive(task, settings, lines)
    return _build_row(
        state,
        **_read_score(task),
        n_questions=len(lines),
        n_unreadable_images=len(unreadable),
        unreadable_images=unreadable,
        seconds=seconds,
        submission=next((path.name for path in task.folder.glob("submission.*")), None),
        reasons=reasons,
        failed=failed,
    )


def _build_row(state: TaskState, **fields: Any) -> BenchmarkResult:
    benchmark, config = state.task.benchmark, state.config
    shared = config.model_dump(include={"alignment", "limit", "data_note"})
    return BenchmarkResult(benchmark=benchmark.name, title=benchmark.title, metric=benchmark.metric, **shared, **fields)


def _write_answers(task: Task, lines: Sequence[Line]) -> None:
    """Write `answers.jsonl`; files derived from other predictions are removed."""
    if not task.answers.is_file() or task.parts.is_dir():
        for path in (path for pattern in _DERIVED_FILES for path in task.folder.glob(pattern)):
            path.unlink()
        write_jsonl(task.answers, lines)
        shutil.rmtree(task.parts, ignore_errors=True)


def _derive(task: Task, settings: EvalSettings, lines: Sequence[Line]) -> tuple[list[str], bool]:
    """Judge, score and submit the predictions, each where possible.

    Returns:
        Why steps were skipped or failed, and whether one failed.
    """
    reasons, failed = [], False
    for step in (_judge, _score, _write_gate_stats, _submit):
        if step is _score and failed:
            (task.folder / BenchmarkScore.FILE).unlink(missing_ok=True)  # reviews are not those of the requested judge
            continue
        try:
            reason = step(task, settings, lines)
        except (OSError, ValueError, ImportError) as error:  # the predictions are complete all the same
            reason, failed = one_line(error), True
        if reason is not None:
            reasons.append(reason)
    return reasons, failed


def _read_score(task: Task) -> dict[str, Any]:
    """Return the fields of the row that the score determines; none without a score."""
    if not (task.folder / BenchmarkScore.FILE).is_file():
        return {}
    score = BenchmarkScore.read(task.folder)
    fields: dict[str, Any] = score.model_dump(include={"score", "formatted", "ci95", "n_samples"})
    if (task.folder / JudgeResult.FILE).is_file():
        result = JudgeResult.read(task.folder)
        fields["judge"] = JudgeSummary(
            model=result.config["judge_model"],
            answered_by=result.answered_by,
            cost=result.usage.cost,
            n_unreadable=len(result.unreadable),
        )
    return fields | {"n_missing": score.counts.n_missing}


def _list_unreadable_images(task: Task, lines: Sequence[Line]) -> list[UnreadableImageRecord]:
    return [
        UnreadableImageRecord(
            question_id=question.id,
            image=question.image if isinstance(question.image, str) else None,
            reason=line["metadata"]["unreadable_image"],
        )
        for question, line in zip(task.questions, lines, strict=True)
        if "unreadable_image" in line["metadata"]
    ]


# Steps: each returns why it was skipped, or None ---------------------------------------------------------------------


def _judge(task: Task, settings: EvalSettings, lines: Sequence[Line]) -> str | None:
    if task.benchmark.judge is None:
        return None
    path = _find_reviews_path(task)
    if settings.config.judge is None:
        return None if path.is_file() else "not judged; pass --judge-url and --judge-model"
    from aligngpt.evaluation.judge.judge import judge_predictions

    judge_predictions(
        task.benchmark,
        data=settings.data,
        answers=task.answers,
        output=path,
        config=settings.config.judge,
        show_progress=settings.show_progress,
    )
    return None


def _find_reviews_path(task: Task) -> Path:
    return task.folder / f"reviews{Path(task.benchmark.files.reviews or 'reviews.jsonl').suffix}"


def _score(task: Task, settings: EvalSettings, lines: Sequence[Line]) -> str | None:
    benchmark, path = task.benchmark, task.folder / BenchmarkScore.FILE
    if settings.config.limit is not None:
        return f"not scored: only the first {settings.config.limit} questions were run"
    answers = task.answers if benchmark.judge is None else _find_reviews_path(task)
    if not answers.is_file():
        path.unlink(missing_ok=True)
        return None
    if not benchmark.files.labels:
        return "scored by a server"
    labels = _find_labels(benchmark, settings.data)
    if labels:
        path.unlink(missing_ok=True)  # if it cannot be written again, the existing one is outdated
        for_run = replace(benchmark, read_labels=benchmark.read_labels_for_run or benchmark.read_labels)
        score_files(for_run, labels, answers).write(path)
        return None
    if path.is_file():
        return None
    missing = [name for name in benchmark.files.labels if find(settings.data, name) is None]
    return f"not scored: {settings.data} has no {', '.join(missing)}"


def _find_labels(benchmark: Benchmark, data: Path) -> list[Path]:
    """Return the label files, or their substitutes; nothing if some of either are missing."""
    for names in (benchmark.files.labels, benchmark.files.other_labels):
        paths = [path for name in names if (path := find(data, name)) is not None]
        if len(paths) == len(names):
            return paths
    return []


def _submit(task: Task, settings: EvalSettings, lines: Sequence[Line]) -> str | None:
    benchmark = task.benchmark
    if benchmark.write_submission is None or benchmark.files.submission is None:
        return None
    if settings.config.limit is not None:
        return f"no submission: only the first {settings.config.limit} questions were run"
    path = task.folder / f"submission{Path(benchmark.files.submission).suffix}"
    name = benchmark.files.submission_questions
    questions = task.question_file if name is None else find(settings.data, name)
    if questions is None:
        return None if path.is_file() else f"no submission: {settings.data} has no {name}"
    benchmark.write_submission(questions, read_predictions(task.answers, null_text=""), path)
    return None


# Gate statistics -----------------------------------------------------------------------------------------------------


def _write_gate_stats(task: Task, settings: EvalSettings, lines: Sequence[Line]) -> str | None:
    """Write means of gate weights and entropy, also by the categories of the score; nothing without the gate."""
    path = task.folder / BenchmarkScore.FILE
    samples = BenchmarkScore.read(path).samples if path.is_file() else ()
    by_sample = task.benchmark.group_by_sample(task.questions)
    sample_ids = {id(question): name for name, questions in by_sample.items() for question in questions}
    groups_of = {str(part.id): sample.groups for sample in samples for part in (sample, *sample.parts)}
    recorded: list[Line] = []
    by_kind: dict[str, list[Line]] = {}
    by_group: dict[str, dict[str, list[Line]]] = {}
    for question, line in zip(task.questions, lines, strict=True):
        metadata = line["metadata"]
        if "gate_weights" not in metadata:
            continue
        recorded.append(metadata)
        by_kind.setdefault(question.kind, []).append(metadata)
        for category, values in groups_of.get(sample_ids[id(question)], {}).items():
            for value in (values,) if isinstance(values, str) else values:
                by_group.setdefault(category, {}).setdefault(value, []).append(metadata)
    if recorded:
        GateStats(
            overall=_average_gates(recorded),
            by_kind={kind: _average_gates(metadata) for kind, metadata in by_kind.items()},
            by_group={
                category: {value: _average_gates(values[value]) for value in sorted(values)}
                for category, values in by_group.items()
                if len(values) <= _MAX_VALUES
            },
        ).write(task.folder)
    return None


def _average_gates(recorded: Sequence[Line]) -> GateMeans:
    entropies = [metadata["gate_entropy"] for metadata in recorded]
    return GateMeans(
        n_samples=len(recorded),
        weights=np.mean([metadata["gate_weights"] for metadata in recorded], axis=0).round(5).tolist(),
        entropy=round(float(np.mean(entropies)), 4),
        entropy_ci95=bootstrap_interval(entropies) if len(recorded) > 1 else None,
    )
