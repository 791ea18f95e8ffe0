"""The page's charts, drawn with matplotlib's object API as inline SVG.

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

from aligngpt.reporting.run_folder import Accuracy, CaptionLevel, GateKind, Pair, Training
from aligngpt.reporting.text import (
    ALIGNMENT_NAMES,
    NO_VALUE,
    STAGE_NAMES,
    decimal,
    duration,
    integer,
    kind_name,
    memory,
    percent,
    percent_range,
)

WIDTH = 440  # of every chart's own coordinates; the page scales charts to the room there is
INK, MUTED, LINE, CARD = "#1b2430", "#5d6875", "#d4dae1", "#fefefe"
_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", CARD: "var(--card)"}
BLUE, AMBER, TEAL, DEEP_TEAL = "#2a7fc4", "#de8a1c", "#17998b", "#0f7d72"
SERIES = {"adaptive": (BLUE, "-", "o"), "none": (AMBER, (0, (4, 1.5)), "s")}
KIND_COLORS = {"mismatched": "#8f98a3", "dropped": "#e3b052", "part": "#63b3a8", "whole": "#2a7fc4"}
_LEVEL_RAMP = LinearSegmentedColormap.from_list("levels", ["#cfa750", "#97bb78", "#4cad96", "#3b96bb", "#6f86c9"])
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
_MAX_POINTS = 600  # of a curve


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


def _styled(draw: Callable[_P, Chart]) -> Callable[_P, Chart]:
    """Draw under this page's settings, and leave matplotlib's own as they were."""

    @wraps(draw)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> Chart:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def level_color(level: int, num_levels: int) -> str:
    """The color that stands for a level all over the page, as `#rrggbb`."""
    return to_hex(_LEVEL_RAMP((level - 1) / max(1, num_levels - 1)))


def _level_colors(num_levels: int) -> list[str]:
    return [level_color(level, num_levels) for level in range(1, num_levels + 1)]


def _canvas(height: float, grid: Literal["x", "y"] | None = "y") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(length=0, pad=5)
    if grid:
        axes.grid(axis=grid)
    axes.spines["left" if grid == "y" else "bottom"].set_visible(False)
    return figure, axes


def _legend(axes: Axes, columns: int = 2) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1.4,
        handlelength=1.8, handletextpad=0.5,
    )  # fmt: skip


def _level_axis(axes: Axes, num_levels: int) -> None:
    axes.set_xticks(range(1, num_levels + 1))
    axes.set_xlim(0.4, num_levels + 0.6)
    axes.set_xlabel("Alignment level")


def _svg(figure: Figure, name: str, alt: str) -> Markup:
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


# ------------------------------------------------------------------------------------------------- scores and levels


@_styled
def score_histogram(pairs: Sequence[Pair], boundaries: Sequence[float], num_levels: int) -> Chart:
    """Distribution of CLIP scores, colored by level, with the N-1 boundaries (none if pairs have no level)."""
    scored = [pair for pair in pairs if not math.isnan(pair.score)]
    scores, levels = np.array([pair.score for pair in scored]), np.array([pair.level for pair in scored])
    edges = np.histogram_bin_edges(scores, bins=56)
    figure, axes = _canvas(285)
    below = np.zeros(len(edges) - 1)
    for level in sorted(set(levels.tolist())):
        counts, _ = np.histogram(scores[levels == level], bins=edges)
        color = level_color(level, num_levels) if level else BLUE
        filled = counts > 0
        axes.bar(
            edges[:-1][filled], counts[filled], np.diff(edges)[filled], below[filled], align="edge", color=color,
            edgecolor=CARD, linewidth=0.4,
        )  # fmt: skip
        below += counts
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, below.max() * (1.14 if boundaries else 1.05))
    _mark_boundaries(axes, boundaries)
    axes.set_xlabel("CLIP score (cosine of image and caption)")
    axes.set_ylabel("Pairs")
    cuts = ", ".join(decimal(boundary, 3) for boundary in boundaries) or "none"
    alt = (
        f"Histogram of {integer(len(scored))} CLIP scores from {decimal(scores.min())} to {decimal(scores.max())}, "
        f"median {decimal(float(np.median(scores)))}. Level boundaries: {cuts}."
    )
    return Chart("How CLIP scores are distributed", alt, _svg(figure, "histogram", alt))


def _mark_boundaries(axes: Axes, boundaries: Sequence[float]) -> None:
    """A line at each boundary, and each level's number where its span leaves room for it."""
    if not boundaries:
        return
    left, right = axes.get_xlim()
    top = axes.get_ylim()[1]
    for boundary in boundaries:
        axes.axvline(boundary, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
    ends = [left, *boundaries, right]
    for level, (low, high) in enumerate(pairwise(ends), start=1):
        if high - low > 0.025 * (right - left):
            axes.text((low + high) / 2, 0.985 * top, str(level), ha="center", va="top", fontweight="bold", fontsize=11)


@_styled
def coverage_by_level(coverage: Sequence[float], counts: Sequence[int]) -> Chart:
    """Mean true coverage of each level's captions, 0 to 1."""
    alt = "Mean true coverage by level: " + _spoken(coverage)
    rows = tuple(
        (str(level), integer(count), decimal(mean, 3))
        for level, (count, mean) in enumerate(zip(counts, coverage, strict=True), start=1)
    )
    svg = _level_bars(coverage, "coverage", "Mean true coverage", alt, top=1.0)
    return Chart("How much captions of each level tell", alt, svg, Table(("Level", "Pairs", "Mean coverage"), rows))


@_styled
def loss_by_level(losses: Sequence[float]) -> Chart:
    """Loss of each level's captions after stage 1, the model told that level, in nats a token."""
    alt = "Stage-1 loss by level: " + _spoken(losses)
    rows = tuple((str(level), decimal(loss, 3)) for level, loss in enumerate(losses, start=1))
    svg = _level_bars(losses, "lossbylevel", "Loss (nats a token)", alt)
    return Chart("Stage-1 loss of each level's captions", alt, svg, Table(("Level", "Loss"), rows))


def _spoken(values: Sequence[float]) -> str:
    return ", ".join(f"level {level} {decimal(value)}" for level, value in enumerate(values, start=1)) + "."


def _level_bars(values: Sequence[float], name: str, label: str, alt: str, top: float | None = None) -> Markup:
    figure, axes = _canvas(285)
    levels = range(1, len(values) + 1)
    axes.bar(levels, np.nan_to_num(values), 0.72, color=_level_colors(len(values)))
    size = 11 if len(values) <= 8 else 9 if len(values) <= 12 else 6
    for level, value in zip(levels, values, strict=True):
        height = 0.0 if math.isnan(value) else value
        axes.annotate(decimal(value), (level, height), (0, 3), textcoords="offset points", ha="center", fontsize=size)
    highest = np.nanmax(values) if not np.isnan(values).all() else 1.0
    axes.set_ylim(0, max(top or 0.0, 1.12 * highest))
    _level_axis(axes, len(values))
    axes.set_ylabel(label)
    return _svg(figure, name, alt)


@_styled
def kinds_by_level(pairs: Sequence[Pair], num_levels: int) -> Chart:
    """What kinds of caption, by the truth, each level holds."""
    found = {pair.kind for pair in pairs if pair.kind and pair.level}
    kinds = [kind for kind in KIND_COLORS if kind in found] + sorted(found - KIND_COLORS.keys())
    counts = np.array(
        [[sum(p.kind == kind and p.level == level for p in pairs) for kind in kinds]
         for level in range(1, num_levels + 1)]
    )  # fmt: skip
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    figure, axes = _canvas(285)
    below = np.zeros(num_levels)
    for column, kind in enumerate(kinds):
        color = KIND_COLORS.get(kind, MUTED)
        share = shares[:, column]
        axes.bar(range(1, num_levels + 1), share, 0.72, below, color=color, label=kind, edgecolor=CARD, linewidth=0.6)
        below += share
    _level_axis(axes, num_levels)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    _legend(axes, columns=4)
    rows = tuple((str(level), *(percent(share) for share in row)) for level, row in enumerate(shares, start=1))
    alt = "Kinds of caption by level. " + " ".join(
        f"Level {row[0]}: " + ", ".join(f"{kind} {share}" for kind, share in zip(kinds, row[1:], strict=True)) + "."
        for row in rows
    )
    svg = _svg(figure, "kinds", alt)
    return Chart("What each level's captions truly are", alt, svg, Table(("Level", *kinds), rows))


# ---------------------------------------------------------------------------------------------------------- training


@_styled
def loss_curves(trainings: dict[str, Training], stage: str) -> Chart:
    """Loss by step of one stage, each model as logged (faint) and smoothed; keyed by alignment."""
    figure, axes = _canvas(265)
    highest, lowest, told = 0.0, math.inf, []
    for name, training in trainings.items():
        steps, losses = _thinned(training.curve)
        smooth = _smoothed(losses)
        color, dash, _ = SERIES[name]
        axes.plot(steps, losses, color=color, linewidth=0.7, alpha=0.35)
        axes.plot(steps, smooth, color=color, linewidth=1.8, linestyle=dash, label=ALIGNMENT_NAMES[name])
        settled = smooth[len(smooth) // 10 :]  # the first steps may tower over all that follows
        highest, lowest = max(highest, float(settled.max())), min(lowest, float(losses.min()))
        told.append(f"{ALIGNMENT_NAMES[name]} from {decimal(losses[0])} to {decimal(training.final_loss, 3)}")
    margin = 0.08 * (highest - lowest) or 0.05
    axes.set_ylim(max(0.0, lowest - margin), highest + margin)
    axes.margins(x=0.01)
    axes.set_xlabel("Step")
    axes.set_ylabel("Loss (nats a token)")
    _legend(axes)
    alt = f"{STAGE_NAMES[stage]} loss by step: {'; '.join(told)}."
    return Chart(f"{STAGE_NAMES[stage]} loss", alt, _svg(figure, f"curve-{stage}", alt))


def _thinned(curve: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    every = math.ceil(len(curve) / _MAX_POINTS)
    steps, losses = zip(*curve[::every], strict=True)
    return np.array(steps), np.array(losses, dtype=float)


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """A centered moving average over a twentieth of the curve; the ends average what there is."""
    window = np.ones(max(1, len(losses) // 20))
    return np.convolve(losses, window, "same") / np.convolve(np.ones_like(losses), window, "same")


# ------------------------------------------------------------------------------------------------ captions, questions


@_styled
def captions_by_level(rows: Sequence[CaptionLevel]) -> Chart:
    """Recall (with its interval) and precision of the objects a caption names, by the level it was told."""
    figure, axes = _canvas(285)
    levels = [row.level for row in rows]
    recalls = [row.recall for row in rows]
    low, high = zip(*(row.recall_interval for row in rows), strict=True)
    axes.fill_between(levels, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(levels, recalls, "-o", color=BLUE, linewidth=1.8, markersize=5, label="Recall, 95 % interval")
    axes.plot(
        levels, [row.precision for row in rows], "--D", color=TEAL, linewidth=1.6, markersize=4.5, label="Precision"
    )
    _level_axis(axes, len(rows))
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    _legend(axes)
    table = Table(
        ("Level", "Recall", "95 % interval", "Precision"),
        tuple(
            (str(row.level), percent(row.recall), percent_range(row.recall_interval), percent(row.precision))
            for row in rows
        ),
    )
    alt = "Recall and precision of captions by level. " + " ".join(
        f"Level {row.level}: recall {percent(row.recall)}, precision {percent(row.precision)}." for row in rows
    )
    return Chart("Objects named, by the level told", alt, _svg(figure, "captions", alt), table)


@_styled
def accuracy_by_kind(results: dict[str, dict[str, Accuracy]]) -> Chart:
    """Accuracy of each kind of question with 95 % intervals, keyed by alignment, then by kind."""
    kinds = list(dict.fromkeys(kind for by_kind in results.values() for kind in by_kind))
    figure, axes = _canvas(70 + 38 * len(kinds), grid="x")
    for place, (name, by_kind) in enumerate(results.items()):
        color, _, marker = SERIES[name]
        shift = 0.17 * (2 * place - 1) if len(results) > 1 else 0.0
        for index, kind in enumerate(kinds):
            if kind not in by_kind:
                continue
            row, y = by_kind[kind], index + shift
            axes.plot(row.interval, (y, y), color=color, linewidth=2.4, alpha=0.55, solid_capstyle="round")
            axes.plot(row.accuracy, y, marker, color=color, markersize=6.5, markeredgecolor=CARD, markeredgewidth=0.8)
        axes.plot([], [], marker, color=color, markersize=6.5, label=ALIGNMENT_NAMES[name])
    axes.set_yticks(range(len(kinds)), [kind_name(kind) for kind in kinds], color=INK)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_xlim(0, 1.02)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.set_xlabel("Accuracy")
    _legend(axes)
    table = _accuracy_table(results, kinds)
    alt = "Accuracy by kind of question. " + " ".join(
        f"{row[0]}: "
        + ", ".join(f"{name.lower()} {cell}" for name, cell in zip(table.head[2:], row[2:], strict=True)) + "."
        for row in table.rows
    )  # fmt: skip
    return Chart("Accuracy by kind of question", alt, _svg(figure, "accuracy", alt), table)


def _accuracy_table(results: dict[str, dict[str, Accuracy]], kinds: Sequence[str]) -> Table:
    rows = []
    for kind in kinds:
        found = [by_kind.get(kind) for by_kind in results.values()]
        cells = [f"{percent(one.accuracy)} ({percent_range(one.interval)})" if one else NO_VALUE for one in found]
        rows.append((kind_name(kind), integer(next(one.count for one in found if one)), *cells))
    return Table(("Kind", "Questions", *(ALIGNMENT_NAMES[name] for name in results)), tuple(rows))


# --------------------------------------------------------------------------------------------------------------- gate


@_styled
def gate_weights(by_kind: dict[str, GateKind]) -> Chart:
    """Mean gate weights (Eq. 2): a row for each kind of question, a column for each of the N-1 lower levels."""
    weights = np.array([row.weights for row in by_kind.values()])
    names = [kind_name(kind) for kind in by_kind]
    figure, axes = _canvas(60 + 31 * len(names), grid=None)
    highest = max(float(weights.max()), 1e-9)
    mesh = axes.pcolormesh(weights, cmap=_HEAT_RAMP, vmin=0, vmax=highest, edgecolors=CARD, linewidth=1.6)
    mesh.set_rasterized(False)
    small = weights.shape[1] > 10
    for (row, column), weight in np.ndenumerate(weights):
        shade = "#ffffff" if weight > 0.55 * highest else "#1b2431"  # the cell's color is the same in either mode
        text = decimal(weight)
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=shade, fontsize=6 if small else 11)
    axes.set_yticks(np.arange(len(names)) + 0.5, names, color=INK)
    axes.set_xticks(np.arange(weights.shape[1]) + 0.5, [str(level + 1) for level in range(weights.shape[1])])
    axes.set_ylim(len(names), 0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("Alignment level (its share of the local part)")
    alt = "Mean gate weights. " + " ".join(
        f"{name}: {_spoken(row)}" for name, row in zip(names, weights.tolist(), strict=True)
    )
    return Chart("Gate weights by kind of question", alt, _svg(figure, "gates", alt))


@_styled
def gate_entropy(by_kind: dict[str, GateKind]) -> Chart:
    """Entropy of the gate weights of each kind, in nats, against that of even weights."""
    values = [row.entropy for row in by_kind.values()]
    names = [kind_name(kind) for kind in by_kind]
    even = math.log(len(next(iter(by_kind.values())).weights))
    figure, axes = _canvas(60 + 31 * len(names), grid="x")
    _bars(axes, names, values, [decimal(value) for value in values], DEEP_TEAL, inside=True)
    axes.axvline(even, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.text(even, -0.62, f"even weights {decimal(even)} ", ha="right", va="bottom", fontsize=11, color=MUTED)
    axes.set_xlim(0, 1.12 * max(even, *values))
    axes.set_xlabel("Entropy (nats)")
    alt = (
        "Entropy of the gate weights: "
        + ", ".join(f"{name} {decimal(value)}" for name, value in zip(names, values, strict=True))
        + f"; even weights would have {decimal(even)}."
    )
    return Chart("How evenly the gate spreads", alt, _svg(figure, "entropy", alt))


# -------------------------------------------------------------------------------------------------------------- costs


@_styled
def step_seconds(seconds: dict[str, float]) -> Chart:
    """Wall-clock time of each step."""
    return _steps(seconds, duration, "Time of each step", "seconds", BLUE)


@_styled
def step_memory(megabytes: dict[str, float]) -> Chart:
    """Peak memory of each step."""
    return _steps(megabytes, memory, "Peak memory of each step", "memory", TEAL)


def _steps(values: dict[str, float], written: Callable[[float], str], title: str, name: str, color: str) -> Chart:
    figure, axes = _canvas(30 + 25 * len(values), grid=None)
    labels = [written(value) for value in values.values()]
    _bars(axes, list(values), list(values.values()), labels, color)
    axes.set_xlim(0, 1.28 * max(values.values()) or 1.0)
    axes.set_xticks([])
    axes.spines["left"].set_visible(False)
    alt = f"{title}: " + ", ".join(f"{step} {label}" for step, label in zip(values, labels, strict=True)) + "."
    return Chart(title, alt, _svg(figure, name, alt))


def _bars(
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
