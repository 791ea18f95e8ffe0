"""Reading the files of benchmarks: JSON, JSON Lines and TSV, gzipped or not, with errors that name file and line.

`description` is the expected content, such as `GQA questions`, for the error message.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from aligngpt.data.schema import json_type
from aligngpt.evaluation.artifacts import Id
from aligngpt.evaluation.types import Prediction, Predictions, Question
from aligngpt.utils.io import decode_text, parse_json, parse_jsonl, read_bytes

Record = dict[str, Any]
T = TypeVar("T")

_ID_KEYS = ("question_id", "questionId", "image")
_SUBMISSION_KEYS = ("answer", "prediction")
_QUESTION_KEYS = {"image", "category", "text"}


def find(data: Path, name: str) -> Path | None:
    """Return a file or folder of the data folder, gzipped or not; None if it does not exist."""
    return next((path for path in (data / name, data / f"{name}.gz") if path.exists()), None)


def load(path: Path) -> bytes:
    """Read a file and decompress it if it is a gzip file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is a damaged gzip file.
    """
    content = read_bytes(path)
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); download it again") from None


def load_text(path: Path) -> str:
    """Read UTF-8 text; errors as `load` and `decode_text`."""
    return decode_text(load(path), str(path))


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: If it is not JSON; the message names line and column.
    """
    try:
        return parse_json(load(path), str(path))
    except ValueError as error:
        raise ValueError(f"{error}; check that this is the right file and complete") from None


def load_object(path: Path, description: str) -> Record:
    """Read a JSON object.

    Raises:
        ValueError: If it is not an object.
    """
    value = load_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected {description}, got {json_type(value)}; check that this is the right file")
    return value


def get_list(content: Record, key: str, path: Path, description: str) -> list[tuple[int, Any]]:
    """Return the list under `key` of an object that was read from `path`, each value with its position from 1.

    Raises:
        ValueError: If there is no such list, or it is empty.
    """
    values = content.get(key)
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: expected {description}, an object with a list `{key}`")
    return list(enumerate(values, start=1))


def load_records(path: Path) -> list[tuple[int, Record]]:
    """Read JSON objects, one per line or in an array, whatever the suffix of the file.

    Returns:
        Each record with its line, or its position in the array, from 1.

    Raises:
        ValueError: If the file is empty, or a line is not a JSON object; the message names the line.
    """
    text = load_text(path)
    if text.lstrip().startswith("["):
        values = list(enumerate(parse_json(text.encode(), str(path)), start=1))
    else:
        if text.partition("\n")[0].strip() == "{":
            raise ValueError(f"{path}: expected one JSON object per line or an array of them, got one object")
        values = parse_jsonl(text, str(path))
    if not values:
        raise ValueError(f"{path}: no records; check that this is the right file and complete")
    for number, value in values:
        if not isinstance(value, dict):
            problem = f"expected an object, got {json_type(value)}"
            raise ValueError(f"{path}:{number}: {problem}; check that this is the right file")
    return values


def parse_records(
    records: Iterable[tuple[Any, Any]], parse: Callable[[Any, Any], T | None], path: Path, description: str
) -> list[T]:
    """Convert the records of a label or question file; those that convert to None are skipped.

    Args:
        records: Each with its key or its line.
        parse: Key or line, and record, to the value.
        path: The file, for the error message.
        description: What a record is.

    Raises:
        ValueError: If a record lacks a field, or a field has another type.
    """
    values = []
    for name, record in records:
        try:
            value = parse(name, record)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            problem = f"{error} is missing" if isinstance(error, KeyError) else "a field is missing or of another type"
            raise ValueError(f"{path}: {description} {name}: {problem}; check that this is the right file") from None
        if value is not None:
            values.append(value)
    return values


def parse_object(path: Path, parse: Callable[[str, Any], T | None], description: str) -> list[T]:
    """Read a JSON object of key to record and convert its records; arguments and errors as `parse_records`."""
    records = load_object(path, f"an object with a {description} by id")
    return parse_records(records.items(), parse, path, description)


def parse_list(path: Path, key: str, parse: Callable[[int, Any], T | None], description: str) -> list[T]:
    """Read the list under `key` of a JSON object and convert its records; arguments and errors as `parse_records`."""
    content = load_object(path, f"{description}s in an object with a list `{key}`")
    return parse_records(get_list(content, key, path, f"{description}s"), parse, path, description)


def parse_lines(path: Path, parse: Callable[[int, Record], T | None], description: str) -> list[T]:
    """Read JSON Lines or an array and convert its records; arguments and errors as `parse_records`."""
    return parse_records(load_records(path), parse, path, description)


