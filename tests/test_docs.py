"""The pages under docs/ keep their word: names and files exist, commands parse, the paper's recipe is the recipe's.

Links and their headings are checked for every page in test_readme.py.
"""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from aligngpt.cli import cli
from aligngpt.cli.params import ModelName

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "aligngpt"
OWN_PAGES = ("files.md", "method.md", "paper_map.md", "scenes.md")  # those that speak of this package's options alone
ROOMS = sorted({path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"} - {"__init__"})


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


PAPER_MAP = text_of("paper_map.md")


def section(heading: str) -> str:
    """What stands under one heading of the paper map."""
    return re.split(r"^## ", PAPER_MAP.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]


# Names and files --------------------------------------------------------------------------------------------------

LINKED = dict(re.findall(r"\[`([\w.]+)`\]\(\.\./src/aligngpt/([\w/]+)\.py\)", PAPER_MAP))


@pytest.mark.parametrize("symbol", LINKED)
def test_symbol_is_defined_in_the_file_it_links_to(symbol: str) -> None:
    name = LINKED[symbol].replace("/", ".")
    assert symbol.startswith(f"{name}.")
    found: Any = importlib.import_module(f"aligngpt.{name}")
    for attribute in symbol.removeprefix(f"{name}.").split("."):
        assert hasattr(found, attribute), f"{symbol}: there is no {attribute}"
        found = getattr(found, attribute)
    assert getattr(found, "__module__", found.__class__.__module__) in (f"aligngpt.{name}", "builtins")


def test_no_symbol_stands_without_its_file() -> None:
    named = re.findall(rf"`((?:{'|'.join(ROOMS)})(?:\.\w+)+)`", PAPER_MAP)
    assert named and set(named) == LINKED.keys()


@pytest.mark.parametrize("page", OWN_PAGES)
def test_files_of_the_repository_exist(page: str) -> None:
    named = re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|jinja|md))`", text_of(page))
    assert [path for path in named if not (PACKAGE / path).is_file() and not (ROOT / path).is_file()] == []


def test_the_method_names_what_its_files_define() -> None:
    named = re.findall(r"((?:`[\w.]+`(?:, | and )?)+),? in `([\w/]+\.py)`", " ".join(text_of("method.md").split()))
    assert len(named) > 5
    for symbols, path in named:
        code = (PACKAGE / path).read_text(encoding="utf-8")
        for name in re.findall(r"(\w+)`", symbols):
            assert re.search(rf"^ *(def|class) {name}\b|^{name}\b.* = ", code, re.MULTILINE), f"{path} has no {name}"


# Commands ---------------------------------------------------------------------------------------------------------


def commands(text: str) -> list[str]:
    """The commands in a page's shell blocks and in its running text."""
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    inline = re.findall(r"`(aligngpt [^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return [" ".join(line.split()) for line in [*blocks.splitlines(), *inline]]


def parsed(line: str) -> tuple[click.Command, dict[str, Any]]:
    """A command and what it is given, by the parameters' names; `...` stands for options that are left out.

    Raises:
        click.UsageError: It has no such option, or an option has no such value.
    """
    words = [word for word in shlex.split(line)[1:] if word != "..."]
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    context = click.Context(command)
    values, rest, order = command.make_parser(context).parse_args(words)
    assert rest == [], f"{line}: nothing takes {rest}"
    given: dict[str, Any] = {}
    for param in order:
        value = values[str(param.name)]
        if isinstance(param.type, click.Path | ModelName):  # names of files, which need not be there
            given |= {str(param.name): value} if isinstance(value, str) or param.multiple else {}
        else:
            given[str(param.name)] = param.type_cast_value(context, value)
    return command, given


@pytest.mark.parametrize("line", dict.fromkeys(commands(PAPER_MAP)))
def test_command_parses(line: str) -> None:
    command, given = parsed(line)
    required = {str(param.name) for param in command.get_params(click.Context(command)) if param.required}
    given = {name: value for name, value in given.items() if value}
    assert "..." in line or required <= given.keys()


def test_what_is_left_out_of_a_command_stands_in_the_list() -> None:
    whole = {parsed(line)[0] for line in commands(PAPER_MAP.split("## ")[0])}
    shortened = {parsed(line)[0] for line in commands(PAPER_MAP) if "..." in line}
    assert len(shortened) > 5 and shortened <= whole


def test_options_exist() -> None:
    known = {"--help"}
    waiting: list[click.Command] = [cli]
    for command in waiting:
        waiting += command.commands.values() if isinstance(command, click.Group) else []
        known |= {name for param in command.get_params(click.Context(command)) for name in param.opts}
    for page in OWN_PAGES:
        named = re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", text_of(page))
        assert [name for name in named if name not in known] == [], page


# The paper --------------------------------------------------------------------------------------------------------


def test_the_recipe_is_the_papers() -> None:
    shown = set()
    for line in commands(section("Recipe")):
        command, given = parsed(line)
        params = {param.name: param for param in command.get_params(click.Context(command))}
        for name, value in given.items():
            assert value == params[name].default or name in ("pairs", "conversations"), line
            shown.add((command.name, name))
    assert len(shown) > 20


def test_every_part_of_the_paper_has_a_row() -> None:
    rows = "".join(line.split(" | ")[0] for line in PAPER_MAP.splitlines() if line.startswith("| "))
    for part in ("Eq. 1", "Eq. 2", "Eq. 3", "Tables 1 and 2", *(f"Table {n}" for n in range(3, 7))):
        assert part in rows
    assert {f"Figure {number}" for number in (1, 2, 3, 5, 7)} <= set(re.findall(r"Figure \d", rows))
