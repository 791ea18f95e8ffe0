"""MM-Vet: a judge's grade for each answer, over six capabilities and their combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aligngpt.evaluation.judge.judge import Judge, Judged, Request, Requests, answers_to
from aligngpt.evaluation.readers import kind, lacking, load_object, locate, read_answers, read_questions
from aligngpt.evaluation.types import (
    LLAVA_FILES,
    Benchmark,
    BenchmarkFiles,
    Id,
    Prediction,
    Predictions,
    Protocol,
    Question,
    SampleScore,
    Score,
    match_predictions,
    missing_note,
)
from aligngpt.utils.io import write_json

_FOLDER = "mm-vet"
_PREFIX = "v1_"

# The official evaluator's form, a table whose last cell the judge fills in; words and examples are of this package.
_TASK = """\
Below is a table of questions about images. Each row has the question, the ground truth, a model's prediction and \
its correctness: a number in tenths from 0.0 (all wrong) to 1.0 (all right). Where <AND> joins parts of the ground \
truth, a prediction is all right only with every one of them; where <OR> joins them, one is enough. Fill in the \
correctness of the last row. Write the number and nothing else.

Question | Ground truth | Prediction | Correctness
--- | --- | --- | ---
How many sheep stand on the hill, and what color is the barn? | four <AND> red | There are four sheep. | 0.5
How many sheep stand on the hill, and what color is the barn? | four <AND> red | Four sheep, beside a red barn. | 1.0
How many sheep stand on the hill, and what color is the barn? | four <AND> red | Two sheep and a white barn. | 0.0
What is written over the door? | Baker's <OR> Baker's shop | The sign says "Baker's". | 1.0
What is written over the door? | Baker's <OR> Baker's shop | I cannot read the sign. | 0.0
Why do the two men laugh? | One has put salt instead of sugar into the other's tea, who has just tasted it and makes a \
face. | They laugh about a cup of tea. | 0.3
Why do the two men laugh? | One has put salt instead of sugar into the other's tea, who has just tasted it and makes a \
face. | One played a trick on the other, whose tea tastes bad. | 0.7
"""
_REMINDER = "Write only the number of the last row's correctness, from 0.0 to 1.0.\n"


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


def read_grades(path: Path) -> Predictions:
    """Read a judge's grades: an object of question id to `score`, one number a run, `null` where none could be read.

    Raises:
        ValueError: If these are answers instead, or a question's grades are no numbers or fewer than another's.
    """
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        raise ValueError(f"{path}: expected a judge's grades, a .json file of id to `score`; are these answers?")
    records = load_object(path, "a judge's grades, an object of id to `score`")
    rows: list[Prediction] = []
    for name, record in records.items():
        if isinstance(record, str):
            raise ValueError(f"{path}: these are answers, not grades: a judge has to grade them first")
        grades = record.get("score") if isinstance(record, dict) else None
        if not isinstance(grades, list) or not grades or not all(isinstance(one, int | float | None) for one in grades):
            raise ValueError(f"{path}: {name} has no grades; expected `score`, a list of one number a run")
        if rows and len(grades) != len(rows[0].extra["grades"]):
            raise ValueError(
                f"{path}: {name} has {len(grades)} grades, {rows[0].id} has {len(rows[0].extra['grades'])}: each "
                "question needs one a run"
            )
        text = "; ".join(map(str, record.get("content", ())))
        rows.append(
            Prediction(name, text, extra={"grades": [None if grade is None else float(grade) for grade in grades]})
        )
    return Predictions(str(path), rows)


def score(labels: Sequence[Label], answers: Predictions, protocol: Protocol) -> Score:
    """Score by the mean grade over questions and runs; strictly without the grades that could not be read.

    Raises:
        ValueError: If no grade could be read.
    """
    given, count = match_predictions((label.id for label in labels), answers)
    runs = len(answers.rows[0].extra["grades"])
    unread = [name for name, row in given.items() if None in row.extra["grades"]]
    samples, grades, graded = [], [], []
    for label in labels:
        row = given.get(label.id)
        read = [0.0] * runs if row is None else row.extra["grades"]
        own = [0.0 if grade is None and protocol == "official" else grade for grade in read]
        known = [grade for grade in own if grade is not None]
        if not known:
            continue
        groups: dict[str, str | tuple[str, ...]] = {"capability": label.capabilities, "capabilities": label.combination}
        text = None if row is None else row.text
        samples.append(SampleScore(label.id, sum(known) / len(known), text, read, None, groups))
        grades.append(own)
        graded.append(label)
    if not samples:
        raise ValueError(f"{answers.source}: none of its grades could be read")
    totals, details = _summary(graded, grades)
    notes = missing_note(count, "so they do in the official evaluator")
    if unread:
        what = "counted as 0, as in the official evaluator" if protocol == "official" else "left out"
        notes += (f"questions with a grade that could not be read, {what}: {', '.join(unread)}",)
    return Score(float(totals.mean()), str(_rounded(totals.mean())), samples, count, details, notes)


def _summary(labels: Sequence[Label], grades: Sequence[Sequence[float | None]]) -> tuple[np.ndarray, Mapping[str, Any]]:
    """The total of each run in percent, and the official evaluator's two tables."""
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
    return totals, {
        "cap-score": {name: _rounded(_percent(grades, own).mean()) for name, own in by_capability.items()} | common,
        "cap-int-score": {name: _rounded(_percent(grades, own).mean()) for name, own in by_combination.items()}
        | common,
    }


