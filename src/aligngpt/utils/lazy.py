"""Public names that import their module at first use, so that `import aligngpt` loads no heavy library."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def export_lazily(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package whose public names live in other modules.

    Args:
        package: Name of the package.
        modules: The module of each public name, or `module:attribute` where the attribute has another name.
    """

    def get_attribute(name: str) -> Any:
        if name not in modules:
            known = ", ".join(modules)
            raise AttributeError(f"module {package!r} has no attribute {name!r}; its public names are {known}")
        module, _, attribute = modules[name].partition(":")
        value = getattr(importlib.import_module(module), attribute or name)
        setattr(sys.modules[package], name, value)
        return value

    def list_attributes() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get_attribute, list_attributes
