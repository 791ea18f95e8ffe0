"""README and documentation are true: commands and code run, options, names, files and links exist.

The commands of the README run in order, in one folder, with the README's own file names. The tables below are all that
differs from typing them: which small models replace the large ones, and what keeps training short.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoConfig

from aligngpt.cli import cli
from aligngpt.modeling.hub import resolve_model
from aligngpt.synthetic.configs import BackboneTrainingConfig
from tests import official

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "aligngpt"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), ROOT / "examples" / "README.md"]
}
PAPER_MAP = PAGES["docs/about/paper-map.md"]

# Models and folders that the pages name, and what replaces them here; the last two are made by `folder`.
STAND_INS = {
    "lmsys/vicuna-7b-v1.5": "synthetic-llm",
    "openai/clip-vit-large-patch14-336": "synthetic-clip",
    "playground/data/eval": "mock",
    "path/to/aligngpt-7b": "official",
    "path/to/mm_projector_align.bin": "official_stage1/mm_projector_align.bin",
}

# Options that are added to a command so that it ends soon.
_TWO_STEPS = "--max-steps 2 --per-device-train-batch-size 2 --gradient-accumulation-steps 2 --dataloader-num-workers 0"
ADDED = {
    "aligngpt pretrain": _TWO_STEPS,
    "aligngpt finetune": _TWO_STEPS,
    "aligngpt generate": "--max-new-tokens 8",
    "aligngpt chat": "--max-new-tokens 8",
}
TYPED = {"aligngpt chat": "What is in the image?\n/level 3\n/gate\n/exit\n"}

# Commands of a fresh machine, which `.ci/run` starts with, and one that takes ten minutes.
NOT_RUN = {
    "git clone https://github.com/aligngpt/aligngpt",
    "cd aligngpt",
    "source .venv/bin/activate",
    "make setup",
    "aligngpt run synthetic --output runs/synthetic",
}
# Pages whose Python blocks run, in the folder that the commands of the README leave.
PYTHON_PAGES = [
    "README.md",
    "docs/get-started/quickstart.md",
    "docs/guides/curate.md",
    "docs/guides/train.md",
    "docs/guides/serve.md",
    "docs/guides/evaluate.md",
]


def read_blocks(text: str, language: str) -> list[str]:
    """Return the contents of the fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def join_lines(script: str) -> list[str]:
    """Return the commands of a shell script, continued lines joined, comments dropped."""
    lines = script.replace("\\\n", " ").splitlines()
    lines = [re.sub(r"(^|\s)#.*", "", re.sub(r"\$\(\(.*?\)\)|\$[A-Z_]+", "1", line)) for line in lines]
    return [" ".join(line.split()) for line in lines if line.strip()]


def read_commands(text: str) -> list[str]:
    """Return the commands in a page's shell blocks."""
    return [command for block in read_blocks(text, "bash") for command in join_lines(block)]


def replace_stand_ins(text: str) -> str:
    for name, stand_in in STAND_INS.items():
        text = text.replace(name, stand_in)
    return text


# The README, run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which commands and code run, with official checkpoints over the synthetic backbones."""
    folder = tmp_path_factory.mktemp("readme")
    clip, llm = (AutoConfig.from_pretrained(resolve_model(name)) for name in ("synthetic-clip", "synthetic-llm"))
    official.save_checkpoint(folder / "official", resolve_model("synthetic-clip"))
    (folder / "official_stage1").mkdir()
    stage1 = official.stage1_tensors(llm.hidden_size, clip.vision_config.hidden_size, 8)
    torch.save(stage1, folder / "official_stage1" / "mm_projector_align.bin")
    return folder


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def run(command: str) -> click.testing.Result:
    """Run an `aligngpt` command with the tables above applied."""
    options = [text for start, text in ADDED.items() if command.startswith(f"{start} ")]
    typed = [text for start, text in TYPED.items() if command.startswith(f"{start} ")]
    program, *arguments = shlex.split(" ".join([replace_stand_ins(command), *options]))
    assert program == "aligngpt", f"{command!r} is neither an aligngpt command nor listed in NOT_RUN"
    return CliRunner().invoke(cli, arguments, input=typed[0] if typed else None, prog_name="aligngpt")


