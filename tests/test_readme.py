"""The README keeps its word: its commands and its Python run, its tree is the repository's, its links lead somewhere.

The commands run in the order of the page, in one folder, with the README's own file names. Two tables below say all
that differs from typing them: which folders stand for the large models, and what keeps the training short.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoConfig

from aligngpt.cli import cli
from aligngpt.data.indexed import open_pairs
from aligngpt.data.sources import open_source
from aligngpt.synthetic.configs import BackboneTrainingConfig
from aligngpt.utils.models import BUNDLED_MODELS
from tests import official

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What the page's placeholders stand for here; the last two are made by `folder`.
STANDS_FOR = {
    "path/to/vicuna-7b-v1.5": str(BUNDLED_MODELS["synthetic-llm"]),
    "path/to/clip-vit-large-patch14-336": str(BUNDLED_MODELS["synthetic-clip"]),
    "path/to/aligngpt-7b": "official",
    "path/to/mm_projector_align.bin": "official_stage1/mm_projector_align.bin",
}

# What is added to a command so that it ends soon; the rest of it is as printed.
_TWO_STEPS = "--max-steps 2 --batch-size 4 --device-batch-size 2 --workers 0"
ADDED = {
    "aligngpt run scenes": "--preset synthetic-smoke",
    "aligngpt pretrain": _TWO_STEPS,
    "aligngpt finetune": _TWO_STEPS,
    "aligngpt generate": "--max-new-tokens 8",
    "aligngpt chat": "--max-new-tokens 8",
    "aligngpt eval scenes": "--limit 7",
}

TYPED = {"aligngpt chat": "What is in the image?\n/level 3\n/exit\n"}

# Commands that need a fresh machine: whoever checks the project out, and `.ci/run`, begins with these.
SET_UP = {
    "git clone URL-OF-THIS-REPOSITORY aligngpt",
    "cd aligngpt",
    "source .venv/bin/activate",
    "make setup",
    "make demo",
    "pip install --constraint constraints.txt torch",
    "pip install --constraint constraints.txt --editable '.[report]'",
}


def blocks(language: str) -> list[str]:
    """The contents of the README's fenced blocks in one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The lines of the README's shell blocks, continued lines joined."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def to_be_run() -> list[str]:
    return [command for command in commands() if command not in SET_UP]


def prepared(command: str) -> tuple[list[str], str | None]:
    """A command's arguments with both tables applied, and what is typed while it runs."""
    for placeholder, stand_in in STANDS_FOR.items():
        command = command.replace(placeholder, stand_in)
    added = [text for start, text in ADDED.items() if command.startswith(f"{start} ")]
    typed = [text for start, text in TYPED.items() if command.startswith(f"{start} ")]
    program, *arguments = shlex.split(" ".join([command, *added]))
    assert program == "aligngpt", f"{command!r} is neither a command of the package nor listed in SET_UP"
    return arguments, typed[0] if typed else None


def give_own_data(folder: Path) -> None:
    """Put the drawn world's files there under the names that the README uses for the reader's own data."""
    drawn = folder / "runs" / "scenes" / "data"
    shutil.copy(drawn / "pretrain.json", folder / "pairs.json")
    shutil.copy(drawn / "finetune.json", folder / "conversations.json")
    shutil.copy(drawn / "images" / "test_00000.png", folder / "image.jpg")
    shutil.copytree(drawn / "images", folder / "images")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run, with official checkpoints over the drawn world's base models."""
    folder = tmp_path_factory.mktemp("readme")
    clip, llm = (AutoConfig.from_pretrained(BUNDLED_MODELS[name]) for name in ("synthetic-clip", "synthetic-llm"))
    official.save_checkpoint(folder / "official", BUNDLED_MODELS["synthetic-clip"])
    (folder / "official_stage1").mkdir()
    stage1 = official.stage1_tensors(llm.hidden_size, clip.vision_config.hidden_size, 8)
    torch.save(stage1, folder / "official_stage1" / "mm_projector_align.bin")
    return folder


@pytest.fixture(autouse=True)
def at_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


