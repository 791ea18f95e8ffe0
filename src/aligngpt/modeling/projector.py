"""The projector from the vision tower's features to the language model's embeddings."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MultiModalProjector(nn.Module):
    """Two linear layers with an exact GELU between them (`mlp2x_gelu` in the official scripts).

    Args:
        vision_hidden_size: Width of the tower's features.
        text_hidden_size: Width of the language model's embeddings.
        bias: Whether the layers have biases.
    """

    def __init__(self, vision_hidden_size: int, text_hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision_hidden_size, text_hidden_size, bias=bias)
        self.linear_2 = nn.Linear(text_hidden_size, text_hidden_size, bias=bias)

    def reset_parameters(self) -> None:
        """Initialize both layers as a new `nn.Linear`."""
        self.linear_1.reset_parameters()
        self.linear_2.reset_parameters()

    def forward(self, features: Tensor) -> Tensor:
        """Return the embeddings (..., text_hidden) of features (..., vision_hidden)."""
        return self.linear_2(F.gelu(self.linear_1(features)))
