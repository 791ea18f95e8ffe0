"""Scorers: models that embed images and texts in one space, where the cosine tells how well they fit each other.

Any CLIP-like checkpoint folder of transformers is one: CLIP, SigLIP, SigLIP 2, ALIGN and their kin. A scorer comes in
two parts: its `preparation` travels to the processes that decode images, its model stays where its device is.
Torch is imported when a scorer is made.
"""

from __future__ import annotations

import ctypes
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from PIL import Image

from aligngpt.data.images import DecodedImage
from aligngpt.modeling.hub import resolve_model
from aligngpt.utils.io import hash_folder
from aligngpt.utils.models import name_model

if TYPE_CHECKING:
    import torch

LongCaptions = Literal["truncate", "chunk-mean"]
Prepared = dict[str, np.ndarray]

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
_TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
# Pixels of an image that is decoded at a fraction of its size, for each pixel that the model sees.
_REDUCING_GAP = 2
# ALIGN's text tower has room for more, but was trained on texts of 64 tokens.
_TRAINED_LENGTHS = {"align": 64}
# What keeps a CPU's caches busy and a GPU full; measured with a ViT-B/32 on two cores: 16 is a tenth quicker than 64.
_IMAGES_AT_ONCE = {"cpu": 16}
_TEXTS_AT_ONCE = {"cpu": 32}
_AT_ONCE = 256
_MOST_CHUNKS = 64
# Numbers of glibc's malloc.h.
_MALLOC_MMAP_THRESHOLD, _MALLOC_TRIM_THRESHOLD = -3, -1


class Scorer(Protocol):
    """What an engine asks of a scorer; `ClipScorer` is one. Vectors are arrays, or tensors perhaps not yet computed."""

    @property
    def device(self) -> str:
        """Where the model runs: cpu, cuda or mps."""

    @property
    def preparation(self) -> Callable[[DecodedImage], Any]:
        """What is done to an image before it is embedded, in another process: it can be pickled.

        Its `at_least`, if it has one, is that of `decode_image`.
        """

    def embed_images(self, prepared: Sequence[Any]) -> Any:
        """Unit vectors of n prepared images, float32 (n, dim)."""

    def embed_captions(self, captions: Sequence[str]) -> tuple[Any, np.ndarray]:
        """Unit vectors of n texts, float32 (n, dim), and whether a part of each was not read, bool (n,)."""

    def describe(self) -> dict[str, str]:
        """What the scores depend on: class, weights_hash, dtype, and the name for people to read."""


@dataclass(frozen=True)
class ScaleAndCrop:
    """What the image processors of CLIP, SigLIP and many others do before they normalize: the image stays bytes.

    Attributes:
        edges: (shorter side,), the other in proportion, or (height, width).
        resample: A filter of PIL.
        crop: (height, width) cut out of the middle, no larger than the scaled image; `None` keeps all.
    """

    edges: tuple[int, ...]
    resample: int
    crop: tuple[int, int] | None

    @property
    def at_least(self) -> int:
        """Pixels the shorter side of an image needs, see `decode_image`."""
        return _REDUCING_GAP * max(self.edges)

    def __call__(self, image: DecodedImage) -> Prepared:
        """The image's `pixel_values`, uint8 (1, 3, height, width)."""
        scaled = image.image.resize(self._scaled_size(image.size), self.resample, box=image.box)
        if self.crop is not None:
            height, width = self.crop
            left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
            scaled = scaled.crop((left, top, left + width, top + height))
        return {"pixel_values": np.ascontiguousarray(np.asarray(scaled).transpose(2, 0, 1))[None]}

    def _scaled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        if len(self.edges) == 2:
            return self.edges[1], self.edges[0]
        short, long = min(size), max(size)
        scaled = (self.edges[0], int(self.edges[0] * long / short))
        return scaled if size[0] <= size[1] else scaled[::-1]


@dataclass(frozen=True)
class WholeProcessor:
    """Any other image processor's own work, on the whole image."""

    processor: Any

    def __call__(self, image: DecodedImage) -> Prepared:
        """The processor's arrays for one image, each (1, ...)."""
        return dict(self.processor(images=[image.image], return_tensors="np"))


