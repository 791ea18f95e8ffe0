"""Parameter types and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligngpt.utils.models import find_model

if TYPE_CHECKING:
    from aligngpt.evaluation.benchmark import Benchmark


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


class Parsed(click.ParamType):
    """Text that a function converts.

    Args:
        name: Metavar of the option.
        parse: Returns the value; raises a `ValueError` or `FileNotFoundError` for invalid text.
        expected: Description of valid text, which replaces the message of that error.
    """

    def __init__(self, name: str, parse: Callable[[str], Any], expected: str | None = None) -> None:
        self.name, self._parse, self._expected = name, parse, expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed text; other values are defaults and do not change.

        Raises:
            click.BadParameter: The text is invalid.
        """
        try:
            return self._parse(value) if isinstance(value, str) else value
        except (ValueError, FileNotFoundError) as error:
            message = f"expected {self._expected}, got {value!r}" if self._expected else str(error)
            self.fail(message if message.endswith("?") else f"{message}.", param, ctx)


def _parse_model(name: str, *files: str) -> str | Path:
    """Return the folder of a model, which contains at least one of `files`, or a hub name unchanged."""
    folder = find_model(name)
    if folder is not None and not any((folder / file).is_file() for file in files):
        raise ValueError(f"{folder} is not a model folder; {' or '.join(files)} is missing")
    return folder or name


def _parse_levels(text: str) -> Path:
    path = Path(text) / "levels.parquet" if Path(text).is_dir() else Path(text)
    if not path.is_file():
        raise ValueError(f"'{path}' does not exist; write it with aligngpt level")
    if path.suffix != ".parquet":
        raise ValueError(f"'{path}' is not a levels.parquet; pass that file or its folder")
    return path


def _parse_alignment(text: str) -> str | int | tuple[float, ...]:
    from aligngpt.modeling.settings import parse_setting

    return parse_setting(text)


def _parse_shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise ValueError(f"{text!r} is not a shard; write I/N with 1 <= I <= N, such as 2/8")
    return int(index), int(count)


def _parse_benchmark(name: str) -> Benchmark:
    from aligngpt.evaluation.benchmarks import get_benchmark

    return get_benchmark(name)


def _parse_tasks(names: str) -> list[str]:
    from aligngpt.evaluation.benchmarks import select_benchmarks

    return [benchmark.name for benchmark in select_benchmarks(names)]


EXISTING = click.Path(exists=True, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NEW_FILE = OutputPath(dir_okay=False, path_type=Path)
NEW_FOLDER = OutputPath(file_okay=False, path_type=Path)
MODEL = Parsed("MODEL", lambda name: _parse_model(name, "config.json"))
TRAINED = Parsed("MODEL", lambda name: _parse_model(name, "config.json", "stage1.json"))
ALIGNMENT = Parsed("SETTING", _parse_alignment)
LEVELS = Parsed("PATH", _parse_levels)
SHARD = Parsed("I/N", _parse_shard)
BENCHMARK = Parsed("NAME", _parse_benchmark)
TASKS = Parsed("NAME,...|all", _parse_tasks)
POSITIVE = click.IntRange(min=1)

LEVELS_HELP = "Folder written by aligngpt level, or its levels.parquet"  # of every option that takes levels
OR_HUB_NAME = "or a hub name (org/name[@revision])"  # completes the help of every option that takes a model

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON to standard output.")
strict_option = click.option("--strict", is_flag=True, help="Stop with exit code 3 if any record is bad.")
images_option = click.option("--images", type=FOLDER, help="Folder that image paths are relative to, if there are any.")
trained_option = click.option(
    "--model", type=TRAINED, required=True, help=f"Trained model or stage-1 checkpoint: a folder {OR_HUB_NAME}."
)
alignment_option = click.option(
    "--alignment",
    type=ALIGNMENT,
    help="Alignment setting: a level from 1, adaptive, global, local, average, none, or one weight per level "
    "(0.5,0.5,...). [default: the model's own]",
)
