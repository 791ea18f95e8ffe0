"""Reading the files of benchmarks: JSON, JSON Lines and tables, packed or not, with errors that name file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligngpt.evaluation.types import Id, Prediction, Predictions, Question
from aligngpt.utils.io import parse_json, read_bytes

Record = dict[str, Any]

_ID_KEYS = ("question_id", "questionId", "image")
_SUBMISSION_KEYS = ("answer", "prediction")
_QUESTION_KEYS = {"image", "category", "text"}


def find(data: Path, name: str) -> Path | None:
    """A file or folder below the data folder, packed or not; None if it is not there."""
    return next((path for path in (data / name, data / f"{name}.gz") if path.exists()), None)


def load(path: Path) -> bytes:
    """Read a file, unpacked if it is a gzip file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is packed and damaged.
    """
    content = read_bytes(path)
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); is it cut short?") from None


def load_text(path: Path) -> str:
    """Read UTF-8 text, with or without a byte order mark.

    Raises:
        ValueError: If it is no UTF-8; the message names the line.
    """
    content = load(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8 text; is this the right file?") from None


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: If it is none; the message names line and column.
    """
    try:
        return parse_json(load(path), str(path))
    except ValueError as error:
        raise ValueError(f"{error}; is this the right file, and complete?") from None


def load_object(path: Path, what: str) -> Record:
    """Read a JSON object.

    Args:
        what: What is expected, for the message.

    Raises:
        ValueError: If it is none.
    """
    value = load_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected {what}, got {kind(value)}; is this the right file?")
    return value


def load_records(path: Path) -> list[tuple[int, Record]]:
    """Read JSON objects, one a line or in an array, whatever the file is called.

    Returns:
        Each with the line it stands in, from 1; in an array its place, from 1.

    Raises:
        ValueError: If the file is empty, or a line is broken or no object; the message names the line.
    """
    content = load(path).removeprefix(b"\xef\xbb\xbf")
    if content.lstrip().startswith(b"["):
        values = list(enumerate(parse_json(content, str(path)), start=1))
    else:
        lines = content.split(b"\n")
        last = max((place for place, line in enumerate(lines, start=1) if line.strip()), default=0)
        values = [(place, _line(line, path, place, last)) for place, line in enumerate(lines, start=1) if line.strip()]
    if not values:
        raise ValueError(f"{path}: holds no records; is it the right file, and complete?")
    for place, value in values:
        if not isinstance(value, dict):
            raise ValueError(f"{path}:{place}: expected an object, got {kind(value)}; is this the right file?")
    return values


def _line(line: bytes, path: Path, place: int, last: int) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError(f"{path}:{place}: not UTF-8 text; is this the right file?") from None
    except json.JSONDecodeError as error:
        if place == 1 and line.strip() == b"{":
            raise ValueError(f"{path}: expected one JSON object a line or an array of them, got one object") from None
        cut = "; the last line is cut short" if place == last else ""
        what = error.msg.removesuffix(" at")
        raise ValueError(f"{path}:{place}: broken JSON: {what} at column {error.colno}{cut}") from None
    except RecursionError:
        raise ValueError(f"{path}:{place}: JSON nested too deeply to be read") from None


def load_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a table whose cells are separated by tabs and may be quoted, the first line naming the columns.

    Args:
        columns: Those that must be there.

    Returns:
        One mapping a row, from the names of the columns; cells that a short row lacks are empty.

    Raises:
        ValueError: If a column is missing, a row is too long, or the file ends within a row.
    """
    limit = csv.field_size_limit(sys.maxsize)  # images are long cells
    try:
        reader = csv.reader(io.StringIO(load_text(path), newline=""), delimiter="\t")
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}: no table: {error}; is this the right file?") from None
    finally:
        csv.field_size_limit(limit)
    header = rows[0][1] if rows else []
    absent = [name for name in columns if name not in header]
    if absent:
        raise ValueError(f"{path}: a table without the columns {', '.join(absent)}; is this the right file?")
    for line, row in rows[1:]:
        if len(row) > len(header) or (line == rows[-1][0] and len(row) < len(header)):
            raise ValueError(f"{path}:{line}: {len(row)} cells in a table of {len(header)} columns; is it cut short?")
    return [dict(zip(header, row + [""] * (len(header) - len(row)), strict=True)) for _, row in rows[1:]]


def lacking(error: Exception) -> str:
    """What a record lacks, from the error that reading it raised."""
    return f"{error} is missing" if isinstance(error, KeyError) else "a value is of another kind"


def kind(value: Any) -> str:
    """The JSON name of a value's type, with its article."""
    names = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


