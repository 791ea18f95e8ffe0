"""`score`, `level` and `filter`: pairs to CLIP scores, scores to alignment levels, pairs filtered by both."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligngpt.cli.base import Command
from aligngpt.cli.output import logs_to_stderr, print_json, print_next_step, print_table, print_warnings
from aligngpt.cli.params import (
    EXISTING,
    FOLDER,
    LEVELS,
    LEVELS_HELP,
    MODEL,
    NEW_FOLDER,
    OR_HUB_NAME,
    POSITIVE,
    SHARD,
    OutputPath,
    Parsed,
    images_option,
    json_option,
    strict_option,
)
from aligngpt.curation.choices import BACKENDS, FIT_STRATEGIES, LONG_CAPTIONS, QUALITY_ISSUES
from aligngpt.utils.constants import MAX_LEVELS, MIN_LEVELS
from aligngpt.utils.text import printable

if TYPE_CHECKING:
    from aligngpt.curation.artifacts import DriftReport
    from aligngpt.curation.scoring.run import ScoreSummary
    from aligngpt.curation.scoring.store import Failures

SCORE_EXAMPLE = """
aligngpt score --data runs/synthetic/data/pretrain.json --images runs/synthetic/data/images \\
    --scorer synthetic-clip --output scores
aligngpt score --data 'shards/{00000..00331}.tar' --scorer openai/clip-vit-large-patch14-336 --output scores
aligngpt score --data 'shards/{00000..00331}.tar' --scorer openai/clip-vit-large-patch14-336 --output scores \\
    --shard 1/4
