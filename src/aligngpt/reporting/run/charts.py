"""The charts of a run's page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from aligngpt.reporting.charts import (
    AMBER,
    BLUE,
    CARD,
    DEEP_TEAL,
    INK,
    MUTED,
    TEAL,
    Chart,
    Table,
    canvas,
    heat_cells,
    legend,
    level_axis,
    level_bars,
    lying_bars,
    spoken,
    stacked_histogram,
    styled,
    to_svg,
)
from aligngpt.reporting.formatting import (
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
from aligngpt.reporting.run.load import Accuracy, CaptionLevel, GateKind, Pair, Training

SERIES = {"adaptive": (BLUE, "-", "o"), "none": (AMBER, (0, (4, 1.5)), "s")}
KIND_COLORS = {"mismatched": "#8f98a3", "dropped": "#e3b052", "part": "#63b3a8", "whole": "#2a7fc4"}
_MAX_POINTS = 600  # of a curve


# ------------------------------------------------------------------------------------------------- scores and levels


@styled
def score_histogram(pairs: Sequence[Pair], boundaries: Sequence[float], num_levels: int) -> Chart:
    """Distribution of CLIP scores, colored by level, with the N-1 boundaries (none if pairs have no level)."""
    scored = [pair for pair in pairs if not math.isnan(pair.score)]
    scores, levels = np.array([pair.score for pair in scored]), np.array([pair.level for pair in scored])
    edges = np.histogram_bin_edges(scores, bins=56)
    counts = [np.histogram(scores[levels == level], bins=edges)[0] for level in range(num_levels + 1)]
    cuts = ", ".join(decimal(boundary, 3) for boundary in boundaries) or "none"
    alt = (
        f"Histogram of {integer(len(scored))} CLIP scores from {decimal(scores.min())} to {decimal(scores.max())}, "
        f"median {decimal(float(np.median(scores)))}. Level boundaries: {cuts}."
    )
    svg = stacked_histogram(edges, np.array(counts), boundaries, "histogram", alt)
    return Chart("How CLIP scores are distributed", alt, svg)


@styled
def coverage_by_level(coverage: Sequence[float], counts: Sequence[int]) -> Chart:
    """Mean true coverage of each level's captions, 0 to 1."""
    alt = "Mean true coverage by level: " + spoken(coverage)
    rows = tuple(
        (str(level), integer(count), decimal(mean, 3))
        for level, (count, mean) in enumerate(zip(counts, coverage, strict=True), start=1)
    )
    svg = level_bars(coverage, "coverage", "Mean true coverage", alt, top=1.0)
    return Chart("How much captions of each level tell", alt, svg, Table(("Level", "Pairs", "Mean coverage"), rows))


@styled
def loss_by_level(losses: Sequence[float]) -> Chart:
    """Loss of each level's captions after stage 1, the model told that level, in nats a token."""
    alt = "Stage-1 loss by level: " + spoken(losses)
    rows = tuple((str(level), decimal(loss, 3)) for level, loss in enumerate(losses, start=1))
    svg = level_bars(losses, "lossbylevel", "Loss (nats a token)", alt)
    return Chart("Stage-1 loss of each level's captions", alt, svg, Table(("Level", "Loss"), rows))


@styled
def kinds_by_level(pairs: Sequence[Pair], num_levels: int) -> Chart:
    """What kinds of caption, by the truth, each level holds."""
    found = {pair.kind for pair in pairs if pair.kind and pair.level}
    kinds = [kind for kind in KIND_COLORS if kind in found] + sorted(found - KIND_COLORS.keys())
    counts = np.array(
        [[sum(p.kind == kind and p.level == level for p in pairs) for kind in kinds]
         for level in range(1, num_levels + 1)]
    )  # fmt: skip
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    figure, axes = canvas(285)
    below = np.zeros(num_levels)
    for column, kind in enumerate(kinds):
        color = KIND_COLORS.get(kind, MUTED)
        share = shares[:, column]
        axes.bar(range(1, num_levels + 1), share, 0.72, below, color=color, label=kind, edgecolor=CARD, linewidth=0.6)
        below += share
    level_axis(axes, num_levels)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    legend(axes, columns=4)
    rows = tuple((str(level), *(percent(share) for share in row)) for level, row in enumerate(shares, start=1))
    alt = "Kinds of caption by level. " + " ".join(
        f"Level {row[0]}: " + ", ".join(f"{kind} {share}" for kind, share in zip(kinds, row[1:], strict=True)) + "."
        for row in rows
    )
    svg = to_svg(figure, "kinds", alt)
    return Chart("What each level's captions truly are", alt, svg, Table(("Level", *kinds), rows))


# ---------------------------------------------------------------------------------------------------------- training


@styled
def loss_curves(trainings: dict[str, Training], stage: str) -> Chart:
    """Loss by step of one stage, each model as logged (faint) and smoothed; keyed by alignment."""
    figure, axes = canvas(265)
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
    legend(axes)
    alt = f"{STAGE_NAMES[stage]} loss by step: {'; '.join(told)}."
    return Chart(f"{STAGE_NAMES[stage]} loss", alt, to_svg(figure, f"curve-{stage}", alt))


