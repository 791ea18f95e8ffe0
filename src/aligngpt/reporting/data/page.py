"""One self-contained HTML page about scored pairs, as readable for a million of them as for a thousand.

What is said and drawn comes from the manifest and one pass over the scores (two where several scorers were at work); a
few hundred pairs are shown. Captions and images come from the pairs themselves. What is not given is named instead of
leaving a gap.
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

from aligngpt.curation.duplicates import SPREAD
from aligngpt.curation.levels import LEVELS_JSON, LevelBoundaries, levels_file
from aligngpt.curation.scorer_agreement import Agreement, agreements
from aligngpt.curation.scorer_ranks import NUM_LEVELS
from aligngpt.curation.scoring.store import read_manifest, score_columns
from aligngpt.curation.statistics import Scan, scan
from aligngpt.data.sources import Source, open_as_scored
from aligngpt.reporting import formatting as text
from aligngpt.reporting.charts import Table
from aligngpt.reporting.data import charts as figures
from aligngpt.reporting.data import insights as findings
from aligngpt.reporting.data.examples import Example, gather, short_name
from aligngpt.reporting.html import Card, Section, fill, score_range
from aligngpt.utils.io import atomic_path, read_json
from aligngpt.utils.text import printable


@dataclass(frozen=True)
class DataReport:
    """A page that was written, and the sentences on top of it."""

    page: Path
    findings: tuple[str, ...]


@dataclass(frozen=True)
class Cards:
    """Pairs shown together under a title.

    Attributes:
        level: Whose pairs they are; 0 if each is marked with its own.
        caption: Stands above them instead of below each, where it is the same for all.
    """

    title: str
    note: str
    cards: list[Example]
    level: int = 0
    caption: str | None = None


@dataclass(frozen=True)
class _Facts:
    """All that the sections are made of."""

    manifest: dict[str, Any]
    scorers: dict[str, str]  # by column, the first one's first
    boundaries: LevelBoundaries | None
    scanned: Scan
    agreed: tuple[Agreement, ...]
    examples: dict[int, Example]
    has_pairs: bool

    @property
    def scorer(self) -> str:
        return next(iter(self.scorers.values()))

    @property
    def policy(self) -> str:
        return str(self.manifest["inputs"]["long_captions"])

    def cards(self, rows: Sequence[int]) -> list[Example]:
        return [self.examples[row] for row in rows]


def data_report(
    scores: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    levels: str | os.PathLike[str] | None = None,
    pairs: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
) -> DataReport:
    """Write the page about a folder of scores.

    Args:
        scores: A finished folder of `aligngpt score`.
        output: The page, one HTML file without any request to elsewhere; under 10 MB whatever the number of pairs.
        levels: A folder of `aligngpt level`, or its `levels.json`; without it the page has no levels.
        pairs: The pairs that were scored; without them the page has no captions.
        images: The folder image paths start from; not needed where images come with the pairs.

    Raises:
        FileNotFoundError: If an input is missing.
        ValueError: If the levels are those of another scorer, or the pairs are not those that were scored.
    """
    manifest = read_manifest(scores)
    boundaries, scorers = _levels(levels, _scorers(manifest), scores)
    column = next(iter(scorers))
    source = None if pairs is None else _source(pairs, images, manifest, scores)
    scanned = scan(scores, column, boundaries)
    agreed = agreements(scores, manifest, column)
    folder = None if images is None else Path(images)
    examples = gather(scores, _shown(scanned, agreed), column, boundaries, source, folder)
    names = {name: printable(scorer["name"]) for name, scorer in scorers.items()}
    facts = _Facts(manifest, names, boundaries, scanned, agreed, examples, pairs is not None)
    target = Path(output)
    with atomic_path(target) as temporary:
        temporary.write_text(_render(facts, printable(Path(scores).resolve().name)), encoding="utf-8")
    return DataReport(target, tuple(findings.headline(scanned, facts.policy)))


def _scorers(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The scorers by their column."""
    scorers = manifest["scorers"]
    return dict(zip(score_columns([scorer["name"] for scorer in scorers[1:]]), scorers, strict=True))


