"""Recipes: the paper's numbers, and what no recipe can be."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from aligngpt.experiments.configs import DEMO_PRESETS, DemoConfig
from aligngpt.training.configs import (
    FINETUNE_PRESETS,
    PRETRAIN_PRESETS,
    FinetuneConfig,
    PretrainConfig,
    paper_finetune,
    paper_pretrain,
    synthetic_finetune,
    synthetic_pretrain,
)


def test_the_papers_numbers() -> None:
    first, second = paper_pretrain(), paper_finetune()
    assert (first.learning_rate, first.batch_size, first.epochs, first.num_alignment_levels) == (1e-3, 256, 1.0, 8)
    assert (second.learning_rate, second.batch_size, second.epochs) == (2e-5, 128, 1.0)
    for recipe in (first, second):
        assert (recipe.warmup_ratio, recipe.schedule, recipe.weight_decay) == (0.03, "cosine", 0.0)
        assert recipe.max_length == 2048
    assert first == PretrainConfig() and second == FinetuneConfig()
    assert first.check_images == second.check_images == "decode"
    assert (first.image_aspect_ratio, second.image_aspect_ratio) == ("square", "pad")
    assert (first.alignment, second.alignment, second.gate_text) == ("levels", "adaptive", "instruction")


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.0},
        {"batch_size": 0},
        {"device_batch_size": -1},
        {"epochs": 0.0},
        {"max_length": 0},
        {"logging_steps": 0},
        {"warmup_ratio": 1.0},
        {"warmup_ratio": -0.1},
        {"max_steps": 0},
        {"learning_rate": float("nan")},
        {"weight_decay": float("inf")},
        {"weight_decay": -0.1},
        {"workers": -1},
        {"save_steps": 0},
        {"max_grad_norm": 0.0},
        {"num_alignment_levels": 1},
        {"num_alignment_levels": 65},
    ],
    ids=lambda change: "-".join(map(str, *change.items())),
)
@pytest.mark.parametrize("recipe", [paper_pretrain(), synthetic_finetune()], ids=["stage 1", "stage 2"])
def test_impossible_numbers_are_refused(recipe: Any, change: dict[str, Any]) -> None:
    [(name, value)] = change.items()
    with pytest.raises(ValueError, match=rf"^{name} is {value}; "):
        replace(recipe, **change)


@pytest.mark.parametrize(
    "change",
    [
        *({name: 0} for name in ("pairs", "conversations", "questions", "captioned", "threads")),
        {"num_levels": 1},
        {"num_levels": 65},
    ],
    ids=lambda change: "-".join(map(str, *change.items())),
)
def test_impossible_jobs_are_refused(change: dict[str, Any]) -> None:
    [(name, value)] = change.items()
    with pytest.raises(ValueError, match=rf"^{name} is {value}; "):
        DemoConfig(**change)


def test_the_job_sets_what_its_arms_differ_in() -> None:
    with pytest.raises(
        ValueError, match=r"^finetune\.alignment is local, but the job trains with adaptive and with none"
    ):
        DemoConfig(finetune=replace(synthetic_finetune(), alignment="local"))
    with pytest.raises(ValueError, match=r"^pretrain\.alignment is none, "):
        DemoConfig(pretrain=replace(synthetic_pretrain(), alignment="none"))
    recipe = DemoConfig(num_levels=4)
    assert recipe.pretrain.num_alignment_levels == recipe.finetune.num_alignment_levels == 4


def test_recipes_are_frozen_and_explain_every_field() -> None:
    with pytest.raises(FrozenInstanceError):
        paper_pretrain().seed = 1  # type: ignore[misc]
    for recipe in (PretrainConfig, FinetuneConfig, DemoConfig):
        for field in fields(recipe):
            if field.name not in ("pretrain", "finetune"):
                assert field.metadata["help"].endswith("."), (recipe, field.name)


def test_every_named_recipe_can_be_made() -> None:
    assert all(isinstance(make(), PretrainConfig) for make in PRETRAIN_PRESETS.values())
    assert all(isinstance(make(), FinetuneConfig) for make in FINETUNE_PRESETS.values())
    assert all(isinstance(make(), DemoConfig) for make in DEMO_PRESETS.values())
    assert DEMO_PRESETS["synthetic"]().pretrain == synthetic_pretrain()
    assert DEMO_PRESETS["synthetic"]().finetune == synthetic_finetune()


def test_both_stages_of_the_drawn_world_see_the_same_images() -> None:
    recipe = DEMO_PRESETS["synthetic"]()
    assert recipe.pretrain.image_aspect_ratio == recipe.finetune.image_aspect_ratio == "square"
