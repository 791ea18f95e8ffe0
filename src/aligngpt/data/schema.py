"""Image-text pairs and conversations: their types, and the rules that a record has to meet.

A record in LLaVA's form:

    {"id": "7", "image": "a/7.jpg", "alignment_level": 3,
     "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from aligngpt.utils.constants import ALIGN_TOKEN, IMAGE_TOKEN, MAX_LEVELS, RESERVED_CHARACTERS

Role = Literal["user", "assistant"]

_RESERVED = re.compile(f"[{RESERVED_CHARACTERS}]")
_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant"}


class StrictDataError(ValueError):
    """Bad records in a run that was asked to accept none."""


class RecordError(ValueError):
    """The reason why a record is bad, without its location, which only its reader knows."""


class BadImage(ValueError):
    """A file that is not a usable image; the message is the reason, one line, without the path."""


@dataclass(frozen=True)
class UnreadableImage:
    """An image that a file contains but that cannot be read, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; `text` keeps its `<image>` placeholders where the file has them."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Alternating turns, user first and assistant last, about zero or more images.

    Attributes:
        id: The record's id; `#<index>` if it has none.
        images: Paths relative to the image folder, or names of images stored with the record; as many as the users'
            turns have `<image>`. In a record without images `<image>` is plain text.
        turns: The turns; an answer before the first question is dropped.
        alignment_level: 1..N, `None` if the record has none.
        encoded: For each image its file content where the record holds it, else `None`.
    """

    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    alignment_level: int | None = None
    encoded: tuple[bytes | None, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ImageTextPair:
    """One image and its caption.

    Attributes:
        id: The record's id; `#<index>` if it has none.
        image: Path relative to the image folder, or the name of an image stored with the record.
        caption: The caption.
        alignment_level: 1..N, `None` if the record has none.
        encoded: The image's file content where the record holds it, else `None`.
    """

    id: str
    image: str
    caption: str
    alignment_level: int | None = None
    encoded: bytes | None = field(default=None, repr=False)


def images_of(record: ImageTextPair | Conversation) -> list[tuple[str, bytes | None]]:
    """Return the path or name of each image of a record, and its file content where the record holds it."""
    if isinstance(record, ImageTextPair):
        return [(record.image, record.encoded)]
    return list(zip(record.images, record.encoded or (None,) * len(record.images), strict=True))


@dataclass(frozen=True)
class BadRecord:
    """A record that was skipped.

    Attributes:
        source: The file.
        index: Index of the record in the input (in its tar for WebDataset), from 0.
        id: Its id, if it could be read.
        image: Its image, if it has one.
        reason: What is wrong, in one line.
        line: Line in the file, from 1; JSON Lines only.
    """

    source: str
    index: int | None
    id: str | None
    image: str | None
    reason: str
    line: int | None = None

    def __str__(self) -> str:
        location = self.source if self.line is None else f"{self.source}:{self.line}"
        details = [f"record {self.index}"] if self.line is None and self.index is not None else []
        details += [f"id {self.id}"] if self.id is not None else []
        details += [f"image {self.image}"] if self.image is not None else []
        return " ".join(": ".join(filter(None, (location, ", ".join(details), self.reason))).split())


def check_turns(conversations: Any, num_images: int) -> tuple[Turn, ...]:
    """Return the turns of a conversation in LLaVA's form.

    Args:
        conversations: The value of its field.
        num_images: Number of images of the record.

    Raises:
        RecordError: A turn breaks a rule, or the questions do not have one `<image>` for each image.
    """
    if conversations is None:
        raise RecordError("conversations is missing")
    if not isinstance(conversations, list):
        raise RecordError(f"conversations must be a list of turns, got {json_type(conversations)}")
    if not conversations:
        raise RecordError("conversations is empty")
    turns = [_check_turn(turn, number) for number, turn in enumerate(conversations, start=1)]
    starts_with_answer = len(turns) > 1 and turns[0].role == "assistant"
    for number, turn in enumerate(turns, start=1):
        expected = "human" if (number + starts_with_answer) % 2 else "gpt"
        if turn.role != _ROLES[expected]:
            raise RecordError(f"turn {number} should be from {expected}: turns alternate and start with human")
        if number > starts_with_answer:
            _check_reserved(turn, number, num_images > 0)
    if turns[-1].role != "assistant":
        raise RecordError(f"the last turn ({len(turns)}) has no answer: it should be from gpt")
    count = sum(turn.text.count(IMAGE_TOKEN) for turn in turns[starts_with_answer:])
    if num_images and count != num_images:
        raise RecordError(f"{count} {IMAGE_TOKEN} in the questions, {num_images} in `image`: each image needs one")
    return tuple(turns[starts_with_answer:])


def check_object(record: Any) -> dict[str, Any]:
    """Return the record. Raises `RecordError` if it is not a JSON object."""
    if not isinstance(record, dict):
        raise RecordError(f"expected an object, got {json_type(record)}")
    return record


def check_id(value: Any) -> str:
    """Return the id as text. Raises `RecordError` if it is missing, or neither a string nor an integer."""
    if value is None or value == "":
        raise RecordError("id is missing")
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RecordError(f"id must be a string or an integer, got {json_type(value)}")
    return check_text(str(value), "id")


def check_image_path(image: Any) -> str:
    """Return the path if it can be a path inside an image folder.

    Raises:
        RecordError: It is not a string, is absolute, or leads out of the folder.
    """
    if not isinstance(image, str) or not image:
        raise RecordError(f"image must be a path, got {json_type(image) if image != '' else 'an empty string'}")
    if os.path.isabs(image):
        raise RecordError("image path is absolute; it must be relative to the image folder")
    if ".." in image and os.path.normpath(image).split(os.sep)[0] == os.pardir:
        raise RecordError("image path leaves the image folder")
    return check_text(image, "image path")


def check_level(record: dict[str, Any], keys: tuple[str, ...] = ("alignment_level", "similarity")) -> int | None:
    """Return the level of a record, 1..N, or `None`.

    Args:
        record: The record; the official code's files have levels from 0 in `similarity`.
        keys: The fields to read.

    Raises:
        RecordError: A level is not an integer or out of range, or two fields disagree.
    """
    levels = set()
    for key in keys:
        level = record.get(key)
        if level is None:
            continue
        lowest = 0 if key == "similarity" else 1
        if isinstance(level, bool) or not isinstance(level, int):
            raise RecordError(f"{key} must be an integer, got {json.dumps(level, default=str)[:40]}")
        if not lowest <= level < lowest + MAX_LEVELS:
            raise RecordError(f"{key} must be from {lowest} to {lowest + MAX_LEVELS - 1}, got {level}")
        levels.add(level - lowest + 1)
    if len(levels) > 1:
        raise RecordError(
            f"alignment_level {record['alignment_level']} and similarity {record['similarity']} disagree: "
            "similarity counts from 0"
        )
    return levels.pop() if levels else None


def check_text(text: str, description: str) -> str:
    """Return the text. Raises `RecordError`, which names it as described, if it holds an unpaired surrogate."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RecordError(f"{description} holds an unpaired surrogate, which is not a character") from None
    return text


