"""Numbers as the page writes them."""

from __future__ import annotations

import pytest

from aligngpt.reporting.formatting import format_memory


@pytest.mark.parametrize(
    ("megabytes", "text"), [(640.4, "640 MB"), (999.0, "999 MB"), (1000.0, "1.0 GB"), (2450.0, "2.5 GB")]
)
def test_memory_is_counted_in_thousands(megabytes: float, text: str) -> None:
    assert format_memory(megabytes) == text
