"""Runs the comparisons and prints the table of docs/about/parity.md: `python -m tests.parity.report`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.parity.deviations import MEASURED
from tests.parity.tolerances import TOLERANCES

HEADER = ("recording", "quantity", "tolerance", "deviation")


def table(measured: dict[tuple[str, str], float]) -> str:
    """The Markdown table of all quantities; a zero means equal."""
    rows = [
        (recording, quantity, str(tolerance), _digits(measured[recording, quantity]))
        for (recording, quantity), tolerance in TOLERANCES.items()
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [HEADER, ("---",) * len(HEADER), *rows])


def _digits(deviation: float) -> str:
    return f"{deviation:.1e}" if deviation else "0"


def main() -> int:
    """Measure and print; there is no table unless every quantity is within its tolerance."""
    with redirect_stdout(sys.stderr):
        code = pytest.main(["-q", str(Path(__file__).with_name("test_recordings.py"))])
    if not code:
        print(table(MEASURED))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
