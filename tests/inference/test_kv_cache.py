"""The preallocated cache equals the library's cache for every kind of layer, also when it grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from aligngpt.inference.kv_cache import PreallocatedCacheLayer, preallocate_cache
from tests import tiny


@pytest.mark.parametrize("kind", tiny.LANGUAGE_MODELS)
def test_the_same_tokens(kind: str, tmp_path: Path) -> None:
    model, processor = tiny.build(tmp_path, kind)
    texts = ["<s>USER: <image>\nWhat? ASSISTANT:", "<s>USER: <image>\nWhat is there behind the house? ASSISTANT:"]
    inputs = processor(images=[tiny.make_image(0), tiny.make_image(1)], text=texts, return_tensors="pt")
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 90, "min_new_tokens": 90}
    with torch.inference_mode():
        expected = model.generate(**inputs, **options)
        cache = preallocate_cache(model.config)
        assert torch.equal(model.generate(**inputs, **options, past_key_values=cache), expected)
    full = [layer for layer in cache.layers if isinstance(layer, PreallocatedCacheLayer)]
    assert len(full) == {"gemma2": 1, "mistral": 0}.get(kind, 2)  # their other layers see a window alone


def test_keys_and_values_are_those_of_the_library() -> None:
    roomy, plain = PreallocatedCacheLayer(), DynamicLayer()
    for length in (5, 1, 1, 70, 1):
        keys, values = torch.randn(2, 3, length, 4), torch.randn(2, 3, length, 4)
        given, expected = roomy.update(keys, values), plain.update(keys, values)
        assert torch.equal(given[0], expected[0]) and torch.equal(given[1], expected[1])
        assert roomy.get_seq_length() == plain.get_seq_length()
        assert roomy.get_mask_sizes(1) == plain.get_mask_sizes(1)


def test_a_token_does_not_copy_the_cache() -> None:
    layer = PreallocatedCacheLayer()
    layer.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))
    places = set()
    for _ in range(70):
        keys, _ = layer.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
        places.add(keys.data_ptr())
    assert len(places) == 3  # the prompt's, with a place to spare, and then 64 at a time
