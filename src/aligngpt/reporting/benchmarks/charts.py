"""The charts of the page of benchmark results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from aligngpt.reporting.benchmarks.load import Gate, Result, Score
from aligngpt.reporting.benchmarks.paper_results import (
    FULL_PARTS,
    FULL_SCORES,
    PAPER_MODELS,
    TITLES,
    PaperModel,
    of_full,
    title_of,
)
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
    canvas,
    deviation_cells,
    legend,
    styled,
    to_svg,
)
from aligngpt.reporting.formatting import NO_VALUE, decimal, integer, shortened

_SERIES = ((BLUE, "-", "o"), (AMBER, (0, (4, 1.5)), "s"), (TEAL, (0, (1, 1.2)), "D"), (VIOLET, (0, (6, 1, 1, 1)), "^"))
_RINGS = 4
_INNER = 0.25  # of the radius: where the lowest figure of an axis lies
_LONGEST_NAME = 30  # characters beside a bar
_LEAST_DIFFERENCE = 1.0  # percent of the full score; what the axis of smaller differences reaches to
_LEAST_DEVIATION = 0.05  # of a weight from even ones; what the scale of smaller ones reaches to
_LEAST_GAP = 0.05  # nats


# ------------------------------------------------------------------------------------------------------------- scores


@styled
def radar(series: Mapping[str, Mapping[str, float]]) -> Chart:
    """The paper's Figure 1: an axis for each benchmark, a line for each model; with fewer than three, bars.

    Args:
        series: Up to four models, each with its score by benchmark; those of the first one have an axis.
    """
    names = list(next(iter(series.values())))
    table = Table(
        ("Benchmark", *series),
        tuple((title_of(name), *(_figure(scores.get(name)) for scores in series.values())) for name in names),
    )
    alt = "Scores by benchmark. " + " ".join(
        f"{row[0]}: " + ", ".join(f"{model} {cell}" for model, cell in zip(series, row[1:], strict=True)) + "."
        for row in table.rows
    )
    draw = _web if len(names) >= 3 else _bars
    return Chart("All benchmarks at a glance", alt, draw(names, series, alt), table)


def _figure(score: float | None) -> str:
    return NO_VALUE if score is None else decimal(score, 1)


def _web(names: Sequence[str], series: Mapping[str, Mapping[str, float]], alt: str) -> Any:
    figure, axes = canvas(400, grid=None)
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    spokes = np.column_stack([np.cos(angles), np.sin(angles)])
    for ring in range(1, _RINGS + 1):
        axes.fill(*(ring / _RINGS * spokes).T, facecolor="none", edgecolor=LINE, linewidth=0.8)
    ranges = {name: _axis(name, series) for name in names}
    for name, (x, y) in zip(names, spokes, strict=True):
        axes.plot((0, x), (0, y), color=LINE, linewidth=0.8)
        _name_axis(axes, name, ranges[name], x, y)
    for (model, scores), (color, dash, marker) in zip(series.items(), _SERIES, strict=False):
        radii = [_radius(scores.get(name, math.nan), ranges[name]) for name in names]
        points = spokes * np.array(radii)[:, None]
        x, y = np.vstack([points, points[:1]]).T
        axes.plot(
            x, y, color=color, linestyle=dash, linewidth=1.9, marker=marker, markersize=4.5, markeredgecolor=CARD,
            markeredgewidth=0.5, label=model,
        )  # fmt: skip
        if model == next(iter(series)):
            axes.fill(x, y, color=color, alpha=0.1, linewidth=0)
    axes.set_xlim(-1.5, 1.5)
    axes.set_ylim(-1.22, 1.22)
    axes.set_aspect("equal")
    axes.set_axis_off()
    legend(axes, columns=min(3, len(series)))
    return to_svg(figure, "radar", alt)


def _axis(name: str, series: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    """The range of an axis, on round figures: all of the paper's models and those shown; without the paper, all."""
    full = FULL_SCORES.get(name, 100.0)
    if not any(model.name in series for model in PAPER_MODELS):
        return 0.0, full
    shown = (*series.values(), *(model.scores for model in PAPER_MODELS))
    scores = [scores[name] for scores in shown if name in scores]
    step = full / 20
    low = step * math.floor(min(scores) / step)
    return low, max(low + step, min(full, step * math.ceil(max(scores) / step)))


def _radius(score: float, axis: tuple[float, float]) -> float:
    low, high = axis
    return _INNER + (1 - _INNER) * (score - low) / (high - low)


def _name_axis(axes: Axes, name: str, axis: tuple[float, float], x: float, y: float) -> None:
    """The benchmark's name outside the tip of its axis, and below it what the axis spans."""
    side = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
    low, high = axis
    place = (1.06 * x, 1.06 * y + (0.07 if y > 0.9 else -0.05 if y < -0.9 else 0))
    axes.annotate(title_of(name), place, (0, 1), textcoords="offset points", ha=side, va="bottom", fontweight="bold")
    axes.annotate(
        f"{low:.0f} to {high:.0f}", place, (0, 0), textcoords="offset points", ha=side, va="top", color=MUTED,
        fontsize=10,
    )  # fmt: skip