def _levels(
    levels: str | os.PathLike[str] | None, scorers: dict[str, dict[str, Any]], scores: str | os.PathLike[str]
) -> tuple[LevelBoundaries | None, dict[str, dict[str, Any]]]:
    """The boundaries, and the scorers with that one first whose scores they cut."""
    if levels is None:
        return None, scorers
    boundaries = LevelBoundaries.load(levels)
    cut = read_json(levels_file(levels, LEVELS_JSON)).get("scorer")
    if cut is None:
        return boundaries, scorers
    column = next((name for name, one in scorers.items() if one["weights_hash"] == cut["weights_hash"]), None)
    if column is None:
        raise ValueError(
            f"{levels} holds levels of scores by {cut['name']} ({cut['weights_hash'][:8]}), {scores} has scores by "
            f"{' and '.join(one['name'] for one in scorers.values())}: give levels that were made of these scores"
        )
    return boundaries, {column: scorers[column]} | scorers


def _source(
    pairs: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    manifest: dict[str, Any],
    scores: str | os.PathLike[str],
) -> Source:
    """The pairs, their fields read as they were for the scores."""
    source = open_as_scored(pairs, manifest, images)
    if source.fingerprint != manifest["inputs"]["pairs_hash"]:
        raise ValueError(
            f"{pairs} does not hold the pairs that {scores} has scores of: give the pairs that were scored"
        )
    return source


def _shown(scanned: Scan, agreed: tuple[Agreement, ...]) -> set[int]:
    """The rows of which the page shows something."""
    repeats = scanned.repeats
    rows = {*scanned.lowest, *scanned.cut_rows}
    rows.update(*scanned.drawn, *(reason.rows for reason in scanned.reasons))
    rows.update(row for _, *sides in scanned.boundary_rows for row in sides if row >= 0)
    rows.update(*(group.rows for group in (*repeats.copies.groups, *repeats.reuse.groups)))
    rows.update(row for _, *pair in repeats.near.pairs for row in pair)
    rows.update(*(found.first_higher for found in agreed), *(found.other_higher for found in agreed))
    return rows


def _render(facts: _Facts, name: str) -> str:
    sections = [make(facts) for make in _SECTIONS]
    return fill(
        "data/page.html.jinja",
        name=name,
        lead=findings.headline(facts.scanned, facts.policy),
        cards=_cards(facts),
        sections=[section for section in sections if section is not None],
        scorers=facts.scorers,
        num_levels=facts.boundaries.num_levels if facts.boundaries else 0,
        has_captions=facts.has_pairs,
        has_images=any(example.data_uri for example in facts.examples.values()),
        short_name=short_name,
        shows="What the numbers say",
        missing="Not given.",
        absent="",
    )


# ----------------------------------------------------------------------------------------------------------- headline


def _cards(facts: _Facts) -> list[Card]:
    scanned, copies = facts.scanned, facts.scanned.repeats.copies
    failed = scanned.rows - scanned.scored
    left = f"{text.integer(failed)} could not be scored ({text.percent_of(failed, scanned.rows)})"
    left = left if failed else f"of {text.integer(scanned.rows)}"
    cards = [Card("Pairs scored", text.integer(scanned.scored), left)]
    if scanned.scored:
        low, median, high = (text.decimal(findings.quantile(scanned, share), 3) for share in (0.25, 0.5, 0.75))
        around = "that of the only one" if scanned.scored == 1 else f"half of them lie between {low} and {high}"
        cards.append(Card("Median score", median, around))
        cut = text.percent_of(int(scanned.cut.sum()), scanned.scored)
        cards.append(Card("Captions cut", cut, f"are longer than {findings.read_limit(scanned, facts.policy)}"))
    if copies.rows:
        again = text.percent_of(copies.shared_rows, copies.rows)
        cards.append(Card("Images used again", again, "of the pairs share theirs with another"))
    return cards


# -------------------------------------------------------------------------------------------------- scores and levels


def _scores(facts: _Facts) -> Section:
    section = Section(
        "scores",
        "Scores",
        "Scores and levels",
        f"The score of a pair is the cosine of its image's and its caption's embedding under {facts.scorer}: how "
        "well the caption fits the image (paper, Figure 3). Scores of different scorers lie on different scales; "
        "what counts is their order. Pairs are cut into alignment levels by score (Eq. 1), from the loosest, 1, to "
        "the closest.",
        found=findings.scores(facts.scanned),
    )
    if facts.boundaries is None:
        section.missing.append("Levels: add --levels with the folder that “aligngpt level” writes.")
    if not facts.scanned.scored:
        return section
    if facts.scanned.minimum < facts.scanned.maximum:
        section.charts.append(figures.score_histogram(facts.scanned, facts.boundaries))
    if facts.boundaries is not None:
        section.found.extend(findings.levels(facts.scanned, facts.boundaries))
        section.extra["table"] = _level_table(facts.scanned, facts.boundaries)
    return section


