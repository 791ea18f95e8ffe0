"""Half precision stays close to float32, in the weights (inference) and under autocast (training)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from aligngpt import AlignGPTForConditionalGeneration
from aligngpt.modeling.checkpoints import load_model
from tests.invariant.samples import ALL, ONE, Built, Inputs, dataset_of, generated, prompts, training_batch

# How far bfloat16, with its 8 bits of mantissa, may be from float32. Each is about twice the worst that was measured on
# 30 random models (5 language models, 2 towers, 3 draws) in both forms of half precision over the batch of eight.
BOUNDS = {
    "loss": 0.003,  # absolute; measured 0.0014 of 5.7
    "logits": 0.15,  # largest difference in deviations of the logits; measured 0.079
    "probabilities": 0.01,  # total variation, 0 to 1, the worst position; measured 0.0053
    "gate_weights": 0.05,  # absolute, of weights that sum to 1; measured 0.022, in the middle 0.002
    "language_model": 0.03,  # gradient of the part, relative to its norm; measured 0.013
    "multi_modal_projector": 0.05,  # measured 0.023
    "alignment_embeddings": 0.04,  # measured 0.020
    "alignment_gate": 0.12,  # measured 0.059
}
PARTS = ("language_model", "multi_modal_projector", "alignment_embeddings", "alignment_gate")


def run(model: AlignGPTForConditionalGeneration, batch: Inputs, autocast: bool = False) -> dict[str, Tensor]:
    """Loss, logits, gate weights and the gradient of each part, in float32."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(**batch, return_gate_weights=True)
    output.loss.backward()
    found = {"loss": output.loss, "logits": output.logits, "gate_weights": output.gate_weights}
    for part in PARTS:
        gradients = [value.grad.flatten() for value in getattr(model, part).parameters() if value.grad is not None]
        found[part] = torch.cat(gradients)
    model.zero_grad()
    return {name: value.detach().float() for name, value in found.items()}


def distances(found: dict[str, Tensor], expected: dict[str, Tensor], learned: Tensor) -> dict[str, Tensor]:
    """What `BOUNDS` bounds; logits at positions that are learned."""
    words = expected["logits"][learned] > torch.finfo(torch.bfloat16).min  # all but the placeholders
    logits, other = found["logits"][learned], expected["logits"][learned]
    return {
        "loss": (found["loss"] - expected["loss"]).abs(),
        "logits": (logits - other)[words].abs().max() / other[words].std(),
        "probabilities": (logits.softmax(-1) - other.softmax(-1)).abs().sum(-1).max() / 2,
        "gate_weights": (found["gate_weights"] - expected["gate_weights"]).abs().max(),
        **{part: (found[part] - expected[part]).norm() / expected[part].norm() for part in PARTS},
    }


def in_bfloat16(built: Built, folder: Path) -> AlignGPTForConditionalGeneration:
    """The model as it is loaded for use; `.to` would round the language model's position frequencies as well."""
    for part in built:
        part.save_pretrained(folder / "float32")
    return load_model(folder / "float32", device="cpu", dtype=torch.bfloat16)[0]


@pytest.mark.parametrize("form", ["weights", "autocast"])
def test_bfloat16_stays_within_the_bounds(backbones: Built, tmp_path: Path, form: str) -> None:
    model, processor = backbones
    batch = training_batch(dataset_of(processor, tmp_path, *ALL), *range(8))
    half = in_bfloat16(backbones, tmp_path) if form == "weights" else model
    found, expected = run(half, batch, form == "autocast"), run(model, batch)
    for name, distance in distances(found, expected, batch["shift_labels"] != -100).items():
        assert 0 < distance <= BOUNDS[name], name


def test_a_model_in_bfloat16_answers(built: Built, tmp_path: Path) -> None:
    half = in_bfloat16(built, tmp_path)
    tokens, logits = generated(half, prompts(built[1], *ALL), 3)
    assert tokens.shape == (8, 3) and logits.isfinite().all()
    with torch.no_grad():
        assert half(**prompts(built[1], ONE)).logits.dtype == torch.bfloat16
