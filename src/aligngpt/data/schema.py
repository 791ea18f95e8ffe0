"""Image-text pairs and conversations in LLaVA's JSON: read, checked record by record, with a list of what is bad.

A record of the file:

    {"id": "7", "image": "a/7.jpg", "alignment_level": 3,
     "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}

A bad record never stops the reading: it is left out and listed in `ReadResult.bad`, with its place and its reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from aligngpt.data.images import BadImage, check_header, load_image
from aligngpt.utils.constants import ALIGN_TOKEN, IMAGE_TOKEN, MAX_LEVELS, RESERVED_CHARACTERS
from aligngpt.utils.io import atomic_path, parse_json, read_bytes

_RESERVED = re.compile(f"[{RESERVED_CHARACTERS}]")

Role = Literal["user", "assistant"]
ImageCheck = Literal["none", "header", "decode"]

_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant"}
_LINE_SUFFIXES = (".jsonl", ".ndjson")
_IMAGES_PER_TASK = 64
_SHOWN_WHEN_STRICT = 5

T = TypeVar("T", "ImageTextPair", "Conversation")


class StrictDataError(ValueError):
    """Bad records in data that was asked to have none."""


class RecordError(ValueError):
    """Why a record is bad, without its place, which only the reader of the file knows."""


@dataclass(frozen=True)
class Turn:
    """One turn; `text` keeps its `<image>` placeholders exactly where they stand."""

    role: Role
    text: str


@dataclass(frozen=True)
class Conversation:
    """Turns that alternate, user first and assistant last, over zero or more images.

    `images` are paths relative to the image folder, as many as there are `<image>` in the users' turns. In a record
    without an image, `<image>` is words. An answer that stands before the first question is left out.
    `alignment_level` counts from 1. A record without an id is called `#<index in the file>`.
    """

    id: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]
    alignment_level: int | None = None


@dataclass(frozen=True)
class ImageTextPair:
    """One image and the text that is said of it; `prompt` is the user's turn the caption answered in the file."""

    id: str
    image: str
    caption: str
    alignment_level: int | None = None
    prompt: str = IMAGE_TOKEN


@dataclass(frozen=True)
class BadRecord:
    """A record that was left out.

    Attributes:
        source: The file.
        line: Its line, counted from 1, in JSON Lines; `None` in a JSON array.
        index: Its place among the file's records, counted from 0; lines that are no JSON count too.
        id: Its id, where one could be read.
        image: The image that is to blame, or the record's image, where it has one.
        reason: What is wrong, in one line.
    """

    source: str
    line: int | None
    index: int | None
    id: str | None
    image: str | None
    reason: str

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line is not None else self.source
        details = [f"record {self.index}"] if self.line is None and self.index is not None else []
        details += [f"id {self.id}"] if self.id is not None else []
        details += [f"image {self.image}"] if self.image is not None else []
        parts = (place, ", ".join(details), self.reason)
        return " ".join(": ".join(part for part in parts if part).split())


@dataclass(frozen=True)
class ReadResult(Generic[T]):
    """What a file held: the good records and the bad ones, both in the file's order, and the file's SHA-256."""

    records: list[T]
    bad: list[BadRecord]
    source: str
    source_hash: str

    def raise_if_empty(self) -> None:
        """Raise if no record is good, which is more often a wrong folder than wrong data.

        Raises:
            ValueError: With the first of the bad ones, if there is any.
        """
        if not self.records:
            first = f", the first is {self.bad[0]}" if self.bad else ""
            raise ValueError(
                f"{self.source} has {len(self.bad)} records and none of them can be used{first}: is this the right "
                "file, and the images folder the one that its paths start from?"
            )

    def raise_if_bad(self) -> None:
        """Raise if any record is bad.

        Raises:
            StrictDataError: With the number of bad records and the first few of them.
        """
        if self.bad:
            shown = "; ".join(str(bad) for bad in self.bad[:_SHOWN_WHEN_STRICT])
            more = len(self.bad) - _SHOWN_WHEN_STRICT
            total = len(self.bad) + len(self.records)
            raise StrictDataError(
                f"{len(self.bad)} of {total} records are bad: {shown}{f'; and {more} more' if more > 0 else ''}"
            )


