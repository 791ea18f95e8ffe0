"""Which modules each stage trains."""

from __future__ import annotations

import logging

from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.settings import needs_gate
from aligngpt.training.artifacts import ModuleSummary, Stage

logger = logging.getLogger(__name__)

MODULES = ("vision_tower", "multi_modal_projector", "alignment_embeddings", "alignment_gate", "language_model")
TRAINABLE_MODULES: dict[Stage, set[str]] = {
    "pretrain": {"multi_modal_projector", "alignment_embeddings"},
    "finetune": {"multi_modal_projector", "alignment_gate", "language_model"},
}


def apply_stage(model: AlignGPTForConditionalGeneration, stage: Stage) -> list[ModuleSummary]:
    """Freeze and unfreeze the modules of a model as `TRAINABLE_MODULES` specifies, and log the table.

    Modules that the model's alignment setting does not use stay frozen: table and gate under `"none"`, the gate under
    every setting that needs no gate.
    """
    alignment = model.config.alignment
    trained = TRAINABLE_MODULES[stage] - (set() if needs_gate(alignment) else {"alignment_gate"})
    if alignment == "none":
        trained -= {"alignment_embeddings"}
    modules = []
    for name in MODULES:
        module = getattr(model, name)
        trainable = name in trained
        module.requires_grad_(trainable)
        count = sum(parameter.numel() for parameter in module.parameters())
        modules.append(ModuleSummary(name=name, num_parameters=count, trainable=trainable))
        logger.info("%s: %-22s %14s %s", stage, name, f"{count:,}", "trained" if trainable else "frozen")
    return modules
