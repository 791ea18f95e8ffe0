"""From encoded images to what models take, in processes beside the one that runs the models.

The processes come from a server that is forked before any thread runs (`forkserver`) and has imported what they need,
once. Plain forks of the main process would be unsafe: its model runs threads and perhaps a GPU, and a lock that one of
them holds at that moment stays locked in the child for ever. Where there is no such server, as on Windows, each starts
anew (`spawn`). Both import the main script again, so a script of one's own that scores with workers needs the usual
`if __name__ == "__main__":`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import imagehash
import numpy as np
import scipy.fftpack  # type: ignore[import-untyped]  # noqa: F401  imagehash imports it in its first call, which would then be every process's own
from torch.utils.data import DataLoader, Dataset

from aligngpt.data.images import BadImage, DecodedImage, decode_image, read_encoded

Task = Sequence["Encoded"]

IMAGES_PER_TASK = 8
BYTES_PER_TASK = 1 << 24

_HASHED_SIDE = 64
_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image to be decoded: its bytes, or the file that holds them; `name` names it in a reason for refusal."""

    name: str
    data: bytes | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image ready to be embedded, or the reason why it is not.

    Attributes:
        prepared: What each scorer's preparation made of it; empty if there is an `error`.
        error: Why it cannot be used, in one line.
        content_hash: Of the encoded bytes; `None` where they could not be read.
        perceptual_hash: 64 bits that differ in few places between images that look alike; `None` with an `error`.
        size: (width, height) of the whole image, upright; `None` with an `error`.
    """

    prepared: tuple[Any, ...] = ()
    error: str | None = None
    content_hash: int | None = None
    perceptual_hash: int | None = None
    size: tuple[int, int] | None = None


class Decoder(Dataset):
    """Decodes tasks; the task itself is the index, so any number of processes can share them out.

    Args:
        preparations: One for each scorer, all of which see the same decoded image.
    """

    def __init__(self, preparations: Sequence[Callable[[DecodedImage], Any]]) -> None:
        self._preparations = tuple(preparations)
        needed: list[int | None] = [getattr(each, "at_least", None) for each in preparations]
        known = [pixels for pixels in needed if pixels is not None]
        self._at_least = max(known) if len(known) == len(needed) else None

    def __getitem__(self, task: Task) -> list[Decoded]:
        """Decode each image of a task."""
        return [self._decode(encoded) for encoded in task]

    def _decode(self, encoded: Encoded) -> Decoded:
        content_hash = None
        try:
            data = encoded.data if encoded.data is not None else read_encoded(encoded.path or encoded.name)
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
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def perceptual_hash(image: DecodedImage) -> int:
    """The image's pHash: which of its 64 lowest frequencies are above their median, the lowest as the highest bit."""
    pixels = image.image
    factor = min(pixels.size) // _HASHED_SIDE
    if factor > 1:  # the hash looks at 32 x 32 pixels; to get there in two steps takes a part of the time
        pixels = pixels.reduce(factor)
    return int.from_bytes(np.packbits(imagehash.phash(pixels).hash).tobytes(), "big")


def decoded(tasks: Iterable[Task], decoder: Decoder, workers: int, ahead: int, polite: bool) -> Iterator[list[Decoded]]:
    """Decode tasks, in order.

    Args:
        tasks: Read only as far as `ahead` says.
        decoder: What decodes.
        workers: Processes; 0 decodes in this one.
        ahead: Images to keep under way.
        polite: Whether the processes step back where the model needs the same cores.

    Raises:
        OSError: If a process is killed.
    """
    if not workers:
        yield from map(decoder.__getitem__, tasks)
        return
    loader = DataLoader(
        decoder,
        batch_size=None,
        sampler=tasks,  # DataLoader asks for nothing but an iterator of it
        num_workers=workers,
        prefetch_factor=max(2, -(-ahead // (IMAGES_PER_TASK * workers))),
        collate_fn=_as_it_is,
        worker_init_fn=_begin_politely if polite else _begin,
        multiprocessing_context=_context(),
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            "a process that decodes images was killed, perhaps for want of memory: run the same again, it goes on "
            "behind the last finished shard; --workers sets how many there are"
        ) from error


def start_early() -> None:
    """Let the server of processes import what they need while this process loads models."""
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


def _as_it_is(item: Any) -> Any:
    return item


def _begin(worker: int) -> None:
    """Leave the end of this process to the main one: an interrupt is its to handle, and its death is seen."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the main process, not the server, which itself lives as long as any of its processes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _begin_politely(worker: int) -> None:
    _begin(worker)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
