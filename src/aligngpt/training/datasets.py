"""Pairs and conversations as training samples: tokens, labels on answers only, images ready for the tower."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from aligngpt.data.images import BadImage, load_image
from aligngpt.data.schema import Conversation, ImageTextPair
from aligngpt.inference.prompts import move_image_to_front
from aligngpt.modeling.processing import AlignGPTProcessor, load_template
from aligngpt.utils.constants import IMAGE_TOKEN

IGNORED = -100  # the label of a token that is not to be learned

Sample = dict[str, Any]

logger = logging.getLogger(__name__)


class _SampleDataset(Dataset):
    """What both stages share: a conversation and its images become one sample.

    A sample holds `id`, `input_ids`, `labels` and `instruction_mask` (lists of one length), `pixel_values` (images, 3,
    height, width) or `None`, `alignment_level` (1..N) or `None`, and `truncated`: whether the text was cut. Where no
    answer, or not every image, is within the maximum length, nothing is learned: one token stands for the sample.
    """

    def __init__(self, image_folder: str | Path, processor: AlignGPTProcessor, max_length: int) -> None:
        self.image_folder = Path(image_folder)
        self.processor = processor
        self.max_length = max_length

    def _sample(
        self,
        sample_id: str,
        messages: list[dict[str, Any]],
        images: Sequence[str],
        level: int | None = None,
        template: str | None = None,
    ) -> Sample:
        encoding = self.processor.encode(self.processor.render(messages, template, has_images=bool(images)))
        ids = encoding.input_ids[: self.max_length]
        answers = encoding.answer_mask[: self.max_length]
        kept, needed = ids.count(self.processor.image_token_id), len(images) * self.processor.image_seq_length
        if not any(answers) or kept != needed:
            return self._nothing_to_learn(sample_id, encoding.input_ids, level)
        return {
            "id": sample_id,
            "input_ids": ids,
            "labels": [token if answer else IGNORED for token, answer in zip(ids, answers, strict=True)],
            "instruction_mask": encoding.instruction_mask[: self.max_length],
            "pixel_values": self._pixel_values(sample_id, images),
            "alignment_level": level,
            "truncated": len(ids) < len(encoding.input_ids),
        }

    def _nothing_to_learn(self, sample_id: str, ids: list[int], level: int | None) -> Sample:
        """One token without a label, in the place of a sample of which no answer, or not every image, fits.

        Only its tokens tell, which are made when its turn comes; one such sample is no reason to end a long run.
        """
        logger.warning(
            "sample %s: nothing is learned from it, its %d tokens have no answer, or not all of their image, within "
            "the maximum length of %d",
            sample_id,
            len(ids),
            self.max_length,
        )
        return {
            "id": sample_id,
            "input_ids": ids[:1],
            "labels": [IGNORED],
            "instruction_mask": [False],
            "pixel_values": None,
            "alignment_level": level,
            "truncated": True,
        }

    def _pixel_values(self, sample_id: str, images: Sequence[str]) -> torch.Tensor | None:
        if not images:
            return None
        try:
            return self.processor.pixel_values([load_image(self.image_folder / image) for image in images])
        except BadImage as error:
            raise ValueError(f"sample {sample_id}: {', '.join(images)}: {error}") from error


class PretrainDataset(_SampleDataset):
    """Stage 1: given the image and the level of the pair, predict the caption.

    A pair `{"image": "dog.jpg", "caption": "a dog"}` at level 6 becomes `<s><align><image>...<image>a dog\\n` with
    labels on `a dog\\n` and `alignment_level` 6.

    Args:
        pairs: The pairs.
        image_folder: Where their images lie.
        processor: Its template is not used; stage 1 has the plain one.
        levels: Level of each pair by its id, `None` to train without alignment. Pairs without a level are left out
            and counted in `num_without_level`.
        max_length: Longest sample in tokens, image tokens counted.

    Raises:
        ValueError: There is no pair, or none has a level. On access: an image that cannot be read.
    """

    def __init__(
        self,
        pairs: Sequence[ImageTextPair],
        image_folder: str | Path,
        processor: AlignGPTProcessor,
        levels: Mapping[str, int] | None,
        max_length: int = 2048,
    ) -> None:
        super().__init__(image_folder, processor, max_length)
        if not pairs:
            raise ValueError("there is no pair to learn from")
        self.levels = levels
        self.pairs = [pair for pair in pairs if levels is None or pair.id in levels]
        self.num_without_level = len(pairs) - len(self.pairs)
        if not self.pairs:
            raise ValueError(f"none of the {len(pairs)} pairs has a level: were the levels made from these pairs?")
        self._template = load_template("plain")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        messages = [{"role": "user", "content": IMAGE_TOKEN}, {"role": "assistant", "content": pair.caption}]
        level = None if self.levels is None else self.levels[pair.id]
        return self._sample(pair.id, messages, (pair.image,), level, self._template)

    @property
    def modality_lengths(self) -> list[int]:
        """Words of each caption; every sample has an image."""
        return [max(1, len(pair.caption.split())) for pair in self.pairs]


class InstructionDataset(_SampleDataset):
    """Stage 2: conversations with one, several or no images, labels on the assistant's turns.

    Args:
        conversations: The conversations.
        image_folder: Where their images lie.
        processor: Tokenizer, template and image processor of the model.
        max_length: Longest sample in tokens, image tokens counted.

    Raises:
        ValueError: There is no conversation. On access: as for `PretrainDataset`.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        image_folder: str | Path,
        processor: AlignGPTProcessor,
        max_length: int = 2048,
    ) -> None:
        super().__init__(image_folder, processor, max_length)
        self.conversations = conversations
        if not conversations:
            raise ValueError("there is no conversation to learn from")

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Sample:
        conversation = self.conversations[index]
        with_images = bool(conversation.images)
        messages = [
            {"role": turn.role, "content": move_image_to_front(turn.text) if with_images else turn.text}
            for turn in conversation.turns
        ]
        return self._sample(conversation.id, messages, conversation.images)

    @property
    def modality_lengths(self) -> list[int]:
        """Words of each conversation, negative without an image, as the sampler wants them."""
        words = (max(1, sum(len(turn.text.split()) for turn in one.turns)) for one in self.conversations)
        return [
            count if conversation.images else -count
            for count, conversation in zip(words, self.conversations, strict=True)
        ]
