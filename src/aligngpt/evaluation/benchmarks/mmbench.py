"""MMBench: multiple choice, each question with rotated options; correct only if every rotation is."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from aligngpt.data.schema import UnreadableImage
from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import TITLES, SampleScore
from aligngpt.evaluation.benchmark import Benchmark, BenchmarkFiles
from aligngpt.evaluation.benchmarks.option_matching import ANSWER_WITH_LETTER, infer_option
from aligngpt.evaluation.matching import match_predictions, percent
from aligngpt.evaluation.metrics import mean
from aligngpt.evaluation.types import Prediction, Predictions, Protocol, Question, Score
from aligngpt.utils.io import atomic_path

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ROTATION = 1_000_000  # an index is that of the question plus this for each rotation
_MISSING = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)  # what the readers of the official tools treat as a missing cell
_NOT_UPLOADED = frozenset({"hint", "category", "source", "image", "comment", "l2-category"})
_PREDICTION_COLUMN = 6  # from 0

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Row = Mapping[str, str]
Cell = str | int | None


@dataclass(frozen=True)
class Rotation:
    """A row of the label file: one rotation of the options of a question."""

    index: int
    options: Mapping[str, str]
    label: str
    groups: Mapping[str, str]

    @property
    def question(self) -> int:
        """The index of the question, which all its rotations share."""
        return self.index % _ROTATION


def read_labels(paths: Sequence[Path], check_images: bool = True) -> list[Rotation]:
    """Read the TSV file of questions, options and answers; its images are checked, not kept.

    Args:
        check_images: Whether a broken image, which does not affect scores, is an error.

    Raises:
        ValueError: If it is another file, has no answers, or has an image that is not base64.
    """
    path = readers.locate_file(paths, ("mmbench_dev*.tsv", "labels.tsv", "*.tsv"), "MMBench questions")
    rows = _read_table(path)
    if "answer" not in rows[0] or all(row["answer"] in _MISSING for row in rows):
        raise ValueError(f"{path}: no answers; this split is scored by the server, see `aligngpt eval submission`")
    for row in rows if check_images else ():
        image = _decode_image(row)
        if image is not None and not isinstance(image, bytes) and row["image"] not in _MISSING:
            raise ValueError(f"{path}: index {row['index']}: image is {image.reason}")
    return [Rotation(_index(row, path), _options(row), row["answer"], _groups(row)) for row in rows]


def _read_table(path: Path) -> list[dict[str, str]]:
    rows = readers.load_table(path, ("index", "question", "A", "B"))
    if not rows:
        raise ValueError(f"{path}: no questions; check that the file is complete")
    return rows


def _index(row: Row, path: Path) -> int:
    try:
        return int(row["index"])
    except ValueError:
        problem = f"index {row['index'][:40]!r} is not an integer"
        raise ValueError(f"{path}: {problem}; check that this is MMBench's table") from None


def _options(row: Row) -> dict[str, str]:
    return {letter: row[letter] for letter in _LETTERS if row.get(letter, "") not in _MISSING}


def _groups(row: Row) -> dict[str, str]:
    groups = {"category": row.get("category", ""), "l2_category": row.get("l2-category", "")}
    return {name: category for name, category in groups.items() if category not in _MISSING}


def _decode_image(row: Row) -> bytes | UnreadableImage | None:
    """Return the decoded image of a row, None if the table has no images."""
    if "image" not in row:
        return None
    if row["image"] in _MISSING:
        return UnreadableImage("no image in the table")
    try:
        return base64.b64decode(row["image"], validate=True)
    except (binascii.Error, ValueError) as error:
        return UnreadableImage(f"broken base64 ({error})")


def score(labels: Sequence[Rotation], predictions: Predictions, protocol: Protocol) -> Score:
    """Score by circular accuracy: officially over the questions and rotations with predictions, strictly over all.

    Raises:
        ValueError: If no question counts.
    """
    matches, counts = match_predictions((rotation.index for rotation in labels), predictions)
    rotations: dict[int, list[Rotation]] = {}
    for rotation in labels:
        if protocol == "strict" or str(rotation.index) in matches:
            rotations.setdefault(rotation.question, []).append(rotation)
    listed = {label.question for label in labels if label.index < _ROTATION and str(label.index) in matches}
    samples = [
        _sample(group, matches, protocol == "strict" or question in listed) for question, group in rotations.items()
    ]
    counted = [sample for sample in samples if sample.aggregation_group]
    if not counted:
        raise ValueError(
            f"{predictions.source}: no prediction for an unrotated question (index below {_ROTATION:,}); check that "
            "the file is complete"
        )
    accuracy = percent(counted)
    notes: tuple[str, ...] = ()
    num_unlisted = len(samples) - len(counted)
    if protocol == "official" and counts.n_missing + num_unlisted:
        notes = (
            f"rotations without a prediction, not checked: {counts.n_missing}; questions without a prediction for "
            f"their first rotation, skipped: {num_unlisted}",
        )
    return Score(accuracy, f"{accuracy:.2f}", samples, counts, _details(counted, samples, accuracy), notes)


def _sample(rotations: Sequence[Rotation], matches: Mapping[str, Prediction], counts: bool) -> SampleScore:
    parts = tuple(_part(rotation, matches.get(str(rotation.index))) for rotation in rotations)
    correct = float(all(part.score for part in parts))
    groups = rotations[0].groups if counts else {}
    group = "all" if counts else None
    return SampleScore(rotations[0].question, correct, groups=groups, aggregation_group=group, parts=parts)


def _part(rotation: Rotation, prediction: Prediction | None) -> SampleScore:
    text = None if prediction is None else prediction.text
    letter = None if text is None else infer_option(text, rotation.options)
    return SampleScore(rotation.index, float(letter == rotation.label), text, letter, rotation.label)


def _details(counted: Sequence[SampleScore], samples: Sequence[SampleScore], accuracy: float) -> dict[str, Any]:
    rows = [part for sample in samples for part in sample.parts]
    first_round = [part for part in rows if int(part.id) < _ROTATION]
    plain = [all(part.text == part.label for part in sample.parts) for sample in counted]
    return {
        "questions": len(counted),
        "rows": len(rows),
        "circular_hits": sum(sample.score == 1 for sample in counted),
        "circular_accuracy": accuracy,
        "row_hits": sum(part.score == 1 for part in rows),
        "row_accuracy": percent(rows),
        "first_round_hits": sum(part.score == 1 for part in first_round),
        "first_round_accuracy": percent(first_round),
        "plain_letter_equality": {
            "circular_hits": sum(plain),
            "circular_accuracy": 100 * mean(map(float, plain)),
            "row_hits": sum(part.text == part.label for part in rows),
        },
    }


def read_questions(path: Path, instruction: str) -> list[Question]:
    """Read the TSV file as questions: hint, question, options up to the first missing one, then the instruction."""
    return [_question(row, path, instruction) for row in _read_table(path)]


def _question(row: Row, path: Path, instruction: str) -> Question:
    options = list(takewhile(lambda cell: not _is_none(cell), (row.get(letter, "") for letter in "ABCD")))
    hint = "" if _is_none(row.get("hint", "")) else f"{row['hint']}\n"
    lines = [f"{hint}{row['question']}", *(f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=False))]
    prompt = "\n".join(lines)
    return Question(
        id=_index(row, path),
        prompt=prompt + instruction,
        image=_decode_image(row),
        kind=row.get("category") or "default",
        stored_prompt=prompt,
        extra={"round_id": 0, "options": options, "option_char": list("ABCD"[: len(options)])},
    )


def _is_none(cell: str) -> bool:
    return cell in _MISSING or cell.lower() in ("none", "nan")


def write_submission(questions: Path, predictions: Predictions, output: Path) -> None:
    """Write the server's .xlsx file: the table without some columns, with the predictions as the seventh column."""
    rows = _read_table(questions)
    columns = [name for name in rows[0] if name not in _NOT_UPLOADED]
    matches, _ = match_predictions((_index(row, questions) for row in rows), predictions)
    sheet: list[list[Cell]] = [[*columns[:_PREDICTION_COLUMN], "prediction", *columns[_PREDICTION_COLUMN:]]]
    for row in rows:
        cells: list[Cell] = [None if row[name] in _MISSING else row[name] for name in columns]
        index = cells[columns.index("index")] = _index(row, questions)
        cells.insert(_PREDICTION_COLUMN, matches[str(index)].text if str(index) in matches else None)
        sheet.append(cells)
    write_sheet(output, sheet)


