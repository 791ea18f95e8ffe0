"""What commands print: JSON alone on standard output, or a table; what is bad goes to standard error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from aligngpt.data.schema import BadRecord

PLAIN_WIDTH = 120


_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from telling that it loads weights, whether it is imported before or inside.

    What the user's environment says about it is left as it is.
    """
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


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """Send what the work prints and logs to standard error, so that standard output has the results alone."""
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("aligngpt: %(message)s"))
    logger = logging.getLogger("aligngpt")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with quiet_loading(), contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def plain(value: Any) -> Any:
    """Turn a result into what JSON can hold: dataclasses to objects, paths to text, NaN and infinities to null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def print_json(result: Any) -> None:
    """Print a result as one JSON value; half a surrogate pair, which no UTF-8 can hold, as JSON escapes it."""
    text = json.dumps(plain(result), ensure_ascii=False, indent=2, allow_nan=False)
    click.echo(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; numbers stand to the right, floats with three digits, a missing value as a dash.

    Args:
        title: What stands above the table.
        columns: The heads.
        rows: One sequence of values per row, as many as there are heads.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    table = Table(title=title, title_justify="left", title_style="bold")
    rows = [list(row) for row in rows]
    for place, head in enumerate(columns):
        numeric = all(isinstance(row[place], int | float | None) for row in rows)
        table.add_column(head, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    console.print(table)


def cell(value: Any) -> str:
    """Write one value of a table."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.2e}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def with_interval(value: float, interval: Sequence[float] | None) -> str:
    """Write a share with its interval: `0.812 (0.790 to 0.831)`."""
    return cell(value) if interval is None else f"{cell(value)} ({cell(interval[0])} to {cell(interval[1])})"


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings on standard error, one a line."""
    for warning in warnings:
        click.echo(f"aligngpt: warning: {warning}", err=True)


def print_bad_records(bad: Sequence[BadRecord]) -> None:
    """Print what is bad in the data on standard error: how many records for which reason, then each of them."""
    if not bad:
        return
    click.echo(f"aligngpt: {len(bad)} bad {'record' if len(bad) == 1 else 'records'}, left out:", err=True)
    for reason, count in Counter(record.reason for record in bad).most_common():
        click.echo(f"  {count:6d}  {reason}", err=True)
    for record in bad:
        click.echo(f"  {record}", err=True)
