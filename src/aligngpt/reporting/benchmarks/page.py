"""One self-contained HTML page about a model on the benchmarks, made of what `aligngpt eval run` left in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.reporting import formatting as text
from aligngpt.reporting.benchmarks import charts as figures
from aligngpt.reporting.benchmarks import insights as findings
from aligngpt.reporting.benchmarks.comparison import Comparison, comparison_sections, to_mappings
from aligngpt.reporting.benchmarks.load import COUNTS, BenchmarkFolder, Gate, Result, load_folder
from aligngpt.reporting.benchmarks.paper_results import (
    ALIGNGPT_7B,
    LLAVA_7B,
    PAPER_MODELS,
    RIVALS,
    TEST_SPLITS,
    TITLES,
    PaperModel,
)
from aligngpt.reporting.charts import Table
from aligngpt.reporting.html import Card, Section, fill
from aligngpt.utils.io import atomic_path

PAGE = "index.html"
_MOST_PARTS = 24  # of a division that is drawn
_LONGEST_TABLE = 80  # parts of a division; more are in score.json alone
_MOST_IMAGES = 20  # unreadable ones that are named, of each benchmark
_REASON = 300  # characters shown
_ELSEWHERE = ("benchmark", "unreadable_images", "versions")  # of a run's settings: shown in another place


@dataclass(frozen=True)
class _Difference:
    """A figure of the paper, our score minus it, and whether the figure lies in our interval."""

    value: str
    difference: str
    within: bool


@dataclass(frozen=True)
class _Row:
    """A benchmark in the table of results; `reason` stands for a missing score, `mark` for what sets its data apart."""

    title: str
    metric: str
    mark: str
    score: str
    interval: str
    reason: str
    differences: tuple[_Difference, ...]
    count: str


def write_page(
    output: Path,
    page: Path | None = None,
    comparisons: Sequence[Any] = (),
    names: tuple[str, str] = ("the other", "this model"),
) -> Path:
    """Write the page of a folder of benchmark results.

    Args:
        output: A folder of `aligngpt eval run`.
        page: Where to write it; `index.html` in that folder by default.
        comparisons: What sets the model against another one, as `comparison_page.write_comparison` takes it.

    Returns:
        The path of the page, one HTML file without any request to elsewhere.

    Raises:
        FileNotFoundError: If the folder has no `results.json`.
        ValueError: If one of its files is broken.
    """
    target = page or output / PAGE
    html = _render(load_folder(output), *to_mappings(comparisons, names))
    with atomic_path(target) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return target


def _render(folder: BenchmarkFolder, comparisons: Sequence[Comparison], names: tuple[str, str]) -> str:
    sections = [_results(folder), _radar(folder, comparisons, names)]
    sections += comparison_sections(comparisons, names) if comparisons else []
    sections += [_sub_scores(folder), _gate(folder), _answers(folder), _notes(folder), _settings(folder)]
    return fill(
        "benchmarks/page.html.jinja",
        name=folder.name,
        lead=findings.headline(folder),
        data_notes=list(dict.fromkeys(result.data_note for result in folder.results if result.data_note)),
        cards=_cards(folder),
        sections=[section for section in sections if section is not None],
        shows="What the numbers say",
        missing="Not there.",
        absent="",
    )


def _cards(folder: BenchmarkFolder) -> list[Card]:
    cards = [Card("Benchmarks scored", f"{len(folder.scores)} of {len(folder.results)}", _alignments(folder))]
    for model in (ALIGNGPT_7B, LLAVA_7B) if folder.comparable else ():
        shared, above, within = findings.standing(folder, model)
        note = f"benchmarks; on {within} the difference may be chance"
        cards.append(Card(f"Above {model.name}", f"{above} of {shared}", note))
    cards.append(_answers_tile(folder))
    return cards


def _answers_tile(folder: BenchmarkFolder) -> Card:
    given = sum(score.answers["given"] for score in folder.scores.values())
    counts = [result.run.get("counts") or {} for result in folder.results if not result.score]
    unscored = sum(count.get("questions", 0) for count in counts)
    unreadable = sum(len(result.unreadable) for result in folder.results)
    finished = [result for result in folder.results if result.run.get("complete")]
    notes = [f"{text.integer(unscored)} not scored"] if unscored else []
    if unreadable:
        notes.append(f"{text.count_of(unreadable, 'image')} could not be read")
    elif finished:
        notes.append("every image was read")
    return Card("Answers", text.integer(given + unscored), "; ".join(notes))


def _alignments(folder: BenchmarkFolder) -> str:
    """The model and its alignment setting, where they are recorded."""
    settings = dict.fromkeys(str(result.run["alignment"]) for result in folder.results if "alignment" in result.run)
    return f"{folder.model}, alignment {text.listed(list(settings))}" if settings else folder.model


# -------------------------------------------------------------------------------------------------------------- scores


def _results(folder: BenchmarkFolder) -> Section:
    section = Section(
        "results",
        "Results",
        "Results",
        "The score of each benchmark beside those of the paper's Tables 1 and 2, all in the paper's units. The "
        "interval is a bootstrap over this model's questions alone: the paper gives none, so that a figure just "
        "outside it may still be no difference.",
    )
    section.extra["differences"] = bool(folder.comparable)
    known = [result for result in folder.results if result.name in TITLES]
    rivals = RIVALS if any(not result.apart for result in known) else ()
    section.extra["rivals"] = [model.name for model in rivals]
    section.extra["results"] = [_row(result, rivals) for result in folder.results]
    section.extra["paper"] = _paper_table(folder) if known else None
    splits = [TITLES[name] for name in folder.comparable if name in TEST_SPLITS]
    if splits:
        section.extra["splits"] = (
            f"{text.listed(splits)}: the paper's figures are those of the test split, whose labels only a server has; "
            "the score here is of the labels in the data folder."
        )
    return section


def _row(result: Result, rivals: Sequence[PaperModel]) -> _Row:
    score = result.score
    return _Row(
        title=result.title,
        metric=score.metric if score else "",
        mark=result.apart or (f"judge: {', '.join(result.judges)}" if result.judges else ""),
        score=figures.score_text(score.value) if score else "",
        interval=figures.interval_text(score.interval) if score else "",
        reason="" if score else text.shortened("; ".join(result.reasons), _REASON) or "no score was made",
        differences=tuple(_difference(result, model) for model in rivals),
        count=text.integer(score.count) if score else "",
    )


def _difference(result: Result, model: PaperModel) -> _Difference:
    """A score that is not as the paper's has nothing of it beside it."""
    if result.name not in model.scores or result.apart:
        return _Difference(text.NO_VALUE, "", False)
    figure = model.scores[result.name]
    if result.score is None:
        return _Difference(text.decimal(figure, 1), "", False)
    signed = figures.signed(result.score.value - figure)
    return _Difference(text.decimal(figure, 1), signed, findings.is_within(result.score, figure))


