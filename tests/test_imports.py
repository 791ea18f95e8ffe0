"""The layers of the package, and what `import aligngpt` leaves alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aligngpt

PACKAGE = Path(aligngpt.__file__).parent

# A package imports packages of lower layers only, never one of its own layer.
LAYERS: list[set[str]] = [
    {"utils"},
    {"data", "modeling", "synthetic"},
    {"curation", "inference"},
    {"training", "evaluation", "reporting", "serving"},
    {"experiments"},
    {"cli"},
]
LAYER = {package: number for number, layer in enumerate(LAYERS) for package in layer}
ROOT = {"__init__", "__main__"}  # modules directly under the package: the lazy public API and `python -m aligngpt`
ARTIFACTS = "artifacts"  # the types that describe a package's files: any package may import them


def imported_names(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything a module imports, relative imports resolved.

    Args:
        source: The module's text.
        module: Its dotted name; a package's ends in `.__init__`.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def find_wrong_imports(source: str, module: str) -> list[str]:
    """List the imports of a module that do not point to a lower layer."""
    parts = module.split(".")
    package = parts[1]
    if package in ROOT:
        return []
    is_artifacts = parts[-1] == ARTIFACTS
    wrong = []
    for line, name in imported_names(source, module):
        target = name.split(".")
        if target[0] != "aligngpt" or len(target) == 1 or target[1] in {package, "__version__"}:
            continue
        describes_files = ARTIFACTS in target[2:]
        lower = target[1] in LAYER and LAYER[target[1]] < LAYER[package]
        if is_artifacts and not (describes_files or target[1] == "utils"):
            wrong.append(f"{module}:{line} imports {name}: artifacts import utils and other artifacts only")
        elif not (lower or describes_files):
            wrong.append(f"{module}:{line} imports {name}")
    return wrong


def test_imports_point_to_lower_layers() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("aligngpt", *path.relative_to(PACKAGE).with_suffix("").parts))
        wrong += find_wrong_imports(path.read_text(encoding="utf-8"), module)
    assert wrong == []


def test_every_package_has_a_layer() -> None:
    packages = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert packages - ROOT == set(LAYER)


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("aligngpt.modeling.model", "from aligngpt.data.schema import Turn", 1),
        ("aligngpt.modeling.model", "from ..data import schema", 1),
        ("aligngpt.modeling.model", "from .alignment import combine\nimport torch", 0),
        ("aligngpt.training.stages", "def f():\n    import aligngpt.evaluation.run", 1),
        ("aligngpt.training.stages", "from aligngpt.data.sources import open_source", 0),
        ("aligngpt.synthetic.dataset", "from aligngpt.utils.io import write_json", 0),
        ("aligngpt.utils.io", "from aligngpt.data.schema import Turn", 1),
        ("aligngpt.reporting.run.page", "from aligngpt.evaluation.artifacts import BenchmarkResult", 0),
        ("aligngpt.reporting.run.page", "from aligngpt.evaluation.metrics import bootstrap", 1),
        ("aligngpt.evaluation.artifacts", "from aligngpt.evaluation.metrics import mean", 0),
        ("aligngpt.training.artifacts", "from aligngpt.modeling.model import Model", 1),
        ("aligngpt.evaluation.scenes", "from aligngpt import serving", 1),
        ("aligngpt.cli.synthetic", "from aligngpt import experiments", 0),
        ("aligngpt.reporting.__init__", "from .. import serving", 1),
    ],
)
def test_the_rule_itself(module: str, source: str, count: int) -> None:
    assert len(find_wrong_imports(source, module)) == count


def test_import_is_light() -> None:
    program = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.__init__ = refuse
import aligngpt, aligngpt.cli
heavy = {"torch", "transformers", "numpy", "PIL", "rich", "pyarrow", "pydantic", "yaml", "logging.config"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert set(aligngpt.__all__) <= set(dir(aligngpt))
print(aligngpt.__version__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, aligngpt.__version__, "")


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'AlignGTP'"):
        aligngpt.AlignGTP  # noqa: B018
