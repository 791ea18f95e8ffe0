"""Configuration of an AlignGPT model: two backbones and the alignment between them."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import CONFIG_MAPPING

from aligngpt.modeling.alignment import parse_alignment

GATE_TEXTS = ("instruction", "all")


class AlignGPTConfig(PreTrainedConfig):
    """The configuration that builds the model, saved as `config.json`.

    Args:
        text_config: Configuration, or its dictionary, of any causal language model.
        vision_config: Configuration, or its dictionary, of a vision tower of the CLIP or SigLIP family.
        image_token_id: Id of the `<image>` placeholder, repeated once for each image token.
        align_token_id: Id of the `<align>` placeholder, replaced by the alignment embedding.
        num_alignment_levels: N, the rows of the alignment table, at least 2.
        gate_hidden_size: Width of the gate's hidden layer (256 in the official code).
        alignment: Default alignment setting, see `parse_alignment`.
        gate_text: Text that the gate reads: `"instruction"`, the user's text in the turn of the first image, so that
            training, inference and every turn of a conversation see the same; or `"all"`, every text token but the
            first, as in the official code.
        vision_feature_layer: Index of the tower's hidden state that is used; -2 is the one before the last.
        multimodal_projector_bias: Whether the projector's two layers have biases.

    Raises:
        ValueError: A field is outside its range.
    """

    model_type = "aligngpt"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "vision_config": AutoConfig}

    text_config: Any = None
    vision_config: Any = None
    image_token_id: int = 0
    align_token_id: int = 1
    num_alignment_levels: int = 8
    gate_hidden_size: int = 256
    alignment: Any = "adaptive"
    gate_text: str = "instruction"
    vision_feature_layer: int = -2
    multimodal_projector_bias: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if "mm_vision_tower" in kwargs:
            raise ValueError("this is a checkpoint of the official code; convert it with `aligngpt convert`")
        self.text_config = _build_config(self.text_config, default="llama")
        self.vision_config = _build_config(self.vision_config, default="clip_vision_model")
        if self.num_alignment_levels < 2:
            raise ValueError(f"num_alignment_levels is {self.num_alignment_levels}; use at least 2")
        if self.gate_text not in GATE_TEXTS:
            raise ValueError(f"gate_text is {self.gate_text!r}; choose one of {', '.join(GATE_TEXTS)}")
        parse_alignment(self.alignment, self.num_alignment_levels)
        self.tie_word_embeddings = getattr(self.text_config, "tie_word_embeddings", False)
        super().__post_init__(**kwargs)

    @property
    def image_seq_length(self) -> int:
        """Tokens of one image: the tower's patches without the class token (576 for ViT-L/14 at 336 pixels)."""
        side = self.vision_config.image_size // self.vision_config.patch_size
        return side * side


def _build_config(value: Any, default: str) -> PreTrainedConfig:
    if value is None:
        return CONFIG_MAPPING[default]()
    if isinstance(value, dict):
        return CONFIG_MAPPING[value.get("model_type", default)](**value)
    return value
