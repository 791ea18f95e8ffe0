"""Parameter types and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligngpt.utils.models import find_model

if TYPE_CHECKING:
    from aligngpt.evaluation.benchmark import Benchmark

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class OutputPath(click.Path):
    """A path to write to; an empty one, which would be the current folder, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path.

        Raises:
            click.BadParameter: The path is empty or of the wrong kind.
        """
        if not str(value).strip():
            self.fail("the path is empty.", param, ctx)
        return super().convert(value, param, ctx)


NEW_FILE = OutputPath(dir_okay=False, path_type=Path)
NEW_FOLDER = OutputPath(file_okay=False, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON to standard output.")
strict_option = click.option("--strict", is_flag=True, help="Stop with exit code 3 if any record is bad.")


class ModelName(click.ParamType):
    """A model: a folder, a bundled model (`synthetic-clip`, `synthetic-llm`) or a hub name (`org/name[@revision]`).

    Args:
        files: A model folder contains at least one of these files.
    """

    name = "MODEL"

    def __init__(self, *files: str) -> None:
        self._files = files

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """Return the folder, or a hub name unchanged; the command downloads it.

        Raises:
            click.BadParameter: The folder does not exist or is not a model folder.
        """
        try:
            folder = find_model(value)
        except FileNotFoundError as error:
            self.fail(f"{error}.", param, ctx)
        if folder is None:
            return value
        if not any((folder / name).is_file() for name in self._files):
            self.fail(f"{folder} is not a model folder; {' or '.join(self._files)} is missing.", param, ctx)
        return folder

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


class AlignmentSetting(click.ParamType):
    """An alignment setting: a name, a level from 1, or one weight per level."""

    name = "SETTING"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int | tuple[float, ...]:
        """Return a name unchanged, a level as an integer, weights as floats.

        Raises:
            click.BadParameter: The setting is invalid.
        """
        from aligngpt.modeling.settings import parse_setting

        try:
            return parse_setting(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


class Shard(click.ParamType):
    """One of n shards of the work, such as `2/8`."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return (i, n).

        Raises:
            click.BadParameter: The value is not two integers with 1 <= i <= n.
        """
        if isinstance(value, tuple):
            return value
        index, _, count = value.partition("/")
        if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            self.fail(f"{value!r} is not a shard; write I/N with 1 <= I <= N, such as 2/8.", param, ctx)
        return int(index), int(count)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


class BenchmarkName(click.ParamType):
    """The name of a benchmark; the benchmarks are imported when a name is given, not before."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Benchmark:
        """Return the benchmark.

        Raises:
            click.BadParameter: There is none of this name.
        """
        from aligngpt.evaluation.benchmarks import BENCHMARKS

        if not isinstance(value, str):
            return value
        if value not in BENCHMARKS:
            self.fail(f"{value!r} is not a benchmark; choose from {', '.join(BENCHMARKS)}.", param, ctx)
        return BENCHMARKS[value]

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


BENCHMARK = BenchmarkName()
MODEL = ModelName("config.json")
TRAINED = ModelName("config.json", "stage1.json")
ALIGNMENT = AlignmentSetting()
SHARD = Shard()

alignment_option = click.option(
    "--alignment",
    type=ALIGNMENT,
    help="Alignment setting: a level from 1, adaptive, global, local, average, none, or one weight per level "
    "(0.5,0.5,...). [default: the model's own]",
)
