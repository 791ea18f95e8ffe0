"""From records to scores, batch by batch: what is embedded together, decoded ahead, and embedded once.

planned            shards -> batches: records with the images and texts they share
decoded_batches    batches -> the same with their new images decoded, in other processes
requested          a batch -> what of it the scorers embed
embedded           that -> vectors, of nothing else, so that another machine may do it
scored             a batch and its vectors -> columns of scores
scored_batches     the last three, batch after batch, in this process
"""

from __future__ import annotations

import hashlib
import math
import os
import unicodedata
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from aligngpt.curation.scoring.decoding import (
    BYTES_PER_TASK,
    IMAGES_PER_TASK,
    Decoded,
    Decoder,
    Encoded,
    Task,
    decoded,
    hash64,
)
from aligngpt.curation.scoring.scorers import Scorer, cosines
from aligngpt.curation.scoring.store import score_columns
from aligngpt.data.sources import SourceRecord, SourceShard

REMEMBERED = 4096
RECORDS_PER_IMAGE = 8
BYTES_PER_BATCH = 1 << 28

Columns = dict[str, list[Any]]
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class ImageEntry:
    """An image that any number of a shard's records show. What it is decoded and embedded to is filled in on the way.

    Attributes:
        number: Its place among the images of its shard.
        encoded: Where its content is, until that is on its way to be decoded.
        decoded: Its hashes and size, or the error.
        vectors: One for each scorer.
    """

    number: int
    encoded: Encoded | None
    decoded: Decoded = field(default_factory=Decoded)
    vectors: list[np.ndarray] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Text:
    """A text that any number of a shard's records have.

    Attributes:
        number: Its place among the texts of its shard.
        asked: Whether it has been given to the scorers.
        vectors: One for each scorer.
        truncated: Whether any scorer has not read a part of it.
    """

    number: int
    asked: bool = False
    vectors: list[np.ndarray] = field(default_factory=list)
    truncated: bool = False


@dataclass(eq=False, slots=True)
class Row:
    """A record on its way to a row of scores; a bad one has neither image nor text."""

    id: str
    image: str | None
    caption: str | None
    error: str | None
    image_entry: ImageEntry | None = None
    text: Text | None = None

    @property
    def reason(self) -> str | None:
        """Why it has no score; its image's error counts once that is decoded."""
        return self.error or (self.image_entry.decoded.error if self.image_entry is not None else None)


@dataclass(eq=False, slots=True)
class Batch:
    """Rows of one shard that are scored together, and the images that come up in them for the first time.

    `texts` are those to be embedded with it, known once the images are decoded.
    """

    shard: int
    number: int = 0
    rows: list[Row] = field(default_factory=list)
    new: list[ImageEntry] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    bytes: int = 0
    last: bool = False

    def good(self) -> list[ImageEntry]:
        """The new images that could be decoded, once that has been tried."""
        return [image for image in self.new if image.decoded.error is None]

    def is_full(self, batch_size: int) -> bool:
        """Whether it holds enough images to embed, rows to keep, or bytes to send."""
        many = len(self.rows) >= RECORDS_PER_IMAGE * batch_size
        return len(self.new) >= batch_size or many or self.bytes >= BYTES_PER_BATCH


class LRUCache(OrderedDict[Hashable, T]):
    """The objects used last, up to 4,096 of them; each gets the number of those made before it."""

    def __init__(self) -> None:
        super().__init__()
        self._made = 0

    def use(self, key: Hashable, make: Callable[[int], T]) -> tuple[T, bool]:
        """The thing of this key, made of its number if it is not remembered, and whether it was made."""
        made = key not in self
        if made:
            self[key] = make(self._made)
            self._made += 1
        self.move_to_end(key)
        if len(self) > REMEMBERED:
            self.popitem(last=False)
        return self[key], made


