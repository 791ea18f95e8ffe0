"""One self-contained HTML page about a run: no script, no request to anywhere, images and charts inside.

Every section is a function of the run alone. It says in a sentence or two what one sees and what the paper (arXiv
2405.14129) claims, adds what this run's numbers say of it, and names what was not run instead of leaving a gap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from aligngpt.reporting import formatting as text
from aligngpt.reporting.charts import Table
from aligngpt.reporting.html import Card, Section, fill, score_range
from aligngpt.reporting.images import heat_map, heat_scale, thumbnail
from aligngpt.reporting.run import charts as figures
from aligngpt.reporting.run import insights as findings
from aligngpt.reporting.run.load import ALIGNMENTS, STAGES, Run, load_run
from aligngpt.utils.io import atomic_path

_T = TypeVar("_T")

_PAIRS_PER_LEVEL = 5
_MORE_EXAMPLES = 4
_HEAT_MAPS = 8


def report(run_folder: str | Path, output_html: str | Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        run_folder: Folder as `aligngpt run synthetic` writes it; steps that were not run are named on the page.
        output_html: The page's path; `report.html` in the run folder by default.

    Returns:
        The path of the page, one HTML file without any request to elsewhere.

    Raises:
        ValueError: `run_folder` is not a run folder, or one of its files is broken.
    """
    run = load_run(run_folder)
    target = Path(output_html) if output_html is not None else run.folder / "report.html"
    page = render(run)
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def render(run: Run) -> str:
    """The page of a run as HTML."""
    return fill(
        "run/page.html.jinja",
        name=run.folder.resolve().name,
        lead=_lead(run),
        cards=_cards(run),
        sections=[make(run) for make in _SECTIONS],
        heat_scale=heat_scale(),
        shows="What this run shows",
        missing="Not run.",
        absent="not run",
    )


def _not_run(what: str, file: str) -> str:
    return f"{what}: there is no {file} in this folder. The command “aligngpt run synthetic” runs what is missing."


# ----------------------------------------------------------------------------------------------------------- headline


def _lead(run: Run) -> list[str]:
    """The run in a few sentences."""
    return findings.accuracy(run.results)


def _cards(run: Run) -> list[Card]:
    cards = []
    for alignment in ALIGNMENTS:
        label = {"adaptive": "Accuracy, adaptive alignment", "none": "Accuracy, no alignment"}[alignment]
        if alignment in run.results:
            overall = run.results[alignment].overall
            cards.append(
                Card(label, text.percent(overall.accuracy), f"95 % interval {text.percent_range(overall.interval)}")
            )
        else:
            cards.append(Card(label, text.NO_VALUE, "not run"))
    spearman = run.summary.get("score_coverage_spearman")
    cards.append(
        Card("Score against true coverage", text.NO_VALUE, "not run")
        if spearman is None
        else Card("Score against true coverage", text.decimal(spearman), "Spearman correlation (1 is perfect)")
    )
    cards.append(_caption_tile(run))
    return cards


def _caption_tile(run: Run) -> Card:
    label = "Caption recall"
    if run.captions is None:
        return Card(label, text.NO_VALUE, "not run")
    first, last = run.captions.by_level[0], run.captions.by_level[-1]
    value = f"{text.decimal(100 * first.recall, 0)} → {text.percent(last.recall, 0)}"
    return Card(label, value, f"objects named when told level {first.level}, then level {last.level}")


# -------------------------------------------------------------------------------------------------- scores and levels


def _scores(run: Run) -> Section:
    section = Section(
        "scores",
        "Scores",
        "Scores and levels",
        "A CLIP model scores how well each caption fits its image (paper, Figures 2 and 3), and pairs are cut into "
        "alignment levels by score (Eq. 1), from the loosest, 1, to the closest. The paper takes the score as a "
        "measure of how much of the image the caption tells; where images are drawn, that can be checked.",
    )
    if not any(not math.isnan(pair.score) for pair in run.pairs):
        section.missing.append(_not_run("Scores", "scores/ or levels/levels.parquet with a score"))
        return section
    boundaries = run.levels.boundaries if run.levels else ()
    num_levels = run.levels.num_levels if run.levels else 1
    section.charts.append(figures.score_histogram(run.pairs, boundaries, num_levels))
    if run.levels is None:
        section.missing.append(_not_run("Levels", "levels/levels.json"))
        return section
    section.found.extend(findings.levels(run.levels, [pair.score for pair in run.pairs]))
    if run.has_truth:
        coverage = findings.mean_coverage(run.pairs, num_levels)
        section.charts.append(figures.coverage_by_level(coverage, run.levels.counts))
        section.charts.append(figures.kinds_by_level(run.pairs, num_levels))
        section.found.append(findings.trend(coverage, "Mean true coverage"))
    else:
        section.missing.append(
            "True coverage: there is no data/truth.json in this folder; it is known for drawn images only."
        )
    spearman = run.summary.get("score_coverage_spearman")
    if spearman is not None:
        section.found.insert(0, findings.spearman(spearman))
    return section


