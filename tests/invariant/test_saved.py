"""A model that was saved and loaded gives the same logits, bit for bit."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from aligngpt.modeling.checkpoints import load_model
from tests.invariant.samples import ALL, Built, generated, prompts


def assert_same_answers(first: Built, second: Built) -> None:
    """Inputs, logits and gate weights agree in every bit."""
    inputs, reread = (prompts(processor, *ALL) for _, processor in (first, second))
    assert inputs.keys() == reread.keys()
    assert all(torch.equal(inputs[name], reread[name]) for name in inputs)
    with torch.no_grad():
        expected, found = (built[0](**inputs, return_gate_weights=True) for built in (first, second))
    assert found.logits.dtype == expected.logits.dtype
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.gate_weights, expected.gate_weights)


def test_saving_keeps_every_bit(backbones: Built, tmp_path: Path) -> None:
    model, processor = backbones
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert again[0].config.image_seq_length == again[1].image_seq_length == 9
    assert again[1].chat_template == processor.chat_template
    assert again[1].to_dict() == processor.to_dict()
    assert_same_answers(backbones, again)
    assert again[0].generation_config.eos_token_id == model.generation_config.eos_token_id


def test_saving_in_bfloat16_and_shards_keeps_every_bit(built: Built, tmp_path: Path) -> None:
    for part in built:
        part.save_pretrained(tmp_path / "float32")
    half = load_model(tmp_path / "float32", device="cpu", dtype=torch.bfloat16)
    half[0].save_pretrained(tmp_path / "bfloat16", max_shard_size="40KB")
    half[1].save_pretrained(tmp_path / "bfloat16")
    assert len(list((tmp_path / "bfloat16").glob("model-*.safetensors"))) > 2
    assert_same_answers(half, load_model(tmp_path / "bfloat16", device="cpu"))


def test_saving_does_not_depend_on_earlier_calls(fresh: Built, tmp_path: Path) -> None:
    """Answering leaves nothing behind in a model."""
    model, processor = fresh
    inputs = prompts(processor, *ALL)
    model.save_pretrained(tmp_path / "before")
    generated(model, inputs, 4, alignment="local")
    model.get_gate_weights(**inputs)
    model.save_pretrained(tmp_path / "after")
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
