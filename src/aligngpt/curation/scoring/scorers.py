"""Scorers: models that embed images and texts in one space, where the cosine measures how well they match.

Any CLIP-like checkpoint folder of transformers is a scorer: CLIP, SigLIP, SigLIP 2, ALIGN and similar models. A scorer
has two parts: its `preparation` is sent to the processes that decode images, its model stays on its device. Torch is
imported when a scorer is loaded.
"""

from __future__ import annotations

import ctypes
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from aligngpt.curation.choices import LONG_CAPTIONS, LongCaptions
from aligngpt.data.images import DecodedImage
from aligngpt.modeling.hub import resolve_model
from aligngpt.utils.io import hash_folder
from aligngpt.utils.models import name_model

if TYPE_CHECKING:
    import torch

Prepared = dict[str, np.ndarray]

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
_TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
# Pixels of an image decoded at reduced size, for each pixel that the model reads.
_REDUCING_GAP = 2
# ALIGN's text tower has more positions, but was trained on texts of 64 tokens.
_TRAINED_LENGTHS = {"align": 64}
# Chosen for the caches of a CPU and to fill a GPU; with a ViT-B/32 on two cores, 16 is 10% faster than 64.
_IMAGES_PER_BATCH = {"cpu": 16}
_TEXTS_PER_BATCH = {"cpu": 32}
_DEFAULT_PER_BATCH = 256
MAX_CHUNKS = 64
# Constants of glibc's malloc.h.
_MALLOC_MMAP_THRESHOLD, _MALLOC_TRIM_THRESHOLD = -3, -1


