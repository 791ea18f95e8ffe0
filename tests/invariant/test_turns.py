"""A later turn that continues from the cache of earlier turns equals one computed from the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import tiny
from tests.invariant.samples import (
    NONE,
    ONE,
    TWO,
    Built,
    Inputs,
    assert_same_logits,
    generated,
    messages_of,
    prompts,
)

FIRST_TURNS: dict[str, tuple[str, ...]] = {
    "no image": ("Who are you?", "Nobody."),
    "image in front": ("<image>\nHow many shapes?", "Three of them."),
    "image at the end": ("What stands here? <image>", "A cup."),
    "two images": ("<image>\nIs this <image> the same?", "No."),
}


def conversation(built: Built, *turns: str) -> Inputs:
    """Turns as inputs; after a user's turn an answer is to come."""
    processor = built[1]
    number = "".join(turns).count("<image>")
    text = processor.render(messages_of(turns), add_generation_prompt=len(turns) % 2 == 1)
    return dict(processor([tiny.make_image(seed) for seed in range(number)] or None, text, return_tensors="pt"))


def cache_of(built: Built, inputs: Inputs, **options: Any) -> Any:
    with torch.no_grad():
        return built[0](**inputs, use_cache=True, **options).past_key_values


def assert_continues(built: Built, first: Inputs, whole: Inputs, **options: Any) -> None:
    """What follows the first turn's cache equals what follows no cache, and the first turn is not computed again."""
    model, known = built[0], first["input_ids"].shape[1]
    assert torch.equal(whole["input_ids"][:, :known], first["input_ids"])
    computed: list[int] = []
    handle = model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    cache = cache_of(built, first, **options)
    tokens, logits = generated(model, whole, 8, past_key_values=cache, **options)
    handle.remove()
    expected, expected_logits = generated(model, whole, 8, use_cache=False, **options)
    assert computed == [known, whole["input_ids"].shape[1] - known] + [1] * 7
    assert torch.equal(tokens, expected)
    assert_same_logits(logits, expected_logits)


@pytest.mark.parametrize("alignment", [None, "local", "global", 3, "none"])
@pytest.mark.parametrize("turns", FIRST_TURNS.values(), ids=FIRST_TURNS)
def test_another_instruction_continues_from_the_cache(built: Built, turns: tuple[str, ...], alignment: Any) -> None:
    first, whole = conversation(built, *turns), conversation(built, *turns, "Describe all of it, word by word.")
    assert_continues(built, first, whole, alignment=alignment)


@pytest.mark.parametrize("question", ["<image>\nAnd this?", "And this <image> or <image>?"], ids=["one", "two"])
@pytest.mark.parametrize("name", ["image in front", "two images"])
def test_a_new_image_continues_from_the_cache(built: Built, name: str, question: str) -> None:
    turns = FIRST_TURNS[name]
    assert_continues(built, conversation(built, *turns), conversation(built, *turns, question))


def test_a_batch_continues_from_its_cache(built: Built) -> None:
    """Rows of one batch keep their padding, so their next turn is put behind the tokens of the first."""
    model, processor = built
    first = prompts(processor, ONE, NONE, TWO)
    output = model.generate(**first, max_new_tokens=6, do_sample=False, eos_token_id=None, return_dict_in_generate=True)
    question = processor.encode("</s>USER: And why is it so? ASSISTANT:").input_ids[1:]
    ids = torch.cat([output.sequences, torch.tensor([question] * 3)], dim=1)
    added = ids.shape[1] - first["input_ids"].shape[1]
    whole = {**first, "input_ids": ids}
    whole["attention_mask"] = torch.nn.functional.pad(first["attention_mask"], (0, added), value=1)
    whole["instruction_mask"] = torch.nn.functional.pad(first["instruction_mask"], (0, added))
    tokens, logits = generated(model, whole, 8, past_key_values=output.past_key_values)
    expected, expected_logits = generated(model, whole, 8, use_cache=False)
    assert torch.equal(tokens, expected)
    assert_same_logits(logits, expected_logits)


def test_gate_text_all_refuses_the_cache_of_the_first_turn(fresh: Built) -> None:
    fresh[0].config.gate_text = "all"
    turns = FIRST_TURNS["image in front"]
    first, whole = conversation(fresh, *turns), conversation(fresh, *turns, "Why?")
    with pytest.raises(ValueError, match="past_key_values contain the alignment embedding of an earlier prompt"):
        generated(fresh[0], whole, 2, past_key_values=cache_of(fresh, first))
    assert_continues(fresh, first, whole, alignment="global")  # reads no gate, so nothing is out of date
