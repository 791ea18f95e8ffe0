"""Charts of the run report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from aligngpt.experiments.artifacts import VARIANTS, LevelCaptions
from aligngpt.reporting.charts import (
    AMBER,
    BLUE,
    CARD,
    MUTED,
    TEAL,
    Chart,
    Table,
    add_legend,
    apply_style,
    describe_rows,
    draw_level_bars,
    label_levels,
    list_levels,
    make_canvas,
    name_rows,
    to_svg,
)
from aligngpt.reporting.formatting import (
    NO_VALUE,
    STAGE_NAMES,
    format_decimal,
    format_duration,
    format_integer,
    format_memory,
    format_percent,
    format_percent_range,
)
from aligngpt.training.artifacts import TrainResult

_STYLES = {"adaptive": (BLUE, "-"), "none": (AMBER, (0, (4, 1.5)))}
_KIND_COLORS = {"mismatched": "#8f98a3", "dropped": "#e3b052", "part": "#63b3a8", "whole": "#2a7fc4"}
_MAX_POINTS = 600  # of a loss curve


# Ground truth --------------------------------------------------------------------------------------------------------


@apply_style
def draw_coverage_by_level(coverage: Sequence[float], counts: Sequence[int]) -> Chart:
    """Draw the mean true coverage of each level's captions, 0 to 1."""
    alt = f"Mean true coverage by level: {list_levels(coverage)}"
    levels = zip(counts, coverage, strict=True)
    rows = [
        (str(level), format_integer(count), format_decimal(mean, 3))
        for level, (count, mean) in enumerate(levels, start=1)
    ]
    svg = draw_level_bars(coverage, "coverage", "Mean true coverage", alt, top=1.0)
    return Chart("True coverage by level", alt, svg, Table(("Level", "Pairs", "Mean coverage"), tuple(rows)))


@apply_style
def draw_kinds_by_level(kinds: Counter[tuple[int, str]], num_levels: int) -> Chart:
    """Draw the fraction of each true kind of caption in each level."""
    present = {kind for _, kind in kinds}
    names = [kind for kind in _KIND_COLORS if kind in present] + sorted(present - _KIND_COLORS.keys())
    levels = range(1, num_levels + 1)
    counts = np.array([[kinds[level, name] for name in names] for level in levels])
    fractions = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    figure, axes = make_canvas(285)
    bottom = np.zeros(num_levels)
    for column, name in enumerate(names):
        color = _KIND_COLORS.get(name, MUTED)
        axes.bar(levels, fractions[:, column], 0.72, bottom, color=color, label=name, edgecolor=CARD, linewidth=0.6)
        bottom += fractions[:, column]
    label_levels(axes, num_levels)
    _label_percent_axis(axes, 1)
    rows = tuple((str(level), *map(format_percent, row)) for level, row in zip(levels, fractions, strict=True))
    table = Table(("Level", *names), rows)
    alt = f"Kinds of caption by level. {describe_rows(table, 'Level ')}"
    return Chart("True kind of caption by level", alt, to_svg(figure, "kinds", alt), table)


def _label_percent_axis(axes: Axes, top: float) -> None:
    axes.set_ylim(0, top)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    add_legend(axes)


# Training ------------------------------------------------------------------------------------------------------------


@apply_style
def draw_loss_by_level(losses: Sequence[float]) -> Chart:
    """Draw the loss of each level's captions after stage 1, conditioned on that level (nats per token)."""
    alt = f"Stage-1 loss by level: {list_levels(losses)}"
    rows = tuple((str(level), format_decimal(loss, 3)) for level, loss in enumerate(losses, start=1))
    svg = draw_level_bars(losses, "loss-by-level", "Loss (nats per token)", alt)
    return Chart("Stage-1 loss by level", alt, svg, Table(("Level", "Loss"), rows))


