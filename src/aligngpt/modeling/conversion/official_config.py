"""What the official AlignGPT code writes: its names and settings, in both directions.

Facts about the repositories AlignGPT and AlignGPT_family; see docs/differences.md for what is done otherwise here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.models.auto import CONFIG_MAPPING

from aligngpt.utils.io import read_json

STAGE1_FILE = "mm_projector_align.bin"

# The language model inside each of the family's model types, and the template that its models are asked in.
LANGUAGE_MODELS = {
    "aligngpt": "llama",
    "aligngpt_phi": "phi",
    "aligngpt_gemma": "gemma",
    "aligngpt_mistral": "mistral",
    "aligngpt_qwen2": "qwen2",
}
TEMPLATES = {"llama": "vicuna_v1", "phi": "phi", "gemma": "gemma", "mistral": "mistral", "qwen2": "qwen"}

# Fields of the official config.json that do not describe the language model.
_OWN_FIELDS = re.compile(
    r"mm_.*|tune_mm_.*|freeze_mm_.*|use_mm_proj|image_aspect_ratio|tokenizer_.*|n_indicators|use_s2|s2_scales|"
    r"_name_or_path|architectures|model_type|transformers_version|torch_dtype|dtype|auto_map"
)

# Official name, with its dots, and ours; the first that matches the beginning of a name counts.
_NAMES = (
    ("mm_projector.0.", "multi_modal_projector.linear_1."),
    ("mm_projector.2.", "multi_modal_projector.linear_2."),
    ("align_indicators.indicator_embs", "alignment_embeddings.weight"),
    ("gated_weight_layer.mlp.0.", "alignment_gate.linear_1."),
    ("gated_weight_layer.mlp.2.", "alignment_gate.linear_2."),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
_DERIVED = re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$|position_ids$")
TOWER_COPY = "vision_tower."


def our_name(official: str) -> str | None:
    """Our name of an official tensor; `None` for what is not loaded: derived data and the copy of the vision tower.

    Raises:
        KeyError: The name is not one of the official code's.
    """
    if official.startswith(TOWER_COPY) or _DERIVED.search(official):
        return None
    for theirs, ours in _NAMES:
        if official.startswith(theirs):
            return ours + official[len(theirs) :]
    raise KeyError(official)


def official_name(ours: str) -> str:
    """The official name of one of our tensors; the tower's stand as they are saved beside the model."""
    for theirs, our in _NAMES:
        if ours.startswith(our):
            return theirs + ours[len(our) :]
    return f"{TOWER_COPY}vision_tower.vision_model.{ours.removeprefix('vision_tower.').removeprefix('vision_model.')}"


@dataclass(frozen=True)
class OfficialConfig:
    """What an official config.json says, checked.

    Attributes:
        language_model: The type of the language model, such as `llama`.
        text_config: Its configuration.
        vision_tower: Where the vision tower was when the model was trained; empty if the file does not say it.
        vision_feature_layer: The hidden state of the tower that is used.
        image_aspect_ratio: `pad` or `square`.
        model_max_length: Longest sequence in tokens, or `None`.
        vocabulary: Rows of the language model's embedding.
    """

    language_model: str
    text_config: Any
    vision_tower: str
    vision_feature_layer: int
    image_aspect_ratio: str
    model_max_length: int | None
    vocabulary: int

    @classmethod
    def read(cls, folder: Path) -> OfficialConfig:
        """Read the config.json of an official checkpoint.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is of another kind of model, or of a variant that this package has not.
        """
        path = folder / "config.json"
        fields = read_json(path)
        if not isinstance(fields, dict):
            raise ValueError(f"{path} holds no settings: expected the config.json of an official AlignGPT")
        kind = fields.get("model_type")
        if kind not in LANGUAGE_MODELS:
            raise ValueError(
                f"{path} is of a {kind} model: expected an official AlignGPT ({', '.join(LANGUAGE_MODELS)}); a plain "
                "language model is given as --base-llm, beside the file of stage 1"
            )
        if "text_config" in fields:
            raise ValueError(f"{path} is of a model folder of this package already: nothing is to be converted")
        _check_variant(path, fields)
        language_model = LANGUAGE_MODELS[kind]
        own = {name: value for name, value in fields.items() if not _OWN_FIELDS.fullmatch(name)}
        try:
            text_config = CONFIG_MAPPING[language_model](**own)
        except Exception as error:  # whatever transformers says of impossible settings
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} describes no possible {language_model} model: {reason}") from error
        return cls(
            language_model,
            text_config,
            fields.get("mm_vision_tower") or "",
            fields.get("mm_vision_select_layer", -2),
            "pad" if fields.get("image_aspect_ratio") == "pad" else "square",
            fields.get("tokenizer_model_max_length"),
            text_config.vocab_size,
        )


def _check_variant(path: Path, fields: dict[str, Any]) -> None:
    """Refuse what would load and then compute something else."""
    only = {
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_s2": False,
    }
    for name, supported in only.items():
        if fields.get(name, supported) != supported:
            raise ValueError(f"{path}: {name} is {fields[name]!r}; only {supported!r} is supported here")


def old_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings as the older transformers under the official code writes them, each on its own."""
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "dynamic"):
        raise ValueError(f"the official code cannot hold rotary embeddings of the type {kind}")
    old = {"rope_theta": rope.get("rope_theta", 10000.0), "rope_scaling": None}
    if kind != "default":
        old["rope_scaling"] = {"type": kind, "factor": rope["factor"]}
    return old | {key: rope[key] for key in ("partial_rotary_factor",) if key in rope}


def official_fields(
    config: Any, *, vision_tower: str, model_max_length: int, image_aspect_ratio: str
) -> dict[str, Any]:
    """The official config.json of one of our models.

    Args:
        config: `AlignGPTConfig`, the vocabulary already without the placeholders.
        vision_tower: What the official code is to load as its tower.
        model_max_length: Of the tokenizer.
        image_aspect_ratio: `pad` or `square`.

    Raises:
        ValueError: The official code has no model type for the language model.
    """
    kinds = {language_model: kind for kind, language_model in LANGUAGE_MODELS.items()}
    text = config.text_config
    if text.model_type not in kinds:
        raise ValueError(f"the official code has no variant for a {text.model_type} language model: {', '.join(kinds)}")
    classes = {"llama": "", "phi": "Phi", "gemma": "Gemma", "mistral": "Mistral", "qwen2": "Qwen2"}
    fields = {name: value for name, value in text.to_dict().items() if not _OWN_FIELDS.fullmatch(name)}
    rope = old_rope(fields.pop("rope_parameters", None) or {})
    return {
        **fields,
        **rope,
        "model_type": kinds[text.model_type],
        "architectures": [f"AlignGPT{classes[text.model_type]}ForCausalLM"],
        "torch_dtype": str(config.dtype).removeprefix("torch."),
        "n_indicators": config.num_alignment_levels,
        "mm_vision_tower": vision_tower,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "image_aspect_ratio": image_aspect_ratio,
        "tokenizer_model_max_length": model_max_length,
        "tokenizer_padding_side": "right",
    }
