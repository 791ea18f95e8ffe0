"""The model: configuration, alignment, projector, the model itself and its processor."""

from aligngpt.modeling.alignment import NAMED_ALIGNMENTS, AlignmentEmbeddings, AlignmentGate, parse_alignment
from aligngpt.modeling.configuration import AlignGPTConfig
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.outputs import AlignGPTOutput, AlignmentOutput
from aligngpt.modeling.processing import AlignGPTProcessor, load_template
from aligngpt.modeling.projector import MultiModalProjector

__all__ = [
    "NAMED_ALIGNMENTS",
    "AlignGPTConfig",
    "AlignGPTForConditionalGeneration",
    "AlignGPTOutput",
    "AlignGPTProcessor",
    "AlignmentEmbeddings",
    "AlignmentGate",
    "AlignmentOutput",
    "MultiModalProjector",
    "load_template",
    "parse_alignment",
]
