"""Predictions on disk: one growing file per worker while a run generates, `answers.jsonl` when it is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from aligngpt.utils.output_dir import shared_lock

_WAIT_SECONDS = 10.0  # for a worker whose main process was killed to end


@dataclass(frozen=True)
class PredictionRecord:
    """One prediction.

    Args:
        index: Index of the question, from 0.
        line: Its line of `answers.jsonl`.
        seconds: Generation time.
    """

    index: int
    line: Mapping[str, Any]
    seconds: float

    @property
    def unreadable(self) -> bool:
        """Whether it is empty because the image could not be read."""
        return "unreadable_image" in self.line.get("metadata", ())


class PredictionWriter:
    """Append the predictions of one worker to a file; use it as a context manager.

    An incomplete last line, left by a killed process, is removed when the file is opened.

    Args:
        path: The file; it is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> PredictionWriter:
        with ExitStack() as stack:
            stack.enter_context(shared_lock(self.path.parent, self.path.stem, timeout=_WAIT_SECONDS))
            self._file: IO[bytes] = stack.enter_context(open(self.path, "a+b"))
            self._file.seek(0)
            self._file.truncate(self._file.read().rfind(b"\n") + 1)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, records: Sequence[PredictionRecord]) -> None:
        """Append predictions; they are on the disk when this returns."""
        self._file.write("".join(json.dumps(asdict(record)) + "\n" for record in records).encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def read_worker_files(folder: Path, count: int) -> dict[int, PredictionRecord]:
    """Read the predictions of all workers, by the index of the question.

    Of several predictions for one question the last with a readable image counts.

    Args:
        folder: Folder of the workers' files; it may not exist.
        count: Number of questions.

    Raises:
        ValueError: A line other than the last is broken or belongs to another run.
    """
    records: dict[int, PredictionRecord] = {}
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")[:-1]  # the rest is an incomplete line, or one being written
        for number, line in enumerate(lines, start=1):
            try:
                record = PredictionRecord(**json.loads(line))
                valid = 0 <= record.index < count
            except (ValueError, TypeError):
                valid = False
            if not valid:
                raise ValueError(f"{path}:{number}: not a prediction of this run; delete the file to run again")
            if record.index not in records or records[record.index].unreadable:
                records[record.index] = record
    return records


def read_answers_file(path: Path) -> list[dict[str, Any]]:
    """Read the lines of an `answers.jsonl` that a run wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
