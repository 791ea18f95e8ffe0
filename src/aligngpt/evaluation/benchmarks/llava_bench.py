"""LLaVA-Bench (in the wild): a judge's score of the model's answer relative to that of a reference answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import TITLES, PredictionCounts, SampleScore
from aligngpt.evaluation.benchmark import Benchmark, BenchmarkFiles
from aligngpt.evaluation.judge.client import Message
from aligngpt.evaluation.judge.judge import Judge, JudgedPrediction, JudgeRequest, JudgeRequests, match_for_judge
from aligngpt.evaluation.matching import count_duplicates, group_samples, match_predictions
from aligngpt.evaluation.types import Prediction, Predictions, Protocol, Score, Target
from aligngpt.utils.io import write_jsonl

UNREADABLE = (-1.0, -1.0)
_MAX_SCORE = 10.0
_PREFIX = "llava_bench_"
_FOLDER = "llava-bench-in-the-wild"
_SYSTEM = "You judge the quality of answers with care and precision."
_OWN_RULE = (
    "Two assistants have answered the question above, which a user asked about an image. You cannot see the image; "
    "the context describes it in sentences.\n"
    "Rate each answer from 1 to 10, 10 being best, for how helpful, relevant, accurate and detailed it is.\n"
    "Write two numbers with a space between them on the first line and nothing else there: the rating of Assistant 1, "
    "then that of Assistant 2. Explain your ratings from the second line on. Let neither the order of the answers nor "
    "any other bias sway you."
)


def read_labels(paths: Sequence[Path]) -> list[Target]:
    """Read `questions.jsonl`; without it reviews are scored as they are and missing ones are not counted."""
    if not paths:
        return []
    path = readers.locate_file(paths, ("questions.jsonl",), "LLaVA-Bench questions")
    return [Target(question.id) for question in readers.read_questions(path)]


def read_review(content: str) -> tuple[float, float]:
    """Read the scores of reference and model from a review's first line; (-1, -1) unless it is two numbers."""
    words = content.split("\n")[0].replace(",", " ").split(" ")
    try:
        reference, model = map(float, words)
    except ValueError:
        return UNREADABLE
    return reference, model


def read_reviews(path: Path) -> Predictions:
    """Read a judge's reviews: lines with `question_id`, `category` and `tuple`, or `content` without parsed scores.

    Raises:
        ValueError: If the file holds predictions, or a line has no scores.
    """
    rows = []
    for line, record in readers.load_records(path):
        scores = record.get("tuple")
        if scores is None and isinstance(record.get("content"), str):
            scores = read_review(record["content"])
        if scores is None or not _is_pair(scores):
            if "text" in record:
                raise ValueError(f"{path}: holds predictions, not reviews; run `aligngpt eval judge` first")
            raise ValueError(f"{path}:{line}: tuple is missing; expected two scores in `tuple`, or `content`")
        extra = {"scores": tuple(map(float, scores)), "category": str(record.get("category", ""))}
        name = readers.record_id(record, "question_id", path, line)
        rows.append(Prediction(name, str(record.get("content", "")), line=line, extra=extra))
    return Predictions(str(path), rows)


def _is_pair(scores: Any) -> bool:
    return isinstance(scores, list | tuple) and len(scores) == 2 and {*map(type, scores)} <= {int, float}


def score(targets: Sequence[Target], predictions: Predictions, protocol: Protocol) -> Score:
    """Score by the model's mean score over the reference's; the strict protocol skips unreadable reviews.

    Raises:
        ValueError: If no review is readable.
    """
    rows = predictions.rows
    counts = PredictionCounts(n_predictions=len(rows), n_duplicates=count_duplicates(row.id for row in rows))
    matches = {str(row.id): row for row in rows}
    if targets:
        matches, counts = match_predictions((target.id for target in targets), predictions)
    if protocol == "strict":
        rows = list(matches.values())
    unreadable = [row.id for row in rows if not _is_readable(row.extra["scores"])]
    if protocol == "strict":
        rows = [row for row in rows if _is_readable(row.extra["scores"])]
    if not rows:
        raise ValueError(f"{predictions.source}: no review is readable; use another judge")
    samples = [_sample(row) for row in rows]
    categories = group_samples(samples, "category") | {"all": samples}
    details = {name: _summarize(categories[name]) for name in sorted(categories)}
    value = _relative(*_means(samples))
    notes: tuple[str, ...] = ()
    if unreadable:
        effect = "counted as -1 for both" if protocol == "official" else "skipped"
        notes = (f"unreadable reviews, {effect}: questions {', '.join(map(str, unreadable))}",)
    return Score(value, f"{value:.1f}", samples, counts, details, notes)


def _is_readable(scores: tuple[float, float]) -> bool:
    return scores != UNREADABLE and all(map(math.isfinite, scores))


def _sample(row: Prediction) -> SampleScore:
    reference, model = row.extra["scores"]
    groups = {"category": row.extra["category"]} if row.extra["category"] else {}
    return SampleScore(row.id, model / _MAX_SCORE, row.text, model, reference, groups, value=model, weight=reference)


def _means(samples: Sequence[SampleScore]) -> tuple[float, float]:
    """Return the mean scores of reference and model, to three digits as the official summary rounds them."""
    reference, model = np.asarray([(sample.label, sample.prediction) for sample in samples]).mean(0).tolist()
    return round(reference, 3), round(model, 3)


