"""From records to scores, batch by batch: what is embedded together, decoded ahead, and embedded once.

    plan_batches      shards -> batches of rows with the encoded images that occur in them for the first time
    decode_batches    -> the same batches with the images decoded, in other processes
    build_requests    -> each batch without pixels, and its request: what of it the scorers embed
    embed_batch       a request -> embeddings; depends on nothing else, so it may run on another machine
    score_embedded    batches and their embeddings -> columns of scores
    score_batches     the last three, batch after batch, in this process

Rows refer to images and texts by their number within the shard. `build_requests` and `score_embedded` remember them in
`_ShardCaches`, which forget what `plan_batches` forgets, because they see the same uses in the same order.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from aligngpt.curation.scoring.decoding import (
    BYTES_PER_TASK,
    IMAGES_PER_TASK,
    Decoded,
    Decoder,
    Encoded,
    Task,
    decode_images,
    hash64,
)
from aligngpt.curation.scoring.scorers import Scorer, compute_cosines
from aligngpt.curation.scoring.store import score_columns
from aligngpt.data.sources import SourceShard

CACHE_SIZE = 4096
RECORDS_PER_IMAGE = 8
BYTES_PER_BATCH = 1 << 28

Columns = dict[str, Any]
# Of one scorer: unit vectors of a batch's new images and captions, as arrays or tensors that may not be computed yet,
# and whether each caption was truncated; empty where nothing was requested.
Embeddings = tuple[Any, Any, Any]
Block = tuple["Batch[Decoded]", list[Embeddings]]
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A record on its way to a row of scores.

    Attributes:
        error: Why the record has no score, apart from errors of its image.
        image_number: Number of its image among the images of its shard; `None` for a bad record.
        text_number: Number of its caption among the captions of its shard; `None` for a bad record.
    """

    id: str
    image: str | None
    caption: str | None
    error: str | None
    image_number: int | None
    text_number: int | None


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Rows of one shard that are scored together.

    Attributes:
        shard: Number of the shard.
        number: Number of the batch within its shard.
        images: Images that occur for the first time, by number: `Encoded` or `Decoded`.
        last: Whether it is the last batch of its shard.
        texts: Numbers of the captions that are embedded with it, once this is requested.
    """

    shard: int
    number: int
    rows: tuple[ScoreRow, ...]
    images: dict[int, T]
    last: bool
    texts: tuple[int, ...] = ()

    def with_images(self, images: dict[int, U]) -> Batch[U]:
        """Return the batch with its images in another form."""
        return Batch(self.shard, self.number, self.rows, images, self.last, self.texts)


@dataclass(frozen=True)
class EmbeddingRequest:
    """What of a batch the scorers embed.

    Attributes:
        prepared: Of each new image that could be decoded, the result of each scorer's preparation.
        captions: The captions that are embedded with it.
    """

    prepared: list[tuple[Any, ...]]
    captions: list[str]


@dataclass(frozen=True)
class ScoredBatch:
    """Rows of a shard as they are written, and whether they are its last."""

    shard: int
    columns: Columns
    last: bool


# Planning and decoding ----------------------------------------------------------------------------------------------


def plan_batches(shards: Iterable[SourceShard], images: Path | None, batch_size: int) -> Iterator[Batch[Encoded]]:
    """Divide shards into batches. The last batch of a shard is marked and may be empty.

    A batch is full when it holds enough images to embed, rows to write, or bytes to send.

    Args:
        shards: The shards to read.
        images: Folder that image paths are relative to.
        batch_size: New images of a batch, at most.
    """
    folder = None if images is None else str(images)
    for shard in shards:
        image_numbers, text_numbers, number, size = _numbering(), _numbering(), 0, 0
        rows: list[ScoreRow] = []
        new: dict[int, Encoded] = {}
        for record in shard.read():
            image = text = None
            if record.error is None and record.caption is not None:
                encoded = Encoded(record.image or record.id, record.data, folder)
                text = text_numbers(_digest(record.caption.encode()))
                misses = image_numbers.cache_info().misses
                image = image_numbers(encoded.name if encoded.data is None else _digest(encoded.data))
                if image_numbers.cache_info().misses > misses:
                    new[image] = encoded
                    size += len(encoded.data or b"")
            rows.append(ScoreRow(record.id, record.image, record.caption, record.error, image, text))
            if len(new) >= batch_size or len(rows) >= RECORDS_PER_IMAGE * batch_size or size >= BYTES_PER_BATCH:
                yield Batch(shard.number, number, tuple(rows), new, False)
                number, size, rows, new = number + 1, 0, [], {}
        yield Batch(shard.number, number, tuple(rows), new, True)


def _numbering() -> Any:
    """Return a function that numbers keys in the order of their first use, among the last `CACHE_SIZE` used."""
    numbers = count()
    return lru_cache(CACHE_SIZE)(lambda key: next(numbers))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def decode_batches(
    batches: Iterable[Batch[Encoded]], decoder: Decoder, workers: int, ahead: int, low_priority: bool
) -> Iterator[Batch[Decoded]]:
    """Decode the images of batches, in order; arguments as in `decode_images`."""
    waiting: deque[tuple[Batch[None], int]] = deque()  # without the encoded images, which only the tasks hold

    def iter_tasks() -> Iterator[Task]:
        for batch in batches:
            tasks = deque(_divide_images(batch.images.values()))
            waiting.append((batch.with_images(dict.fromkeys(batch.images)), len(tasks)))
            del batch
            while tasks:
                yield tasks.popleft()

    images: list[Decoded] = []
    done = 0
    for results in decode_images(iter_tasks(), decoder, workers, ahead, low_priority):
        images += results
        done += 1
        if done == waiting[0][1]:
            batch, _ = waiting.popleft()
            yield batch.with_images(dict(zip(batch.images, images, strict=True)))
            images, done = [], 0


def _divide_images(images: Iterable[Encoded]) -> list[list[Encoded]]:
    """Divide images into tasks small enough for one process each; one empty task if there are none."""
    tasks: list[list[Encoded]] = [[]]
    size = 0
    for image in images:
        size += len(image.data or b"")
        tasks[-1].append(image)
        if len(tasks[-1]) == IMAGES_PER_TASK or size >= BYTES_PER_TASK:
            tasks.append([])
            size = 0
    return tasks if tasks[-1] or len(tasks) == 1 else tasks[:-1]


# Embedding and scoring ----------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Image:
    decoded: Decoded
    vectors: list[np.ndarray] = field(default_factory=list)  # one for each scorer


@dataclass(eq=False, slots=True)
class _Text:
    requested: bool = False
    truncated: bool = False
    vectors: list[np.ndarray] = field(default_factory=list)  # one for each scorer


class _ShardCaches:
    """The images and texts that later batches may refer to, by number, of each shard that has begun and not ended."""

    def __init__(self) -> None:
        self._caches: dict[int, tuple[dict[int, _Image], Callable[[int], _Image], Callable[[int], _Text]]] = {}

    def look_up(self, batch: Batch[Decoded]) -> list[tuple[_Image, _Text] | None]:
        """Return the image and the text of each row of the next batch, `None` for a bad record."""
        if batch.shard not in self._caches:
            new: dict[int, _Image] = {}
            self._caches[batch.shard] = new, lru_cache(CACHE_SIZE)(new.pop), lru_cache(CACHE_SIZE)(lambda _: _Text())
        new, images, texts = self._caches[batch.shard]
        new |= {number: _Image(image) for number, image in batch.images.items()}
        if batch.last:
            del self._caches[batch.shard]
        return [
            None
            if row.image_number is None or row.text_number is None
            else (images(row.image_number), texts(row.text_number))
            for row in batch.rows
        ]


def build_requests(batches: Iterable[Batch[Decoded]]) -> Iterator[tuple[Batch[Decoded], EmbeddingRequest]]:
    """Separate what of each batch is embedded from what is needed to score it; batches of a shard come in order.

    Each image and each caption is requested once per shard, captions of images that cannot be used are not.
    """
    caches = _ShardCaches()
    for decoded in batches:
        prepared = [image.prepared for image in decoded.images.values() if image.error is None]
        batch = decoded.with_images({number: replace(image, prepared=()) for number, image in decoded.images.items()})
        requested: dict[int, str] = {}
        for row, entry in zip(batch.rows, caches.look_up(batch), strict=True):
            if entry is not None and entry[0].decoded.error is None and not entry[1].requested:
                assert row.text_number is not None
                entry[1].requested = True
                requested[row.text_number] = row.caption or ""
        yield replace(batch, texts=tuple(requested)), EmbeddingRequest(prepared, list(requested.values()))


def embed_batch(request: EmbeddingRequest, scorers: Sequence[Scorer]) -> list[Embeddings]:
    """Embed a request with each scorer. The result depends on nothing else, so it is the same in any process."""
    prepared, captions = request.prepared, request.captions
    return [
        (
            scorer.embed_images([image[index] for image in prepared]) if prepared else (),
            *(scorer.embed_captions(captions) if captions else ((), ())),
        )
        for index, scorer in enumerate(scorers)
    ]


def to_arrays(embeddings: list[Embeddings]) -> list[Embeddings]:
    """Return embeddings as arrays in the memory of this process."""
    return [(_to_array(images), _to_array(captions), truncated) for images, captions, truncated in embeddings]


def score_embedded(blocks: Iterable[Block], names: Sequence[str]) -> Iterator[ScoredBatch]:
    """Wait for the embeddings of each batch and score its rows; batches of a shard come in order.

    Args:
        blocks: Batches with their embeddings.
        names: Names of the scorers.
    """
    caches = _ShardCaches()
    for batch, embeddings in blocks:
        entries = caches.look_up(batch)
        pairs = [(row, entry) for row, entry in zip(batch.rows, entries, strict=True) if entry is not None]
        images = {row.image_number: image for row, (image, _) in pairs}
        texts = {row.text_number: text for row, (_, text) in pairs}
        new = [images[number] for number, image in batch.images.items() if image.error is None]
        for image_vectors, caption_vectors, truncated in to_arrays(embeddings):
            for image, vector in zip(new, image_vectors, strict=True):
                image.vectors.append(vector)
            for number, vector, was_truncated in zip(batch.texts, caption_vectors, truncated, strict=True):
                texts[number].vectors.append(vector)
                texts[number].truncated |= bool(was_truncated)
        yield ScoredBatch(batch.shard, _to_columns(batch.rows, entries, names), batch.last)


def score_batches(batches: Iterable[Batch[Decoded]], scorers: Sequence[Scorer]) -> Iterator[ScoredBatch]:
    """Score batches, in order. One is collected after the next was requested, so that a GPU need not wait."""
    embedded = ((batch, embed_batch(request, scorers)) for batch, request in build_requests(batches))
    followed: Iterator[Any] = pairwise(chain(embedded, [None]))
    return score_embedded((block for block, _ in followed), [scorer.describe()["name"] for scorer in scorers])


def _to_array(vectors: Any) -> np.ndarray:
    return vectors.cpu().numpy() if hasattr(vectors, "cpu") else vectors


def _to_columns(
    rows: Sequence[ScoreRow], entries: Sequence[tuple[_Image, _Text] | None], names: Sequence[str]
) -> Columns:
    """Return the rows as columns of `score_schema`."""
    facts = [Decoded() if entry is None else entry[0].decoded for entry in entries]
    reasons = [row.error or fact.error for row, fact in zip(rows, facts, strict=True)]
    scores = _score_rows(entries, reasons, len(names))
    captions = [row.caption for row in rows]
    return {
        "id": [row.id for row in rows],
        "image": [row.image for row in rows],
        **dict(zip(score_columns(names[1:]), scores, strict=True)),
        "text_truncated": [
            reason is None and entry is not None and entry[1].truncated
            for entry, reason in zip(entries, reasons, strict=True)
        ],
        "error": reasons,
        "caption_chars": [None if caption is None else len(caption) for caption in captions],
        "caption_hash": [None if caption is None else caption_hash(caption) for caption in captions],
        "image_hash": [fact.content_hash for fact in facts],
        "image_phash": [fact.perceptual_hash for fact in facts],
        "width": [None if fact.size is None else fact.size[0] for fact in facts],
        "height": [None if fact.size is None else fact.size[1] for fact in facts],
    }


def _score_rows(
    entries: Sequence[tuple[_Image, _Text] | None], reasons: list[str | None], num_scorers: int
) -> list[pa.Array]:
    """Return the scores of each scorer, and add the reason where a score is not finite.

    A row has the scores of all scorers or of none.
    """
    good = [index for index, reason in enumerate(reasons) if reason is None]
    scores = np.zeros((num_scorers, len(entries)), np.float32)
    for number in range(num_scorers if good else 0):
        images = np.stack([entries[index][0].vectors[number] for index in good])  # type: ignore[index]
        texts = np.stack([entries[index][1].vectors[number] for index in good])  # type: ignore[index]
        scores[number, good] = compute_cosines(images, texts)
    for index in np.flatnonzero(~np.isfinite(scores).all(axis=0)).tolist():
        broken = next(score for score in scores[:, index].tolist() if not math.isfinite(score))
        reasons[index] = f"the score is {broken}; check the weights of the scorer"
    missing = np.array([reason is not None for reason in reasons], bool)
    return [pa.array(column, mask=missing) for column in scores]


def caption_hash(caption: str) -> int:
    """Return 64 bits that are equal for captions that differ only in case, white space or Unicode form."""
    return hash64(" ".join(unicodedata.normalize("NFKC", caption).casefold().split()).encode())