def _examples(run: Run) -> Section:
    section = Section(
        "pairs",
        "Pairs",
        "Pairs of each level",
        "Pairs from the lowest to the highest score of each level, evenly spaced and not hand-picked; the paper's "
        "Figure 2 shows four such pairs, from a caption of a detail to one of the whole image."
        + (" What each caption truly is, and the share of the image's facts it tells, stands below it."
           if run.has_truth else ""),
    )  # fmt: skip
    with_image = [pair for pair in run.pairs if pair.image is not None and pair.level]
    if run.levels is None or not with_image:
        section.missing.append(_not_run("Examples", "levels/levels.parquet together with data/pretrain.json"))
        return section
    ends = [None, *run.levels.boundaries, None]
    for level in range(1, run.levels.num_levels + 1):
        pairs = sorted((pair for pair in with_image if pair.level == level), key=lambda pair: (pair.score, pair.id))
        shown = [(pair, thumbnail(_image_path(run, pair.image or ""))) for pair in _spread(pairs, _PAIRS_PER_LEVEL)]
        section.extra.setdefault("levels", []).append(
            {"level": level, "of": run.levels.num_levels, "count": len(pairs), "shown": shown,
             "range": score_range(ends[level - 1], ends[level])}
        )  # fmt: skip
    return section