def _paper_table(folder: BenchmarkFolder) -> Table:
    """Tables 1 and 2 of the paper, with this model on top."""
    own = {name: score.value for name, score in folder.comparable.items()}
    rows = [(folder.name, "", "", *(figures.score_text(own.get(name)) for name in TITLES))] if own else []
    rows += [
        (
            model.name,
            model.language_model,
            str(model.resolution),
            *(figures.score_text(model.scores.get(name)) for name in TITLES),
        )
        for model in PAPER_MODELS
    ]
    return Table(("Model", "Language model", "Pixels", *TITLES.values()), tuple(rows))


def _radar(folder: BenchmarkFolder, comparisons: Sequence[Comparison], names: tuple[str, str]) -> Section | None:
    shown = folder.comparable or {name: score for name, score in folder.scores.items() if name in TITLES}
    if not shown:
        return None
    section = Section(
        "radar",
        "Radar",
        "All at a glance",
        "As the paper's Figure 1: an axis for each benchmark that has a score, each with a scale of its own, whose "
        "ends are written below its name; the lower end is not at the center. Areas and shapes mean nothing: they "
        "change with the order and the scales.",
    )
    own = names[1] if comparisons else folder.name
    series = {own: {name: score.value for name, score in shown.items()}}
    whole = {one["benchmark"]: one["scores"][0] for one in comparisons if "reason" not in one and not one["left_out"]}
    if any(name in shown for name in whole):
        series[names[0]] = {name: score for name, score in whole.items() if name in shown}
    if not folder.comparable:
        section.missing.append("The paper's lines: data, questions or judge are not the paper's.")
        section.charts.append(figures.radar(series))
        return section
    series |= {model.name: model.scores for model in (ALIGNGPT_7B, LLAVA_7B)}
    section.charts.append(figures.radar(series))
    section.charts.append(figures.from_paper(folder.comparable, ALIGNGPT_7B))
    section.found.extend(findings.widest(folder, ALIGNGPT_7B))
    return section


