"""POPE: is an object in the image; F1 of yes over random, popular and adversarial questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import TITLES, Id, SampleScore
from aligngpt.evaluation.benchmark import LLAVA_FILES, Benchmark, BenchmarkFiles
from aligngpt.evaluation.matching import match_predictions
from aligngpt.evaluation.metrics import mean, total
from aligngpt.evaluation.types import Prediction, Predictions, Protocol, Score, Target

_LABELS = ("coco_pope_*.json", "coco/coco_pope_*.json", "labels/coco_pope_*.json")
_QUESTIONS = ("llava_pope_test.jsonl", "questions.jsonl")
_NO = frozenset({"No", "no", "not"})


@dataclass(frozen=True)
class PopeLabels:
    """Label lines by subset, and the questions; `Target.data` is image and text of the question, which match both."""

    subsets: Mapping[str, Sequence[Target]]
    questions: Sequence[Target]


def read_labels(paths: Sequence[Path]) -> PopeLabels:
    """Read `coco_pope_<subset>.json` and LLaVA's question file, in or above their folder, which names the subsets.

    Raises:
        ValueError: If there are no labels, or several subsets without a question file.
    """
    readers.require_labels(paths, "POPE labels")
    subsets: dict[str, list[Target]] = {}
    questions: list[Target] = []
    for path in readers.collect_files(paths, _LABELS):
        records = readers.load_records(path)
        if "label" in records[0][1]:
            name = path.name.removeprefix("coco_pope_").split(".")[0]
            subsets[name] = readers.parse_records(records, partial(_label, path, name), path, "POPE label")
        else:
            questions = _read_questions(path)
    if not subsets:
        raise ValueError(f"{paths[0]}: no POPE labels; expected {' or '.join(_LABELS)}")
    if not questions:
        folders = readers.list_folders(paths)
        files = readers.collect_files([*folders, *(folder.resolve().parent for folder in folders)], _QUESTIONS)
        questions = _read_questions(files[0]) if files else []
    questions = [question for question in questions if question.groups["subset"] in subsets]
    if not questions and len(subsets) > 1:
        raise ValueError(
            f"{paths[0]}: the subsets {', '.join(subsets)} need LLaVA's question file; pass {_QUESTIONS[0]} with "
            "--labels as well"
        )
    return PopeLabels(subsets, questions or [label for labels in subsets.values() for label in labels])


def _label(path: Path, subset: str, line: int, record: dict[str, Any]) -> Target:
    if record.get("label") not in ("yes", "no"):
        problem = f"label is {record.get('label')!r}, expected yes or no"
        raise ValueError(f"{path}:{line}: {problem}; check that these are POPE's labels")
    key = (record.get("image", ""), record.get("text", ""))
    return Target(readers.record_id(record, "question_id", path, line), record["label"], {"subset": subset}, data=key)


def _read_questions(path: Path) -> list[Target]:
    return [
        Target(question.id, groups={"subset": question.kind}, data=(question.image, question.prompt.split("\n")[0]))
        for question in readers.read_questions(path)
    ]


def read_yes_no(text: str) -> str:
    """Return no if the first sentence, without commas, has the word No, no or not; otherwise yes."""
    return "no" if _NO & set(text.split(".")[0].replace(",", "").split(" ")) else "yes"


def score(labels: PopeLabels, predictions: Predictions, protocol: Protocol) -> Score:
    """Score by the F1 of yes in each subset: officially by position, strictly by question.

    Raises:
        ValueError: If a subset has no predictions, or strictly if a question has no label.
    """
    matches, counts = match_predictions((question.id for question in labels.questions), predictions)
    by_id = {str(question.id): question for question in labels.questions}
    subset_of = {name: question.groups["subset"] for name, question in by_id.items()}
    notes: list[str] = []
    samples: list[SampleScore] = []
    details: dict[str, Any] = {}
    for subset, lines in labels.subsets.items():
        if protocol == "official":
            rows = [row for row in predictions.rows if subset_of.get(str(row.id)) == subset]
            part = [_sample(subset, line.label, row.id, row) for row, line in zip(rows, lines, strict=False)]
            notes += _position_notes(subset, [by_id[str(row.id)] for row in rows], lines)
            parsed = [read_yes_no(row.text) for row in rows]
        else:
            part = _score_by_question(subset, labels, matches)
            parsed = [sample.prediction for sample in part]
        samples += part
        if not part:
            problem = f"no predictions for the {subset} questions"
            raise ValueError(f"{predictions.source}: {problem}; pass the labels of other subsets")
        details[subset] = _confusion(part, parsed)
        if details[subset]["TP"] == 0:
            notes.append(f"{subset}: no yes is correct and the official scorer divides by zero; F1 counts as 0")
    f1 = total(part["f1"] for part in details.values()) / len(details)
    details["mean_f1"] = f1
    return Score(100 * f1, f"{100 * f1:.2f}", samples, counts, details, tuple(notes))


def _sample(subset: str, label: str, name: Id, prediction: Prediction | None) -> SampleScore:
    """Score one question; a missing prediction counts as the opposite of its label."""
    opposite = "no" if label == "yes" else "yes"
    text, parsed = (None, opposite) if prediction is None else (prediction.text, read_yes_no(prediction.text))
    correct = parsed == label
    hit = 2.0 * (correct and label == "yes")
    return SampleScore(name, float(correct), text, parsed, label, {"subset": subset}, subset, hit, hit + (not correct))


def _score_by_question(subset: str, labels: PopeLabels, matches: Mapping[str, Prediction]) -> list[SampleScore]:
    questions = [question for question in labels.questions if question.groups["subset"] == subset]
    by_key = {line.data: line.label for line in labels.subsets[subset]}
    missing = [question for question in questions if question.data not in by_key]
    if missing:
        raise ValueError(
            f"{subset}: labels are missing for {len(missing)} of {len(questions)} questions, the first about "
            f"{missing[0].data[0]}; pass question file and labels of the same release"
        )
    rows = ((by_key[question.data], question.id, matches.get(str(question.id))) for question in questions)
    return [_sample(subset, *row) for row in rows]


def _position_notes(subset: str, questions: Sequence[Target], lines: Sequence[Target]) -> list[str]:
    """Report predictions that are compared with the label of another question."""
    wrong = sum(question.data != line.data for question, line in zip(questions, lines, strict=False))
    notes = [f"{subset}: predictions compared with the label of another question: {wrong}"] if wrong else []
    if len(questions) != len(lines):
        notes.append(f"{subset}: {len(questions)} predictions for {len(lines)} labels, paired by position")
    return notes


def _confusion(samples: Sequence[SampleScore], parsed: Sequence[str]) -> dict[str, float]:
    pairs = [(sample.prediction, sample.label) for sample in samples]
    tp, fp, tn, fn = (pairs.count(pair) for pair in (("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes")))
    precision = tp / (tp + fp) if tp else 0.0
    recall = tp / (tp + fn) if tp else 0.0
    return {
        "n": len(parsed),
        "TP": tp,
        "FP": fp,
        "TN": tn,
        "FN": fn,
        "accuracy": (tp + tn) / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if tp else 0.0,
        "yes_ratio": mean(float(word == "yes") for word in parsed),
    }


POPE = Benchmark(
    name="pope",
    title=TITLES["pope"],
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
    read_labels=read_labels,
    score=score,
    official_caveat="the official scorer pairs predictions and labels by position, so one missing or repeated "
    "prediction shifts all that follow",
)
