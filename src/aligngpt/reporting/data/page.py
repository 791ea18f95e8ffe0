"""The data report: scores, levels and quality issues of image-text pairs.

Statistics come from the manifest and a constant-memory pass over the scores, so the size of the page does not depend on
the number of pairs; a few hundred pairs are shown as examples.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from aligngpt.curation.artifacts import ScoreManifest, ScorerInfo
from aligngpt.curation.duplicates import SPREAD
from aligngpt.curation.filtering import open_scored_pairs
from aligngpt.curation.levels import LevelBoundaries, read_summary
from aligngpt.curation.scorer_agreement import NUM_LEVELS, AgreementDetails, describe_agreements
from aligngpt.curation.scoring.store import read_manifest, score_columns
from aligngpt.curation.statistics import ScoreStatistics, collect_statistics
from aligngpt.reporting.charts import Table
from aligngpt.reporting.data import charts, insights
from aligngpt.reporting.data.examples import Example, load_examples
from aligngpt.reporting.formatting import (
    NO_VALUE,
    format_count,
    format_decimal,
    format_integer,
    format_percent_of,
    format_score_range,
)
from aligngpt.reporting.html import Card, Page, Section, write_page
from aligngpt.utils.text import printable

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class DataReport:
    """A written data report and its most important insights."""

    report: Path
    insights: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Pairs shown together."""

    title: str
    note: str
    pairs: list[Example]
    level: int = 0  # of all pairs; 0 if each card shows its own
    caption: str | None = None  # shown once above the pairs, if all share it


@dataclass(frozen=True)
class DataFacts:
    """Everything that the sections are made of; `scorers` are names by column, that of the levels first."""

    manifest: ScoreManifest
    scorers: dict[str, str]
    boundaries: LevelBoundaries | None
    scanned: ScoreStatistics
    agreements: tuple[AgreementDetails, ...]
    examples: dict[int, Example]
    with_data: bool

    @property
    def scorer(self) -> str:
        """Return the name of the scorer of the levels."""
        return next(iter(self.scorers.values()))

    @property
    def limit(self) -> str:
        """Return what captions are truncated to, in words."""
        return insights.describe_context_limit(self.scanned, self.manifest.inputs.long_captions)

    def pairs(self, rows: Sequence[int]) -> list[Example]:
        """Return the examples of some rows."""
        return [self.examples[row] for row in rows]

    def content(self, **changes: Any) -> dict[str, Any]:
        """Return the variables of the section template."""
        return {
            "scorers": self.scorers,
            "num_levels": self.boundaries.num_levels if self.boundaries else 0,
            "has_images": any(example.data_uri for example in self.examples.values()),
            **changes,
        }


def report_data(
    scores: StrPath,
    output: StrPath,
    *,
    levels: StrPath | None = None,
    data: StrPath | None = None,
    images: StrPath | None = None,
) -> DataReport:
    """Write the report about a folder of scores.

    Args:
        scores: Folder written by `aligngpt score`.
        output: The page, one HTML file without external requests; below 10 MB for any number of pairs.
        levels: Folder written by `aligngpt level`, or a file in it; without it, the report has no levels.
        data: The pairs that were scored; without them, the report has no captions.
        images: Image folder; not needed if the data contain the images.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: The levels are those of another scorer, or the data are not those that were scored.
    """
    facts = load_facts(scores, levels, data, images)
    name = printable(Path(scores).resolve().name)
    lead = insights.describe_overview(facts.scanned, facts.manifest.inputs.long_captions)
    page = write_page(Path(output), Page("data report", name, lead, make_cards(facts), make_sections(facts)))
    return DataReport(page, tuple(lead))


def load_facts(scores: StrPath, levels: StrPath | None, data: StrPath | None, images: StrPath | None) -> DataFacts:
    """Read scores, levels and example pairs; arguments and errors as `report_data`."""
    manifest = read_manifest(scores)
    boundaries, scorers = _read_levels(levels, manifest, scores)
    column = next(iter(scorers))
    source = None if data is None else open_scored_pairs(data, manifest, images)
    if source is not None and source.fingerprint != manifest.inputs.pairs_hash:
        raise ValueError(f"{data}: not the pairs of {scores}; pass the data that were scored")
    scanned = collect_statistics(scores, column, boundaries)
    compared = describe_agreements(scores, manifest, column)
    folder = None if images is None else Path(images)
    examples = load_examples(scores, _select_rows(scanned, compared), column, boundaries, source, folder)
    names = {name: printable(scorer.name) for name, scorer in scorers.items()}
    return DataFacts(manifest, names, boundaries, scanned, compared, examples, data is not None)