def split_processor(processor: Any) -> tuple[ScaleAndCrop | WholeProcessor, tuple[np.ndarray, np.ndarray] | None]:
    """Part an image processor into what is done to bytes and the arithmetic on them, where it can be parted.

    That is found out by trying both ways on noise: each channel must be the bytes times a number plus a number.

    Returns:
        The work on one image, and scale and shift, float32 (3, 1, 1), such that scale * bytes + shift is what the
        processor gives; `None` in their place if the whole processor has to be used.
    """
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (211, 317, 3), dtype=np.uint8))
    image = DecodedImage(noise, (0, 0, *noise.size), noise.size)
    whole = WholeProcessor(processor)
    expected = whole(image)
    try:
        size, crop = processor.size, processor.crop_size if getattr(processor, "do_center_crop", False) else None
        edges = tuple(size[key] for key in ("shortest_edge", "height", "width") if size.get(key))
        parted = ScaleAndCrop(edges, int(processor.resample), (crop["height"], crop["width"]) if crop else None)
        if parted.crop is not None and max(parted.crop) > min(edges):
            return whole, None  # a crop larger than the image is filled up in the processor's own way
        found = parted(image)["pixel_values"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return whole, None
    if expected.keys() != {"pixel_values"} or expected["pixel_values"].shape != found.shape:
        return whole, None
    lines = [np.polyfit(x.ravel(), y.ravel(), 1) for x, y in zip(found[0], expected["pixel_values"][0], strict=True)]
    scale, shift = (np.array(values, np.float32).reshape(3, 1, 1) for values in zip(*lines, strict=True))
    if not np.allclose(scale * found + shift, expected["pixel_values"], atol=1e-4):
        return whole, None
    return parted, (scale, shift)


class ClipScorer:
    """Cosine of image and text embedding by any CLIP-like model."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        folder: Path,
        long_captions: LongCaptions = "truncate",
    ) -> None:
        """Use `from_pretrained`; the parts are those of one checkpoint folder."""
        self.folder = folder
        self.preparation, self._normalization = split_processor(image_processor)
        self._model = model
        self._tokenizer = tokenizer
        self._long_captions = long_captions
        kind = model.config.model_type
        limit: int = model.config.text_config.max_position_embeddings
        # Text towers of RoBERTa's kind, as AltCLIP's, count positions from behind the padding's id, so they read fewer
        # tokens than they have positions; their tokenizers know.
        self._text_limit = min(limit, _TRAINED_LENGTHS.get(kind, limit), tokenizer.model_max_length)
        self._special_tokens = _special_tokens(tokenizer)
        # SigLIP's text tower reads its padding: it was trained on texts filled up to the limit, without a mask.
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

        On a CPU this process then keeps memory that is freed, up to 2 GB, where its C library is glibc.

        Args:
            folder: Model folder, bundled model or hub name.
            device: Where the model runs; unless given a CUDA GPU, else Apple's, else the CPU.
            dtype: Type of the weights; unless given bfloat16 on a CUDA GPU, else float32.
            long_captions: What becomes of a caption longer than the text tower's limit. `"truncate"` reads its
                beginning; `"chunk-mean"` reads all of it in pieces of the limit and takes the mean of their unit
                vectors, scaled to length 1.

        Raises:
            FileNotFoundError: If the folder or its `config.json` does not exist.
            ValueError: If the model does not embed both images and texts, or its tokenizer or image processor is
                missing, or `long_captions` is neither of the two.
        """
        folder = resolve_model(os.fspath(folder))
        if long_captions not in ("truncate", "chunk-mean"):
            raise ValueError(f"long_captions must be 'truncate' or 'chunk-mean', got {long_captions!r}")
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder}: expected the folder of a CLIP-like checkpoint, found no config.json there"
            )
        import torch
        from transformers import AutoModel, AutoTokenizer

        # Release 5.17 gives `transformers.AutoImageProcessor` only beside torchvision, though the class needs none.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        device = torch.device(device or default_device())
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32)
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype)
        for tower, method in (("text", "get_text_features"), ("image", "get_image_features")):
            if not hasattr(model, method):
                raise ValueError(
                    f"{folder} holds a {type(model).__name__}, which has no {tower} tower to score pairs with: "
                    "give the folder of a whole CLIP or SigLIP model"
                )
        if not any(file for name in _VOCABULARIES for file in folder.glob(name)):  # else an empty one is made up
            raise ValueError(f"{folder} holds no tokenizer, no {' or '.join(_VOCABULARIES)}: copy its files there too")
        tokenizer = _part(folder, "tokenizer", AutoTokenizer.from_pretrained)
        image_processor = _part(folder, "image processor", AutoImageProcessor.from_pretrained, backend="pil")
        if device.type == "cpu":
            _keep_freed_memory()
        return cls(model.to(device).eval(), tokenizer, image_processor, folder, long_captions)

    @property
    def device(self) -> str:
        """Where the model runs: cpu, cuda or mps."""
        return str(self._model.device.type)

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the files scores depend on: weights, configuration, tokenizer and image processor."""
        weights = "*.safetensors" if any(self.folder.glob("*.safetensors")) else "*.bin"
        return hash_folder(self.folder, (weights, *_TOKENIZER_FILES))

    def describe(self) -> dict[str, str]:
        """The scorer as manifests name it: name, class, weights_hash and dtype."""
        return {
            "name": name_model(self.folder),
            "class": type(self._model).__name__,
            "weights_hash": self.weights_hash,
            "dtype": str(self._model.dtype).removeprefix("torch."),
        }

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Score each image with the caption at the same place.

        Args:
            images: n RGB images of any size.
            captions: n texts; see `long_captions` for those beyond the text tower's limit.

        Returns:
            Scores, float32 (n,) in [-1, 1], and whether a part of the caption was not read, bool (n,).

        Raises:
            ValueError: If there are not as many images as captions.
        """
        if len(images) != len(captions):
            raise ValueError(f"expected one caption per image, got {len(images)} images and {len(captions)} captions")
        if not captions:
            return np.zeros(0, np.float32), np.zeros(0, bool)
        decoded = (DecodedImage(image, (0, 0, *image.size), image.size) for image in images)
        embedded = self.embed_images([self.preparation(image) for image in decoded])
        texts, truncated = self.embed_captions(captions)
        return cosines(embedded.cpu().numpy(), texts.cpu().numpy()), truncated

    def embed_images(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        """Unit vectors, float32 (n, dim), of n images that went through `preparation`."""
        import torch

        at_once = _IMAGES_AT_ONCE.get(self.device, _AT_ONCE)
        found = []
        for start in range(0, len(prepared), at_once):
            part = prepared[start : start + at_once]
            arrays = {name: np.concatenate([one[name] for one in part]) for name in part[0]}
            found.append(self._embed(self._model.get_image_features, arrays))
        return torch.cat(found)

    def embed_captions(self, captions: Sequence[str]) -> tuple[torch.Tensor, np.ndarray]:
        """Unit vectors, float32 (n, dim), of n texts, and whether a part of each was not read, bool (n,)."""
        import torch

        kept = 1 if self._long_captions == "truncate" else _MOST_CHUNKS
        pieces = self._pieces(captions)
        vectors = self._embed_pieces([piece for each in pieces for piece in each[:kept]])
        if kept > 1:
            counts = [min(len(each), kept) for each in pieces]
            owner = torch.from_numpy(np.repeat(np.arange(len(pieces)), counts)).to(vectors.device)
            sums = vectors.new_zeros((len(captions), vectors.shape[1])).index_add(0, owner, vectors)
            vectors = torch.nn.functional.normalize(sums, dim=-1)
        return vectors, np.array([len(each) > kept for each in pieces])

    def _pieces(self, captions: Sequence[str]) -> list[list[list[int]]]:
        """Token ids of each caption, cut into pieces of the limit with their special tokens.

        Cut here, because not every tokenizer gives the pieces behind the first: SigLIP's own does not.
        """
        before, behind = self._special_tokens
        size = self._text_limit - len(before) - len(behind)
        texts = self._tokenizer(list(captions), add_special_tokens=False, verbose=False)["input_ids"]
        return [
            [[*before, *ids[start : start + size], *behind] for start in range(0, max(len(ids), 1), size)]
            for ids in texts
        ]

    def _embed_pieces(self, pieces: Sequence[list[int]]) -> torch.Tensor:
        """Unit vectors of token ids, short ones together, so that little of the work goes into padding."""
        import torch

        at_once = _TEXTS_AT_ONCE.get(self.device, _AT_ONCE)
        padding = {"padding": "max_length", "max_length": self._text_limit} if self._reads_padding else {}
        order = sorted(range(len(pieces)), key=lambda place: len(pieces[place]))
        found = []
        for start in range(0, len(order), at_once):
            part = [pieces[place] for place in order[start : start + at_once]]
            batch = self._tokenizer.pad({"input_ids": part}, return_tensors="np", **padding)
            arrays = {name: array for name, array in batch.items() if name in self._text_inputs}
            found.append(self._embed(self._model.get_text_features, arrays))
        vectors = torch.cat(found)
        return vectors[torch.from_numpy(np.argsort(order)).to(vectors.device)]

    def _embed(self, tower: Callable[..., Any], arrays: Mapping[str, np.ndarray]) -> torch.Tensor:
        """Unit vectors (n, dim) in float32, on the model's device."""
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


def cosines(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Cosine of each pair of unit vectors, (n, dim) both: float32 (n,), -1 to 1, NaN where a vector has one."""
    return np.clip(np.einsum("nd,nd->n", images, texts), -1, 1)


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids a tokenizer puts before and behind a text, found out on one: not every kind of them can be asked."""
    ids, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    begin = next(place for place in range(len(whole) + 1) if whole[place : place + len(ids)] == ids)
    return whole[:begin], whole[begin + len(ids) :]


def default_device() -> str:
    """The best device torch can use here: cuda, mps or cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _keep_freed_memory() -> None:
    """Have glibc keep what a model frees, rather than give it back after each layer.

    The kernel clears every page that it hands out again: a ViT-B/32 on two cores spent a tenth of its time so, or more.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(_MALLOC_MMAP_THRESHOLD, 1 << 30)
    mallopt(_MALLOC_TRIM_THRESHOLD, (1 << 31) - 1)


def _part(folder: Path, what: str, load: Callable[..., Any], **settings: Any) -> Any:
    try:
        return load(folder, local_files_only=True, **settings)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder} holds no {what} that can be loaded: copy its files there too ({reason})") from error
