"""A stage-1 checkpoint holds what stage 1 trained, names its base, and goes back onto that base alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aligngpt.modeling.artifacts import BackboneReference
from aligngpt.modeling.checkpoints import describe_backbones, load_model, load_stage1
from aligngpt.modeling.processing import load_template
from aligngpt.training.stages import finetune, pretrain
from tests import tiny
from tests.training.conftest import LEVELS, World, stage1_config, stage2_config

TABLE = "alignment_embeddings.weight"
STAGE1_SHAPES = {
    TABLE: [LEVELS, 32],
    "multi_modal_projector.linear_1.weight": [32, 16],
    "multi_modal_projector.linear_1.bias": [32],
    "multi_modal_projector.linear_2.weight": [32, 32],
    "multi_modal_projector.linear_2.bias": [32],
}


@pytest.fixture
def moved(stage1: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to be spoilt."""
    return shutil.copytree(stage1, tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoint-*"))


def test_it_holds_projector_and_table_and_names_its_base(world: World, stage1: Path) -> None:
    state = load_file(stage1 / "stage1.safetensors")
    assert {name: list(tensor.shape) for name, tensor in state.items()} == STAGE1_SHAPES
    info = json.loads((stage1 / "stage1.json").read_text())
    assert info["tensors"] == STAGE1_SHAPES
    assert BackboneReference(**info["backbones"]) == describe_backbones(world.folder / "llm", world.folder / "tower")
    assert info["backbones"]["language_model"] == str(world.folder / "llm")
    for part in ("language_model", "vision_tower"):
        assert set(info["backbones"][f"{part}_files"]) == {"model.safetensors", "config.json"}
    assert info["settings"] == {
        "template": "bare",
        "num_alignment_levels": LEVELS,
        "image_aspect_ratio": "square",
        "alignment": "global",  # there is no gate yet
    }


def test_it_goes_back_onto_its_base(world: World, stage1: Path) -> None:
    model, processor, base = load_stage1(stage1)
    state = dict(model.named_parameters())
    for name, tensor in load_file(stage1 / "stage1.safetensors").items():
        assert torch.equal(state[name], tensor), name
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_pretrained(world.folder / "llm").state_dict()
    rows = len(original["model.embed_tokens.weight"])
    assert torch.equal(state["language_model.model.embed_tokens.weight"][:rows], original["model.embed_tokens.weight"])
    assert (model.config.num_alignment_levels, model.config.alignment) == (LEVELS, "global")
    assert processor.image_aspect_ratio == "square"
    assert base == describe_backbones(world.folder / "llm", world.folder / "tower")


def test_a_checkpoint_in_the_middle_holds_what_trains_alone(
    world: World, tmp_path: Path, cut_off_after: Callable[[int], Any]
) -> None:
    with cut_off_after(1):
        pretrain(stage1_config(save_steps=1), **world.stage1_inputs, output=tmp_path / "levels")
    assert set(load_file(tmp_path / "levels" / "checkpoint-1" / "model.safetensors")) == set(STAGE1_SHAPES)
    with cut_off_after(1):
        pretrain(stage1_config(save_steps=1, alignment="none"), **world.stage1_inputs, output=tmp_path / "none")
    assert set(load_file(tmp_path / "none" / "checkpoint-1" / "model.safetensors")) == set(STAGE1_SHAPES) - {TABLE}


@pytest.mark.parametrize(("part", "other"), [("language_model", "qwen3"), ("vision_tower", "siglip")])
def test_another_base_is_refused(stage1: Path, tmp_path: Path, part: str, other: str) -> None:
    save = tiny.save_language_model if part == "language_model" else tiny.save_vision_tower
    folder = save(tmp_path / other, other)
    with pytest.raises(ValueError, match=rf"was trained on another {part}: .*config.json.* of .*{other} differ"):
        load_stage1(stage1, **{part: folder})  # type: ignore[arg-type]


def test_a_base_that_has_moved_is_found_where_one_says(world: World, stage1: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world.folder / "llm", tmp_path / "llm")
    _, _, base = load_stage1(stage1, language_model=folder)
    assert base.language_model == str(folder)
    assert base.vision_tower == str(world.folder / "tower")


def test_a_base_that_is_gone_is_named(moved: Path, tmp_path: Path) -> None:
    info = json.loads((moved / "stage1.json").read_text())
    info["backbones"]["vision_tower"] = str(tmp_path / "gone")
    (moved / "stage1.json").write_text(json.dumps(info))
    with pytest.raises(FileNotFoundError, match=r"gone: no such model folder"):
        load_stage1(moved)


@pytest.mark.parametrize("name", ["stage1.safetensors", "stage1.json"])
def test_a_missing_file_is_said(moved: Path, name: str) -> None:
    (moved / name).unlink()
    with pytest.raises(FileNotFoundError, match="is not a finished stage-1 checkpoint"):
        load_stage1(moved)


def test_tensors_must_be_those_of_the_model(moved: Path) -> None:
    path = moved / "stage1.safetensors"
    state = load_file(path)
    table = state.pop(TABLE)
    save_file(state, path)
    with pytest.raises(ValueError, match=rf"does not fit the model; the tensors {TABLE} differ"):
        load_stage1(moved)
    save_file({**state, TABLE: table, "alignment_gate.linear_1.bias": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"the tensors alignment_gate\.linear_1\.bias differ"):
        load_stage1(moved)
    save_file({**state, TABLE: torch.zeros(LEVELS + 1, 32)}, path)
    with pytest.raises(ValueError, match=rf"{TABLE} has shape \({LEVELS + 1}, 32\), but .* \({LEVELS}, 32\)"):
        load_stage1(moved)
    with pytest.raises(ValueError, match=r"but the model has \(5, 32\)"):
        load_stage1(moved, num_alignment_levels=5)


# -------------------------------------------------------------------------------------------------- stage 2 on stage 1


def test_stage_2_needs_stage_1_or_the_word_random(world: World, tmp_path: Path) -> None:
    inputs = {**world.stage2_inputs, "output": tmp_path / "out"}
    for config, backbones in (
        (stage2_config(), {}),
        (stage2_config(), world.backbones),
        (stage2_config(alignment_embeddings="random"), {}),
        (stage2_config(alignment_embeddings="random"), {"language_model": world.folder / "llm"}),
    ):
        with pytest.raises(ValueError, match="--stage1 is missing; without it, pass --alignment-embeddings random"):
            finetune(config, **inputs, **backbones)
    with pytest.raises(FileNotFoundError, match="not a finished stage-1 checkpoint"):
        finetune(stage2_config(), **inputs, stage1=world.folder)
    assert not (tmp_path / "out").exists()
    config = stage2_config(alignment_embeddings="random", max_steps=1, template="vicuna_v1")
    finetune(config, **inputs, **world.backbones)
    model, processor = load_model(tmp_path / "out")
    assert model.config.num_alignment_levels == 8
    assert processor.chat_template == load_template("vicuna_v1")


def test_random_draws_the_table_again_and_keeps_the_projector(world: World, stage1: Path, tmp_path: Path) -> None:
    trained = load_file(stage1 / "stage1.safetensors")
    states = {}
    for embeddings in ("stage1", "random"):
        output = tmp_path / embeddings
        # A learning rate too small for float32 leaves every weight as it was loaded.
        config = stage2_config(alignment_embeddings=embeddings, max_steps=1, learning_rate=1e-30)
        finetune(config, **world.stage2_inputs, stage1=stage1, output=output)
        states[embeddings] = load_file(output / "model.safetensors")
    for name, tensor in trained.items():
        assert torch.equal(states["stage1"][name], tensor), name
        assert torch.equal(states["random"][name], tensor) == (name != TABLE), name
    bound = (6 / (LEVELS + 32)) ** 0.5  # Xavier-uniform
    assert 0.8 * bound < states["random"][TABLE].abs().max() <= bound


def test_a_stage_1_without_alignment_leads_to_none_or_random(world: World, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    pretrain(stage1_config(alignment="none", max_steps=1), **world.stage1_inputs, output=plain)
    inputs = {**world.stage2_inputs, "stage1": plain}
    with pytest.raises(ValueError, match="was trained without alignment, so its alignment table is random"):
        finetune(stage2_config(), **inputs, output=tmp_path / "out")
    config = stage2_config(alignment_embeddings="random", max_steps=1)
    assert finetune(config, **inputs, output=tmp_path / "random").alignment == "adaptive"
    assert finetune(stage2_config(alignment="none", max_steps=1), **inputs, output=tmp_path / "none").global_step == 1


def test_a_stage_1_checkpoint_can_be_used_as_it_is(stage1: Path) -> None:
    model, processor = load_model(stage1)
    assert not model.training
    assert processor.use_alignment and model.config.alignment == "global"
    with pytest.raises(FileNotFoundError, match="no such model folder"):
        load_model(stage1 / "gone")
