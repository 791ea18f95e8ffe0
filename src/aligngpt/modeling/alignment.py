"""The alignment embedding: one vector per level, the gate that mixes them, and the settings that select the mix.

Every setting is a row of N weights over the table H_1 .. H_N, and the alignment embedding is the weighted sum. Eq. 3 of
the paper, its ablations (Table 4) and a fixed level (Figure 7) differ only in these weights:

    adaptive    alpha_1 .. alpha_{N-1}, 1        Eq. 3, Table 4 (d)
    local       alpha_1 .. alpha_{N-1}, 0        Table 4 (a)
    global      0 .. 0, 1                        Table 4 (b)
    average     1/(N-1) .. 1/(N-1), 1            Table 4 (c)
    level k     1 at k                           stage 1, Figure 7
    explicit    as given
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aligngpt.modeling.settings import Setting, parse_setting


def parse_alignment(value: Any, num_levels: int) -> Setting | Tensor:
    """Return a setting as `parse_setting` does; a tensor of levels (S,) or weights (S, N) is returned unchanged.

    Raises:
        ValueError: The setting is invalid.
    """
    return value if isinstance(value, Tensor) else parse_setting(value, num_levels)


class AlignmentEmbeddings(nn.Module):
    """The table of N alignment embeddings, Xavier-uniform: H_1 .. H_{N-1} of increasing degree (local), H_N (global).

    Args:
        num_levels: N, at least 2.
        hidden_size: Width of the language model's embeddings.
    """

    def __init__(self, num_levels: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_levels, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the table."""
        nn.init.xavier_uniform_(self.weight)

    def forward(self, weights: Tensor) -> Tensor:
        """Return the weighted sums of the table (Eq. 3): weights (S, N) to embeddings (S, hidden)."""
        return weights.to(self.weight.dtype) @ self.weight


class AlignmentGate(nn.Module):
    """The gate of Eq. 2: from image-text similarities to N - 1 weights over the local embeddings.

    Args:
        image_seq_length: P, the image tokens of one image.
        num_levels: N.
        hidden_size: Width of the hidden layer.
    """

    def __init__(self, image_seq_length: int, num_levels: int, hidden_size: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(image_seq_length, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, num_levels - 1)

    def reset_parameters(self) -> None:
        """Initialize both layers as a new `nn.Linear`."""
        self.linear_1.reset_parameters()
        self.linear_2.reset_parameters()

    def forward(self, image_text_similarity: Tensor) -> Tensor:
        """Return the gate weights (S, N - 1) of similarities (S, P); each row sums to 1."""
        logits = self.linear_2(F.gelu(self.linear_1(image_text_similarity.to(self.linear_1.weight.dtype))))
        return logits.float().softmax(-1).to(logits.dtype)


def compute_alignment_weights(alignment: Any, gate_weights: Tensor | None, num_samples: int, table: Tensor) -> Tensor:
    """Return the N weights of each sample under a parsed setting other than `"none"`.

    Args:
        alignment: As `parse_alignment` returns it.
        gate_weights: (S, N - 1); required if `needs_gate(alignment)`.
        num_samples: S.
        table: The alignment table (N, hidden), for its size, dtype and device.

    Returns:
        (S, N), with the dtype of the table.

    Raises:
        ValueError: A tensor of levels or weights has the wrong shape, or the gate weights are missing.
    """
    levels = table.shape[0]
    if isinstance(alignment, Tensor):
        return _convert_tensor(alignment.to(table.device), num_samples, levels).to(table.dtype)
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


def _convert_tensor(alignment: Tensor, num_samples: int, levels: int) -> Tensor:
    if alignment.is_floating_point() and alignment.shape == (num_samples, levels):
        return alignment
    if not alignment.is_floating_point() and alignment.shape == (num_samples,):
        return F.one_hot(alignment.long() - 1, levels)
    raise ValueError(
        f"alignment has shape {tuple(alignment.shape)} and dtype {alignment.dtype}; pass integer levels of shape "
        f"({num_samples},) or weights of shape ({num_samples}, {levels})"
    )


def segment_mean(values: Tensor, mask: Tensor, segments: Tensor, num_segments: int) -> Tensor:
    """Return the mean of the masked values of each segment; zero for a segment without any.

    Uses `index_add`, so shapes are static and a segment may be anywhere in a row.

    Args:
        values: (rows, length, hidden).
        mask: (rows, length), bool.
        segments: (rows, length), the segment 0..num_segments - 1 of each position.
        num_segments: Number of segments.

    Returns:
        (num_segments, hidden), with the dtype of the values, summed in float32.
    """
    flat_mask = mask.reshape(-1).float()
    flat_segments = segments.reshape(-1)
    weighted = values.reshape(-1, values.shape[-1]).float() * flat_mask.unsqueeze(-1)
    sums = weighted.new_zeros(num_segments, values.shape[-1]).index_add(0, flat_segments, weighted)
    counts = flat_mask.new_zeros(num_segments).index_add(0, flat_segments, flat_mask)
    return (sums / counts.clamp(min=1).unsqueeze(-1)).to(values.dtype)


def compute_image_text_similarity(
    image_features: Tensor, text_means: Tensor, image_segments: Tensor, is_read: Tensor | None = None
) -> Tensor:
    """Return the dot products of each image token with the mean text embedding of its sample, averaged over images.

    Args:
        image_features: (images, P, hidden), after the projector.
        text_means: (samples, hidden).
        image_segments: (images,), the sample of each image.
        is_read: (images,), 1 for images that enter the average; a sample without any, and the default, use all.

    Returns:
        (samples, P); zero for a sample without an image.
    """
    dots = torch.einsum("iph,ih->ip", image_features, text_means[image_segments].to(image_features.dtype))
    weights = dots.new_ones(dots.shape[0])
    if is_read is not None:
        read = is_read.to(dots.dtype)
        any_read = dots.new_zeros(text_means.shape[0]).index_add(0, image_segments, read) > 0
        weights = torch.where(any_read[image_segments], read, weights)
    sums = dots.new_zeros(text_means.shape[0], dots.shape[1]).index_add(0, image_segments, dots * weights.unsqueeze(-1))
    counts = dots.new_zeros(text_means.shape[0]).index_add(0, image_segments, weights)
    return sums / counts.clamp(min=1).unsqueeze(-1)


def number_segments(input_ids: Tensor, segment_ids: Tensor | None) -> tuple[Tensor, int]:
    """Return the sample of each position and the number of samples."""
    if segment_ids is not None:
        return segment_ids, int(segment_ids.max()) + 1
    rows = torch.arange(input_ids.shape[0], device=input_ids.device)
    return rows.unsqueeze(-1).expand_as(input_ids), input_ids.shape[0]


def gather_from_runs(mask: Tensor, values: Tensor, num_runs: int, length: int) -> Tensor:
    """Return the value, such as the sample, of each run of `length` masked positions, (num_runs,)."""
    flat_mask = mask.reshape(-1)
    run = torch.where(flat_mask, (flat_mask.long().cumsum(0) - 1) // length, num_runs)
    gathered = torch.zeros(num_runs + 1, dtype=torch.long, device=mask.device)
    return gathered.scatter(0, run, values.reshape(-1).long())[:num_runs]
