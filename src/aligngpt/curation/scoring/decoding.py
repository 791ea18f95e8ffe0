"""From encoded images to what models take, in worker processes next to the one that runs the models.

The workers come from a server that is forked before any thread runs (`forkserver`) and has imported what they need,
once. Plain forks of the main process would be unsafe: its model runs threads and perhaps a GPU, and a lock that a
thread holds at that moment stays locked in the child forever. Where there is no such server, as on Windows, each worker
is a new process (`spawn`). Both import the main script again, so a script that scores with workers needs the usual
`if __name__ == "__main__":`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import imagehash
import numpy as np
import scipy.fftpack  # type: ignore[import-untyped]  # noqa: F401  imported here once, not by imagehash in each worker
from torch.utils.data import DataLoader, Dataset

from aligngpt.data.images import DecodedImage, decode_image, read_encoded
from aligngpt.data.schema import BadImage
from aligngpt.utils.processes import exit_with_parent

Task = Sequence["Encoded"]

IMAGES_PER_TASK = 8
BYTES_PER_TASK = 1 << 24

_HASHED_SIDE = 64
_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image to decode: its bytes, or its file, `name` in the image `folder`; `name` is used in errors."""

    name: str
    data: bytes | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image ready to be embedded, or the reason why it cannot be used.

    Attributes:
        prepared: The result of each scorer's preparation; empty if there is an `error`.
        error: Why it cannot be used, in one line.
        content_hash: Hash of the encoded bytes; `None` if they could not be read.
        perceptual_hash: 64 bits that differ in few bits between images that look alike; `None` with an `error`.
        size: (width, height) of the whole image, upright; `None` with an `error`.
    """

    prepared: tuple[Any, ...] = ()
    error: str | None = None
    content_hash: int | None = None
    perceptual_hash: int | None = None
    size: tuple[int, int] | None = None


class Decoder(Dataset):
    """Decodes tasks. The task itself is the index, so that any number of processes can divide the work.

    Args:
        preparations: One for each scorer; all of them see the same decoded image.
    """

    def __init__(self, preparations: Sequence[Callable[[DecodedImage], Any]]) -> None:
        self._preparations = tuple(preparations)
        sizes: list[int | None] = [getattr(prepare, "at_least", None) for prepare in preparations]
        limits = [pixels for pixels in sizes if pixels is not None]
        self._at_least = max(limits) if len(limits) == len(sizes) else None

    def __getitem__(self, task: Task) -> list[Decoded]:
        """Decode each image of a task."""
        return [self._decode(encoded) for encoded in task]

    def _decode(self, encoded: Encoded) -> Decoded:
        content_hash = None
        try:
            path = os.path.join(encoded.folder or "", encoded.name)
            data = encoded.data if encoded.data is not None else read_encoded(path)
            content_hash = hash64(data)
            image = decode_image(data, encoded.name, at_least=self._at_least)
        except BadImage as error:
            return Decoded(error=str(error), content_hash=content_hash)
        try:
            prepared = tuple(prepare(image) for prepare in self._preparations)
        except ValueError as error:
            reason = f"refused by the image processor: {' '.join(str(error).split())}"
            return Decoded(error=reason, content_hash=content_hash)
        return Decoded(prepared, None, content_hash, perceptual_hash(image), image.size)


def hash64(data: bytes) -> int:
    """Return 64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def perceptual_hash(image: DecodedImage) -> int:
    """Return the pHash: which of the 64 lowest frequencies are above their median, the lowest as the highest bit."""
    pixels = image.image
    factor = min(pixels.size) // _HASHED_SIDE
    if factor > 1:  # the hash uses 32 x 32 pixels; reducing first is several times faster
        pixels = pixels.reduce(factor)
    return int.from_bytes(np.packbits(imagehash.phash(pixels).hash).tobytes(), "big")


def decode_images(
    tasks: Iterable[Task], decoder: Decoder, workers: int, ahead: int, low_priority: bool
) -> Iterator[list[Decoded]]:
    """Decode tasks, in order.

    Args:
        tasks: Read only as far as `ahead` requires.
        decoder: What decodes.
        workers: Number of processes; 0 decodes in this one.
        ahead: Images to decode ahead of the consumer.
        low_priority: Whether the workers yield to this process, because the model needs the same cores.

    Raises:
        OSError: A worker is killed.
    """
    if not workers:
        yield from map(decoder.__getitem__, tasks)
        return
    loader = DataLoader(
        decoder,
        batch_size=None,
        sampler=tasks,  # DataLoader only iterates over it
        num_workers=workers,
        prefetch_factor=max(2, -(-ahead // (IMAGES_PER_TASK * workers))),
        collate_fn=list,
        worker_init_fn=partial(_start, low_priority=low_priority),
        multiprocessing_context=_context(),
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            "a process that decodes images was killed, possibly out of memory: run the same command again to resume "
            "after the last finished shard, with fewer --num-workers"
        ) from error


def start_forkserver() -> None:
    """Let the server of worker processes import what they need while this process loads models."""
    context = _context()
    if context.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.ensure_running()


def _context() -> Any:
    available = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in available else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])
    return context


def _start(worker: int, low_priority: bool) -> None:
    exit_with_parent()
    if low_priority and hasattr(os, "nice"):
        os.nice(_NICENESS)
