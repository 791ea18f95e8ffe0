"""Checkpoint files on disk: found, checked and read tensor by tensor, and never executed."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aligngpt.utils.io import read_json

FILE_BYTES = 1 << 29  # of one written file: what is held of it in memory stays small
_LITTLE = 1 << 26
_SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_GLOBAL = re.compile(r"GLOBAL (\S+)")


def list_weight_files(folder: Path) -> list[Path]:
    """The files with the weights of a checkpoint folder, safetensors before pickles.

    Raises:
        FileNotFoundError: There are none, or one that the index names is missing.
    """
    for single in _SINGLE_FILES:
        index = folder / f"{single}.index.json"
        if index.is_file():
            content = read_json(index)
            if not isinstance(content, dict) or not isinstance(content.get("weight_map"), dict):
                raise ValueError(f"{index} has no weight_map: fetch the checkpoint again, whole")
            names = sorted(set(content["weight_map"].values()))
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise FileNotFoundError(
                    f"{folder / missing[0]}: no such file, but {index.name} names it ({len(missing)} of {len(names)} "
                    "files are missing): fetch the checkpoint again, whole"
                )
            return [folder / name for name in names]
        if (folder / single).is_file():
            return [folder / single]
    raise FileNotFoundError(
        f"{folder} has no weights: expected {' or '.join(_SINGLE_FILES)}, whole or in several files with their index"
    )


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a checkpoint's weights, in one file or with an index."""
    return any((folder / f"{name}{suffix}").is_file() for name in _SINGLE_FILES for suffix in ("", ".index.json"))


class _Lazy(Mapping[str, Tensor]):
    """The tensors of an open safetensors file, read when they are asked for."""

    def __init__(self, file: Any) -> None:
        self._file, self._names = file, list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def open_weights(path: Path) -> Iterator[Mapping[str, Tensor]]:
    """The tensors of one file by name, mapped from the disk and not read until they are used.

    Raises:
        ValueError: The file is damaged, or a pickle of anything but tensors, which is not executed.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                yield _Lazy(file)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
        return
    yield _load_pickle(path)


def is_mapped(path: Path) -> bool:
    """Whether a file's tensors come into memory only as they are used; not in pickles of the form before torch 1.6."""
    return path.suffix == ".safetensors" or zipfile.is_zipfile(path)


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped(path))
    except pickle.UnpicklingError as error:
        found = _GLOBAL.search(str(error))
        raise ValueError(
            f"{path} is refused: it asks for {found[1] if found else 'more than tensors'}, and a pickle can run any "
            "code when it is read; get the weights as safetensors, or as a plain dictionary of tensors"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({_first_line(error)}): fetch it again") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, no dictionary of tensors: give the weights alone")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise ValueError(f"{path} is no plain dictionary of dense tensors ({name}): give the weights alone")
    return loaded


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def read_shapes(files: list[Path]) -> dict[str, torch.Size]:
    """Shape of every tensor in the files, without reading their content.

    Raises:
        ValueError: A file cannot be read, or a tensor stands in two of them.
    """
    shapes: dict[str, torch.Size] = {}
    for path in files:
        with open_weights(path) as tensors:
            for name in tensors:
                if name in shapes:
                    raise ValueError(f"{path}: {name} stands in another file of the checkpoint as well")
                shapes[name] = _shape(tensors, name)
    return shapes


def _shape(tensors: Mapping[str, Tensor], name: str) -> torch.Size:
    if isinstance(tensors, _Lazy):
        return torch.Size(tensors._file.get_slice(name).get_shape())
    return tensors[name].shape


class WeightWriter:
    """Writes safetensors files of at most `FILE_BYTES` each and their index, as `from_pretrained` reads them.

    Args:
        folder: An existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, Tensor] = {}
        self._files: list[list[str]] = []
        self._bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor; written together with its neighbours when there are enough of them."""
        if self._waiting and _size(*self._waiting.values(), tensor) > FILE_BYTES:
            self._flush()
        self._waiting[name] = tensor.contiguous()
        self._bytes += _size(tensor)

    def release_mapped(self) -> None:
        """Keep no tensor that is mapped from a file: what waits is written, or copied where it is little."""
        if _size(*self._waiting.values()) > _LITTLE:
            self._flush()
        self._waiting = {name: tensor.clone() for name, tensor in self._waiting.items()}

    def _flush(self) -> None:
        if self._waiting:
            save_file(self._waiting, self._folder / f"{len(self._files)}.part", metadata={"format": "pt"})
            self._files.append(list(self._waiting))
            self._waiting = {}

    def close(self) -> None:
        """Give the files their names, and write the index if there are several."""
        self._flush()
        number = len(self._files)
        if number == 1:
            (self._folder / "0.part").rename(self._folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for place, names in enumerate(self._files):
            file = f"model-{place + 1:05d}-of-{number:05d}.safetensors"
            (self._folder / f"{place}.part").rename(self._folder / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self._bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _size(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