def planned(shards: Iterable[SourceShard], images: Path | None, batch_size: int) -> Iterator[Batch]:
    """Divide shards into batches; the last batch of a shard says so and may be empty.

    Args:
        shards: The shards to read.
        images: What image paths are relative to.
        batch_size: New images of a batch, at most.
    """
    for shard in shards:
        entries: LRUCache[ImageEntry] = LRUCache()
        texts: LRUCache[Text] = LRUCache()
        batch = Batch(shard.number)
        for record in shard.read():
            row = Row(record.id, record.image, record.caption, record.error)
            if record.error is None and record.caption is not None:
                encoded = _encoded(record, images)
                row.text, _ = texts.use(_digest(record.caption.encode()), Text)
                row.image_entry, new = entries.use(_image_key(encoded), partial(ImageEntry, encoded=encoded))
                if new:
                    batch.new.append(row.image_entry)
                    batch.bytes += len(encoded.data or b"")
            batch.rows.append(row)
            if batch.is_full(batch_size):
                yield batch
                batch = Batch(shard.number, batch.number + 1)
        batch.last = True
        yield batch


def _encoded(record: SourceRecord, images: Path | None) -> Encoded:
    name = record.image or record.id
    return Encoded(name, record.data, None if record.data is not None else os.path.join(images or "", name))


def _image_key(encoded: Encoded) -> Hashable:
    return encoded.path if encoded.data is None else _digest(encoded.data)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


# From batches to scores ---------------------------------------------------------------------------------------------


def decoded_batches(
    batches: Iterable[Batch], decoder: Decoder, workers: int, ahead: int, polite: bool
) -> Iterator[Batch]:
    """Batches whose new images are decoded; further ones are decoded meanwhile."""
    waiting: deque[tuple[Batch, int, list[Decoded]]] = deque()

    def tasks() -> Iterator[Task]:
        for batch in batches:
            parts = _tasks(batch)
            waiting.append((batch, len(parts), []))
            for image in batch.new:
                image.encoded = None
            while parts:
                yield parts.pop(0)

    done = 0
    for results in decoded(tasks(), decoder, workers, ahead, polite):
        batch, count, arrived = waiting[0]
        arrived += results
        done += 1
        if done == count:
            for image, result in zip(batch.new, arrived, strict=True):
                image.decoded = result
            waiting.popleft()
            done = 0
            yield batch


def _tasks(batch: Batch) -> list[list[Encoded]]:
    """A batch's new images in portions small enough to be shared out; one empty portion if there are none."""
    tasks: list[list[Encoded]] = [[]]
    size = 0
    for image in batch.new:
        assert image.encoded is not None
        size += len(image.encoded.data or b"")
        tasks[-1].append(image.encoded)
        if len(tasks[-1]) == IMAGES_PER_TASK or size >= BYTES_PER_TASK:
            tasks.append([])
            size = 0
    return tasks if tasks[-1] or len(tasks) == 1 else tasks[:-1]


@dataclass(frozen=True)
class ScoredBatch:
    """Rows of a shard as they are written, and whether they are its last."""

    shard: int
    columns: Columns
    last: bool


@dataclass(frozen=True)
class Request:
    """What of a batch the scorers embed.

    Attributes:
        prepared: Of each new image that could be decoded, what each scorer's preparation made of it.
        captions: The texts that are embedded with it.
    """

    prepared: list[tuple[Any, ...]]
    captions: list[str]


@dataclass(frozen=True)
class Vectors:
    """What the scorers made of a request, one entry for each scorer; `None` where nothing was asked.

    Attributes:
        images: Unit vectors of the images, arrays or tensors perhaps not yet computed.
        captions: Unit vectors of the texts, and whether a part of each was not read.
    """

    images: list[Any]
    captions: list[tuple[Any, np.ndarray] | None]

    def arrived(self) -> Vectors:
        """The same as arrays, brought here from where they were computed."""
        captions = [None if one is None else (_array(one[0]), one[1]) for one in self.captions]
        return Vectors([None if images is None else _array(images) for images in self.images], captions)


def scored_batches(batches: Iterable[Batch], scorers: Sequence[Scorer]) -> Iterator[ScoredBatch]:
    """Score batches, in order. One is collected when the next is under way, so that a GPU need not wait."""
    names = [scorer.describe()["name"] for scorer in scorers]
    before: tuple[Batch, Vectors] | None = None
    for batch in batches:
        under_way = batch, embedded(requested(batch), scorers)
        if before is not None:
            yield scored(*before, names)
        before = under_way
    if before is not None:
        yield scored(*before, names)


