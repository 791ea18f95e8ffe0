"""Pages of sections: what every report is composed of, and how it becomes one HTML file without external requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from aligngpt.reporting.charts import Chart, level_color
from aligngpt.reporting.formatting import abbreviate, decimal, integer
from aligngpt.utils.io import atomic_path


@dataclass(frozen=True)
class Card:
    """A key metric at the top of a page."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Section:
    """One section of a page. The packages of the reports make sections; a page can combine those of several.

    Attributes:
        id: Anchor, unique in the page.
        short: Name in the navigation bar.
        description: What the section shows and what the paper says about it.
        insights: Sentences computed from the data.
        missing: What is not available, each with how to get it.
        content: Tables, examples and other variables of `content.html.jinja`, which shows them after the charts.
    """

    id: str
    short: str
    title: str
    description: str
    insights: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        kind: Kind of report, shown above the name.
        lead: The most important insights.
        warnings: Notes that limit what the numbers mean.
    """

    kind: str
    name: str
    lead: Sequence[str]
    cards: Sequence[Card]
    sections: Sequence[Section]
    warnings: Sequence[str] = ()


def mark_code(text: str) -> Markup:
    """Return escaped text with `commands` between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def render(page: Page) -> str:
    """Return the HTML of a page; all text is escaped unless it is markup already."""
    environment = Environment(
        loader=PackageLoader("aligngpt.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"decimal": decimal, "integer": integer, "abbreviate": abbreviate, "code": mark_code}
    environment.filters |= {"level_color": level_color, **filters}
    return environment.get_template("templates/page.html.jinja").render(page=page)


def write_page(path: Path, page: Page) -> Path:
    """Write a page as one self-contained HTML file, atomically, and return its path."""
    html = render(page)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path
