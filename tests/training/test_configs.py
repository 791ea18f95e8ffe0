"""Training configurations: the paper's values, and values that no configuration can have."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from aligngpt.experiments.configs import DEMO_PRESETS, DemoConfig
from aligngpt.training.configs import (
    FINETUNE_PRESETS,
    PRETRAIN_PRESETS,
    FinetuneConfig,
    PretrainConfig,
)
from aligngpt.utils.config import list_fields


def test_the_paper_presets_have_the_values_of_the_paper() -> None:
    first, second = PRETRAIN_PRESETS["paper"](), FINETUNE_PRESETS["paper"]()
    assert (first.learning_rate, first.num_train_epochs, first.num_alignment_levels) == (1e-3, 1.0, None)
    assert (second.learning_rate, second.num_train_epochs) == (2e-5, 1.0)
    assert first.per_device_train_batch_size * first.gradient_accumulation_steps == 256
    assert second.per_device_train_batch_size * second.gradient_accumulation_steps == 128
    for config in (first, second):
        assert (config.warmup_ratio, config.lr_scheduler_type, config.weight_decay) == (0.03, "cosine", 0.0)
        assert (config.max_length, config.max_steps, config.bf16) == (2048, -1, True)
    assert first == PretrainConfig() and second == FinetuneConfig()
    assert (first.image_aspect_ratio, second.image_aspect_ratio) == ("square", "pad")
    assert (first.alignment, second.alignment, second.gate_text) == ("levels", "adaptive", "instruction")


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.0},
        {"per_device_train_batch_size": 0},
        {"gradient_accumulation_steps": -1},
        {"num_train_epochs": 0.0},
        {"max_length": 0},
        {"logging_steps": 0},
        {"warmup_ratio": 1.0},
        {"warmup_ratio": -0.1},
        {"max_steps": 0},
        {"max_steps": -2},
        {"learning_rate": float("nan")},
        {"weight_decay": float("inf")},
        {"weight_decay": -0.1},
        {"dataloader_num_workers": -1},
        {"save_steps": 0},
        {"max_grad_norm": 0.0},
        {"num_alignment_levels": 1},
        {"num_alignment_levels": 65},
        {"lr_scheduler_type": "cosin"},
        {"bf16": "perhaps"},
    ],
    ids=lambda change: "-".join(map(str, *change.items())),
)
@pytest.mark.parametrize(
    "config", [PRETRAIN_PRESETS["paper"](), FINETUNE_PRESETS["synthetic"]()], ids=["stage 1", "stage 2"]
)
def test_impossible_values_are_refused(config: Any, change: dict[str, Any]) -> None:
    [name] = change
    with pytest.raises(ValueError, match=name):
        replace(config, **change)


@pytest.mark.parametrize(
    "change",
    [
        *({name: 0} for name in ("pairs", "conversations", "questions", "captioned", "threads")),
        {"num_levels": 1},
        {"num_levels": 65},
    ],
    ids=lambda change: "-".join(map(str, *change.items())),
)
def test_impossible_demos_are_refused(change: dict[str, Any]) -> None:
    [name] = change
    with pytest.raises(ValueError, match=name):
        DemoConfig(**change)


def test_the_demo_sets_what_its_variants_differ_in() -> None:
    with pytest.raises(ValueError, match=r"finetune\.alignment: the run trains adaptive and none; .* got 'local'"):
        DemoConfig(finetune=replace(FINETUNE_PRESETS["synthetic"](), alignment="local"))
    with pytest.raises(ValueError, match=r"pretrain\.alignment: .* got 'none'"):
        DemoConfig(pretrain=replace(PRETRAIN_PRESETS["synthetic"](), alignment="none"))
    config = DemoConfig(num_levels=4)
    assert config.pretrain.num_alignment_levels == config.finetune.num_alignment_levels == 4


def test_configurations_are_frozen_and_describe_every_field() -> None:
    with pytest.raises(FrozenInstanceError):
        PRETRAIN_PRESETS["paper"]().seed = 1  # type: ignore[misc]
    for cls in (PretrainConfig, FinetuneConfig, DemoConfig):
        for name, info in list_fields(cls).items():
            assert (info.description or "").endswith("."), (cls, name)


def test_every_preset_can_be_made() -> None:
    assert all(isinstance(preset(), PretrainConfig) for preset in PRETRAIN_PRESETS.values())
    assert all(isinstance(preset(), FinetuneConfig) for preset in FINETUNE_PRESETS.values())
    assert all(isinstance(preset(), DemoConfig) for preset in DEMO_PRESETS.values())
    demo = DEMO_PRESETS["synthetic"]()
    assert demo.pretrain == replace(PRETRAIN_PRESETS["synthetic"](), num_alignment_levels=8)
    assert demo.finetune == replace(FINETUNE_PRESETS["synthetic"](), num_alignment_levels=8)


def test_both_stages_of_the_demo_see_the_same_images() -> None:
    config = DEMO_PRESETS["synthetic"]()
    assert config.pretrain.image_aspect_ratio == config.finetune.image_aspect_ratio == "square"
