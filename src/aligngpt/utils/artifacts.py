"""Typed JSON files: one pydantic model for each file that one command writes and another reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aligngpt.utils.io import read_json, write_json


class Record(BaseModel):
    """A JSON object inside an artifact. Unknown fields are errors; a record is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), ser_json_inf_nan="null")


class Artifact(Record):
    """A JSON file with a fixed schema.

    Subclass it in the `artifacts.py` of the package whose command writes the file. The `description` of each field
    becomes its documentation, so the reference pages of the files are generated from these classes.

    Attributes:
        FILE: Name of the file in its folder.
        WRITTEN_BY: The command that writes it, for error messages and documentation.
        schema_version: Version of the schema; a file of another version is refused.
    """

    FILE: ClassVar[str]
    WRITTEN_BY: ClassVar[str]
    VERSION: ClassVar[int] = 1

    schema_version: int = 1

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read the file, or the file of the standard name in a folder.

        Raises:
            FileNotFoundError: It does not exist.
            ValueError: It is not JSON, or does not fit the schema; the message names file and field.
        """
        file = Path(path) / cls.FILE if Path(path).is_dir() else Path(path)
        value = read_json(file)
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != cls.VERSION:
            existing = "no schema_version" if version is None else f"schema_version {version}"
            raise ValueError(f"{file}: {existing}, expected {cls.VERSION}; write it again with `{cls.WRITTEN_BY}`")
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ValueError(f"{file}: {summarize_errors(error)}") from None

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the file atomically; `path` is the file or an existing folder, where it gets its standard name.

        Returns:
            The path of the file.
        """
        file = Path(path) / self.FILE if Path(path).is_dir() else Path(path)
        write_json(file, self.model_dump(mode="json"))
        return file


class RunArtifact(Artifact):
    """An artifact that records what wrote it."""

    versions: dict[str, str] = Field(description="Versions of Python and of the packages that influence results.")


def summarize_errors(error: ValidationError) -> str:
    """Write the first error of a validation in one line: `field: what is wrong`, and how many more there are."""
    first, *others = error.errors(include_url=False)
    name = ".".join(map(str, first["loc"])) or "content"
    more = f" (and {len(others)} more)" if others else ""
    return f"{name}: {first['msg']}{more}"
