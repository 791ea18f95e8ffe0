"""Answers on their way: files that only grow, one for each process, from which a run goes on however it ended."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from aligngpt.utils.io import atomic_path

_PATIENCE = 10.0  # seconds a process may take to notice that the run it worked for was killed


@dataclass(frozen=True)
class Record:
    """One answer: the place of its question from 0, its line of the answers file, and the seconds it took."""

    place: int
    line: Mapping[str, Any]
    seconds: float

    @property
    def unreadable(self) -> bool:
        """Whether it is empty because its image could not be read."""
        return "unreadable_image" in self.line.get("metadata", ())


class PartFile:
    """A file to which one process at a time adds answers; used as a context.

    A last line that was cut off is removed when the file is opened: its answer was never there.

    Args:
        path: The file; it and its folder are made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> PartFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")
        try:
            _lock(self._file, fcntl.LOCK_EX, self.path, _PATIENCE)
            self._file.seek(0)
            self._file.truncate(self._file.read().rfind(b"\n") + 1)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        assert self._file is not None
        self._file.close()

    def add(self, records: Sequence[Record]) -> None:
        """Add answers; they are on the disk when this returns."""
        assert self._file is not None
        self._file.write("".join(json.dumps(asdict(record)) + "\n" for record in records).encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def read_parts(folder: Path, count: int) -> dict[int, Record]:
    """Read what all processes have answered so far, each question once, by its place.

    A question whose image could not be read may have been asked again: then the later answer is it.

    Args:
        folder: The folder of part files; it may be missing.
        count: Number of questions.

    Raises:
        ValueError: If a line that was not the last is broken, or of another run.
    """
    found: dict[int, Record] = {}
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was cut off, or is being written
        for number, line in enumerate(lines, start=1):
            try:
                record = Record(**json.loads(line))
                known = 0 <= record.place < count
            except (ValueError, TypeError):
                known = False
            if not known:
                raise ValueError(f"{path}:{number}: no answer of this run: delete the file, and they are made again")
            if record.place not in found or found[record.place].unreadable:
                found[record.place] = record
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read an answers file that a run wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write an answers file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@contextmanager
def at_work_in(folder: Path, shared: bool = False, patience: float = 0.0) -> Iterator[None]:
    """Hold a run folder; the system gives it back however the process ends.

    Args:
        shared: Beside others that share it as well: the shards of one run.
        patience: Seconds to wait for another to end.

    Raises:
        ValueError: If another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        _lock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, folder, patience)
        yield


def _lock(file: IO[Any], kind: int, path: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise ValueError(f"another run is at work in {path}: wait for it, or choose another --output") from None
            time.sleep(0.05)
