"""Sphinx directives that write reference tables from the code, so that facts about files and options exist once.

{artifact} aligngpt.curation.artifacts.LevelsSummary     fields of a JSON file
{config} aligngpt.training.configs.PretrainConfig        fields and defaults of a config
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from docutils import nodes
from pydantic import BaseModel, TypeAdapter
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def load(name: str) -> Any:
    """Import a class by its dotted name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def describe_type(schema: dict[str, Any]) -> str:
    """Write the type of a JSON schema in words, such as `list of number`."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(describe_type(choice) for choice in schema["anyOf"]))
    kind = schema.get("type", "any")
    if kind == "array" and "items" in schema:
        return f"list of {describe_type(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {describe_type(schema['additionalProperties'])}"
    return str(kind)


class TableDirective(SphinxDirective):
    """A directive with one argument, the dotted name of a class."""

    required_arguments = 1

    def table(self, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[nodes.Node]:
        """Return a table; the text of each cell is Markdown."""
        lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
        return self.parse_text_to_nodes("\n".join(lines))


class Artifact(TableDirective):
    """The fields of a JSON file, and of the objects inside it."""

    def run(self) -> list[nodes.Node]:
        cls = load(self.arguments[0])
        schema = cls.model_json_schema(mode="serialization")
        written: list[nodes.Node] = self.parse_text_to_nodes(
            f"`{cls.FILE}`, written by `{cls.WRITTEN_BY}`; schema version {cls.VERSION}. {cls.__doc__.strip()}"
        )
        written += self.table(("field", "type", "description"), list(self.rows(schema)))
        for name, inner in schema.get("$defs", {}).items():
            if "properties" in inner:
                written += self.parse_text_to_nodes(f"**{name}**: {inner.get('description', '').strip()}")
                written += self.table(("field", "type", "description"), list(self.rows(inner)))
        return written

    @staticmethod
    def rows(schema: dict[str, Any]) -> list[tuple[str, ...]]:
        return [
            (f"`{name}`", describe_type(field), field.get("description", ""))
            for name, field in schema.get("properties", {}).items()
        ]


class Config(TableDirective):
    """The fields of a config with their defaults."""

    def run(self) -> list[nodes.Node]:
        cls = load(self.arguments[0])
        is_model = isinstance(cls, type) and issubclass(cls, BaseModel)
        schema = cls.model_json_schema() if is_model else TypeAdapter(cls).json_schema()
        defaults = {} if is_model else {field.name: field for field in dataclasses.fields(cls)}
        rows = []
        for name, field in schema["properties"].items():
            default = field.get("default", "" if name in defaults else "required")
            shown = "" if default == "" else f"`{default}`"
            rows.append((f"`{name}`", describe_type(field), shown, field.get("description", "")))
        return self.table(("field", "type", "default", "description"), rows)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("artifact", Artifact)
    app.add_directive("config", Config)
    return {"parallel_read_safe": True}