def _bars(names: Sequence[str], series: Mapping[str, Mapping[str, float]], alt: str) -> Any:
    figure, axes = canvas(70 + 30 * len(names) * len(series), grid="x")
    height = 0.8 / len(series)
    for place, ((model, scores), (color, _, _)) in enumerate(zip(series.items(), _SERIES, strict=False)):
        for index, name in enumerate(names):
            share = of_full(name, scores.get(name, 0.0))
            y = index - 0.4 + (place + 0.5) * height
            axes.barh(y, share, 0.86 * height, color=color, label=model if index == 0 else None)
            axes.annotate(
                _figure(scores.get(name)), (share, y), (4, 0), textcoords="offset points", va="center", fontsize=11
            )
    axes.set_yticks(range(len(names)), [title_of(name) for name in names], color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("% of the full score")
    axes.spines["left"].set_visible(False)
    legend(axes, columns=len(series))
    return to_svg(figure, "radar", alt)


@styled
def sub_scores(result: Result, division: str, parts: Mapping[str, Mapping[str, Any]]) -> Chart:
    """Score and 95 % interval of each part of a division of one benchmark, with a line at the whole."""
    figure, axes = canvas(48 + 24 * len(parts), grid="x")
    for place, part in enumerate(parts.values()):
        if None not in part["interval"]:
            axes.plot(part["interval"], (place, place), color=BLUE, linewidth=2.4, alpha=0.5, solid_capstyle="round")
        axes.plot(
            part["score"],
            place,
            "o",
            color=BLUE,
            markersize=6,
            markeredgecolor=CARD,
            markeredgewidth=0.8,
            clip_on=False,
        )
    axes.set_yticks(range(len(parts)), [shortened(name, _LONGEST_NAME) for name in parts], color=INK)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.set_xlim(0, 1.02 * FULL_PARTS.get(result.name, 100.0))
    axes.spines["left"].set_visible(False)
    named = division.replace("_", " ")
    table = sub_score_table(named, parts)
    alt = f"{result.title} by {named}: " + ", ".join(f"{row[0]} {row[1]} ({row[2]})" for row in table.rows) + "."
    return Chart(f"{result.title} by {named}", alt, to_svg(figure, f"parts-{result.name}-{division}", alt), table)


def sub_score_table(named: str, parts: Mapping[str, Mapping[str, Any]]) -> Table:
    """The parts of a division, each with score, interval and number of questions."""
    rows = tuple(
        (name, score_text(part["score"]), interval_text(part["interval"]), integer(part["count"]))
        for name, part in parts.items()
    )
    return Table((named.capitalize(), "Score", "95 % interval", "Questions"), rows)


def score_text(score: float | None) -> str:
    """A score as the paper prints them, with one digit."""
    return _figure(None if score is None or math.isnan(score) else score)


def signed(difference: float, places: int = 1) -> str:
    """A difference with its sign: `+0.4`."""
    written = decimal(abs(difference), places)
    sign = "\N{PLUS-MINUS SIGN}" if float(written) == 0 else "+" if difference > 0 else "\N{MINUS SIGN}"
    return f"{sign}{written}"


def interval_text(interval: Sequence[float | None], places: int = 1) -> str:
    """`61.2 to 63.9`; a dash where there is none, or one without width, which too few questions have."""
    low, high = interval
    if low is None or high is None or math.isnan(low) or low == high:
        return NO_VALUE
    return f"{decimal(low, places)} to {decimal(high, places)}"


# --------------------------------------------------------------------------------------------------------------- gate


def widest_deviation(gates: Iterable[Gate]) -> float:
    """How far a weight is from even ones, at most: the reach of the scale that all maps of a page share."""
    return max(_LEAST_DEVIATION, *(float(abs(_deviations([gate])).max()) for gate in gates))


def _deviations(gates: Iterable[Gate]) -> np.ndarray:
    weights = np.array([gate.weights for gate in gates])
    return weights - 1 / weights.shape[1]


@styled
def gate_weights(gates: Mapping[str, Gate], name: str, title: str, reach: float) -> Chart:
    """Mean gate weights (Eq. 2) minus even ones: a row for each benchmark or part, a column for each lower level.

    Args:
        reach: Of the scale, on both sides of 0.
    """
    deviations = _deviations(gates.values())
    levels = [str(level) for level in range(1, deviations.shape[1] + 1)]
    figure, axes = canvas(54 + 27 * len(gates), grid=None)
    deviation_cells(axes, deviations, reach, lambda value: signed(value, 2))
    axes.set_yticks(np.arange(len(gates)) + 0.5, [shortened(row, _LONGEST_NAME) for row in gates], color=INK)
    axes.set_xticks(np.arange(len(levels)) + 0.5, levels)
    axes.set_xlabel(f"Weight of each level minus {decimal(1 / len(levels))}, even weights")
    alt = f"{title}, minus even ones. " + " ".join(
        f"{row}: {', '.join(signed(value, 2) for value in own)}." for row, own in zip(gates, deviations, strict=True)
    )
    return Chart(title, alt, to_svg(figure, f"gate-{name}", alt), gate_table(gates))


def gate_table(gates: Mapping[str, Gate]) -> Table:
    """Weights and entropy of each benchmark or part, with the number of its questions."""
    levels = range(1, len(next(iter(gates.values())).weights) + 1)
    rows = tuple(
        (
            row,
            integer(gate.count),
            *(decimal(weight, 3) for weight in gate.weights),
            decimal(gate.entropy, 3),
            interval_text(gate.interval, 3),
        )
        for row, gate in gates.items()
    )
    return Table(
        ("", "Questions", *(f"Level {level}" for level in levels), "Entropy (nats)", "95 % interval"),
        rows,
    )


@styled
def gate_entropy(gates: Mapping[str, Gate]) -> Chart:
    """How far the mean entropy of each benchmark's gate weights is below that of even weights, with its interval."""
    even = math.log(len(next(iter(gates.values())).weights))
    figure, axes = canvas(54 + 27 * len(gates), grid="x")
    for place, gate in enumerate(gates.values()):
        gaps = [even - bound for bound in gate.interval]
        axes.plot(gaps, (place, place), color=DEEP_TEAL, linewidth=2.4, alpha=0.5, solid_capstyle="round")
        axes.plot(even - gate.entropy, place, "o", color=DEEP_TEAL, markersize=6, markeredgecolor=CARD, clip_on=False)
    axes.set_yticks(range(len(gates)), [shortened(row, _LONGEST_NAME) for row in gates], color=INK)
    axes.set_ylim(len(gates) - 0.4, -0.6)
    axes.set_xlim(0, max(_LEAST_GAP, axes.get_xlim()[1]))
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"Nats below {decimal(even)}, the entropy of even weights; 95 % interval")
    alt = f"Nats of entropy below even weights, which have {decimal(even)}: " + ", ".join(
        f"{name} {decimal(even - gate.entropy, 3)}" for name, gate in gates.items()
    )
    return Chart("How far the gate is from even weights", f"{alt}.", to_svg(figure, "gate-entropy", f"{alt}."))


