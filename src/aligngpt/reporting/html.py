"""Pages of sections: what every report is composed of, and how it becomes one HTML file without external requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from aligngpt.reporting.charts import Chart, get_level_color
from aligngpt.reporting.formatting import abbreviate, format_decimal, format_integer
from aligngpt.utils.io import atomic_path


@dataclass(frozen=True)
class Card:
    """A key metric at the top of a page."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Section:
    """One section of a page. The packages of the reports make sections; a page can combine those of several."""

    id: str  # anchor, unique in the page
    short: str  # name in the navigation bar
    title: str
    description: str  # what the section shows and what the paper says about it
    insights: list[str] = field(default_factory=list)  # sentences computed from the data
    missing: list[str] = field(default_factory=list)  # what is not available, each with how to get it
    charts: list[Chart] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)  # variables of `content.html.jinja`, after the charts


@dataclass(frozen=True)
class Page:
    """A report."""

    kind: str  # of report, shown above the name
    name: str
    lead: Sequence[str]  # the most important insights
    cards: Sequence[Card]
    sections: Sequence[Section]
    warnings: Sequence[str] = ()  # notes that limit what the numbers mean


def mark_code(text: str) -> Markup:
    """Return escaped text with `commands` between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def write_page(path: Path, page: Page) -> Path:
    """Write a page as one self-contained HTML file, atomically, and return its path; markup in texts is escaped."""
    environment = Environment(
        loader=PackageLoader("aligngpt.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"decimal": format_decimal, "integer": format_integer, "abbreviate": abbreviate, "code": mark_code}
    environment.filters |= {"level_color": get_level_color, **filters}
    html = environment.get_template("templates/page.html.jinja").render(page=page)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path
