"""Two tiny backbones, and a few pairs and conversations about images of noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from aligngpt.training.configs import FINETUNE_PRESETS, PRETRAIN_PRESETS, FinetuneConfig, PretrainConfig
from aligngpt.training.stages import finetune, pretrain
from aligngpt.training.trainer import AlignGPTTrainer
from tests import tiny

LEVELS = 3


@dataclass(frozen=True)
class World:
    """Where the tests' files lie."""

    folder: Path

    @property
    def backbones(self) -> dict[str, Any]:
        return {"language_model": self.folder / "llm", "vision_tower": self.folder / "tower"}

    @property
    def stage1_inputs(self) -> dict[str, Any]:
        return {"data": self.folder / "pairs.json", "images": self.folder / "images", **self.backbones}

    @property
    def stage2_inputs(self) -> dict[str, Any]:
        return {"data": self.folder / "finetune.json", "images": self.folder / "images"}

    def rewrite(self, name: str, target: Path, change: Callable[[list[dict[str, Any]]], Any]) -> Path:
        """A data file with its records changed in index."""
        records = json.loads((self.folder / name).read_text())
        change(records)
        target.write_text(json.dumps(records))
        return target


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    tiny.save_language_model(folder / "llm")
    tiny.save_vision_tower(folder / "tower")
    (folder / "images").mkdir()
    pairs, conversations = [], []
    for index in range(8):
        tiny.make_image(index).save(folder / "images" / f"{index}.png")
        words = turns("<image>", f"noise {'x' * index}")
        pairs.append(
            {"id": f"p{index}", "image": f"{index}.png", "alignment_level": index % 2 + 1, "conversations": words}
        )
        words = turns("<image>\nWhat?", f"noise {index}", "Why?", "so")
        conversations.append({"id": f"c{index}", "image": f"{index}.png", "conversations": words})
    conversations[5:6] = [
        {"id": f"t{index}", "conversations": turns(f"Say {index}.", str(index))} for index in range(3)
    ]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    (folder / "finetune.json").write_text(json.dumps(conversations))
    return World(folder)


def stage1_config(**changes: Any) -> PretrainConfig:
    small = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "num_alignment_levels": LEVELS,
    }
    return replace(PRETRAIN_PRESETS["synthetic"](), **(small | changes))


def stage2_config(**changes: Any) -> FinetuneConfig:
    small = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1}
    return replace(FINETUNE_PRESETS["synthetic"](), **(small | changes))


@pytest.fixture(scope="session")
def stage1(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-1 checkpoint of two steps."""
    output = tmp_path_factory.mktemp("stage1")
    pretrain(stage1_config(), **world.stage1_inputs, output=output)
    return output


@pytest.fixture(scope="session")
def stage2(world: World, stage1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of two steps on top of it."""
    output = tmp_path_factory.mktemp("stage2")
    finetune(stage2_config(), **world.stage2_inputs, stage1=stage1, output=output)
    return output


class CutOff(BaseException):
    """What ends a run in the middle."""


@pytest.fixture
def cut_off_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """`with cut_off_after(3):` ends a training in its fourth step."""

    @contextmanager
    def cut(steps: int) -> Iterator[None]:
        original = AlignGPTTrainer.training_step
        taken = 0

        def training_step(self: AlignGPTTrainer, *args: Any, **kwargs: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken > steps:
                raise CutOff
            return original(self, *args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(CutOff):
            patch.setattr(AlignGPTTrainer, "training_step", training_step)
            yield

    return cut


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails whatever trains."""

    def training_step(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("this was to be done already")

    monkeypatch.setattr(AlignGPTTrainer, "training_step", training_step)