def _sub_scores(folder: BenchmarkFolder) -> Section | None:
    section = Section(
        "parts",
        "Sub-scores",
        "Sub-scores",
        "What each benchmark divides its questions into. Intervals are at 95 %; with few questions they are wide.",
    )
    section.extra["tables"] = tables = []
    for result in folder.results:
        groups = result.score.groups if result.score else {}
        divisions = [(name, parts) for name, parts in groups.items() if len(parts) > 1]
        for place, (name, parts) in enumerate(divisions):
            if place == 0 and len(parts) <= _MOST_PARTS:
                section.charts.append(figures.sub_scores(result, name, parts))
            else:
                tables.append(_long_table(result, name, parts))
    return section if section.charts or tables else None


def _long_table(result: Result, name: str, parts: Mapping[str, Any]) -> tuple[str, Table]:
    """A division as a table with its title; of a very long one the parts with the most questions."""
    named = name.replace("_", " ")
    title = f"{result.title} by {named}, {len(parts)} parts"
    if len(parts) > _LONGEST_TABLE:
        largest = sorted(parts, key=lambda part: -parts[part]["count"])[:_LONGEST_TABLE]
        parts = {part: parts[part] for part in largest}
        title += f", the {_LONGEST_TABLE} largest"
    return title, figures.sub_score_table(named, parts)


# ---------------------------------------------------------------------------------------------------------------- gate


def _gate(folder: BenchmarkFolder) -> Section:
    section = Section(
        "gate",
        "Gate",
        "The gate",
        "For each question the gate mixes the lower levels' embeddings (weights alpha of Eq. 2) and adds them to the "
        "highest level's, which is always there in full (Eq. 3). The paper holds that tasks need different alignment; "
        "the rows below would then differ. Maps show weights minus even ones, all in the same colors; parts of fewer "
        "than ten questions are not told apart.",
    )
    gates = {result.title: result.gate for result in folder.results if result.gate}
    if not gates:
        section.missing.append("Gate weights: a model without a gate, or an alignment setting that does not read it.")
        return section
    reach = figures.widest_deviation(_all_gates(folder))
    section.found.extend(findings.gates(gates))
    section.charts.append(figures.gate_weights(gates, "all", "Gate weights by benchmark", reach))
    section.charts.append(figures.gate_entropy(gates))
    _divide_gate(section, folder, reach)
    return section


def _divide_gate(section: Section, folder: BenchmarkFolder, reach: float) -> None:
    """Draw the first division of each benchmark and list the others, and say where parts are told apart."""
    section.extra["tables"] = tables = []
    told = []
    for result in folder.results:
        for place, (named, parts) in enumerate(_divisions(result).items()):
            title = f"{result.title}: gate weights by {named}"
            if place:
                tables.append((title, figures.gate_table(_largest(parts))))
                continue
            section.charts.append(figures.gate_weights(_largest(parts), result.name, title, reach))
            told.append(findings.kinds(result.title, parts, f"parts by {named}"))
    found = [said for said in told if said]
    if told:
        section.found.extend(found or ["Within no benchmark does entropy tell parts of its questions apart."])


