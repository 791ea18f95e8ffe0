"""Prompts: the one place that decides where the images of a question stand."""

from __future__ import annotations

from aligngpt.data.schema import IMAGE_PLACEHOLDER


def move_image_to_front(text: str) -> str:
    """Move the only `<image>` of a turn to its start, on a line of its own; leave several where they are.

    LLaVA's files have it at either end. The official code moves it in training, so inference does the same.
    """
    if text.count(IMAGE_PLACEHOLDER) != 1:
        return text
    return f"{IMAGE_PLACEHOLDER}\n{text.replace(IMAGE_PLACEHOLDER, '').strip()}".strip()
