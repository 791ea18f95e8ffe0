"""How far long work is: a bar with the time left on a terminal, a plain line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_EVERY = 30.0  # seconds between two lines


class Advance(Protocol):
    """To be told how many more are done and, if that changes, what is being worked on."""

    def __call__(self, count: int, description: str | None = None) -> object: ...


@contextmanager
def progress(description: str, total: int, wanted: bool = True, done: int = 0) -> Iterator[Advance]:
    """Show on standard error how many of `total` are done and how long the rest takes.

    Args:
        description: What is being worked on.
        wanted: False shows nothing.
        done: How many were done before, which say nothing about the time.
    """
    if not (wanted and total > done):
        yield lambda count, description=None: None
    elif not sys.stderr.isatty():
        yield _Lines(description, total, done)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(description, total=total, completed=done)
            yield lambda count, description=None: bar.update(task, advance=count, description=description)


class _Lines:
    """Progress for a log: a line every `_EVERY` seconds."""

    def __init__(self, description: str, total: int, done: int) -> None:
        self._description, self._total, self._done, self._before = description, total, done, done
        self._started = self._said = time.monotonic()

    def __call__(self, count: int, description: str | None = None) -> None:
        self._done += count
        self._description = description or self._description
        now = time.monotonic()
        if now - self._said < _EVERY:
            return
        self._said = now
        left = (now - self._started) * (self._total - self._done) / max(1, self._done - self._before)
        print(
            f"aligngpt: {self._description}: {self._done:,} of {self._total:,}, about {_duration(left)} left",
            file=sys.stderr,
            flush=True,
        )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
