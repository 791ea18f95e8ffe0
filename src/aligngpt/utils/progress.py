"""Progress of long work on standard error: a bar in a terminal, lines with the time left in a log."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

FIRST_LINE = 2.0  # seconds until work in a log reports for the first time
INTERVAL = 30.0  # seconds between two lines after that
INTERVAL_VARIABLE = "ALIGNGPT_PROGRESS_INTERVAL"  # replaces INTERVAL, for processes that share a terminal or log


class Advance(Protocol):
    """Report that `count` more units are done and, optionally, what is being worked on."""

    def __call__(self, count: int, description: str | None = None) -> object: ...


@contextmanager
def progress(description: str, total: int | None, enabled: bool = True, done: int = 0) -> Iterator[Advance]:
    """Show on standard error how many units of `total` are done and how much time is left.

    Args:
        description: What is being worked on, such as `scoring`.
        total: Number of units; `None` if it is unknown, which shows no time left.
        enabled: False shows nothing.
        done: Units finished by an earlier call; they do not count for the speed.
    """
    if not enabled or (total is not None and total <= done):
        yield lambda count, description=None: None
    elif not sys.stderr.isatty() or INTERVAL_VARIABLE in os.environ:
        yield _Lines(description, total, done)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(description, total=total, completed=done)
            yield lambda count, description=None: bar.update(task, advance=count, description=description)


@contextmanager
def status(description: str, enabled: bool = True) -> Iterator[None]:
    """Show what is being done while work of unknown length runs, such as `loading models/llava`.

    A terminal shows a spinner; a log gets one line, and only if the work takes longer than `FIRST_LINE` seconds.
    """
    if not enabled:
        yield
    elif sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(description):
            yield
    else:
        timer = threading.Timer(FIRST_LINE, _print, [f"{description} ..."])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class _Lines:
    """Progress for a log: a line after `FIRST_LINE` seconds, then one every `INTERVAL` seconds."""

    def __init__(self, description: str, total: int | None, done: int) -> None:
        self._description, self._total, self._done, self._before = description, total, done, done
        self._started = time.monotonic()
        self._next = self._started + FIRST_LINE
        self._interval = float(os.environ.get(INTERVAL_VARIABLE, INTERVAL))

    def __call__(self, count: int, description: str | None = None) -> None:
        self._done += count
        self._description = description or self._description
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        if self._total is None:
            _print(f"{self._description}: {self._done:,} done in {format_duration(now - self._started)}")
            return
        line = f"{self._description}: {self._done:,} of {self._total:,}"
        if self._done > self._before:  # else the speed is unknown
            left = (now - self._started) * (self._total - self._done) / (self._done - self._before)
            line += f", about {format_duration(left)} left"
        _print(line)


def _print(line: str) -> None:
    sys.stderr.write(f"aligngpt: {line}\n")  # one call, as `status` writes from another thread
    sys.stderr.flush()


def format_duration(seconds: float) -> str:
    """Format a duration as `45 s`, `12 min` or `2 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
