"""Pictures that are good and bad in every way, and scorers small enough to be made in a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.picture_files import picture, png_header

PHOTOS = Path(__file__).resolve().parents[2].parent / "shared" / "photos"


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of real photographs beside the repository, where there is one."""
    if not PHOTOS.is_dir():
        pytest.skip("no ../shared/photos beside the repository")
    return PHOTOS


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six good pictures, 0.png to 5.png, and one bad file of each kind."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(6):
        picture(seed).save(folder / f"{seed}.png")
    picture(6, (200, 200)).save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_text("this is not a picture")
    (folder / "empty.jpg").touch()
    (folder / "bomb.png").write_bytes(png_header(30_000, 30_000))
    (folder / "folder.png").mkdir()
    return folder


def _save_tokenizer(folder: Path) -> None:
    """One token per byte; 0 pads, every text ends in 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)


TEXT_LIMIT = 24
_TEXT = {
    "vocab_size": 258,
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
