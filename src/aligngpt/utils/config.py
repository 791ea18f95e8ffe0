"""Configurations: frozen pydantic dataclasses; a preset, a YAML file and overrides give the values, in that order.

    @dataclass(frozen=True, config=STRICT)  # pydantic.dataclasses.dataclass
    class TrainConfig:
        learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate.")

A configuration may hold others; their fields have dotted names, such as `finetune.learning_rate`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.fields import FieldInfo

from aligngpt.utils.io import atomic_path, read_bytes
from aligngpt.utils.text import suggest

C = TypeVar("C")

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
CONFIG_FILE = "config.yaml"


def load_config(
    presets: Mapping[str, Callable[[], C]],
    preset: str | None = None,
    file: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> C:
    """Return the configuration of a preset, changed by a YAML file, then by single values.

    Args:
        presets: Functions that return configurations of one class, by name. The first is the default.
        preset: Name of the preset to start from.
        file: YAML file, or a folder with the `config.yaml` of a run. Fields that it does not have keep their value.
        overrides: Values by dotted field name.

    Raises:
        ValueError: A preset or field does not exist (the message names the nearest one), or a value is invalid.
    """
    name = next(iter(presets)) if preset is None else preset
    if name not in presets:
        raise ValueError(f"preset {name!r} does not exist{suggest(name, presets)}; choose from {', '.join(presets)}")
    base = presets[name]()
    layers = [("", _flatten(dataclasses.asdict(base)))]  # type: ignore[call-overload]
    if file is not None:
        path = Path(file) / CONFIG_FILE if Path(file).is_dir() else Path(file)
        layers.append((f"{path}: ", _flatten(read_yaml(path))))
    layers.append(("", dict(overrides or {})))
    fields = list_fields(type(base))
    values, sources = {}, {}
    for source, layer in layers:
        for field, value in layer.items():
            _check_field(field, value, fields, source)
            values[field], sources[field] = value, source
    try:
        return TypeAdapter(type(base)).validate_python(_nest(values))
    except ValidationError as error:
        location = ".".join(map(str, error.errors()[0]["loc"])) + "."
        source = next((sources[field] for field in sources if location.startswith(f"{field}.")), "")
        raise ValueError(source + describe_error(error)) from None


def list_fields(cls: type, prefix: str = "") -> dict[str, FieldInfo]:
    """Return the fields of a configuration class by dotted name, those of nested configurations included."""
    fields: dict[str, FieldInfo] = {}
    for name, info in cls.__pydantic_fields__.items():  # type: ignore[attr-defined]
        if isinstance(info.annotation, type) and is_pydantic_dataclass(info.annotation):
            fields |= list_fields(info.annotation, f"{prefix}{name}.")
        else:
            fields[prefix + name] = info
    return fields


def describe_error(error: ValidationError) -> str:
    """Write the first error of a validation in one line: `learning_rate: input should be greater than 0, got -1.0`."""
    detail = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in detail["loc"] if isinstance(part, int) or part.isidentifier())
    if detail["type"] == "value_error":  # raised by a check of the configuration, which names its field
        return f"{name}{'.' if name else ''}{detail['ctx']['error']}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{f'{name}: ' if name else ''}{message}, got {detail['input']!r}"


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; JSON is YAML as well.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not YAML (the message names file, line and column), or not a mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(read_bytes(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        position = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ValueError(f"{path}{position}: broken YAML: {getattr(error, 'problem', None) or error}") from None
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of configuration fields, got {type(values).__name__}")
    return values or {}


def write_yaml(path: str | os.PathLike[str], config: Any, comment: str = "") -> None:
    """Write a configuration as YAML, atomically; `load_config` reads back an equal one."""
    import yaml

    values = TypeAdapter(type(config)).dump_python(config, mode="json")
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    with atomic_path(path) as temporary:
        temporary.write_text(f"# {comment}\n{text}" if comment else text, encoding="utf-8")


def _flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    return nested


def _check_field(name: str, value: Any, fields: Mapping[str, FieldInfo], source: str) -> None:
    if name not in fields:
        if any(field.startswith(f"{name}.") for field in fields):
            raise ValueError(f"{source}{name}: expected a mapping of fields")
        raise ValueError(f"{source}field {name!r} does not exist{suggest(name, fields)}")
    hint = fields[name].annotation
    if isinstance(value, bool) and bool not in (hint, *get_args(hint)):  # pydantic would read it as 0 or 1
        raise ValueError(f"{source}{name}: expected a number or text, got {value}")