def _thinned(curve: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    every = math.ceil(len(curve) / _MAX_POINTS)
    steps, losses = zip(*curve[::every], strict=True)
    return np.array(steps), np.array(losses, dtype=float)


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """A centered moving average over a twentieth of the curve; the ends average what there is."""
    window = np.ones(max(1, len(losses) // 20))
    return np.convolve(losses, window, "same") / np.convolve(np.ones_like(losses), window, "same")


# ------------------------------------------------------------------------------------------------ captions, questions


@styled
def captions_by_level(rows: Sequence[CaptionLevel]) -> Chart:
    """Recall (with its interval) and precision of the objects a caption names, by the level it was told."""
    figure, axes = canvas(285)
    levels = [row.level for row in rows]
    recalls = [row.recall for row in rows]
    low, high = zip(*(row.recall_interval for row in rows), strict=True)
    axes.fill_between(levels, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(levels, recalls, "-o", color=BLUE, linewidth=1.8, markersize=5, label="Recall, 95 % interval")
    axes.plot(
        levels, [row.precision for row in rows], "--D", color=TEAL, linewidth=1.6, markersize=4.5, label="Precision"
    )
    level_axis(axes, len(rows))
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    legend(axes)
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
    return Chart("Objects named, by the level told", alt, to_svg(figure, "captions", alt), table)


@styled
def accuracy_by_kind(results: dict[str, dict[str, Accuracy]]) -> Chart:
    """Accuracy of each kind of question with 95 % intervals, keyed by alignment, then by kind."""
    kinds = list(dict.fromkeys(kind for by_kind in results.values() for kind in by_kind))
    figure, axes = canvas(70 + 38 * len(kinds), grid="x")
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
    legend(axes)
    table = _accuracy_table(results, kinds)
    alt = "Accuracy by kind of question. " + " ".join(
        f"{row[0]}: "
        + ", ".join(f"{name.lower()} {cell}" for name, cell in zip(table.head[2:], row[2:], strict=True)) + "."
        for row in table.rows
    )  # fmt: skip
    return Chart("Accuracy by kind of question", alt, to_svg(figure, "accuracy", alt), table)


def _accuracy_table(results: dict[str, dict[str, Accuracy]], kinds: Sequence[str]) -> Table:
    rows = []
    for kind in kinds:
        found = [by_kind.get(kind) for by_kind in results.values()]
        cells = [f"{percent(one.accuracy)} ({percent_range(one.interval)})" if one else NO_VALUE for one in found]
        rows.append((kind_name(kind), integer(next(one.count for one in found if one)), *cells))
    return Table(("Kind", "Questions", *(ALIGNMENT_NAMES[name] for name in results)), tuple(rows))


# --------------------------------------------------------------------------------------------------------------- gate


@styled
def gate_weights(by_kind: dict[str, GateKind]) -> Chart:
    """Mean gate weights (Eq. 2): a row for each kind of question, a column for each of the N-1 lower levels."""
    weights = np.array([row.weights for row in by_kind.values()])
    names = [kind_name(kind) for kind in by_kind]
    figure, axes = canvas(60 + 31 * len(names), grid=None)
    heat_cells(axes, weights, decimal)
    axes.set_yticks(np.arange(len(names)) + 0.5, names, color=INK)
    axes.set_xticks(np.arange(weights.shape[1]) + 0.5, [str(level + 1) for level in range(weights.shape[1])])
    axes.set_xlabel("Alignment level (its share of the local part)")
    alt = "Mean gate weights. " + " ".join(
        f"{name}: {spoken(row)}" for name, row in zip(names, weights.tolist(), strict=True)
    )
    return Chart("Gate weights by kind of question", alt, to_svg(figure, "gates", alt))


@styled
def gate_entropy(by_kind: dict[str, GateKind]) -> Chart:
    """Entropy of the gate weights of each kind, in nats, against that of even weights."""
    values = [row.entropy for row in by_kind.values()]
    names = [kind_name(kind) for kind in by_kind]
    even = math.log(len(next(iter(by_kind.values())).weights))
    figure, axes = canvas(60 + 31 * len(names), grid="x")
    lying_bars(axes, names, values, [decimal(value) for value in values], DEEP_TEAL, inside=True)
    axes.axvline(even, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.text(even, -0.62, f"even weights {decimal(even)} ", ha="right", va="bottom", fontsize=11, color=MUTED)
    axes.set_xlim(0, 1.12 * max(even, *values))
    axes.set_xlabel("Entropy (nats)")
    alt = (
        "Entropy of the gate weights: "
        + ", ".join(f"{name} {decimal(value)}" for name, value in zip(names, values, strict=True))
        + f"; even weights would have {decimal(even)}."
    )
    return Chart("How evenly the gate spreads", alt, to_svg(figure, "entropy", alt))


# -------------------------------------------------------------------------------------------------------------- costs


@styled
def step_seconds(seconds: dict[str, float]) -> Chart:
    """Wall-clock time of each step."""
    return _steps(seconds, duration, "Time of each step", "seconds", BLUE)


@styled
def step_memory(megabytes: dict[str, float]) -> Chart:
    """Peak memory of each step."""
    return _steps(megabytes, memory, "Peak memory of each step", "memory", TEAL)


def _steps(values: dict[str, float], written: Callable[[float], str], title: str, name: str, color: str) -> Chart:
    figure, axes = canvas(30 + 25 * len(values), grid=None)
    labels = [written(value) for value in values.values()]
    lying_bars(axes, list(values), list(values.values()), labels, color)
    axes.set_xlim(0, 1.28 * max(values.values()) or 1.0)
    axes.set_xticks([])
    axes.spines["left"].set_visible(False)
    alt = f"{title}: " + ", ".join(f"{step} {label}" for step, label in zip(values, labels, strict=True)) + "."
    return Chart(title, alt, to_svg(figure, name, alt))