def read_pairs(
    path: str | os.PathLike[str], image_folder: str | os.PathLike[str], *, check_images: ImageCheck = "header"
) -> ReadResult[ImageTextPair]:
    """Read image-text pairs: records of one image and two turns, the second of which is the caption.

    Args:
        path: `.json` (an array) or `.jsonl` / `.ndjson` (a record a line), in UTF-8.
        image_folder: What the records' image paths are relative to.
        check_images: `"header"` finds files that are missing, empty, no image or too large, `"decode"` also those
            that are cut short (slow: it decodes every image), `"none"` touches no image file.

    Raises:
        FileNotFoundError: If the file, or an image folder that is to be checked, does not exist.
        ValueError: If the suffix is another one, or a `.json` file is broken or no array.
    """
    return _read(path, image_folder, check_images, _pair, unique_ids=True)


def read_conversations(
    path: str | os.PathLike[str], image_folder: str | os.PathLike[str], *, check_images: ImageCheck = "header"
) -> ReadResult[Conversation]:
    """Read conversations of any number of turns, with no, one or several images. Arguments and errors: `read_pairs`."""
    return _read(path, image_folder, check_images, _conversation, unique_ids=False)


def write_pairs(path: str | os.PathLike[str], pairs: Iterable[ImageTextPair]) -> None:
    """Write pairs as LLaVA JSON, or JSON Lines where the suffix says so, atomically.

    Raises:
        ValueError: If the suffix is neither `.json` nor `.jsonl` / `.ndjson`.
    """
    lines = _is_json_lines(path)
    records = [json.dumps(_record_of(pair), ensure_ascii=False) for pair in pairs]
    text = "".join(f"{record}\n" for record in records) if lines else "[\n" + ",\n".join(records) + "\n]\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_pair(record: Any, index: int) -> ImageTextPair:
    """Make a pair of what a file holds at a place counted from 0.

    Raises:
        RecordError: If a rule is broken.
    """
    return _checked(_Raw(index, None, record), _pair)


def known_names(record: Any) -> tuple[str | None, str | None]:
    """Id and image of a record that may be anything at all, where they can be told, in characters UTF-8 can hold."""
    record = record if isinstance(record, dict) else {}
    name, image = record.get("id"), record.get("image")
    known_id = str(name) if isinstance(name, int | str) and not isinstance(name, bool) and name != "" else None
    known_image = image if isinstance(image, str) and image else None
    return _printable(known_id), _printable(known_image)


