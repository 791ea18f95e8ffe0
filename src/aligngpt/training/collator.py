"""From samples to batches: the collator, and the sampler that groups by modality and length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from aligngpt.training.datasets import IGNORED, Sample


class Collator:
    """Pads samples on the right and says where logits are needed.

    Two samples of 5 and 4 tokens whose last two and one are answers become, with padding 0:

        input_ids       [[2, 7, 8, 9, 3], [2, 7, 8, 3, 0]]
        labels          [[., ., ., 9, 3], [., ., ., 3, .]]      . is -100
        logits_to_keep  [2, 3]                                  columns whose next token is learned in any row
        shift_labels    [[9, 3], [3, .]]

    A batch also has `attention_mask`, `instruction_mask`, `pixel_values` (all images in row order) where there are
    any, `alignment` (rows,) where samples have levels, and `truncated`, the number of samples that were cut.

    Args:
        pad_token_id: Id that fills up the rows; it is masked, so any will do.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Collate samples of one stage, see the class."""
        labels = _pad([sample["labels"] for sample in samples], IGNORED)
        shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        kept = (shifted != IGNORED).any(0).nonzero().squeeze(-1)
        if len(kept) == 0:  # no row has anything to learn; the model is to have a logit all the same
            kept = torch.tensor([0])
        batch = {
            "input_ids": _pad([sample["input_ids"] for sample in samples], self.pad_token_id),
            "attention_mask": _pad([[1] * len(sample["input_ids"]) for sample in samples], 0),
            "instruction_mask": _pad([sample["instruction_mask"] for sample in samples], 0),
            "labels": labels,
            "logits_to_keep": kept,
            "shift_labels": shifted[:, kept],
            "truncated": sum(sample["truncated"] for sample in samples),
        }
        pixels = [sample["pixel_values"] for sample in samples if sample["pixel_values"] is not None]
        if pixels:
            batch["pixel_values"] = torch.cat(pixels)
        levels = [sample["alignment_level"] for sample in samples]
        if None not in levels:
            batch["alignment"] = torch.tensor(levels)
        return batch


def _pad(rows: list[list[int]], value: int) -> torch.Tensor:
    length = max(map(len, rows))
    return torch.tensor([row + [value] * (length - len(row)) for row in rows], dtype=torch.long)


class ModalityGroupedSampler(Sampler[int]):
    """Orders a data set so that a batch over all processes is of one modality and of about one length.

    The order is the official code's: within a modality, shuffled groups of `batch_size * world_size` samples are sorted
    by length and dealt to the processes in even shares; then the groups of both modalities are shuffled. What fills no
    whole group comes last.

    Args:
        lengths: Length of each sample, negative for one without an image.
        batch_size: Samples of one process's batch.
        world_size: Processes times gradient accumulation steps.
        seed: Fixes the order together with `set_epoch`; `None` draws from torch's global state.
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
        """Give the next pass the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = None
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
        with_image = [index for index, length in enumerate(self.lengths) if length > 0]
        text_only = [index for index, length in enumerate(self.lengths) if length < 0]
        if not with_image or not text_only:
            groups = self._groups(with_image or text_only, generator)
            return iter([index for group in groups for index in group])
        whole: list[list[int]] = []
        rest: list[int] = []
        for modality in (with_image, text_only):
            *full, last = self._groups(modality, generator)
            whole += full
            rest += last
        order = torch.randperm(len(whole), generator=generator).tolist()
        return iter([index for place in order for index in whole[place]] + sorted(rest))

    def _groups(self, indices: list[int], generator: torch.Generator | None) -> list[list[int]]:
        """Shuffled groups of one modality, each sorted by length and dealt out to the processes."""
        size = self.batch_size * self.world_size
        shuffled = [indices[place] for place in torch.randperm(len(indices), generator=generator).tolist()]
        single = len(indices) == len(self.lengths)  # negative lengths stay negative then, as in the official code
        key = (lambda index: self.lengths[index]) if single else (lambda index: abs(self.lengths[index]))
        groups = [
            sorted(shuffled[start : start + size], key=key, reverse=True) for start in range(0, len(shuffled), size)
        ]
        return [self._dealt(group, key) for group in groups]

    def _dealt(self, group: list[int], key: Any) -> list[int]:
        """Give each next sample to the process with the least to do; strided where the shares are not even."""
        shares: list[list[int]] = [[] for _ in range(self.world_size)]
        if len(group) % self.world_size:
            shares = [group[start :: self.world_size] for start in range(self.world_size)]
        else:
            loads = [0.0] * self.world_size
            for index in group:
                least = loads.index(min(loads))
                shares[least].append(index)
                loads[least] += key(index)
                if len(shares[least]) == len(group) // self.world_size:
                    loads[least] = float("inf")
        return [index for share in shares for index in share]
