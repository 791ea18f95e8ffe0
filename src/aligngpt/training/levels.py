"""Alignment levels in stage 1: the level of each pair, and the loss of each level."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from aligngpt.curation.levels import LEVELS_JSON, LEVELS_PARQUET, levels_file
from aligngpt.data.indexed import IndexedSource
from aligngpt.data.schema import ImageTextPair
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.processing import AlignGPTProcessor
from aligngpt.training.collator import Collator
from aligngpt.training.configs import PretrainConfig
from aligngpt.training.datasets import IGNORED, PretrainDataset, read_levels_of
from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.io import read_json

logger = logging.getLogger(__name__)

_LOSS_SAMPLES_PER_LEVEL = 128
_LOSS_BATCH_SIZE = 32


def read_pair_levels(
    config: PretrainConfig, pairs: IndexedSource[ImageTextPair], levels: str | Path | None
) -> np.ndarray | None:
    """Return the level of each pair, uint8 (pairs,), 0 for a pair without one; `None` without alignment.

    Raises:
        ArgumentError: There are no levels.
        ValueError: A level is outside 1..N.
    """
    if config.alignment == "none":
        return None
    summary = None if levels is None else levels_file(levels, LEVELS_PARQUET).with_name(LEVELS_JSON)
    if summary is not None and summary.is_file():
        num_levels = read_json(summary)["num_levels"]
        if num_levels != config.num_alignment_levels:  # a larger table would leave its last row untrained
            raise ValueError(
                f"{summary} has {num_levels} levels, but num_alignment_levels is {config.num_alignment_levels}; pass "
                f"--num-alignment-levels {num_levels}"
            )
    pair_levels = read_levels_of(pairs, levels)
    highest = int(pair_levels.max(initial=0))
    if not highest and levels is None:
        raise ArgumentError("the pairs have no levels; pass --levels (written by aligngpt level) or --alignment none")
    if highest > config.num_alignment_levels:
        raise ValueError(
            f"a pair has level {highest}, but the levels of num_alignment_levels {config.num_alignment_levels} are 1 "
            f"to {config.num_alignment_levels}; pass --num-alignment-levels as in aligngpt level"
        )
    if highest < config.num_alignment_levels:
        logger.warning(
            "the highest level of any pair is %d of %d; the global embedding stays untrained unless "
            "--num-alignment-levels is the number that the pairs were binned into",
            *(highest, config.num_alignment_levels),
        )
    return pair_levels


@torch.no_grad()
def loss_by_level(
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
