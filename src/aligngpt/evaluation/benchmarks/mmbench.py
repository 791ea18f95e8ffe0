"""MMBench: multiple choice, each question asked with its options rotated; right only if every rotation is."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligngpt.evaluation import readers as files
from aligngpt.evaluation.benchmarks.option_matching import infer_option
from aligngpt.evaluation.metrics import mean
from aligngpt.evaluation.spreadsheet import Cell, write_sheet
from aligngpt.evaluation.types import (
    Benchmark,
    BenchmarkFiles,
    Prediction,
    Predictions,
    Protocol,
    Question,
    SampleScore,
    Score,
    match_predictions,
)

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ROTATION = 1_000_000  # an index is the question's, plus this for each rotation
_SUFFIX = "\nAnswer with the option's letter from the given choices directly."
_COLUMNS = ("index", "question", "A", "B")
if TYPE_CHECKING:
    from aligngpt.data.images import UnreadableImage

_ABSENT = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)  # what the readers of the official tools take for a missing cell
_NOT_UPLOADED = frozenset({"hint", "category", "source", "image", "comment", "l2-category"})
_PREDICTION_COLUMN = 6  # from 0


@dataclass(frozen=True)
class Row:
    """A row of the label file: one rotation of one question."""

    index: int
    options: Mapping[str, str]
    answer: str
    groups: Mapping[str, str]

    @property
    def question(self) -> int:
        """The index of the question, which all rotations share."""
        return self.index % _ROTATION


def read_labels(paths: Sequence[Path], check_images: bool = True) -> list[Row]:
    """Read the TSV file of questions, options and answers; images in it are checked, not kept.

    Args:
        check_images: Whether a broken image, which plays no part in a score, is an error.

    Raises:
        ValueError: If it is another file, has no answers, or an image that is no base64.
    """
    path = files.locate(paths, ("mmbench_dev*.tsv", "labels.tsv", "*.tsv"), "MMBench questions")
    rows = _read_table(path)
    if "answer" not in rows[0] or all(row["answer"] in _ABSENT for row in rows):
        raise ValueError(f"{path}: the questions have no answers; this split is scored by the server alone")
    from aligngpt.data.images import UnreadableImage

    for row in rows if check_images else ():
        image = _image(row)
        if isinstance(image, UnreadableImage) and row["image"] not in _ABSENT:
            raise ValueError(f"{path}: the image of index {row['index']} is {image.reason}")
    return [Row(_index(row, path), _options(row), row["answer"], _groups(row)) for row in rows]


def _read_table(path: Path) -> list[dict[str, str]]:
    rows = files.load_table(path, _COLUMNS)
    if not rows:
        raise ValueError(f"{path}: no questions in the table")
    return rows


def _index(row: Mapping[str, str], path: Path) -> int:
    try:
        return int(row["index"])
    except ValueError:
        raise ValueError(f"{path}: index {row['index'][:40]!r} is no integer; is this MMBench's table?") from None


def _options(row: Mapping[str, str]) -> dict[str, str]:
    return {letter: row[letter] for letter in _LETTERS if row.get(letter, "") not in _ABSENT}


def _groups(row: Mapping[str, str]) -> dict[str, str]:
    named = {"category": row.get("category", ""), "l2_category": row.get("l2-category", "")}
    return {name: part for name, part in named.items() if part not in _ABSENT}


def _image(row: Mapping[str, str]) -> bytes | UnreadableImage | None:
    """Return the decoded image of a row; None if the table has no images."""
    from aligngpt.data.images import UnreadableImage  # imported on use: scoring needs no image library

    if "image" not in row:
        return None
    if row["image"] in _ABSENT:
        return UnreadableImage("no image in the table")
    try:
        return base64.b64decode(row["image"], validate=True)
    except (binascii.Error, ValueError) as error:
        return UnreadableImage(f"broken base64 ({error})")


def read_answers(path: Path) -> Predictions:
    """Read LLaVA's answers; a missing text becomes `nan`, as in the official tools."""
    return files.read_answers(path, null_text="nan")


def score(labels: Sequence[Row], answers: Predictions, protocol: Protocol) -> Score:
    """Score by circular accuracy: officially over the questions and rotations that were answered, strictly over all."""
    given, count = match_predictions((row.index for row in labels), answers)
    rows: dict[int, list[Row]] = {}
    for row in labels:
        if protocol == "strict" or str(row.index) in given:
            rows.setdefault(row.question, []).append(row)
    listed = {row.question for row in labels if row.index < _ROTATION and str(row.index) in given}
    samples = [_item(own, given, protocol == "strict" or question in listed) for question, own in rows.items()]
    counted = [sample for sample in samples if sample.aggregation_group]
    if not counted:
        raise ValueError(f"{answers.source}: no answer to an un-rotated question (index below {_ROTATION:,})")
    accuracy = 100 * mean(sample.score for sample in counted)
    notes: tuple[str, ...] = ()
    unlisted = len(samples) - len(counted)
    if protocol == "official" and count.missing + unlisted:
        notes = (
            f"rows without an answer, not checked: {count.missing}; questions without an answer to their first "
            f"rotation, left out: {unlisted}",
        )
    return Score(accuracy, f"{accuracy:.2f}", samples, count, _details(counted, samples, accuracy), notes)


