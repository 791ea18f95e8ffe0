"""Baselines of the scoring benchmark: other implementations that score the same pairs with the same weights.

Each loads its model when it is constructed. A call takes pairs of a JPEG file and a caption, and returns their cosines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.clip_files import CONTEXT, save_merges

Pairs = Sequence[tuple[Path, str]]


class TransformersLoop:
    """`CLIPModel` and `CLIPProcessor` on lists of images and texts, batch by batch, as their documentation shows."""

    def __init__(self, folder: Path, batch_size: int, backend: str | None = None) -> None:
        from transformers import CLIPModel, CLIPProcessor

        settings = {} if backend is None else {"backend": backend}
        self._model = CLIPModel.from_pretrained(folder).eval()
        self._processor = CLIPProcessor.from_pretrained(folder, **settings)
        self._batch_size = batch_size

    def __call__(self, pairs: Pairs) -> np.ndarray:
        scores = []
        for batch in batches(pairs, self._batch_size):
            images, texts = [Image.open(path) for path, _ in batch], [caption for _, caption in batch]
            inputs = self._processor(text=texts, images=images, return_tensors="pt", padding=True, truncation=True)
            with torch.no_grad():
                outputs = self._model(**inputs)
            scores.append((outputs.image_embeds * outputs.text_embeds).sum(dim=-1))
        return torch.cat(scores).numpy()


class OpenClip:
    """open_clip's model, transform and tokenizer as its documentation shows them, batch by batch."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        """Load a folder written by `save_open_clip`."""
        import open_clip  # type: ignore[import-not-found]

        self.model, _, self._preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model.eval()
        self.tokenizer = open_clip.SimpleTokenizer(str(folder / "merges.txt.gz"))
        self._batch_size = batch_size

    def __call__(self, pairs: Pairs) -> np.ndarray:
        scores = []
        for batch in batches(pairs, self._batch_size):
            images = torch.stack([self._preprocess(Image.open(path)) for path, _ in batch])
            scores.append(self._cosines(images, self.tokenizer([caption for _, caption in batch])))
        return torch.cat(scores).numpy()

    def _cosines(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            image_features, text_features = self.model.encode_image(images), self.model.encode_text(texts)
            image_features /= image_features.norm(dim=-1, keepdim=True)
            text_features /= text_features.norm(dim=-1, keepdim=True)
        return (image_features * text_features).sum(dim=-1)


class OpenClipLoader(OpenClip):
    """The same with images and texts prepared in the processes of a `DataLoader`, as its training code does."""

    def __init__(self, folder: Path, batch_size: int, workers: int) -> None:
        super().__init__(folder, batch_size)
        self._workers = workers

    def __call__(self, pairs: Pairs) -> np.ndarray:
        prepared = _PreparedPairs(pairs, self._preprocess, self.tokenizer)
        loader = torch.utils.data.DataLoader(prepared, batch_size=self._batch_size, num_workers=self._workers)
        return torch.cat([self._cosines(images, texts) for images, texts in loader]).numpy()


class _PreparedPairs(torch.utils.data.Dataset):
    def __init__(self, pairs: Pairs, preprocess: Any, tokenizer: Any) -> None:
        self._pairs, self._preprocess, self._tokenizer = pairs, preprocess, tokenizer

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        path, caption = self._pairs[index]
        return self._preprocess(Image.open(path)), self._tokenizer([caption])[0]


class ModelAlone:
    """The model of `transformers` on prepared tensors: each image and each caption once, nothing else."""

    def __init__(self, folder: Path, pairs: Pairs, image_batch_size: int, text_batch_size: int) -> None:
        from transformers import CLIPModel, CLIPTokenizer
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        self._model = CLIPModel.from_pretrained(folder).eval()
        processor, tokenizer = CLIPImageProcessorPil.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
        paths, texts = list(dict.fromkeys(path for path, _ in pairs)), [caption for _, caption in pairs]
        self._images = [
            processor([Image.open(path) for path in part], return_tensors="pt")["pixel_values"]
            for part in batches(paths, image_batch_size)
        ]
        self._texts = [tokenizer(part, padding=True, return_tensors="pt") for part in batches(texts, text_batch_size)]

    def __call__(self, pairs: Pairs) -> None:
        with torch.inference_mode():
            for pixels in self._images:
                self._model.get_image_features(pixel_values=pixels)
            for tokens in self._texts:
                self._model.get_text_features(**tokens)


def batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Yield consecutive items, `size` at a time."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


# The same weights for open_clip --------------------------------------------------------------------------------------


def save_open_clip(clip: Path, folder: Path) -> Path:
    """Write a folder for open_clip's `local-dir:` with the weights of a `CLIPModel` folder."""
    from safetensors.torch import save_file
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(clip)
    vision, text = model.config.vision_config, model.config.text_config
    processor = json.loads((clip / "preprocessor_config.json").read_text())
    sizes = {"layers": vision.num_hidden_layers, "width": vision.hidden_size, "patch_size": vision.patch_size}
    sizes |= {"image_size": vision.image_size, "head_width": vision.hidden_size // vision.num_attention_heads}
    words = {"layers": text.num_hidden_layers, "width": text.hidden_size, "heads": text.num_attention_heads}
    words |= {"context_length": CONTEXT, "vocab_size": text.vocab_size}
    config = {
        "model_cfg": {"embed_dim": model.config.projection_dim, "vision_cfg": sizes, "text_cfg": words},
        "preprocess_cfg": {"mean": processor["image_mean"], "std": processor["image_std"]},
    }
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {name: tensor.contiguous() for name, tensor in open_clip_state(model.state_dict()).items()}
    save_file(state, folder / "open_clip_model.safetensors")
    save_merges(clip, folder / "merges.txt.gz")
    return folder


def open_clip_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of a `CLIPModel` under the names and in the shapes of open_clip."""
    converted = {
        "logit_scale": state["logit_scale"],
        "text_projection": state["text_projection.weight"].T,
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
    }
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm"}
    norms["visual.ln_post"] = "vision_model.post_layernorm"
    for theirs, ours in norms.items():
        converted |= _both(state, theirs, ours)
    for theirs, ours in (("transformer", "text_model"), ("visual.transformer", "vision_model")):
        for layer in range(1 + max(int(name.split(".")[3]) for name in state if name.startswith(f"{ours}.encoder"))):
            converted |= _block(state, f"{theirs}.resblocks.{layer}", f"{ours}.encoder.layers.{layer}")
    return converted


def _block(state: dict[str, torch.Tensor], theirs: str, ours: str) -> dict[str, torch.Tensor]:
    converted = {
        f"{theirs}.attn.in_proj_{kind}": torch.cat([state[f"{ours}.self_attn.{name}_proj.{kind}"] for name in "qkv"])
        for kind in ("weight", "bias")
    }
    names = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    for name, own in (names | {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}).items():
        converted |= _both(state, f"{theirs}.{name}", f"{ours}.{own}")
    return converted


def _both(state: dict[str, torch.Tensor], theirs: str, ours: str) -> dict[str, torch.Tensor]:
    return {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for kind in ("weight", "bias")}


def max_embedding_difference(clip: Path, peer: OpenClip) -> float:
    """Return the largest difference between unit vectors of open_clip and `transformers` for the same input."""
    from transformers import CLIPModel, CLIPTokenizer

    from benchmarks.clip_files import captions

    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    side = model.config.vision_config.image_size
    pixels = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    texts = captions(4, seed=9)
    with torch.no_grad():
        ours = model(pixel_values=pixels, **tokenizer(texts, padding=True, return_tensors="pt"))
        features = peer.model.encode_image(pixels), peer.model.encode_text(peer.tokenizer(texts))
    theirs = [torch.nn.functional.normalize(vectors, dim=-1) for vectors in features]
    differences = [(ours.image_embeds - theirs[0]).abs().max(), (ours.text_embeds - theirs[1]).abs().max()]
    return max(float(difference) for difference in differences)
