"""What the model returns. S samples, N levels, P tokens of an image, B rows, T positions, H hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from transformers.modeling_outputs import ModelOutput


class AlignmentOutput(NamedTuple):
    """What the alignment made of a batch.

    Attributes:
        embedding: (S, H), H_align of each sample (Eq. 3).
        weights: (S, N), the weights over the table that made it.
        gate_weights: (S, N - 1), Eq. 2; `None` where the setting needs no gate.
        image_text_dots: (S, P), what the gate reads; `None` where the setting needs no gate.
    """

    embedding: Tensor
    weights: Tensor
    gate_weights: Tensor | None
    image_text_dots: Tensor | None


@dataclass
class AlignGPTOutput(ModelOutput):
    """The language model's output, and with `return_gate_weights` what the gate saw and said.

    Attributes:
        loss: Mean over all supervised tokens of the batch, or their sum over `num_items_in_batch`.
        logits: (B, T or the kept positions, vocabulary); the two placeholders can never be chosen.
        past_key_values, hidden_states, attentions: As the language model returns them.
        gate_weights: (S, N - 1), each row sums to 1 (Eq. 2).
        image_text_dots: (S, P), image tokens times mean text embedding, averaged over a sample's images.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    gate_weights: Tensor | None = None
    image_text_dots: Tensor | None = None
