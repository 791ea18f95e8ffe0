"""The model: configuration, alignment, projector, processor, checkpoints and their conversion."""

from typing import TYPE_CHECKING

from aligngpt.utils.lazy import export_lazily

if TYPE_CHECKING:
    from aligngpt.modeling.alignment import AlignmentEmbeddings, AlignmentGate, parse_alignment
    from aligngpt.modeling.checkpoints import load_model
    from aligngpt.modeling.configuration import AlignGPTConfig
    from aligngpt.modeling.model import AlignGPTForConditionalGeneration
    from aligngpt.modeling.outputs import AlignGPTCausalLMOutputWithPast, AlignmentOutput
    from aligngpt.modeling.processing import AlignGPTProcessor, load_template
    from aligngpt.modeling.projector import MultiModalProjector

_MODULES = {
    "AlignGPTCausalLMOutputWithPast": "aligngpt.modeling.outputs",
    "AlignGPTConfig": "aligngpt.modeling.configuration",
    "AlignGPTForConditionalGeneration": "aligngpt.modeling.model",
    "AlignGPTProcessor": "aligngpt.modeling.processing",
    "AlignmentEmbeddings": "aligngpt.modeling.alignment",
    "AlignmentGate": "aligngpt.modeling.alignment",
    "AlignmentOutput": "aligngpt.modeling.outputs",
    "MultiModalProjector": "aligngpt.modeling.projector",
    "load_model": "aligngpt.modeling.checkpoints",
    "load_template": "aligngpt.modeling.processing",
    "parse_alignment": "aligngpt.modeling.alignment",
}

__all__ = [
    "AlignGPTCausalLMOutputWithPast",
    "AlignGPTConfig",
    "AlignGPTForConditionalGeneration",
    "AlignGPTProcessor",
    "AlignmentEmbeddings",
    "AlignmentGate",
    "AlignmentOutput",
    "MultiModalProjector",
    "load_model",
    "load_template",
    "parse_alignment",
]

__getattr__, __dir__ = export_lazily(__name__, _MODULES)
