"""The run report: data report, training and benchmark report of an end-to-end run on one page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from aligngpt.curation.levels import LEVELS_JSON
from aligngpt.experiments.artifacts import VARIANTS, Estimate, GateExample
from aligngpt.reporting import data
from aligngpt.reporting.benchmarks import page as benchmarks
from aligngpt.reporting.benchmarks.comparison import Compared
from aligngpt.reporting.benchmarks.load import list_data_notes
from aligngpt.reporting.charts import Table
from aligngpt.reporting.data.insights import describe_trend
from aligngpt.reporting.formatting import (
    NO_VALUE,
    STAGE_NAMES,
    format_decimal,
    format_duration,
    format_integer,
    format_interval,
    format_label,
    format_percent,
    format_percent_range,
)
from aligngpt.reporting.html import Card, Page, Section, write_page
from aligngpt.reporting.images import embed_heat_map, embed_thumbnail, find_image_file, list_heat_colors
from aligngpt.reporting.run import charts, insights
from aligngpt.reporting.run.load import Run, has_scores, load_run

_T = TypeVar("_T")

_CAPTIONED_IMAGES = 5
_HEAT_MAPS = 8


def report_run(run: str | Path, output: str | Path | None = None, *, comparisons: Compared = ()) -> Path:
    """Write the report about an end-to-end run.

    Args:
        run: Folder written by `aligngpt run`; the report names steps that were not run.
        output: The page; by default `report.html` in that folder.
        comparisons: Comparisons of the variants, from `aligngpt.evaluation.compare`.

    Returns:
        The path of the page, one HTML file without external requests.

    Raises:
        ValueError: The folder is not a run, or one of its files is damaged.
    """
    loaded = load_run(Path(run))
    name = loaded.folder.resolve().name
    lead = insights.describe_variants(loaded.evaluations, comparisons) or ["No predictions were scored in this run."]
    notes = list_data_notes(result.row for folder in loaded.evaluations.values() for result in folder.results)
    page = Page("run report", name, lead, _make_cards(loaded), _make_sections(loaded, comparisons), notes)
    return write_page(Path(output or loaded.folder / "report.html"), page)


def _make_sections(run: Run, comparisons: Compared) -> list[Section]:
    scores, *about_data = _make_data(run)
    evaluated = run.evaluations.get("adaptive") or run.evaluations.get("none")
    if evaluated:
        results = benchmarks.make_sections(evaluated, comparisons)[:-1]  # without the settings
    else:
        results = [_mark_not_run(Section("results", "Results", "Results", "Benchmark results of the trained models."))]
    sections = [scores, _make_truth(run), *about_data, _make_training(run), _make_captions(run), *results]
    return [*sections, *_make_kinds(run), _make_gate_examples(run), _make_costs(run), _make_configuration(run)]


def _mark_not_run(section: Section, name: str | None = None) -> Section:
    remedy = "`aligngpt run` with the same --output runs missing steps"
    section.missing.append(f"{name or section.title}: not run; {remedy}.")
    return section


def _make_cards(run: Run) -> list[Card]:
    cards = []
    for name in VARIANTS:
        scores = [result for result in run.evaluations[name].results if result.score] if name in run.evaluations else []
        note = f"95% CI {format_interval(scores[0].score.ci95)}" if scores and scores[0].score else "not run"
        value = benchmarks.charts.format_score(scores[0].row.score) if scores else NO_VALUE
        cards.append(Card(f"{scores[0].title if scores else 'Score'}, {VARIANTS[name].lower()}", value, note))
    value = format_decimal(run.summary.score_coverage_spearman if run.summary else None)
    cards.append(Card("Score vs. true coverage", value, "Spearman correlation" if run.summary else "not run"))
    if run.captions is None:
        return [*cards, Card("Caption recall", NO_VALUE, "not run")]
    low, high = run.captions.by_level[0], run.captions.by_level[-1]
    value = f"{format_percent(low.recall.value, 0)} → {format_percent(high.recall.value, 0)}"
    return [*cards, Card("Caption recall", value, f"objects described at level {low.level} and at level {high.level}")]


# Data ----------------------------------------------------------------------------------------------------------------


def _make_data(run: Run) -> list[Section]:
    if not has_scores(run.folder):
        return [_mark_not_run(Section("scores", "Scores", "Scores and levels", "Scores and levels of the pairs."))]
    levels, pairs = run.folder / "levels", run.folder / "data" / "pretrain.json"
    facts = data.load_facts(
        run.folder / "scores",
        levels=levels if (levels / LEVELS_JSON).is_file() else None,
        data=pairs if pairs.is_file() else None,
        images=run.images if run.images.is_dir() else None,
    )
    return data.make_sections(facts)[:-1]  # without the provenance


def _make_truth(run: Run) -> Section:
    section = Section(
        "truth",
        "Ground truth",
        "Levels and ground truth",
        "The paper uses the score as a measure of how much of the image a caption describes. For the synthetic dataset "
        "this is known: coverage is the fraction of the image's facts that the caption states correctly.",
    )
    if run.summary is None:
        return _mark_not_run(section)
    levels = run.summary.levels
    coverage = [math.nan if value is None else value for value in levels.mean_coverage]
    section.insights.append(insights.describe_spearman(run.summary.score_coverage_spearman))
    section.insights.append(describe_trend(coverage, "Mean true coverage"))
    section.charts.append(charts.draw_coverage_by_level(coverage, levels.counts))
    if run.caption_kinds:
        section.charts.append(charts.draw_kinds_by_level(run.caption_kinds, len(coverage)))
    return section


# Training ------------------------------------------------------------------------------------------------------------


def _make_training(run: Run) -> Section:
    section = Section(
        "training",
        "Training",
        "Training",
        "Stage 1 trains the projector and the alignment table with a frozen language model; stage 2 trains language "
        "model, projector and gate with a frozen table (section 3 of the paper). The variant without alignment, as in "
        "LLaVA-1.5, gets the same data and number of steps. A lower loss is not the goal; better predictions are.",
    )
    for stage, title in STAGE_NAMES.items():
        trainings = {name: run.trainings[stage, name] for name in VARIANTS if (stage, name) in run.trainings}
        for name in [name for name in VARIANTS if name not in trainings]:
            _mark_not_run(section, f"{title}, {VARIANTS[name].lower()}")
        logged = {name: training for name, training in trainings.items() if charts.read_logged_losses(training)}
        if logged:
            section.charts.append(charts.draw_loss_curves(logged, stage))
        if trainings:
            section.insights.append(insights.describe_losses(run.trainings, stage))
    adaptive = run.trainings.get(("pretrain", "adaptive"))
    if adaptive and adaptive.loss_by_level:
        by_level = [math.nan if loss is None else loss for loss in adaptive.loss_by_level]
        section.charts.append(charts.draw_loss_by_level(by_level))
        section.insights.append(describe_trend(by_level, "Stage-1 loss"))
    if run.trainings:
        section.content["tables"] = [
            ("Trainable modules", _make_modules_table(run)),
            ("Training runs", _make_runs_table(run)),
        ]
    return section


def _make_modules_table(run: Run) -> Table:
    columns, totals = [], []
    for training in run.trainings.values():
        states = {module.name: "trained" if module.trainable else "frozen" for module in training.modules}
        sizes = {module.name: module.num_parameters for module in training.modules}
        columns.append({name: f"{state} · {format_integer(sizes[name])}" for name, state in states.items()})
        trainable = sum(size for name, size in sizes.items() if states[name] == "trained")
        totals.append(f"{format_integer(trainable)} of {format_integer(sum(sizes.values()))}")
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(format_label(name), *(column.get(name, "absent") for column in columns)) for name in names]
    return Table(("Module", *_list_run_names(run)), (*rows, ("Trainable parameters", *totals)))


def _make_runs_table(run: Run) -> Table:
    trainings = run.trainings.values()
    return Table(
        ("Metric", *_list_run_names(run)),
        (
            ("Steps", *(format_integer(training.global_step) for training in trainings)),
            ("Global batch size", *(format_integer(training.global_batch_size) for training in trainings)),
            ("Samples in the dataset", *(format_integer(training.num_samples) for training in trainings)),
            ("Truncated samples", *(format_integer(training.num_truncated) for training in trainings)),
            ("Skipped records", *(format_integer(training.num_skipped) for training in trainings)),
            ("Final loss", *(format_decimal(training.final_loss, 3) for training in trainings)),
            ("Runtime", *(format_duration(training.train_runtime) for training in trainings)),
        ),
    )


def _list_run_names(run: Run) -> list[str]:
    return [f"{STAGE_NAMES[stage]}, {name}" for stage, name in run.trainings]


# Captions and gate ---------------------------------------------------------------------------------------------------


def _make_captions(run: Run) -> Section:
    section = Section(
        "level-captions",
        "Levels",
        "Captions by alignment level",
        "After stage 1, the model describes test images conditioned on each level. In Figure 7 of the paper, a low "
        "level attends to a part of the image and a high level to all of it, so recall should rise with the level.",
    )
    if run.captions is None:
        return _mark_not_run(section)
    section.charts.append(charts.draw_captions_by_level(run.captions))
    section.insights.extend(insights.describe_captions(run.captions))
    num_levels = run.captions.num_levels
    section.content["num_levels"] = num_levels
    section.content["selected_levels"] = sorted({1, (num_levels + 1) // 2, num_levels})
    shown = run.captions.examples[:_CAPTIONED_IMAGES]
    section.content["captions"] = [
        (example, embed_thumbnail(find_image_file(run.images, example.image))) for example in shown
    ]
    return section


def _make_kinds(run: Run) -> list[Section]:
    if run.summary is None or not run.summary.synthetic:
        return []
    variants = run.summary.synthetic
    columns = [metrics.accuracy_by_kind for metrics in variants.values()]
    kinds = dict.fromkeys(kind for column in columns for kind in column)
    rows = tuple((format_label(kind), *(_format_estimate(column.get(kind)) for column in columns)) for kind in kinds)
    section = Section(
        "kinds",
        "Kinds",
        "Accuracy by kind of question",
        "Accuracy of each variant on the synthetic benchmark with its 95% CI over questions. With several kinds, one "
        "may differ by chance.",
        content={"tables": [("Both variants", Table(("Kind", *(VARIANTS[name] for name in variants)), rows))]},
    )
    return [section]


def _format_estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return NO_VALUE
    return format_percent(estimate.value) + (f" ({format_percent_range(estimate.ci95)})" if estimate.ci95 else "")


def _make_gate_examples(run: Run) -> Section:
    section = Section(
        "gate-examples",
        "Gate examples",
        "Input of the gate",
        "The input of the gate is one number per image token: its dot product with the mean text embedding of the "
        "question (Eq. 2). Each image has its own color scale. The paper does not say that high values mark the "
        "objects in question.",
    )
    if run.gate_examples is None or not run.gate_examples.examples:
        return _mark_not_run(section)
    shown = _compute_spread(run.gate_examples.examples, _HEAT_MAPS)
    section.insights.append(insights.describe_gate_examples(shown))
    section.content["max_weight"] = max(max(example.gate_weights, default=0.0) for example in shown) or 1.0
    section.content["heat_scale"] = list_heat_colors()
    section.content["maps"] = [_make_heat_map(run, example) for example in shown]
    return section


def _make_heat_map(run: Run, example: GateExample) -> dict[str, Any]:
    file = find_image_file(run.images, example.image)
    return {
        "example": example,
        "uri": embed_thumbnail(file),
        "heat": embed_heat_map(file, example.grid, example.image_text_similarity),
        "correct": example.prediction.strip() == example.answer.strip(),
    }


def _compute_spread(values: Sequence[_T], number: int) -> Sequence[_T]:
    """Return `number` evenly spaced values in their order, or all if there are fewer."""
    if len(values) <= number:
        return values
    return [values[(2 * index + 1) * len(values) // (2 * number)] for index in range(number)]


# Costs and configuration ---------------------------------------------------------------------------------------------


def _make_costs(run: Run) -> Section:
    section = Section("costs", "Cost", "Runtime and memory", "Cost of each step on the machine of this run.")
    if run.summary is None:
        return _mark_not_run(section)
    seconds, megabytes = run.summary.runtime_s, run.summary.peak_memory_mb
    section.insights.extend(insights.describe_costs(seconds, megabytes))
    section.charts.extend([charts.draw_step_runtime(seconds), charts.draw_step_memory(megabytes)] if seconds else [])
    return section


def _make_configuration(run: Run) -> Section:
    section = Section(
        "configuration",
        "Configuration",
        "Configuration and versions",
        "Everything that is needed to repeat the run.",
    )
    if run.summary is None:
        return _mark_not_run(section)
    config = json.dumps(run.summary.config, indent=2, ensure_ascii=False)
    section.content.update(files={"Configuration": config}, versions=run.summary.versions)
    return section
