"""Configurations on the command line: options from fields, presets, files, and errors in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field
from pydantic.dataclasses import dataclass

from aligngpt.cli.base import Program
from aligngpt.cli.config_options import ConfigCommand, config_options
from aligngpt.utils.config import STRICT, write_yaml


@dataclass(frozen=True, config=STRICT)
class Stage:
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    scheduler: Literal["cosine", "constant"] = Field(default="cosine", description="Schedule.")
    max_steps: int | None = Field(default=None, description="Optimizer steps.")


@dataclass(frozen=True, config=STRICT)
class Whole:
    stage: Stage = Field(default_factory=Stage)
    name: str = Field(default="a", description="Name.")
    seed: int = Field(default=0, description="Seed.")
    packed: bool = Field(default=True, description="Pack samples.")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="Betas of Adam.")


PRESETS = {"whole": Whole, "small": lambda: Whole(seed=7, stage=Stage(max_steps=5))}


def run(*arguments: str, positional: bool = False) -> tuple[Any, str]:
    """Parse arguments with a command over `Whole`; return the configuration, or None, and what was printed."""
    configs: list[Any] = []

    @click.group(cls=Program)
    def program() -> None:
        pass

    presets = f"{__name__}:PRESETS"

    @program.command("go", cls=ConfigCommand, presets=presets, positional=positional, example="program go --seed 3")
    @click.option("--output", help="Folder.")
    def go(config: Whole, output: str | None) -> None:
        configs.append(config)

    done = CliRunner().invoke(program, ["go", *arguments], prog_name="program")
    return (configs[0] if configs else None), done.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Whole()),
        (["--seed", "3"], Whole(seed=3)),
        (["--seed", "0"], Whole()),
        (["--name", "12"], Whole(name="12")),
        (["--name", "none"], Whole(name="none")),
        (["--no-packed"], Whole(packed=False)),
        (["--packed"], Whole()),
        (["--betas", "0.8, 0.95"], Whole(betas=(0.8, 0.95))),
        (["--stage.learning-rate", "1e-5"], Whole(stage=Stage(learning_rate=1e-5))),
        (["--stage.scheduler", "constant", "--stage.max-steps", "9"], Whole(stage=Stage(1e-3, "constant", 9))),
        (["--preset", "small"], Whole(seed=7, stage=Stage(max_steps=5))),
        (["--preset", "small", "--seed", "0"], Whole(seed=0, stage=Stage(max_steps=5))),
        (["--preset", "small", "--stage.max-steps", "none"], Whole(seed=7)),
        (["--preset", "small", "--stage.scheduler", "cosine"], Whole(seed=7, stage=Stage(max_steps=5))),
    ],
)
def test_options_override_fields(arguments: list[str], expected: Whole) -> None:
    assert run(*arguments)[0] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "3.5"], "'--seed': input should be a valid integer, unable to parse string as an integer"),
        (["--seed", "none"], "'--seed': input should be a valid integer"),
        (["--stage.max-steps", "few"], "'--stage.max-steps': input should be a valid integer"),
        (["--stage.scheduler", "cosin"], "input should be 'cosine' or 'constant', got 'cosin'"),
        (["--betas", "0.9"], "'--betas': "),
        (["--stage.learning-rate", "-1"], "'--stage.learning-rate': input should be greater than 0, got '-1'"),
        (["--stage.learning-rate", "nan"], "'--stage.learning-rate': input should be "),
        (["--preset", "large"], "preset 'large' does not exist; choose from whole, small"),
        (["--config", "gone.yaml"], "'--config': Path 'gone.yaml' does not exist"),
        (["--learning-rate", "1"], "No such option '--learning-rate'"),
        (["--stage.learning-rat", "1"], "No such option '--stage.learning-rat'. Did you mean '--stage.learning-rate'?"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: list[str], message: str) -> None:
    config, output = run(*arguments)
    assert config is None
    assert message in output
    assert output.startswith("aligngpt: error: ") and output.count("\n") == 1
    assert output.rstrip().endswith("program go --help")


def test_help_shows_help_and_defaults() -> None:
    text = " ".join(run("--help")[1].split())
    assert "--stage.learning-rate FLOAT Peak learning rate. [default: 0.001]" in text
    assert "--stage.scheduler cosine|constant Schedule. [default: cosine]" in text
    assert "--stage.max-steps INTEGER|none Optimizer steps. [default: none]" in text
    assert "--betas FLOAT,FLOAT Betas of Adam. [default: 0.9,0.999]" in text
    assert "--packed / --no-packed Pack samples. [default: on]" in text
    assert "--preset NAME Values to start from: whole, small." in text


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_written_configuration_starts_the_same_run(tmp_path: Path, as_folder: bool) -> None:
    config = Whole(stage=Stage(2e-4, "constant", 3), betas=(0.8, 0.9), packed=False)
    write_yaml(tmp_path / "config.yaml", config)
    file = str(tmp_path if as_folder else tmp_path / "config.yaml")
    assert run("--config", file)[0] == config
    assert run("--preset", "small", "--config", file, "--seed", "4")[0] == Whole(**{**vars(config), "seed": 4})


def test_an_unknown_field_of_a_file_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("stage: {learning_rat: 1}\n")
    config, output = run("--config", str(tmp_path / "c.yaml"))
    assert config is None and output.count("\n") == 1
    assert "c.yaml: field 'stage.learning_rat' does not exist; did you mean 'stage.learning_rate'?" in output


def test_preset_or_file_as_an_argument(tmp_path: Path) -> None:
    assert run("small", "--seed", "1", positional=True)[0] == Whole(seed=1, stage=Stage(max_steps=5))
    (tmp_path / "c.yaml").write_text("seed: 3\n")
    assert run(str(tmp_path / "c.yaml"), positional=True)[0] == Whole(seed=3)
    _, output = run("smal", positional=True)
    assert "'smal' is neither a preset nor an existing file; did you mean 'small'?" in output


def test_excluded_fields_have_no_option() -> None:
    options = config_options(Whole(), exclude=("stage.scheduler", "seed"))
    assert list(options) == ["stage.learning_rate", "stage.max_steps", "name", "packed", "betas"]
