"""`score` and `level`: pairs to CLIP scores, scores to alignment levels."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from aligngpt.cli.base import Command
from aligngpt.cli.output import plain, print_json, print_table, print_warnings, results_alone
from aligngpt.cli.params import FILE, FOLDER, MODEL, NEW_FILE, NEW_FOLDER, SHARD, json_option, strict_option
from aligngpt.utils.constants import MAX_LEVELS, MIN_LEVELS
from aligngpt.utils.text import printable

if TYPE_CHECKING:
    from aligngpt.curation.drift import DriftReport
    from aligngpt.curation.levels import LevelSummary
    from aligngpt.curation.scoring.store import ScoreSummary
    from aligngpt.data.sources import Source

SCORE_EXAMPLE = """
aligngpt score --pairs runs/synthetic/data/pretrain.json --images runs/synthetic/data/images \\
    --scorer synthetic-clip --output scores
aligngpt score --pairs 'shards/{00000..00331}.tar' --scorer clip-vit-large-patch14-336 --output scores --shard 1/4
aligngpt score --pairs 'shards/{00000..00331}.tar' --scorer clip-vit-large-patch14-336 --output scores --engine ray
"""
_NAMED = 100

LEVEL_EXAMPLE = """
aligngpt level --scores scores --output levels
aligngpt level --fit scores --apply new-scores --output new-levels
aligngpt level --scores new-scores --output new-levels --fitted levels/levels.json
"""


@click.command(cls=Command, example=SCORE_EXAMPLE)
@click.option(
    "--pairs",
    metavar="SOURCE",
    required=True,
    help="Image-text pairs: .json, .jsonl, .parquet or .tar, a folder of these or of datasets, or 'x/{00..99}.tar'.",
)
@click.option("--images", type=FOLDER, help="Folder the pairs' image paths start from, where they have paths.")
@click.option(
    "--scorer",
    "scorers",
    type=MODEL,
    required=True,
    multiple=True,
    help="Folder of a CLIP-like model, or synthetic-clip. Repeatable: all score in one pass, the first counts.",
)
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for the scores; finished shards are kept.")
@click.option(
    "--long-captions",
    type=click.Choice(["truncate", "chunk-mean"]),
    default="truncate",
    help="Read the beginning of a caption beyond the model's limit, or all of it in pieces.",
)
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", help="This machine, or those of a Ray cluster."
)
@click.option("--actors", type=click.IntRange(min=1), help="With ray: processes with the scorers.  [default: per GPU]")
@click.option("--address", metavar="HOST:PORT", help="With ray: the cluster, or auto.  [default: start one here]")
@click.option("--shard", type=SHARD, default="1/1", help="Score this share of the shards; other runs do the rest.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes that decode images.  [default: one per CPU]")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, help="Images embedded at once.")
@click.option("--image-column", metavar="NAME", help="Field of the image.  [default: image, image_path or file_name]")
@click.option("--caption-column", metavar="NAME", help="Field of the text.  [default: conversations, caption or text]")
@click.option("--id-column", metavar="NAME", help="Field of the id.  [default: id or key]")
@strict_option
@json_option
def score(
    pairs: str,
    images: Path | None,
    scorers: tuple[Path, ...],
    output: Path,
    long_captions: Literal["truncate", "chunk-mean"],
    engine: Literal["local", "ray"],
    actors: int | None,
    address: str | None,
    shard: tuple[int, int],
    workers: int | None,
    batch_size: int,
    image_column: str | None,
    caption_column: str | None,
    id_column: str | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Score every pair by how well image and text agree.

    The score is the cosine of their embeddings under a CLIP-like model. A record that cannot be used has
    its reason in the scores instead; reasons are counted, and the first hundred named, on standard error.
    """
    if engine == "local" and (actors or address):
        raise click.UsageError("--actors and --address are for --engine ray.")
    if engine == "ray" and workers == 0:
        raise click.UsageError("--engine ray decodes in processes of its own: --workers must be at least 1.")
    with results_alone():
        from aligngpt.curation.scoring.local_backend import NothingScored
        from aligngpt.data.sources import open_source

        if engine == "ray":  # its processes are in folders of their own
            pairs, images = _absolute(pairs), images and images.absolute()
        source = open_source(
            pairs, images, image_column=image_column, caption_column=caption_column, id_column=id_column
        )
        settings: dict[str, Any] = {"batch_size": batch_size, "shard": shard, "long_captions": long_captions}
        try:
            if engine == "ray":
                summary = _score_with_ray(source, scorers, output, settings, actors, workers, address)
            else:
                summary = _score_here(source, scorers, output, settings, workers)
        except NothingScored as error:
            _tell_failures(pairs, output, error.summary, strict)
            raise
        _tell_failures(pairs, output, summary, strict)
    if as_json:
        print_json(summary)
        return
    print_table(f"Scores in {output}", ("", ""), _score_rows(summary))