def _read_levels(
    levels: StrPath | None, manifest: ScoreManifest, scores: StrPath
) -> tuple[LevelBoundaries | None, dict[str, ScorerInfo]]:
    """Return the boundaries, and the scorers by column with the scorer of the levels first."""
    columns = score_columns([scorer.name for scorer in manifest.scorers[1:]])
    by_column = dict(zip(columns, manifest.scorers, strict=True))
    if levels is None:
        return None, by_column
    summary = read_summary(levels)
    leveled = summary.scorer
    matches = [name for name, scorer in by_column.items() if scorer.weights_hash == leveled.weights_hash]
    if not matches:
        raise ValueError(
            f"{levels}: levels of scores by {leveled.name} ({leveled.weights_hash[:8]}), but {scores} has scores "
            f"by {' and '.join(scorer.name for scorer in manifest.scorers)}; pass levels that were made of these scores"
        )
    return LevelBoundaries.of(summary), {matches[0]: by_column[matches[0]]} | by_column


def _select_rows(scanned: ScoreStatistics, compared: tuple[AgreementDetails, ...]) -> set[int]:
    """Return the rows of all pairs that the report shows."""
    duplicates = scanned.duplicates
    rows = {*scanned.lowest, *scanned.truncated_rows}
    groups = (*duplicates.images.groups, *duplicates.captions.groups)
    rows.update(*scanned.examples, *(reason.rows for reason in scanned.reasons), *(group.rows for group in groups))
    rows.update(row for _, *pair in (*scanned.boundary_rows, *duplicates.near.pairs) for row in pair if row >= 0)
    rows.update(*(result.left_higher for result in compared), *(result.right_higher for result in compared))
    return rows


def make_cards(facts: DataFacts) -> list[Card]:
    """Return the key metrics of the data."""
    scanned, exact = facts.scanned, facts.scanned.duplicates.images
    failed = scanned.rows - scanned.scored
    note = f"{format_integer(failed)} could not be scored ({format_percent_of(failed, scanned.rows)})"
    cards = [
        Card("Pairs scored", format_integer(scanned.scored), note if failed else f"of {format_integer(scanned.rows)}")
    ]
    if scanned.scored:
        low, median, high = (format_decimal(scanned.quantiles[name], 3) for name in ("p25", "p50", "p75"))
        cards.append(Card("Median score", median, f"middle half {low} to {high}"))
        truncated = format_percent_of(int(scanned.truncated.sum()), scanned.scored)
        cards.append(Card("Truncated captions", truncated, f"longer than {facts.limit}"))
    if exact.rows:
        shared = format_percent_of(exact.shared_rows, exact.rows)
        cards.append(Card("Shared images", shared, "of the pairs share their image with another pair"))
    return cards


def make_sections(facts: DataFacts) -> list[Section]:
    """Return the sections of the data report."""
    sections = [_make_scores(facts)]
    if facts.scanned.scored:
        sections += [_make_pairs(facts), _make_lowest(facts)]
        sections += [_make_boundaries(facts, facts.boundaries)] if facts.boundaries else []
        sections += [_make_duplicates(facts), _make_captions(facts)]
    return [
        *sections,
        *([_make_scorers(facts)] if facts.agreements else []),
        _make_errors(facts),
        _make_provenance(facts),
    ]


# Scores and levels ---------------------------------------------------------------------------------------------------


def _make_scores(facts: DataFacts) -> Section:
    section = Section(
        "scores",
        "Scores",
        "Scores and levels",
        f"The score of a pair is the cosine similarity of its image and caption embeddings under {facts.scorer} "
        "(Figure 3 of the paper). Scores of different scorers are on different scales; only their order matters. "
        "Scores are binned into alignment levels (Eq. 1), from 1 (weak alignment) to N (strong alignment).",
        insights=insights.describe_scores(facts.scanned),
        content=facts.content(),
    )
    if facts.boundaries is None:
        section.missing.append("Levels: pass --levels with the folder written by `aligngpt level`.")
    if facts.scanned.scored and facts.scanned.minimum < facts.scanned.maximum:
        section.charts.append(charts.draw_score_histogram(facts.scanned, facts.boundaries))
    if facts.scanned.scored and facts.boundaries is not None:
        section.insights.extend(insights.describe_levels(facts.scanned, facts.boundaries))
        section.content["table"] = _make_level_table(facts.scanned, facts.boundaries)
    return section


