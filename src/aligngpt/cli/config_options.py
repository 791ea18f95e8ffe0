"""Recipes on the command line: one option per field of a frozen dataclass, and a recipe from what was given.

A field `foo_bar` becomes `--foo-bar`; the field `foo_bar` of a nested recipe `finetune` becomes `--finetune.foo-bar`.
The help of an option is the field's metadata `help`, its default the field's value in the recipe shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

R = TypeVar("R")
FieldPath = tuple[str, ...]

_OVERRIDES = "aligngpt.cli.config_options.overrides"
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def coerce(hint: Any, value: Any) -> Any:
    """Turn a value from the command line (text) or from a recipe's JSON into what a field's type asks for.

    Args:
        hint: `int`, `float`, `str`, `bool`, `None`, a `Literal`, a `tuple`, or a union of them. A union takes the first
            member that fits, literals before `None` before numbers before tuples before text.
        value: Text, or a JSON value. The text of a tuple is split at its commas; the text of `None` is `none`.

    Raises:
        ValueError: If the value does not fit.
        TypeError: If the hint is none of the above; the fault is then in the recipe, not in the value.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _coerce_union(args, value)
    if origin is Literal:
        matches = [choice for choice in args if value == choice or value == str(choice)]
        if matches:
            return matches[0]
    elif origin is tuple:
        return _coerce_tuple(args, value)
    elif hint is type(None):
        if value is None or value == "none":
            return None
    elif hint is bool:
        if isinstance(value, bool) or str(value).lower() in _TRUTH:
            return value if isinstance(value, bool) else _TRUTH[str(value).lower()]
    elif hint in (int, float):
        if not isinstance(value, bool) and isinstance(value, str | int | hint):
            with contextlib.suppress(ValueError):
                return hint(value)
    elif hint is str:
        if isinstance(value, str):
            return value
    else:
        raise TypeError(f"a recipe field has the type {hint}, which the command line cannot express")
    raise ValueError(f"{value!r} is not {describe_type(hint)}")


def _coerce_union(members: Sequence[Any], value: Any) -> Any:
    def rank(hint: Any) -> int:
        kinds = [get_origin(hint) is Literal, hint is type(None), hint is bool, hint is int, hint is float]
        return kinds.index(True) if True in kinds else len(kinds) + (hint is str)

    for member in sorted(members, key=rank):
        try:
            return coerce(member, value)
        except ValueError:
            continue
    raise ValueError(f"{value!r} is none of {', '.join(map(describe_type, members))}")


def _coerce_tuple(members: Sequence[Any], value: Any) -> tuple[Any, ...]:
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError(f"{value!r} is not a list")
    if members[-1] is Ellipsis:
        return tuple(coerce(members[0], part) for part in parts)
    if len(parts) != len(members):
        raise ValueError(f"{value!r} has {len(parts)} values, {len(members)} are needed")
    return tuple(coerce(member, part) for member, part in zip(members, parts, strict=True))


def describe_type(hint: Any) -> str:
    """Name a field's type as the help shows it: `INTEGER`, `adaptive|none`, `FLOAT,...`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return "|".join(map(describe_type, args))
    if origin is Literal:
        return "|".join(map(str, args))
    if origin is tuple:
        return ",".join("..." if member is Ellipsis else describe_type(member) for member in args)
    return {int: "INTEGER", float: "FLOAT", str: "TEXT", bool: "BOOLEAN", type(None): "none"}.get(hint, str(hint))


class FieldType(click.ParamType):
    """The type of a recipe's field, as click checks and shows it."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        self.name = describe_type(hint)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert the text given; a default is passed as it is.

        Raises:
            click.BadParameter: If the text does not fit the field.
        """
        if not isinstance(value, str):
            return value
        try:
            return coerce(self.hint, value)
        except ValueError:
            self.fail(f"{value!r} is not {self.name}", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name


def leaves(recipe: Any, prefix: FieldPath = ()) -> list[tuple[FieldPath, Any, Any, str]]:
    """List a recipe's plain fields, nested ones included: (path, type, value, help)."""
    hints = get_type_hints(type(recipe))
    found = []
    for field in dataclasses.fields(recipe):
        path, value = (*prefix, field.name), getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            found += leaves(value, path)
        else:
            found.append((path, hints[field.name], value, str(field.metadata.get("help", ""))))
    return found


def option_name(path: FieldPath) -> str:
    """Name a field on the command line: ("finetune", "learning_rate") is `finetune.learning-rate`."""
    return ".".join(path).replace("_", "-")


def recipe_options(recipe: Any, without: Sequence[FieldPath] = ()) -> list[click.Option]:
    """Make one option per field of a recipe; what the user gives is kept for `recipe_from_context`.

    Args:
        recipe: Its values are the defaults shown.
        without: Fields that get no option.
    """
    return [_option(*leaf) for leaf in leaves(recipe) if leaf[0] not in without]


