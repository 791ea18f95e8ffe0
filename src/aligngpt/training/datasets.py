"""Pairs and conversations as training samples: tokens, labels on answers only, images ready for the vision tower."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from aligngpt.curation.levels import iter_levels
from aligngpt.data.duplicate_ids import hash_id
from aligngpt.data.images import load_image
from aligngpt.data.indexed import IndexedSource
from aligngpt.data.schema import BadImage, Conversation, ImageTextPair, RecordError, images_of
from aligngpt.inference.prompts import move_image_to_front
from aligngpt.modeling.processing import AlignGPTProcessor, load_template
from aligngpt.utils.constants import IMAGE_TOKEN

IGNORED = -100  # the label of a token without a loss
_PROBES = 16

Sample = dict[str, Any]
Messages = list[dict[str, Any]]

logger = logging.getLogger(__name__)


def read_levels(pairs: IndexedSource[ImageTextPair], levels: str | Path | None) -> np.ndarray:
    """Return the level of each pair, uint8 (pairs,), 0 for a pair without one.

    Args:
        pairs: The pairs.
        levels: `levels.parquet`, or its folder; `None` reads the levels in the pairs.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A level is below 1.
    """
    if levels is None:
        return pairs.levels
    parts = [(np.array([hash_id(pair) for pair in ids], np.uint64), values) for ids, values in iter_levels(levels)]
    if not parts:
        return np.zeros(len(pairs), np.uint8)
    hashes, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if values.min(initial=1) < 1:
        raise ValueError(f"{levels}: a pair has level {values.min()}; levels are counted from 1")
    order = np.argsort(hashes, kind="stable")
    hashes, values = hashes[order], values[order]
    positions = np.minimum(np.searchsorted(hashes, pairs.ids), len(hashes) - 1)
    return np.where(hashes[positions] == pairs.ids, values[positions], 0).astype(np.uint8)


class _SampleDataset(Dataset):
    """Samples of conversations and their images, for both stages.

    A sample has `id`, `input_ids`, `labels` and `instruction_mask` (lists of one length), `pixel_values` (images, 3,
    height, width) or `None`, `alignment_level` (1..N) or `None`, `truncated` (whether the text was cut), and `skipped`:
    `None`, or the fields of the `BadRecord` of a record or image that cannot be read. A skipped sample, and one without
    room for an answer or for all its images within the maximum length, is one token without a label.
    """

    def __init__(self, records: IndexedSource[Any], processor: AlignGPTProcessor, max_length: int = 2048) -> None:
        if not len(records):
            raise ValueError(f"{records.source.path} has no valid record")
        self.records = records
        self.indices = np.arange(len(records))  # of the records that are samples
        self.processor = processor
        self.max_length = max_length
        tokens = processor.tokenizer.bos_token_id, processor.tokenizer.pad_token_id
        self._placeholder: int = next((token for token in tokens if token is not None), 0)

    def check_images(self) -> None:
        """Check the headers of a few images, so that a wrong image folder ends the run before it starts.

        Raises:
            ValueError: None of them can be read.
        """
        reasons = []
        for index in np.linspace(0, len(self) - 1, min(_PROBES, len(self))).astype(int).tolist():
            skipped = self[index]["skipped"]
            if skipped is None:
                return
            reasons.append(f"{skipped['image'] or skipped['source']}: {skipped['reason']}")
        raise ValueError(f"none of {len(reasons)} samples can be read, the first is {reasons[0]}; check --images")

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def modality_lengths(self) -> list[int]:
        """Words of each caption or conversation, negative without an image, as the sampler expects them."""
        return self.records.lengths[self.indices].tolist()

    def _read(
        self, index: int, to_messages: Callable[[Any], Messages], level: int | None = None, template: str | None = None
    ) -> Sample:
        """Make the sample of a record, a skipped one if the record or an image cannot be read."""
        record: ImageTextPair | Conversation | None = None
        try:
            record = self.records[index]
            return self._make_sample(record, to_messages(record), level, template)
        except (RecordError, BadImage) as error:
            skipped = self.records.describe(index, str(error), record)
            return self._make_empty_sample(
                skipped.id or f"#{skipped.index}", [self._placeholder], level, asdict(skipped)
            )

    def _make_sample(
        self, record: ImageTextPair | Conversation, messages: Messages, level: int | None, template: str | None
    ) -> Sample:
        images = images_of(record)
        encoding = self.processor.encode(self.processor.render(messages, template, has_images=bool(images)))
        ids = encoding.input_ids[: self.max_length]
        answers = encoding.answer_mask[: self.max_length]
        expected = len(images) * self.processor.image_seq_length
        sample = self._make_empty_sample(record.id, ids, level)
        if not any(answers) or ids.count(self.processor.image_token_id) != expected:
            logger.warning(
                "sample %s adds no loss: its %d tokens have no answer, or not all of its images, within max_length %d",
                *(record.id, len(encoding.input_ids), self.max_length),
            )
            return sample
        return sample | {
            "input_ids": ids,
            "labels": [token if answer else IGNORED for token, answer in zip(ids, answers, strict=True)],
            "instruction_mask": encoding.instruction_mask[: self.max_length],
            "pixel_values": self._load_pixel_values(images),
            "truncated": len(ids) < len(encoding.input_ids),
        }

    def _make_empty_sample(
        self, record_id: str, ids: list[int], level: int | None, skipped: dict[str, Any] | None = None
    ) -> Sample:
        """Return one token without a label, so that one bad sample does not end a long run."""
        return {
            "id": record_id,
            "input_ids": ids[:1],
            "labels": [IGNORED],
            "instruction_mask": [False],
            "pixel_values": None,
            "alignment_level": level,
            "truncated": skipped is None,
            "skipped": skipped,
        }

    def _load_pixel_values(self, images: Sequence[tuple[str, bytes | None]]) -> torch.Tensor | None:
        folder = self.records.source.images or Path()
        decoded = [load_image(folder / path if data is None else data) for path, data in images]
        return self.processor.pixel_values(decoded) if decoded else None


class PretrainDataset(_SampleDataset):
    """Stage 1: predict the caption, conditioned on the image and the level of the pair.

    A pair `{"image": "dog.jpg", "caption": "a dog"}` at level 6 becomes `<s><align><image>...<image>a dog\\n` with
    labels on `a dog\\n` and `alignment_level` 6.

    Args:
        pairs: The pairs.
        processor: Tokenizer and image processor; stage 1 uses the plain template, not the processor's.
        levels: uint8 (pairs,), see `read_levels`; `None` trains without alignment. Pairs of level 0 are not in the
            dataset and counted in `num_without_level`.
        max_length: Longest sample in tokens, image tokens included.

    Raises:
        ValueError: There is no pair, or none has a level.
    """

    def __init__(
        self,
        pairs: IndexedSource[ImageTextPair],
        processor: AlignGPTProcessor,
        levels: np.ndarray | None,
        max_length: int = 2048,
    ) -> None:
        super().__init__(pairs, processor, max_length)
        if levels is not None:
            self.indices = np.flatnonzero(levels)
        self.levels = None if levels is None else levels[self.indices]
        self.num_without_level = len(pairs) - len(self.indices)
        if not len(self.indices):
            raise ValueError(f"none of the {len(pairs)} pairs has a level; were the levels made from these pairs?")
        self._template = load_template("plain")

    def __getitem__(self, index: int) -> Sample:
        level = None if self.levels is None else int(self.levels[index])
        return self._read(int(self.indices[index]), _convert_pair, level, self._template)


class InstructionDataset(_SampleDataset):
    """Stage 2: conversations with one, several or no images, labels on the assistant's turns.

    Args:
        records: The conversations.
        processor: Tokenizer, template and image processor of the model.
        max_length: Longest sample in tokens, image tokens included.

    Raises:
        ValueError: There is no conversation.
    """

    def __getitem__(self, index: int) -> Sample:
        return self._read(index, _convert_conversation)


def _convert_pair(pair: ImageTextPair) -> Messages:
    return [{"role": "user", "content": IMAGE_TOKEN}, {"role": "assistant", "content": pair.caption}]


def _convert_conversation(conversation: Conversation) -> Messages:
    has_images = bool(conversation.images)
    return [
        {"role": turn.role, "content": move_image_to_front(turn.text) if has_images else turn.text}
        for turn in conversation.turns
    ]
