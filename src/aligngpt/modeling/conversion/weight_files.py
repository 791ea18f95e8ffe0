"""Weight files of checkpoints: list, check, read tensor by tensor, and write; pickles are never executed."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aligngpt.utils.io import read_json
from aligngpt.utils.models import WEIGHT_FILES

FILE_BYTES = 1 << 29  # maximum size of a written file, which is held in memory
_COPY_BYTES = 1 << 26
_GLOBAL = re.compile(r"GLOBAL (\S+)")


def list_weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a checkpoint folder, safetensors rather than pickles.

    Raises:
        FileNotFoundError: There are none, or a file that the index lists is missing.
    """
    for single in WEIGHT_FILES:
        index = folder / f"{single}.index.json"
        if index.is_file():
            content = read_json(index)
            if not isinstance(content, dict) or not isinstance(content.get("weight_map"), dict):
                raise ValueError(f"{index} has no weight_map; fetch the complete checkpoint again")
            names = sorted(set(content["weight_map"].values()))
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise FileNotFoundError(
                    f"{folder / missing[0]}: no such file, but {index.name} lists it ({len(missing)} of {len(names)} "
                    "files are missing); fetch the complete checkpoint again"
                )
            return [folder / name for name in names]
        if (folder / single).is_file():
            return [folder / single]
    raise FileNotFoundError(f"{folder} has no weights; expected {' or '.join(WEIGHT_FILES)}, or shards with an index")


@contextmanager
def open_weights(path: Path) -> Iterator[dict[str, Tensor]]:
    """Open a weight file: its tensors by name, mapped from disk and read at access.

    Raises:
        ValueError: The file is damaged, or a pickle that contains more than tensors, which is not executed.
    """
    if path.suffix != ".safetensors":
        yield _load_pickle(path)
        return
    try:
        with safe_open(path, framework="pt") as file:
            yield {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  views of the mapped file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from error


def is_mapped(path: Path) -> bool:
    """Whether tensors are read at access; pickles from before torch 1.6 are read completely."""
    return path.suffix == ".safetensors" or zipfile.is_zipfile(path)


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped(path))
    except pickle.UnpicklingError as error:
        name = _GLOBAL.search(str(error))
        raise ValueError(
            f"{path} is refused: it contains {name[1] if name else 'more than tensors'}, and a pickle can run any code "
            "when it is read; get the weights as safetensors, or as a dictionary of tensors"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} is damaged ({reason}); fetch it again") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} contains a {type(loaded).__name__}; expected a dictionary of tensors")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ValueError(f"{path}: {name} is not a dense tensor; expected a dictionary of dense tensors")
    return loaded


def iterate_weights(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor, mapped from disk, of every tensor in the files; errors as `open_weights`."""
    for path in files:
        with open_weights(path) as tensors:
            yield from tensors.items()


def read_shapes(files: list[Path]) -> dict[str, torch.Size]:
    """Return the shape of every tensor in the files, without reading their content.

    Raises:
        ValueError: A file cannot be read, or two files have the same tensor.
    """
    shapes: dict[str, torch.Size] = {}
    for path in files:
        for name, tensor in iterate_weights([path]):
            if name in shapes:
                raise ValueError(f"{path}: {name} is also in another file of the checkpoint")
            shapes[name] = tensor.shape
    return shapes


class WeightWriter:
    """Writes safetensors files of at most `FILE_BYTES` each and their index, as `from_pretrained` reads them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: dict[str, Tensor] = {}
        self._files: list[list[str]] = []
        self._bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor; it is written with its neighbors once they fill a file."""
        if self._pending and _count_bytes(*self._pending.values(), tensor) > FILE_BYTES:
            self._flush()
        self._pending[name] = tensor.contiguous()
        self._bytes += _count_bytes(tensor)

    def release_mapped(self) -> None:
        """Write pending tensors, or copy them if they are few, so that none is mapped from a source file."""
        if _count_bytes(*self._pending.values()) > _COPY_BYTES:
            self._flush()
        self._pending = {name: tensor.clone() for name, tensor in self._pending.items()}

    def _flush(self) -> None:
        if self._pending:
            save_file(self._pending, self._folder / f"{len(self._files)}.part", metadata={"format": "pt"})
            self._files.append(list(self._pending))
            self._pending = {}

    def close(self) -> None:
        """Rename the files, and write the index if there are several."""
        self._flush()
        count = len(self._files)
        if count == 1:
            (self._folder / "0.part").rename(self._folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for index, names in enumerate(self._files):
            file = f"model-{index + 1:05d}-of-{count:05d}.safetensors"
            (self._folder / f"{index}.part").rename(self._folder / file)
            weight_map |= dict.fromkeys(names, file)
        write_index(self._folder / "model.safetensors.index.json", weight_map, self._bytes)


def write_index(path: Path, weight_map: Mapping[str, str], total_size: int) -> None:
    """Write the index of a sharded checkpoint: the file of each tensor, and the bytes of all tensors."""
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    path.write_text(json.dumps(index, indent=2) + "\n")


def _count_bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
