"""Kinds of arguments several commands take: model folders, alignment settings, files and folders that must exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import aligngpt

BUNDLED = {"synthetic-clip": "clip", "synthetic-llm": "llm"}
ALIGNMENT_NAMES = ("adaptive", "global", "local", "average", "none")

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
strict_option = click.option("--strict", is_flag=True, help="Stop with exit code 3 if any record is bad.")


class ModelFolder(click.ParamType):
    """A folder with a model in it, or the name of one that is shipped: `synthetic-clip`, `synthetic-llm`.

    Args:
        marks: A folder with any of these files is one.
    """

    name = "FOLDER"

    def __init__(self, *marks: str) -> None:
        self._marks = marks

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the folder.

        Raises:
            click.BadParameter: If it is missing or holds none of the files.
        """
        folder = bundled_folder(value) if value in BUNDLED else Path(value)
        if not folder.is_dir():
            remedy = "make it with: aligngpt scenes backbones" if value in BUNDLED else "only folders on disk are read"
            self.fail(f"model folder '{folder}' does not exist; {remedy}.", param, ctx)
        if not any((folder / mark).is_file() for mark in self._marks):
            self.fail(f"'{folder}' is not a model folder: it has no {' or '.join(self._marks)}.", param, ctx)
        return folder

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


def bundled_folder(name: str) -> Path:
    """Return where a shipped base model lies.

    Args:
        name: `synthetic-clip` or `synthetic-llm`.
    """
    return Path(aligngpt.__file__).parent / "synthetic" / "weights" / BUNDLED[name]


class AlignmentSetting(click.ParamType):
    """How the alignment embedding is made: a name, a level counted from 1, or one weight per level."""

    name = "SETTING"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int | tuple[float, ...]:
        """Return a name as it is, a level as an int, weights as floats.

        Raises:
            click.BadParameter: If it is none of these.
        """
        if not isinstance(value, str) or value in ALIGNMENT_NAMES:
            return value
        try:
            setting = tuple(float(part) for part in value.split(",")) if "," in value else int(value)
        except ValueError:
            choices = ", ".join(ALIGNMENT_NAMES)
            self.fail(f"{value!r} is no level (3), none of {choices}, and no weights (0.5,0.5).", param, ctx)
        if isinstance(setting, int) and setting < 1:
            self.fail(f"levels are counted from 1, got {setting}.", param, ctx)
        return setting

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


class Share(click.ParamType):
    """One of n shares of the work, `2/8`."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return (i, n).

        Raises:
            click.BadParameter: If it is not two numbers, 1 <= i <= n.
        """
        if isinstance(value, tuple):
            return value
        which, _, shares = value.partition("/")
        if not (which.isdigit() and shares.isdigit() and 1 <= int(which) <= int(shares)):
            self.fail(f"{value!r} is no share such as 2/8, the second of eight.", param, ctx)
        return int(which), int(shares)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


MODEL = ModelFolder("config.json")
TRAINED = ModelFolder("config.json", "stage1.json")
ALIGNMENT = AlignmentSetting()
SHARE = Share()

alignment_option = click.option(
    "--alignment",
    type=ALIGNMENT,
    help="A level counted from 1, adaptive, global, local, average, none, or one weight per level (0.5,0.5,...). "
    "[default: the model's own]",
)