def _score_here(
    source: Source, scorers: Sequence[Path], output: Path, settings: dict[str, Any], workers: int | None
) -> ScoreSummary:
    from aligngpt.curation.scoring.decoding import start_early
    from aligngpt.curation.scoring.local_backend import score_source
    from aligngpt.curation.scoring.scorers import ClipScorer

    if workers != 0:
        start_early()
    loaded = [ClipScorer.from_pretrained(folder, long_captions=settings["long_captions"]) for folder in scorers]
    return score_source(source, loaded, output, workers=workers, **settings)


def _score_with_ray(
    source: Source,
    scorers: Sequence[Path],
    output: Path,
    settings: dict[str, Any],
    actors: int | None,
    decoders: int | None,
    address: str | None,
) -> ScoreSummary:
    from aligngpt.curation.scoring.ray_backend import load_clip_scorers, score_source_with_ray

    load = partial(load_clip_scorers, [folder.absolute() for folder in scorers], settings["long_captions"])
    pools: dict[str, Any] = {"actors": actors, "decoders": decoders, "address": address}
    return score_source_with_ray(source, load, output, **pools, **settings)


def _absolute(place: str) -> str:
    """A source as it is found from any folder; a URL stays as it is."""
    return place if "://" in place else os.path.abspath(place)


def _tell_failures(pairs: str, output: Path, summary: ScoreSummary, strict: bool) -> None:
    """Count the records without a score by reason and name the first of them.

    Raises:
        StrictDataError: If there are any and none is allowed.
    """
    from aligngpt.curation.scoring.store import iter_errors
    from aligngpt.data.schema import BadRecord, StrictDataError

    if not summary.failed:
        return
    rows = islice(iter_errors(output), _NAMED)
    named = [str(BadRecord(str(pairs), None, row["id"], row["image"], row["error"])) for row in rows]
    more = summary.failed - len(named)
    what = f"{summary.failed} bad {'record' if summary.failed == 1 else 'records'}"
    click.echo(f"aligngpt: {what}, without a score:", err=True)
    for reason, count in summary.errors.items():
        click.echo(f"  {count:6d}  {reason}", err=True)
    for line in named:
        click.echo(f"  {printable(line)}", err=True)
    if more:
        click.echo(f"  and {more} more, which the column `error` of the scores names", err=True)
    if strict:
        total = summary.scored + summary.failed
        raise StrictDataError(f"{summary.failed} of {total} records are bad, the first is {named[0]}")


def _score_rows(summary: ScoreSummary) -> list[list[Any]]:
    told = plain(summary)
    rows = [[name, value] for name, value in told.items() if name not in ("errors", "agreement")]
    rows = [row for row in rows if row[0] != "missing_shards" or row[1]]
    for one in summary.agreement:
        rows += [[f"{what} of {' and '.join(one['scorers'])}", one[what]] for what in ("spearman", "equal_levels")]
    return rows


