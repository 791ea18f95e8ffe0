"""Synthetic benchmark: accuracy on the test questions of the synthetic dataset, and the objects of descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aligngpt.evaluation.artifacts import SampleScore
from aligngpt.evaluation.benchmark import Benchmark, BenchmarkFiles
from aligngpt.evaluation.matching import match_predictions, missing_note, percent, percent_by_category
from aligngpt.evaluation.metrics import count_matches
from aligngpt.evaluation.readers import locate_file
from aligngpt.evaluation.types import Predictions, Protocol, Question, Score
from aligngpt.synthetic import dataset
from aligngpt.synthetic.scenes import SceneObject, parse_objects

DESCRIPTION = "description"
_FILE = "test.json"


def read_questions(path: Path) -> list[Question]:
    """Read the questions of a synthetic dataset."""
    return [
        Question(record["question_id"], record["text"], record["image"], record["kind"])
        for record in dataset.read_questions(path.parent)
    ]


def read_labels(paths: Sequence[Path]) -> list[dict]:
    """Read the questions with their answers and ground-truth objects."""
    return dataset.read_questions(locate_file(paths, (_FILE,), "synthetic questions").parent)


def score(labels: Sequence[dict], predictions: Predictions, protocol: Protocol) -> Score:
    """Score short answers by exact match and descriptions by F1 of their objects, with all attributes.

    The sub-scores `objects` are precision and recall of the objects in descriptions, by color and shape.
    """
    matches, count = match_predictions((label["question_id"] for label in labels), predictions)
    samples, objects = [], []
    for label in labels:
        row = matches.get(str(label["question_id"]))
        samples.append(_score_sample(label, None if row is None else row.text))
        if label["kind"] == DESCRIPTION:
            objects += _score_objects(label, "" if row is None else row.text)
    accuracy = percent(samples)
    details = {"accuracy": accuracy, "accuracy_by_kind": percent_by_category(samples, "kind")}
    notes = missing_note(count, "both protocols are the same")
    return Score(accuracy, f"{accuracy:.2f}", [*samples, *objects], count, details, notes)


def _score_sample(label: dict, text: str | None) -> SampleScore:
    groups = {"kind": label["kind"]}
    if label["kind"] != DESCRIPTION:
        right = float(text == label["label"])
        return SampleScore(label["question_id"], right, text, text, label["label"], groups)
    named = parse_objects(text or "")
    f1 = 2 * count_matches(named, label["objects"]) / max(1, len(named) + len(label["objects"]))
    return SampleScore(label["question_id"], f1, text, None, label["label"], groups)


def _score_objects(label: dict, text: str) -> list[SampleScore]:
    """Return two samples for the sub-scores alone: named objects that exist, and existing objects that are named."""
    n_right, n_named, n_present = match_objects(text, label["objects"])
    return [
        SampleScore(
            f"{label['question_id']} {name}",
            n_right / max(1, number),
            groups={"objects": name},
            aggregation_group=None,
            value=n_right,
            weight=number,
        )
        for name, number in (("precision", n_named), ("recall", n_present))
    ]


def match_objects(text: str, objects: Sequence[SceneObject]) -> tuple[int, int, int]:
    """Return the numbers of right, named and present objects, each known by color and shape."""
    named = [(item.color, item.shape) for item in parse_objects(text)]
    return count_matches(named, [(item.color, item.shape) for item in objects]), len(named), len(objects)


SYNTHETIC = Benchmark(
    name="synthetic",
    title="Synthetic",
    metric="accuracy",
    files=BenchmarkFiles(
        questions=_FILE,
        images="images",
        labels=(_FILE,),
        answers="answers/{model}.jsonl",
        source="aligngpt synthetic generate",
    ),
    max_new_tokens=80,  # the longest description has 45
    read_questions=read_questions,
    read_labels=read_labels,
    score=score,
    official_caveat="",
)