def requested(batch: Batch) -> Request:
    """Take out of a decoded batch what is to be embedded; the batches of a shard have to come in order."""
    prepared = [image.decoded.prepared for image in batch.good()]
    for image in batch.good():
        image.decoded = replace(image.decoded, prepared=())
    captions = []
    for row in batch.rows:
        if row.reason is None and row.text is not None and row.caption is not None and not row.text.asked:
            row.text.asked = True
            batch.texts.append(row.text)
            captions.append(row.caption)
    return Request(prepared, captions)


def embedded(request: Request, scorers: Sequence[Scorer]) -> Vectors:
    """Give a request to the scorers. Depends on nothing else, so that its result is the same in any process."""
    prepared, captions = request.prepared, request.captions
    images = [
        scorer.embed_images([each[place] for each in prepared]) if prepared else None
        for place, scorer in enumerate(scorers)
    ]
    return Vectors(images, [scorer.embed_captions(captions) if captions else None for scorer in scorers])


def scored(batch: Batch, vectors: Vectors, names: Sequence[str]) -> ScoredBatch:
    """Wait for the vectors of a batch and compare them; those of the batches before it in its shard must be known.

    Args:
        batch: The batch, after `requested`.
        vectors: What was made of its request.
        names: The scorers'.
    """
    arrived = vectors.arrived()
    for images, captions in zip(arrived.images, arrived.captions, strict=True):
        if images is not None:
            for image, vector in zip(batch.good(), images, strict=True):
                image.vectors.append(vector)
        if captions is not None:
            for text, vector, truncated in zip(batch.texts, *captions, strict=True):
                text.vectors.append(vector)
                text.truncated |= bool(truncated)
    return ScoredBatch(batch.shard, _columns(batch.rows, names), batch.last)


def _array(vectors: Any) -> np.ndarray:
    """An array, or a tensor brought here from where it was computed."""
    return vectors if isinstance(vectors, np.ndarray) else vectors.cpu().numpy()


def _columns(rows: Sequence[Row], names: Sequence[str]) -> Columns:
    """The rows as columns of `score_schema`."""
    scores, reasons = _scores(rows, len(names))
    facts = [row.image_entry.decoded if row.image_entry is not None else Decoded() for row in rows]
    captions = [row.caption for row in rows]
    return {
        "id": [row.id for row in rows],
        "image": [row.image for row in rows],
        **dict(zip(score_columns(names[1:]), scores, strict=True)),
        "text_truncated": [
            reason is None and row.text is not None and row.text.truncated
            for row, reason in zip(rows, reasons, strict=True)
        ],
        "error": reasons,
        "caption_chars": [None if caption is None else len(caption) for caption in captions],
        "caption_hash": [None if caption is None else caption_hash(caption) for caption in captions],
        "image_hash": [fact.content_hash for fact in facts],
        "image_phash": [fact.perceptual_hash for fact in facts],
        "width": [None if fact.size is None else fact.size[0] for fact in facts],
        "height": [None if fact.size is None else fact.size[1] for fact in facts],
    }


def _scores(rows: Sequence[Row], scorers: int) -> tuple[list[list[float | None]], list[str | None]]:
    """The scores of each scorer, and why a row has none. A row has the scores of all scorers or of none."""
    reasons = [row.reason for row in rows]
    good = [place for place, reason in enumerate(reasons) if reason is None]
    found: list[list[float | None]] = [[None] * len(rows) for _ in range(scorers)]
    for which in range(scorers if good else 0):
        images = np.stack([rows[place].image_entry.vectors[which] for place in good])  # type: ignore[union-attr]
        texts = np.stack([rows[place].text.vectors[which] for place in good])  # type: ignore[union-attr]
        for place, score in zip(good, cosines(images, texts).tolist(), strict=True):
            found[which][place] = score
    for place in good:
        broken = next((column[place] for column in found if not math.isfinite(column[place] or 0.0)), None)
        if broken is not None:
            reasons[place] = f"the scorer gave {broken}: are its weights in order?"
            for column in found:
                column[place] = None
    return found, reasons


def caption_hash(caption: str) -> int:
    """64 bits that are the same for texts that differ in case, white space or the form of their characters only."""
    return hash64(" ".join(unicodedata.normalize("NFKC", caption).casefold().split()).encode())
