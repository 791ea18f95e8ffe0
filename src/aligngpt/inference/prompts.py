"""Prompts: rendered questions and the position of their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from aligngpt.data.schema import UnreadableImage
from aligngpt.modeling.processing import AlignGPTProcessor
from aligngpt.utils.constants import IMAGE_TOKEN

ImageSource = Path | bytes | Image.Image | UnreadableImage
Message = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt, up to the position where the answer begins, and its images in order."""

    text: str
    images: tuple[ImageSource, ...] = ()


def move_image_to_front(text: str) -> str:
    """Move the only `<image>` of a turn to its start, on a line of its own; leave several where they are.

    LLaVA's files have it at either end. The official code moves it in training, so inference does the same.
    """
    if text.count(IMAGE_TOKEN) != 1:
        return text
    return f"{IMAGE_TOKEN}\n{text.replace(IMAGE_TOKEN, '').strip()}".strip()


def build_user_turn(text: str, num_images: int, *, placeholders: bool = True) -> Message:
    """Return a user turn whose images come first, or where `text` has one `<image>` for each of them.

    Args:
        text: The question.
        num_images: Number of images of this turn.
        placeholders: Whether `<image>` in `text` may be an image. Where it may not, or its number is not
            `num_images`, it is encoded as ordinary words.
    """
    if placeholders and num_images and text.count(IMAGE_TOKEN) == num_images:
        return {"role": "user", "content": move_image_to_front(text)}
    return {"role": "user", "content": [{"type": "image"}] * num_images + [{"type": "text", "text": text}]}


def build_prompt(
    processor: AlignGPTProcessor,
    text: str,
    images: Sequence[ImageSource] = (),
    *,
    placeholders: bool = True,
    template: str | None = None,
) -> Prompt:
    """Render one question in the model's chat template, or in `template`, a Jinja text; see also `build_user_turn`.

    Raises:
        ValueError: `text` contains a reserved token or character.
    """
    turn = build_user_turn(text, len(images), placeholders=placeholders)
    return Prompt(processor.render([turn], template, add_generation_prompt=True), tuple(images))
