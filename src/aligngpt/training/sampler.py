"""The sampler that groups samples by modality and length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch.utils.data import Sampler


class ModalityGroupedSampler(Sampler[int]):
    """Orders a dataset so that a batch over all processes has one modality and samples of similar length.

    The order is that of the official code: within a modality, shuffled groups of `batch_size * world_size` samples are
    sorted by length and split evenly over the processes; then the groups of both modalities are shuffled. Samples that
    do not fill a group come last.

    Args:
        lengths: Length of each sample, negative for one without an image.
        batch_size: Samples per process and batch.
        world_size: Processes times gradient accumulation steps.
        seed: Determines the order, with `set_epoch`; `None` uses torch's global generator.

    Raises:
        ValueError: A length is 0.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, world_size: int = 1, seed: int | None = None) -> None:
        if any(length == 0 for length in lengths):
            raise ValueError("a sample has length 0: lengths are positive with an image and negative without one")
        self.lengths = lengths
        self.batch_size = batch_size
        self.world_size = world_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order of the next pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed + self.epoch)
        with_image = [index for index, length in enumerate(self.lengths) if length > 0]
        text_only = [index for index, length in enumerate(self.lengths) if length < 0]
        modalities = [self._make_groups(indices, generator) for indices in (with_image, text_only) if indices]
        if len(modalities) == 1:
            return chain.from_iterable(modalities[0])
        groups = [group for modality in modalities for group in modality[:-1]]
        order = torch.randperm(len(groups), generator=generator).tolist()
        remainder = sorted(index for modality in modalities for index in modality[-1])
        return iter([index for position in order for index in groups[position]] + remainder)

    def _make_groups(self, indices: list[int], generator: torch.Generator | None) -> list[list[int]]:
        """Return shuffled groups of one modality, each sorted by length and split over the processes."""
        size = self.batch_size * self.world_size
        shuffled = [indices[position] for position in torch.randperm(len(indices), generator=generator).tolist()]
        single = len(indices) == len(self.lengths)  # negative lengths stay negative then, as in the official code
        key = (lambda index: self.lengths[index]) if single else (lambda index: abs(self.lengths[index]))
        groups = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        return [self._split_group(sorted(group, key=key, reverse=True), key) for group in groups]

    def _split_group(self, group: list[int], key: Any) -> list[int]:
        """Assign each sample to the process with the smallest load; use strides where the split is not even."""
        if len(group) % self.world_size:
            return [index for start in range(self.world_size) for index in group[start :: self.world_size]]
        shards: list[list[int]] = [[] for _ in range(self.world_size)]
        loads = [0.0] * self.world_size
        for index in group:
            least = loads.index(min(loads))
            shards[least].append(index)
            loads[least] += key(index)
            if len(shards[least]) == len(group) // self.world_size:
                loads[least] = float("inf")
        return [index for shard in shards for index in shard]