def _make_level_table(scanned: ScoreStatistics, boundaries: LevelBoundaries) -> Table:
    rows = []
    lengths = insights.select_median_lengths(scanned)
    for level, (scores, length) in enumerate(zip(_list_score_ranges(boundaries), lengths, strict=True), start=1):
        count = int(scanned.counts[level])
        mean = format_decimal(scanned.sums[level] / count if count else math.nan, 3)
        sizes = (format_integer(count), format_percent_of(count, scanned.scored))
        truncated = format_percent_of(scanned.truncated[level], count)
        rows.append((str(level), scores, *sizes, mean, format_integer(length), truncated))
    head = ("Level", "Score", "Pairs", "Fraction", "Mean score", "Median caption length", "Truncated captions")
    return Table(head, tuple(rows))


def _list_score_ranges(boundaries: LevelBoundaries) -> Iterator[str]:
    """Yield the scores of each level; a dash for a level that is empty because boundaries are equal."""
    for low, high in pairwise([None, *boundaries.boundaries, None]):
        yield NO_VALUE if low is not None and low == high else format_score_range(low, high)


def _make_pairs(facts: DataFacts) -> Section:
    section = Section(
        "pairs",
        "Pairs",
        "Example pairs of each level" if facts.boundaries else "Example pairs",
        "Randomly sampled pairs in the order of their scores. Figure 2 of the paper shows four such pairs, from a "
        "caption that describes a detail to a caption that describes the whole image.",
    )
    if not facts.with_data:
        section.missing.append("Captions: pass --data with the pairs that were scored, and --images with their images.")
    sampled = [sorted(rows, key=lambda row: facts.examples[row].score) for rows in facts.scanned.examples]
    if facts.boundaries is None:
        strips = [Gallery("", "", facts.pairs(sampled[0]))]
    else:
        levels = zip(_list_score_ranges(facts.boundaries), sampled[1:], facts.scanned.counts[1:].tolist(), strict=True)
        strips = [
            Gallery(f"Level {level}", f"score {scores} · {format_count(count, 'pair')}", facts.pairs(rows), level)
            for level, (scores, rows, count) in enumerate(levels, start=1)
            if count
        ]
    section.content.update(facts.content(strips=strips))
    return section


def _make_lowest(facts: DataFacts) -> Section:
    return Section(
        "lowest",
        "Lowest scores",
        "Lowest scores",
        "Mismatched pairs, whose caption belongs to another image, have the lowest scores; so do captions that the "
        "scorer does not understand. `aligngpt filter --exclude mismatch` skips the lowest 1%.",
        insights=insights.describe_lowest(facts.scanned),
        content=facts.content(grid=facts.pairs(facts.scanned.lowest)),
    )


def _make_boundaries(facts: DataFacts, boundaries: LevelBoundaries) -> Section:
    edges = boundaries.boundaries
    groups = [
        Gallery(
            f"Level {index + 1} to level {bisect_right(edges, edges[index]) + 1}",
            f"boundary {format_decimal(edges[index], 4)}",
            facts.pairs([row for row in sides if row >= 0]),
        )
        for index, *sides in facts.scanned.boundary_rows
    ]
    return Section(
        "boundaries",
        "Boundaries",
        "Pairs at level boundaries",
        "For each boundary, the nearest pair below it and the nearest above it. They have different levels although "
        "their scores hardly differ, so their alignment should look similar. `aligngpt filter --exclude boundary` "
        "skips such pairs.",
        insights=insights.describe_near_boundaries(facts.scanned, boundaries),
        content=facts.content(groups=groups),
    )


# Duplicates and captions ---------------------------------------------------------------------------------------------


