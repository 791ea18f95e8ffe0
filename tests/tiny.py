"""Tiny random backbones and tokenizers for tests: two layers, eight-pixel patches, built in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from aligngpt import AlignGPTForConditionalGeneration, AlignGPTProcessor

IMAGE_SIZE = 24
PATCH_SIZE = 8
LANGUAGE_MODELS = ("llama", "qwen3", "mistral", "gemma2", "phi")
VISION_TOWERS = ("clip", "siglip")


def tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token, so any text can be written and none is unknown."""
    specials = ["<pad>", "<unk>", "<s>", "</s>"]
    words = specials + sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [], unk_token="<unk>"))
    inner.add_special_tokens(specials)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def save_language_model(folder: Path, kind: str = "llama", tied: bool = False) -> Path:
    """A two-layer causal language model of the given kind with its tokenizer."""
    torch.manual_seed(0)
    words = tokenizer()
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4 if kind == "phi" else 2, "vocab_size": len(words)}
    if kind in ("qwen3", "gemma2"):
        sizes["head_dim"] = 8
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **sizes, **ids, max_position_embeddings=512, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)  # the usual start is so small that every logit would be about zero
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_vision_tower(folder: Path, kind: str = "clip") -> Path:
    """A three-layer vision tower of 3 x 3 patches with its image processor."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    sizes |= {"num_attention_heads": 2, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    if kind == "clip":
        CLIPVisionModel(CLIPVisionConfig(**sizes)).save_pretrained(folder)
        CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=side).save_pretrained(folder)
    else:
        SiglipVisionModel(SiglipVisionConfig(**sizes)).save_pretrained(folder)
        SiglipImageProcessorPil(size=side).save_pretrained(folder)
    return folder


def build(
    folder: Path, llm: str = "llama", tower: str = "clip", tied: bool = False, **config: Any
) -> tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor]:
    """A tiny AlignGPT and its processor from freshly written backbones."""
    llm_folder = save_language_model(folder / f"{llm}-{tied}", llm, tied)
    tower_folder = save_vision_tower(folder / tower, tower)
    torch.manual_seed(2)
    model, processor = AlignGPTForConditionalGeneration.from_backbones(
        llm_folder, tower_folder, **{"template": "bare", "gate_hidden_size": 12, **config}
    )
    with torch.no_grad():  # large enough that a wrong alignment shows in every logit
        model.alignment_embeddings.weight.mul_(8)
        for layer in (
            model.alignment_gate.linear_1,
            model.alignment_gate.linear_2,
            model.multi_modal_projector.linear_2,
        ):
            layer.weight.mul_(4)
    return model, processor


def make_image(seed: int, size: tuple[int, int] = (30, 20)) -> Image.Image:
    """An image of noise."""
    noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.to(torch.uint8).numpy())
