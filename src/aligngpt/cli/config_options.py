"""Configurations on the command line: `--preset NAME`, `--config FILE.yaml`, and one option per field.

The field `learning_rate` becomes `--learning-rate`; the field `learning_rate` of the nested configuration `finetune`
becomes `--finetune.learning-rate`. Type, limits and help come from the class. Any command can use it:

    @click.command(cls=ConfigCommand, presets="aligngpt.training.configs:PRETRAIN_PRESETS", example="aligngpt ...")
    def pretrain(config: PretrainConfig) -> None: ...
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from click.core import ParameterSource

from aligngpt.cli.base import Command
from aligngpt.cli.params import EXISTING, Parsed

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def _parse_field(info: FieldInfo, text: str) -> Any:
    """Convert text as the configuration class does; a tuple has commas, and `none` is the absence of a value."""
    from pydantic import TypeAdapter, ValidationError

    from aligngpt.utils.config import STRICT, describe_error

    hint: Any = info.annotation
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if text == "none" and type(None) in members:
        return None
    is_tuple = any(get_origin(member) is tuple for member in members)
    value = [part.strip() for part in text.split(",")] if is_tuple else text
    checked: Any = Annotated[hint, *info.metadata] if info.metadata else hint
    try:
        return TypeAdapter(checked, config=STRICT).validate_python(value)
    except ValidationError as error:
        raise ValueError(describe_error(error)) from None


def describe_type(hint: Any) -> str:
    """Return the metavar of a type: `INTEGER`, `adaptive|none`, `FLOAT,FLOAT`."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return "|".join(map(describe_type, members))
    if origin is Literal:
        return "|".join(map(str, members))
    if origin is tuple:
        return ",".join("..." if member is Ellipsis else describe_type(member) for member in members)
    return {int: "INTEGER", float: "FLOAT", str: "TEXT", bool: "BOOLEAN", type(None): "none"}.get(hint, str(hint))


def config_options(defaults: Any, exclude: Collection[str] = ()) -> dict[str, click.Option]:
    """Return one option per field of a configuration, by the field's dotted name; `exclude` has such names."""
    from aligngpt.utils.config import list_fields

    options = {}
    for name, info in list_fields(type(defaults)).items():
        if name in exclude:
            continue
        flag = f"--{name.replace('_', '-')}"
        is_flag = info.annotation is bool
        if is_flag:
            section, dot, last = flag.removeprefix("--").rpartition(".")
            flag += f"/--{section}{dot}no-{last}"
        options[name] = click.Option(
            [name.replace(".", "__"), flag],
            type=None if is_flag else Parsed("VALUE", partial(_parse_field, info)),
            default=None,
            metavar=None if is_flag else describe_type(info.annotation),
            help=f"{info.description} [default: {_format_default(attrgetter(name)(defaults))}]",
        )
    return options


def _format_default(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)


class ConfigCommand(Command):
    """A command with one option per field of a configuration; its function gets the result as `config`.

    The configuration is imported when the command line is parsed or the help is shown, not before.

    Args:
        presets: `module:NAME` of functions that return the configurations, by name. The first is the default, and
            its values are the defaults that the help shows. With one preset there is no `--preset`.
        exclude: Dotted names of fields without an option.
        positional: Take preset or file as the argument `PRESET|FILE` instead of by `--preset` and `--config`. Its name
            without folder and suffix is then in `ctx.meta["preset"]`.
    """

    def __init__(
        self,
        name: str | None,
        *,
        presets: str,
        exclude: Collection[str] = (),
        positional: bool = False,
        **attributes: Any,
    ) -> None:
        super().__init__(name, **attributes)
        self._module, _, self._variable = presets.partition(":")
        self._exclude = exclude
        self._positional = positional

    @cached_property
    def presets(self) -> Mapping[str, Callable[[], Any]]:
        """Functions that return the configurations to start from."""
        return getattr(importlib.import_module(self._module), self._variable)

    @cached_property
    def options(self) -> dict[str, click.Option]:
        """The options of the configuration, by the dotted name of the field."""
        return config_options(next(iter(self.presets.values()))(), self._exclude)

    @cached_property
    def _config_params(self) -> list[click.Parameter]:
        if self._positional:
            return [click.Argument(["source"], metavar="PRESET|FILE"), *self.options.values()]
        names = list(self.presets)
        preset = click.Option(
            ["--preset"], metavar="NAME", default=names[0], help=f"Values to start from: {', '.join(names)}."
        )
        file = click.Option(
            ["--config", "file"],
            type=EXISTING,
            metavar="FILE",
            help=f"YAML file that replaces {'values of the preset' if len(names) > 1 else 'the defaults'}, such as the "
            "config.yaml of another run.",
        )
        return [*([preset] if len(names) > 1 else []), file, *self.options.values()]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """List the command's own options, then those of the configuration."""
        return [*super().get_params(ctx), *self._config_params]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options and those of the configuration in two sections."""
        for title, params in (("Options", super().get_params(ctx)), ("Configuration", self._config_params)):
            with formatter.section(title):
                formatter.write_dl([entry for param in params if (entry := param.get_help_record(ctx)) and entry[1]])

    def invoke(self, ctx: click.Context) -> Any:
        """Load the configuration, then run the command.

        Raises:
            click.UsageError: The configuration is invalid.
        """
        from aligngpt.utils.config import load_config
        from aligngpt.utils.text import suggest

        overrides = {}
        for name, option in self.options.items():
            value = ctx.params.pop(str(option.name))
            if ctx.get_parameter_source(str(option.name)) is not ParameterSource.DEFAULT:
                overrides[name] = value
        presets = self.presets
        preset, file = ctx.params.pop("preset", None), ctx.params.pop("file", None)
        if self._positional:
            source = ctx.params.pop("source")
            preset, file = (source, None) if source in presets else (None, Path(source))
            if file is not None and not file.exists():
                hint = suggest(source, presets) or f"; choose from {', '.join(presets)}"
                raise click.UsageError(f"{source!r} is neither a preset nor an existing file{hint}", ctx)
            ctx.meta["preset"] = Path(source).stem
        try:
            ctx.params["config"] = load_config(presets, preset, file, overrides)
        except (ValueError, OSError) as error:
            raise click.UsageError(str(error), ctx) from error
        return super().invoke(ctx)
