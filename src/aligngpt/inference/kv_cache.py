"""A cache of keys and values with room to grow, so that a further token does not copy all that is known."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # positions that are added at once


class PreallocatedCacheLayer(DynamicLayer):
    """One layer's keys and values, (B, heads, T, width), which are views of tensors with more positions."""

    keys: Tensor | None
    values: Tensor | None
    _store: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add positions; returns the keys and values of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        known = self.get_seq_length()
        length = known + key_states.shape[-2]
        if self._store is None or self._store[0].shape[-2] < length:
            self._store = self._with_room(key_states, known, length), self._with_room(value_states, known, length)
            if self.keys is not None and self.values is not None and known:
                self._store[0][:, :, :known] = self.keys
                self._store[1][:, :, :known] = self.values
        for store, new in zip(self._store, (key_states, value_states), strict=True):
            store[:, :, known:length] = new
        self.keys, self.values = (store[:, :, :length] for store in self._store)
        return self.keys, self.values

    @staticmethod
    def _with_room(states: Tensor, known: int, length: int) -> Tensor:
        room = length + (_ROOM if known else 1)  # a prompt may be the last that is added, a token seldom is
        return states.new_empty((*states.shape[:-2], room, states.shape[-1]))


def preallocated_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for `generate`; layers that see a sliding window alone, or keep no positions, are as always."""
    cache = DynamicCache(config=config.get_text_config(decoder=True))
    cache.layers = [PreallocatedCacheLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
