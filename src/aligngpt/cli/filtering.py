"""`select`: pairs kept or dropped by their grades."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligngpt.cli.base import Command
from aligngpt.cli.output import print_json, print_table, results_alone
from aligngpt.cli.params import FOLDER, json_option

if TYPE_CHECKING:
    from aligngpt.curation.filtering import SelectionSummary
    from aligngpt.curation.filters import Defect

SELECT_EXAMPLE = """
aligngpt select --pairs pairs.json --scores scores --levels levels --min-level 3 --output good.json
aligngpt select --pairs pairs.json --scores scores --drop-defect error --drop-defect mismatch:5 --output clean.json
aligngpt select --pairs 'shards/{000..099}.tar' --scores scores --levels levels --weights 1:0.2,8:2 --output mixed
"""
_DEFECTS = (
    "error, truncated_caption, duplicate_image, duplicate_pair, reused_caption:IMAGES, mismatch:PERCENT, "
    "boundary:DISTANCE"
)


class Parsed(click.ParamType):
    """Text that a function reads.

    Args:
        name: What help calls it.
        read: Raises a `ValueError` if the text cannot be read.
        wanted: What it should have been; if not given, what the error says.
    """

    def __init__(self, name: str, read: Callable[[str], Any], wanted: str | None = None) -> None:
        self.name = name
        self._read, self._wanted = read, wanted

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what the text says.

        Raises:
            click.BadParameter: If it cannot be read.
        """
        try:
            return self._read(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(f"expected {self._wanted}, got {value!r}." if self._wanted else f"{error}.", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


def _defect(text: str) -> Defect:
    from aligngpt.curation.filters import Defect

    return Defect.parse(text)


def _levels(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _weights(text: str) -> dict[int, float]:
    pairs = [part.split(":") for part in text.split(",")]
    weights = {int(level): float(weight) for level, weight in pairs}
    if len(weights) < len(pairs):
        raise ValueError("a level stands there twice")
    return weights


DEFECT = Parsed("DEFECT", _defect)
LEVELS = Parsed("L,L,...", _levels, "levels such as 3,4")
WEIGHTS = Parsed("L:W,...", _weights, "one weight for a level, such as 1:0.2,8:2")


@click.command(cls=Command, example=SELECT_EXAMPLE)
@click.option("--pairs", metavar="SOURCE", required=True, help="The pairs that were scored.")
@click.option("--scores", type=FOLDER, required=True, help="Folder written by aligngpt score.")
@click.option("--levels", type=FOLDER, help="Folder written by aligngpt level, for what concerns levels.")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="File or folder, in the format of the pairs."
)
@click.option("--min-level", type=int, help="Lowest level that is kept.")
@click.option("--max-level", type=int, help="Highest level that is kept.")
@click.option("--keep-levels", type=LEVELS, default=(), show_default=False, help="The levels that are kept.")
@click.option("--min-score", type=float, help="Lowest score that is kept.")
@click.option("--max-score", type=float, help="Highest score that is kept.")
@click.option("--drop-defect", type=DEFECT, multiple=True, help=f"Drop pairs with this defect: {_DEFECTS}. Repeatable.")
@click.option("--only-defect", type=DEFECT, multiple=True, help="Keep only pairs with such a defect, to look at them.")
@click.option(
    "--weights",
    type=WEIGHTS,
    default={},
    show_default=False,
    help="How often pairs of a level are written on average: 0.2 is every fifth, 2 is twice. [default: 1 each]",
)
@click.option("--seed", type=int, default=0, help="Of the draw for --weights.")
@click.option("--write-levels", is_flag=True, help="Also write each pair's alignment_level.")
@json_option
@click.pass_context
def select(
    ctx: click.Context,
    pairs: str,
    scores: Path,
    levels: Path | None,
    output: Path,
    write_levels: bool,
    as_json: bool,
    **rules: Any,
) -> None:
    """Keep or drop pairs by their grades.

    A pair is kept if it passes every rule that is given. Fields, order and format stay as they are;
    selection.json, in the output or beside it, says what was kept and why the rest was not.
    """
    from aligngpt.curation.filters import SelectionRules

    rules["drop_defects"], rules["only_defects"] = rules.pop("drop_defect"), rules.pop("only_defect")
    try:
        chosen = SelectionRules(**rules)
    except ValueError as error:
        raise click.UsageError(f"{error}.", ctx) from None
    if levels is None and (chosen.need_levels or write_levels):
        raise click.UsageError("What concerns levels needs the folder of --levels.", ctx)
    from aligngpt.curation.filtering import select_pairs
    from aligngpt.curation.scoring.store import read_manifest
    from aligngpt.data.sources import open_as_scored

    with results_alone():
        source = open_as_scored(pairs, read_manifest(scores))
        summary = select_pairs(source, scores, output, chosen, levels=levels, write_levels=write_levels)
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary, output)


def _print_summary(summary: SelectionSummary, output: Path) -> None:
    rows: list[list[Any]] = [["read", summary.read], ["kept", summary.kept]]
    if summary.written != summary.kept:
        rows.append(["written, with copies", summary.written])
    rows += [[f"dropped: {reason}", count] for reason, count in summary.dropped.items()]
    print_table(f"Selection in {output}", ("", "pairs"), rows)
    if summary.read_by_level:
        by_level = zip(summary.read_by_level, summary.written_by_level, strict=True)
        print_table("By level", ("level", "read", "written"), [[n, *counts] for n, counts in enumerate(by_level, 1)])
