"""The charts of the page about scored pairs."""

from __future__ import annotations

import numpy as np

from aligngpt.curation.levels import LevelBoundaries
from aligngpt.curation.scorer_agreement import Agreement
from aligngpt.curation.scorer_ranks import NUM_LEVELS
from aligngpt.curation.statistics import Scan, bin_score, quantile_bin
from aligngpt.reporting.charts import (
    INK,
    Chart,
    Table,
    canvas,
    heat_cells,
    level_axis,
    level_color,
    stacked_histogram,
    styled,
    to_svg,
)
from aligngpt.reporting.data.insights import mean_score, quantile
from aligngpt.reporting.formatting import count_of, decimal, integer, percent

_BARS = 56
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@styled
def score_histogram(scanned: Scan, boundaries: LevelBoundaries | None) -> Chart:
    """Distribution of the scores, colored by level, with the boundaries (the paper's Figure 3); there must be one."""
    bins = np.flatnonzero(scanned.histogram.any(axis=0))
    width = 1 + (bins[-1] - bins[0]) // _BARS
    counts = scanned.histogram[:, bins[0] : bins[-1] + 1]
    counts = np.pad(counts, ((0, 0), (0, -counts.shape[1] % width)))
    counts = counts.reshape(len(counts), -1, width).sum(axis=2)
    edges = np.array([bin_score(bins[0] + bar * width) for bar in range(counts.shape[1] + 1)])
    cuts = () if boundaries is None else boundaries.boundaries
    told = ", ".join(decimal(cut, 3) for cut in cuts) or "none"
    alt = (
        f"Histogram of {integer(scanned.scored)} CLIP scores from {decimal(scanned.minimum)} to "
        f"{decimal(scanned.maximum)}, median {decimal(quantile(scanned, 0.5))}. Level boundaries: {told}."
    )
    rows = [("lowest", decimal(scanned.minimum, 3))]
    rows += [(percent(share, 0), decimal(quantile(scanned, share), 3)) for share in _QUANTILES]
    rows += [("highest", decimal(scanned.maximum, 3)), ("mean", decimal(mean_score(scanned), 3))]
    svg = stacked_histogram(edges, counts, cuts, "histogram", alt)
    return Chart("How the scores are distributed", alt, svg, Table(("Quantile", "Score"), tuple(rows)))


@styled
def lengths_by_level(scanned: Scan) -> Chart:
    """Median, quartiles and the middle nine tenths of the captions' lengths at each level."""
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    num_levels = len(scanned.lengths) - 1
    figure, axes = canvas(285)
    rows = []
    for level, counts in enumerate(scanned.lengths[1:], start=1):
        if not counts.any():
            continue
        low, first, middle, third, high = (quantile_bin(counts, share) for share in shares)
        color = level_color(level, num_levels)
        axes.plot((level, level), (low, high), color=color, linewidth=1.4)
        axes.bar(level, max(third - first, 0.3), 0.62, first, color=color)
        axes.plot((level - 0.31, level + 0.31), (middle, middle), color=INK, linewidth=1.6, solid_capstyle="butt")
        rows.append((str(level), *(integer(value) for value in (low, first, middle, third, high))))
    level_axis(axes, num_levels)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Characters")
    alt = "Caption length by level: " + ", ".join(
        f"level {row[0]} median {row[3]} ({row[2]} to {row[4]})" for row in rows
    )
    head = ("Level", "5 %", "25 %", "Median", "75 %", "95 %")
    svg = to_svg(figure, "lengths", f"{alt}.")
    return Chart("How long the captions of each level are", f"{alt}.", svg, Table(head, tuple(rows)))


@styled
def level_agreement(first: str, other: str, found: Agreement, place: int) -> Chart:
    """Of each level by the first scorer, the share of its pairs in each level by the other."""
    shares = 100 * found.matrix / np.maximum(1, found.matrix.sum(axis=1, keepdims=True))
    figure, axes = canvas(330, grid=None)
    heat_cells(axes, shares, lambda share: f"{share:.0f}")
    levels = [str(level) for level in range(1, NUM_LEVELS + 1)]
    axes.set_xticks(np.arange(NUM_LEVELS) + 0.5, levels)
    axes.set_yticks(np.arange(NUM_LEVELS) + 0.5, levels)
    axes.set_xlabel(f"Level by {other[:40]}")
    axes.set_ylabel(f"Level by {first[:40]}")
    rows = tuple((level, *(f"{share:.1f}" for share in row)) for level, row in zip(levels, shares, strict=True))
    alt = (
        f"Levels by {first} against levels by {other} of {count_of(found.pairs, 'pair')}, in percent of each row: on "
        "the diagonal "
        + ", ".join(f"level {level} {shares[place, place]:.0f}" for place, level in enumerate(levels)) + "."
    )  # fmt: skip
    svg = to_svg(figure, f"agreement{place}", alt)
    table = Table((f"{first} \\ {other}", *levels), rows)
    return Chart("Levels by both scorers, in % of each row", alt, svg, table)
