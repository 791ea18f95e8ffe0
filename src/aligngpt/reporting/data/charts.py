"""Charts of the data report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.scorer_agreement import NUM_LEVELS, AgreementDetails
from aligngpt.curation.statistics import ScoreStatistics, bin_score, quantile_bin
from aligngpt.reporting.charts import (
    BLUE,
    CARD,
    INK,
    Chart,
    Table,
    apply_style,
    draw_heat_cells,
    get_level_color,
    label_levels,
    make_canvas,
    to_svg,
)
from aligngpt.reporting.data.insights import compute_mean_score
from aligngpt.reporting.formatting import format_count, format_decimal, format_integer

_BARS = 56


@apply_style
def draw_score_histogram(scanned: ScoreStatistics, boundaries: LevelBoundaries | None) -> Chart:
    """Draw the distribution of the scores by level (Figure 3 of the paper); there must be a score."""
    bins = np.flatnonzero(scanned.histogram.any(axis=0))
    width = 1 + (bins[-1] - bins[0]) // _BARS
    counts = scanned.histogram[:, bins[0] : bins[-1] + 1]
    counts = np.pad(counts, ((0, 0), (0, -counts.shape[1] % width)))
    counts = counts.reshape(len(counts), -1, width).sum(axis=2)
    edges = np.array([bin_score(bins[0] + bar * width) for bar in range(counts.shape[1] + 1)])
    lines = () if boundaries is None else boundaries.boundaries
    alt = (
        f"Histogram of {format_count(scanned.scored, 'CLIP score')} from {format_decimal(scanned.minimum)} to "
        f"{format_decimal(scanned.maximum)}, median {format_decimal(scanned.quantiles['p50'])}. Level boundaries: "
        f"{', '.join(format_decimal(line, 3) for line in lines) or 'none'}."
    )
    ends = {"maximum": scanned.maximum, "mean": compute_mean_score(scanned)}
    values = {"minimum": scanned.minimum} | dict(scanned.quantiles) | ends
    table = Table(("Percentile", "Score"), tuple((name, format_decimal(value, 3)) for name, value in values.items()))
    figure, axes = make_canvas(285)
    below = np.zeros(len(edges) - 1)
    for level, row in enumerate(counts):  # row 0 holds scores without a level
        filled = row > 0
        axes.bar(
            edges[:-1][filled], row[filled], np.diff(edges)[filled], below[filled], align="edge",
            color=get_level_color(level, len(counts) - 1) if level else BLUE, edgecolor=CARD, linewidth=0.4,
        )  # fmt: skip
        below += row
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, below.max() * (1.14 if lines else 1.05))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda count, _: format_integer(count))
    _mark_boundaries(axes, lines)
    axes.set_xlabel("CLIP score (cosine of image and caption)")
    axes.set_ylabel("Pairs")
    return Chart("Distribution of the scores", alt, to_svg(figure, "histogram", alt), table)


def _mark_boundaries(axes: Axes, boundaries: Sequence[float]) -> None:
    """Draw a line at each boundary, and the number of each level that is wide enough."""
    if not boundaries:
        return
    left, right = axes.get_xlim()
    top = axes.get_ylim()[1]
    for boundary in (boundary for boundary in boundaries if left <= boundary <= right):
        axes.axvline(boundary, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
    ends = [left, *np.clip(boundaries, left, right), right]
    for level, (low, high) in enumerate(pairwise(ends), start=1):
        if high - low > 0.03 * (right - left):
            axes.text((low + high) / 2, 0.985 * top, str(level), ha="center", va="top", fontweight="bold")


@apply_style
def draw_lengths_by_level(scanned: ScoreStatistics) -> Chart:
    """Draw median, quartiles and the 5% to 95% range of the caption length of each level."""
    fractions = (0.05, 0.25, 0.5, 0.75, 0.95)
    num_levels = len(scanned.lengths) - 1
    figure, axes = make_canvas(285)
    rows = []
    for level, counts in enumerate(scanned.lengths[1:], start=1):
        if not counts.any():
            continue
        low, lower, median, upper, high = (quantile_bin(counts, fraction) for fraction in fractions)
        color = get_level_color(level, num_levels)
        axes.plot((level, level), (low, high), color=color, linewidth=1.4)
        axes.bar(level, max(upper - lower, 0.3), 0.62, lower, color=color)
        axes.plot((level - 0.31, level + 0.31), (median, median), color=INK, linewidth=1.6, solid_capstyle="butt")
        rows.append((str(level), *(format_integer(value) for value in (low, lower, median, upper, high))))
    label_levels(axes, num_levels)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Characters")
    summary = ", ".join(f"level {row[0]} median {row[3]} ({row[2]} to {row[4]})" for row in rows)
    alt = f"Caption length by level: {summary}."
    head = ("Level", "5%", "25%", "Median", "75%", "95%")
    return Chart("Caption length by level", alt, to_svg(figure, "lengths", alt), Table(head, tuple(rows)))


@apply_style
def draw_level_agreement(left: str, right: str, result: AgreementDetails, index: int) -> Chart:
    """Draw how the pairs of each level by one scorer spread over the levels by another one."""
    percents = 100 * result.matrix / np.maximum(1, result.matrix.sum(axis=1, keepdims=True))
    figure, axes = make_canvas(330, grid=None)
    draw_heat_cells(axes, percents, lambda value: f"{value:.0f}")
    levels = [str(level) for level in range(1, NUM_LEVELS + 1)]
    axes.set_xticks(np.arange(NUM_LEVELS) + 0.5, levels)
    axes.set_yticks(np.arange(NUM_LEVELS) + 0.5, levels)
    axes.set_xlabel(f"Level by {right[:40]}")
    axes.set_ylabel(f"Level by {left[:40]}")
    rows = tuple((level, *(f"{value:.1f}" for value in row)) for level, row in zip(levels, percents, strict=True))
    diagonal = ", ".join(f"level {level} {value:.0f}" for level, value in zip(levels, percents.diagonal(), strict=True))
    alt = (
        f"Levels by {left} and by {right} of {format_count(result.pairs, 'pair')}, in percent of each row; on the "
        f"diagonal {diagonal}."
    )
    table = Table((f"{left} \\ {right}", *levels), rows)
    return Chart("Levels by both scorers (% of each row)", alt, to_svg(figure, f"agreement{index}", alt), table)
