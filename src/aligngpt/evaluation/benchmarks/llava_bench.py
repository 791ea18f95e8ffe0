"""LLaVA-Bench (in the wild): a judge's marks for the model's answer, set against those for a reference answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.evaluation.benchmark import (
    Answer,
    Answers,
    Benchmark,
    Count,
    Id,
    Item,
    Layout,
    Protocol,
    Score,
    match,
    repeated,
)
from aligngpt.evaluation.files import load_records, locate, read_questions, record_id

UNREADABLE = (-1.0, -1.0)
_MOST = 10.0  # the best mark
_PREFIX = "llava_bench_"


@dataclass(frozen=True)
class Label:
    """A question, known by its id and category, so that missing reviews can be counted."""

    id: Id
    category: str


def read_labels(paths: Sequence[Path]) -> list[Label]:
    """Read `questions.jsonl`; without it reviews are scored as they are and none is missed.

    Raises:
        ValueError: If it is another file.
    """
    if not paths:
        return []
    path = locate(paths, ("questions.jsonl",), "LLaVA-Bench questions")
    return [Label(one.id, one.kind) for one in read_questions(path)]


def read_review(content: str) -> tuple[float, float]:
    """Read the marks of reference and model out of a review's first line; (-1, -1) unless it is two numbers."""
    marks = content.split("\n")[0].replace(",", " ").split(" ")
    try:
        reference, model = map(float, marks)
    except ValueError:
        return UNREADABLE
    return reference, model


def read_reviews(path: Path) -> Answers:
    """Read a judge's reviews: lines with `question_id`, `category` and `tuple`, or `content` where it has no marks yet.

    Raises:
        ValueError: If these are answers instead, or a line has no marks.
    """
    rows = []
    for line, record in load_records(path):
        marks = record.get("tuple")
        if marks is None and isinstance(record.get("content"), str):
            marks = read_review(record["content"])
        pair = _pair(marks)
        if pair is None:
            if "text" in record:
                raise ValueError(f"{path}: these are answers, not reviews: a judge has to mark them first")
            raise ValueError(f"{path}:{line}: a review without `tuple`, two marks, or `content`")
        extra = {"marks": pair, "category": str(record.get("category", ""))}
        name = record_id(record, "question_id", path, line)
        rows.append(Answer(name, str(record.get("content", "")), line=line, extra=extra))
    return Answers(str(path), rows)


def _pair(marks: Any) -> tuple[float, float] | None:
    if not isinstance(marks, list | tuple) or len(marks) != 2:
        return None
    if not all(isinstance(mark, int | float) and not isinstance(mark, bool) for mark in marks):
        return None
    return float(marks[0]), float(marks[1])


def score(labels: Sequence[Label], answers: Answers, protocol: Protocol) -> Score:
    """Score by the model's mean mark over the reference's; strictly without the reviews that could not be read.

    Raises:
        ValueError: If no review can be read.
    """
    rows = answers.rows
    count = Count(duplicate=repeated(row.id for row in rows))
    if labels:
        given, count = match((label.id for label in labels), answers)
    if protocol == "strict":
        rows = list(given.values()) if labels else list({row.id: row for row in rows}.values())
    unread = [row.id for row in rows if not _readable(row)]
    if protocol == "strict":
        rows = [row for row in rows if _readable(row)]
    if not rows:
        raise ValueError(f"{answers.source}: none of its reviews could be read")
    items = [_item(row) for row in rows]
    parts: dict[str, list[Item]] = {"all": items}
    for item in items:
        if item.groups:
            parts.setdefault(str(item.groups["category"]), []).append(item)
    details = {name: _summary(parts[name]) for name in sorted(parts)}
    value = _relative(*_means(items))
    notes: tuple[str, ...] = ()
    if unread:
        what = "counted as -1 for both" if protocol == "official" else "left out"
        notes = (f"reviews that could not be read, {what}: questions {', '.join(map(str, unread))}",)
    return Score(value, f"{value:.1f}", items, count, details, notes)


def _readable(row: Answer) -> bool:
    return row.extra["marks"] != UNREADABLE and all(map(math.isfinite, row.extra["marks"]))


def _item(row: Answer) -> Item:
    reference, model = row.extra["marks"]
    groups = {"category": row.extra["category"]} if row.extra["category"] else {}
    return Item(row.id, model / _MOST, row.text, model, reference, groups, value=model, weight=reference)


def _means(items: Sequence[Item]) -> tuple[float, float]:
    """Mean marks of reference and model, to three digits as the official summary takes them."""
    import numpy as np

    reference, model = np.asarray([(item.label, item.prediction) for item in items]).mean(0).tolist()
    return round(reference, 3), round(model, 3)


def _relative(reference: float, model: float) -> float:
    return model / reference * 100 if reference else math.nan


def _summary(items: Sequence[Item]) -> Mapping[str, float]:
    reference, model = _means(items)
    return {
        "relative": round(_relative(reference, model), 1),
        "reference": round(reference * 10, 1),
        "model": round(model * 10, 1),
    }


LLAVA_BENCH = Benchmark(
    name="llava_bench",
    title="LLaVA-W",
    metric="judge's marks relative to the reference answers",
    layout=Layout(
        questions="llava-bench-in-the-wild/questions.jsonl",
        images="llava-bench-in-the-wild/images",
        labels=("llava-bench-in-the-wild/questions.jsonl",),
        answers="llava-bench-in-the-wild/answers/{model}.jsonl",
    ),
    max_new_tokens=1024,
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_reviews,
    score=score,
    differs="the official summary counts a review that cannot be read as -1 for both, the strict one leaves it out",
)