def add_own_data(folder: Path) -> None:
    """Add data under the names that the pages use for the reader's own, and mock benchmark data."""
    data = folder / "runs" / "smoke" / "data"
    shutil.copytree(folder / "runs" / "smoke", folder / "runs" / "synthetic")
    shutil.copy(data / "pretrain.json", folder / "pairs.json")
    shutil.copy(data / "finetune.json", folder / "conversations.json")
    shutil.copy(data / "images" / "test_00000.png", folder / "image.jpg")
    shutil.copytree(data / "images", folder / "images")
    result = run("aligngpt synthetic benchmarks --output mock")
    assert result.exit_code == 0, result.output


class TestInOrder:
    """Commands, then code: later ones read what earlier ones wrote."""

    @pytest.mark.parametrize(
        "command", [c for c in read_commands(README) if c not in NOT_RUN], ids=lambda c: c.split(" --")[0]
    )
    def test_command_of_the_readme_runs(self, command: str, folder: Path) -> None:
        result = run(command)
        assert result.exit_code == 0, f"{command}\n{result.output}"
        if command.startswith("aligngpt run "):
            add_own_data(folder)

    @pytest.mark.parametrize("page", PYTHON_PAGES)
    def test_python_of_the_page_runs(self, page: str) -> None:
        blocks = read_blocks(PAGES[page], "python")
        assert blocks
        for code in blocks:
            exec(compile(replace_stand_ins(code), page, "exec"), {})


def test_every_table_entry_is_used() -> None:
    commands = read_commands(README)
    assert set(commands) >= NOT_RUN
    assert all(any(command.startswith(f"{start} ") for command in commands) for start in {**ADDED, **TYPED})


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    pages = "\n".join(PAGES.values())
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", pages, re.MULTILINE))
    assert {"setup", "demo", "test", "docs"} <= named <= targets


def test_extras_are_documented() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = PAGES["docs/get-started/install.md"].split("| extra |")[1].split("\n\n")[0]
    section = pyproject.split("[project.optional-dependencies]")[1].split("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(
        re.findall(r"^(\w+) = ", section, re.MULTILINE)
    )


def test_json_examples_are_json() -> None:
    examples = [block for page in PAGES.values() for block in read_blocks(page, "json")]
    assert len(examples) >= 4
    for example in examples:
        json.loads(example)


def test_results_of_the_readme_are_those_of_the_demo() -> None:
    demo = PAGES["docs/get-started/demo.md"].split("demo output: begin")[1].split("demo output: end")[0]
    row = re.search(r"│ all +│ ([\d.]+) \(([\d.]+) to ([\d.]+)\) +│ ([\d.]+) \(([\d.]+) to ([\d.]+)\)", demo)
    assert row is not None
    adaptive, low, high, none, none_low, none_high = row.groups()
    assert f"| {adaptive} | {low} to {high} |" in README
    assert f"| {none} | {none_low} to {none_high} |" in README


# Commands, names and files of all pages ------------------------------------------------------------------------------


def parse(line: str) -> tuple[click.Command, dict[str, Any]]:
    """Parse a command without running it; `...` stands for options that are left out.

    Raises:
        click.UsageError: An option does not exist.
    """
    words = [word for word in shlex.split(line)[1:] if word not in ("...", "$@")]
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    context = click.Context(command)
    values, rest, _ = command.make_parser(context).parse_args(words)
    assert rest == [], f"{line}: unexpected arguments {rest}"
    return command, values


def all_commands() -> list[str]:
    """Return the `aligngpt` commands of all pages and examples, inline ones included."""
    lines = [command for page in PAGES.values() for command in read_commands(page)]
    for script in sorted((ROOT / "examples").glob("*.sh")):
        lines += join_lines(script.read_text(encoding="utf-8"))
    for page in PAGES.values():
        prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
        lines += re.findall(r"`(aligngpt [a-z][^`]* --[^`]+)`", prose)
    return list(dict.fromkeys(line for line in lines if line.startswith("aligngpt ")))


