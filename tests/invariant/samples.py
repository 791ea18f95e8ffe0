"""Eight conversations that differ in number and position of images, and their prompts and training batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aligngpt import AlignGPTForConditionalGeneration, AlignGPTProcessor
from aligngpt.data.schema import Conversation, Turn
from aligngpt.training.collator import Collator
from aligngpt.training.datasets import InstructionDataset
from tests import tiny
from tests.source_files import indexed

Built = tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor]
Inputs = dict[str, Tensor]

ROUNDING = 1e-5
"""Largest difference of two logits that are the same but for the order of additions; the logits' deviation is 0.5."""

CONVERSATIONS: dict[str, tuple[str, ...]] = {  # users' and assistant's turns in alternation
    "image in front": ("<image>\nHow many shapes?", "Three."),
    "no image": ("Good morning. Who are you?", "Nobody that you would know, I fear."),
    "image at the end": ("What stands here? <image>", "A cup of tea."),
    "two images": ("<image>\nIs this <image> the same?", "No."),
    "two at the end": ("Which is larger? <image><image>", "The first one.", "By how much?", "By a half."),
    "no image, two turns": ("Say a word.", "Word.", "And one more, a longer one?", "Longer."),
    "image in a later turn": ("Hello.", "Hello to you.", "<image>\nWhat is that?", "A dog."),
    "images in two turns": ("<image>\nWhat?", "A dog.", "<image>\nAnd this?", "A cat and a mouse."),
}
ALL = tuple(CONVERSATIONS)
ONE, NONE, TWO = "image in front", "no image", "two images"


def images_of(name: str) -> list[Any]:
    """The images of a conversation, no two of them alike, in any conversation."""
    number = "".join(CONVERSATIONS[name]).count("<image>")
    return [tiny.make_image(10 * ALL.index(name) + place, (20 + 7 * place, 33)) for place in range(number)]


def messages_of(turns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Turns as a template takes them."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]


def prompts(processor: AlignGPTProcessor, *names: str, **options: Any) -> Inputs:
    """The named conversations without their last answer, ready to be answered."""
    texts = [processor.render(messages_of(CONVERSATIONS[name][:-1]), add_generation_prompt=True) for name in names]
    images = [image for name in names for image in images_of(name)]
    return dict(processor(images or None, texts, return_tensors="pt", **options))


def generated(
    model: AlignGPTForConditionalGeneration, inputs: Inputs, new_tokens: int, **options: Any
) -> tuple[Tensor, Tensor]:
    """Greedy tokens (B, new), no two of them twice in a row, and the logits of every step (B, new, V)."""
    greedy: dict[str, Any] = {"do_sample": False, "no_repeat_ngram_size": 2, "eos_token_id": None}
    output = model.generate(
        **inputs, **greedy, max_new_tokens=new_tokens, output_logits=True, return_dict_in_generate=True, **options
    )
    return output.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(output.logits, dim=1)


def dataset_of(processor: AlignGPTProcessor, folder: Path, *names: str) -> InstructionDataset:
    """The named conversations as training samples, their images written into a folder."""
    conversations = []
    for name in names:
        files = []
        for place, image in enumerate(images_of(name)):
            files.append(f"{name} {place}.png")
            image.save(folder / files[-1])
        turns = tuple(Turn(one["role"], one["content"]) for one in messages_of(CONVERSATIONS[name]))
        conversations.append(Conversation(name, tuple(files), turns))
    return InstructionDataset(indexed(conversations, folder), processor)


def training_batch(dataset: InstructionDataset, *indices: int) -> Inputs:
    """A batch as the trainer gives it to the model."""
    batch = Collator(dataset.processor.tokenizer.pad_token_id)([dataset[index] for index in indices])
    batch.pop("truncated")
    return batch | {"use_cache": False}


def assert_same_logits(found: Tensor, expected: Tensor) -> None:
    """Equal up to the order of additions; placeholders have no logits."""
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)