def _make_duplicates(facts: DataFacts) -> Section:
    exact, near = facts.scanned.duplicates.images, facts.scanned.duplicates.near
    groups = [
        Gallery("Duplicate", f"{format_integer(group.count)} names", facts.pairs(group.rows)) for group in exact.groups
    ]
    groups += [Gallery("Near-duplicate", f"{bits} of 64 bits differ", facts.pairs(rows)) for bits, *rows in near.pairs]
    section = Section(
        "duplicates",
        "Duplicates",
        "Duplicate and near-duplicate images",
        "Duplicates have the same bytes. Near-duplicates are resized, re-encoded or slightly edited images, detected "
        "by a perceptual hash; plain drawings and blank images may match by chance. `aligngpt filter --exclude "
        "duplicate_image` retains the pair with the highest score of each image.",
        insights=insights.describe_duplicates(exact, near),
        content=facts.content(groups=groups),
    )
    if not exact.rows:
        section.missing.append("Image hashes: the scores contain none.")
    return section


def _make_captions(facts: DataFacts) -> Section:
    scanned, reuse = facts.scanned, facts.scanned.duplicates.captions
    content = facts.content()
    if reuse.repeated:
        content["table"] = _make_repetition_table(reuse.spread)
    content["groups"] = [
        Gallery("Repeated caption", f"{format_integer(group.count)} images", pairs, caption=pairs[0].caption)
        for group in reuse.groups
        if (pairs := facts.pairs(group.rows))
    ]
    if scanned.truncated_rows:
        longest = Gallery(f"Captions longer than {facts.limit}", "", facts.pairs(scanned.truncated_rows))
        content["strips"] = [longest]
    section = Section(
        "captions",
        "Captions",
        "Captions",
        "Length of the captions, captions that occur with several images and therefore say little about any of them "
        f"(`--exclude reused_caption` skips them), and captions longer than {facts.limit} "
        "(`--exclude truncated_caption`).",
        insights=insights.describe_lengths(scanned)
        + insights.describe_truncated(scanned, facts.manifest.inputs.long_captions)
        + insights.describe_repeated_captions(reuse),
        content=content,
    )
    if scanned.lengths[1:].any():
        section.charts.append(charts.draw_lengths_by_level(scanned))
    return section


def _make_repetition_table(spread: tuple[int, ...]) -> Table:
    rows = []
    for start, end, count in zip(SPREAD, [*SPREAD[1:], None], spread, strict=True):
        name = (
            f"{format_integer(start)} or more"
            if end is None
            else f"{format_integer(start)} to {format_integer(end - 1)}"
        )
        rows.append((str(start) if end == start + 1 else name, format_integer(count)))
    return Table(("Images with the same caption", "Captions"), tuple(rows))


# Scorers, errors, provenance -----------------------------------------------------------------------------------------


def _make_scorers(facts: DataFacts) -> Section:
    strips: list[Gallery] = []
    section = Section(
        "scorers",
        "Scorers",
        "Agreement between scorers",
        "Scorers are compared by rank, over at most a million evenly spaced pairs. The pairs on which they differ most "
        f"show what one of them misses. Here each scorer has {NUM_LEVELS} levels of its own, of equal size.",
        content=facts.content(strips=strips),
    )
    for index, result in enumerate(facts.agreements):
        left, right = facts.scorer, facts.scorers[result.column]
        section.insights.extend(insights.describe_agreement(left, right, result))
        if result.spearman is None:
            continue
        section.charts.append(charts.draw_level_agreement(left, right, result, index))
        for higher, lower, rows in ((left, right, result.left_higher), (right, left, result.right_higher)):
            if rows:
                strips.append(Gallery(f"Ranked much higher by {higher}", f"than by {lower}", facts.pairs(rows)))
    return section


def _make_errors(facts: DataFacts) -> Section:
    reasons = [(reason.text, reason.count, facts.pairs(reason.rows)) for reason in facts.scanned.reasons]
    return Section(
        "errors",
        "Errors",
        "Pairs without a score",
        "Each record has a row in the scores; these have a reason instead of a score. Numbers in a reason are written "
        "as N.",
        insights=insights.describe_errors(facts.scanned),
        content=facts.content(reasons=reasons),
    )


def _make_provenance(facts: DataFacts) -> Section:
    shown = facts.manifest.model_dump(mode="json", exclude={"versions"})
    lines = json.dumps(shown, indent=2, ensure_ascii=False).split("\n")
    return Section(
        "provenance",
        "Provenance",
        "Provenance of the scores",
        "Manifest of the scores and versions of the software that computed them.",
        content={
            "files": {ScoreManifest.FILE: "\n".join(map(printable, lines))},
            "versions": facts.manifest.versions,
        },
    )
