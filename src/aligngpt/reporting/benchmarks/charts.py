"""Charts of the benchmark report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from aligngpt.evaluation.artifacts import (
    FULL_SCORES,
    FULL_SUB_SCORES,
    TITLES,
    BenchmarkScore,
    Comparison,
    GateMeans,
    GroupScore,
)
from aligngpt.reporting.benchmarks.insights import get_sign
from aligngpt.reporting.benchmarks.paper_results import PAPER_MODELS, PaperModel, scale_to_percent
from aligngpt.reporting.charts import (
    AMBER,
    BLUE,
    CARD,
    DEEP_TEAL,
    INK,
    LINE,
    MUTED,
    TEAL,
    VIOLET,
    Chart,
    Table,
    add_legend,
    apply_style,
    describe_rows,
    draw_heat_cells,
    make_canvas,
    name_rows,
    to_svg,
)
from aligngpt.reporting.formatting import (
    format_decimal,
    format_difference,
    format_integer,
    format_interval,
    format_label,
    shorten,
)

_SERIES = ((BLUE, "-", "o"), (AMBER, (0, (4, 1.5)), "s"), (TEAL, (0, (1, 1.2)), "D"), (VIOLET, (0, (6, 1, 1, 1)), "^"))
_RINGS = 4
_INNER = 0.25  # fraction of the radius at which an axis starts
_LONGEST_LABEL = 14  # characters of a model in the legend
_MIN_DIFFERENCE_RANGE = 1.0  # percent of the full score; least range of the axis of differences
_MIN_DEVIATION = 0.05  # least range of the color scale of gate weights
_MIN_GAP = 0.05  # nats; least range of the axis of entropies


def format_score(score: float | None) -> str:
    """Return a score with one digit, as in the paper."""
    return format_decimal(score, 1)


# Scores --------------------------------------------------------------------------------------------------------------


@apply_style
def draw_overview(titles: Mapping[str, str], series: Mapping[str, Mapping[str, float]]) -> Chart:
    """Draw the scores of several models: a radar chart (Figure 1 of the paper), or bars for fewer than 3 benchmarks.

    Args:
        titles: Titles of the benchmarks by name.
        series: Scores of up to four models by benchmark.
    """
    models = series.values()
    rows = [(title, *(format_score(scores.get(name)) for scores in models)) for name, title in titles.items()]
    table = Table(("Benchmark", *series), tuple(rows))
    alt = f"Scores by benchmark. {describe_rows(table)}"
    return Chart(
        "Scores by benchmark", alt, (_draw_radar if len(titles) >= 3 else _draw_bars)(titles, series, alt), table
    )


def _draw_radar(titles: Mapping[str, str], series: Mapping[str, Mapping[str, float]], alt: str) -> Markup:
    figure, axes = make_canvas(410, grid=None)
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(titles)) / len(titles)
    spokes = np.column_stack([np.cos(angles), np.sin(angles)])
    for ring in range(1, _RINGS + 1):
        axes.fill(*(ring / _RINGS * spokes).T, facecolor="none", edgecolor=LINE, linewidth=0.8)
    ranges = {name: _choose_range(name, series) for name in titles}
    for (name, title), (x, y) in zip(titles.items(), spokes, strict=True):
        axes.plot((0, x), (0, y), color=LINE, linewidth=0.8)
        _label_axis(axes, title, ranges[name], x, y)
    for index, ((model, scores), (color, dash, marker)) in enumerate(zip(series.items(), _SERIES, strict=False)):
        radii = [_scale_radius(scores.get(name, math.nan), *ranges[name]) for name in titles]
        points = spokes * np.array(radii)[:, None]
        x, y = np.vstack([points, points[:1]]).T
        axes.plot(
            x, y, color=color, linestyle=dash, linewidth=1.9, marker=marker, markersize=4.5, markeredgecolor=CARD,
            markeredgewidth=0.5, label=shorten(model, _LONGEST_LABEL),
        )  # fmt: skip
        if index == 0:
            axes.fill(x, y, color=color, alpha=0.1, linewidth=0)
    axes.set_xlim(-1.55, 1.55)
    axes.set_ylim(-1.25, 1.25)
    axes.set_aspect("equal")
    axes.set_axis_off()
    add_legend(axes)
    return to_svg(figure, "overview", alt)


def _choose_range(name: str, series: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    """Return rounded ends of an axis that holds all models of the paper, or 0 to the full score without them."""
    full = FULL_SCORES.get(name, 100.0)
    if not any(model.name in series for model in PAPER_MODELS):
        return 0.0, full
    models = (*series.values(), *(model.scores for model in PAPER_MODELS))
    scores = [scores[name] for scores in models if name in scores]
    step = full / 20
    low = step * math.floor(min(scores) / step)
    return low, max(low + step, min(full, step * math.ceil(max(scores) / step)))


def _scale_radius(score: float, low: float, high: float) -> float:
    return _INNER + (1 - _INNER) * (score - low) / (high - low)


def _label_axis(axes: Axes, title: str, ends: tuple[float, float], x: float, y: float) -> None:
    side = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
    position = (1.06 * x, 1.06 * y + (0.07 if y > 0.9 else -0.05 if y < -0.9 else 0))
    text: dict[str, Any] = {"textcoords": "offset points", "ha": side}
    axes.annotate(title, position, (0, 1), va="bottom", fontweight="bold", **text)
    axes.annotate(f"{ends[0]:.0f} to {ends[1]:.0f}", position, (0, 0), va="top", color=MUTED, **text)


def _draw_bars(titles: Mapping[str, str], series: Mapping[str, Mapping[str, float]], alt: str) -> Markup:
    figure, axes = make_canvas(78 + 34 * len(titles) * len(series), grid="x")
    height = 0.8 / len(series)
    for index, ((model, scores), (color, _, _)) in enumerate(zip(series.items(), _SERIES, strict=False)):
        for row, name in enumerate(titles):
            value = scale_to_percent(name, scores.get(name, 0.0))
            y = row - 0.4 + (index + 0.5) * height
            label = shorten(model, _LONGEST_LABEL) if row == 0 else None
            axes.barh(y, value, 0.86 * height, color=color, label=label)
            axes.annotate(format_score(scores.get(name)), (value, y), (4, 0), textcoords="offset points", va="center")
    name_rows(axes, list(titles.values()))
    axes.set_ylim(len(titles) - 0.5, -0.5)
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("% of the full score")
    add_legend(axes)
    return to_svg(figure, "overview", alt)


@apply_style
def draw_sub_scores(name: str, title: str, category: str, parts: Mapping[str, GroupScore]) -> Chart:
    """Draw score and interval of each value of a category of one benchmark."""
    full = FULL_SUB_SCORES.get(name, 100.0)
    table = make_sub_score_table(category, parts)
    heading = f"{title} by {category.replace('_', ' ')}"
    alt = f"{heading}: " + ", ".join(f"{row[0]} {row[1]} ({row[2]})" for row in table.rows) + "."
    rows = {part: (group.score, group.ci95, BLUE) for part, group in parts.items()}
    svg = _draw_points(rows, f"categories-{name}-{category}", alt, (0, 1.02 * full), "Score and 95% CI")
    return Chart(heading, alt, svg, table)


def make_sub_score_table(category: str, parts: Mapping[str, GroupScore]) -> Table:
    """Return score, interval and number of samples of each value of a category."""
    rows = [
        (part, format_score(row.score), format_interval(row.ci95), format_integer(row.n_samples))
        for part, row in parts.items()
    ]
    return Table((format_label(category), "Score", "95% CI", "Samples"), tuple(rows))


def _draw_points(
    rows: Mapping[str, tuple[float | None, Sequence[float] | None, str]],
    name: str,
    alt: str,
    span: tuple[float, float] | float,
    label: str,
) -> Markup:
    """Draw a point with its interval for each row: (value, interval, color).

    Args:
        span: Range of the x axis, or the least distance that it extends to both sides of zero.
    """
    figure, axes = make_canvas(60 + 29 * len(rows), grid="x")
    for index, (value, ci95, color) in enumerate(rows.values()):
        if ci95 is not None:
            axes.plot(ci95, (index, index), color=color, linewidth=2.4, alpha=0.55, solid_capstyle="round")
        if value is not None:
            axes.plot(value, index, "o", color=color, markersize=6.5, markeredgecolor=CARD, clip_on=False)
    name_rows(axes, list(rows))
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    if isinstance(span, tuple):
        axes.set_xlim(span)
    else:
        axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        reach = max(span, *map(abs, axes.get_xlim()))
        axes.set_xlim(-reach, reach)
    return to_svg(figure, name, alt)


# Gate ----------------------------------------------------------------------------------------------------------------


def find_largest_deviation(gates: Iterable[GateMeans]) -> float:
    """Return the range of the color scale that all gate charts of a page share."""
    return max(_MIN_DEVIATION, *(float(abs(_compute_deviations([gate])).max()) for gate in gates))


def _compute_deviations(gates: Iterable[GateMeans]) -> np.ndarray:
    weights = np.array([gate.weights for gate in gates])
    return weights - 1 / weights.shape[1]


@apply_style
def draw_gate_weights(gates: Mapping[str, GateMeans], name: str, title: str, reach: float) -> Chart:
    """Draw mean gate weights (Eq. 2) minus uniform weights, per benchmark or category; the colors end at +-`reach`."""
    deviations = _compute_deviations(gates.values())
    levels = [str(level) for level in range(1, deviations.shape[1] + 1)]
    figure, axes = make_canvas(62 + 29 * len(gates), grid=None)
    draw_heat_cells(axes, deviations, lambda value: format_difference(value, 2), reach)
    axes.set_yticks(np.arange(len(gates)) + 0.5, [shorten(row, 18) for row in gates], color=INK)
    axes.set_xticks(np.arange(len(levels)) + 0.5, levels)
    axes.set_xlabel(f"Weight of each level minus 1/{len(levels)}")
    alt = f"{title}, minus uniform weights. " + " ".join(
        f"{row}: {', '.join(format_difference(value, 2) for value in values)}."
        for row, values in zip(gates, deviations, strict=True)
    )
    return Chart(title, alt, to_svg(figure, f"gate-{name}", alt), make_gate_table(gates))


def make_gate_table(gates: Mapping[str, GateMeans]) -> Table:
    """Return weights and entropy of each row with the number of questions."""
    rows = []
    for row, gate in gates.items():
        values = [format_decimal(value, 3) for value in (*gate.weights, gate.entropy)]
        rows.append((row, format_integer(gate.n_samples), *values, format_interval(gate.entropy_ci95, 3)))
    levels = [f"Level {level}" for level in range(1, len(rows[0]) - 3)]
    return Table(("Row", "Questions", *levels, "Entropy (nats)", "95% CI"), tuple(rows))


@apply_style
def draw_gate_entropy(gates: Mapping[str, GateMeans]) -> Chart:
    """Draw how far the mean entropy of the gate weights is below the entropy of uniform weights."""
    uniform = math.log(len(next(iter(gates.values())).weights))
    rows = {
        row: (uniform - gate.entropy, gate.entropy_ci95 and [uniform - bound for bound in gate.entropy_ci95], DEEP_TEAL)
        for row, gate in gates.items()
    }
    ends = [bound for value, ci95, _ in rows.values() for bound in (value, *(ci95 or ()))]
    span = (min(0.0, *ends), max(_MIN_GAP, 1.05 * max(ends)))
    values = ", ".join(f"{row} {format_decimal(value, 3)}" for row, (value, _, _) in rows.items())
    alt = f"Entropy below that of uniform weights, which is {format_decimal(uniform)} nats: {values}."
    svg = _draw_points(rows, "gate-entropy", alt, span, f"{format_decimal(uniform)} nats minus entropy, 95% CI")
    return Chart("Distance of the gate from uniform weights", alt, svg)


# Differences ---------------------------------------------------------------------------------------------------------


@apply_style
def draw_paper_differences(scores: Mapping[str, BenchmarkScore], model: PaperModel) -> Chart:
    """Draw each score minus that of a model of the paper, with the interval of the score."""
    rows = {
        name: (score.score - model.scores[name], [bound - model.scores[name] for bound in score.ci95 or ()])
        for name, score in scores.items()
        if name in model.scores and score.score is not None
    }
    return _draw_differences(rows, TITLES, f"Score minus {model.name} of the paper", "from-paper")


@apply_style
def draw_differences(comparisons: Sequence[Comparison]) -> Chart:
    """Draw the difference of two models on each benchmark with its interval."""
    rows = {row.benchmark: (row.difference, row.ci95) for row in comparisons}
    titles = {row.benchmark: row.title for row in comparisons}
    heading = f"{comparisons[0].model.name} minus {comparisons[0].baseline.name}"
    return _draw_differences(rows, titles, heading, "differences")


def _draw_differences(
    rows: Mapping[str, tuple[float, Sequence[float]]], titles: Mapping[str, str], title: str, name: str
) -> Chart:
    alt = f"{title}: " + ", ".join(
        f"{titles[benchmark]} {format_difference(difference)} ({format_interval(ci95)})"
        for benchmark, (difference, ci95) in rows.items()
    )
    points = {
        titles[benchmark]: (
            scale_to_percent(benchmark, difference),
            [scale_to_percent(benchmark, bound) for bound in ci95] or None,
            {1: TEAL, 0: MUTED, -1: AMBER}[get_sign(ci95 or None)],
        )
        for benchmark, (difference, ci95) in rows.items()
    }
    svg = _draw_points(points, name, f"{alt}.", _MIN_DIFFERENCE_RANGE, "% of the full score, 95% CI")
    return Chart(title, f"{alt}.", svg)
