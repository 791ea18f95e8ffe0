"""Official checkpoints made for tests, and what the official code does with them, written out slowly.

`generate` follows the description of the recordings (tests/parity): one prompt, the alignment vector at position 1
made once from the prompt, everything computed anew at every step. tests/modeling/test_conversion.py first holds it
against the recordings, so that it may stand in for the official code on checkpoints of other sizes and kinds.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from aligngpt.modeling.conversion.official_config import LANGUAGE_MODELS
from aligngpt.modeling.conversion.weight_files import list_weight_files, open_weights
from aligngpt.modeling.hub import read_vision_config
from aligngpt.modeling.processing import pad_to_square

IMAGE = -200
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
_TEXT = Path(__file__).parents[1] / "CONTRIBUTING.md"


def save_sentencepiece(folder: Path, vocabulary: int) -> None:
    """A LLaMA-style tokenizer: BPE with byte fallback, digits on their own, no token for padding."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT.read_text().splitlines() * 4 + [VICUNA] * 20),
        model_writer=model,
        vocab_size=vocabulary,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | names))


def save_tower(folder: Path, kind: str = "clip", image_size: int = 56) -> Path:
    """A whole CLIP or SigLIP of 14-pixel patches, in the old form with one pickle."""
    torch.manual_seed(1)
    vision: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3}
    vision |= {"num_attention_heads": 2, "image_size": image_size, "patch_size": 14}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 64, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    side = {"height": image_size, "width": image_size}
    config: Any = {"clip": CLIPConfig, "siglip": SiglipConfig}[kind](vision_config=vision, text_config=text)
    model: Any = {"clip": CLIPModel, "siglip": SiglipModel}[kind](config)
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    # save_pretrained writes the names that every release reads; the pickle is made of them.
    model.save_pretrained(folder)
    state = _read_safetensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    if kind == "clip":
        CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=side).save_pretrained(folder)
    else:
        SiglipImageProcessorPil(size=side).save_pretrained(folder)
    return folder


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def save_checkpoint(
    folder: Path, tower: Path, kind: str = "aligngpt", levels: int = 8, vocabulary: int = 520, **sizes: Any
) -> Path:
    """A complete official checkpoint of random weights, large enough that every part matters in the logits."""
    folder.mkdir(parents=True)
    save_sentencepiece(folder, vocabulary)
    torch.manual_seed(3)
    language_model = LANGUAGE_MODELS[kind]
    config = language_model_config(language_model, vocabulary, **sizes)
    llm = AutoModelForCausalLM.from_config(config)
    state = {name: value * (4 if value.dim() > 1 else 1) for name, value in llm.state_dict().items()}
    if config.tie_word_embeddings:
        state.pop("lm_head.weight")
    vision = read_vision_config(tower)
    patches = (vision.image_size // vision.patch_size) ** 2
    state |= stage1_tensors(config.hidden_size, vision.hidden_size, levels)
    state |= _layer("gated_weight_layer.mlp.0", 256, patches, 0.2)
    state |= _layer("gated_weight_layer.mlp.2", levels - 1, 256, 0.3)
    for path in list_weight_files(tower):
        with open_weights(path) as tensors:
            copied = [name for name in tensors if name.startswith("vision_model.")]
            state |= {f"vision_tower.vision_tower.{name}": tensors[name] for name in copied}
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # derived data, of no use
    torch.save(state, folder / "pytorch_model.bin")
    fields = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "rope_parameters")}
    fields |= {"model_type": kind, "mm_vision_tower": "./playground/model/tower", "mm_projector_type": "mlp2x_gelu"}
    fields |= {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "image_aspect_ratio": "pad"}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def stage1_tensors(hidden: int, vision_hidden: int, levels: int) -> dict[str, Tensor]:
    """The five tensors of an official stage-1 file."""
    return {
        **_layer("mm_projector.0", hidden, vision_hidden, 0.3),
        **_layer("mm_projector.2", hidden, hidden, 0.5),
        "align_indicators.indicator_embs": torch.randn(levels, hidden),
    }


def _layer(name: str, rows: int, columns: int, scale: float) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(rows, columns) * scale, f"{name}.bias": torch.randn(rows) * 0.1}


