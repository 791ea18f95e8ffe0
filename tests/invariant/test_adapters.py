"""A LoRA adapter that was trained, saved and loaded, on its own or merged, gives the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from aligngpt import AlignGPTForConditionalGeneration
from aligngpt.modeling.checkpoints import load_model
from tests import tiny
from tests.invariant.samples import ALL, Built, assert_same_logits, dataset_of, generated, prompts, training_batch

LAYERS = r"language_model\.model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"  # the tower has layers of the same names
TRAINED_WHOLE = ["multi_modal_projector", "alignment_gate"]


@pytest.fixture(params=[("llama", False), ("gemma2", True)], ids=["llama", "gemma2-tied"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Built]:
    """A model folder and the model in it."""
    built = tiny.build(tmp_path / "backbones", request.param[0], tied=request.param[1])
    for part in built:
        part.save_pretrained(tmp_path / "base")
    return tmp_path / "base", built


def trained(built: Built, folder: Path) -> Any:
    """The model under an adapter after three steps on the eight conversations."""
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=LAYERS, modules_to_save=TRAINED_WHOLE)
    adapted = peft.get_peft_model(built[0], settings)
    learning = [value for value in adapted.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    batch = training_batch(dataset_of(built[1], folder, *ALL), *range(8))
    for _ in range(3):
        adapted(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return adapted.eval()


def logits_of(model: Any, built: Built) -> torch.Tensor:
    with torch.no_grad():
        return model(**prompts(built[1], *ALL)).logits


def test_an_adapter_saved_loaded_and_merged_gives_the_same_logits(base: tuple[Path, Built], tmp_path: Path) -> None:
    folder, built = base
    untrained = logits_of(built[0], built)
    adapted = trained(built, tmp_path)
    expected = logits_of(adapted, built)
    assert (expected - untrained).abs().max() > 0.1

    adapted.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(load_model(folder, device="cpu")[0], str(tmp_path / "adapter")).eval()
    assert torch.equal(logits_of(loaded, built), expected)
    tokens, logits = generated(loaded, prompts(built[1], *ALL), 6)

    merged = loaded.merge_and_unload()
    assert isinstance(merged, AlignGPTForConditionalGeneration)
    assert_same_logits(logits_of(merged, built), expected)
    merged_tokens, merged_logits = generated(merged, prompts(built[1], *ALL), 6)
    assert torch.equal(merged_tokens, tokens)
    assert_same_logits(merged_logits, logits)

    merged.save_pretrained(tmp_path / "merged")
    built[1].save_pretrained(tmp_path / "merged")
    assert torch.equal(logits_of(load_model(tmp_path / "merged", device="cpu")[0], built), logits_of(merged, built))


def test_an_adapter_changes_the_language_model_projector_and_gate_alone(
    base: tuple[Path, Built], tmp_path: Path
) -> None:
    folder, built = base
    merged = trained(built, tmp_path).merge_and_unload()
    before = dict(load_model(folder, device="cpu")[0].named_parameters())
    changed = {name for name, value in merged.named_parameters() if not torch.equal(value, before[name])}
    layers = {name for name in before if "language_model.model.layers" in name and name.endswith("_proj.weight")}
    whole = {name for name in before if name.startswith(tuple(TRAINED_WHOLE))}
    assert changed == layers | whole
    assert len(layers) == 14 and len(whole) == 8