def write_sheet(path: Path, rows: Sequence[Sequence[Cell]]) -> None:
    """Write an .xlsx file with one sheet; equal rows make equal files.

    Raises:
        ImportError: If XlsxWriter is not installed.
    """
    try:
        import xlsxwriter
    except ImportError:
        raise ImportError("a spreadsheet needs the package XlsxWriter: pip install 'aligngpt[submission]'") from None
    with atomic_path(path) as temporary, xlsxwriter.Workbook(temporary, {"constant_memory": True}) as workbook:
        workbook.set_properties({"created": datetime(2000, 1, 1)})
        sheet = workbook.add_worksheet()
        for row, cells in enumerate(rows):
            for column, cell in enumerate(cells):
                if isinstance(cell, int):
                    sheet.write_number(row, column, cell)
                elif cell is not None:
                    sheet.write_string(row, column, _NOT_XML.sub("\ufffd", cell))


def mmbench(name: str, split: str, instruction: str) -> Benchmark:
    """Return MMBench in one language.

    Args:
        split: Name of the table without its suffix.
        instruction: How to answer, after the options.
    """
    return Benchmark(
        name=name,
        title=TITLES[name],
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
        read_questions=partial(read_questions, instruction=instruction),
        read_labels=read_labels,
        read_labels_for_run=partial(read_labels, check_images=False),
        read_predictions=partial(readers.read_predictions, null_text="nan"),  # as the official tools read null
        score=score,
        write_submission=write_submission,
        official_caveat="the official toolkit skips questions without a prediction for their first rotation, and "
        "does not check other rotations without one",
    )


MMBENCH = mmbench("mmbench", "mmbench_dev_20230712", ANSWER_WITH_LETTER)
MMBENCH_CN = mmbench("mmbench_cn", "mmbench_dev_cn_20231003", "\n请直接回答选项字母。")
