"""Outputs of the model. S samples, N levels, P tokens of an image, I images, B rows, T positions, H hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from transformers.modeling_outputs import ModelOutput


class AlignmentOutput(NamedTuple):
    """The alignment embeddings of a batch and how they were computed.

    Attributes:
        embedding: (S, H), H_align of each sample (Eq. 3).
        weights: (S, N), the weights over the table.
        gate_weights: (S, N - 1), Eq. 2; `None` if the setting needs no gate.
        image_text_similarity: (S, P), the input of the gate; `None` if the setting needs no gate.
    """

    embedding: Tensor
    weights: Tensor
    gate_weights: Tensor | None
    image_text_similarity: Tensor | None


@dataclass
class AlignGPTCausalLMOutputWithPast(ModelOutput):
    """The language model's output, the image features and, with `return_gate_weights`, the gate's.

    Attributes:
        loss: Mean over all labeled tokens of the batch, or their sum over `num_items_in_batch`.
        logits: (B, T or the kept positions, vocabulary); the two placeholders have the lowest value.
        past_key_values, hidden_states, attentions: Of the language model.
        image_hidden_states: (I, P, H), image features after the projector.
        gate_weights: (S, N - 1), each row sums to 1 (Eq. 2).
        image_text_similarity: (S, P), image tokens times mean text embedding, averaged over a sample's images.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None
    gate_weights: Tensor | None = None
    image_text_similarity: Tensor | None = None