def _percent(grades: Sequence[Sequence[float | None]], places: Sequence[int]) -> np.ndarray:
    """Mean of the grades of some questions in percent, one for each run that has any; unread ones do not count."""
    runs = [[grades[place][run] for place in places] for run in range(len(grades[0]))]
    known = [[grade for grade in run if grade is not None] for run in runs]
    return np.array([sum(run) / len(run) * 100 for run in known if run])


def _rounded(value: Any) -> float:
    return float(np.round(value, 1))


def write_submission(questions: Path, answers: Predictions, output: Path) -> None:
    """Write answers in the form of the online evaluator: `v1_<question id>` to answer."""
    asked = read_questions(questions)
    given, _ = match_predictions((one.id for one in asked), answers)
    texts: Mapping[str, str] = {name: answer.text for name, answer in given.items()}
    write_json(output, {f"{_PREFIX}{one.id}": texts.get(str(one.id), "") for one in asked})


def sample_ids(questions: Sequence[Question], labels: Any) -> list[Id]:
    """Items are called as the labels call their questions."""
    return [f"{_PREFIX}{question.id}" for question in questions]


# The judge ----------------------------------------------------------------------------------------------------------


def read_results(path: Path) -> Predictions:
    """Read answers: LLaVA's lines, or an object of question id to answer, what the online evaluator takes.

    Raises:
        ValueError: If it is neither.
    """
    if path.name.removesuffix(".gz").endswith(".json"):
        rows = []
        for name, text in load_object(path, "MM-Vet's answers, an object of id to answer").items():
            if not isinstance(text, str):
                raise ValueError(f"{path}: the answer to {name} is {kind(text)}, expected a text; are these answers?")
            rows.append(Prediction(name, text))
        return Predictions(str(path), rows, submission=True)
    answers = read_answers(path)
    rows = [
        replace(row, id=str(row.id) if str(row.id).startswith(_PREFIX) else f"{_PREFIX}{row.id}")
        for row in answers.rows
    ]
    return replace(answers, rows=rows)


def requests(data: Path, answers: Predictions) -> Requests:
    """Ask for the grade of each answer, as the last cell of a table that begins with graded examples.

    Args:
        data: The folder with `mm-vet`, or that folder.

    Raises:
        ValueError: If these are no questions of MM-Vet, or the answers are to others.
    """
    folder = data / _FOLDER if (data / _FOLDER).is_dir() else data
    path = folder / "mm-vet.json"
    questions = load_object(path, "MM-Vet's questions, an object of id to question")
    try:
        truths = {name: str(one["answer"]) for name, one in questions.items()}
        asked = {name: str(one["question"]) for name, one in questions.items()}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: no MM-Vet questions: {lacking(error)}") from None
    given, count, notes = answers_to(asked, answers)
    rows = []
    for name in (name for name in asked if name in given):
        truth = truths[name].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        row = f"{asked[name]} | {truth} | {given[name].text} | "
        rows.append(Request(name, ({"role": "user", "content": _TASK + row},)))
    return Requests(rows, count, [name for name in asked if name not in given], notes)


def read_grade(reply: str) -> float | None:
    """Read a grade, what stands in front of the first space; None unless it is a number from 0 to 1."""
    try:
        grade = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


def write_grades(path: Path, judged: Sequence[Judged]) -> None:
    """Write the official evaluator's grades: `model`, `score` and `content`, one a run."""
    write_json(
        path,
        {
            str(row.request.id): {"model": row.model, "score": list(row.marks), "content": list(row.replies)}
            for row in judged
        },
    )


MMVET = Benchmark(
    name="mmvet",
    title="MM-Vet",
    metric="judge's mean grade",
    files=BenchmarkFiles(
        questions="mm-vet/llava-mm-vet.jsonl",
        images="mm-vet/images",
        labels=("mm-vet/mm-vet.json",),
        answers="mm-vet/answers/{model}.jsonl",
        source="images and labels: https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip; "
        "question file: " + LLAVA_FILES,
        reviews="mm-vet/reviews/{model}.json",
        submission="mm-vet/results/{model}.json",
    ),
    max_new_tokens=1024,
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_grades,
    score=score,
    write_submission=write_submission,
    official_caveat="the official evaluator counts a grade that could not be read as 0, the strict one leaves it out",
    judge=Judge(
        read_results,
        requests,
        read_grade,
        write_grades,
        ".json",
        temperature=0.0,
        max_tokens=16,  # the official 3 would cut the number short where a judge's tokens are smaller
        attempts=5,
        reminder=_REMINDER,
        several_runs=True,
    ),
    sample_ids=sample_ids,
)
