"""Our side of the comparison: converted models, batches of our data path, inputs and outputs of the language model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from aligngpt import AlignGPTForConditionalGeneration, AlignGPTProcessor
from aligngpt.data.indexed import open_conversations, open_pairs
from aligngpt.data.sources import open_source
from aligngpt.modeling import model
from aligngpt.modeling.alignment import compute_image_text_similarity
from aligngpt.training.artifacts import Stage
from aligngpt.training.collator import Collator
from aligngpt.training.datasets import InstructionDataset, PretrainDataset
from aligngpt.training.freezing import apply_stage
from tests.parity.recorded import DATA, IMAGES, MAX_LENGTH

Batch = dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A converted model, its processor, and the folder it was loaded from."""

    folder: Path
    model: AlignGPTForConditionalGeneration
    processor: AlignGPTProcessor

    def batch(self, samples: list[Any]) -> Batch:
        """Samples of a data set as the model takes them."""
        batch = Collator(self.processor.tokenizer.pad_token_id)(samples)
        del batch["truncated"]
        return batch

    def rows_with_image(self, batch: Batch) -> list[int]:
        """The rows that have an alignment embedding."""
        return (batch["input_ids"] == self.model.config.align_token_id).any(-1).nonzero().flatten().tolist()


@dataclass(frozen=True)
class Converted:
    """The official checkpoints of both stages, converted and loaded.

    `processors` are by template, and by the tokenizer's setting of `legacy`, "true" or "false".
    """

    stage1: Loaded
    complete: Loaded
    processors: dict[tuple[str, str], AlignGPTProcessor]

    def trained_on(self, data: str) -> Loaded:
        """The model whose batches a data file holds."""
        return self.stage1 if data == "pretrain" else self.complete


def dataset(data: str, processor: AlignGPTProcessor, max_length: int = MAX_LENGTH) -> Any:
    """The data set of an official data file."""
    if data == "pretrain":
        pairs = open_pairs(open_source(DATA / "pretrain.json", IMAGES))
        pairs.check(strict=True)
        return PretrainDataset(pairs, processor, pairs.levels, max_length)
    conversations = open_conversations(open_source(DATA / f"{data}.json", IMAGES))
    conversations.check(strict=True)
    return InstructionDataset(conversations, processor, max_length)


def collated(data: str, loaded: Loaded, max_length: int = MAX_LENGTH) -> Batch:
    """All samples of an official data file as one batch, in the file's order."""
    samples = dataset(data, loaded.processor, max_length)
    return loaded.batch([samples[index] for index in range(len(samples))])


def without_kept(batch: Batch) -> Batch:
    """The batch without the choice of positions, so that the model computes the logits of all."""
    return {name: value for name, value in batch.items() if name not in ("logits_to_keep", "shift_labels")}


@dataclass
class Seen:
    """What the language model was given at its first call, and what the gate read.

    Attributes:
        inputs_embeds: (B, S, H).
        attention_mask: (B, S).
        position_ids: (B, S), as the rotary embedding got them.
        text_means: (B, H); `None` where no gate was asked.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    text_means: Tensor | None = None


@contextmanager
def watched(aligngpt: AlignGPTForConditionalGeneration) -> Iterator[list[Seen]]:
    """Watch the model's parts while it runs; yields a list that gets one entry."""
    seen: list[Seen] = []
    given: dict[str, Tensor] = {}

    def before_language_model(_: Any, args: Any, kwargs: Any) -> None:
        given.setdefault("inputs_embeds", kwargs["inputs_embeds"].detach())
        given.setdefault("attention_mask", kwargs["attention_mask"])

    def before_rotary(_: Any, args: Any, kwargs: Any) -> None:
        rows = given["inputs_embeds"].shape[:2]
        given.setdefault("position_ids", kwargs["position_ids"].expand(rows))

    language_model = aligngpt.language_model
    hooks = [
        language_model.register_forward_pre_hook(before_language_model, with_kwargs=True),
        language_model.model.rotary_emb.register_forward_pre_hook(before_rotary, with_kwargs=True),
    ]
    try:
        with patch.object(model, "compute_image_text_similarity", wraps=compute_image_text_similarity) as gate_input:
            yield seen
        read = gate_input.call_args_list[0].args[1].detach() if gate_input.called else None
        seen.append(Seen(**given, text_means=read))
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class Result:
    """A batch, what the language model was given of it, and the model's output of all positions.

    Attributes:
        loss_of_kept: The loss as training computes it, from the logits of the positions that are learned.
    """

    batch: Batch
    seen: Seen
    output: Any
    loss_of_kept: float


@torch.no_grad()
def forward(aligngpt: AlignGPTForConditionalGeneration, batch: Batch, **options: Any) -> Result:
    """Run the model over a batch."""
    gated = "alignment" not in {**batch, **options} and "pixel_values" in batch
    with watched(aligngpt) as seen:
        output = aligngpt(**without_kept(batch), **options, return_gate_weights=gated)
    return Result(batch, seen[0], output, aligngpt(**batch, **options).loss.item())


@dataclass
class Gradients:
    """The loss of a batch, and the gradient of every parameter that trains and that the loss depends on."""

    loss: float
    trainable: list[str]
    of: dict[str, Tensor]


def gradients(
    aligngpt: AlignGPTForConditionalGeneration, batch: Batch, stage: Stage, uncut: Batch | None = None
) -> Gradients:
    """The gradients of one step of a stage, by our names; leaves the model without any.

    With `uncut`, the gate reads that batch instead, whose texts have not been cut.
    """
    apply_stage(aligngpt, stage)
    options = {} if uncut is None else {"alignment": weights_of(aligngpt, uncut)}
    loss = aligngpt(**batch, **options).loss
    loss.backward()
    trains = {name: value for name, value in aligngpt.named_parameters() if value.requires_grad}
    found = {name: value.grad for name, value in trains.items() if value.grad is not None}
    aligngpt.zero_grad(set_to_none=True)
    return Gradients(loss.item(), list(trains), found)


def weights_of(aligngpt: AlignGPTForConditionalGeneration, batch: Batch) -> Tensor:
    """The weights (B, N) over the alignment table that the gate gives to a batch, with their gradients."""
    features = aligngpt.get_image_features(batch["pixel_values"])
    return aligngpt.get_alignment(batch["input_ids"], features, attention_mask=batch["attention_mask"]).weights
