"""MM-Vet: a judge's score of each prediction, over six capabilities and their combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aligngpt.data.schema import json_type
from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import TITLES, Id, SampleScore
from aligngpt.evaluation.benchmark import LLAVA_FILES, Benchmark, BenchmarkFiles
from aligngpt.evaluation.judge.judge import Judge, JudgedPrediction, JudgeRequest, JudgeRequests, match_for_judge
from aligngpt.evaluation.matching import describe_missing, get_predicted_texts, match_predictions
from aligngpt.evaluation.types import Prediction, Predictions, Protocol, Question, Score, Target
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
How many sheep stand on the hill, and what color is the barn? | four <AND> red | Four sheep and a red barn. | 1.0
How many sheep stand on the hill, and what color is the barn? | four <AND> red | Two sheep and a white barn. | 0.0
What is written over the door? | Baker's <OR> Baker's shop | The sign says "Baker's". | 1.0
What is written over the door? | Baker's <OR> Baker's shop | I cannot read the sign. | 0.0
Why do the two men laugh? | One has put salt instead of sugar into the other's tea, who has just tasted it and makes a \
face. | They laugh about a cup of tea. | 0.3
Why do the two men laugh? | One has put salt instead of sugar into the other's tea, who has just tasted it and makes a \
face. | One played a trick on the other, whose tea tastes bad. | 0.7
"""
_REMINDER = "Write only the number of the last row's correctness, from 0.0 to 1.0.\n"

Scores = Sequence[float | None]  # one per run of the judge; None if its reply is unreadable


def read_labels(paths: Sequence[Path]) -> list[Target]:
    """Read `mm-vet.json`: an object of question id to question with its `capability`."""
    path = readers.locate_file(paths, ("mm-vet.json",), "MM-Vet questions")
    return readers.parse_object(path, _target, "MM-Vet question")


def _target(name: str, record: dict[str, Any]) -> Target:
    capabilities = tuple(record["capability"])
    return Target(name, groups={"capability": capabilities, "capabilities": "+".join(sorted(set(capabilities)))})


def read_reviews(path: Path) -> Predictions:
    """Read a judge's scores: an object of question id to `score`, one number per run, `null` where it is unreadable.

    Raises:
        ValueError: If the file holds predictions, or a question's scores are not numbers or fewer than another's.
    """
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        raise ValueError(f"{path}: expected a judge's scores, a .json file of id to `score`; run `aligngpt eval judge`")
    rows: list[Prediction] = []
    for name, record in readers.load_object(path, "a judge's scores, an object of id to `score`").items():
        if isinstance(record, str):
            raise ValueError(f"{path}: holds predictions, not a judge's scores; run `aligngpt eval judge` first")
        scores = record.get("score") if isinstance(record, dict) else None
        are_numbers = isinstance(scores, list) and all(isinstance(value, int | float | None) for value in scores)
        if not scores or not are_numbers:
            raise ValueError(f"{path}: {name}: score is missing; expected a list of one number per run")
        num_runs = len(rows[0].extra["scores"]) if rows else len(scores)
        if len(scores) != num_runs:
            counts = f"{name} has {len(scores)} scores, {rows[0].id} has {num_runs}"
            raise ValueError(f"{path}: {counts}; every question needs one per run")
        text = "; ".join(map(str, record.get("content", ())))
        given = [None if value is None else float(value) for value in scores]
        rows.append(Prediction(name, text, extra={"scores": given}))
    return Predictions(str(path), rows)


def score(targets: Sequence[Target], predictions: Predictions, protocol: Protocol) -> Score:
    """Score by the mean over questions and runs; the strict protocol skips unreadable replies.

    Raises:
        ValueError: If no reply is readable.
    """
    matches, counts = match_predictions((target.id for target in targets), predictions)
    num_runs = len(predictions.rows[0].extra["scores"])
    unreadable = [name for name, row in matches.items() if None in row.extra["scores"]]
    samples: list[SampleScore] = []
    scores: list[Scores] = []
    for target in targets:
        row = matches.get(str(target.id))
        given = [0.0] * num_runs if row is None else row.extra["scores"]
        counted = [0.0 if value is None and protocol == "official" else value for value in given]
        readable = [value for value in counted if value is not None]
        if readable:
            text = None if row is None else row.text
            mean = sum(readable) / len(readable)
            samples.append(SampleScore(target.id, mean, text, given, None, target.groups))
            scores.append(counted)
    if not samples:
        raise ValueError(f"{predictions.source}: no score is readable; use another judge")
    totals, details = _summarize(samples, scores)
    notes = describe_missing(counts, "the official evaluator does the same")
    if unreadable:
        effect = "counted as 0, as in the official evaluator" if protocol == "official" else "skipped"
        notes += (f"questions with an unreadable score, {effect}: {', '.join(unreadable)}",)
    return Score(float(totals.mean()), str(_round(totals.mean())), samples, counts, details, notes)


