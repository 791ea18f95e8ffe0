"""docs/about/parity.md has a row for every quantity with its tolerance, and names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.parity.comparisons import COMPARISONS
from tests.parity.report import HEADER, table
from tests.parity.tolerances import TOLERANCES

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "about" / "parity.md").read_text(encoding="utf-8")


def rows_of(header: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The rows of the page's table with this header."""
    _, _, after = PAGE.partition("| " + " | ".join(header) + " |\n")
    lines = after.split("\n\n")[0].splitlines()[1:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def test_every_quantity_has_a_row_with_the_tolerance_that_is_used() -> None:
    documented = [(recording, quantity, tolerance) for recording, quantity, tolerance, _ in rows_of(HEADER)]
    assert documented == [(*names, str(tolerance)) for names, tolerance in TOLERANCES.items()]


def test_no_documented_deviation_is_larger_than_its_tolerance() -> None:
    measured = {(recording, quantity): float(deviation) for recording, quantity, _, deviation in rows_of(HEADER)}
    assert all(0 <= measured[names] <= tolerance.bound for names, tolerance in TOLERANCES.items())
    assert table(measured) in PAGE  # as the report writes it


def test_every_recording_is_described() -> None:
    described = [recording for recording, _ in rows_of(("recording", "what the official code did"))]
    assert described == list(COMPARISONS) == list(dict.fromkeys(recording for recording, _ in TOLERANCES))


def test_the_tests_that_show_a_difference_exist() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(HERE.glob("test_*.py")))
    shown = re.findall(r"`(test_\w+)`", PAGE)
    assert len(set(shown)) == 16 and all(f"def {name}(" in source for name in shown)
