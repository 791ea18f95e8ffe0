"""The benchmark report: results of a model, next to the paper's or to those of a baseline."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligngpt.evaluation.artifacts import TITLES, Comparison, GateMeans, GroupScore
from aligngpt.reporting.benchmarks import charts, comparison, insights, paper_results
from aligngpt.reporting.benchmarks.comparison import Compared
from aligngpt.reporting.benchmarks.load import BenchmarkFolder, Result, list_data_notes, load_folder
from aligngpt.reporting.charts import Table
from aligngpt.reporting.formatting import (
    NO_VALUE,
    format_count,
    format_difference,
    format_duration,
    format_integer,
    format_interval,
    join_words,
    shorten,
)
from aligngpt.reporting.html import Card, Page, Section, write_page

_MAX_CHARTED = 24  # values of a category in a chart
_MAX_TABULATED = 80  # values of a category in a table; score.json has all
_MAX_IMAGES = 20  # unreadable images listed for each benchmark
_REASON = 300  # characters shown


def report_eval(
    results: str | Path, output: str | Path | None = None, *, comparisons: Compared = (), name: str | None = None
) -> Path:
    """Write the report about benchmark results.

    Args:
        results: Folder written by `aligngpt eval run`.
        output: The page; by default `index.html` in that folder, or `comparison-BASELINE.html` with comparisons, so
            that both pages can exist.
        comparisons: Comparisons with a baseline, from `aligngpt.evaluation.compare`.
        name: Name of the model; by default the name of the folder.

    Returns:
        The path of the page, one HTML file without external requests.

    Raises:
        FileNotFoundError: The folder has no `results.json`.
        ValueError: One of its files is not what `aligngpt eval run` writes.
    """
    folder = load_folder(Path(results), name)
    baselines = [row.baseline.name for row in comparisons if isinstance(row, Comparison)]
    if output is None:
        slug = re.sub(r"[^\w.-]+", "-", baselines[0]).strip("-") if baselines else "none"
        output = folder.folder / (f"comparison-{slug}.html" if comparisons else "index.html")
    page = Page(
        "benchmark report",
        f"{folder.name} against {baselines[0]}" if baselines else folder.name,
        insights.describe_overview(folder),
        make_cards(folder),
        make_sections(folder, comparisons),
        list_data_notes(result.row for result in folder.results),
    )
    return write_page(Path(output), page)


def make_sections(folder: BenchmarkFolder, comparisons: Compared = ()) -> list[Section]:
    """Return the sections of the benchmark report."""
    categories = _make_categories(folder)
    return [
        _make_results(folder),
        *([_make_overview(folder, comparisons)] if folder.scores else []),
        *(comparison.make_sections(comparisons) if comparisons else []),
        *([categories] if categories.charts or categories.content["folded_tables"] else []),
        _make_gate(folder),
        _make_predictions(folder),
        *([_make_protocols(folder)] if folder.scores else []),
        _make_settings(folder),
    ]


def make_cards(folder: BenchmarkFolder) -> list[Card]:
    """Return the key metrics of the results."""
    settings = dict.fromkeys(str(result.row.alignment) for result in folder.results if result.row.alignment is not None)
    model = f"{folder.model}, alignment {join_words(list(settings))}" if settings else folder.model
    cards = [Card("Benchmarks scored", f"{len(folder.scores)} of {len(folder.results)}", model)]
    for reference in (paper_results.ALIGNGPT_7B, paper_results.LLAVA_7B) if folder.comparable else ():
        shared, higher, inconclusive = insights.count_higher(folder, reference)
        note = f"benchmarks; {inconclusive} inconclusive"
        cards.append(Card(f"Above {reference.name}", f"{higher} of {shared}", note))
    rows = [result.row for result in folder.results]
    unreadable = sum(row.n_unreadable_images for row in rows)
    note = f"{format_count(unreadable, 'image')} could not be read" if unreadable else "all images could be read"
    return [*cards, Card("Questions", format_integer(sum(row.n_questions or 0 for row in rows)), note)]


# Scores --------------------------------------------------------------------------------------------------------------


def _make_results(folder: BenchmarkFolder) -> Section:
    in_paper = [result for result in folder.results if result.name in TITLES]
    references = paper_results.REFERENCE_MODELS if any(not result.caveat for result in in_paper) else ()
    splits = [TITLES[name] for name in folder.comparable if name in paper_results.TEST_SPLITS]
    tables = " next to Tables 1 and 2 of the paper, in the same units" if in_paper else ""
    caution = "; the paper reports none, so a difference just outside of it may still be due to chance"
    return Section(
        "results",
        "Results",
        "Results",
        f"Score of each benchmark{tables}. The CI is a bootstrap over the samples of this model"
        f"{caution if in_paper else ''}.",
        content={
            "model": folder.name,
            "references": [model.name for model in references],
            "results": [_make_row(result, references) for result in folder.results],
            "paper": _make_paper_table(folder) if references else None,
            "splits": join_words(splits) if splits else "",
        },
    )


def _make_row(result: Result, references: Sequence[paper_results.PaperModel]) -> dict[str, Any]:
    """Return a row of the results; a caveat is why a score differs from the paper's setup."""
    row: dict[str, Any] = {
        "title": result.title,
        "caveat": result.caveat or (f"judge: {', '.join(result.judges)}" if result.judges else ""),
        "references": [_make_reference(result, model) for model in references],
        "questions": format_integer(result.row.n_questions),
    }
    if result.score is None:
        return row | {"reason": shorten("; ".join(result.row.reasons), _REASON) or "no score"}
    score, ci95 = charts.format_score(result.score.score), format_interval(result.score.ci95)
    return row | {"metric": result.score.metric, "score": score, "ci95": ci95}


