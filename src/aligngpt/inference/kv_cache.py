"""A key-value cache that grows in steps of 64 positions, so that a new token does not copy all earlier ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_EXTRA_POSITIONS = 64


class PreallocatedCacheLayer(DynamicLayer):
    """Keys and values of one layer, (B, heads, T, width): views of buffers with more positions."""

    keys: Tensor | None
    values: Tensor | None
    _buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append positions and return the keys and values of all positions."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        buffers = self._buffers
        # Beam search and other methods of the base class replace the views by other tensors.
        is_replaced = buffers is not None and self.keys is not None and self.keys.data_ptr() != buffers[0].data_ptr()
        if buffers is None or buffers[0].shape[-2] < end or is_replaced:
            # A prompt may be the last thing that is appended; a single token seldom is.
            length = end + (_EXTRA_POSITIONS if start else 1)
            shape = (*key_states.shape[:-2], length)
            buffers = (
                key_states.new_empty(*shape, key_states.shape[-1]),
                value_states.new_empty(*shape, value_states.shape[-1]),
            )
            if self.keys is not None and self.values is not None and start:
                buffers[0][:, :, :start], buffers[1][:, :, :start] = self.keys, self.values
            self._buffers = buffers
        for buffer, states in zip(buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in buffers)
        return self.keys, self.values


def preallocate_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return an empty cache for `generate`; layers with a sliding window or no positions keep the library's class."""
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    cache.layers = [PreallocatedCacheLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