def _option(path: FieldPath, hint: Any, value: Any, help_text: str) -> click.Option:
    def remember(ctx: click.Context, param: click.Parameter, given: Any) -> None:
        if ctx.get_parameter_source(str(param.name)) is not ParameterSource.DEFAULT:
            ctx.meta.setdefault(_OVERRIDES, {})[path] = given

    name = option_name(path)
    flag = f"--{name}"
    if hint is bool:
        flag += f"/--{'.'.join((*path[:-1], 'no-' + path[-1])).replace('_', '-')}"
    return click.Option(
        ["__".join(path), flag],
        type=None if hint is bool else FieldType(hint),
        default=value,
        show_default=False,
        help=f"{help_text} [default: {_shown(value)}]",
        expose_value=False,
        callback=remember,
    )


def _shown(value: Any) -> str:
    """Write a default as it would be typed, or as on and off."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def apply_overrides(recipe: R, overrides: Mapping[FieldPath, Any]) -> R:
    """Return the recipe with some of its fields replaced, nested ones by their path.

    Raises:
        ValueError: If the recipe itself refuses the values.
    """
    changes: dict[str, Any] = {path[0]: value for path, value in overrides.items() if len(path) == 1}
    for part in {path[0] for path in overrides if len(path) > 1}:
        inner = {path[1:]: value for path, value in overrides.items() if path[0] == part and len(path) > 1}
        changes[part] = apply_overrides(getattr(recipe, part), inner)
    return dataclasses.replace(recipe, **changes)  # type: ignore[type-var]


def overrides_from_mapping(recipe: Any, values: Mapping[str, Any], source: str) -> dict[FieldPath, Any]:
    """Read the fields of a recipe out of its JSON form.

    Args:
        recipe: A recipe of the class the JSON was written from.
        values: Nested objects, as `dataclasses.asdict` makes them. Fields left out keep the recipe's values.
        source: Where the values come from, for the errors.

    Raises:
        ValueError: If a field is unknown or its value is of another type.
    """
    known = {path: hint for path, hint, _, _ in leaves(recipe)}
    parts = {path[:end] for path in known for end in range(1, len(path))}
    found: dict[FieldPath, Any] = {}

    def walk(level: Mapping[str, Any], prefix: FieldPath) -> None:
        for name, value in level.items():
            path = (*prefix, name)
            if path in parts and isinstance(value, Mapping):
                walk(value, path)
            elif path in known:
                found[path] = _checked(known[path], value, f"{source}: {'.'.join(path)}")
            else:
                raise ValueError(f"{source}: {'.'.join(path)} is no field of a {type(recipe).__name__}")

    walk(values, ())
    return found


def _checked(hint: Any, value: Any, where: str) -> Any:
    try:
        return coerce(hint, value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


@dataclasses.dataclass(frozen=True)
class RecipeBook:
    """The recipes a command can start from.

    Attributes:
        named: Name to the function that returns the recipe; all of one class.
        default: The name taken when `--recipe` is not given; its values are the defaults the help shows.
        settled: Fields that the recipe sets itself, so that there is no option for them.
    """

    named: Mapping[str, Callable[[], Any]]
    default: str
    settled: Sequence[FieldPath] = ()

    def options(self) -> list[click.Option]:
        """Make the options of the recipes."""
        return recipe_options(self.named[self.default](), without=self.settled)

    def load(self, name_or_file: str) -> Any:
        """Return a named recipe, or the one a run wrote.

        Args:
            name_or_file: A name, a JSON file, or a run's folder, which holds `recipe.json`.

        Raises:
            ValueError: If it is neither a name nor an existing file, or the file holds something else
                or another value of a field that the recipe sets itself.
        """
        if name_or_file in self.named:
            return self.named[name_or_file]()
        path = Path(name_or_file)
        path = path / "recipe.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"no recipe is called {name_or_file!r} ({', '.join(self.named)}), nor is it a recipe.json")
        from aligngpt.utils.io import read_json

        values = read_json(path)
        values = values.get("recipe", values) if isinstance(values, dict) else values
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a JSON object of recipe fields, found {type(values).__name__}")
        base = self.named[self.default]()
        given = overrides_from_mapping(base, values, str(path))
        recipe = apply_overrides(base, given)
        for field, _, value, _ in leaves(recipe):
            if field in self.settled and given.get(field, value) != value:
                raise ValueError(
                    f"{path}: {'.'.join(field)} is {given[field]}, but the recipe makes it {value}: leave it out"
                )
        return recipe


def recipe_from_context(ctx: click.Context, book: RecipeBook, name_or_file: str) -> Any:
    """Return the recipe a command was asked for: the one `--recipe` names, changed by the options given.

    Raises:
        click.UsageError: If there is no such recipe, or it refuses the values.
    """
    try:
        return apply_overrides(book.load(name_or_file), ctx.meta.get(_OVERRIDES, {}))
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from error
