"""Text generation: the one loop that evaluation, lmms-eval, chat and servers use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from aligngpt.data.images import load_image
from aligngpt.data.schema import BadImage, UnreadableImage
from aligngpt.inference.kv_cache import preallocate_cache
from aligngpt.inference.prompts import Prompt
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.processing import AlignGPTProcessor

_PREFETCHED_BATCHES = 2  # batches whose images are decoded while the model generates


@dataclass(frozen=True)
class GenerationSettings:
    """How text is generated; names and meanings as in `transformers.GenerationConfig` where they exist there."""

    max_new_tokens: int = 64
    alignment: Any = None  # alignment setting; the model's own by default
    temperature: float = 0.0  # sampling temperature; 0 means greedy decoding
    top_p: float | None = None  # restricts sampling; the model's own by default
    top_k: int | None = None  # restricts sampling; the model's own by default
    num_beams: int = 1
    stop_token_ids: tuple[int, ...] = ()  # further tokens that end an answer
    stop_strings: tuple[str, ...] = ()  # an answer ends before the first of these
    return_gate_weights: bool = False  # also return gate weights and image-text similarities

    def sampling_options(self) -> dict[str, Any]:
        """Return the arguments of `generate` that choose tokens."""
        beams = {"num_beams": self.num_beams}
        if self.temperature <= 0:
            return {"do_sample": False, **beams}
        limits = {"top_p": self.top_p, "top_k": self.top_k}
        given = {name: value for name, value in limits.items() if value is not None}
        return {"do_sample": True, "temperature": self.temperature, **given, **beams}


@dataclass(frozen=True)
class Completion:
    """The generated answer to one prompt."""

    text: str  # stripped; empty if an image cannot be read
    gate_weights: list[float] | None = None  # (N - 1), if requested and the prompt has an image
    image_text_similarity: list[float] | None = None  # (P), in the same case
    error: str | None = None  # why an image cannot be read


class GeneratedTokens(NamedTuple):
    """Sequences (B, T) of prompts and answers, cache, gate weights (B, N - 1) and similarities (B, P) in float32."""

    sequences: Tensor
    past_key_values: Any
    gate_weights: Tensor | None  # None if the gate was not evaluated
    image_text_similarity: Tensor | None


def plan_batches(prompts: Sequence[str], groups: Sequence[Any], size: int) -> list[list[int]]:
    """Return the indices of prompts in batches of at most `size`, each of one group, in the order of the sorted groups.

    The longest prompts of a group come first, so that a batch that does not fit into memory fails at the start.
    """
    batches = []
    for group in sorted(set(groups)):
        indices = [index for index, other in enumerate(groups) if other == group]
        indices.sort(key=lambda index: -len(prompts[index]))
        batches += [indices[start : start + size] for start in range(0, len(indices), size)]
    return batches


def generate_all(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    prompts: Sequence[Prompt],
    settings: GenerationSettings | None = None,
    *,
    batch_size: int = 64,
) -> Iterator[Completion]:
    """Yield the completion of each prompt, with and without images, in order; the batch size does not change the text.

    Raises:
        BadImage: An image cannot be read.
        ValueError: A batch does not fit into memory.
    """
    batches = (prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size))
    for completions in generate_batches(model, processor, batches, settings or GenerationSettings()):
        for completion in completions:
            if completion.error is not None:
                raise BadImage(completion.error)
            yield completion


def generate_batches(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    batches: Iterable[Sequence[Prompt]],
    settings: GenerationSettings,
) -> Iterator[list[Completion]]:
    """Yield the completions of each batch, in order, while the images of later batches are decoded in threads.

    Args:
        batches: Consumed only as far as needed.

    Raises:
        ValueError: A batch does not fit into memory.
    """
    with ThreadPoolExecutor() as pool:
        pending: deque[tuple[Sequence[Prompt], list[Future[list[Tensor]]]]] = deque()
        for batch in batches:
            pending.append((batch, [pool.submit(_decode_images, processor, prompt) for prompt in batch]))
            if len(pending) > _PREFETCHED_BATCHES:
                yield _generate_readable(model, processor, *pending.popleft(), settings)
        while pending:
            yield _generate_readable(model, processor, *pending.popleft(), settings)


@torch.inference_mode()
def generate_tokens(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    inputs: Mapping[str, Any],
    settings: GenerationSettings,
    *,
    past_key_values: Any = None,
    streamer: Any = None,
) -> GeneratedTokens:
    """Run `model.generate` on the processor's output and record the gate of its first step.

    Args:
        past_key_values: Cache of the earlier turns of the same conversation; by default a new one.
        streamer: As in `generate`.
    """
    end_ids = model.generation_config.eos_token_id
    end_ids = end_ids if isinstance(end_ids, list) else [] if end_ids is None else [end_ids]
    with _record_gate(model) as recorded:
        output = model.generate(
            **inputs,
            **settings.sampling_options(),
            alignment=settings.alignment,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=[*end_ids, *settings.stop_token_ids] or None,
            pad_token_id=processor.tokenizer.pad_token_id,
            past_key_values=preallocate_cache(model.config) if past_key_values is None else past_key_values,
            streamer=streamer,
            return_dict_in_generate=True,
        )
    weights = similarity = None
    if recorded:
        weights, similarity = (values[:: settings.num_beams] for values in recorded[0])
    elif settings.return_gate_weights and inputs.get("pixel_values") is not None and past_key_values is None:
        weights, similarity = model.get_gate_weights(**inputs)
    return GeneratedTokens(output.sequences, output.past_key_values, weights, similarity)


def _decode_images(processor: AlignGPTProcessor, prompt: Prompt) -> list[Tensor]:
    """Return the pixel values of each image of a prompt, (1, 3, height, width)."""
    pixels = []
    for image in prompt.images:
        if isinstance(image, UnreadableImage):
            raise BadImage(image.reason)
        pixels.append(processor.pixel_values([image if isinstance(image, Image.Image) else load_image(image)]))
    return pixels


def _generate_readable(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    batch: Sequence[Prompt],
    decoded: Sequence[Future[list[Tensor]]],
    settings: GenerationSettings,
) -> list[Completion]:
    """Return the completions of a batch; those of prompts with an unreadable image are empty."""
    completions: dict[int, Completion] = {}
    readable, pixels = [], []
    for index, future in enumerate(decoded):
        try:
            pixels += future.result()
            readable.append(index)
        except BadImage as error:
            completions[index] = Completion("", error=str(error))
    if readable:
        try:
            generated = _generate_batch(model, processor, [batch[index] for index in readable], pixels, settings)
        except torch.OutOfMemoryError:
            raise ValueError(
                f"a batch of {len(readable)} does not fit into the memory of {model.device}; reduce --batch-size"
            ) from None
        completions.update(zip(readable, generated, strict=True))
    return [completions[index] for index in range(len(batch))]


def _generate_batch(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    batch: Sequence[Prompt],
    pixels: Sequence[Tensor],
    settings: GenerationSettings,
) -> list[Completion]:
    inputs = processor(text=[prompt.text for prompt in batch], alignment=settings.alignment, return_tensors="pt")
    if pixels:
        inputs["pixel_values"] = torch.cat(list(pixels))
    inputs = inputs.to(model.device)
    generated = generate_tokens(model, processor, inputs, settings)
    new_tokens = generated.sequences[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    texts = [truncate_at(text.strip(), settings.stop_strings) for text in texts]
    weights, similarity = generated.gate_weights, generated.image_text_similarity
    if not settings.return_gate_weights or weights is None or similarity is None:
        return [Completion(text) for text in texts]
    return [
        Completion(text, *gate) if prompt.images else Completion(text)
        for prompt, text, *gate in zip(batch, texts, weights.tolist(), similarity.tolist(), strict=True)
    ]


def truncate_at(text: str, stop_strings: Sequence[str]) -> str:
    """Return `text` up to the first of `stop_strings`."""
    return text[: min((text.find(stop) for stop in stop_strings if stop and stop in text), default=len(text))]


@contextmanager
def _record_gate(model: AlignGPTForConditionalGeneration) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record the gate's weights and inputs during `generate`, so that the vision tower need not run again for them.

    Yields:
        A list that receives weights (B, N - 1) and similarities (B, P), in float32.
    """
    recorded: list[tuple[Tensor, Tensor]] = []
    hook = model.alignment_gate.register_forward_hook(
        lambda module, inputs, weights: recorded.append((weights.float(), inputs[0].float()))
    )
    try:
        yield recorded
    finally:
        hook.remove()
