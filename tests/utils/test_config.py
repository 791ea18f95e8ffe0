"""Configurations: precedence of preset, file and overrides; errors that name the field; exact YAML."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass

from aligngpt.utils.config import STRICT, list_fields, load_config, read_yaml, write_yaml


@dataclass(frozen=True, config=STRICT)
class Stage:
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    max_steps: int | None = Field(default=None, description="Optimizer steps.")


@dataclass(frozen=True, config=STRICT)
class Run:
    stage: Stage = Field(default_factory=Stage)
    name: str = Field(default="a", description="Name.")
    seed: int = Field(default=0, description="Seed.")
    packed: bool = Field(default=True, description="Pack samples.")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="Betas of Adam.")

    def __post_init__(self) -> None:
        if self.seed == 13:
            raise ValueError("seed: 13 is unlucky")


PRESETS = {"default": Run, "small": lambda: Run(seed=7, stage=Stage(max_steps=5))}


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_precedence_is_preset_then_file_then_overrides(tmp_path: Path) -> None:
    file = write(tmp_path, "seed: 8\nstage:\n  learning_rate: 2e-5\n")
    assert load_config(PRESETS) == Run()
    assert load_config(PRESETS, "small") == Run(seed=7, stage=Stage(max_steps=5))
    assert load_config(PRESETS, "small", file) == Run(seed=8, stage=Stage(2e-5, 5))
    overrides = {"seed": 9, "stage.max_steps": None}
    assert load_config(PRESETS, "small", file, overrides) == Run(seed=9, stage=Stage(2e-5))


@pytest.mark.parametrize(
    ("text", "rate"), [("1e-3", 1e-3), ("2e-5", 2e-5), ("'3e-4'", 3e-4), ("0.5", 0.5), ("1", 1.0), ("1.0e-3", 1e-3)]
)
def test_numbers_of_every_spelling_are_read(tmp_path: Path, text: str, rate: float) -> None:
    assert load_config(PRESETS, file=write(tmp_path, f"stage: {{learning_rate: {text}}}")).stage.learning_rate == rate


@pytest.mark.parametrize("rate", [2e-5, 1e-3, 0.1 + 0.2, 1e22, 5e-324, 1 / 3])
def test_a_written_configuration_reads_back_equal(tmp_path: Path, rate: float) -> None:
    config = Run(stage=Stage(rate, None), name="yes", packed=False, betas=(0.8, rate))
    write_yaml(tmp_path / "config.yaml", config, comment="what it is")
    assert (tmp_path / "config.yaml").read_text().startswith("# what it is\nstage:\n")
    for path in (tmp_path, tmp_path / "config.yaml"):
        assert load_config(PRESETS, "small", path) == config
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == json.loads(json.dumps(dataclasses.asdict(config)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede: 1", "run.yaml: field 'sede' does not exist; did you mean 'seed'?"),
        ("stage: {learning_rat: 1}", "field 'stage.learning_rat' does not exist; did you mean 'stage.learning_rate'?"),
        ("zzz: 1", "run.yaml: field 'zzz' does not exist"),
        ("stage: 3", "run.yaml: stage: expected a mapping of fields"),
        ("seed: {a: 1}", "field 'seed.a' does not exist"),
        ("seed: 1.5", "run.yaml: seed: input should be a valid integer, got a number with a fractional part, got 1.5"),
        ("seed: true", "run.yaml: seed: expected a number or text, got True"),
        ("packed: maybe", "run.yaml: packed: input should be a valid boolean"),
        ("betas: [1.0]", "run.yaml: betas"),
        ("stage: {learning_rate: -1}", "run.yaml: stage.learning_rate: input should be greater than 0, got -1"),
        ("stage: {learning_rate: .nan}", "run.yaml: stage.learning_rate: input should be"),
        ("seed: 13", "seed: 13 is unlucky"),
        ("name: 3", "run.yaml: name: input should be a valid string, got 3"),
        ("- 1", "run.yaml: expected a mapping of configuration fields, got list"),
        ("a: [1", "run.yaml:1:6: broken YAML: expected ',' or ']'"),
        ("a: 1\n\tb: 2", "run.yaml:2:1: broken YAML: found character '\\t'"),
    ],
)
def test_errors_are_one_line_that_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_config(PRESETS, file=write(tmp_path, text))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_errors_of_overrides_name_no_file(tmp_path: Path) -> None:
    file = write(tmp_path, "seed: 1")
    for overrides, message in (({"seed": "x"}, "seed: input should"), ({"sed": 1}, "field 'sed' does not exist")):
        with pytest.raises(ValueError, match=f"^{message}"):
            load_config(PRESETS, file=file, overrides=overrides)


def test_presets_and_files_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"preset 'smal' does not exist; did you mean 'small'\?; choose from default"):
        load_config(PRESETS, "smal")
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml: no such file"):
        load_config(PRESETS, file=tmp_path / "gone.yaml")
    assert read_yaml(write(tmp_path, "")) == {}


def test_fields_are_listed_with_nested_ones() -> None:
    fields: dict[str, Any] = list_fields(Run)
    assert list(fields) == ["stage.learning_rate", "stage.max_steps", "name", "seed", "packed", "betas"]
    assert fields["stage.max_steps"].description == "Optimizer steps."