def load_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a TSV file, whose first line names the columns, as a mapping from column to cell per row.

    Cells may be quoted; cells that a short row lacks are empty.

    Raises:
        ValueError: If one of `columns` is missing, a row is too long, or the file ends within a row.
    """
    limit = csv.field_size_limit(sys.maxsize)  # images are long cells
    try:
        reader = csv.reader(io.StringIO(load_text(path), newline=""), delimiter="\t")
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}: not a TSV table: {error}; check that this is the right file") from None
    finally:
        csv.field_size_limit(limit)
    header = rows[0][1] if rows else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise ValueError(f"{path}: columns {', '.join(missing)} are missing; check that this is the right file")
    for line, row in rows[1:]:
        if len(row) > len(header) or (line == rows[-1][0] and len(row) < len(header)):
            problem = f"{len(row)} cells in a table of {len(header)} columns"
            raise ValueError(f"{path}:{line}: {problem}; check that the file is complete")
    return [dict(zip_longest(header, row, fillvalue="")) for _, row in rows[1:]]


# Finding files ------------------------------------------------------------------------------------------------------


def collect_files(paths: Sequence[Path], patterns: Sequence[str]) -> list[Path]:
    """Return the given files, and the files of given folders that match a pattern, gzipped or not, each once.

    Raises:
        FileNotFoundError: If a path does not exist.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            for pattern in patterns:
                files.update(dict.fromkeys(sorted([*path.glob(pattern), *path.glob(f"{pattern}.gz")])))
        elif path.is_file():
            files[path] = None
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return list(files)


def locate_file(paths: Sequence[Path], patterns: Sequence[str], description: str) -> Path:
    """Return the given file, or the first file of a given folder that matches a pattern; errors as `collect_files`.

    Raises:
        ValueError: If no path is given or no file matches.
    """
    require_labels(paths, description)
    files = collect_files(paths, patterns)
    if not files:
        raise ValueError(f"{paths[0]}: no {description} in this folder; expected {' or '.join(patterns)}")
    return files[0]


def require_labels(paths: Sequence[Path], description: str) -> None:
    """Check that label files are given.

    Raises:
        ValueError: If there are none.
    """
    if not paths:
        raise ValueError(f"the {description} are missing; pass --labels")


def list_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the given folders, and the folders of given files."""
    return [path if path.is_dir() else path.parent for path in paths]


# Predictions and questions ------------------------------------------------------------------------------------------


def read_predictions(path: Path, null_text: str | None = None) -> Predictions:
    """Read predictions: LLaVA's lines with `question_id`, `prompt` and `text`, or a list in the form of a submission.

    Args:
        null_text: Text that replaces `null`; without it `null` is an error.

    Raises:
        ValueError: If a line is broken or lacks id or text, or if the file holds questions.
    """
    records = load_records(path)
    first = records[0][1]
    if first.keys() >= _QUESTION_KEYS and "prompt" not in first:
        raise ValueError(f"{path}: holds questions; pass predictions, lines with `question_id`, `prompt` and `text`")
    text_key = next((key for key in ("text", *_SUBMISSION_KEYS) if key in first), "text")
    id_key = next((key for key in _ID_KEYS if key in first), _ID_KEYS[0])
    rows = []
    for line, record in records:
        text = record.get(text_key, 0)
        text = null_text if text is None else text
        if not isinstance(text, str):
            problem = f"is {json_type(text)}" if text_key in record else "is missing"
            raise ValueError(f"{path}:{line}: {text_key} {problem}; expected the text of a prediction")
        name, prompt = record_id(record, id_key, path, line), record.get("prompt")
        rows.append(Prediction(name, text, prompt if isinstance(prompt, str) else "", line))
    return Predictions(str(path), rows, text_key != "text")


def record_id(record: Record, key: str, path: Path, line: int) -> Id:
    """Return the id of a record.

    Raises:
        ValueError: If it is missing, or neither an integer nor a string.
    """
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        problem = "is missing" if value is None else f"is {json_type(value)}, expected a string or an integer"
        raise ValueError(f"{path}:{line}: {key} {problem}; check that this is the right file")
    return value


def read_questions(path: Path) -> list[Question]:
    """Read LLaVA's question lines: `question_id`, `image`, `text` and optionally `category`.

    Raises:
        ValueError: If a line lacks one of the first three.
    """
    questions = []
    for line, record in load_records(path):
        for key in ("image", "text"):
            if not isinstance(record.get(key), str):
                raise ValueError(f"{path}:{line}: {key} is missing; check that this is the question file")
        name = record_id(record, "question_id", path, line)
        questions.append(Question(name, record["text"], record["image"], str(record.get("category", "default"))))
    return questions
