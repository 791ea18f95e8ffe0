"""Which modules each stage trains."""

from __future__ import annotations

import logging

from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.settings import needs_gate
from aligngpt.training.artifacts import ModuleSummary, Stage

logger = logging.getLogger(__name__)

TRAINABLE_MODULES: dict[Stage, dict[str, bool]] = {
    "pretrain": {
        "vision_tower": False,
        "multi_modal_projector": True,
        "alignment_embeddings": True,
        "alignment_gate": False,
        "language_model": False,
    },
    "finetune": {
        "vision_tower": False,
        "multi_modal_projector": True,
        "alignment_embeddings": False,
        "alignment_gate": True,
        "language_model": True,
    },
}


def apply_stage(model: AlignGPTForConditionalGeneration, stage: Stage) -> list[ModuleSummary]:
    """Freeze and unfreeze the modules of a model as `TRAINABLE_MODULES` specifies, and log the table.

    Modules that the model's alignment setting does not use stay frozen: table and gate under `"none"`, the gate under
    every setting that needs no gate.
    """
    alignment = model.config.alignment
    unused = {"alignment_gate"} if stage == "finetune" and not needs_gate(alignment) else set()
    if alignment == "none":
        unused |= {"alignment_embeddings", "alignment_gate"}
    modules = []
    for name, trainable in TRAINABLE_MODULES[stage].items():
        module = getattr(model, name)
        trainable = trainable and name not in unused
        module.requires_grad_(trainable)
        count = sum(parameter.numel() for parameter in module.parameters())
        modules.append(ModuleSummary(name=name, num_parameters=count, trainable=trainable))
        logger.info("%s: %-22s %14s %s", stage, name, f"{count:,}", "trained" if trainable else "frozen")
    return modules