def _required_without_apply(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Ask for --scores unless --fit or --apply, which are parsed first if they are given, stands in its place."""
    if value is None and not (ctx.params.get("fit") or ctx.params.get("apply")):
        raise click.MissingParameter(ctx=ctx, param=param)
    return value


def _rising_numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers such as 0.2,0.25,0.3.", ctx, param) from None
    if any(not lower < upper for lower, upper in pairwise((-math.inf, *numbers, math.inf))):
        raise click.BadParameter(f"boundaries must rise, got {value}.", ctx, param)
    return numbers


@click.command(cls=Command, example=LEVEL_EXAMPLE)
@click.option("--fit", type=FOLDER, help="Scores to fit the boundaries on, for those of --apply; reports their drift.")
@click.option("--apply", type=FOLDER, help="Scores to be cut at the boundaries of --fit.")
@click.option(
    "--scores",
    type=FOLDER,
    callback=_required_without_apply,
    help="Folder written by aligngpt score; required without --fit and --apply.",
)
@click.option("--output", type=NEW_FOLDER, required=True, help="Folder for levels.parquet and levels.json.")
@click.option("--num-levels", type=click.IntRange(MIN_LEVELS, MAX_LEVELS), default=8, help="How many levels.")
@click.option(
    "--strategy",
    type=click.Choice(["quantile", "uniform"]),
    default="quantile",
    help="Levels of equal frequency or of equal width.",
)
@click.option(
    "--boundaries", metavar="S,S,...", callback=_rising_numbers, help="Rising scores to cut at instead of fitting any."
)
@click.option("--fitted", type=FILE, help="A levels.json whose boundaries are applied instead of fitting new ones.")
@click.option("--scorer", metavar="NAME", help="Whose scores are cut where there are several.  [default: the first]")
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
    fit: Path | None,
    apply: Path | None,
    scores: Path | None,
    output: Path,
    num_levels: int,
    strategy: Literal["quantile", "uniform"],
    boundaries: tuple[float, ...] | None,
    fitted: Path | None,
    scorer: str | None,
    write_pairs: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    """Cut scores into alignment levels, counted from 1, the worst.

    With --fit and --apply, or with --fitted, it also tells how far the scores have moved from those of the fit.
    """
    if (fit is None) != (apply is None) or (fit and scores):
        raise click.UsageError("--fit and --apply go together and stand in the place of --scores", ctx)
    _check_one_origin(ctx, boundaries, fit, fitted)
    from aligngpt.curation.levels import write_levels

    with results_alone():
        summary = write_levels(
            cast(Path, scores or apply),
            output,
            num_levels=num_levels,
            strategy=strategy,
            boundaries=boundaries,
            fit_scores=fit,
            fitted=fitted,
            scorer=scorer,
            write_pairs=write_pairs,
        )
    print_warnings(summary.warnings)
    if as_json:
        print_json(summary)
        return
    print_table(f"Levels in {output}", ("level", "pairs", "from score", "mean score"), _level_rows(summary))
    if summary.drift is not None:
        print_table(*_drift_table(summary.drift))


def _check_one_origin(
    ctx: click.Context, boundaries: tuple[float, ...] | None, fit: Path | None, fitted: Path | None
) -> None:
    """Boundaries come from one place only."""
    given = click.core.ParameterSource.COMMANDLINE
    named = given in (ctx.get_parameter_source("num_levels"), ctx.get_parameter_source("strategy"))
    if fitted and named:
        raise click.UsageError("--num-levels and --strategy are those of the --fitted file; leave them out", ctx)
    if boundaries and named:
        raise click.UsageError("--num-levels and --strategy follow from --boundaries; leave them out", ctx)
    if fitted and (boundaries or fit):
        raise click.UsageError("boundaries come from --fitted, or from --boundaries or --fit, not from both", ctx)


def _level_rows(summary: LevelSummary) -> list[list[Any]]:
    fitted = summary.boundaries
    edges = (min(fitted.minimum, fitted.boundaries[0]), *fitted.boundaries)
    rows = zip(range(1, fitted.num_levels + 1), summary.counts, edges, summary.mean_score_by_level, strict=True)
    unscored = [["unscored", summary.unscored, None, None]] if summary.unscored else []
    return [*map(list, rows), *unscored]


def _drift_table(drift: DriftReport) -> tuple[str, tuple[str, ...], list[list[Any]]]:
    """Title, heads and rows: the share of each level and the score at each percentile, at the fit and now."""
    fitted, now = sum(drift.fitted_counts), sum(drift.counts)
    shares = zip(drift.fitted_counts, drift.counts, strict=True)
    rows: list[list[Any]] = [
        ["population stability index", None, drift.population_stability_index],
        ["expected by chance", None, drift.expected_by_chance],
    ]
    rows += [
        [f"share of level {level}", before / fitted, count / now] for level, (before, count) in enumerate(shares, 1)
    ]
    quantiles = drift.fitted_quantiles or dict.fromkeys(drift.quantiles)
    rows += [[f"score {name}", quantiles[name], drift.quantiles[name]] for name in drift.quantiles]
    rows += [["below the fitted range", 0.0, drift.below], ["above the fitted range", 0.0, drift.above]]
    return f"Drift: {drift.reading}", ("", "at the fit", "now"), rows