def language_model_config(kind: str, vocabulary: int, **sizes: Any) -> Any:
    """A tiny configuration of one of the family's language models."""
    usual: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    usual |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512}
    if kind == "gemma":
        usual["head_dim"] = 8
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return AutoConfig.for_model(kind, **{**usual, **sizes}, **ids, vocab_size=vocabulary)


# ------------------------------------------------------------------------------------------ what the official code does


class Reference:
    """The official model in plain loops."""

    def __init__(self, folder: Path, tower: Path) -> None:
        fields = json.loads((folder / "config.json").read_text())
        kind = LANGUAGE_MODELS[fields.pop("model_type")]
        own = {key: value for key, value in fields.items() if not key.startswith(("mm_", "tokenizer_", "architect"))}
        self.state = torch.load(folder / "pytorch_model.bin", weights_only=True)
        self.llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **own)).eval()
        names = self.llm.state_dict().keys()
        self.llm.load_state_dict({key: self.state[key] for key in names if key in self.state}, strict=False)
        self.llm.tie_weights()
        vision = read_vision_config(tower)
        self.tower: Any = AutoModel.from_pretrained(tower, config=vision).eval()
        self.has_class_token = "siglip" not in vision.model_type
        self.words = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))

    def tokenize(self, prompt: str) -> list[int]:
        """BOS, then the text between images, each piece on its own."""
        ids = [1]
        for place, piece in enumerate(prompt.split("<image>")):
            ids += ([IMAGE] if place else []) + self.words.encode(piece)
        return ids

    def prompt_embeddings(self, ids: list[int], pixels: Tensor) -> Tensor:
        """[BOS][align][text][image][text] as embeddings, (1, positions, hidden)."""
        state, embed = self.state, self.embed
        features = self.tower(pixels[None], output_hidden_states=True).hidden_states[-2][0]
        features = features[1:] if self.has_class_token else features
        hidden = F.gelu(F.linear(features, state["mm_projector.0.weight"], state["mm_projector.0.bias"]))
        image = F.linear(hidden, state["mm_projector.2.weight"], state["mm_projector.2.bias"])
        text = [token for token in ids[1:] if token != IMAGE]
        dots = image @ (embed(torch.tensor(text)).sum(0) / (len(text) + 1e-8))
        inner = F.gelu(F.linear(dots, state["gated_weight_layer.mlp.0.weight"], state["gated_weight_layer.mlp.0.bias"]))
        alpha = F.linear(
            inner, state["gated_weight_layer.mlp.2.weight"], state["gated_weight_layer.mlp.2.bias"]
        ).softmax(-1)
        table = state["align_indicators.indicator_embs"]
        parts = [embed(torch.tensor(ids[:1])), (alpha @ table[:-1] + table[-1])[None]]
        for token in ids[1:]:
            parts.append(image if token == IMAGE else embed(torch.tensor([token])))
        return torch.cat(parts)[None]

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the table as they are; Gemma's scale comes later, and on everything."""
        return F.embedding(ids, self.state["model.embed_tokens.weight"])

    def run(self, embeds: Tensor) -> Tensor:
        """Logits of the last position. What newer releases of transformers do in the embedding is done here."""
        scale = getattr(self.llm.get_input_embeddings(), "embed_scale", 1.0)
        return self.llm(inputs_embeds=embeds * scale, use_cache=False).logits[0, -1]

    @torch.no_grad()
    def next_logits(self, prompt: str, pixels: Tensor) -> Tensor:
        """Logits of the token behind the prompt."""
        return self.run(self.prompt_embeddings(self.tokenize(prompt), pixels))

    @torch.no_grad()
    def generate(self, prompt: str, pixels: Tensor, new_tokens: int) -> list[int]:
        """Greedy tokens, everything anew at each step."""
        embeds, written = self.prompt_embeddings(self.tokenize(prompt), pixels), []
        for _ in range(new_tokens):
            written.append(int(self.run(embeds).argmax()))
            if written[-1] == 2:
                break
            embeds = torch.cat([embeds, self.embed(torch.tensor([[written[-1]]]))], dim=1)
        return written


def pixels_of(image: Image.Image, tower: Path) -> Tensor:
    """An image as the official code hands it to the tower, image_aspect_ratio `pad`."""
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(tower, backend="pil")
    square = pad_to_square(image.convert("RGB"), processor.image_mean)
    return processor([square], return_tensors="pt")["pixel_values"][0]