@apply_style
def draw_loss_curves(trainings: Mapping[str, TrainResult], stage: str) -> Chart:
    """Draw the loss by step of one stage for each variant, logged (faint) and smoothed."""
    figure, axes = make_canvas(265)
    highest, lowest, summaries = 0.0, math.inf, []
    for name, training in trainings.items():
        logged = read_logged_losses(training)
        steps, losses = map(np.array, zip(*logged[:: math.ceil(len(logged) / _MAX_POINTS)], strict=True))
        smooth = _smooth(losses)
        color, dash = _STYLES[name]
        axes.plot(steps, losses, color=color, linewidth=0.7, alpha=0.35)
        axes.plot(steps, smooth, color=color, linewidth=1.8, linestyle=dash, label=VARIANTS[name])
        visible = smooth[len(smooth) // 10 :]  # the first steps may be much higher
        highest, lowest = max(highest, float(visible.max())), min(lowest, float(losses.min()))
        summaries.append(
            f"{VARIANTS[name]} from {format_decimal(losses[0])} to {format_decimal(training.final_loss, 3)}"
        )
    margin = 0.08 * (highest - lowest) or 0.05
    axes.set_ylim(max(0.0, lowest - margin), highest + margin)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("Step")
    axes.set_ylabel("Loss (nats per token)")
    add_legend(axes)
    alt = f"{STAGE_NAMES[stage]} loss by step: {'; '.join(summaries)}."
    return Chart(f"{STAGE_NAMES[stage]} loss", alt, to_svg(figure, f"loss-{stage}", alt))


def read_logged_losses(training: TrainResult) -> list[tuple[int, float]]:
    """Return the logged steps with their losses."""
    return [(entry.step, entry.loss) for entry in training.log_history if entry.loss is not None]


def _smooth(losses: np.ndarray) -> np.ndarray:
    """Return a centered moving average over 1/20 of the curve; ends average the values that exist."""
    window = np.ones(max(1, len(losses) // 20))
    return np.convolve(losses, window, "same") / np.convolve(np.ones_like(losses), window, "same")


# Captions and costs --------------------------------------------------------------------------------------------------


@apply_style
def draw_captions_by_level(captions: LevelCaptions) -> Chart:
    """Draw recall, with its interval, and precision of the described objects by level."""
    figure, axes = make_canvas(285)
    levels = [row.level for row in captions.by_level]
    recalls, precisions = ([getattr(row, name).value for row in captions.by_level] for name in ("recall", "precision"))
    low, high = zip(*(row.recall.ci95 or 2 * (row.recall.value,) for row in captions.by_level), strict=True)
    axes.fill_between(levels, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(levels, recalls, "-o", color=BLUE, linewidth=1.8, markersize=5, label="Recall, 95% CI")
    axes.plot(levels, precisions, "--D", color=TEAL, linewidth=1.6, markersize=4.5, label="Precision")
    label_levels(axes, len(levels))
    _label_percent_axis(axes, 1.02)
    rows = []
    for row in captions.by_level:
        ci95 = format_percent_range(row.recall.ci95) if row.recall.ci95 else NO_VALUE
        rows.append((str(row.level), format_percent(row.recall.value), ci95, format_percent(row.precision.value)))
    sentences = (f"Level {row[0]}: recall {row[1]}, precision {row[3]}." for row in rows)
    alt = f"Objects described by level. {' '.join(sentences)}"
    table = Table(("Level", "Recall", "95% CI", "Precision"), tuple(rows))
    return Chart("Objects described, by level", alt, to_svg(figure, "level-captions", alt), table)


@apply_style
def draw_step_runtime(seconds: Mapping[str, float]) -> Chart:
    """Draw the wall-clock time of each step."""
    return _draw_steps(seconds, format_duration, "Runtime of each step", "runtime", BLUE)


@apply_style
def draw_step_memory(megabytes: Mapping[str, float]) -> Chart:
    """Draw the peak memory of each step."""
    return _draw_steps(megabytes, format_memory, "Peak memory of each step", "memory", TEAL)


def _draw_steps(values: Mapping[str, float], label: Callable[[float], str], title: str, name: str, color: str) -> Chart:
    labels = [label(value) for value in values.values()]
    figure, axes = make_canvas(30 + 28 * len(values), grid=None)
    axes.barh(range(len(values)), list(values.values()), 0.62, color=color)
    for index, (value, text) in enumerate(zip(values.values(), labels, strict=True)):
        axes.annotate(text, (value, index), (4, 0), textcoords="offset points", va="center")
    name_rows(axes, list(values))
    axes.set_xlim(0, 1.4 * max(values.values()) or 1.0)
    axes.set_xticks([])
    alt = f"{title}: " + ", ".join(f"{step} {text}" for step, text in zip(values, labels, strict=True)) + "."
    return Chart(title, alt, to_svg(figure, name, alt))