def _make_reference(result: Result, model: paper_results.PaperModel) -> tuple[str, str, str]:
    """Return a score of the paper, the model's score minus it, and whether the model is higher, lower or neither."""
    if result.name not in model.scores or result.caveat:
        return NO_VALUE, "", ""
    reference = model.scores[result.name]
    if result.score is None or result.score.score is None:
        return charts.format_score(reference), "", ""
    difference = result.score.score - reference
    verdict = "higher" if difference > 0 else "lower"
    verdict = "inconclusive" if insights.is_inconclusive(result.score, reference) else verdict
    return charts.format_score(reference), format_difference(difference), verdict


def _make_paper_table(folder: BenchmarkFolder) -> Table:
    """Return Tables 1 and 2 of the paper with this model in the first row."""
    by_name = {name: score.score for name, score in folder.comparable.items()}
    rows = [(folder.name, "", "", *(charts.format_score(by_name.get(name)) for name in TITLES))] if by_name else []
    for model in paper_results.PAPER_MODELS:
        scores = [charts.format_score(model.scores.get(name)) for name in TITLES]
        rows.append((model.name, model.language_model, str(model.resolution), *scores))
    return Table(("Model", "Language model", "Pixels", *TITLES.values()), tuple(rows))


def _make_overview(folder: BenchmarkFolder, comparisons: Compared) -> Section:
    shown = folder.comparable or folder.scores
    section = Section(
        "overview",
        "Overview",
        "Overview",
        "Scores by benchmark (Figure 1 of the paper). In a radar chart each axis has its own scale, which does not "
        "start at 0; areas and shapes have no meaning.",
    )
    compared = [row for row in comparisons if isinstance(row, Comparison) and row.benchmark in shown]
    name = compared[0].model.name if compared else folder.name
    series = {name: {benchmark: score.score for benchmark, score in shown.items() if score.score is not None}}
    complete = [row for row in compared if not row.n_unpaired]
    if complete:
        series[complete[0].baseline.name] = {row.benchmark: row.baseline.score for row in complete}
    titles = {result.name: result.title for result in folder.results if result.name in shown}
    if folder.comparable:
        series |= {model.name: model.scores for model in (paper_results.ALIGNGPT_7B, paper_results.LLAVA_7B)}
        section.insights.extend(insights.describe_largest_differences(folder, paper_results.ALIGNGPT_7B))
        section.charts.append(charts.draw_paper_differences(folder.comparable, paper_results.ALIGNGPT_7B))
    elif any(benchmark in TITLES for benchmark in shown):
        section.missing.append("Results of the paper: data, questions or judge are not those of the paper.")
    section.charts.insert(0, charts.draw_overview(titles, series))
    return section


def _make_categories(folder: BenchmarkFolder) -> Section:
    tables: list[tuple[str, Table]] = []
    section = Section(
        "categories",
        "Categories",
        "Scores by category",
        "Sub-scores of each benchmark. The CI is wide for categories with few samples.",
        content={"folded_tables": tables},
    )
    for result in folder.results:
        groups = result.score.groups if result.score else {}
        several = [(category, parts) for category, parts in groups.items() if len(parts) > 1]
        for index, (category, parts) in enumerate(several):
            if index == 0 and len(parts) <= _MAX_CHARTED:
                section.charts.append(charts.draw_sub_scores(result.name, result.title, category, parts))
            else:
                tables.append(_make_category_table(result, category, parts))
    return section


def _make_category_table(result: Result, category: str, parts: Mapping[str, GroupScore]) -> tuple[str, Table]:
    """Return title and table of a category, limited to the values with the most samples."""
    title = f"{result.title} by {category.replace('_', ' ')} ({len(parts)})"
    if len(parts) > _MAX_TABULATED:
        parts = dict(sorted(parts.items(), key=lambda item: -item[1].n_samples)[:_MAX_TABULATED])
        title += f", the {_MAX_TABULATED} largest"
    return title, charts.make_sub_score_table(category, parts)


# Gate ----------------------------------------------------------------------------------------------------------------