class Scorer(Protocol):
    """The interface of a scorer, see `ClipScorer`. Vectors are arrays, or tensors that may not be computed yet.

    `preparation` prepares an image for embedding in another process and is picklable; its `at_least`, if it has one, is
    that of `decode_image`.
    """

    @property
    def device(self) -> str: ...

    @property
    def preparation(self) -> Callable[[DecodedImage], Any]: ...

    def embed_images(self, prepared: Sequence[Any]) -> Any: ...

    def embed_captions(self, captions: Sequence[str]) -> tuple[Any, np.ndarray]: ...

    def describe(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class ScaleAndCrop:
    """Scale and center-crop an image as the image processors of CLIP, SigLIP and many others do, without normalization.

    Attributes:
        edges: (shorter side,), the other in proportion, or (height, width).
        resample: A filter of PIL.
        crop: (height, width) of the center crop, no larger than the scaled image; `None` for no crop.
    """

    edges: tuple[int, ...]
    resample: int
    crop: tuple[int, int] | None

    @property
    def at_least(self) -> int:
        """Minimum pixels of the shorter side, see `decode_image`."""
        return _REDUCING_GAP * max(self.edges)

    def __call__(self, image: DecodedImage) -> Prepared:
        """Return `pixel_values` of an image, uint8 (1, 3, height, width)."""
        if len(self.edges) == 2:
            size = self.edges[1], self.edges[0]
        else:
            short, long = sorted(image.size)
            size = self.edges[0], int(self.edges[0] * long / short)
            size = size if image.size[0] == short else size[::-1]
        scaled = image.image.resize(size, self.resample, box=image.box)
        if self.crop is not None:
            height, width = self.crop
            left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
            scaled = scaled.crop((left, top, left + width, top + height))
        return {"pixel_values": np.ascontiguousarray(np.asarray(scaled).transpose(2, 0, 1))[None]}


@dataclass(frozen=True)
class WholeProcessor:
    """Apply any other image processor to the whole image."""

    processor: Any

    def __call__(self, image: DecodedImage) -> Prepared:
        """Return the processor's arrays for one image, each (1, ...)."""
        return dict(self.processor(images=[image.image], return_tensors="np"))


def split_processor(processor: Any) -> tuple[ScaleAndCrop | WholeProcessor, tuple[np.ndarray, np.ndarray] | None]:
    """Split an image processor into scaling of bytes and a linear normalization, where this is possible.

    Both are tried on noise: each channel has to be a linear function of the bytes.

    Returns:
        The preparation of one image, and scale and shift, float32 (3, 1, 1), such that scale * bytes + shift is the
        output of the processor; `None` instead if the whole processor has to be used.
    """
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (211, 317, 3), dtype=np.uint8))
    image = DecodedImage(noise, (0, 0, *noise.size), noise.size)
    whole = WholeProcessor(processor)
    expected = whole(image)
    try:
        size, crop = processor.size, processor.crop_size if getattr(processor, "do_center_crop", False) else None
        edges = tuple(size[key] for key in ("shortest_edge", "height", "width") if size.get(key))
        split = ScaleAndCrop(edges, int(processor.resample), (crop["height"], crop["width"]) if crop else None)
        if split.crop is not None and max(split.crop) > min(edges):
            return whole, None  # each processor pads a crop larger than the image in its own way
        pixels = split(image)["pixel_values"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return whole, None
    if expected.keys() != {"pixel_values"} or expected["pixel_values"].shape != pixels.shape:
        return whole, None
    lines = [np.polyfit(x.ravel(), y.ravel(), 1) for x, y in zip(pixels[0], expected["pixel_values"][0], strict=True)]
    scale, shift = (np.array(values, np.float32).reshape(3, 1, 1) for values in zip(*lines, strict=True))
    if not np.allclose(scale * pixels + shift, expected["pixel_values"], atol=1e-4):
        return whole, None
    return split, (scale, shift)


class ClipScorer:
    """Scores pairs by the cosine of the embeddings of any CLIP-like model; load it with `from_pretrained`."""

    def __init__(
        self, model: Any, tokenizer: Any, image_processor: Any, folder: Path, long_captions: LongCaptions = "truncate"
    ) -> None:
        self.folder = folder
        self.preparation, self._normalization = split_processor(image_processor)
        self._model = model
        self._tokenizer = tokenizer
        self._long_captions = long_captions
        kind = model.config.model_type
        limit: int = model.config.text_config.max_position_embeddings
        # Text towers like RoBERTa, as in AltCLIP, count positions from the padding id on, so they read fewer tokens
        # than they have positions; their tokenizers have the right limit.
        self._text_limit = min(limit, _TRAINED_LENGTHS.get(kind, limit), tokenizer.model_max_length)
        self._special_tokens = _special_tokens(tokenizer)
        # SigLIP's text tower reads its padding: it was trained on texts padded to the limit, without a mask.
        self._reads_padding = kind.startswith("siglip")
        names = inspect.signature(model.get_text_features).parameters.keys()
        self._text_inputs = names - {"attention_mask"} if self._reads_padding else names

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        long_captions: LongCaptions = "truncate",
    ) -> ClipScorer:
        """Load a checkpoint folder with model, tokenizer and image processor.

        On a CPU this process then keeps freed memory, up to 2 GB, if its C library is glibc.

        Args:
            folder: Model folder, bundled model or hub name.
            device: Device of the model; default a CUDA GPU, else Apple's, else the CPU.
            dtype: Type of the weights; default bfloat16 on a CUDA GPU, else float32.
            long_captions: How captions longer than the context of the text tower are handled. `"truncate"` reads the
                beginning; `"chunk-mean"` reads chunks of the context length and takes the normalized mean of their
                unit vectors.

        Raises:
            FileNotFoundError: The folder or its `config.json` does not exist.
            ValueError: The model does not embed both images and texts, its tokenizer or image processor is missing,
                or `long_captions` is invalid.
        """
        folder = resolve_model(os.fspath(folder))
        if long_captions not in LONG_CAPTIONS:
            raise ValueError(f"long_captions must be {' or '.join(LONG_CAPTIONS)}, got {long_captions!r}")
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder}: no config.json; pass the folder of a CLIP-like checkpoint")
        import torch
        from transformers import AutoModel, AutoTokenizer

        # transformers 5.17 exports `AutoImageProcessor` only with torchvision, though the class does not need it.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        device = torch.device(device or choose_device())
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32)
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype)
        for tower, method in (("text", "get_text_features"), ("image", "get_image_features")):
            if not hasattr(model, method):
                raise ValueError(
                    f"{folder} holds a {type(model).__name__}, which has no {tower} tower to score pairs with; "
                    "pass the folder of a complete CLIP or SigLIP model"
                )
        if not any(any(folder.glob(name)) for name in _VOCABULARIES):  # else transformers creates an empty one
            raise ValueError(f"{folder}: tokenizer is missing ({' or '.join(_VOCABULARIES)}); copy its files there")
        tokenizer = _load_part(folder, "tokenizer", AutoTokenizer.from_pretrained)
        image_processor = _load_part(folder, "image processor", AutoImageProcessor.from_pretrained, backend="pil")
        if device.type == "cpu":
            _keep_freed_memory()
        return cls(model.to(device).eval(), tokenizer, image_processor, folder, long_captions)

    @property
    def device(self) -> str:
        """Device of the model: cpu, cuda or mps."""
        return str(self._model.device.type)

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the files that scores depend on: weights, configuration, tokenizer and image processor."""
        weights = "*.safetensors" if any(self.folder.glob("*.safetensors")) else "*.bin"
        return hash_folder(self.folder, (weights, *_TOKENIZER_FILES))

    def describe(self) -> dict[str, str]:
        """Return name, architecture, weights_hash and dtype, see `ScorerInfo`."""
        return {
            "name": name_model(self.folder),
            "architecture": type(self._model).__name__,
            "weights_hash": self.weights_hash,
            "dtype": str(self._model.dtype).removeprefix("torch."),
        }

    def embed_images(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        """Return unit vectors, float32 (n, dim), of n images after `preparation`."""
        import torch

        batch_size = _IMAGES_PER_BATCH.get(self.device, _DEFAULT_PER_BATCH)
        vectors = []
        for start in range(0, len(prepared), batch_size):
            batch = prepared[start : start + batch_size]
            arrays = {name: np.concatenate([image[name] for image in batch]) for name in batch[0]}
            vectors.append(self._embed(self._model.get_image_features, arrays))
        return torch.cat(vectors)

    def embed_captions(self, captions: Sequence[str]) -> tuple[torch.Tensor, np.ndarray]:
        """Return unit vectors, float32 (n, dim), of n texts, and whether each was truncated, bool (n,)."""
        import torch

        max_chunks = 1 if self._long_captions == "truncate" else MAX_CHUNKS
        chunks = self._tokenize(captions)
        vectors = self._embed_chunks([chunk for each in chunks for chunk in each[:max_chunks]])
        if max_chunks > 1:
            counts = [min(len(each), max_chunks) for each in chunks]
            owner = torch.from_numpy(np.repeat(np.arange(len(chunks)), counts)).to(vectors.device)
            sums = vectors.new_zeros((len(captions), vectors.shape[1])).index_add(0, owner, vectors)
            vectors = torch.nn.functional.normalize(sums, dim=-1)
        return vectors, np.array([len(each) > max_chunks for each in chunks])

    def _tokenize(self, captions: Sequence[str]) -> list[list[list[int]]]:
        """Return the token ids of each caption in chunks of the context length, with special tokens.

        Divided here, because not every tokenizer returns the chunks after the first; SigLIP's does not.
        """
        prefix, suffix = self._special_tokens
        size = self._text_limit - len(prefix) - len(suffix)
        texts = self._tokenizer(list(captions), add_special_tokens=False, verbose=False)["input_ids"]
        return [
            [[*prefix, *ids[start : start + size], *suffix] for start in range(0, max(len(ids), 1), size)]
            for ids in texts
        ]

    def _embed_chunks(self, chunks: Sequence[list[int]]) -> torch.Tensor:
        """Return unit vectors of token ids, batched by length to reduce padding."""
        import torch

        batch_size = _TEXTS_PER_BATCH.get(self.device, _DEFAULT_PER_BATCH)
        padding = {"padding": "max_length", "max_length": self._text_limit} if self._reads_padding else {}
        order = sorted(range(len(chunks)), key=lambda index: len(chunks[index]))
        embedded = []
        for start in range(0, len(order), batch_size):
            ids = [chunks[index] for index in order[start : start + batch_size]]
            batch = self._tokenizer.pad({"input_ids": ids}, return_tensors="np", **padding)
            arrays = {name: array for name, array in batch.items() if name in self._text_inputs}
            embedded.append(self._embed(self._model.get_text_features, arrays))
        vectors = torch.cat(embedded)
        return vectors[torch.from_numpy(np.argsort(order)).to(vectors.device)]

    def _embed(self, tower: Callable[..., Any], arrays: Mapping[str, np.ndarray]) -> torch.Tensor:
        """Return unit vectors (n, dim) in float32, on the model's device."""
        import torch

        model = self._model
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(array).to(model.device) for name, array in arrays.items()}
            if self._normalization is not None and "pixel_values" in inputs:
                scale, shift = (torch.from_numpy(array).to(model.device) for array in self._normalization)
                inputs["pixel_values"] = inputs["pixel_values"].float().mul_(scale).add_(shift)
            for name, tensor in inputs.items():
                inputs[name] = tensor.to(model.dtype) if tensor.is_floating_point() else tensor
            features = tower(**inputs)
            pooled = getattr(features, "pooler_output", features).float()  # a tensor in older releases of transformers
            return pooled / pooled.norm(dim=-1, keepdim=True)


def compute_cosines(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of unit vectors, (n, dim) both: float32 (n,), -1 to 1, or NaN."""
    return np.clip(np.einsum("nd,nd->n", images, texts), -1, 1)


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer adds before and after a text, by an example: not all tokenizers name them."""
    ids, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    start = next(index for index in range(len(whole) + 1) if whole[index : index + len(ids)] == ids)
    return whole[:start], whole[start + len(ids) :]


def choose_device() -> str:
    """Return the best device that torch can use: cuda, mps or cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_scorers(folders: Sequence[Path], long_captions: LongCaptions) -> list[ClipScorer]:
    """Load scorers in the process that runs them."""
    return [ClipScorer.from_pretrained(folder, long_captions=long_captions) for folder in folders]


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the kernel after each layer.

    The kernel clears every page that it assigns again: a ViT-B/32 on two cores spent at least 10% of its time on that.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(_MALLOC_MMAP_THRESHOLD, 1 << 30)
    mallopt(_MALLOC_TRIM_THRESHOLD, (1 << 31) - 1)


def _load_part(folder: Path, what: str, load: Callable[..., Any], **settings: Any) -> Any:
    try:
        return load(folder, local_files_only=True, **settings)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder}: {what} cannot be loaded; copy its files there ({reason})") from error