def _divisions(result: Result) -> dict[str, Mapping[str, Gate]]:
    """How the gate of one benchmark is divided: by kind of question, and by what its score is divided by."""
    divisions = {"kind of question": result.kinds}
    for name, parts in result.groups.items():
        if set(parts) != set(result.kinds):  # the same parts by another name
            divisions[name.replace("_", " ")] = parts
    return {name: parts for name, parts in divisions.items() if len(parts) > 1}


def _all_gates(folder: BenchmarkFolder) -> list[Gate]:
    divided = [parts for result in folder.results for parts in _divisions(result).values()]
    return [result.gate for result in folder.results if result.gate] + [
        one for parts in divided for one in parts.values()
    ]


def _largest(kinds: Mapping[str, Gate]) -> dict[str, Gate]:
    """The kinds with the most questions, as many as can be drawn, in their order."""
    kept = set(sorted(kinds, key=lambda kind: -kinds[kind].count)[:_MOST_PARTS])
    return {kind: gate for kind, gate in kinds.items() if kind in kept}


# ------------------------------------------------------------------------------------------- answers, notes, settings


def _answers(folder: BenchmarkFolder) -> Section:
    section = Section(
        "answers",
        "Answers",
        "Answers and images",
        "A question without an answer counts as the benchmark's scorer has it, answers to no question are left out. A "
        "image that is missing or cannot be read gets an empty answer.",
        found=findings.answers(folder),
    )
    rows = []
    for result in folder.results:
        counts = [text.integer(result.score.answers[name]) if result.score else text.NO_VALUE for name in COUNTS]
        seconds = result.run.get("seconds")
        time = text.NO_VALUE if seconds is None else text.duration(seconds)
        rows.append((result.title, *counts, text.integer(len(result.unreadable)), time))
    head = ("Benchmark", *map(str.capitalize, COUNTS), "Unreadable images", "Time to answer")
    section.extra["table"] = Table(head, tuple(rows))
    section.extra["images"] = [
        (result.title, result.unreadable[:_MOST_IMAGES], len(result.unreadable))
        for result in folder.results
        if result.unreadable
    ]
    return section


def _notes(folder: BenchmarkFolder) -> Section | None:
    if not folder.scores:
        return None
    section = Section(
        "notes",
        "Notes",
        "Official and strict",
        "The official protocol repeats the official scorer with its oddities; the strict one counts every question of "
        "the labels once. The scores above are those of the protocol that was asked for.",
    )
    section.extra["table"] = Table(
        ("Benchmark", "Protocol", "Official", "Strict"),
        tuple(
            (
                result.title,
                result.score.protocol,
                *(figures.score_text(result.score.protocols[protocol]) for protocol in ("official", "strict")),
            )
            for result in folder.results
            if result.score
        ),
    )
    section.extra["notes"] = [
        (result.title, notes)
        for result in folder.results
        if result.score and (notes := [*result.score.notes, *result.reasons])
    ]
    return section


def _settings(folder: BenchmarkFolder) -> Section:
    section = Section("settings", "Settings", "Settings and versions", "All that is needed to run this again.")
    runs = {result.title: result.run for result in folder.results if result.run}
    if not runs:
        section.missing.append("Settings: no benchmark has a run.json here.")
        return section
    section.extra["versions"] = next(iter(runs.values())).get("versions") or {}
    section.extra["recipes"] = {
        title: json.dumps({name: run[name] for name in run if name not in _ELSEWHERE}, indent=2, ensure_ascii=False)
        for title, run in runs.items()
    }
    return section
