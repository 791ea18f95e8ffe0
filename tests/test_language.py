"""Words that the project does not use, and the size of README, files and folders."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "aligngpt"
TEXT = (".py", ".md", ".jinja", ".css", ".sh", ".ipynb", ".yaml", ".toml")

REPLACED = re.compile("picture|drawn|levelled|mended|anew|whoever|dial", re.IGNORECASE)
# Training text of the shipped backbones, and fields of the official MME and LLaVA files.
ALLOWED = ("Describe the picture",)


def text_files() -> list[Path]:
    """The files of the package, the documentation and the examples that hold text."""
    folders = (PACKAGE, ROOT / "docs", ROOT / "examples")
    return [ROOT / "README.md"] + [
        path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in TEXT
    ]


def test_replaced_words_do_not_come_back() -> None:
    lines = []
    for path in text_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for text in ALLOWED:
                line = line.replace(text, "")
            if REPLACED.search(line):
                lines.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert lines == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_files_and_folders_stay_small() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    long = [path.relative_to(ROOT) for path in modules if len(path.read_text(encoding="utf-8").splitlines()) > 500]
    assert long == []
    folders = {path.parent for path in modules} - {PACKAGE / "evaluation" / "benchmarks"}  # one file per benchmark
    full = [folder.relative_to(ROOT) for folder in folders if len([p for p in modules if p.parent == folder]) > 12]
    assert full == []
