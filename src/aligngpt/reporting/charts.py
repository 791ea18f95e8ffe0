"""How charts are drawn, with matplotlib's object API, as inline SVG; shared by the pages.

Text stays text and takes the page's font; ink, grid and card colors become CSS variables, so a chart follows the
reader's light or dark mode. The hues are told apart by the common kinds of color blindness, and never alone: shape,
dash or a label says the same.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from typing import Any, Literal, ParamSpec

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aligngpt.reporting.formatting import decimal, integer

WIDTH = 440  # of every chart's own coordinates; the page scales charts to the room there is
INK, MUTED, LINE, CARD = "#1b2430", "#5d6875", "#d4dae1", "#fefefe"
_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", CARD: "var(--card)"}
BLUE, AMBER, TEAL, DEEP_TEAL, VIOLET = "#2a7fc4", "#de8a1c", "#17998b", "#0f7d72", "#8c62bf"
_LEVEL_RAMP = LinearSegmentedColormap.from_list("levels", ["#cfa750", "#97bb78", "#4cad96", "#3b96bb", "#6f86c9"])
_TWO_WAY_RAMP = LinearSegmentedColormap.from_list("deviations", ["#b5670f", "#e9bd7c", "#f1f3f6", "#8dbbe0", "#1f5f9e"])
_HEAT_RAMP = LinearSegmentedColormap.from_list("weights", ["#e6eef6", "#8dbbe0", "#2a7fc4", "#153f73"])
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "font.size": 11.5,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "legend.fontsize": 11.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "aligngpt",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
}


@dataclass(frozen=True)
class Table:
    """The numbers behind a chart, as written on the page."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """One chart: `svg` is safe markup, `alt` tells what it shows to those who do not see it."""

    title: str
    alt: str
    svg: Markup
    table: Table | None = None


_P = ParamSpec("_P")


def styled(draw: Callable[_P, Chart]) -> Callable[_P, Chart]:
    """Draw under this page's settings, and leave matplotlib's own as they were."""

    @wraps(draw)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Chart:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def level_color(level: int, num_levels: int) -> str:
    """The color that stands for a level all over the page, as `#rrggbb`."""
    return to_hex(_LEVEL_RAMP((level - 1) / max(1, num_levels - 1)))


def level_colors(num_levels: int) -> list[str]:
    """The colors of levels 1 to N."""
    return [level_color(level, num_levels) for level in range(1, num_levels + 1)]


def canvas(height: float, grid: Literal["x", "y"] | None = "y") -> tuple[Figure, Axes]:
    """An empty chart of the page's width and the given height, with lines across one of its directions."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(length=0, pad=5)
    if grid:
        axes.grid(axis=grid)
    axes.spines["left" if grid == "y" else "bottom"].set_visible(False)
    return figure, axes


def legend(axes: Axes, columns: int = 2) -> None:
    """Name the chart's marks above it."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1.4,
        handlelength=1.8, handletextpad=0.5,
    )  # fmt: skip


def level_axis(axes: Axes, num_levels: int) -> None:
    """Levels 1 to N along the bottom."""
    axes.set_xticks(range(1, num_levels + 1, 1 + (num_levels - 1) // 20))
    axes.set_xlim(0.4, num_levels + 0.6)
    axes.set_xlabel("Alignment level")


def to_svg(figure: Figure, name: str, alt: str) -> Markup:
    """The figure as markup that scales, carries `alt`, follows the page's theme and shares no id with its neighbors."""
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


def stacked_histogram(
    edges: np.ndarray, counts: np.ndarray, boundaries: Sequence[float], name: str, alt: str
) -> Markup:
    """A histogram of scores colored by level, with a line at each boundary.

    Args:
        edges: (bins + 1,) rising.
        counts: (levels + 1, bins); row 0 holds scores without a level.
        boundaries: (levels - 1,), or none.
    """
    num_levels = len(counts) - 1
    figure, axes = canvas(285)
    below = np.zeros(len(edges) - 1)
    for level, row in enumerate(counts):
        filled = row > 0
        axes.bar(
            edges[:-1][filled], row[filled], np.diff(edges)[filled], below[filled], align="edge",
            color=level_color(level, num_levels) if level else BLUE, edgecolor=CARD, linewidth=0.4,
        )  # fmt: skip
        below += row
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, below.max() * (1.14 if boundaries else 1.05))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda count, _: integer(count))
    _mark_boundaries(axes, boundaries)
    axes.set_xlabel("CLIP score (cosine of image and caption)")
    axes.set_ylabel("Pairs")
    return to_svg(figure, name, alt)