def _level_table(scanned: Scan, boundaries: LevelBoundaries) -> Table:
    rows = []
    lengths = findings.median_lengths(scanned)
    for level, range_ in enumerate(_ranges(boundaries), start=1):
        count = int(scanned.counts[level])
        rows.append(
            (
                str(level),
                range_,
                text.integer(count),
                text.percent_of(count, scanned.scored),
                text.decimal(scanned.sums[level] / count if count else math.nan, 3),
                text.NO_VALUE if math.isnan(lengths[level - 1]) else text.integer(lengths[level - 1]),
                text.percent_of(scanned.cut[level], count),
            )
        )
    head = ("Level", "Score", "Pairs", "Share", "Mean score", "Median caption", "Captions cut")
    return Table(head, tuple(rows))


def _ranges(boundaries: LevelBoundaries) -> Iterator[str]:
    """The scores of each level; a dash where equal boundaries leave it none."""
    ends = [None, *boundaries.boundaries, None]
    for low, high in pairwise(ends):
        yield text.NO_VALUE if low is not None and low == high else score_range(low, high)


def _pairs(facts: _Facts) -> Section | None:
    if not facts.scanned.scored:
        return None
    section = Section(
        "pairs",
        "Pairs",
        "Pairs of each level" if facts.boundaries else "Some pairs",
        "Pairs drawn at random, in the order of their scores; the paper's Figure 2 shows four such pairs, from a "
        "caption of a detail to one of the whole image.",
    )
    if not facts.has_pairs:
        section.missing.append("Captions: add --pairs with the pairs that were scored, and --images with their images.")
    drawn = [sorted(rows, key=lambda row: facts.examples[row].score) for rows in facts.scanned.drawn]
    if facts.boundaries is None:
        section.extra["strips"] = [Cards("", "", facts.cards(drawn[0]))]
        return section
    section.extra["strips"] = [
        Cards(f"Level {level}", f"score {range_} · {text.count_of(count, 'pair')}", facts.cards(rows), level)
        for level, (range_, rows, count) in enumerate(
            zip(_ranges(facts.boundaries), drawn[1:], facts.scanned.counts[1:].tolist(), strict=True), start=1
        )
        if count
    ]
    return section


def _lowest(facts: _Facts) -> Section | None:
    if not facts.scanned.scored:
        return None
    section = Section(
        "lowest",
        "Lowest",
        "The lowest scores",
        "Where a caption belongs to another image, the score is as low as the scorer gives; so mismatched pairs "
        "gather here, among captions in which the scorer reads little. “aligngpt select --drop-defect mismatch” "
        "leaves the lowest 1 % out.",
        found=findings.suspects(facts.scanned),
    )
    section.extra["wall"] = facts.cards(facts.scanned.lowest)
    return section


def _boundaries(facts: _Facts) -> Section | None:
    if facts.boundaries is None or not facts.scanned.scored:
        return None
    section = Section(
        "boundaries",
        "Boundaries",
        "Pairs at the boundaries",
        "Of each boundary the nearest pair below it and the nearest above: they have different levels and hardly "
        "different scores. If they look equally well told, that is how it should be. “aligngpt select --drop-defect "
        "boundary” leaves such pairs out.",
        found=findings.near_boundaries(facts.scanned, facts.boundaries),
    )
    cuts = facts.boundaries.boundaries
    section.extra["sets"] = [
        Cards(
            f"Level {place + 1} to level {bisect_right(cuts, cuts[place]) + 1}",
            f"boundary {text.decimal(cuts[place], 4)}",
            facts.cards([row for row in sides if row >= 0]),
        )
        for place, *sides in facts.scanned.boundary_rows
    ]
    return section


# ------------------------------------------------------------------------------------------------ repeats and captions