def _check_turn(turn: Any, number: int) -> Turn:
    if not isinstance(turn, dict):
        raise RecordError(f"turn {number} must be an object, got {json_type(turn)}")
    missing = [key for key in ("from", "value") if turn.get(key) is None]
    if missing:
        raise RecordError(f"turn {number} has no {' and no '.join(missing)}")
    speaker, text = turn["from"], turn["value"]
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise RecordError(f"turn {number} has the unknown role {str(speaker)[:40]!r}; expected human or gpt")
    if not isinstance(text, str):
        raise RecordError(f"value of turn {number} must be a string, got {json_type(text)}")
    if not text.strip():
        kind = "caption or answer" if _ROLES[speaker] == "assistant" else "question"
        raise RecordError(f"empty {kind} in turn {number}")
    return Turn(_ROLES[speaker], check_text(text, f"turn {number}"))


def _check_reserved(turn: Turn, number: int, has_images: bool) -> None:
    if ALIGN_TOKEN in turn.text:
        raise RecordError(f"{ALIGN_TOKEN} in turn {number} is reserved: the processor inserts it")
    if _RESERVED.search(turn.text):
        raise RecordError(f"turn {number} holds a reserved character (U+FDD0 to U+FDD4)")
    if has_images and turn.role == "assistant" and IMAGE_TOKEN in turn.text:
        raise RecordError(f"{IMAGE_TOKEN} in turn {number}, which is an answer: move it to a question")


def json_type(value: Any) -> str:
    """Return the JSON name of a value's type, with its article."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "null" if value is None else f"a value of type {type(value).__name__}")