def _mark_boundaries(axes: Axes, boundaries: Sequence[float]) -> None:
    """A line at each boundary, and each level's number where its span leaves room for it."""
    if not boundaries:
        return
    left, right = axes.get_xlim()
    top = axes.get_ylim()[1]
    for boundary in (boundary for boundary in boundaries if left <= boundary <= right):
        axes.axvline(boundary, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
    ends = [left, *np.clip(boundaries, left, right), right]
    for level, (low, high) in enumerate(pairwise(ends), start=1):
        if high - low > 0.025 * (right - left):
            axes.text((low + high) / 2, 0.985 * top, str(level), ha="center", va="top", fontweight="bold", fontsize=11)


def spoken(values: Sequence[float]) -> str:
    """`level 1 0.20, level 2 0.31.`"""
    return ", ".join(f"level {level} {decimal(value)}" for level, value in enumerate(values, start=1)) + "."


def level_bars(values: Sequence[float], name: str, label: str, alt: str, top: float | None = None) -> Markup:
    """A standing bar for each level with its value above it; NaN (an empty level) is a dash."""
    figure, axes = canvas(285)
    levels = range(1, len(values) + 1)
    axes.bar(levels, np.nan_to_num(values), 0.72, color=level_colors(len(values)))
    size = 11 if len(values) <= 8 else 9 if len(values) <= 12 else 6
    for level, value in zip(levels, values, strict=True):
        height = 0.0 if math.isnan(value) else value
        axes.annotate(decimal(value), (level, height), (0, 3), textcoords="offset points", ha="center", fontsize=size)
    highest = np.nanmax(values) if not np.isnan(values).all() else 1.0
    axes.set_ylim(0, max(top or 0.0, 1.12 * highest))
    level_axis(axes, len(values))
    axes.set_ylabel(label)
    return to_svg(figure, name, alt)


def lying_bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], labels: Sequence[str], color: str, inside: bool = False
) -> None:
    """Lying bars from top to bottom, each with its value written behind its end, or before it inside the bar."""
    axes.barh(range(len(names)), values, 0.62, color=color)
    for index, (value, label) in enumerate(zip(values, labels, strict=True)):
        axes.annotate(
            label, (value, index), (-5 if inside else 4, 0), textcoords="offset points", va="center", fontsize=11,
            ha="right" if inside else "left", color="#ffffff" if inside else INK,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def heat_cells(axes: Axes, values: np.ndarray, written: Callable[[float], str]) -> None:
    """A table of cells, row 0 on top, each as dark as its value and with the value written in it.

    Args:
        values: (rows, columns), from 0 upwards.
        written: How a value is written.
    """
    highest = max(float(values.max()), 1e-9)
    _cells(axes, values, written, _HEAT_RAMP, (0, highest), values > 0.55 * highest)


def deviation_cells(axes: Axes, values: np.ndarray, reach: float, written: Callable[[float], str]) -> None:
    """As `heat_cells`, for values on either side of 0: where `reach` is the same, so is what a color means.

    Args:
        values: (rows, columns), from -reach to reach.
        written: How a value is written.
    """
    _cells(axes, values, written, _TWO_WAY_RAMP, (-reach, reach), abs(values) > 0.7 * reach)


def _cells(
    axes: Axes,
    values: np.ndarray,
    written: Callable[[float], str],
    ramp: LinearSegmentedColormap,
    span: tuple[float, float],
    dark: np.ndarray,
) -> None:
    rows, columns = values.shape
    axes.pcolormesh(values, cmap=ramp, vmin=span[0], vmax=span[1], edgecolors=CARD, linewidth=1.6, rasterized=False)
    size = 6 if columns > 10 else 11
    for (row, column), value in np.ndenumerate(values):
        shade = "#ffffff" if dark[row, column] else "#1b2431"  # the cell's color is the same in either mode
        text = written(float(value))
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=shade, fontsize=size)
    axes.set_ylim(rows, 0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
