"""Alignment levels in stage 1: the level of each pair, and the loss of each level."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from aligngpt.data.indexed import IndexedSource
from aligngpt.data.schema import ImageTextPair
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.processing import AlignGPTProcessor
from aligngpt.training.collator import Collator
from aligngpt.training.datasets import IGNORED, PretrainDataset, read_levels
from aligngpt.utils.errors import ArgumentError

logger = logging.getLogger(__name__)

_LOSS_SAMPLES_PER_LEVEL = 128
_LOSS_BATCH_SIZE = 32


def read_pair_levels(pairs: IndexedSource[ImageTextPair], levels: str | Path | None, num_levels: int) -> np.ndarray:
    """Return the level of each pair, uint8 (pairs,), 0 for a pair without one.

    Args:
        pairs: The pairs.
        levels: `levels.parquet` or its folder; `None` reads the levels in the pairs.
        num_levels: Number of levels N.

    Raises:
        ArgumentError: There are no levels.
        ValueError: A level is outside 1..N.
    """
    pair_levels = read_levels(pairs, levels)
    highest = int(pair_levels.max(initial=0))
    if not highest and levels is None:
        raise ArgumentError("the pairs have no levels; pass --levels (written by aligngpt level) or --alignment none")
    if highest > num_levels:
        raise ValueError(
            f"a pair has level {highest}, but num_alignment_levels is {num_levels}; pass --num-alignment-levels "
            f"{highest} or the number that the pairs were binned into"
        )
    if highest < num_levels:
        logger.warning(
            "the highest level of any pair is %d of %d; the global embedding stays untrained unless "
            "--num-alignment-levels is the number that the pairs were binned into",
            *(highest, num_levels),
        )
    return pair_levels


@torch.no_grad()
def compute_loss_by_level(
    model: AlignGPTForConditionalGeneration, processor: AlignGPTProcessor, dataset: PretrainDataset, num_levels: int
) -> list[float | None]:
    """Return the mean caption loss (nats per token) of the pairs of each level 1..N, conditioned on that level.

    At most 128 pairs of each level are used, the same for the same data. A level without pairs has `None`.
    """
    assert dataset.levels is not None
    collate = Collator(processor.tokenizer.pad_token_id)
    was_training = model.training
    model.eval()
    losses: list[float | None] = []
    for level in range(1, num_levels + 1):
        members = np.flatnonzero(dataset.levels == level)[:_LOSS_SAMPLES_PER_LEVEL].tolist()
        total, num_tokens = 0.0, 0
        for start in range(0, len(members), _LOSS_BATCH_SIZE):
            batch = collate([dataset[index] for index in members[start : start + _LOSS_BATCH_SIZE]])
            inputs = {key: value.to(model.device) for key, value in batch.items() if isinstance(value, torch.Tensor)}
            count = int((inputs["labels"] != IGNORED).sum())
            if count:
                total += float(model(**inputs, use_cache=False).loss) * count
                num_tokens += count
        losses.append(round(total / num_tokens, 4) if num_tokens else None)
    model.train(was_training)
    return losses