"""
LEVEL_EXAMPLE = """
aligngpt level --scores scores --output levels
aligngpt level --scores new-scores --boundaries-from levels/levels.json --output new-levels
"""
FILTER_EXAMPLE = """
aligngpt filter --data pairs.json --scores scores --levels levels --min-level 3 --output filtered.json
aligngpt filter --data pairs.json --scores scores --exclude error --exclude mismatch:5 --output clean.json
aligngpt filter --data 'shards/{000..099}.tar' --scores scores --levels levels --level-weights 1:0.2,8:2 --output mixed
"""
BACKBONES = ("--language-model", "MODEL", "--vision-tower", "MODEL", "--output", "STAGE1")
_MAX_BATCH_SIZE = 1 << 20
_ISSUES = ", ".join(f"{name}:{number[0]}" if number else name for name, number in QUALITY_ISSUES.items())


def _parse_boundaries(text: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    if any(not lower < upper for lower, upper in pairwise((-math.inf, *numbers, math.inf))):
        raise ValueError
    return numbers


def _parse_weights(text: str) -> dict[int, float]:
    pairs = [part.split(":") for part in text.split(",")]
    weights = {int(level): float(weight) for level, weight in pairs}
    if len(weights) < len(pairs):
        raise ValueError
    return weights


BOUNDARIES = Parsed("S,S,...", _parse_boundaries, "ascending numbers such as 0.2,0.25,0.3")
LEVEL_LIST = Parsed("L,L,...", lambda text: tuple(map(int, text.split(","))), "levels such as 3,4")
WEIGHTS = Parsed("L:W,...", _parse_weights, "one weight per level, such as 1:0.2,8:2")


@click.command(cls=Command, example=SCORE_EXAMPLE)
@click.option(
    "--data",
    metavar="SOURCE",
    required=True,
    help="Image-text pairs: .json, .jsonl, .parquet or .tar, a folder of these or of datasets, or 'x/{00..99}.tar'.",
)
@images_option
@click.option(
    "--scorer",
    "scorers",
    type=MODEL,
    required=True,
    multiple=True,
    help=f"CLIP-like model: a folder, the bundled synthetic-clip {OR_HUB_NAME}. Repeatable: all score in one pass; the "
    "first defines clip_score.",
)
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for the scores; finished shards are skipped.")
@click.option(
    "--long-captions",
    type=click.Choice(LONG_CAPTIONS),
    default="truncate",
    help="Captions longer than the scorer's context: truncate, or average the embeddings of chunks.",
)
@click.option("--backend", type=click.Choice(BACKENDS), default="local", help="This machine or a Ray cluster.")
@click.option("--actors", type=POSITIVE, help="With ray: processes with the scorers.  [default: per GPU]")
@click.option("--address", metavar="HOST:PORT", help="With ray: the cluster, or auto.  [default: start one here]")
@click.option("--shard", type=SHARD, default="1/1", help="Score shard i of n; other jobs score the others.")
@click.option("--num-workers", type=click.IntRange(min=0), help="Processes that decode images.  [default: per CPU]")
@click.option("--batch-size", type=click.IntRange(1, _MAX_BATCH_SIZE), default=64, help="Images embedded at once.")
@click.option("--image-column", metavar="NAME", help="Field of the image.  [default: image, image_path or file_name]")
@click.option("--caption-column", metavar="NAME", help="Field of the text.  [default: conversations, caption or text]")
@click.option("--id-column", metavar="NAME", help="Field of the id.  [default: id or key]")
@strict_option
@json_option
def score(strict: bool, as_json: bool, **settings: Any) -> None:
    """Score pairs by the cosine similarity of their CLIP embeddings.

    A record that cannot be used has its reason in the column `error` instead of a score. The first records of each
    reason are named on standard error.
    """
    data, output = settings["data"], settings["output"]
    with logs_to_stderr() as log:
        from aligngpt.curation.scoring.run import NothingScored
        from aligngpt.curation.scoring.score import score_pairs
        from aligngpt.curation.scoring.store import PART_PATTERN, sample_failures

        try:
            summary = score_pairs(**settings)
        except NothingScored as error:
            _report_failures(data, error.summary, error.failures, strict)
            raise
        if summary.failed:
            failures = sample_failures(sorted(output.glob(PART_PATTERN)))
            _report_failures(data, summary, failures, strict, f"; see the column `error` in {output}")
    if as_json:
        print_json(summary.model_dump(mode="json"))
        return
    if log.is_complete:
        click.echo(f"{summary.scored:,} pairs with a score, {summary.failed:,} without")
        return
    print_table(f"Scores in {output}", ("", ""), _score_rows(summary))
    if summary.missing_shards:
        click.echo("Next: run the other shards; the last one completes the folder")
    else:
        print_next_step("level", "--scores", output, "--output", "LEVELS")


def _report_failures(data: str, summary: ScoreSummary, failures: Failures, strict: bool, more: str = "") -> None:
    """Count the records without a score by reason, and name the first of each.

    Args:
        more: Where records are that are not named.

    Raises:
        StrictDataError: `strict` is set.
    """
    from aligngpt.data.schema import BadRecord, StrictDataError

    click.echo(f"aligngpt: {summary.failed} bad record{'s' * (summary.failed > 1)}, without a score:", err=True)
    named = []
    for reason, count in summary.errors.items():
        rows = failures.get(reason, [])
        lines = [str(BadRecord(str(data), None, row["id"], row["image"], row["error"])) for row in rows]
        named += lines
        if count > len(rows):
            lines.append(f"and {count - len(rows)} more{more}")
        click.echo(f"  {count:6d}  {reason}", err=True)
        for line in lines:
            click.echo(f"          {printable(line)}", err=True)
    if strict and named:
        total = summary.scored + summary.failed
        raise StrictDataError(f"{summary.failed} of {total} records are bad, such as {named[0]}")


def _score_rows(summary: ScoreSummary) -> list[list[Any]]:
    rows: list[list[Any]] = [
        ["pairs with a score", summary.scored],
        ["pairs without a score", summary.failed],
        ["truncated captions", summary.truncated],
        ["shards", summary.shards],
        ["shards finished before", summary.resumed_shards],
    ]
    if summary.missing_shards:
        rows.append(["shards missing", summary.missing_shards])
    for agreement in summary.agreement:
        names = " and ".join(agreement.scorers)
        rows.append([f"Spearman correlation of {names}", agreement.spearman])
        rows.append([f"equal levels of {names}", agreement.equal_levels])
    return [*rows, ["seconds", summary.seconds]]


@click.command(cls=Command, example=LEVEL_EXAMPLE)
@click.option("--scores", type=FOLDER, required=True, help="Folder written by aligngpt score.")
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for levels.parquet and levels.json.")
@click.option("--num-levels", type=click.IntRange(MIN_LEVELS, MAX_LEVELS), help="Number of levels.  [default: 8]")
@click.option(
    "--strategy",
    type=click.Choice(FIT_STRATEGIES),
    help="Equally full or equally wide levels.  [default: quantile]",
)
@click.option("--boundaries", type=BOUNDARIES, help="Explicit level boundaries (ascending), instead of fitting them.")
@click.option(
    "--boundaries-from",
    metavar="LEVELS|SCORES",
    type=EXISTING,
    help="Use the boundaries of a levels.json, or fit them on other scores; reports the drift.",
)
@click.option("--scorer", metavar="NAME", help="Scorer whose scores define the levels.  [default: the first]")
@json_option
def level(scores: Path, output: Path, as_json: bool, **settings: Any) -> None:
    """Bin scores into alignment levels, from 1 (lowest scores) to N."""
    from aligngpt.curation.levels import assign_levels

    with logs_to_stderr() as log:
        summary = assign_levels(scores, output, **settings)
    print_warnings(summary.warnings)
    if as_json:
        print_json(summary.model_dump(mode="json"))
        return
    if log.is_complete:
        click.echo(f"pairs of level 1 to {summary.num_levels}: {', '.join(f'{count:,}' for count in summary.counts)}")
        return
    edges = (min(summary.minimum, summary.boundaries[0]), *summary.boundaries)
    rows = [*zip(range(1, summary.num_levels + 1), summary.counts, edges, summary.mean_score_by_level, strict=True)]
    unscored = [("unscored", summary.unscored, None, None)] if summary.unscored else []
    print_table(f"Levels in {output}", ("level", "pairs", "from score", "mean score"), [*rows, *unscored])
    if summary.drift is not None:
        print_table(f"Drift: {summary.drift.status}", ("", "at the fit", "now"), _list_drift(summary.drift))
    print_next_step("pretrain", "--data", "PAIRS", "--images", "FOLDER", "--levels", output, *BACKBONES)


def _list_drift(drift: DriftReport) -> list[list[Any]]:
    """Return the fraction of each level and the score at each percentile, at the fit and now."""
    fitted, now = sum(drift.fitted_counts), sum(drift.counts)
    rows: list[list[Any]] = [
        ["population stability index", None, drift.population_stability_index],
        ["expected by chance", None, drift.expected_by_chance],
    ]
    for number, (left, right) in enumerate(zip(drift.fitted_counts, drift.counts, strict=True), 1):
        rows.append([f"fraction in level {number}", left / fitted, right / now])
    quantiles = drift.fitted_quantiles or dict.fromkeys(drift.quantiles)
    rows += [[f"score {name}", quantiles[name], drift.quantiles[name]] for name in drift.quantiles]
    return [*rows, ["below the fitted range", 0.0, drift.below], ["above the fitted range", 0.0, drift.above]]


@click.command("filter", cls=Command, example=FILTER_EXAMPLE)
@click.option("--data", metavar="SOURCE", required=True, help="The pairs that were scored.")
@click.option("--images", type=FOLDER, help="Folder of the images, if the pairs have absolute image paths.")
@click.option("--scores", type=FOLDER, required=True, help="Folder written by aligngpt score.")
@click.option("--levels", type=LEVELS, help=f"{LEVELS_HELP}, for filters on levels.")
@click.option(
    "--output", type=OutputPath(path_type=Path), required=True, help="File or folder, in the format of the pairs."
)
@click.option("--min-level", type=int, help="Lowest level to retain.")
@click.option("--max-level", type=int, help="Highest level to retain.")
@click.option("--keep-levels", type=LEVEL_LIST, default=(), show_default=False, help="Levels to retain.")
@click.option("--min-score", type=float, help="Lowest score to retain.")
@click.option("--max-score", type=float, help="Highest score to retain.")
@click.option("--exclude", metavar="ISSUE", multiple=True, help=f"Skip pairs with an issue: {_ISSUES}. Repeatable.")
@click.option("--only", metavar="ISSUE", multiple=True, help="Retain only pairs with such an issue, to inspect them.")
@click.option(
    "--level-weights",
    type=WEIGHTS,
    default={},
    show_default=False,
    help="How often pairs of a level are written on average: 0.2 is every fifth, 2 is twice. [default: 1 each]",
)
@click.option("--seed", type=int, default=0, help="Random seed for --level-weights.")
@click.option("--write-levels", is_flag=True, help="Also write alignment_level of each pair.")
@json_option
def filter_(as_json: bool, **arguments: Any) -> None:
    """Filter pairs by scores, levels and quality issues.

    A pair is retained if it passes all filters. Fields, order and format do not change. filter.json in the output
    folder, or FILE.filter.json next to an output FILE, states what was retained and why the others were skipped.
    """
    from aligngpt.curation.filtering import filter_pairs

    with logs_to_stderr() as log:
        result = filter_pairs(**arguments)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    output = arguments["output"]
    if log.is_complete:
        click.echo(f"{result.num_retained:,} of {result.num_read:,} pairs retained")
        return
    rows: list[list[Any]] = [["read", result.num_read], ["retained", result.num_retained]]
    if result.num_written != result.num_retained:
        rows.append(["written, with repetitions", result.num_written])
    rows += [[f"skipped: {reason}", count] for reason, count in result.skipped.items()]
    print_table(f"Pairs in {output}", ("", "pairs"), rows)
    if result.read_by_level:
        by_level = zip(result.read_by_level, result.written_by_level, strict=True)
        print_table("By level", ("level", "read", "written"), [[n, *counts] for n, counts in enumerate(by_level, 1)])
    images = [] if arguments["images"] is None else ["--images", arguments["images"]]
    levels = [] if arguments["write_levels"] else ["--levels", arguments["levels"] or "LEVELS"]
    print_next_step("pretrain", "--data", output, *images, *levels, *BACKBONES)
