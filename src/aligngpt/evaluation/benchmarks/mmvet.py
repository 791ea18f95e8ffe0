"""MM-Vet: a judge's grade for each answer, over six capabilities and their combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aligngpt.artifacts import write_json
from aligngpt.evaluation.benchmark import Answer, Answers, Benchmark, Item, Layout, Protocol, Score, match, missing_note
from aligngpt.evaluation.files import lacking, load_object, locate, read_questions


@dataclass(frozen=True)
class Label:
    """A question and the capabilities it needs."""

    id: str
    capabilities: tuple[str, ...]

    @property
    def combination(self) -> str:
        """The capabilities as one name, sorted."""
        return "+".join(sorted(set(self.capabilities)))


def read_labels(paths: Sequence[Path]) -> list[Label]:
    """Read `mm-vet.json`: an object of question id to question, with its `capability`.

    Raises:
        ValueError: If it is another file.
    """
    path = locate(paths, ("mm-vet.json",), "MM-Vet questions")
    records = load_object(path, "MM-Vet's questions, an object of id to question")
    try:
        return [Label(name, tuple(record["capability"])) for name, record in records.items()]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: no MM-Vet questions: {lacking(error)}") from None


def read_grades(path: Path) -> Answers:
    """Read a judge's grades: an object of question id to `score`, one number a run.

    Raises:
        ValueError: If these are answers instead, or a question's grades are no numbers or fewer than another's.
    """
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        raise ValueError(f"{path}: expected a judge's grades, a .json file of id to `score`; are these answers?")
    records = load_object(path, "a judge's grades, an object of id to `score`")
    rows: list[Answer] = []
    for name, record in records.items():
        if isinstance(record, str):
            raise ValueError(f"{path}: these are answers, not grades: a judge has to grade them first")
        grades = record.get("score") if isinstance(record, dict) else None
        if not isinstance(grades, list) or not grades or not all(isinstance(grade, int | float) for grade in grades):
            raise ValueError(f"{path}: {name} has no grades; expected `score`, a list of one number a run")
        if rows and len(grades) != len(rows[0].extra["grades"]):
            raise ValueError(
                f"{path}: {name} has {len(grades)} grades, {rows[0].id} has {len(rows[0].extra['grades'])}: each "
                "question needs one a run"
            )
        text = "; ".join(map(str, record.get("content", ())))
        rows.append(Answer(name, text, extra={"grades": [float(grade) for grade in grades]}))
    return Answers(str(path), rows)


def score(labels: Sequence[Label], answers: Answers, protocol: Protocol) -> Score:
    """Score by the mean grade over questions and runs; the same by either protocol."""
    given, count = match((label.id for label in labels), answers)
    runs = len(answers.rows[0].extra["grades"])
    items, grades = [], []
    for label in labels:
        row = given.get(label.id)
        own = [0.0] * runs if row is None else row.extra["grades"]
        groups: dict[str, str | tuple[str, ...]] = {"capability": label.capabilities, "capabilities": label.combination}
        items.append(Item(label.id, sum(own) / runs, None if row is None else row.text, own, None, groups))
        grades.append(own)
    by_capability: dict[str, list[int]] = {}
    by_combination: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        for name in dict.fromkeys(label.capabilities):
            by_capability.setdefault(name, []).append(place)
        by_combination.setdefault(label.combination, []).append(place)
    totals = _percent(grades, range(len(labels)))
    common = {
        "total": _rounded(totals.mean()),
        "std": _rounded(totals.std()),
        "runs": [_rounded(one) for one in totals],
    }
    details = {
        "cap-score": {name: _rounded(_percent(grades, own).mean()) for name, own in by_capability.items()} | common,
        "cap-int-score": {name: _rounded(_percent(grades, own).mean()) for name, own in by_combination.items()}
        | common,
    }
    notes = missing_note(count, "so they do in the official evaluator")
    return Score(float(totals.mean()), str(common["total"]), items, count, details, notes)


def _percent(grades: Sequence[Sequence[float]], places: Sequence[int]) -> np.ndarray:
    """Mean grade of some questions in percent, one for each run."""
    sums = np.zeros(len(grades[0]))
    for place in places:
        sums += grades[place]
    return sums / len(places) * 100


def _rounded(value: Any) -> float:
    return float(np.round(value, 1))


def write_submission(questions: Path, answers: Answers, output: Path) -> None:
    """Write answers in the form of the online evaluator: `v1_<question id>` to answer."""
    asked = read_questions(questions)
    given, _ = match((one.id for one in asked), answers)
    texts: Mapping[str, str] = {name: answer.text for name, answer in given.items()}
    write_json(output, {f"v1_{one.id}": texts.get(str(one.id), "") for one in asked})


MMVET = Benchmark(
    name="mmvet",
    title="MM-Vet",
    metric="judge's mean grade",
    layout=Layout(
        questions="mm-vet/llava-mm-vet.jsonl",
        images="mm-vet/images",
        labels=("mm-vet/mm-vet.json",),
        answers="mm-vet/answers/{model}.jsonl",
        submission="mm-vet/results/{model}.json",
    ),
    max_new_tokens=1024,
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_grades,
    score=score,
    write_submission=write_submission,
    differs="",
)
