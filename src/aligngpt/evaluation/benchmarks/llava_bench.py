"""LLaVA-Bench (in the wild): a judge's marks for the model's answer, set against those for a reference answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.evaluation.judge.judge import Judge, Judged, Message, Request, Requests, answers_to
from aligngpt.evaluation.readers import load_object, load_records, locate, read_answers, read_questions, record_id
from aligngpt.evaluation.types import (
    Benchmark,
    BenchmarkFiles,
    Id,
    MatchCounts,
    Prediction,
    Predictions,
    Protocol,
    SampleScore,
    Score,
    count_duplicates,
    match_predictions,
)
from aligngpt.utils.io import atomic_path

UNREADABLE = (-1.0, -1.0)
_MOST = 10.0  # the best mark
_PREFIX = "llava_bench_"
_FOLDER = "llava-bench-in-the-wild"
_SYSTEM = "You judge the quality of answers with care and precision."
_OWN_RULE = (
    "Two assistants have answered the question above, which a user asked about an image. You cannot see the image; "
    "the context describes it in sentences.\n"
    "Mark each answer from 1 to 10, 10 being best, for how helpful, relevant, accurate and detailed it is.\n"
    "Write two numbers with a space between them on the first line and nothing else there: the mark of Assistant 1, "
    "then that of Assistant 2. Explain your marks from the second line on. Let neither the order of the answers nor "
    "any other bias sway you."
)


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


def read_reviews(path: Path) -> Predictions:
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
        rows.append(Prediction(name, str(record.get("content", "")), line=line, extra=extra))
    return Predictions(str(path), rows)


def _pair(marks: Any) -> tuple[float, float] | None:
    if not isinstance(marks, list | tuple) or len(marks) != 2:
        return None
    if not all(isinstance(mark, int | float) and not isinstance(mark, bool) for mark in marks):
        return None
    return float(marks[0]), float(marks[1])


def score(labels: Sequence[Label], answers: Predictions, protocol: Protocol) -> Score:
    """Score by the model's mean mark over the reference's; strictly without the reviews that could not be read.

    Raises:
        ValueError: If no review can be read.
    """
    rows = answers.rows
    count = MatchCounts(duplicate=count_duplicates(row.id for row in rows))
    if labels:
        given, count = match_predictions((label.id for label in labels), answers)
    if protocol == "strict":
        rows = list(given.values()) if labels else list({row.id: row for row in rows}.values())
    unread = [row.id for row in rows if not _readable(row)]
    if protocol == "strict":
        rows = [row for row in rows if _readable(row)]
    if not rows:
        raise ValueError(f"{answers.source}: none of its reviews could be read")
    samples = [_item(row) for row in rows]
    parts: dict[str, list[SampleScore]] = {"all": samples}
    for sample in samples:
        if sample.groups:
            parts.setdefault(str(sample.groups["category"]), []).append(sample)
    details = {name: _summary(parts[name]) for name in sorted(parts)}
    value = _relative(*_means(samples))
    notes: tuple[str, ...] = ()
    if unread:
        what = "counted as -1 for both" if protocol == "official" else "left out"
        notes = (f"reviews that could not be read, {what}: questions {', '.join(map(str, unread))}",)
    return Score(value, f"{value:.1f}", samples, count, details, notes)


def _readable(row: Prediction) -> bool:
    return row.extra["marks"] != UNREADABLE and all(map(math.isfinite, row.extra["marks"]))


def _item(row: Prediction) -> SampleScore:
    reference, model = row.extra["marks"]
    groups = {"category": row.extra["category"]} if row.extra["category"] else {}
    return SampleScore(row.id, model / _MOST, row.text, model, reference, groups, value=model, weight=reference)


def _means(samples: Sequence[SampleScore]) -> tuple[float, float]:
    """Mean marks of reference and model, to three digits as the official summary takes them."""
    import numpy as np

    reference, model = np.asarray([(sample.label, sample.prediction) for sample in samples]).mean(0).tolist()
    return round(reference, 3), round(model, 3)


def _relative(reference: float, model: float) -> float:
    return model / reference * 100 if reference else math.nan


def _summary(samples: Sequence[SampleScore]) -> Mapping[str, float]:
    reference, model = _means(samples)
    return {
        "relative": round(_relative(reference, model), 1),
        "reference": round(reference * 10, 1),
        "model": round(model * 10, 1),
    }


# The judge ----------------------------------------------------------------------------------------------------------


def requests(data: Path, answers: Predictions) -> Requests:
    """Ask for marks of the reference answer and the model's, by the rule of the question's category.

    Args:
        data: The folder with `llava-bench-in-the-wild`, or that folder. LLaVA's own rules are read from `rule.json` in
            it, a file of `llava/eval/table` of its code; without it they are in words of this package.

    Raises:
        ValueError: If a question has no context, reference answer or rule, or the answers are to other questions.
    """
    folder = data / _FOLDER if (data / _FOLDER).is_dir() else data
    questions = read_questions(folder / "questions.jsonl")
    contexts = _contexts(folder / "context.jsonl")
    references = {str(row.id): row.text for row in read_answers(folder / "answers_gpt4.jsonl").rows}
    given, count, notes = answers_to({str(question.id): question.prompt for question in questions}, answers)
    rules, rule_notes = _rules(folder / "rule.json")
    rows = []
    for place, question in enumerate(questions, start=1):
        name, image, category = str(question.id), str(question.image), _PREFIX + question.kind
        if name not in given:
            continue
        if image not in contexts or name not in references:
            lacking = "context.jsonl" if image not in contexts else "answers_gpt4.jsonl"
            raise ValueError(f"{folder / lacking}: nothing for question {name} ({image}); is it complete?")
        if rules is not None and category not in rules:
            raise ValueError(f"{folder / 'rule.json'}: no rule {category}; is it the one of LLaVA's code?")
        rule = ("Assistant", _OWN_RULE) if rules is None else rules[category]
        chat = _chat(contexts[image], question.prompt, references[name], given[name].text, *rule)
        rows.append(Request(question.id, chat, {"id": place, "question_id": question.id, "category": category}))
    unanswered = [question.id for question in questions if str(question.id) not in given]
    return Requests(rows, count, unanswered, (*rule_notes, *notes))


def _chat(context: str, question: str, reference: str, answer: str, role: str, rule: str) -> tuple[Message, ...]:
    """What the official evaluator shows, in its order: context, question, the two answers, the rule."""
    parts = (
        f"[Context]\n{context}",
        f"[Question]\n{question}",
        f"[{role} 1]\n{reference}\n\n[End of {role} 1]",
        f"[{role} 2]\n{answer}\n\n[End of {role} 2]",
        f"[System]\n{rule}\n\n",
    )
    return {"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n\n".join(parts)}


def _contexts(path: Path) -> dict[str, str]:
    """What is in each image, by the image's name."""
    found = {}
    for line, record in load_records(path):
        caption = record.get("caption")
        lines = [caption] if isinstance(caption, str) else caption
        if not isinstance(record.get("image"), str) or not isinstance(lines, list) or not lines:
            raise ValueError(f"{path}:{line}: a context without image or caption; is this the right file?")
        found[record["image"]] = "\n".join(map(str, lines))
    return found


