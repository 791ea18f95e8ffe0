"""The tolerance of each recorded quantity; docs/about/parity.md shows the same table with the measured deviations.

The bounds are a few times what an independent implementation on another version of the libraries deviates by. What is
made of whole numbers, texts or pixels has none: it is to be equal.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """The largest absolute difference that is allowed; relative to the recorded value's L2 norm where it says so."""

    bound: float
    relative: bool = False

    def __str__(self) -> str:
        if self.bound == 0:
            return "exact"
        return f"{self.bound:.0e}{' relative' if self.relative else ''}"


EXACT = Tolerance(0)
LOGITS = Tolerance(2e-4)
LOSS = Tolerance(1e-5)
FEATURES = Tolerance(5e-5)
GRADIENTS = Tolerance(1e-4, relative=True)

_TOKENS = ("input_ids", "labels", "attention_mask", "expanded_labels", "expanded_attention_mask", "position_ids")
_FORWARD = {
    **dict.fromkeys(_TOKENS, EXACT),
    "inputs_embeds": FEATURES,
    "inputs_embeds_norm": FEATURES,
    "inputs_embeds_sum": Tolerance(2e-4),  # of 64 numbers
    "logits": LOGITS,
    "logits_logsumexp": LOGITS,
    "logits_max": LOGITS,
    "logits_argmax": EXACT,
    "loss": LOSS,
}
_GATE = {
    "gate_text_mean": Tolerance(1e-6),
    "gate_dots": FEATURES,
    "gate_weights": Tolerance(1e-6),
    "align_vector": Tolerance(3e-6),
}
_GRADIENTS = {"trainable": EXACT, "loss": LOSS, "grad_norm": GRADIENTS, "selected gradients": GRADIENTS}
_INFERENCE = {
    **dict.fromkeys(("prompt", "input_ids", "position_ids", "new_tokens", "text"), EXACT),
    **_GATE,
    "step_logits": LOGITS,
    "top1_minus_top2": Tolerance(4e-4),  # a difference of two logits, recorded with four digits
}
_BY_RECORDING: dict[str, dict[str, Tolerance]] = {
    "image_preprocess": {"pad": EXACT, "square": EXACT},
    "vision_features": {"vision_tower": FEATURES, "projected": FEATURES},
    "pretrain_forward": {"align_ids": EXACT, **_FORWARD},
    "finetune_mixed": {"row_to_sample": EXACT, **_FORWARD, **_GATE},
    "finetune_truncated": {"row_to_sample": EXACT, **_FORWARD, **_GATE},
    "finetune_text_only": {"row_to_sample": EXACT, **_FORWARD},
    "gradients": {
        "pretrain: loss_of_each_sample_alone": LOSS,
        **{  # all that is selected of the text-only batch is zero
            f"{batch}: {quantity}": tolerance
            for batch in ("pretrain", "finetune_mixed", "finetune_truncated", "finetune_text_only")
            for quantity, tolerance in _GRADIENTS.items()
            if (batch, quantity) != ("finetune_text_only", "selected gradients")
        },
    },
    "inference": _INFERENCE,
    "tokenization": {
        **{
            f"{template}, legacy {legacy}: {quantity}": EXACT
            for template in ("v1", "llama_2", "plain")
            for legacy in ("false", "true")
            for quantity in ("input_ids", "target_spans")
        },
        "small_model_max_length: input_ids": EXACT,
        "small_model_max_length: target_spans": EXACT,
    },
    "sampler": dict.fromkeys(("modality_lengths", "indices", "indices_second_pass"), EXACT),
}
TOLERANCES: dict[tuple[str, str], Tolerance] = {
    (recording, quantity): tolerance
    for recording, quantities in _BY_RECORDING.items()
    for quantity, tolerance in quantities.items()
}