@pytest.mark.parametrize("line", all_commands())
def test_command_parses(line: str) -> None:
    parse(line)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = (ROOT / page).parent / path if path else ROOT / page
        assert other.exists(), f"{page} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}, target


def symbols() -> list[str]:
    """Return the dotted names of the paper map."""
    return list(dict.fromkeys(re.findall(r"`((?:[a-z_]+\.)+[A-Za-z_][\w.]*)`", PAPER_MAP)))


@pytest.mark.parametrize("symbol", [name for name in symbols() if not name.endswith((".jinja", ".bin", ".json"))])
def test_symbol_of_the_paper_map_exists(symbol: str) -> None:
    parts = symbol.split(".")
    for end in range(len(parts), 0, -1):
        path = PACKAGE / "/".join(parts[:end])
        if path.with_suffix(".py").is_file() or path.is_dir():
            value: Any = importlib.import_module(f"aligngpt.{'.'.join(parts[:end])}")
            break
    else:
        pytest.fail(f"{symbol}: no such module")
    for attribute in parts[end:]:
        fields = getattr(value, "__dataclass_fields__", {})
        assert hasattr(value, attribute) or attribute in fields, f"{symbol}: no {attribute}"
        value = getattr(value, attribute, None)


def test_names_of_the_method_are_in_their_files() -> None:
    text = " ".join(PAGES["docs/about/method.md"].split())
    named = re.findall(r"((?:`\w+`(?:, | and )?)+)[^`]{0,30} in `([\w/]+\.py)`", text)
    assert len(named) > 5
    for names, path in named:
        code = (PACKAGE / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^ *(def|class) {name}\b|^{name}\b.* = ", code, re.MULTILINE), f"{path} has no {name}"


def test_every_part_of_the_paper_has_a_row() -> None:
    rows = "".join(line.split(" | ")[0] for line in PAPER_MAP.splitlines() if line.startswith("| "))
    for part in ("Eq. 1", "Eq. 2", "Eq. 3", "Tables 1 and 2", *(f"Table {number}" for number in range(3, 7))):
        assert part in rows
    assert {f"Figure {number}" for number in (1, 2, 3, 5, 7)} <= set(re.findall(r"Figure \d", rows))


def test_presets_named_paper_have_the_numbers_of_the_paper() -> None:
    from aligngpt.training.configs import FINETUNE_PRESETS, PRETRAIN_PRESETS

    pretrain, finetune = PRETRAIN_PRESETS["paper"](), FINETUNE_PRESETS["paper"]()
    batches = [
        config.per_device_train_batch_size * config.gradient_accumulation_steps for config in (pretrain, finetune)
    ]
    assert batches == [256, 128] and [pretrain.learning_rate, finetune.learning_rate] == [1e-3, 2e-5]
    for config in (pretrain, finetune):
        assert (config.lr_scheduler_type, config.warmup_ratio, config.weight_decay) == ("cosine", 0.03, 0.0)
        assert (config.num_train_epochs, config.max_length, config.bf16) == (1, 2048, True)
    for name, config in (("pretrain", pretrain), ("finetune", finetune)):
        script = (ROOT / "examples" / f"{name}.sh").read_text(encoding="utf-8")
        (line,) = [line for line in join_lines(script) if line.startswith("aligngpt")]
        _, values = parse(line)
        values = {field: value for field, value in values.items() if hasattr(config, field) and value is not None}
        assert len(values) >= 8
        for field, value in values.items():
            expected = getattr(config, field)
            assert type(expected)(value) == expected, f"examples/{name}.sh: {field} {value}, preset {expected}"


def test_page_about_the_synthetic_dataset_has_the_config_of_the_backbones() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (\S+) \|", PAGES["docs/about/synthetic.md"], re.MULTILINE)
    assert dict(listed).items() >= {k: str(v) for k, v in asdict(BackboneTrainingConfig()).items()}.items()
