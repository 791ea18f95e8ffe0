"""Recipes on the command line: options from dataclasses, overrides, recipes from files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from aligngpt.cli.base import Program, RecipeCommand
from aligngpt.cli.config_options import RecipeBook, apply_overrides, coerce, overrides_from_mapping, recipe_options


@dataclass(frozen=True)
class Stage:
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    scheduler: Literal["cosine", "constant"] = field(default="cosine", metadata={"help": "Shape of the rate."})
    max_steps: int | None = field(default=None, metadata={"help": "Stop early."})

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")


@dataclass(frozen=True)
class Whole:
    stage: Stage = field(default_factory=Stage)
    name: str = field(default="a", metadata={"help": "What it is called."})
    seed: int = field(default=0, metadata={"help": "Seed."})
    packed: bool = field(default=True, metadata={"help": "Pack samples."})
    alignment: str | int = field(default="adaptive", metadata={"help": "The setting."})
    betas: tuple[float, float] = field(default=(0.9, 0.999), metadata={"help": "Adam's."})


def small() -> Whole:
    return Whole(seed=7, stage=Stage(max_steps=5))


def run(*arguments: str) -> tuple[Any, str]:
    """Parse arguments with a command over `Whole`; return the recipe, or None, and what was printed."""
    kept: list[Any] = []

    @click.group(cls=Program)
    def program() -> None:
        pass

    book = RecipeBook({"whole": Whole, "small": small}, default="whole")

    @program.command("go", cls=RecipeCommand, book=lambda: book, example="program go --seed 3")
    def go(recipe: Whole) -> None:
        kept.append(recipe)

    done = CliRunner().invoke(program, ["go", *arguments], prog_name="program")
    return (kept[0] if kept else None), done.output


def test_nothing_given_is_the_default_recipe() -> None:
    assert run()[0] == Whole()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--seed", "3"], Whole(seed=3)),
        (["--seed", "0"], Whole()),
        (["--name", "12"], Whole(name="12")),
        (["--no-packed"], Whole(packed=False)),
        (["--packed"], Whole()),
        (["--alignment", "3"], Whole(alignment=3)),
        (["--alignment", "none"], Whole(alignment="none")),
        (["--betas", "0.8, 0.95"], Whole(betas=(0.8, 0.95))),
        (["--stage.learning-rate", "1e-5"], Whole(stage=Stage(learning_rate=1e-5))),
        (["--stage.scheduler", "constant", "--stage.max-steps", "9"], Whole(stage=Stage(1e-3, "constant", 9))),
        (["--recipe", "small"], Whole(seed=7, stage=Stage(max_steps=5))),
        (["--recipe", "small", "--seed", "0"], Whole(seed=0, stage=Stage(max_steps=5))),
        (["--recipe", "small", "--stage.max-steps", "none"], Whole(seed=7)),
        (["--recipe", "small", "--stage.scheduler", "cosine"], Whole(seed=7, stage=Stage(max_steps=5))),
    ],
)
def test_options_override_fields(arguments: list[str], expected: Whole) -> None:
    assert run(*arguments)[0] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "3.5"], "'--seed': '3.5' is not INTEGER"),
        (["--seed", "none"], "'--seed': 'none' is not INTEGER"),
        (["--stage.max-steps", "few"], "'--stage.max-steps': 'few' is not INTEGER|none"),
        (["--stage.scheduler", "cosin"], "'cosin' is not cosine|constant"),
        (["--betas", "0.9"], "'0.9' is not FLOAT,FLOAT"),
        (["--stage.learning-rate", "-1"], "learning_rate must be above 0, got -1.0"),
        (["--recipe", "large"], "no recipe is called 'large' (whole, small)"),
        (["--learning-rate", "1"], "No such option '--learning-rate'"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: list[str], message: str) -> None:
    recipe, output = run(*arguments)
    assert recipe is None
    assert message in output
    assert output.startswith("aligngpt: error: ") and output.count("\n") == 1
    assert output.rstrip().endswith("program go --help")


def test_help_shows_help_and_defaults() -> None:
    text = " ".join(run("--help")[1].split())
    assert "--stage.learning-rate FLOAT Peak learning rate. [default: 0.001]" in text
    assert "--stage.scheduler cosine|constant Shape of the rate. [default: cosine]" in text
    assert "--stage.max-steps INTEGER|none Stop early. [default: none]" in text
    assert "--packed / --no-packed Pack samples. [default: on]" in text
    assert "Recipe to start from: whole, small, or the recipe.json of a run. [default: whole]" in text


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("as_folder", [False, True])
def test_a_written_recipe_starts_the_same_run(tmp_path: Path, wrapped: bool, as_folder: bool) -> None:
    recipe = Whole(stage=Stage(2e-4, "constant", 3), alignment=2, betas=(0.8, 0.9), packed=False)
    written = tmp_path / "recipe.json"
    written.write_text(json.dumps({"stage": "x", "recipe": asdict(recipe)} if wrapped else asdict(recipe)))
    start = str(tmp_path if as_folder else written)
    assert run("--recipe", start)[0] == recipe
    assert run("--recipe", start, "--seed", "4")[0] == apply_overrides(recipe, {("seed",): 4})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sead": 1}, "r.json: sead is no field of a Whole"),
        ({"stage": {"rate": 1}}, "r.json: stage.rate is no field of a Whole"),
        ({"stage": 3}, "r.json: stage is no field of a Whole"),
        ({"seed": 1.5}, "r.json: seed: 1.5 is not INTEGER"),
        ({"seed": True}, "r.json: seed: True is not INTEGER"),
        ({"packed": 1}, "r.json: packed: 1 is not BOOLEAN"),
        ({"betas": [1.0]}, "r.json: betas: .* has 1 values, 2 are needed"),
    ],
)
def test_a_recipe_file_is_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overrides_from_mapping(Whole(), values, "r.json")


def test_coerce_knows_no_other_types() -> None:
    assert coerce(tuple[int, ...], "1,2,3") == (1, 2, 3)
    assert coerce(float | None, None) is None
    assert coerce(Literal["none"] | None, "none") == "none"
    with pytest.raises(TypeError, match="cannot express"):
        coerce(dict[str, int], "a")


def test_only_plain_fields_are_options() -> None:
    names = [option.opts[0] for option in recipe_options(Whole())]
    assert names == [
        "--stage.learning-rate",
        "--stage.scheduler",
        "--stage.max-steps",
        "--name",
        "--seed",
        "--packed",
        "--alignment",
        "--betas",
    ]
