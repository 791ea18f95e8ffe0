"""One self-contained HTML page about two models on the same questions, and the same as a part of another page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.evaluation import artifacts
from aligngpt.reporting import formatting as text
from aligngpt.reporting.benchmarks import charts as figures
from aligngpt.reporting.benchmarks.paper_results import title_of
from aligngpt.reporting.charts import Table
from aligngpt.reporting.html import Card, Section, fill
from aligngpt.reporting.images import thumbnail
from aligngpt.utils.io import atomic_path

Comparison = Mapping[str, Any]

SIDE, QUALITY = 200, 75  # of an image: its longest side in pixels, and of its JPEG
_QUESTION, _ANSWER = 360, 280  # characters shown


@dataclass(frozen=True)
class _Said:
    """What one of the models answered, and whether it is right, in part right or wrong."""

    model: str
    text: str
    score: float


@dataclass(frozen=True)
class _Card:
    """A question on which the models differ."""

    question: str
    image: str | None
    label: str
    said: tuple[_Said, _Said]


@dataclass(frozen=True)
class _Strip:
    """The questions of one benchmark; without any image no room is left for them."""

    title: str
    note: str
    with_images: bool
    cards: tuple[_Card, ...]


def to_mappings(comparisons: Sequence[Any], names: tuple[str, str]) -> tuple[list[Comparison], tuple[str, str]]:
    """Return the comparisons in the form of this page, baseline first, and the names of both models."""
    rows: list[Comparison] = []
    for one in comparisons:
        if isinstance(one, Mapping):
            rows.append(one)
            continue
        if isinstance(one, artifacts.SkippedComparison):
            rows.append(one.model_dump())
            continue
        model, baseline = one.model, one.baseline
        names = (baseline.name, model.name)
        shown = [
            {"id": x.id, "label": x.label, "question": x.question, "image": x.image, "scores": x.scores[::-1],
             "texts": x.texts[::-1]}
            for x in one.examples
        ]  # fmt: skip
        rows.append(
            {
                "benchmark": one.benchmark, "title": one.title, "metric": one.metric, "count": one.n_samples,
                "scores": [baseline.score, model.score], "difference": one.difference, "interval": one.ci95,
                "test": {"McNemar": "McNemar's exact test", "sign": "sign test"}[one.test], "p_value": one.p_value,
                "first_better": baseline.n_better, "second_better": model.n_better, "left_out": one.n_unpaired,
                "notes": one.notes, "differing": one.differing, "shown": shown, "missing": one.examples_note,
            }
        )  # fmt: skip
    return rows, names


def write_comparison(page: Path, results: Sequence[Any], names: tuple[str, str] = ("", "")) -> Path:
    """Write the page of two models.

    Args:
        page: Where to write it.
        comparisons: What `evaluation.compare` says of each benchmark, with `shown` and `missing` of
            `evaluation.differing` where questions are to be seen.
        names: What the models are called; differences are the second minus the first.

    Returns:
        `page`, one HTML file without any request to elsewhere.
    """
    comparisons, names = to_mappings(results, names)
    html = fill(
        "benchmarks/comparison.html.jinja",
        name=f"{names[1]} against {names[0]}",
        lead=_findings(comparisons, names),
        cards=_cards(comparisons, names),
        sections=comparison_sections(comparisons, names, found=False),
        shows="What the numbers say",
        missing="Not compared.",
        absent="",
    )
    with atomic_path(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return page


def comparison_sections(comparisons: Sequence[Comparison], names: tuple[str, str], found: bool = True) -> list[Section]:
    """The differences, and the questions behind them; arguments as `write_comparison`.

    Args:
        found: Whether the findings stand in the section.
    """
    done = [one for one in comparisons if "reason" not in one]
    section = Section(
        "compared",
        "Compared",
        f"{names[1]} against {names[0]}",
        "Both models on the questions that both were scored on. The interval of a difference is a paired bootstrap "
        "over questions; p is that of McNemar's exact test where every question is right or wrong, else of the sign "
        "test. Many tests find a difference by chance more often than one.",
        found=_findings(comparisons, names) if found else [],
        missing=[f"{_title(one)}: {one['reason']}." for one in comparisons if "reason" in one],
    )
    if not done:
        return [section]
    section.charts.append(figures.differences(done, *names))
    section.extra["table"] = _table(done, names)
    shown = [one for one in done if one.get("shown")]
    strips = [_strip(one, names) for one in shown]
    if not strips:
        return [section]
    questions = Section(
        "differing",
        "Questions",
        "Questions on which they differ",
        "Of each benchmark a few questions that one model has right and the other has not, or less so: as many for the "
        "one as for the other while there are any, drawn with a fixed seed.",
    )
    for why in dict.fromkeys(one["missing"] for one in shown if one["missing"]):
        titles = text.listed([_title(one) for one in shown if one["missing"] == why])
        questions.missing.append(f"What was asked in {titles}: {why}.")
    questions.extra["strips"] = strips
    return [section, questions]


def _findings(comparisons: Sequence[Comparison], names: tuple[str, str]) -> list[str]:
    done = [one for one in comparisons if "reason" not in one]
    if not done:
        return ["No benchmark could be compared."]
    sides = {_title(one): figures.side_of_zero(one["interval"]) for one in done}
    sentences = [
        f"{names[who]} is better on {text.listed(found)}, with an interval that leaves out zero."
        for who, side in ((1, 1), (0, -1))
        if (found := [title for title in sides if sides[title] == side])
    ]
    undecided = [title for title in sides if not sides[title]]
    if undecided:
        sentences.append(f"On {text.listed(undecided)} the interval of the difference does not tell which is better.")
    sentences += [f"{_title(one)}: {note}." for one in done for note in one.get("notes", ())]
    return sentences


def _title(comparison: Comparison) -> str:
    return title_of(comparison["benchmark"], comparison.get("title"))


def _cards(comparisons: Sequence[Comparison], names: tuple[str, str]) -> list[Card]:
    done = [one for one in comparisons if "reason" not in one]
    if len(done) != 1:
        return []
    (one,) = done
    better = f"{text.integer(one['second_better'])} against {text.integer(one['first_better'])}"
    return [
        *(
            Card(name, figures.score_text(score), one["metric"])
            for name, score in zip(names, one["scores"], strict=True)
        ),
        Card(
            "Difference", figures.signed(one["difference"]), f"95 % interval {figures.interval_text(one['interval'])}"
        ),
        Card("Questions won", better, f"p = {_probability(one['p_value'])}, {one['test']}"),
    ]


def _table(done: Sequence[Comparison], names: tuple[str, str]) -> Table:
    rows = tuple(
        (
            _title(one),
            *(figures.score_text(score) for score in one["scores"]),
            figures.signed(one["difference"]),
            figures.interval_text(one["interval"]),
            _probability(one["p_value"]),
            one["test"].removesuffix(" test").removesuffix("'s exact"),
            text.integer(one["count"]),
            text.integer(one["first_better"]),
            text.integer(one["second_better"]),
            text.integer(one["left_out"]),
        )
        for one in done
    )
    head = (
        "Benchmark", *names, "Difference", "95 % interval", "p", "Test", "Questions", "First better",
        "Second better", "Left out",
    )  # fmt: skip
    return Table(head, rows)


def _probability(p_value: float) -> str:
    return "under 0.001" if p_value < 0.001 else text.decimal(p_value, 3)


# ------------------------------------------------------------------------------------------------------------ questions


def _strip(comparison: Comparison, names: tuple[str, str]) -> _Strip:
    cards = tuple(_card(one, names) for one in comparison["shown"])
    note = f"{text.integer(len(cards))} of {text.count_of(len(comparison['differing']), 'question')} that differ"
    return _Strip(_title(comparison), note, any(card.image for card in cards), cards)


def _card(one: Mapping[str, Any], names: tuple[str, str]) -> _Card:
    image = one["image"]
    said = [_Said(*each) for each in zip(names, map(_answer, one["texts"]), one["scores"], strict=True)]
    return _Card(
        question=text.shortened(one["question"], _QUESTION) if one["question"] else f"Question {one['id']}",
        image=None if image is None else thumbnail(image, SIDE, QUALITY),
        label=_answer(one["label"]) if one["label"] is not None else "",
        said=(said[0], said[1]),
    )


def _answer(said: Any) -> str:
    """An answer as it is shown; several of one question (its rotations, or both of an image) side by side."""
    if isinstance(said, list | tuple):
        return text.shortened(" · ".join(_answer(part) for part in said), _ANSWER)
    return "no answer" if said is None else text.shortened(" ".join(str(said).split()), _ANSWER) or "an empty answer"