def _repeats(facts: _Facts) -> Section | None:
    if not facts.scanned.scored:
        return None
    copies, near = facts.scanned.repeats.copies, facts.scanned.repeats.near
    section = Section(
        "repeats",
        "Repeats",
        "Images that occur again",
        "Copies have the same bytes. Near copies are images stored again, scaled or slightly changed, found by a "
        "perceptual hash; plain drawings and blank images may share one by chance. “aligngpt select --drop-defect "
        "duplicate_image” keeps the pair with the highest score of every image.",
        found=findings.copies(copies, near),
    )
    if not copies.rows:
        section.missing.append("Hashes of the images: the scores hold none.")
    sets = [
        Cards("The same bytes", f"{text.integer(group.count)} names", facts.cards(group.rows))
        for group in copies.groups
    ]
    sets += [
        Cards("Near copies", f"{bits} of 64 bits differ", facts.cards((one, other))) for bits, one, other in near.pairs
    ]
    section.extra["sets"] = sets
    return section


def _captions(facts: _Facts) -> Section | None:
    scanned, reuse = facts.scanned, facts.scanned.repeats.reuse
    if not scanned.scored:
        return None
    limit = findings.read_limit(scanned, facts.policy)
    section = Section(
        "captions",
        "Captions",
        "Captions",
        "How long the captions are, which of them stand over several images (such captions tell little of any of "
        f"them; “--drop-defect reused_caption” leaves them out), and which are longer than {limit} "
        "(“--drop-defect truncated_caption”).",
        found=findings.lengths(scanned) + findings.cut(scanned, facts.policy) + findings.reuse(reuse),
    )
    if scanned.lengths[1:].any():
        section.charts.append(figures.lengths_by_level(scanned))
    if reuse.reused:
        section.extra["table"] = _spread_table(reuse.spread)
    section.extra["sets"] = [
        Cards(
            "One caption",
            f"over {text.integer(group.count)} images",
            facts.cards(group.rows),
            caption=facts.examples[group.rows[0]].caption,
        )
        for group in reuse.groups
    ]
    if scanned.cut_rows:
        section.extra["strips"] = [Cards(f"Captions longer than {limit}", "", facts.cards(scanned.cut_rows))]
    return section


def _spread_table(spread: tuple[int, ...]) -> Table:
    ends = [*SPREAD[1:], None]
    rows = []
    for first, end, count in zip(SPREAD, ends, spread, strict=True):
        name = f"{text.integer(first)} and more" if end is None else str(first)
        if end is not None and end - 1 > first:
            name = f"{text.integer(first)} to {text.integer(end - 1)}"
        rows.append((name, text.integer(count)))
    return Table(("Images under one caption", "Captions"), tuple(rows))


# ------------------------------------------------------------------------------------------ scorers, errors, provenance


def _agreement(facts: _Facts) -> Section | None:
    if not facts.agreed:
        return None
    section = Section(
        "scorers",
        "Scorers",
        "Do the scorers agree?",
        "Scorers are compared by rank, over a million evenly spaced pairs at most. Where they agree, the grade is not "
        "one model's whim; pairs on which they differ most show what one of them does not see. The "
        f"{NUM_LEVELS} levels are cut here from each scorer's own scores of these pairs.",
    )
    strips = []
    for place, found in enumerate(facts.agreed):
        other = facts.scorers[found.column]
        section.found.extend(findings.agreement(facts.scorer, other, found))
        if found.spearman is None:
            continue
        section.charts.append(figures.level_agreement(facts.scorer, other, found, place))
        for higher, lower, rows in (
            (facts.scorer, other, found.first_higher),
            (other, facts.scorer, found.other_higher),
        ):
            if rows:
                strips.append(Cards(f"Ranked far higher by {higher}", f"than by {lower}", facts.cards(rows)))
    section.extra["strips"] = strips
    return section


def _bad(facts: _Facts) -> Section:
    section = Section(
        "bad",
        "Bad files",
        "What could not be scored",
        "Every record has its row; those below have a reason instead of a score. Numbers within a reason are written "
        "as N.",
        found=findings.bad(facts.scanned),
    )
    section.extra["reasons"] = [
        (reason.text, reason.count, [facts.examples[row] for row in reason.rows]) for reason in facts.scanned.reasons
    ]
    return section


def _provenance(facts: _Facts) -> Section:
    section = Section("origin", "Origin", "Where the scores come from", "What the manifest of the scores says.")
    known = {key: value for key, value in facts.manifest.items() if key not in ("versions", "bad")}
    lines = json.dumps(known, indent=2, ensure_ascii=False).split("\n")
    section.extra["recipes"] = {"manifest.json": "\n".join(map(printable, lines))}
    section.extra["versions"] = facts.manifest.get("versions") or {}
    return section


_SECTIONS = (_scores, _pairs, _lowest, _boundaries, _repeats, _captions, _agreement, _bad, _provenance)