def _spread(items: Sequence[_T], number: int) -> Sequence[_T]:
    """So many of the items, at even distances in the order given; all of them if there are no more."""
    if len(items) <= number:
        return items
    return [items[(2 * place + 1) * len(items) // (2 * number)] for place in range(number)]


def _image_path(run: Run, image: str) -> Path:
    """Where an image lies, by its name in the data files; a name that leads out of the folder leads nowhere."""
    root = (run.folder / "data" / "images").resolve()
    path = (root / image).resolve()
    return path if path.is_relative_to(root) else root / "outside of the data folder"


# ----------------------------------------------------------------------------------------------------------- training


def _training(run: Run) -> Section:
    section = Section(
        "training",
        "Training",
        "Training",
        "Stage 1 teaches projector and alignment table with the language model frozen; stage 2 trains the language "
        "model, projector and gate with the table frozen (paper, section 3). The model without alignment, which is "
        "LLaVA-1.5's way, gets the same data and steps. A lower loss is not the claim; better answers are.",
    )
    for stage in STAGES:
        trainings = {name: run.trainings[stage, name] for name in ALIGNMENTS if (stage, name) in run.trainings}
        for name in ALIGNMENTS:
            if name not in trainings:
                what = f"{text.STAGE_NAMES[stage]}, {text.ALIGNMENT_NAMES[name].lower()}"
                section.missing.append(_not_run(what, f"{stage}-{name}/train_results.json"))
        curves = {name: training for name, training in trainings.items() if training.curve}
        if curves:
            section.charts.append(figures.loss_curves(curves, stage))
        if trainings:
            section.found.append(findings.losses(run.trainings, stage))
    adaptive = run.trainings.get(("pretrain", "adaptive"))
    if adaptive and adaptive.loss_by_level:
        section.charts.append(figures.loss_by_level(adaptive.loss_by_level))
        section.found.append(findings.trend(adaptive.loss_by_level, "Stage-1 loss"))
    if run.trainings:
        section.extra["parts"] = _parts_table(run)
        section.extra["runs"] = _runs_table(run)
    return section


def _parts_table(run: Run) -> Table:
    """What trains in each stage of each model, with parameter counts."""
    names = list(dict.fromkeys(part.name for training in run.trainings.values() for part in training.parts))
    rows = []
    for name in names:
        cells = []
        for training in run.trainings.values():
            part = next((part for part in training.parts if part.name == name), None)
            state = "absent" if part is None else "trains" if part.trains else "frozen"
            cells.append(state if part is None else f"{state} · {text.integer(part.parameters)}")
        rows.append((name.replace("_", " ").capitalize(), *cells))
    totals = []
    for training in run.trainings.values():
        trains = sum(part.parameters for part in training.parts if part.trains)
        every = sum(part.parameters for part in training.parts)
        totals.append(f"{text.integer(trains)} of {text.integer(every)}")
    return Table(("Part", *_run_names(run)), (*rows, ("Trained parameters", *totals)))


def _runs_table(run: Run) -> Table:
    trainings = run.trainings.values()
    return Table(
        ("", *_run_names(run)),
        (
            ("Steps", *(text.integer(one.steps) for one in trainings)),
            ("Samples", *(text.integer(one.samples) for one in trainings)),
            ("Truncated samples", *(text.integer(one.truncated_samples) for one in trainings)),
            ("Final loss", *(text.decimal(one.final_loss, 3) for one in trainings)),
            ("Time", *(text.duration(one.seconds) for one in trainings)),
        ),
    )


def _run_names(run: Run) -> list[str]:
    return [f"{text.STAGE_NAMES[stage]}, {name}" for stage, name in run.trainings]


# ------------------------------------------------------------------------------------------------- captions, questions


def _captions(run: Run) -> Section:
    section = Section(
        "captions",
        "Captions",
        "The level as a dial",
        "After stage 1 the model describes test images while told each level in turn. In the paper's Figure 7 a low "
        "level looks at part of the image and a high one at all of it, so recall should rise with the level.",
    )
    if run.captions is None:
        section.missing.append(_not_run("Captions by level", "captions/captions.json"))
        return section
    section.charts.append(figures.captions_by_level(run.captions.by_level))
    section.found.extend(findings.captions(run.captions))
    examples = run.captions.examples[: 1 + _MORE_EXAMPLES]
    section.extra["examples"] = [
        {
            "truth": example.truth,
            "uri": thumbnail(_image_path(run, example.image)),
            "few": [(level, example.captions[level - 1]) for level in _low_middle_high(len(example.captions))],
            "all": list(enumerate(example.captions, start=1)),
            "of": len(example.captions),
        }
        for example in examples
    ]
    return section


def _low_middle_high(num_levels: int) -> list[int]:
    return sorted({1, (num_levels + 1) // 2, num_levels})


def _answers(run: Run) -> Section:
    section = Section(
        "answers",
        "Answers",
        "Answers",
        "Both models answer the same questions about images they have not seen. The paper's 7B model is ahead of "
        "LLaVA-1.5 on all twelve of its benchmarks, by 0.1 to 5 points on those scored out of 100; "
        "so a difference here may well be smaller than its interval. "
        "A description counts in part, by how well the objects it names match the truth.",
        found=findings.accuracy(run.results) + findings.accuracy_by_kind(run.results),
    )
    for name in ALIGNMENTS:
        if name not in run.results:
            section.missing.append(_not_run(text.ALIGNMENT_NAMES[name], f"eval-{name}/results.json"))
    by_kind = {name: result.by_kind for name, result in run.results.items() if result.by_kind}
    if by_kind:
        section.charts.append(figures.accuracy_by_kind(by_kind))
    return section


# --------------------------------------------------------------------------------------------------------------- gate


def _gate(run: Run) -> Section:
    section = Section(
        "gate",
        "Gate",
        "The gate",
        "For each question the gate mixes the lower levels' embeddings (weights alpha of Eq. 2) and adds them to the "
        "highest level's, which is always there in full (Eq. 3). The paper holds that instructions need different "
        "mixtures; the rows below would then differ.",
    )
    if run.gates is None or not run.gates.by_kind:
        section.missing.append(_not_run("Gate weights", "eval-adaptive/gates.json"))
        return section
    section.charts.append(figures.gate_weights(run.gates.by_kind))
    section.charts.append(figures.gate_entropy(run.gates.by_kind))
    section.found.extend(findings.gates(run.gates))
    return section


def _heat_maps(run: Run) -> Section:
    section = Section(
        "heatmaps",
        "Heat maps",
        "What the gate sees",
        "The gate's input is one number for each image token: its dot product with the mean of the question's text "
        "embeddings, the product inside Eq. 2. Each image has its own scale, from its least (dark) to its greatest "
        "(bright). The paper does not claim that bright spots are the objects asked for; judge for yourself.",
    )
    if run.gates is None or not run.gates.examples:
        section.missing.append(_not_run("Dot products", "eval-adaptive/gates.json with examples"))
        return section
    shown = _spread(run.gates.examples, _HEAT_MAPS)
    section.found.append(findings.heat_maps(shown))
    weights = [weight for example in shown for weight in example.gate_weights]
    section.extra["most"] = max(weights, default=0.0) or 1.0
    section.extra["maps"] = [
        {
            "example": example,
            "uri": thumbnail(_image_path(run, example.image)),
            "heat": heat_map(_image_path(run, example.image), example.grid, example.dots),
            "low": text.decimal(min(example.dots)),
            "high": text.decimal(max(example.dots)),
            "right": example.prediction.strip() == example.answer.strip(),
        }
        for example in shown
    ]
    return section


# ---------------------------------------------------------------------------------------------------- cost and recipe


def _costs(run: Run) -> Section:
    section = Section("costs", "Cost", "Time and memory", "What each step of this run took on the machine it ran on.")
    seconds, megabytes = run.summary.get("runtime_s") or {}, run.summary.get("peak_memory_mb") or {}
    if not seconds and not megabytes:
        section.missing.append(_not_run("Time and memory", "metrics.json"))
        return section
    section.found.extend(findings.costs(seconds, megabytes))
    if seconds:
        section.charts.append(figures.step_seconds(seconds))
    if megabytes:
        section.charts.append(figures.step_memory(megabytes))
    return section


def _recipe(run: Run) -> Section:
    section = Section("recipe", "Recipe", "Recipe and versions", "All that is needed to run this again.")
    recipes = dict(run.recipes)
    if run.summary.get("config"):
        recipes = recipes | {"run": run.summary["config"]}
    if not recipes:
        section.missing.append(_not_run("Recipe", "metrics.json or recipe.json"))
    section.extra["recipes"] = {
        f"Recipe: {name}": json.dumps(recipe, indent=2, ensure_ascii=False) for name, recipe in recipes.items()
    }
    section.extra["versions"] = run.summary.get("versions") or {}
    return section


_SECTIONS = (_scores, _examples, _training, _captions, _answers, _gate, _heat_maps, _costs, _recipe)