def _relative(reference: float, model: float) -> float:
    return model / reference * 100 if reference else math.nan


def _summarize(samples: Sequence[SampleScore]) -> Mapping[str, float]:
    reference, model = _means(samples)
    return {
        "relative": round(_relative(reference, model), 1),
        "reference": round(reference * 10, 1),
        "model": round(model * 10, 1),
    }


# The judge ----------------------------------------------------------------------------------------------------------


def build_requests(data: Path, predictions: Predictions) -> JudgeRequests:
    """Ask for scores of the reference answer and the model's, by the rule of the question's category.

    Args:
        data: The folder with `llava-bench-in-the-wild`, or that folder. LLaVA's own rules are read from `rule.json` in
            it, a file of `llava/eval/table` of its code; without it they are in words of this package.

    Raises:
        ValueError: If a question has no context, reference answer or rule, or the predictions are for other questions.
    """
    folder = data / _FOLDER if (data / _FOLDER).is_dir() else data
    questions = readers.read_questions(folder / "questions.jsonl")
    contexts = dict(readers.parse_lines(folder / "context.jsonl", _context, "context"))
    references = {str(row.id): row.text for row in readers.read_predictions(folder / "answers_gpt4.jsonl").rows}
    matches, counts, notes = match_for_judge({str(question.id): question.prompt for question in questions}, predictions)
    rules, rule_notes = _read_rules(folder / "rule.json")
    rows = []
    for number, question in enumerate(questions, start=1):
        name, image, category = str(question.id), str(question.image), _PREFIX + question.kind
        if name not in matches:
            continue
        if image not in contexts or name not in references:
            file = "context.jsonl" if image not in contexts else "answers_gpt4.jsonl"
            raise ValueError(f"{folder / file}: question {name} ({image}) is missing; check that the file is complete")
        if rules is not None and category not in rules:
            raise ValueError(f"{folder / 'rule.json'}: rule {category} is missing; use the file of LLaVA's code")
        rule = ("Assistant", _OWN_RULE) if rules is None else rules[category]
        chat = _chat(contexts[image], question.prompt, references[name], matches[name].text, *rule)
        rows.append(JudgeRequest(question.id, chat, {"id": number, "question_id": question.id, "category": category}))
    unanswered = [question.id for question in questions if str(question.id) not in matches]
    return JudgeRequests(rows, counts, unanswered, (*rule_notes, *notes))


def _chat(context: str, question: str, reference: str, answer: str, role: str, rule: str) -> tuple[Message, ...]:
    """Return the official evaluator's chat: context, question, the two answers, the rule."""
    parts = (
        f"[Context]\n{context}",
        f"[Question]\n{question}",
        f"[{role} 1]\n{reference}\n\n[End of {role} 1]",
        f"[{role} 2]\n{answer}\n\n[End of {role} 2]",
        f"[System]\n{rule}\n\n",
    )
    return {"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n\n".join(parts)}


def _context(line: int, record: dict[str, Any]) -> tuple[str, str]:
    """Return an image and its description."""
    caption = record["caption"]
    lines = [caption] if isinstance(caption, str) else caption
    if not isinstance(record["image"], str) or not isinstance(lines, list) or not lines:
        raise TypeError
    return record["image"], "\n".join(map(str, lines))


def _read_rules(path: Path) -> tuple[dict[str, tuple[str, str]] | None, tuple[str, ...]]:
    """Return role and instruction by category, or None if there is no file, and notes about them."""
    if not path.exists():
        file = "LLaVA's rule.json (llava/eval/table in its code)"
        return None, (f"judged by a rule written for this package: {file} is not in {path.parent}",)
    rules = readers.parse_object(path, lambda name, row: (name, (str(row["role"]), str(row["prompt"]))), "rule")
    return dict(rules), ()


def parse_scores(reply: str) -> tuple[float, float] | None:
    """Return the scores of reference and model in a reply; None if it is unreadable."""
    scores = read_review(reply)
    return scores if _is_readable(scores) else None


def write_reviews(path: Path, judged: Sequence[JudgedPrediction]) -> None:
    """Write LLaVA's review lines; an unreadable reply has the scores -1 and -1, as in the official code."""
    rows = []
    for row in judged:
        scores = list(UNREADABLE if row.scores[0] is None else row.scores[0])
        rows.append({**row.request.record, "content": row.replies[0], "tuple": scores, "model": row.model})
    write_jsonl(path, rows)


LLAVA_BENCH = Benchmark(
    name="llava_bench",
    title=TITLES["llava_bench"],
    metric="judge's score relative to the reference answers",
    files=BenchmarkFiles(
        questions="llava-bench-in-the-wild/questions.jsonl",
        images="llava-bench-in-the-wild/images",
        labels=("llava-bench-in-the-wild/questions.jsonl",),
        answers="llava-bench-in-the-wild/answers/{model}.jsonl",
        source="https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild",
        reviews="llava-bench-in-the-wild/reviews/{model}.jsonl",
    ),
    max_new_tokens=1024,
    read_labels=read_labels,
    read_predictions=read_reviews,
    score=score,
    official_caveat="the official summary counts an unreadable review as -1 for both, the strict protocol skips it",
    judge=Judge(
        read_predictions=readers.read_predictions,
        build_requests=build_requests,
        parse_reply=parse_scores,
        write_reviews=write_reviews,
        temperature=0.2,
        max_tokens=1024,
    ),
)
