"""`score` and `level`: pairs to CLIP scores, scores to alignment levels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from aligngpt.cli.arguments import FILE, FOLDER, MODEL, NEW_FILE, NEW_FOLDER, json_option, strict_option
from aligngpt.cli.base import Command
from aligngpt.cli.output import plain, print_bad_records, print_json, print_table, print_warnings, results_alone

if TYPE_CHECKING:
    from aligngpt.data.levels import LevelSummary
    from aligngpt.data.pairs import BadRecord, ImageTextPair, ReadResult

SCORE_EXAMPLE = """
aligngpt score --pairs runs/scenes/data/pretrain.json --images runs/scenes/data/pictures \\
    --scorer scenes-clip --output scores
"""
LEVEL_EXAMPLE = """
aligngpt level --scores scores --output levels
aligngpt level --scores new-scores --output new-levels --fitted levels/levels.json
"""


@click.command(cls=Command, example=SCORE_EXAMPLE)
@click.option("--pairs", type=FILE, required=True, help="Image-text pairs, LLaVA JSON or JSON Lines.")
@click.option("--images", type=FOLDER, required=True, help="Folder the pairs' image paths start from.")
@click.option("--scorer", type=MODEL, required=True, help="Folder of a CLIP-like model, or scenes-clip.")
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for the scores; finished shards are kept.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, help="Pairs embedded at once.")
@strict_option
@json_option
def score(pairs: Path, images: Path, scorer: Path, output: Path, batch_size: int, strict: bool, as_json: bool) -> None:
    """Score every pair by how well image and text agree.

    The score is the cosine of their embeddings under a CLIP-like model. A picture that cannot be used
    leaves its score empty and its reason in the scores; each is named on standard error.
    """
    from aligngpt.data.pairs import read_pairs
    from aligngpt.data.scores import ClipScorer, score_pairs

    with results_alone():
        read = read_pairs(pairs, images, check_images="decode" if strict else "header")
        print_bad_records(read.bad)
        if strict:
            read.raise_if_bad()
        summary = score_pairs(read, images, ClipScorer.from_pretrained(scorer), output, batch_size=batch_size)
        unscored = replace(read, bad=_found_while_scoring(read, output))
        print_bad_records(unscored.bad)
        if strict:
            unscored.raise_if_bad()
    if as_json:
        print_json(summary)
    else:
        print_table(f"Scores in {output}", ("", ""), [item for item in plain(summary).items() if item[0] != "bad"])


def _found_while_scoring(read: ReadResult[ImageTextPair], scores: Path) -> list[BadRecord]:
    """List the pairs that could be read but not scored, such as those whose picture is cut short."""
    from aligngpt.data.pairs import BadRecord
    from aligngpt.data.scores import read_scores

    known = {record.id for record in read.bad}
    table = read_scores(scores)
    rows = table.filter(table["error"].is_valid()).to_pylist()
    return [
        BadRecord(read.source, None, None, row["id"], row["image"], row["error"])
        for row in rows
        if row["id"] not in known
    ]


@click.command(cls=Command, example=LEVEL_EXAMPLE)
@click.option("--scores", type=FOLDER, required=True, help="Folder written by aligngpt score.")
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for levels.parquet and levels.json.")
@click.option("--num-levels", type=click.IntRange(2, 64), default=8, help="How many levels.")
@click.option(
    "--strategy",
    type=click.Choice(["quantile", "uniform"]),
    default="quantile",
    help="Levels of equal frequency or of equal width.",
)
@click.option("--fitted", type=FILE, help="A levels.json whose boundaries are applied instead of fitting new ones.")
@click.option(
    "--write-pairs",
    type=(FILE, NEW_FILE),
    metavar="IN OUT",
    help="Also write the pairs of file IN to file OUT with their level.",
)
@json_option
@click.pass_context
def level(
    ctx: click.Context,
    scores: Path,
    output: Path,
    num_levels: int,
    strategy: Literal["quantile", "uniform"],
    fitted: Path | None,
    write_pairs: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    """Cut scores into alignment levels, counted from 1, the worst."""
    given = click.core.ParameterSource.COMMANDLINE
    if fitted and given in (ctx.get_parameter_source("num_levels"), ctx.get_parameter_source("strategy")):
        raise click.UsageError("--num-levels and --strategy are those of the --fitted file; leave them out", ctx)
    from aligngpt.data.levels import write_levels

    with results_alone():
        summary = write_levels(
            scores, output, num_levels=num_levels, strategy=strategy, fitted=fitted, write_pairs=write_pairs
        )
    print_warnings(summary.warnings)
    if as_json:
        print_json(summary)
    else:
        print_table(f"Levels in {output}", ("level", "pairs", "from score", "mean score"), _level_rows(summary))


def _level_rows(summary: LevelSummary) -> list[list[Any]]:
    fitted = summary.boundaries
    edges = (fitted.minimum, *fitted.boundaries)
    rows = zip(range(1, fitted.num_levels + 1), summary.counts, edges, summary.mean_score_by_level, strict=True)
    unscored = [["unscored", summary.unscored, None, None]] if summary.unscored else []
    return [*map(list, rows), *unscored]
