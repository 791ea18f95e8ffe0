"""What a page is made of, and how it becomes HTML; shared by the pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from aligngpt.reporting.charts import Chart, level_color
from aligngpt.reporting.formatting import decimal, integer


@dataclass(frozen=True)
class Card:
    """A key figure on top of the page."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        short: Its name in the navigation.
        see: What one sees, and what the paper claims.
        found: What the numbers say.
        missing: What is not there, with the remedy.
        extra: What only this section's part of the template knows.
    """

    id: str
    short: str
    title: str
    see: str
    found: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


def fill(template: str, **content: Any) -> str:
    """The HTML of a template of this package; all of `content` is escaped unless it is markup already."""
    environment = Environment(
        loader=PackageLoader("aligngpt.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"level_color": level_color, "decimal": decimal, "integer": integer}
    return environment.get_template(template).render(**content)


def score_range(low: float | None, high: float | None) -> str:
    """The scores of a level: `0.201 to 0.232`, its lower boundary included; `None` is an open end."""
    if low is None:
        return "all scores" if high is None else f"below {decimal(high, 3)}"
    return f"{decimal(low, 3)} and more" if high is None else f"{decimal(low, 3)} to {decimal(high, 3)}"
