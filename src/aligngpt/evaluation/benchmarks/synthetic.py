"""Synthetic benchmark: accuracy on the test questions of the synthetic dataset, and the objects of descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aligngpt.evaluation.artifacts import SampleScore
from aligngpt.evaluation.benchmark import Benchmark, BenchmarkFiles
from aligngpt.evaluation.matching import describe_missing, percent, percent_by_category, score_targets
from aligngpt.evaluation.metrics import count_matches
from aligngpt.evaluation.readers import locate_file
from aligngpt.evaluation.types import Predictions, Protocol, Score, Target
from aligngpt.synthetic.artifacts import QUESTIONS_FILE

if TYPE_CHECKING:
    from aligngpt.synthetic.scenes import SceneObject

DESCRIPTION = "description"


def read_labels(paths: Sequence[Path]) -> list[Target]:
    """Read the answers of a synthetic dataset; `data` of a target are the objects of its image."""
    from aligngpt.synthetic.dataset import read_questions  # imported on use: scoring needs no image library

    folder = locate_file(paths, (QUESTIONS_FILE,), "synthetic questions").parent
    return [
        Target(record["question_id"], record["label"], {"kind": record["category"]}, data=record["objects"])
        for record in read_questions(folder)
    ]


def score(targets: Sequence[Target], predictions: Predictions, protocol: Protocol) -> Score:
    """Score short answers by exact match and descriptions by F1 of their objects, with all attributes.

    The sub-scores `objects` are precision and recall of the objects in descriptions, by color and shape.
    """
    samples, counts = score_targets(targets, predictions, _compare)
    objects = [
        part
        for target, sample in zip(targets, samples, strict=True)
        if target.groups["kind"] == DESCRIPTION
        for part in _score_objects(target, sample.text or "")
    ]
    accuracy = percent(samples)
    details = {"accuracy": accuracy, "accuracy_by_kind": percent_by_category(samples, "kind")}
    notes = describe_missing(counts, "both protocols do the same")
    return Score(accuracy, f"{accuracy:.2f}", [*samples, *objects], counts, details, notes)


def _compare(target: Target, text: str | None) -> tuple[str | None, float]:
    if target.groups["kind"] != DESCRIPTION:
        return text, float(text == target.label)
    named = _parse_objects(text or "")
    return text, 2 * count_matches(named, target.data) / max(1, len(named) + len(target.data))


def _score_objects(target: Target, text: str) -> Iterator[SampleScore]:
    """Yield two samples for the sub-scores alone: named objects that exist, and existing objects that are named."""
    n_right, n_named, n_present = match_objects(text, target.data)
    for name, number in (("precision", n_named), ("recall", n_present)):
        groups = {"objects": name}
        yield SampleScore(
            f"{target.id} {name}", n_right / max(1, number), None, None, None, groups, None, n_right, number
        )


def match_objects(text: str, objects: Sequence[SceneObject]) -> tuple[int, int, int]:
    """Return the numbers of right, named and present objects, each identified by color and shape."""
    named = [(item.color, item.shape) for item in _parse_objects(text)]
    return count_matches(named, [(item.color, item.shape) for item in objects]), len(named), len(objects)


def _parse_objects(text: str) -> list[SceneObject]:
    from aligngpt.synthetic.scenes import parse_objects

    return parse_objects(text)


SYNTHETIC = Benchmark(
    name="synthetic",
    title="Synthetic",
    metric="accuracy",
    files=BenchmarkFiles(
        questions=QUESTIONS_FILE,
        images="images",
        labels=(QUESTIONS_FILE,),
        answers="answers/{model}.jsonl",
        source="aligngpt synthetic generate",
    ),
    max_new_tokens=80,  # the longest description has 45
    read_labels=read_labels,
    score=score,
    official_caveat="",
)
