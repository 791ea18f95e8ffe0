"""The collator: from samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from aligngpt.training.datasets import IGNORED, Sample


class Collator:
    """Pads samples on the right and marks where logits are needed.

    Two samples of 5 and 4 tokens, of which the last two and the last one are answers, become, with padding 0:

        input_ids       [[2, 7, 8, 9, 3], [2, 7, 8, 3, 0]]
        labels          [[., ., ., 9, 3], [., ., ., 3, .]]      . is -100
        logits_to_keep  [2, 3]                                  columns whose next token has a label in any row
        shift_labels    [[9, 3], [3, .]]

    A batch also has `attention_mask`, `instruction_mask`, `pixel_values` (all images in row order) where there are
    any, `alignment` (rows,) where samples have levels, `truncated`, the number of truncated samples, and `skipped`, the
    fields of `SkippedSample` of each sample that cannot be read, where there are any.

    Args:
        pad_token_id: Padding id; padding is masked, so any id is possible.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return the batch of samples of one stage."""
        labels = _pad([sample["labels"] for sample in samples], IGNORED)
        shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        columns = (shifted != IGNORED).any(0).nonzero().squeeze(-1)
        if len(columns) == 0:  # no row has a label, but the model needs at least one logit
            columns = torch.tensor([0])
        batch = {
            "input_ids": _pad([sample["input_ids"] for sample in samples], self.pad_token_id),
            "attention_mask": _pad([[1] * len(sample["input_ids"]) for sample in samples], 0),
            "instruction_mask": _pad([sample["instruction_mask"] for sample in samples], 0),
            "labels": labels,
            "logits_to_keep": columns,
            "shift_labels": shifted[:, columns],
            "truncated": sum(sample["truncated"] for sample in samples),
        }
        skipped = [sample["skipped"] for sample in samples if sample.get("skipped")]
        if skipped:
            batch["skipped"] = skipped
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
