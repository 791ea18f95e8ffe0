"""Greedy answers in batches: prompts of a benchmark in, texts out, with what the gate made of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aligngpt.data.images import BadImage, UnreadableImage, load_image
from aligngpt.inference.kv_cache import preallocated_cache
from aligngpt.modeling import AlignGPTForConditionalGeneration, AlignGPTProcessor
from aligngpt.modeling.alignment import needs_gate

_AHEAD = 2  # batches whose images are decoded while the model answers an earlier one


@dataclass(frozen=True)
class Prompt:
    """One question: the rendered text up to where the answer begins, and the images it speaks of.

    An image is a file, or its content, or the reason why there is neither.
    """

    text: str
    images: tuple[Path | bytes | UnreadableImage, ...] = ()


@dataclass(frozen=True)
class Answer:
    """One answer.

    Args:
        text: Without the spaces around it; empty where an image cannot be read.
        gate_weights: (N - 1), where they were asked for and there is an image.
        image_text_dots: (P), in the same case.
        error: Why an image cannot be read.
    """

    text: str
    gate_weights: list[float] | None = None
    image_text_dots: list[float] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Decoding:
    """How `answer_batches` makes answers; see `answer` for the fields."""

    max_new_tokens: int = 64
    alignment: Any = None
    stop_token_ids: tuple[int, ...] = ()
    with_gate: bool = False


def answer(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    prompts: Sequence[Prompt],
    *,
    batch_size: int = 64,
    max_new_tokens: int = 64,
    alignment: Any = None,
    stop_token_ids: Sequence[int] = (),
    with_gate: bool = False,
) -> Iterator[Answer]:
    """Answer prompts greedily, in their order, `batch_size` at a time; the same answers as one by one.

    Args:
        model: In evaluation mode.
        processor: The model's own.
        prompts: With or without images, mixed as they come.
        max_new_tokens: Longest answer.
        alignment: Overrides the model's setting.
        stop_token_ids: Further tokens that end an answer.
        with_gate: Also return gate weights and dot products.

    Raises:
        BadImage: An image cannot be read.
    """
    decoding = Decoding(max_new_tokens, alignment, tuple(stop_token_ids), with_gate)
    batches = (prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size))
    for answers in answer_batches(model, processor, batches, decoding):
        for one in answers:
            if one.error is not None:
                raise BadImage(one.error)
            yield one


def answer_batches(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    batches: Iterable[Sequence[Prompt]],
    decoding: Decoding,
) -> Iterator[list[Answer]]:
    """Answer batch by batch; the images of the next ones are decoded meanwhile, and those that cannot be are said.

    Args:
        batches: Taken only as they are needed.

    Returns:
        The answers of each batch, in its order.

    Raises:
        ValueError: The device has not enough memory for a batch.
    """
    with ThreadPoolExecutor() as pool:
        waiting: deque[tuple[Sequence[Prompt], list[Future[list[Tensor]]]]] = deque()
        for batch in batches:
            waiting.append((batch, [pool.submit(_pixels, processor, prompt) for prompt in batch]))
            if len(waiting) > _AHEAD:
                yield _answer_readable(model, processor, *waiting.popleft(), decoding)
        while waiting:
            yield _answer_readable(model, processor, *waiting.popleft(), decoding)


def _pixels(processor: AlignGPTProcessor, prompt: Prompt) -> list[Tensor]:
    """The images of a prompt as the vision tower takes them, (1, 3, height, width) each."""
    pixels = []
    for image in prompt.images:
        if isinstance(image, UnreadableImage):
            raise BadImage(image.reason)
        pixels.append(processor.pixel_values([load_image(image)]))
    return pixels


def _answer_readable(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    batch: Sequence[Prompt],
    images: Sequence[Future[list[Tensor]]],
    decoding: Decoding,
) -> list[Answer]:
    """The answers of a batch; where an image cannot be read an empty one."""
    answers: list[Answer | None] = [None] * len(batch)
    readable, pixels = [], []
    for place, future in enumerate(images):
        try:
            pixels += future.result()
            readable.append(place)
        except BadImage as error:
            answers[place] = Answer("", error=str(error))
    if readable:
        try:
            given = _answer_batch(model, processor, [batch[place] for place in readable], pixels, decoding)
        except torch.OutOfMemoryError:
            raise ValueError(
                f"not enough memory on {model.device} for a batch of {len(readable)}: give a smaller --batch-size; "
                "what is answered is kept"
            ) from None
        for place, one in zip(readable, given, strict=True):
            answers[place] = one
    return [one for one in answers if one is not None]


@torch.inference_mode()
def _answer_batch(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    batch: Sequence[Prompt],
    pixels: Sequence[Tensor],
    decoding: Decoding,
) -> list[Answer]:
    inputs = processor(text=[prompt.text for prompt in batch], alignment=decoding.alignment, return_tensors="pt")
    if pixels:
        inputs["pixel_values"] = torch.cat(list(pixels))
    inputs = inputs.to(model.device)
    ends = model.generation_config.eos_token_id
    ends = [*(ends if isinstance(ends, list) else [ends]), *decoding.stop_token_ids]
    with _gate_read(model) as gates:
        written = model.generate(
            **inputs,
            alignment=decoding.alignment,
            do_sample=False,
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=ends,
            pad_token_id=processor.tokenizer.pad_token_id,
            past_key_values=preallocated_cache(model.config),
        )[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(written, skip_special_tokens=True)
    answers = [Answer(text.strip()) for text in texts]
    if not (decoding.with_gate and pixels):
        return answers
    setting = model.config.alignment if decoding.alignment is None else decoding.alignment
    weights, dots = gates[0] if needs_gate(setting) else model.gate(**inputs)
    return [
        replace(one, gate_weights=weights[row].tolist(), image_text_dots=dots[row].tolist()) if prompt.images else one
        for row, (prompt, one) in enumerate(zip(batch, answers, strict=True))
    ]


@contextmanager
def _gate_read(model: AlignGPTForConditionalGeneration) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What the gate says in the first step of `generate`, so that the vision tower need not run for it again.

    Returns:
        A list to which weights (B, N - 1) and dot products (B, P) are added, in float32.
    """
    found: list[tuple[Tensor, Tensor]] = []
    hook = model.alignment_gate.register_forward_hook(
        lambda module, inputs, weights: found.append((weights.float(), inputs[0].float()))
    )
    try:
        yield found
    finally:
        hook.remove()
