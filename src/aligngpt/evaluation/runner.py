"""Greedy answers in batches: prompts of a benchmark in, texts out, with what the gate made of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from aligngpt.data.images import load_image
from aligngpt.modeling import AlignGPTForConditionalGeneration, AlignGPTProcessor


@dataclass(frozen=True)
class Prompt:
    """One question: the rendered text up to where the answer begins, and the pictures it speaks of."""

    text: str
    images: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Answer:
    """One answer; `gate_weights` (N - 1) and `image_text_dots` (P) where they were asked for and there is a picture."""

    text: str
    gate_weights: list[float] | None = None
    image_text_dots: list[float] | None = None


@torch.inference_mode()
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
        prompts: With or without pictures, mixed as they come.
        max_new_tokens: Longest answer.
        alignment: Overrides the model's setting.
        stop_token_ids: Further tokens that end an answer.
        with_gate: Also return gate weights and dot products.
    """
    ends = model.generation_config.eos_token_id
    ends = [*(ends if isinstance(ends, list) else [ends]), *stop_token_ids]
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        pictures: list[Image.Image] = [load_image(path) for prompt in batch for path in prompt.images]
        inputs = processor(
            images=pictures or None, text=[prompt.text for prompt in batch], alignment=alignment, return_tensors="pt"
        ).to(model.device)
        written = model.generate(
            **inputs,
            alignment=alignment,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=ends,
            pad_token_id=processor.tokenizer.pad_token_id,
        )[:, inputs["input_ids"].shape[1] :]
        texts = processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        gates = model.gate(**inputs) if with_gate and pictures else None
        for row, (prompt, text) in enumerate(zip(batch, texts, strict=True)):
            if gates is None or not prompt.images:
                yield Answer(text.strip())
            else:
                yield Answer(text.strip(), gates[0][row].tolist(), gates[1][row].tolist())
