"""Charts as inline SVG, made with matplotlib's object API.

Text stays text in the font of the page. Ink, grid and card colors become CSS variables, so a chart follows the light or
dark mode of the page. Hues are distinguishable with the common color vision deficiencies, and a marker, dash or label
repeats what they encode.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from aligngpt.reporting.formatting import format_decimal, shorten

WIDTH = 410  # of the coordinates of a chart; the page scales it
FONT = 13.0  # at least 11 px where the page is 400 px wide
INK, MUTED, LINE, CARD = "#1b2430", "#5d6875", "#d4dae1", "#fefefe"
_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", CARD: "var(--card)"}
BLUE, AMBER, TEAL, DEEP_TEAL, VIOLET = "#2a7fc4", "#de8a1c", "#17998b", "#0f7d72", "#8c62bf"
_LEVEL_RAMP = LinearSegmentedColormap.from_list("levels", ["#cfa750", "#97bb78", "#4cad96", "#3b96bb", "#6f86c9"])
_TWO_WAY_RAMP = LinearSegmentedColormap.from_list("deviations", ["#b5670f", "#e9bd7c", "#f1f3f6", "#8dbbe0", "#1f5f9e"])
_HEAT_RAMP = LinearSegmentedColormap.from_list("weights", ["#e6eef6", "#8dbbe0", "#2a7fc4", "#153f73"])
_LONGEST_NAME = 24  # characters of a row name
_MAX_LABELED, _MAX_LABELED_COLUMNS = 12, 10  # more do not leave space for readable labels
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": FONT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "font.size": FONT,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "legend.fontsize": FONT,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "aligngpt",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": FONT,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": FONT,
}


@dataclass(frozen=True)
class Table:
    """A table of formatted cells."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A chart: `svg` is safe markup, `alt` is its text alternative, `table` holds its data."""

    title: str
    alt: str
    svg: Markup
    table: Table | None = None


apply_style = mpl.rc_context(_STYLE)  # decorates a function that draws a chart; restores matplotlib's settings after it


def get_level_color(level: int, num_levels: int) -> str:
    """Return the color of a level, `#rrggbb`, the same in all charts."""
    return to_hex(_LEVEL_RAMP((level - 1) / max(1, num_levels - 1)))


def make_canvas(height: float, grid: Literal["x", "y"] | None = "y") -> tuple[Figure, Axes]:
    """Return an empty chart of the standard width with grid lines for one axis."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(length=0, pad=5)
    if grid:
        axes.grid(axis=grid)
    axes.spines["left" if grid == "y" else "bottom"].set_visible(False)
    return figure, axes


def add_legend(axes: Axes, columns: int = 2) -> None:
    """Add the legend above the chart."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1.4,
        handlelength=1.8, handletextpad=0.5,
    )  # fmt: skip


def label_levels(axes: Axes, num_levels: int) -> None:
    """Label the x axis with levels 1 to N."""
    axes.set_xticks(range(1, num_levels + 1, 1 + (num_levels - 1) // 20))
    axes.set_xlim(0.4, num_levels + 0.6)
    axes.set_xlabel("Alignment level")


def to_svg(figure: Figure, name: str, alt: str) -> Markup:
    """Return the figure as scalable markup with a text alternative, theme variables and ids prefixed by `name`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for color, variable in _THEME.items():
        text = text.replace(color, variable)
    size = re.search(r'viewBox="[^"]*"', text)
    assert size is not None  # matplotlib always writes one
    label = Markup.escape(alt)
    head = f'<svg role="img" aria-label="{label}" {size[0]} xmlns:xlink="http://www.w3.org/1999/xlink">'
    return Markup(head + text[text.index(">") + 1 :])


def describe_rows(table: Table, prefix: str = "") -> str:
    """Return the rows for a text alternative, each cell after its heading: `Row: a 1, b 2.`"""
    return " ".join(
        f"{prefix}{row[0]}: {', '.join(f'{name} {cell}' for name, cell in zip(table.head[1:], row[1:], strict=True))}."
        for row in table.rows
    )


def list_levels(values: Sequence[float]) -> str:
    """Return `level 1 0.20, level 2 0.31.` for text alternatives."""
    return ", ".join(f"level {level} {format_decimal(value)}" for level, value in enumerate(values, start=1)) + "."


def draw_level_bars(values: Sequence[float], name: str, label: str, alt: str, top: float | None = None) -> Markup:
    """Return a bar for each level, labeled with its value up to 12 levels; NaN (an empty level) is a dash."""
    figure, axes = make_canvas(285)
    levels = range(1, len(values) + 1)
    axes.bar(levels, np.nan_to_num(values), 0.72, color=[get_level_color(level, len(values)) for level in levels])
    for level, value in zip(levels, values, strict=True) if len(values) <= _MAX_LABELED else ():
        height = 0.0 if math.isnan(value) else value
        axes.annotate(format_decimal(value), (level, height), (0, 3), textcoords="offset points", ha="center")
    highest = np.nanmax(values) if not np.isnan(values).all() else 1.0
    axes.set_ylim(0, max(top or 0.0, 1.12 * highest))
    label_levels(axes, len(values))
    axes.set_ylabel(label)
    return to_svg(figure, name, alt)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label rows 0 to n - 1 of a horizontal chart from top to bottom."""
    axes.set_yticks(range(len(names)), [shorten(name, _LONGEST_NAME) for name in names], color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def draw_heat_cells(axes: Axes, values: np.ndarray, label: Callable[[float], str], reach: float | None = None) -> None:
    """Draw a matrix of colored cells, row 0 at the top, each labeled with its value up to 10 columns.

    Args:
        values: (rows, columns), non-negative, or between -reach and reach if `reach` is passed.
        reach: End of a diverging color scale; charts with the same reach share the meaning of a color.
    """
    rows, columns = values.shape
    highest = max(float(values.max()), 1e-9) if reach is None else reach
    low = 0.0 if reach is None else -reach
    dark = abs(values) > (0.55 if reach is None else 0.7) * highest
    ramp = _HEAT_RAMP if reach is None else _TWO_WAY_RAMP
    axes.pcolormesh(values, cmap=ramp, vmin=low, vmax=highest, edgecolors=CARD, linewidth=1.6, rasterized=False)
    for (row, column), value in np.ndenumerate(values) if columns <= _MAX_LABELED_COLUMNS else ():
        shade = "#ffffff" if dark[row, column] else "#1b2431"  # the color of the cell is the same in both modes
        axes.text(column + 0.5, row + 0.5, label(float(value)), ha="center", va="center", color=shade)
    axes.set_ylim(rows, 0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
