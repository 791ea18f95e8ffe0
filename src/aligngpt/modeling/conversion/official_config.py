"""Names and settings of the official AlignGPT code, in both directions.

Facts about the repositories AlignGPT and AlignGPT_family; docs/about/differences.md lists what differs here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.models.auto import CONFIG_MAPPING

from aligngpt.utils.io import read_json
from aligngpt.utils.text import one_line

STAGE1_FILE = "mm_projector_align.bin"

# The language model of each model type of the family, and the chat template of its models.
LANGUAGE_MODELS = {
    "aligngpt": "llama",
    "aligngpt_phi": "phi",
    "aligngpt_gemma": "gemma",
    "aligngpt_mistral": "mistral",
    "aligngpt_qwen2": "qwen2",
}
TEMPLATES = {"llama": "vicuna_v1", "phi": "phi", "gemma": "gemma", "mistral": "mistral", "qwen2": "qwen"}
_CLASSES = {"llama": "", "phi": "Phi", "gemma": "Gemma", "mistral": "Mistral", "qwen2": "Qwen2"}

# Fields of the official config.json that do not describe the language model.
_OWN_FIELDS = re.compile(
    r"mm_.*|tune_mm_.*|freeze_mm_.*|use_mm_proj|image_aspect_ratio|tokenizer_.*|n_indicators|use_s2|s2_scales|"
    r"_name_or_path|architectures|model_type|transformers_version|torch_dtype|dtype|auto_map"
)

# Official prefix of a tensor name and ours; the first match counts.
_PREFIXES = (
    ("mm_projector.0.", "multi_modal_projector.linear_1."),
    ("mm_projector.2.", "multi_modal_projector.linear_2."),
    ("align_indicators.indicator_embs", "alignment_embeddings.weight"),
    ("gated_weight_layer.mlp.0.", "alignment_gate.linear_1."),
    ("gated_weight_layer.mlp.2.", "alignment_gate.linear_2."),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
_SUPPORTED = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "use_s2": False,
}
_DERIVED = re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$|position_ids$")
TOWER_COPY = "vision_tower."


def to_our_name(official: str) -> str | None:
    """Return our name of an official tensor; `None` for derived data and the tower's copy, `""` if unknown."""
    if official.startswith(TOWER_COPY) or _DERIVED.search(official):
        return None
    return next((ours + official[len(theirs) :] for theirs, ours in _PREFIXES if official.startswith(theirs)), "")


def to_official_name(ours: str) -> str:
    """Return the official name of one of our tensors; those of the vision tower as in its copy in the checkpoint."""
    for theirs, our in _PREFIXES:
        if ours.startswith(our):
            return theirs + ours[len(our) :]
    return f"{TOWER_COPY}vision_tower.vision_model.{ours.removeprefix('vision_tower.').removeprefix('vision_model.')}"


@dataclass(frozen=True)
class OfficialConfig:
    """The checked content of an official config.json."""

    language_model: str  # type, such as `llama`
    text_config: Any
    vision_tower: str  # path during training; empty if the file does not have it
    vision_feature_layer: int  # the hidden state of the tower that is used
    image_aspect_ratio: str  # `pad` or `square`
    model_max_length: int | None  # tokens
    vocab_size: int  # rows of the language model's embedding

    @classmethod
    def read(cls, folder: Path) -> OfficialConfig:
        """Read the config.json of an official checkpoint.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: It describes another kind of model, or an unsupported variant.
        """
        path = folder / "config.json"
        fields = read_json(path)
        if not isinstance(fields, dict):
            raise ValueError(f"{path} is not a JSON object; expected the config.json of an official AlignGPT")
        kind = fields.get("model_type")
        if kind not in LANGUAGE_MODELS:
            raise ValueError(
                f"{path} describes a {kind} model; expected an official AlignGPT ({', '.join(LANGUAGE_MODELS)}). Pass "
                "a plain language model as --language-model, with the stage-1 file as source"
            )
        if "text_config" in fields:
            raise ValueError(f"{path} belongs to a model folder of this package; there is nothing to convert")
        _check_variant(path, fields)
        language_model = LANGUAGE_MODELS[kind]
        text_fields = {name: value for name, value in fields.items() if not _OWN_FIELDS.fullmatch(name)}
        try:
            text_config = CONFIG_MAPPING[language_model](**text_fields)
        except Exception as error:  # transformers raises many types for invalid settings
            raise ValueError(f"{path} is not a valid {language_model} configuration: {one_line(error)}") from error
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
    """Refuse settings that would load but compute something else."""
    for name, value in _SUPPORTED.items():
        if fields.get(name, value) != value:
            raise ValueError(f"{path}: {name} is {fields[name]!r}; only {value!r} is supported")


def convert_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """Return rotary settings as the older transformers of the official code writes them, as separate fields.

    Raises:
        ValueError: The official code does not support the type.
    """
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "dynamic"):
        raise ValueError(f"the official code does not support rotary embeddings of type {kind}")
    fields = {"rope_theta": rope.get("rope_theta", 10000.0), "rope_scaling": None}
    if kind != "default":
        fields["rope_scaling"] = {"type": kind, "factor": rope["factor"]}
    return fields | {key: rope[key] for key in ("partial_rotary_factor",) if key in rope}


def build_official_fields(
    config: Any, *, vision_tower: str, model_max_length: int, image_aspect_ratio: str
) -> dict[str, Any]:
    """Return the official config.json of an `AlignGPTConfig`, with the vocabulary size without placeholders.

    Raises:
        ValueError: The official code has no model type for the language model.
    """
    kinds = {language_model: kind for kind, language_model in LANGUAGE_MODELS.items()}
    text = config.text_config
    if text.model_type not in kinds:
        raise ValueError(
            f"the official code has no variant for a {text.model_type} language model, only for {', '.join(kinds)}"
        )
    fields = {name: value for name, value in text.to_dict().items() if not _OWN_FIELDS.fullmatch(name)}
    rope = convert_rope(fields.pop("rope_parameters", None) or {})
    return {
        **fields,
        **rope,
        **_SUPPORTED,
        "model_type": kinds[text.model_type],
        "architectures": [f"AlignGPT{_CLASSES[text.model_type]}ForCausalLM"],
        "torch_dtype": str(config.dtype).removeprefix("torch."),
        "n_indicators": config.num_alignment_levels,
        "mm_vision_tower": vision_tower,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_vision_select_layer": config.vision_feature_layer,
        "use_mm_proj": True,
        "image_aspect_ratio": image_aspect_ratio,
        "tokenizer_model_max_length": model_max_length,
        "tokenizer_padding_side": "right",
    }