class TestInOrder:
    """One after the other: later commands read what earlier ones wrote."""

    @pytest.mark.parametrize("command", to_be_run(), ids=lambda command: command.split(" --")[0])
    def test_command_runs(self, command: str, folder: Path) -> None:
        arguments, typed = prepared(command)
        result = CliRunner().invoke(cli, arguments, input=typed, prog_name="aligngpt")
        assert result.exit_code == 0, f"{command}\n{result.output}"
        if arguments[0] == "run":
            give_own_data(folder)

    @pytest.mark.parametrize("code", blocks("python"), ids=["ask a model", "make a model"])
    def test_python_runs(self, code: str) -> None:
        for placeholder, stand_in in STANDS_FOR.items():
            code = code.replace(placeholder, stand_in)
        exec(compile(code, "README.md", "exec"), {})


def test_there_is_something_to_run() -> None:
    verbs = {command.split()[1] for command in to_be_run()}
    assert {"run", "score", "level", "pretrain", "finetune", "generate", "chat", "convert"} <= verbs
    assert len(blocks("python")) == 2


def test_every_table_entry_is_used() -> None:
    assert set(commands()) >= SET_UP
    assert all(any(command.startswith(f"{start} ") for command in commands()) for start in {**ADDED, **TYPED})
    assert all(placeholder in README for placeholder in STANDS_FOR)


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = {command.split()[1] for command in commands() if command.startswith("make ")}
    assert named and named <= set(targets)


def test_what_pip_is_given_exists() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = README.split("| extra |")[1].split("\n\n")[0]
    extras = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    section = pyproject.split("[project.optional-dependencies]")[1].split("\n\n")[0]
    assert sorted(extras) == sorted(re.findall(r"^(\w+) = ", section, re.MULTILINE))
    assert (ROOT / "constraints.txt").is_file()


def test_json_is_readable_data(folder: Path) -> None:
    (example,) = blocks("json")
    records = json.loads(example)
    (folder / "example.json").write_text(example, encoding="utf-8")
    read = open_pairs(open_source(folder / "example.json", folder))
    assert len(read) == len(records) and not read.bad


# The tree ---------------------------------------------------------------------------------------------------------


def tree() -> dict[str, str]:
    """The paths that the README's tree names, with the line that each has."""
    (listing,) = [block for block in blocks("text") if "src/aligngpt/" in block]
    paths: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in listing.splitlines():
        name, _, words = line.strip().partition(" ")
        depth = len(line) - len(line.lstrip())
        above = [entry for entry in above if entry[0] < depth]
        path = "".join(folder for _, folder in above) + name
        if name.endswith("/"):
            above.append((depth, name))
        paths[path] = words.strip()
    return paths


def test_tree_names_what_exists() -> None:
    missing = [path for path in tree() if not (ROOT / path).exists()]
    assert missing == []


def test_tree_has_every_module() -> None:
    package = ROOT / "src" / "aligngpt"
    modules = [path for path in package.rglob("*") if path.suffix in (".py", ".jinja", ".css", ".typed")]
    names = {path.relative_to(ROOT).as_posix() for path in modules}
    rooms = {name for name in names if name.endswith("/__init__.py")}  # the folder's own line speaks for these
    assert sorted(names - rooms - tree().keys()) == []
    folders = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in modules}
    assert sorted(folders - tree().keys()) == []


def test_every_line_of_the_tree_says_something() -> None:
    silent = [path for path, words in tree().items() if not words and path not in ("src/aligngpt/", "docs/")]
    assert silent == []


# Links and marks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = (ROOT / page).parent / path if path else ROOT / page
        assert other.exists(), f"{page} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}, target


def test_page_on_the_drawn_world_has_the_recipe_of_the_bases() -> None:
    page = (ROOT / "docs" / "scenes.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (\S+) \|", page, re.MULTILINE)
    assert (
        dict(listed).items() >= {name: str(value) for name, value in asdict(BackboneTrainingConfig()).items()}.items()
    )


def test_demo_output_has_its_place() -> None:
    between = re.search(r"<!-- demo output: begin -->\n```text\n(.+?)```\n<!-- demo output: end -->", README, re.DOTALL)
    assert between is not None
    assert "pending" not in between[1] and "Accuracy" in between[1]