# Finding files ------------------------------------------------------------------------------------------------------


def gather(paths: Sequence[Path], patterns: Sequence[str]) -> list[Path]:
    """Files as they are given, and those of given folders that match any pattern, packed or not, each once.

    Raises:
        FileNotFoundError: If a path does not exist.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            for pattern in patterns:
                found.update(dict.fromkeys(sorted([*path.glob(pattern), *path.glob(f"{pattern}.gz")])))
        elif path.is_file():
            found[path] = None
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return list(found)


def locate(paths: Sequence[Path], patterns: Sequence[str], what: str) -> Path:
    """The one file that is given, or the first of a folder that matches; errors as `gather`.

    Args:
        what: What is looked for, for the message.

    Raises:
        ValueError: If nothing is given or found.
    """
    if not paths:
        raise ValueError(f"nothing says where the {what} are: give --labels")
    found = gather(paths, patterns)
    if not found:
        raise ValueError(f"{paths[0]}: no {what} in this folder, expected {' or '.join(patterns)}")
    return found[0]


def folders(paths: Sequence[Path]) -> list[Path]:
    """The given folders, and those in which given files lie."""
    return [path if path.is_dir() else path.parent for path in paths]


# Answers and questions ----------------------------------------------------------------------------------------------


def read_answers(path: Path, null_text: str | None = None) -> Predictions:
    """Read answers: LLaVA's lines with `question_id`, `prompt` and `text`, or a list in the form of a submission.

    Args:
        null_text: What `null` stands for where a text is expected; None forbids it.

    Raises:
        ValueError: If a line is broken or lacks id or text, or if these are questions.
    """
    records = load_records(path)
    first = records[0][1]
    if first.keys() >= _QUESTION_KEYS and "prompt" not in first:
        raise ValueError(
            f"{path}: these are questions, not answers: a line of answers has question_id, prompt and text"
        )
    text_key = next((key for key in ("text", *_SUBMISSION_KEYS) if key in first), "text")
    id_key = next((key for key in _ID_KEYS if key in first), _ID_KEYS[0])
    rows = []
    for line, record in records:
        text = record.get(text_key, 0)
        text = null_text if text is None else text
        prompt = record.get("prompt")
        if not isinstance(text, str):
            got = f"no {text_key}" if text_key not in record else f"{text_key} is {kind(record[text_key])}"
            raise ValueError(f"{path}:{line}: {got}, expected the text of an answer; are these answers?")
        rows.append(
            Prediction(record_id(record, id_key, path, line), text, prompt if isinstance(prompt, str) else "", line)
        )
    return Predictions(str(path), rows, text_key != "text")


def record_id(record: Record, key: str, path: Path, line: int) -> Id:
    """The id of a record.

    Raises:
        ValueError: If it has none, or one that is neither integer nor text.
    """
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{path}:{line}: no {key}" if value is None else f"{path}:{line}: {key} is {kind(value)}")
    return value


def read_questions(path: Path) -> list[Question]:
    """Read LLaVA's question lines: `question_id`, `image`, `text` and, where it has one, `category`.

    Raises:
        ValueError: If a line lacks any of the three.
    """
    questions = []
    for line, record in load_records(path):
        for key in ("image", "text"):
            if not isinstance(record.get(key), str):
                raise ValueError(f"{path}:{line}: a question without {key}; is this the question file?")
        question = record_id(record, "question_id", path, line)
        questions.append(Question(question, record["text"], record["image"], str(record.get("category", "default"))))
    return questions
