"""Other samples of the batch, their order and the padding side change nothing."""

from __future__ import annotations

import torch

from aligngpt import AlignGPTForConditionalGeneration
from aligngpt.training.datasets import InstructionDataset
from tests.invariant.samples import ALL, Built, Inputs, assert_same_logits, generated, prompts, training_batch


def test_eight_prompts_are_answered_as_one_by_one(backbones: Built) -> None:
    model, processor = backbones
    tokens, logits = generated(model, prompts(processor, *ALL), 12)
    for row, name in enumerate(ALL):
        alone, alone_logits = generated(model, prompts(processor, name), 12)
        assert torch.equal(tokens[row], alone[0]), name
        assert_same_logits(logits[row], alone_logits[0])


def test_eight_samples_have_the_logits_and_the_loss_of_one_by_one(built: Built, dataset: InstructionDataset) -> None:
    model = built[0]
    together = training_batch(dataset, *range(8))
    losses, learned = [], []
    with torch.no_grad():
        whole = model(**together)
        for row in range(8):
            alone = training_batch(dataset, row)
            found = model(**alone)
            columns = [together["logits_to_keep"].tolist().index(column) for column in alone["logits_to_keep"]]
            assert_same_logits(whole.logits[row, columns], found.logits[0])
            losses.append(found.loss)
            learned.append((alone["labels"] != -100).sum())
    by_hand = torch.dot(torch.stack(losses), torch.stack(learned).float()) / sum(learned)
    torch.testing.assert_close(whole.loss, by_hand, atol=0, rtol=1e-6)


def gradients(model: AlignGPTForConditionalGeneration, batch: Inputs, learned: int) -> dict[str, torch.Tensor]:
    """Gradients of the loss that the batch has as a part of `learned` tokens."""
    model.zero_grad()
    model(**batch, num_items_in_batch=learned).loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def test_eight_samples_have_the_gradient_of_one_by_one(fresh: Built, dataset: InstructionDataset) -> None:
    model = fresh[0]
    together = training_batch(dataset, *range(8))
    learned = int((together["labels"] != -100).sum())
    expected = gradients(model, together, learned)
    total = {name: torch.zeros_like(value) for name, value in expected.items()}
    for row in range(8):
        for name, value in gradients(model, training_batch(dataset, row), learned).items():
            total[name] += value
    for part in ("alignment_gate", "alignment_embeddings", "multi_modal_projector", "language_model"):
        norm = max(float(value.norm()) for name, value in expected.items() if name.startswith(part))
        assert norm > 1e-3, part
    for name, value in expected.items():
        assert float((total[name] - value).norm()) <= 1e-5 * float(value.norm()) + 1e-9, name


def test_left_and_right_padding_give_the_same_logits(backbones: Built) -> None:
    model, processor = backbones
    left, right = (prompts(processor, *ALL, padding_side=side) for side in ("left", "right"))
    with torch.no_grad():
        found, expected = (model(**inputs, return_gate_weights=True) for inputs in (left, right))
    assert not torch.equal(left["attention_mask"], right["attention_mask"])
    real = [inputs["attention_mask"].bool() for inputs in (left, right)]
    assert_same_logits(found.logits[real[0]], expected.logits[real[1]])
    torch.testing.assert_close(found.gate_weights, expected.gate_weights, atol=1e-6, rtol=0)


def test_left_and_right_padding_give_the_same_loss(built: Built, dataset: InstructionDataset) -> None:
    model = built[0]
    right = training_batch(dataset, *range(8))
    padding = (1 - right["attention_mask"]).sum(-1).tolist()
    columns = ("input_ids", "attention_mask", "instruction_mask", "labels")
    left = {
        name: torch.stack([row.roll(gap) for row, gap in zip(right[name], padding, strict=True)]) for name in columns
    }
    assert 0 in padding and max(padding) > 10
    with torch.no_grad():
        found = model(**left, pixel_values=right["pixel_values"], use_cache=False).loss
        torch.testing.assert_close(found, model(**right).loss, atol=0, rtol=1e-6)


def test_packed_rows_equal_separate_ones(built: Built) -> None:
    model, processor = built
    separate = [prompts(processor, name) for name in ALL]
    lengths = [one["input_ids"].shape[1] for one in separate]
    packed = {name: torch.cat([one[name] for one in separate], dim=1) for name in ("input_ids", "instruction_mask")}
    packed["pixel_values"] = torch.cat([one["pixel_values"] for one in separate if "pixel_values" in one])
    packed["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    packed["segment_ids"] = torch.cat([torch.full((length,), i) for i, length in enumerate(lengths)])[None]
    with torch.no_grad():
        logits = model(**packed, use_cache=False).logits[0].split(lengths)
        for one, found in zip(separate, logits, strict=True):
            assert_same_logits(found, model(**one).logits[0])