def parse_line(line: bytes) -> Any:
    """Parse one line of JSON Lines.

    Raises:
        RecordError: If it is not UTF-8 or no JSON.
    """
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise RecordError("not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"broken JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise RecordError("JSON nested too deeply") from None
    except ValueError:  # Python reads no integer of over 4,300 digits
        raise RecordError("a number of too many digits to be read") from None


def _record_of(pair: ImageTextPair) -> dict[str, Any]:
    turns = [{"from": "human", "value": pair.prompt}, {"from": "gpt", "value": pair.caption}]
    record: dict[str, Any] = {"id": pair.id, "image": pair.image, "conversations": turns}
    return record if pair.alignment_level is None else record | {"alignment_level": pair.alignment_level}


# Reading a file -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Raw:
    """A record as parsed, or the reason why it could not be."""

    index: int
    line: int | None
    value: Any
    reason: str | None = None


def _read(
    path: str | os.PathLike[str],
    image_folder: str | os.PathLike[str],
    check_images: ImageCheck,
    make: Callable[[dict[str, Any], int], T],
    *,
    unique_ids: bool,
) -> ReadResult[T]:
    source, folder = str(path), Path(image_folder)
    if check_images not in ("none", "header", "decode"):
        raise ValueError(f"check_images must be 'none', 'header' or 'decode', got {check_images!r}")
    as_lines = _is_json_lines(path)
    content = read_bytes(path)
    if check_images != "none" and not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such image folder; images are looked up relative to it")
    raws = _json_lines(content) if as_lines else _json_array(content, source)
    good, bad = _sorted_out(raws, make, source, unique_ids)
    reasons = _image_reasons({image for _, record in good for image in _images_of(record)}, folder, check_images)
    records = []
    for raw, record in good:
        blamed = next((image for image in _images_of(record) if image in reasons), None)
        if blamed is None:
            records.append(record)
        else:
            bad.append(BadRecord(source, raw.line, raw.index, record.id, blamed, reasons[blamed]))
    bad.sort(key=lambda record: record.index or 0)
    return ReadResult(records, bad, source, hashlib.sha256(content).hexdigest())


def _sorted_out(
    raws: Iterable[_Raw], make: Callable[[dict[str, Any], int], T], source: str, unique_ids: bool
) -> tuple[list[tuple[_Raw, T]], list[BadRecord]]:
    """The records that are well formed, each with where it stood, and those that are not."""
    good: list[tuple[_Raw, T]] = []
    bad: list[BadRecord] = []
    seen: dict[str, int] = {}
    for raw in raws:
        try:
            record = _checked(raw, make)
            if unique_ids and record.id in seen:
                raise RecordError(f"duplicate id, also that of record {seen[record.id]}")
        except RecordError as error:
            bad.append(_bad_record(source, raw, str(error)))
        else:
            seen[record.id] = raw.index
            good.append((raw, record))
    return good, bad


def _is_json_lines(path: str | os.PathLike[str]) -> bool:
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", *_LINE_SUFFIXES):
        raise ValueError(f"{path}: expected a .json, .jsonl or .ndjson file, got {suffix or 'no suffix'}")
    return suffix in _LINE_SUFFIXES


def _json_array(content: bytes, source: str) -> Iterator[_Raw]:
    records = parse_json(content, source)
    if not isinstance(records, list):
        raise ValueError(f"{source}: expected a JSON array of records, got {_kind(records)}")
    return (_Raw(index, None, record) for index, record in enumerate(records))


def _json_lines(content: bytes) -> Iterator[_Raw]:
    index = 0
    for line, text in enumerate(content.split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            yield _Raw(index, line, parse_line(text))
        except RecordError as error:
            yield _Raw(index, line, None, str(error))
        index += 1


def _bad_record(source: str, raw: _Raw, reason: str) -> BadRecord:
    name, image = known_names(raw.value)
    return BadRecord(source, raw.line, raw.index, name, image, reason)


def _printable(text: str | None) -> str | None:
    """`text` with unpaired surrogates written out, which no UTF-8 file could hold."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


# Checking a record --------------------------------------------------------------------------------------------------


def _checked(raw: _Raw, make: Callable[[dict[str, Any], int], T]) -> T:
    if raw.reason is not None:
        raise RecordError(raw.reason)
    if not isinstance(raw.value, dict):
        raise RecordError(f"expected an object, got {_kind(raw.value)}")
    return make(raw.value, raw.index)


def _conversation(record: dict[str, Any], index: int) -> Conversation:
    name = f"#{index}" if record.get("id") is None else check_id(record.get("id"))
    images, turns, level = _images(record), _turns(record), _level(record)
    _check_placeholders(turns, images, first=len(record["conversations"]) - len(turns) + 1)
    return Conversation(name, images, turns, level)


def _pair(record: dict[str, Any], index: int) -> ImageTextPair:
    name = check_id(record.get("id"))
    if len(_images(record)) != 1:
        raise RecordError(f"a pair has one image, this record has {len(_images(record)) or 'none'}")
    conversation = _conversation(record, index)
    if len(conversation.turns) != 2:
        raise RecordError(f"a pair has two turns (<image> and its caption), this record has {len(conversation.turns)}")
    prompt, caption = conversation.turns
    return ImageTextPair(name, conversation.images[0], caption.text, conversation.alignment_level, prompt.text)


def check_id(name: Any) -> str:
    """The id as text. Raises `RecordError` if it is missing, or no string or integer."""
    if name is None or name == "":
        raise RecordError("no id")
    if isinstance(name, bool) or not isinstance(name, int | str):
        raise RecordError(f"id must be a string or an integer, got {_kind(name)}")
    return check_text(str(name), "id")


def _images(record: dict[str, Any]) -> tuple[str, ...]:
    images = record.get("image")
    images = [] if images is None else images if isinstance(images, list) else [images]
    return tuple(check_image_path(image) for image in images)


def check_image_path(image: Any) -> str:
    """The path, if it can lie in an image folder.

    Raises:
        RecordError: If it is no text, absolute, or leads out of the folder.
    """
    if not isinstance(image, str) or not image:
        raise RecordError(f"image must be a path, got {_kind(image) if image != '' else 'an empty string'}")
    if os.path.isabs(image):
        raise RecordError("image path is absolute; it must be relative to the image folder")
    if os.path.normpath(image).split(os.sep)[0] == os.pardir:
        raise RecordError("image path leaves the image folder")
    return check_text(image, "image path")


def _turns(record: dict[str, Any]) -> tuple[Turn, ...]:
    conversations = record.get("conversations")
    if conversations is None:
        raise RecordError("no conversations")
    if not isinstance(conversations, list):
        raise RecordError(f"conversations must be a list of turns, got {_kind(conversations)}")
    if not conversations:
        raise RecordError("conversations is empty")
    turns = tuple(_turn(turn, number) for number, turn in enumerate(conversations, start=1))
    unasked = len(turns) > 1 and turns[0].role == "assistant"
    for number, turn in enumerate(turns, start=1):
        expected = "human" if (number + unasked) % 2 else "gpt"
        if turn.role != _ROLES[expected]:
            raise RecordError(f"turn {number} should be from {expected}: turns alternate and start with human")
    if turns[-1].role != "assistant":
        raise RecordError(f"the last turn ({len(turns)}) has no answer: it should be from gpt")
    return turns[unasked:]


def _turn(turn: Any, number: int) -> Turn:
    if not isinstance(turn, dict):
        raise RecordError(f"turn {number} must be an object, got {_kind(turn)}")
    missing = [key for key in ("from", "value") if turn.get(key) is None]
    if missing:
        raise RecordError(f"turn {number} has no {' and no '.join(missing)}")
    speaker, text = turn["from"], turn["value"]
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise RecordError(f"turn {number} has the unknown role {str(speaker)[:40]!r}; known are human and gpt")
    if not isinstance(text, str):
        raise RecordError(f"value of turn {number} must be a string, got {_kind(text)}")
    if not text.strip():
        what = "caption or answer" if _ROLES[speaker] == "assistant" else "question"
        raise RecordError(f"empty {what} in turn {number}")
    return Turn(_ROLES[speaker], check_text(text, f"turn {number}"))


def _check_placeholders(turns: tuple[Turn, ...], images: tuple[str, ...], first: int) -> None:
    """`first` is the number that the first of the turns has in the file."""
    for number, turn in enumerate(turns, start=first):
        if ALIGN_TOKEN in turn.text:
            raise RecordError(f"{ALIGN_TOKEN} in turn {number}: it is reserved, the processor puts it in itself")
        if _RESERVED.search(turn.text):
            raise RecordError(f"turn {number} holds a character that Unicode reserves for inner use (U+FDD0 to U+FDD4)")
        if images and turn.role == "assistant" and IMAGE_TOKEN in turn.text:
            raise RecordError(f"{IMAGE_TOKEN} in turn {number}, which is an answer: it belongs into a question")
    count = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if images and count != len(images):
        raise RecordError(f"{count} {IMAGE_TOKEN} in the questions, {len(images)} in `image`: each needs one")


def _level(record: dict[str, Any]) -> int | None:
    """The level from 1; LLaVA-style files of the official code count it from 0, in `similarity`."""
    levels = set()
    for key, first in (("alignment_level", 1), ("similarity", 0)):
        level = record.get(key)
        if level is None:
            continue
        if isinstance(level, bool) or not isinstance(level, int):
            raise RecordError(f"{key} must be an integer, got {json.dumps(level)[:40]}")
        if not first <= level < first + MAX_LEVELS:
            raise RecordError(f"{key} must be within {first} to {first + MAX_LEVELS - 1}, got {level}")
        levels.add(level - first + 1)
    if len(levels) > 1:
        raise RecordError(
            f"alignment_level {record['alignment_level']} and similarity {record['similarity']} disagree: "
            "similarity counts from 0"
        )
    return levels.pop() if levels else None


def check_text(text: str, what: str) -> str:
    """The text. Raises `RecordError`, in which it is called `what`, if it holds half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecordError(f"{what} holds half of a surrogate pair, which is no character") from None
    return text


def _kind(value: Any) -> str:
    """The JSON name of a value's type, with its article."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


# Checking images ----------------------------------------------------------------------------------------------------


def _images_of(record: ImageTextPair | Conversation) -> tuple[str, ...]:
    return (record.image,) if isinstance(record, ImageTextPair) else record.images


def _image_reasons(images: set[str], folder: Path, check: ImageCheck) -> dict[str, str]:
    """Why images cannot be used, by path; each image is looked at once, however many records name it."""
    if check == "none":
        return {}
    look = check_header if check == "header" else load_image

    def look_at(names: list[str]) -> list[tuple[str, str]]:
        found = []
        for name in names:
            try:
                look(folder / name)
            except BadImage as error:
                found.append((name, str(error)))
        return found

    names = sorted(images)
    tasks = [names[start : start + _IMAGES_PER_TASK] for start in range(0, len(names), _IMAGES_PER_TASK)]
    with ThreadPoolExecutor() as pool:
        return dict(reason for found in pool.map(look_at, tasks) for reason in found)