def _item(rows: Sequence[Row], given: Mapping[str, Prediction], listed: bool) -> SampleScore:
    parts = tuple(_part(row, given.get(str(row.index))) for row in rows)
    groups = rows[0].groups if listed else {}
    right = float(all(part.score for part in parts))
    return SampleScore(rows[0].question, right, groups=groups, aggregation_group="all" if listed else None, parts=parts)


def _part(row: Row, answer: Prediction | None) -> SampleScore:
    text = None if answer is None else answer.text
    prediction = None if text is None else infer_option(text, row.options)
    return SampleScore(row.index, float(prediction == row.answer), text, prediction, row.answer)


def _details(counted: Sequence[SampleScore], samples: Sequence[SampleScore], accuracy: float) -> dict[str, Any]:
    rows = [part for sample in samples for part in sample.parts]
    first = [part.score for part in rows if int(part.id) < _ROTATION]
    plain = [all(part.text == part.label for part in sample.parts) for sample in counted]
    return {
        "questions": len(counted),
        "rows": len(rows),
        "circular_hits": sum(sample.score == 1 for sample in counted),
        "circular_accuracy": accuracy,
        "row_hits": sum(part.score == 1 for part in rows),
        "row_accuracy": 100 * mean(part.score for part in rows),
        "first_round_hits": sum(hit == 1 for hit in first),
        "first_round_accuracy": 100 * mean(first),
        "plain_letter_equality": {
            "circular_hits": sum(plain),
            "circular_accuracy": 100 * mean(map(float, plain)),
            "row_hits": sum(part.text == part.label for part in rows),
        },
    }


def read_questions(path: Path, suffix: str = _SUFFIX) -> list[Question]:
    """Read the TSV file as questions: hint, question and options up to the first absent one, then how to answer.

    Args:
        suffix: How to answer.

    Raises:
        ValueError: If it is another file.
    """
    return [_question(row, path, suffix) for row in _read_table(path)]


def _question(row: Mapping[str, str], path: Path, suffix: str) -> Question:
    options: list[str] = []
    for letter in "ABCD":
        if _is_none(row.get(letter, "")):
            break
        options.append(row[letter])
    hint = "" if _is_none(row.get("hint", "")) else f"{row['hint']}\n"
    lines = [f"{hint}{row['question']}", *(f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=False))]
    asked = "\n".join(lines)
    return Question(
        id=_index(row, path),
        prompt=asked + suffix,
        image=_image(row),
        kind=row.get("category") or "default",
        stored_prompt=asked,
        extra={"round_id": 0, "options": options, "option_char": list("ABCD"[: len(options)])},
    )


def _is_none(cell: str) -> bool:
    return cell in _ABSENT or cell.lower() in ("none", "nan")


def write_submission(questions: Path, answers: Predictions, output: Path) -> None:
    """Write the .xlsx file the server takes: the table without some columns, and the answers as its seventh column."""
    rows = _read_table(questions)
    kept = [name for name in rows[0] if name not in _NOT_UPLOADED]
    given, _ = match_predictions((_index(row, questions) for row in rows), answers)
    sheet: list[list[Cell]] = [[*kept[:_PREDICTION_COLUMN], "prediction", *kept[_PREDICTION_COLUMN:]]]
    for row in rows:
        index = _index(row, questions)
        cells: list[Cell] = [index if name == "index" else _filled(row[name]) for name in kept]
        answer = given.get(str(index))
        cells.insert(_PREDICTION_COLUMN, None if answer is None else answer.text)
        sheet.append(cells)
    write_sheet(output, sheet)


def _filled(cell: str) -> str | None:
    return None if cell in _ABSENT else cell


def benchmark(name: str, title: str, split: str, suffix: str) -> Benchmark:
    """MMBench in one of its languages.

    Args:
        split: The table's name, without its ending.
        suffix: How to answer, after the options.
    """
    return Benchmark(
        name=name,
        title=title,
        metric="circular accuracy",
        files=BenchmarkFiles(
            questions=f"{name}/{split}.tsv",
            images=None,
            labels=(f"{name}/{split}.tsv",),
            answers=f"{name}/answers/{split}/{{model}}.jsonl",
            source=f"https://download.openmmlab.com/mmclassification/datasets/mmbench/{split}.tsv",
            submission=f"{name}/answers_upload/{split}/{{model}}.xlsx",
        ),
        max_new_tokens=1024,
        read_questions=partial(read_questions, suffix=suffix),
        read_labels=read_labels,
        read_labels_for_run=partial(read_labels, check_images=False),
        read_answers=read_answers,
        score=score,
        write_submission=write_submission,
        official_caveat="the official toolkit leaves out questions whose first rotation has no answer, and does not "
        "check "
        "other rotations without one",
    )


MMBENCH = benchmark("mmbench", "MMB", "mmbench_dev_20230712", _SUFFIX)
