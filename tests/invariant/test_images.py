"""Each image reaches only its own sample, at its own placeholder."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aligngpt.training.datasets import InstructionDataset
from tests import tiny
from tests.invariant.samples import (
    ALL,
    NONE,
    Built,
    Inputs,
    generated,
    images_of,
    prompts,
    training_batch,
)
from tests.invariant.test_batches import gradients

OWNERS = [row for row, name in enumerate(ALL) for _ in images_of(name)]  # the sample of each image of a batch
TEXT_ONLY = [row for row in range(8) if row not in OWNERS]


def with_other_images(built: Built, inputs: Inputs, *changed: int) -> Inputs:
    """The same inputs with these images replaced."""
    pixels = inputs["pixel_values"].clone()
    for place in changed:
        pixels[place] = built[1].pixel_values([tiny.make_image(1000 + place)])[0]
    return {**inputs, "pixel_values": pixels}


def test_the_eight_samples_have_none_one_and_two_images() -> None:
    assert [OWNERS.count(row) for row in range(8)] == [1, 0, 1, 2, 2, 0, 1, 2]
    assert [TEXT_ONLY, ALL[1], ALL[5]] == [[1, 5], NONE, "no image, two turns"]


@pytest.mark.parametrize("training", [True, False], ids=["training", "prompts"])
def test_images_are_in_the_order_of_their_placeholders(
    built: Built, dataset: InstructionDataset, training: bool
) -> None:
    model, processor = built
    inputs = training_batch(dataset, *range(8)) if training else prompts(processor, *ALL)
    seen: dict[str, torch.Tensor] = {}
    handle = model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(embeds=kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
        handle.remove()
        expected = [
            model.get_image_features(processor.pixel_values([image]))[0] for name in ALL for image in images_of(name)
        ]
    is_image = inputs["input_ids"] == model.config.image_token_id
    assert is_image.sum(-1).tolist() == [9 * OWNERS.count(row) for row in range(8)]
    torch.testing.assert_close(seen["embeds"][is_image], torch.cat(expected), atol=1e-5, rtol=0)
    assert (inputs["input_ids"] == model.config.align_token_id).sum(-1).tolist() == [
        int(row in OWNERS) for row in range(8)
    ]


def test_an_image_changes_only_its_own_sample(built: Built, dataset: InstructionDataset) -> None:
    model = built[0]
    batch = training_batch(dataset, *range(8))
    with torch.no_grad():
        before = model(**batch).logits
        for place, owner in enumerate(OWNERS):
            after = model(**with_other_images(built, batch, place)).logits
            changed = [row for row in range(8) if not torch.equal(before[row], after[row])]
            assert changed == [owner], place


# ------------------------------------------------------------------------------------------------- text-only samples


def test_a_text_only_prompt_does_not_depend_on_other_images_of_the_batch(built: Built) -> None:
    model, processor = built
    inputs = prompts(processor, *ALL)
    tokens, logits = generated(model, inputs, 12)
    other_tokens, others = generated(model, with_other_images(built, inputs, *range(len(OWNERS))), 12)
    for row in range(8):
        assert torch.equal(logits[row], others[row]) == (row in TEXT_ONLY)
    assert torch.equal(tokens[TEXT_ONLY], other_tokens[TEXT_ONLY])


def text_alone(dataset: InstructionDataset) -> tuple[Inputs, Inputs]:
    """A batch of eight in which only the text-only samples are learned, and a batch of these alone."""
    batch: dict[str, Any] = {**training_batch(dataset, *range(8))}
    for name in ("labels", "shift_labels"):
        batch[name] = batch[name].clone()
        batch[name][[row for row in range(8) if row not in TEXT_ONLY]] = -100
    return batch, training_batch(dataset, *TEXT_ONLY)


def test_a_text_only_sample_gives_the_same_gradient_in_a_batch_with_images(
    fresh: Built, dataset: InstructionDataset
) -> None:
    model = fresh[0]
    mixed, alone = text_alone(dataset)
    expected, found = (gradients(model, batch, 40) for batch in (alone, mixed))
    for name, value in found.items():
        if name.startswith("language_model"):
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-4)
        else:
            assert not value.any(), name
    assert float(expected["language_model.lm_head.weight"].norm()) > 1e-2
    other = gradients(model, with_other_images(fresh, mixed, *range(len(OWNERS))), 40)
    assert all(torch.equal(other[name], value) for name, value in found.items())