# -------------------------------------------------------------------------------------------------------- differences


def side_of_zero(interval: Sequence[float]) -> int:
    """1 if an interval lies above zero, -1 if below, else 0; one without width is of too few questions to tell."""
    low, high = interval
    return 0 if low == high else int(low > 0) - int(high < 0)


@styled
def from_paper(scores: Mapping[str, Score], model: PaperModel) -> Chart:
    """Each score minus that of a model of the paper, with the interval of the score alone, in percent of the full."""
    rows = {
        name: (score.value - model.scores[name], tuple(bound - model.scores[name] for bound in score.interval))
        for name, score in scores.items()
        if name in model.scores
    }
    return _differences(rows, f"Score minus the paper's {model.name}", "from-paper")


@styled
def differences(comparisons: Sequence[Mapping[str, Any]], first: str, second: str) -> Chart:
    """Difference of two models on each benchmark with its 95 % interval, in percent of the full score."""
    rows = {one["benchmark"]: (one["difference"], one["interval"]) for one in comparisons}
    titles = {one["benchmark"]: title_of(one["benchmark"], one.get("title")) for one in comparisons}
    return _differences(rows, f"{second} minus {first}", "differences", titles)


def _differences(
    rows: Mapping[str, tuple[float, Sequence[float]]], title: str, name: str, titles: Mapping[str, str] = TITLES
) -> Chart:
    figure, axes = canvas(54 + 27 * len(rows), grid="x")
    axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    for place, (benchmark, (difference, interval)) in enumerate(rows.items()):
        low, high = (of_full(benchmark, bound) for bound in interval)
        color = {1: TEAL, 0: MUTED, -1: AMBER}[side_of_zero(interval)]
        axes.plot((low, high), (place, place), color=color, linewidth=2.4, alpha=0.55, solid_capstyle="round")
        axes.plot(of_full(benchmark, difference), place, "o", color=color, markersize=6.5, markeredgecolor=CARD)
    axes.set_yticks(range(len(rows)), [titles[benchmark] for benchmark in rows], color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    reach = max(_LEAST_DIFFERENCE, *map(abs, axes.get_xlim()))
    axes.set_xlim(-reach, reach)
    axes.set_xlabel("% of the full score, 95 % interval")
    alt = f"{title}: " + ", ".join(
        f"{titles[benchmark]} {signed(difference)} ({interval_text(interval)})"
        for benchmark, (difference, interval) in rows.items()
    )
    return Chart(title, f"{alt}.", to_svg(figure, name, f"{alt}."))
