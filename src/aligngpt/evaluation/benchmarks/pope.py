"""POPE: is there such an object in the image; F1 of yes, over random, popular and adversarial questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.evaluation.metrics import mean, total
from aligngpt.evaluation.readers import folders, gather, load_records, read_answers, read_questions, record_id
from aligngpt.evaluation.types import (
    LLAVA_FILES,
    Benchmark,
    BenchmarkFiles,
    Id,
    Prediction,
    Predictions,
    Protocol,
    SampleScore,
    Score,
    match_predictions,
)

_LABELS = ("coco_pope_*.json", "coco/coco_pope_*.json", "labels/coco_pope_*.json")
_QUESTIONS = ("llava_pope_test.jsonl", "questions.jsonl")
_NO = frozenset({"No", "no", "not"})


@dataclass(frozen=True)
class Label:
    """A label line: the question as image and text, and yes or no."""

    id: Id
    image: str
    text: str
    label: str


@dataclass(frozen=True)
class Asked:
    """A question as it was asked: the subset it belongs to, and image and text to find its label by."""

    id: Id
    subset: str
    image: str
    text: str


@dataclass(frozen=True)
class Labels:
    """Label lines by subset, and the questions; none where one subset is scored by the ids of its labels."""

    subsets: Mapping[str, Sequence[Label]]
    asked: Sequence[Asked]


def read_labels(paths: Sequence[Path]) -> Labels:
    """Read `coco_pope_<subset>.json` and, beside or above them, LLaVA's question file, which names the subsets.

    Raises:
        ValueError: If there are no labels, or several subsets without a question file.
    """
    if not paths:
        raise ValueError("nothing says where the POPE labels are: give --labels")
    subsets: dict[str, list[Label]] = {}
    asked: list[Asked] = []
    for path in gather(paths, _LABELS):
        records = load_records(path)
        if "label" in records[0][1]:
            name = path.name.removeprefix("coco_pope_").split(".")[0]
            subsets[name] = [_label(record, path, line) for line, record in records]
        else:
            asked = _asked(path)
    if not subsets:
        raise ValueError(f"{paths[0]}: no POPE labels, expected {' or '.join(_LABELS)}")
    own = folders(paths)
    question_files = [] if asked else gather([*own, *(folder.resolve().parent for folder in own)], _QUESTIONS)
    if question_files:
        asked = _asked(question_files[0])
    asked = [one for one in asked if one.subset in subsets]
    if not asked and len(subsets) > 1:
        raise ValueError(
            f"{paths[0]}: nothing says which answer belongs to which of {', '.join(subsets)}; name LLaVA's "
            f"{_QUESTIONS[0]} with --labels as well"
        )
    return Labels(
        subsets, asked or [Asked(one.id, name, one.image, one.text) for name in subsets for one in subsets[name]]
    )


def _label(record: dict[str, Any], path: Path, line: int) -> Label:
    if record.get("label") not in ("yes", "no"):
        raise ValueError(
            f"{path}:{line}: label is {record.get('label')!r}, expected yes or no; are these POPE's labels?"
        )
    return Label(
        record_id(record, "question_id", path, line), record.get("image", ""), record.get("text", ""), record["label"]
    )


def _asked(path: Path) -> list[Asked]:
    return [Asked(one.id, one.kind, str(one.image), one.prompt.split("\n")[0]) for one in read_questions(path)]


def read_yes_no(text: str) -> str:
    """Read an answer: the first sentence without commas says no if one of its words is No, no or not; else yes."""
    return "no" if _NO & set(text.split(".")[0].replace(",", "").split(" ")) else "yes"


def score(labels: Labels, answers: Predictions, protocol: Protocol) -> Score:
    """Score by F1 of yes in each subset: officially by position, strictly by question."""
    given, count = match_predictions((one.id for one in labels.asked), answers)
    subset_of = {str(one.id): one for one in labels.asked}
    notes: list[str] = []
    samples: list[SampleScore] = []
    details: dict[str, Any] = {}
    for subset, lines in labels.subsets.items():
        own = [one for one in labels.asked if one.subset == subset]
        if protocol == "official":
            rows = [row for row in answers.rows if str(row.id) in subset_of and subset_of[str(row.id)].subset == subset]
            part = [_item(subset, line.label, row.id, row) for row, line in zip(rows, lines, strict=False)]
            notes += _misplaced(subset, rows, lines, subset_of)
            said = [read_yes_no(row.text) for row in rows]
        else:
            part = _by_question(subset, own, lines, given)
            said = [sample.prediction for sample in part]
        samples += part
        if not part:
            raise ValueError(
                f"{answers.source}: no answers to the {subset} questions; give the labels of the others alone"
            )
        details[subset] = _confusion(part, said)
        if details[subset]["TP"] == 0:
            notes.append(f"{subset}: no yes is right, so the official scorer divides by zero; F1 is taken as 0")
    f1 = total(part["f1"] for part in details.values()) / len(details)
    details["mean_f1"] = f1
    return Score(100 * f1, f"{100 * f1:.2f}", samples, count, details, tuple(notes))


def _item(subset: str, label: str, name: Id, answer: Prediction | None) -> SampleScore:
    """One question; one without an answer counts as the opposite of its label."""
    opposite = "no" if label == "yes" else "yes"
    prediction = opposite if answer is None else read_yes_no(answer.text)
    hit = 2.0 * (prediction == label == "yes")
    return SampleScore(
        name,
        float(prediction == label),
        None if answer is None else answer.text,
        prediction,
        label,
        {"subset": subset},
        aggregation_group=subset,
        value=hit,
        weight=hit + (prediction != label),
    )


def _by_question(
    subset: str, asked: Sequence[Asked], lines: Sequence[Label], given: Mapping[str, Prediction]
) -> list[SampleScore]:
    label_of = {(line.image, line.text): line.label for line in lines}
    unlabelled = [one for one in asked if (one.image, one.text) not in label_of]
    if unlabelled:
        raise ValueError(
            f"{subset}: the labels lack {len(unlabelled)} of its {len(asked)} questions, the first about "
            f"{unlabelled[0].image}: are question file and labels of the same release?"
        )
    return [_item(subset, label_of[one.image, one.text], one.id, given.get(str(one.id))) for one in asked]


def _misplaced(
    subset: str, rows: Sequence[Prediction], lines: Sequence[Label], subset_of: Mapping[str, Asked]
) -> list[str]:
    """Say how many answers were set against the label of another question."""
    pairs = [(subset_of[str(row.id)], line) for row, line in zip(rows, lines, strict=False)]
    wrong = sum((one.image, one.text) != (line.image, line.text) for one, line in pairs)
    notes = [f"{subset}: answers at the place of another question's label: {wrong}"] if wrong else []
    if len(rows) != len(lines):
        notes.append(f"{subset}: {len(rows)} answers for {len(lines)} labels, paired by position from the first on")
    return notes


def _confusion(samples: Sequence[SampleScore], said: Sequence[str]) -> dict[str, float]:
    pairs = [(sample.prediction, sample.label) for sample in samples]
    tp, fp, tn, fn = (pairs.count(one) for one in (("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes")))
    precision = tp / (tp + fp) if tp else 0.0
    recall = tp / (tp + fn) if tp else 0.0
    return {
        "n": len(said),
        "TP": tp,
        "FP": fp,
        "TN": tn,
        "FN": fn,
        "accuracy": (tp + tn) / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if tp else 0.0,
        "yes_ratio": mean(float(word == "yes") for word in said),
    }


POPE = Benchmark(
    name="pope",
    title="POPE",
    metric="F1 of yes, mean of the subsets",
    files=BenchmarkFiles(
        questions="pope/llava_pope_test.jsonl",
        images="pope/val2014",
        labels=("pope/coco",),
        answers="pope/answers/{model}.jsonl",
        source="images: http://images.cocodataset.org/zips/val2014.zip; labels: output/coco of "
        "https://github.com/AoiDragon/POPE; question file: " + LLAVA_FILES,
    ),
    max_new_tokens=128,
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_answers,
    score=score,
    official_caveat="the official scorer pairs answers and labels by position, so that one missing or repeated "
    "answer shifts "
    "all that follow",
)