def _make_gate(folder: BenchmarkFolder) -> Section:
    section = Section(
        "gate",
        "Gate",
        "Gate weights",
        "For each question, the gate mixes the embeddings of the levels below N with weights alpha (Eq. 2); the sum is "
        "added to the embedding of level N (Eq. 3). The paper says that tasks need different alignment; rows would "
        "then differ. Charts show weights minus uniform weights on one color scale; categories with fewer than ten "
        "questions are not compared.",
    )
    gates = {result.title: result.gate.overall for result in folder.results if result.gate}
    if not gates:
        section.missing.append("Gate weights: the model has no gate, or its alignment setting does not use it.")
        return section
    divisions = {result.title: _list_divisions(result) for result in folder.results}
    parts = [gate for by_name in divisions.values() for division in by_name.values() for gate in division.values()]
    reach = charts.find_largest_deviation([*gates.values(), *parts])
    section.insights.extend(insights.describe_gate_entropy(gates))
    section.charts.append(charts.draw_gate_weights(gates, "all", "Gate weights by benchmark", reach))
    section.charts.append(charts.draw_gate_entropy(gates))
    section.content["folded_tables"] = tables = []
    described: list[str | None] = []
    for result in folder.results:
        for index, (name, division) in enumerate(divisions[result.title].items()):
            title = f"{result.title}: gate weights by {name}"
            if index:  # the first division of each benchmark has a chart
                tables.append((title, charts.make_gate_table(_select_largest(division))))
                continue
            section.charts.append(charts.draw_gate_weights(_select_largest(division), result.name, title, reach))
            described.append(insights.describe_categories(result.title, division, f"parts by {name}"))
    if described:
        none = "Within no benchmark do the 95% CIs of the entropy separate categories."
        section.insights.extend(list(filter(None, described)) or [none])
    return section


def _list_divisions(result: Result) -> dict[str, Mapping[str, GateMeans]]:
    """Return the gate statistics by kind of question and by category of the score."""
    if result.gate is None:
        return {}
    divisions: dict[str, Mapping[str, GateMeans]] = {"kind of question": result.gate.by_kind}
    for name, parts in result.gate.by_group.items():
        if set(parts) != set(result.gate.by_kind):  # else it repeats the kinds
            divisions[name.replace("_", " ")] = parts
    return {name: parts for name, parts in divisions.items() if len(parts) > 1}


def _select_largest(parts: Mapping[str, GateMeans]) -> dict[str, GateMeans]:
    """Return the parts with the most questions that fit in a chart, in their order."""
    largest = set(sorted(parts, key=lambda part: -parts[part].n_samples)[:_MAX_CHARTED])
    return {part: gate for part, gate in parts.items() if part in largest}


# Predictions, protocols, settings ------------------------------------------------------------------------------------


def _make_predictions(folder: BenchmarkFolder) -> Section:
    rows = []
    for result in folder.results:
        row, counts = result.row, result.score.counts.model_dump() if result.score else {}
        names = ("n_predictions", "n_missing", "n_extra", "n_duplicates")
        cells = map(format_integer, (row.n_questions, *map(counts.get, names), row.n_unreadable_images))
        rows.append((result.title, *cells, NO_VALUE if row.seconds is None else format_duration(row.seconds)))
    head = ("Benchmark", "Questions", "Predictions", "Missing", "Extra", "Repeated", "Unreadable images", "Runtime")
    return Section(
        "predictions",
        "Predictions",
        "Predictions and images",
        "A missing prediction counts as the scorer of the benchmark defines it; extra predictions are skipped. A "
        "question whose image cannot be read has an empty prediction.",
        insights=insights.describe_predictions(folder),
        content={
            "table": Table(head, tuple(rows)),
            "unreadable": [
                (result.title, result.row.unreadable_images[:_MAX_IMAGES], len(result.row.unreadable_images))
                for result in folder.results
                if result.row.unreadable_images
            ],
        },
    )


def _make_protocols(folder: BenchmarkFolder) -> Section:
    scored = [(result, result.score) for result in folder.results if result.score]
    protocols = ("official", "strict")
    rows = tuple(
        (result.title, score.protocol, *(charts.format_score(score.protocols.get(name)) for name in protocols))
        for result, score in scored
    )
    notes = [(result.title, [*score.notes, *result.row.reasons]) for result, score in scored]
    return Section(
        "protocols",
        "Protocols",
        "Official and strict protocol",
        "The official protocol reproduces the official scorer, its irregularities included; the strict protocol counts "
        "every question of the label file once. The results above use the requested protocol.",
        content={
            "table": Table(("Benchmark", "Protocol", "Official", "Strict"), rows),
            "notes": [(title, lines) for title, lines in notes if lines],
        },
    )


def _make_settings(folder: BenchmarkFolder) -> Section:
    section = Section(
        "settings",
        "Settings",
        "Settings and versions",
        "Everything that is needed to repeat the evaluation.",
        content={"versions": folder.versions, "files": {}},
    )
    for result in folder.results:
        if result.config:
            config = result.config.model_dump(mode="json", exclude={"versions"})
            section.content["files"][result.title] = json.dumps(config, indent=2, ensure_ascii=False)
    if not section.content["files"]:
        section.missing.append("Settings: no benchmark has a run_config.json.")
    return section
