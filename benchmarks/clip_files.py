"""Inputs of the scoring benchmarks: CLIP folders with random weights, photograph-like JPEG files, captions, pairs.

Nothing is downloaded. Images are crops of noise of all scales, whose files are about as large as those of photographs;
captions have 8 to 16 words, each a token of a CLIP tokenizer that is trained here.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_WORDS = (
    "a the of on in with and near under behind two three small large red blue green black white old young man woman "
    "child dog cat horse bird car bus train boat street field beach table chair window kitchen bicycle plate pizza "
    "kite ball tree river bridge tower sitting standing riding holding eating looking walking playing photo view"
)
WORDS = _WORDS.split()

# Shapes of published models: layers, widths, heads, pixels.
SIZES: dict[str, dict[str, Any]] = {
    "ViT-B/32": {"vision": (12, 768, 12, 224, 32), "text": (12, 512, 8), "dim": 512},
    "ViT-L/14-336": {"vision": (24, 1024, 16, 336, 14), "text": (12, 768, 12), "dim": 768},
    "tiny": {"vision": (2, 64, 1, 32, 16), "text": (2, 64, 1), "dim": 16},
}
CONTEXT = 77
_VOCABULARY = 49408
_MARGIN = 160
_MEAN = [0.48145466, 0.4578275, 0.40821073]
_STD = [0.26862954, 0.26130258, 0.27577711]


def merges() -> list[tuple[str, str]]:
    """Return byte-pair merges, learned until each of `WORDS` is one token; their order differs between calls."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=2000, min_frequency=1, show_progress=False, end_of_word_suffix="</w>")
    learner.train_from_iterator(WORDS, trainer)
    return [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]


def save_clip(folder: Path, size: str) -> Path:
    """Write a checkpoint folder with model, tokenizer and image processor, as `transformers` reads it.

    Args:
        folder: The folder.
        size: One of `SIZES`.
    """
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    (layers, width, heads, pixels, patch), text, dim = SIZES[size]["vision"], SIZES[size]["text"], SIZES[size]["dim"]
    letters = list(_byte_letters().values())
    pairs = merges()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, pairs)]
    vocabulary = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    common = {"hidden_act": "gelu", "projection_dim": dim}
    end = vocabulary["<|endoftext|>"]
    text_config = _tower(*text) | common | {"vocab_size": _VOCABULARY if size != "tiny" else len(vocabulary)}
    text_config |= {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    text_config |= {"max_position_embeddings": CONTEXT}
    vision_config = _tower(layers, width, heads) | common | {"image_size": pixels, "patch_size": patch}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=dim)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocabulary, pairs, model_max_length=CONTEXT).save_pretrained(folder)
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": pixels}, "resample": 3}
    processor |= {"crop_size": {"height": pixels, "width": pixels}, "image_mean": _MEAN, "image_std": _STD}
    processor |= {f"do_{step}": True for step in ("resize", "center_crop", "rescale", "normalize", "convert_rgb")}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def _tower(layers: int, width: int, heads: int) -> dict[str, int]:
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    return sizes | {"intermediate_size": 4 * width}


def _byte_letters() -> dict[int, str]:
    """Return the printable letter of each byte in byte-level vocabularies, in the order of CLIP."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


def save_merges(clip: Path, path: Path) -> Path:
    """Write the merges of a checkpoint folder as open_clip's tokenizer reads them."""
    pairs = json.loads((clip / "tokenizer.json").read_text())["model"]["merges"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def captions(count: int, seed: int = 0) -> list[str]:
    """Return captions of 8 to 16 words, all different in practice."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(8, 17, count)
    return [" ".join(generator.choice(WORDS, length)) for length in lengths]


def save_images(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> list[str]:
    """Write JPEG files of `size`, (width, height), at quality 90; return their names."""
    folder.mkdir(parents=True)
    width, height = size
    generator = np.random.default_rng(seed)
    canvas = _field(width + _MARGIN, height + _MARGIN, generator)
    names = []
    for number in range(count):
        left, top = generator.integers(0, _MARGIN + 1, 2)
        crop = canvas[top : top + height, left : left + width, generator.permutation(3)]
        image, content = Image.fromarray(crop), io.BytesIO()
        image.save(content, "JPEG", quality=90)
        names.append(f"{number:06d}.jpg")
        (folder / names[-1]).write_bytes(content.getvalue())
    return names


def _field(width: int, height: int, generator: np.random.Generator) -> np.ndarray:
    """Return noise of all scales, strongest at coarse ones as in photographs: uint8 (height, width, 3)."""
    field = np.full((height, width, 3), 128, np.float32)
    cell = 2.0
    while cell < max(width, height):
        shape = (int(height / cell) + 2, int(width / cell) + 2, 3)
        noise = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
        scaled = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        field += (scaled - 128) * (0.11 * (cell / 2) ** 0.35)
        cell *= 2
    return field.clip(0, 255).astype(np.uint8)


def save_pairs(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    """Write (image, caption) pairs as LLaVA JSON."""
    records = [
        {
            "id": f"{number:09d}",
            "image": image,
            "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": caption}],
        }
        for number, (image, caption) in enumerate(pairs)
    ]
    path.write_text(json.dumps(records))
    return path
