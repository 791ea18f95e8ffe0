"""With a key-value cache or without, the same tokens and the same logits."""

from __future__ import annotations

import pytest
import torch

from tests.invariant.samples import NONE, ONE, TWO, Built, assert_same_logits, generated, prompts


def test_fifty_tokens_with_a_cache_equal_fifty_without(backbones: Built) -> None:
    model, processor = backbones
    inputs = prompts(processor, ONE, NONE, TWO)
    tokens, logits = generated(model, inputs, 50)
    expected, expected_logits = generated(model, inputs, 50, use_cache=False)
    assert tokens.shape == (3, 50) and len(tokens.unique()) > 10
    assert torch.equal(tokens, expected)
    assert_same_logits(logits, expected_logits)


def test_fifty_tokens_with_a_static_cache_equal_fifty_without(built: Built) -> None:
    model, processor = built
    inputs = prompts(processor, ONE, NONE, TWO)
    tokens, logits = generated(model, inputs, 50, cache_implementation="static")
    expected, expected_logits = generated(model, inputs, 50, use_cache=False)
    assert torch.equal(tokens, expected)
    assert_same_logits(logits, expected_logits)


@pytest.mark.parametrize("gate_text", ["instruction", "all"])
def test_the_gate_of_a_prompt_is_constant_during_generation(fresh: Built, gate_text: str) -> None:
    """Without a cache the whole sequence is computed in every step, and the gate must not read what was written."""
    model, processor = fresh
    model.config.gate_text = gate_text
    inputs = prompts(processor, ONE, TWO)
    tokens, logits = generated(model, inputs, 8)
    expected, expected_logits = generated(model, inputs, 8, use_cache=False)
    assert torch.equal(tokens, expected)
    assert_same_logits(logits, expected_logits)
