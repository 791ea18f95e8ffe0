"""The same config on the same data gives the same loss curve and weights, independent of earlier random numbers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aligngpt.training.configs import FINETUNE_PRESETS, PRETRAIN_PRESETS
from aligngpt.training.stages import finetune, pretrain
from tests import tiny
from tests.invariant.samples import CONVERSATIONS, images_of

Run = Callable[[str, int], tuple[list[dict[str, Any]], bytes]]

SMALL: dict[str, Any] = {
    "max_steps": 4,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "logging_steps": 1,
    "learning_rate": 1e-2,
    "warmup_ratio": 0.0,
    "bf16": True,
    "gradient_checkpointing": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two backbones, eight pairs, and the eight conversations twice."""
    folder = tmp_path_factory.mktemp("runs")
    tiny.save_language_model(folder / "llm")
    tiny.save_vision_tower(folder / "tower")
    pairs, conversations = [], []
    for number, (name, turns) in enumerate(CONVERSATIONS.items()):
        images = [f"{number}-{place}.png" for place in range(len(images_of(name)))]
        for image, pil_image in zip(images, images_of(name), strict=True):
            pil_image.save(folder / image)
        said = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(turns)]
        record = {"conversations": said} | ({"image": images} if images else {})
        conversations += [{"id": f"{half}{number}", **record} for half in "ab"]
        caption = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": turns[1]}]
        pairs.append({"id": f"{number}", "image": "0-0.png", "similarity": number, "conversations": caption})
    (folder / "pairs.json").write_text(json.dumps(pairs))
    (folder / "conversations.json").write_text(json.dumps(conversations))
    return folder


@pytest.fixture
def stage_1(folder: Path, tmp_path: Path) -> Run:
    def run(name: str, seed: int) -> tuple[list[dict[str, Any]], bytes]:
        backbones: dict[str, Any] = {"language_model": folder / "llm", "vision_tower": folder / "tower"}
        config = replace(PRETRAIN_PRESETS["synthetic"](), **SMALL, seed=seed)
        output = tmp_path / name
        result = pretrain(config, data=folder / "pairs.json", images=folder, output=output, **backbones)
        return [entry.model_dump() for entry in result.log_history], (output / "stage1.safetensors").read_bytes()

    return run


@pytest.fixture
def stage_2(folder: Path, tmp_path: Path, stage_1: Run) -> Run:
    stage_1("stage1", 0)

    def run(name: str, seed: int) -> tuple[list[dict[str, Any]], bytes]:
        config = replace(FINETUNE_PRESETS["synthetic"](), **SMALL, seed=seed)
        data = folder / "conversations.json"
        result = finetune(config, data=data, images=folder, stage1=tmp_path / "stage1", output=tmp_path / name)
        return [entry.model_dump() for entry in result.log_history], (
            tmp_path / name / "model.safetensors"
        ).read_bytes()

    return run


@pytest.mark.parametrize("stage", ["stage_1", "stage_2"])
def test_the_same_config_twice_gives_the_same_loss_curve(stage: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(stage)
    curve, weights = run("once", 3)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(99)
    again, same_weights = run("twice", 3)
    assert again == curve and same_weights == weights
    assert [entry["step"] for entry in curve] == list(range(1, 5))
    assert all(entry["grad_norm"] > 0 for entry in curve) and len({entry["loss"] for entry in curve}) == 4
    other, other_weights = run("other", 4)
    assert [entry["loss"] for entry in other] != [entry["loss"] for entry in curve]
    assert other_weights != weights
