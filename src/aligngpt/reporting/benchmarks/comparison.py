"""Sections and page about two models on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligngpt.evaluation.artifacts import Comparison, DifferingSample, SkippedComparison
from aligngpt.reporting.benchmarks import charts, insights
from aligngpt.reporting.charts import Table
from aligngpt.reporting.formatting import (
    format_count,
    format_difference,
    format_integer,
    format_interval,
    join_words,
    shorten,
)
from aligngpt.reporting.html import Card, Page, Section, write_page
from aligngpt.reporting.images import embed_thumbnail
from aligngpt.utils.text import format_p_value

Compared = Sequence[Comparison | SkippedComparison]

SIDE, QUALITY = 200, 75  # of an image: longest side in pixels, JPEG quality
_QUESTION, _TEXT = 360, 280  # characters shown


def write_comparison(output: Path, comparisons: Compared) -> Path:
    """Write the page about two models and return its path.

    Args:
        comparisons: One for each benchmark, with `examples` to show samples on which the models differ.
    """
    sections = make_sections(comparisons, with_insights=False)
    lead = insights.describe_comparison(comparisons)
    return write_page(output, Page("comparison", _make_title(comparisons), lead, _make_cards(comparisons), sections))


def make_sections(comparisons: Compared, with_insights: bool = True) -> list[Section]:
    """Return the sections about the differences and about samples on which the models differ."""
    compared = [row for row in comparisons if isinstance(row, Comparison)]
    section = Section(
        "comparison",
        "Comparison",
        _make_title(comparisons),
        "Both models on the samples that both were scored on. The CI of a difference is a paired bootstrap over "
        "samples; p is that of the exact McNemar test if every sample is right or wrong, else of the sign test. The CI "
        "does not include the variation between training runs: one pair of models says nothing about other seeds. "
        "With many benchmarks, some differences are due to chance.",
        insights=insights.describe_comparison(comparisons) if with_insights else [],
        missing=[f"{row.title}: {row.reason}." for row in comparisons if isinstance(row, SkippedComparison)],
    )
    if not compared:
        return [section]
    section.charts.append(charts.draw_differences(compared))
    section.content["table"] = _make_table(compared)
    shown = [row for row in compared if row.examples]
    if not shown:
        return [section]
    questions = Section(
        "differing",
        "Differing samples",
        "Samples on which the models differ",
        "For each benchmark, samples that one model answers better than the other: equally many of both kinds where "
        "possible, sampled with a fixed seed.",
        content={"examples": [_make_examples(row) for row in shown]},
    )
    for note in dict.fromkeys(row.examples_note for row in shown if row.examples_note):
        titles = join_words([row.title for row in shown if row.examples_note == note])
        questions.missing.append(f"Questions of {titles}: {note}.")
    return [section, questions]


def _make_title(comparisons: Compared) -> str:
    compared = [row for row in comparisons if isinstance(row, Comparison)]
    return f"{compared[0].model.name} against {compared[0].baseline.name}" if compared else "Comparison"


def _make_cards(comparisons: Compared) -> list[Card]:
    """Return the metrics of a single benchmark; there are none for several."""
    compared = [row for row in comparisons if isinstance(row, Comparison)]
    if len(compared) != 1:
        return []
    (row,) = compared
    won = f"{format_integer(row.model.n_better)} : {format_integer(row.baseline.n_better)}"
    return [
        *(Card(model.name, charts.format_score(model.score), row.metric) for model in (row.model, row.baseline)),
        Card("Difference", format_difference(row.difference), f"95% CI {format_interval(row.ci95)}"),
        Card("Samples won", won, f"p {format_p_value(row.p_value)}, {row.test} test"),
    ]


def _make_table(compared: Sequence[Comparison]) -> Table:
    model, baseline = compared[0].model.name, compared[0].baseline.name
    rows = []
    for row in compared:
        scores = (
            charts.format_score(row.model.score),
            charts.format_score(row.baseline.score),
            format_difference(row.difference),
        )
        counts = map(format_integer, (row.n_samples, row.model.n_better, row.baseline.n_better, row.n_unpaired))
        rows.append((row.title, *scores, format_interval(row.ci95), format_p_value(row.p_value), row.test, *counts))
    head = (
        "Benchmark", model, baseline, "Difference", "95% CI", "p", "Test", "Samples", f"{model} better",
        f"{baseline} better", "Skipped",
    )  # fmt: skip
    return Table(head, tuple(rows))


def _make_examples(row: Comparison) -> dict[str, Any]:
    """Return samples of one benchmark on which the models differ; `with_images` reserves space for images."""
    names = (row.model.name, row.baseline.name)
    examples = [_make_example(sample, names) for sample in row.examples]
    return {
        "title": row.title,
        "note": f"{format_integer(len(examples))} of {format_count(len(row.differing), 'sample')} with different "
        "scores",
        "with_images": any(example["image"] for example in examples),
        "examples": examples,
    }


def _make_example(sample: DifferingSample, names: tuple[str, str]) -> dict[str, Any]:
    return {
        "question": shorten(sample.question, _QUESTION) if sample.question else f"Question {sample.id}",
        "image": embed_thumbnail(sample.image, SIDE, QUALITY),
        "label": "" if sample.label is None else _format(sample.label),
        "predictions": list(zip(names, map(_format, sample.texts), sample.scores, strict=True)),
    }


def _format(text: Any) -> str:
    """Return a prediction or label as shown; several of one sample are joined."""
    if isinstance(text, list | tuple):
        return shorten(" · ".join(_format(part) for part in text), _TEXT)
    return "no prediction" if text is None else shorten(" ".join(str(text).split()), _TEXT) or "empty prediction"
