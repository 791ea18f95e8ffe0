"""Output of commands: results as a table or JSON on standard output, messages on standard error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

PLAIN_WIDTH = 120  # columns where standard output is not a terminal
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence transformers while it loads models, unless the user's environment sets its verbosity."""
    quiet = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ |= quiet  # read when transformers is imported
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        if "HF_HUB_DISABLE_PROGRESS_BARS" in quiet:
            transformers_logging.disable_progress_bar()
        if "TRANSFORMERS_VERBOSITY" in quiet:
            transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        for name in quiet:
            os.environ.pop(name, None)


class LineHandler(logging.StreamHandler):
    """Writes a log record as a line of the program.

    Attributes:
        is_complete: Whether the output was complete before, see `log_complete`.
    """

    is_complete = False

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        self.is_complete |= getattr(record, "is_complete", False)
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"aligngpt: {level}{super().format(record)}"


@contextlib.contextmanager
def logs_to_stderr() -> Iterator[LineHandler]:
    """Send logs and prints to standard error, so that standard output has the result alone."""
    handler = LineHandler(sys.stderr)
    logger = logging.getLogger("aligngpt")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with quiet_loading(), contextlib.redirect_stdout(sys.stderr):
            yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def to_jsonable(value: Any) -> Any:
    """Return a result as JSON values: dataclasses as objects, paths as text, NaN and infinities as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def print_json(result: Any) -> None:
    """Print a result as JSON; an unpaired surrogate, which UTF-8 cannot encode, is escaped."""
    text = json.dumps(to_jsonable(result), ensure_ascii=False, indent=2, allow_nan=False)
    click.echo(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table with numbers aligned to the right; see `format_cell`.

    Args:
        title: Line above the table.
        columns: Headers; if all are empty, the table has no header row.
        rows: One sequence of values per row, as many as there are columns.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    table = Table(show_header=any(columns))
    rows = [list(row) for row in rows]
    for index, header in enumerate(columns):
        is_numeric = all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(header, justify="right" if is_numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(format_cell, row))
    console.print(title, style="bold", markup=False, soft_wrap=True)
    console.print(table)


def format_cell(value: Any) -> str:
    """Return the text of a table cell: a float with three digits, a missing value as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.2e}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def format_interval(value: float, interval: Sequence[float] | None) -> str:
    """Return a value with its confidence interval, such as `0.812 (0.790 to 0.831)`."""
    return (
        format_cell(value)
        if interval is None
        else f"{format_cell(value)} ({format_cell(interval[0])} to {format_cell(interval[1])})"
    )


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings to standard error, one per line."""
    for warning in warnings:
        click.echo(f"aligngpt: warning: {warning}", err=True)


def print_next_step(*arguments: object) -> None:
    """Print the command that usually follows, quoted for a shell; words in capitals are to be replaced."""
    click.echo(f"Next: aligngpt {shlex.join(map(str, arguments))}")
