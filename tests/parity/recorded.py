"""The recordings of the official code, and its rows in our form.

B rows, T tokens before image expansion, S positions after it, P tokens of an image, H hidden.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligngpt import AlignGPTProcessor
from aligngpt.training.datasets import IGNORED

FOLDER = Path(__file__).parent / "official"
IMAGES, DATA, RECORDINGS = FOLDER / "images", FOLDER / "data", FOLDER / "recordings"
CHECKPOINT, STAGE1, BASE_LLM, VISION_TOWER = (
    FOLDER / name for name in ("checkpoint", "stage1", "base_llm", "vision_tower")
)
IMAGE = -200  # what the official code has in the place of an image
MAX_LENGTH = 2048


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of one recording; `unread` are those that nothing was compared with."""

    def __init__(self, recording: str) -> None:
        with np.load(RECORDINGS / f"{recording}.npz") as archive:
            self._arrays = {name: archive[name] for name in archive.files}
        self.unread = set(self._arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        self.unread.discard(name)
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


@functools.cache
def opened(recording: str) -> Arrays:
    """The arrays of one recording, the same at each call."""
    return Arrays(recording)


def read_recording(name: str) -> Any:
    """A recording that is JSON."""
    return json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))


def labels_of(input_ids: Sequence[int], target_spans: Sequence[Sequence[int]]) -> list[int]:
    """The labels that half-open spans of targets stand for."""
    labels = [IGNORED] * len(input_ids)
    for start, end in target_spans:
        labels[start:end] = input_ids[start:end]
    return labels


def in_our_form(
    input_ids: Sequence[int], labels: Sequence[int], processor: AlignGPTProcessor, max_length: int = MAX_LENGTH
) -> tuple[list[int], list[int]]:
    """One unpadded official row as our data path makes it.

    The image's mark is repeated for its P tokens, which carry no label; the row is cut to one less than the maximum
    length, and the alignment gets index 1. A row without an image stays as it is.
    """
    ids, targets = [int(token) for token in input_ids], [int(label) for label in labels]
    if IMAGE not in ids:
        return ids, targets
    place, length = ids.index(IMAGE), processor.image_seq_length
    ids[place : place + 1] = [processor.image_token_id] * length
    targets[place : place + 1] = [IGNORED] * length
    ids, targets = ids[: max_length - 1], targets[: max_length - 1]
    ids.insert(1, processor.align_token_id)
    targets.insert(1, IGNORED)
    return ids, targets
