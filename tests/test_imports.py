"""The direction of imports between the rooms, and what `import aligngpt` leaves alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aligngpt

PACKAGE = Path(aligngpt.__file__).parent

# Room or module directly under the package: what of the package it may import besides itself and the ground.
ALLOWED: dict[str, set[str]] = {
    "artifacts": set(),
    "text": set(),
    "modeling": set(),
    "data": {"modeling"},
    "training": {"modeling", "data"},
    "evaluation": {"modeling", "data", "scenes"},  # the drawn world's benchmark asks the world for the truth
    "serving": {"modeling", "data"},
    "reporting": {"modeling", "data"},
    "scenes": {"data"},
    "summary": {"data"},
    "options": set(),
    "__init__": {"modeling"},
}
IMPORT_ALL = {"cli", "pipeline", "__main__"}
GROUND = {"artifacts", "text", "__version__"}  # what every room needs: how files are written, what may be shown


def imported_names(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything a module's text imports, relative imports resolved.

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


def wrong_imports(source: str, module: str) -> list[str]:
    """List the imports of a module that run against the direction."""
    room = module.split(".")[1]
    if room in IMPORT_ALL:
        return []
    wrong = []
    for line, name in imported_names(source, module):
        parts = name.split(".")
        if parts[0] != "aligngpt" or len(parts) == 1 or parts[1] in {room, *GROUND}:
            continue
        processor_only = room == "data" and parts[1] == "modeling" and "processing" not in parts[2:3]
        if parts[1] not in ALLOWED.get(room, set()) or (processor_only and parts[-1] != "AlignGPTProcessor"):
            wrong.append(f"{module}:{line} imports {name}")
    return wrong


def test_imports_run_downwards() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("aligngpt", *path.relative_to(PACKAGE).with_suffix("").parts))
        wrong += wrong_imports(path.read_text(), module)
    assert wrong == []


def test_every_room_has_its_rule() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - IMPORT_ALL <= set(ALLOWED)


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("aligngpt.modeling.model", "from aligngpt.data.schema import Turn", 1),
        ("aligngpt.modeling.model", "from ..data import pairs", 1),
        ("aligngpt.modeling.model", "from .alignment import combine\nimport torch", 0),
        ("aligngpt.training.collator", "from aligngpt.modeling.processing import AlignGPTProcessor", 0),
        ("aligngpt.training.collator", "from aligngpt.modeling import AlignGPTProcessor", 0),
        ("aligngpt.training.collator", "from aligngpt.modeling.model import AlignGPTForConditionalGeneration", 1),
        ("aligngpt.training.stages", "def f():\n    import aligngpt.evaluation.benchmarks.synthetic", 1),
        ("aligngpt.synthetic.dataset", "from aligngpt.utils.io import write_json", 0),
        ("aligngpt.utils.io", "from aligngpt.data.schema import Turn", 1),
        ("aligngpt.synthetic.dataset", "from aligngpt.training.configs import scenes", 1),
        ("aligngpt.evaluation.benchmarks.synthetic", "from aligngpt import scenes", 0),
        ("aligngpt.evaluation.benchmarks.synthetic", "from aligngpt import serving", 1),
        ("aligngpt.cli.synthetic", "from aligngpt import pipeline", 0),
        ("aligngpt.reporting.__init__", "from .. import serving", 1),
    ],
)
def test_the_rule_itself(module: str, source: str, count: int) -> None:
    assert len(wrong_imports(source, module)) == count


def test_import_is_light() -> None:
    program = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.__init__ = refuse
import aligngpt, aligngpt.cli, aligngpt.cli.config_options
heavy = {"torch", "transformers", "numpy", "PIL", "rich", "pyarrow", "logging.config"} & set(sys.modules)
assert not heavy, heavy
assert set(aligngpt.__all__) <= set(dir(aligngpt))
print(aligngpt.__version__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, aligngpt.__version__, "")


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'AlignGTP'"):
        aligngpt.AlignGTP  # noqa: B018
    assert not hasattr(aligngpt, "load")


def test_public_names_come_from_modeling() -> None:
    from aligngpt import modeling

    for name in ("AlignGPTConfig", "AlignGPTForConditionalGeneration", "AlignGPTProcessor"):
        assert getattr(aligngpt, name) is getattr(modeling, name)
