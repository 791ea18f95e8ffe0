"""Fixtures: valid and invalid images, and scorers small enough for tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.image_files import make_image, png_header

PHOTOS = Path(__file__).resolve().parents[1].parent / "shared" / "photos"


@pytest.fixture(scope="session")
def photos() -> Path:
    """Return the folder of photographs next to the repository, or skip the test."""
    if not PHOTOS.is_dir():
        pytest.skip("no ../shared/photos next to the repository")
    return PHOTOS


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of six valid images, 0.png to 5.png, and one bad file of each kind."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(6):
        make_image(seed).save(folder / f"{seed}.png")
    make_image(6, (200, 200)).save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_text("this is not an image")
    (folder / "empty.jpg").touch()
    (folder / "bomb.png").write_bytes(png_header(30_000, 30_000))
    (folder / "folder.png").mkdir()
    return folder


def _save_tokenizer(folder: Path) -> None:
    """Save a tokenizer with one token per byte; 0 pads, 1 ends every text, the last is the unknown token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", *alphabet, "<unk>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "padding_side": "right"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


TEXT_LIMIT = 24
_TEXT = {
    "vocab_size": 259,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": TEXT_LIMIT,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of two layers with random weights."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    folder = tmp_path_factory.mktemp("scorers") / "tiny-clip"
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=16)).save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    _save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP of two layers with random weights."""
    import torch
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    folder = tmp_path_factory.mktemp("scorers") / "tiny-siglip"
    torch.manual_seed(0)
    config = SiglipConfig(text_config=_TEXT | {"projection_size": 16}, vision_config=_VISION)
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    _save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def spiece_folder(siglip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same SigLIP with a SentencePiece tokenizer like SigLIP's, trained here, for texts of 16 tokens."""
    import sentencepiece
    from transformers import SiglipTokenizer

    folder = tmp_path_factory.mktemp("scorers") / "tiny-spiece"
    shutil.copytree(siglip_folder, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    words = iter(["the quick brown fox jumps over a lazy dog", "a red bird and a dog in the snow"] * 20)
    settings: dict[str, Any] = {"vocab_size": 35, "minloglevel": 2, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    with (folder / "spiece.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=words, model_writer=model, **settings)
    SiglipTokenizer(str(folder / "spiece.model"), model_max_length=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def altclip_folder(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AltCLIP of two layers with random weights; its 24 positions begin at 2, so it reads 22 tokens."""
    import torch
    from transformers import AltCLIPConfig, AltCLIPModel

    folder = tmp_path_factory.mktemp("scorers") / "tiny-altclip"
    shutil.copytree(clip_folder, folder, ignore=shutil.ignore_patterns("model*"))
    torch.manual_seed(0)
    text = _TEXT | {"project_dim": 16, "pad_token_id": 1, "bos_token_id": 0}
    AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16)).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": TEXT_LIMIT - 2}))
    return folder


@pytest.fixture(scope="session")
def siglip2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP 2 of two layers with random weights that sees images of any shape, as up to 9 patches."""
    import torch
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

    folder = tmp_path_factory.mktemp("scorers") / "tiny-siglip2"
    torch.manual_seed(0)
    vision = {key: value for key, value in _VISION.items() if key != "image_size"} | {"num_patches": 9}
    config = Siglip2Config(text_config=_TEXT | {"projection_size": 16}, vision_config=vision)
    Siglip2Model(config).save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=16, max_num_patches=9).save_pretrained(folder)
    _save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def align_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ALIGN with a convolutional vision tower and random weights; its text tower takes 80 tokens."""
    import torch
    from transformers import AlignConfig, AlignModel, EfficientNetImageProcessorPil

    folder = tmp_path_factory.mktemp("scorers") / "tiny-align"
    torch.manual_seed(0)
    vision = {
        "image_size": 32, "width_coefficient": 0.5, "depth_coefficient": 0.5, "kernel_sizes": [3, 3],
        "in_channels": [32, 16], "out_channels": [16, 32], "strides": [1, 2], "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2], "hidden_dim": 16,
    }  # fmt: skip
    text = {key: value for key, value in _TEXT.items() if not key.startswith(("bos", "eos"))}
    text |= {"max_position_embeddings": 80}
    AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    settings = {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False, "include_top": False}
    EfficientNetImageProcessorPil(size={"height": 32, "width": 32}, **settings).save_pretrained(folder)
    _save_tokenizer(folder)
    return folder