def _rules(path: Path) -> tuple[dict[str, tuple[str, str]] | None, tuple[str, ...]]:
    """Role and instruction by category, or None, and what to know about them."""
    if not path.exists():
        where = "LLaVA's rule.json, of llava/eval/table in its code,"
        return None, (f"judged by a rule in words of this package: {where} is not in {path.parent}",)
    rules = load_object(path, "LLaVA's rules, an object of category to `role` and `prompt`")
    try:
        return {name: (str(rule["role"]), str(rule["prompt"])) for name, rule in rules.items()}, ()
    except (KeyError, TypeError):
        raise ValueError(f"{path}: a rule without `role` or `prompt`; is it the one of LLaVA's code?") from None


def read_marks(reply: str) -> tuple[float, float] | None:
    """Read a reply as `read_review` does; None if it cannot be read."""
    marks = read_review(reply)
    return None if marks == UNREADABLE or not all(map(math.isfinite, marks)) else marks


def write_reviews(path: Path, judged: Sequence[Judged]) -> None:
    """Write LLaVA's review lines; one that cannot be read has the marks -1 and -1, as the official code writes it."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for row in judged:
            marks = list(UNREADABLE if row.marks[0] is None else row.marks[0])
            line = {**row.request.record, "content": row.replies[0], "tuple": marks, "model": row.model}
            file.write(json.dumps(line) + "\n")


LLAVA_BENCH = Benchmark(
    name="llava_bench",
    title="LLaVA-W",
    metric="judge's marks relative to the reference answers",
    files=BenchmarkFiles(
        questions="llava-bench-in-the-wild/questions.jsonl",
        images="llava-bench-in-the-wild/images",
        labels=("llava-bench-in-the-wild/questions.jsonl",),
        answers="llava-bench-in-the-wild/answers/{model}.jsonl",
        source="https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild",
        reviews="llava-bench-in-the-wild/reviews/{model}.jsonl",
    ),
    max_new_tokens=1024,
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_reviews,
    score=score,
    official_caveat="the official summary counts a review that cannot be read as -1 for both, the strict one leaves "
    "it out",
    judge=Judge(read_answers, requests, read_marks, write_reviews, ".jsonl", temperature=0.2, max_tokens=1024),
)
