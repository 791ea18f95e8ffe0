"""Output folders: which run a folder belongs to, who may write to it, and whether the run is complete."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from aligngpt.utils.io import read_json, write_json

_logger = logging.getLogger(__name__)

RUN_FILE = "run_config.json"
_LOCK = ".lock"
_PROBE_SECONDS = 2.0
_MAX_DETAILED = 3  # differing fields, beyond which the parts of an input are summarized
_MAX_LISTED = 4  # differing fields that an error lists
_MAX_SHOWN = 80  # characters of a value that an error shows


class OutputDir:
    """The output folder of one run.

    A run writes its identity when it starts and its result file when it ends, so that the same command resumes an
    interrupted run, skips a finished one, and never mixes two runs in one folder. Compute the identity from settings,
    paths, sizes and modification times: `done` has to answer before any input is read.

    Args:
        path: The folder. It is created when the run starts, not before.
        identity: What makes two runs the same run, as JSON values; nested objects are compared field by field.
        result_file: File that is written last; a folder that has it is complete.
        run_file: File that holds the identity.
    """

    def __init__(
        self, path: str | Path, identity: Mapping[str, Any], *, result_file: str, run_file: str = RUN_FILE
    ) -> None:
        self.path = Path(path)
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.run_file = self.path / run_file
        self.result_file = self.path / result_file

    def lock(self, shard: tuple[int, int] | None = None) -> AbstractContextManager[None]:
        """Hold the folder alone, or one shard `(i, n)` of its work next to the other shards.

        Raises:
            ValueError: As `exclusive_lock` and `shared_lock`.
        """
        if shard is None or shard[1] == 1:
            return exclusive_lock(self.path)
        return shared_lock(self.path, f"{shard[0]}-of-{shard[1]}")

    @property
    def done(self) -> bool:
        """Whether this run has ended in this folder: same identity, result file present.

        Raises:
            ValueError: As `check`.
        """
        self.check()
        return self.run_file.is_file() and self.result_file.is_file()

    def check(self) -> None:
        """Check that the folder is free or belongs to this run.

        Raises:
            ValueError: It belongs to another run (the message names the fields that differ and both values), or it
                holds files but no record of a run.
        """
        if self.run_file.is_file():
            existing = read_json(self.run_file)
            differences = describe_differences(existing if isinstance(existing, dict) else {}, self.identity)
            if differences:
                raise ValueError(
                    f"{self.path} belongs to another run: {differences}; choose another --output or delete this folder"
                )
        elif self.path.exists() and not is_empty(self.path):
            raise ValueError(
                f"{self.path} exists and has no {self.run_file.name}; choose another --output or an empty folder"
            )

    def start(self, *, reset: bool = False, **extra: Any) -> None:
        """Start the run, or resume it where the folder belongs to it.

        Args:
            reset: Start a run over, whatever its identity: nothing of it is complete.
            extra: Further fields of the run file, such as `versions`, that two runs need not share.

        Raises:
            ValueError: As `check`.
        """
        if not (reset and self.run_file.is_file()):
            self.check()
        if reset or not self.run_file.is_file():
            write_json(self.run_file, {**self.identity, **extra})


def log_complete(path: str | os.PathLike[str]) -> None:
    """Log that an earlier call completed this output; the command line then prints the main result alone."""
    _logger.info("complete: %s; nothing to do", path, extra={"is_complete": True})


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but lock files and temporary files of this package."""
    return folder.is_dir() and all(
        entry.name.startswith(".lock") or entry.name.endswith(".tmp") for entry in folder.iterdir()
    )


def describe_differences(existing: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Write the fields of `expected` whose value differs in `existing`; empty if there are none, the first few only.

    Fields have dotted names: `config.learning_rate is 0.001 there, 0.002 requested; ...`. Items of lists of equal
    length are compared and named by their index. If many fields differ, the parts of an input are summarized.
    """
    parts = {}
    differences = _compare(existing, expected)
    for name, (left, right) in differences.items():
        part = re.match(r"inputs\.(\w+)\.", name) if len(differences) > _MAX_DETAILED else None
        parts[part[0] if part else name] = (
            f"{part[1]} differs" if part else f"{name} is {_shorten(left)} there, {_shorten(right)} requested"
        )
    more = [f"{len(parts) - _MAX_LISTED} more fields differ"] if len(parts) > _MAX_LISTED else []
    return "; ".join([*parts.values()][:_MAX_LISTED] + more)


def _compare(existing: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    differences: dict[str, tuple[Any, Any]] = {}
    for name, value in expected.items():
        other = existing.get(name)
        if isinstance(value, list) and isinstance(other, list) and len(value) == len(other):
            value, other = ({str(index): item for index, item in enumerate(items)} for items in (value, other))
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            differences |= _compare(other, value, f"{prefix}{name}.")
        elif other != value:
            differences[prefix + name] = (other, value)
    return differences


def _shorten(value: Any) -> str:
    text = re.sub(r"\b(?=\d*[a-f])([0-9a-f]{8})[0-9a-f]{8,}\b", r"\1", json.dumps(value, ensure_ascii=False))  # hashes
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


# Locks --------------------------------------------------------------------------------------------------------------


@contextmanager
def exclusive_lock(folder: str | Path, *, timeout: float = 0.0) -> Iterator[None]:
    """Hold a folder alone: no other process holds it, nor any member of it (see `shared_lock`).

    The operating system releases the lock however the process ends; a lock file left by a killed process blocks nobody.

    Args:
        folder: Created if it is missing, and removed again if nothing was written to it.
        timeout: Seconds to wait for other holders.

    Raises:
        ValueError: Another process holds the folder or a member of it.
    """
    folder = Path(folder)
    with hold_lock(folder, _LOCK, timeout):
        for member in folder.glob(f"{_LOCK}-*"):
            with hold_lock(folder, member.name, timeout):
                pass
        yield


@contextmanager
def shared_lock(folder: str | Path, member: str, *, timeout: float = 0.0) -> Iterator[None]:
    """Hold one member of a folder, such as a shard of its work, next to the holders of other members.

    Args:
        folder, timeout: As in `exclusive_lock`.
        member: What is held, such as `2-of-8`; one process at a time holds it.

    Raises:
        ValueError: Another process holds this member, or the whole folder.
    """
    folder = Path(folder)
    with hold_lock(folder, f"{_LOCK}-{member}", timeout):
        with hold_lock(folder, _LOCK, max(timeout, _PROBE_SECONDS)):  # other members probe it too, each for a moment
            pass
        yield


@contextmanager
def hold_lock(folder: Path, name: str, timeout: float = 0.0) -> Iterator[None]:
    """Hold the lock file `name` of a folder, independently of its other lock files; arguments and errors as above."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name, timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{folder} is locked by another process; wait for it to finish or choose another --output"
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            folder.rmdir()  # succeeds only if nothing was written
