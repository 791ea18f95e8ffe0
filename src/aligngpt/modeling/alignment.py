"""The alignment embedding: one vector per level, the gate that mixes them, and the settings that say how.

Every setting is a row of N weights over the table H_1 .. H_N, and the embedding is their weighted sum, so Eq. 3 of the
paper, its ablations (Table 4) and a level as a dial (Figure 7) differ in nothing but those weights:

    adaptive    alpha_1 .. alpha_{N-1}, 1        Eq. 3, Table 4 (d)
    local       alpha_1 .. alpha_{N-1}, 0        Table 4 (a)
    global      0 .. 0, 1                        Table 4 (b)
    average     1/(N-1) .. 1/(N-1), 1            Table 4 (c)
    level k     1 at k                           stage 1, Figure 7
    explicit    as given
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAMED_ALIGNMENTS = ("adaptive", "local", "global", "average", "none")
_GATED = ("adaptive", "local")

Alignment = str | int | Sequence[float] | Tensor


def parse_alignment(value: Any, num_levels: int) -> str | int | tuple[float, ...] | Tensor:
    """Check a setting and bring it to its plain form.

    Args:
        value: One of `NAMED_ALIGNMENTS`; a level 1..N, as a number or in digits; N explicit weights, as a sequence or
            separated by commas; or a tensor, (samples,) of levels or (samples, N) of weights.
        num_levels: N.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, str):
        text = value.strip()
        if text in NAMED_ALIGNMENTS:
            return text
        value = _numbers(text)
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and 1 <= value <= num_levels:
        return int(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == num_levels:
        weights = tuple(float(weight) for weight in value)
        if all(map(math.isfinite, weights)):
            return weights
    raise ValueError(
        f"alignment {value!r} is not known: give one of {', '.join(NAMED_ALIGNMENTS)}, a level from 1 to {num_levels}, "
        f"or {num_levels} weights separated by commas"
    )


def _numbers(text: str) -> Any:
    try:
        return [float(part) for part in text.split(",")] if "," in text else int(text)
    except ValueError:
        return text


def needs_gate(alignment: Any) -> bool:
    """Whether a parsed setting reads the gate's weights."""
    return isinstance(alignment, str) and alignment in _GATED


class AlignmentEmbeddings(nn.Module):
    """The table of N alignment embeddings, H_1 .. H_N, Xavier-uniform at the start.

    Args:
        num_levels: N, at least 2.
        hidden_size: Width of the language model's embeddings.
    """

    def __init__(self, num_levels: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_levels, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table anew, Xavier-uniform."""
        nn.init.xavier_uniform_(self.weight)

    @property
    def local_embeddings(self) -> Tensor:
        """H_1 .. H_{N-1}, (N - 1, hidden): local alignment of rising degree."""
        return self.weight[:-1]

    @property
    def global_embedding(self) -> Tensor:
        """H_N, (hidden,): global alignment."""
        return self.weight[-1]

    def forward(self, weights: Tensor) -> Tensor:
        """Weighted sums of the table: `weights` (samples, N) to embeddings (samples, hidden). Eq. 3."""
        return weights.to(self.weight.dtype) @ self.weight


class AlignmentGate(nn.Module):
    """Eq. 2: from the image-text dot products to N - 1 weights over the local embeddings.

    Args:
        num_image_tokens: P, the image tokens of one image.
        num_levels: N.
        hidden_size: Width of the hidden layer.
    """

    def __init__(self, num_image_tokens: int, num_levels: int, hidden_size: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(num_image_tokens, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, num_levels - 1)

    def reset_parameters(self) -> None:
        """Draw the weights anew, as a fresh `nn.Linear` does."""
        self.linear_1.reset_parameters()
        self.linear_2.reset_parameters()

    def forward(self, image_text_dots: Tensor) -> Tensor:
        """Dot products (samples, P) to `gate_weights` (samples, N - 1); each row sums to 1."""
        logits = self.linear_2(F.gelu(self.linear_1(image_text_dots.to(self.linear_1.weight.dtype))))
        return logits.float().softmax(-1).to(logits.dtype)


def alignment_weights(alignment: Any, gate_weights: Tensor | None, num_samples: int, table: Tensor) -> Tensor:
    """The N weights of each sample under a parsed setting other than `"none"`.

    Args:
        alignment: As `parse_alignment` returns it.
        gate_weights: (samples, N - 1), needed where `needs_gate` says so.
        num_samples: Number of samples.
        table: The alignment table (N, hidden), for its size, type and device.

    Returns:
        (samples, N) of the table's type.

    Raises:
        ValueError: A tensor of levels or weights has the wrong shape, or the gate's weights are missing.
    """
    levels = table.shape[0]
    if isinstance(alignment, Tensor):
        return _weights_from_tensor(alignment.to(table.device), num_samples, levels).to(table.dtype)
    if isinstance(alignment, int):
        row = F.one_hot(torch.tensor(alignment - 1), levels)
    elif isinstance(alignment, tuple):
        row = torch.tensor(alignment)
    elif alignment == "global":
        row = F.one_hot(torch.tensor(levels - 1), levels)
    elif alignment == "average":
        row = torch.tensor([1 / (levels - 1)] * (levels - 1) + [1.0])
    elif gate_weights is not None:
        last = gate_weights.new_full((num_samples, 1), 1.0 if alignment == "adaptive" else 0.0)
        return torch.cat([gate_weights, last], dim=-1)
    else:
        raise ValueError(f"alignment {alignment!r} needs gate weights")
    return row.to(table).expand(num_samples, levels)


def _weights_from_tensor(alignment: Tensor, num_samples: int, levels: int) -> Tensor:
    if alignment.is_floating_point() and alignment.shape == (num_samples, levels):
        return alignment
    if not alignment.is_floating_point() and alignment.shape == (num_samples,):
        return F.one_hot(alignment.long() - 1, levels)
    raise ValueError(
        f"alignment has shape {tuple(alignment.shape)} and type {alignment.dtype}: give whole levels of shape "
        f"({num_samples},) or weights of shape ({num_samples}, {levels})"
    )


def segment_mean(values: Tensor, mask: Tensor, segments: Tensor, num_segments: int) -> Tensor:
    """Mean of the masked values of each segment, zero for a segment without any.

    Uses `index_add`, so it neither depends on the data's shape nor cares where in a row a segment lies.

    Args:
        values: (rows, length, hidden).
        mask: (rows, length), bool.
        segments: (rows, length), the segment 0..num_segments - 1 of each position.
        num_segments: Number of segments.

    Returns:
        (num_segments, hidden), of the values' type, summed in float32.
    """
    flat_mask = mask.reshape(-1).float()
    flat_segments = segments.reshape(-1)
    weighted = values.reshape(-1, values.shape[-1]).float() * flat_mask.unsqueeze(-1)
    sums = weighted.new_zeros(num_segments, values.shape[-1]).index_add(0, flat_segments, weighted)
    counts = flat_mask.new_zeros(num_segments).index_add(0, flat_segments, flat_mask)
    return (sums / counts.clamp(min=1).unsqueeze(-1)).to(values.dtype)


def image_text_dots(
    image_features: Tensor, text_means: Tensor, image_segments: Tensor, read: Tensor | None = None
) -> Tensor:
    """Dot products of every image token with the mean text embedding of its sample, averaged over the images it reads.

    Args:
        image_features: (images, P, hidden), after the projector.
        text_means: (samples, hidden).
        image_segments: (images,), the sample of each image.
        read: (images,), 1 for the images that count; where a sample has none such, and by default, all of them do.

    Returns:
        (samples, P); zero for a sample without an image.
    """
    dots = torch.einsum("iph,ih->ip", image_features, text_means[image_segments].to(image_features.dtype))
    weights = dots.new_ones(dots.shape[0])
    if read is not None:
        some_read = dots.new_zeros(text_means.shape[0]).index_add(0, image_segments, read.to(dots.dtype)) > 0
        weights = torch.where(some_read[image_segments], read.to(dots.dtype), weights)
    sums = dots.new_zeros(text_means.shape[0], dots.shape[1]).index_add(0, image_segments, dots * weights.unsqueeze(-1))
    counts = dots.new_zeros(text_means.shape[0]).index_add(0, image_segments, weights)
    return sums / counts.clamp(min=1).unsqueeze(-1)


def segments_of(input_ids: Tensor, segment_ids: Tensor | None) -> tuple[Tensor, int]:
    """The sample of each position, and the number of samples."""
    if segment_ids is not None:
        return segment_ids, int(segment_ids.max()) + 1
    rows = torch.arange(input_ids.shape[0], device=input_ids.device)
    return rows.unsqueeze(-1).expand_as(input_ids), input_ids.shape[0]


def first_of_runs(mask: Tensor, values: Tensor, runs: int, length: int) -> Tensor:
    """The value, such as the sample, of each run of `length` marked positions, (runs,); static shapes throughout."""
    marked = mask.reshape(-1)
    run = torch.where(marked, (marked.long().cumsum(0) - 1) // length, runs)
    found = torch.zeros(runs + 1, dtype=torch.long, device=mask.device)
    return found.scatter(0, run, values.reshape(-1).long())[:runs]