def _summarize(samples: Sequence[SampleScore], scores: Sequence[Scores]) -> tuple[np.ndarray, Mapping[str, Any]]:
    """Return the total of each run in percent, and the official evaluator's two tables."""
    members: dict[str, dict[str, list[Scores]]] = {"capability": {}, "capabilities": {}}
    for sample, runs in zip(samples, scores, strict=True):
        for name in dict.fromkeys(sample.groups["capability"]):
            members["capability"].setdefault(name, []).append(runs)
        members["capabilities"].setdefault(str(sample.groups["capabilities"]), []).append(runs)
    totals = _percent(scores)
    common = {"total": _round(totals.mean()), "std": _round(totals.std()), "runs": [_round(total) for total in totals]}
    tables = {
        grouping: {name: _round(_percent(group).mean()) for name, group in categories.items()} | common
        for grouping, categories in members.items()
    }
    return totals, {"cap-score": tables["capability"], "cap-int-score": tables["capabilities"]}


def _percent(scores: Sequence[Scores]) -> np.ndarray:
    """Return the mean of the scores of some questions in percent for each run that has any; unreadable ones skip."""
    runs = [[value for value in run if value is not None] for run in zip(*scores, strict=True)]
    return np.array([sum(run) / len(run) * 100 for run in runs if run])


def _round(value: Any) -> float:
    return float(np.round(value, 1))


def write_submission(questions: Path, predictions: Predictions, output: Path) -> None:
    """Write the file of the online evaluator: an object of `v1_<question id>` to prediction."""
    rows = get_predicted_texts([question.id for question in readers.read_questions(questions)], predictions)
    write_json(output, {f"{_PREFIX}{name}": text for name, text in rows})


def sample_ids(questions: Sequence[Question], labels: Any) -> list[Id]:
    """Return the id that the labels give each question."""
    return [f"{_PREFIX}{question.id}" for question in questions]


# The judge ----------------------------------------------------------------------------------------------------------


def read_results(path: Path) -> Predictions:
    """Read predictions: LLaVA's lines, or the file of the online evaluator, an object of id to prediction.

    Raises:
        ValueError: If it is neither.
    """
    if path.name.removesuffix(".gz").endswith(".json"):
        rows = []
        for name, text in readers.load_object(path, "MM-Vet's predictions, an object of id to text").items():
            if not isinstance(text, str):
                raise ValueError(f"{path}: {name} is {json_type(text)}, expected the text of a prediction")
            rows.append(Prediction(name, text))
        return Predictions(str(path), rows, submission=True)
    predictions = readers.read_predictions(path)
    rows = [replace(row, id=f"{_PREFIX}{str(row.id).removeprefix(_PREFIX)}") for row in predictions.rows]
    return replace(predictions, rows=rows)


def build_requests(data: Path, predictions: Predictions) -> JudgeRequests:
    """Ask for the score of each prediction as the last cell of a table that begins with scored examples.

    Args:
        data: The folder with `mm-vet`, or that folder.

    Raises:
        ValueError: If it does not hold MM-Vet's questions, or the predictions are for others.
    """
    path = (data / _FOLDER if (data / _FOLDER).is_dir() else data) / "mm-vet.json"
    questions = dict(readers.parse_object(path, _question, "MM-Vet question"))
    matches, counts, notes = match_for_judge({name: question for name, (question, _) in questions.items()}, predictions)
    rows = [
        JudgeRequest(name, ({"role": "user", "content": f"{_TASK}{question} | {truth} | {matches[name].text} | "},))
        for name, (question, truth) in questions.items()
        if name in matches
    ]
    return JudgeRequests(rows, counts, [name for name in questions if name not in matches], notes)


def _question(name: str, record: dict[str, Any]) -> tuple[str, tuple[str, str]]:
    """Return an id with question and ground truth."""
    truth = str(record["answer"]).replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return name, (str(record["question"]), truth)


def parse_score(reply: str) -> float | None:
    """Return the number before the first space of a reply; None unless it is from 0 to 1."""
    try:
        value = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def write_reviews(path: Path, judged: Sequence[JudgedPrediction]) -> None:
    """Write the official evaluator's file: `model`, `score` and `content` by id, one score per run."""
    reviews = [{"model": row.model, "score": list(row.scores), "content": list(row.replies)} for row in judged]
    write_json(path, {str(row.request.id): review for row, review in zip(judged, reviews, strict=True)})


MMVET = Benchmark(
    name="mmvet",
    title=TITLES["mmvet"],
    metric="judge's mean score",
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
    read_labels=read_labels,
    read_predictions=read_reviews,
    score=score,
    write_submission=write_submission,
    official_caveat="the official evaluator counts an unreadable score as 0, the strict protocol skips it",
    judge=Judge(
        read_predictions=read_results,
        build_requests=build_requests,
        parse_reply=parse_score,
        write_reviews=write_reviews,
        temperature=0.0,
        max_tokens=16,  # the official 3 truncates the number where a judge's tokens are smaller
        max_attempts=5,
        reminder=_REMINDER,
        supports_runs=True,
    ),
    sample_ids=sample_ids,
)
