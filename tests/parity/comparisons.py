"""Compares ours with every recording, quantity by quantity, as the table of tolerances lists them.

A function is given the converted models and returns, for each quantity, two dictionaries, ours and the recorded, with a
value for each case: an image, a row, a prompt. What differs on purpose has its own tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aligngpt.data.images import load_image
from aligngpt.modeling.conversion.official_config import to_official_name
from aligngpt.training.sampler import ModalityGroupedSampler
from tests.parity.conversations import tokenization
from tests.parity.deviations import Cases, Pairs
from tests.parity.ours import Batch, Converted, Loaded, Result, collated, dataset, forward, gradients, weights_of
from tests.parity.prompts import inference
from tests.parity.recorded import IMAGES, MAX_LENGTH, Arrays, in_our_form, opened, read_recording

# Recording of each training batch, and the data file that it is made of.
BATCHES = {
    "pretrain_forward": "pretrain",
    "finetune_mixed": "finetune_mixed",
    "finetune_truncated": "finetune_truncated",
    "finetune_text_only": "finetune_text_only",
}


def image_preprocess(converted: Converted) -> Pairs:
    """Stage 1 crops, stage 2 pads, each by its own converted processor."""
    arrays = opened("image_preprocess")
    pairs: Pairs = {}
    for ratio, loaded in (("square", converted.stage1), ("pad", converted.complete)):
        assert loaded.processor.image_aspect_ratio == ratio
        names = [path.stem for path in sorted(IMAGES.iterdir())]
        ours = {name: loaded.processor.pixel_values([load_image(IMAGES / f"{name}.png")])[0] for name in names}
        pairs[ratio] = ours, {name: arrays[f"{name}_{ratio}"] for name in names}
    return pairs


@torch.no_grad()
def vision_features(converted: Converted) -> Pairs:
    """What goes into the projector, and what comes out of it."""
    arrays = opened("vision_features")
    model, processor = converted.complete.model, converted.complete.processor
    into: list[Tensor] = []
    hook = model.multi_modal_projector.register_forward_pre_hook(lambda _, args: into.append(args[0]))
    projected = model.get_image_features(processor.pixel_values([load_image(IMAGES / "wide.png")]))
    hook.remove()
    ours = {"vision_tower": into[0][0], "projected": projected[0]}
    return {name: ({"wide": value}, {"wide": arrays[name]}) for name, value in ours.items()}


# ----------------------------------------------------------------------------------------------------- training batches


def training_batch(recording: str) -> Callable[[Converted], Pairs]:
    """The comparison of one batch: what our data path makes of the samples, and what the model makes of the batch."""

    def compared(converted: Converted) -> Pairs:
        arrays, data = opened(recording), BATCHES[recording]
        loaded = converted.trained_on(data)
        max_length = int(arrays["model_max_length"]) if "model_max_length" in arrays else MAX_LENGTH
        batch = collated(data, loaded, max_length)
        images = loaded.rows_with_image(batch)
        # The official code puts rows with an image first; ours stay where they are and are looked up in that order.
        rows = images + [row for row in range(len(batch["input_ids"])) if row not in images]
        pairs: Pairs = {}
        options: Batch = {}
        if "gate_weights" in arrays:
            # The official gate reads the whole text of a row that is cut; for the others nothing changes by it.
            uncut = collated(data, loaded)
            pairs |= _gate(arrays, forward(loaded.model, uncut), images)
            options["alignment"] = weights_of(loaded.model, uncut).detach() if data == "finetune_truncated" else None
        result = forward(loaded.model, batch, **options)
        pairs |= _tokens(arrays, batch, loaded, max_length)
        pairs |= _given(arrays, result, rows)
        pairs |= _answered(arrays, result, rows)
        if "align_vector" in arrays:
            pairs["align_vector"] = _one(result.seen.inputs_embeds[images, 1], arrays["align_vector"])
        if "row_to_sample" in arrays:
            pairs["row_to_sample"] = _one(rows, arrays["row_to_sample"])
        if "align_ids" in arrays:  # levels count from 1 here
            pairs["align_ids"] = _one(batch["alignment"] - 1, arrays["align_ids"])
        return pairs

    return compared


def _one(ours: Any, recorded: Any) -> tuple[Cases, Cases]:
    return {"batch": ours}, {"batch": recorded}


def _tokens(arrays: Arrays, batch: Batch, loaded: Loaded, max_length: int) -> Pairs:
    """Ids and labels of each sample without padding, the official ones brought into our form by their description."""
    ours: dict[str, Cases] = {"input_ids": {}, "labels": {}, "attention_mask": {}}
    recorded: dict[str, Cases] = {"input_ids": {}, "labels": {}, "attention_mask": {}}
    width = batch["input_ids"].shape[1]
    for row, kept in enumerate(arrays["attention_mask"]):
        ids, labels = in_our_form(
            arrays["input_ids"][row][kept], arrays["labels"][row][kept], loaded.processor, max_length
        )
        mask = batch["attention_mask"][row].bool()
        name = f"sample {row}"
        ours["input_ids"][name], recorded["input_ids"][name] = batch["input_ids"][row][mask], ids
        ours["labels"][name], recorded["labels"][name] = batch["labels"][row][mask], labels
        ours["attention_mask"][name] = mask.int()
        recorded["attention_mask"][name] = [1] * len(ids) + [0] * (width - len(ids))
    return {name: (ours[name], recorded[name]) for name in ours}


def _gate(arrays: Arrays, result: Result, rows: list[int]) -> Pairs:
    assert result.seen.text_means is not None
    ours = {
        "gate_text_mean": result.seen.text_means,
        "gate_dots": result.output.image_text_similarity,
        "gate_weights": result.output.gate_weights,
    }
    return {name: _one(value[rows], arrays[name]) for name, value in ours.items()}


def _given(arrays: Arrays, result: Result, rows: list[int]) -> Pairs:
    """What the language model was given; padded positions carry no meaning."""
    mask, at = arrays["expanded_attention_mask"], tuple(arrays["logits_at"].T)
    embeds = result.seen.inputs_embeds[rows].numpy()
    recorded = arrays["inputs_embeds"]
    whole = recorded.shape == embeds.shape
    positions = np.arange(mask.shape[1])[None].repeat(len(mask), axis=0)
    return {
        "expanded_labels": _one(result.batch["labels"][rows], arrays["expanded_labels"]),
        "expanded_attention_mask": _one(result.seen.attention_mask[rows], mask),
        "position_ids": _one(result.seen.position_ids[rows], positions),
        "inputs_embeds": _one(embeds[mask] if whole else embeds[at], recorded[mask] if whole else recorded),
        "inputs_embeds_norm": _one(np.linalg.norm(embeds, axis=-1)[mask], arrays["inputs_embeds_norm"][mask]),
        "inputs_embeds_sum": _one(embeds.sum(-1)[mask], arrays["inputs_embeds_sum"][mask]),
    }


def _answered(arrays: Arrays, result: Result, rows: list[int]) -> Pairs:
    """Logits and loss; ours have two more words, the placeholders, which take no share of the softmax."""
    mask, at = arrays["expanded_attention_mask"], tuple(arrays["logits_at"].T)
    logits = result.output.logits[rows]
    words = arrays["logits"].shape[-1]
    loss = arrays["loss"]
    return {
        "logits": _one(logits[..., :words].numpy()[at], arrays["logits"]),
        "logits_logsumexp": _one(logits.logsumexp(-1).numpy()[mask], arrays["logits_logsumexp"][mask]),
        "logits_max": _one(logits.amax(-1).numpy()[mask], arrays["logits_max"][mask]),
        "logits_argmax": _one(logits.argmax(-1).numpy()[mask], arrays["logits_argmax"][mask]),
        "loss": (
            {"of all positions": result.output.loss, "of the learned ones": result.loss_of_kept},
            {"of all positions": loss, "of the learned ones": loss},
        ),
    }


# ------------------------------------------------------------------------------------------------------------ gradients


def all_gradients(converted: Converted) -> Pairs:
    """Every gradient that is not zero; where zeros are recorded, ours has none (see test_differences.py)."""
    arrays, recording = opened("gradients"), read_recording("gradients")
    pairs: Pairs = {}
    for data, recorded in recording.items():
        loaded = converted.trained_on(data)
        cut = data == "finetune_truncated"
        max_length = int(Arrays(recorded["batch"])["model_max_length"]) if cut else MAX_LENGTH
        batch = collated(data, loaded, max_length)
        uncut = collated(data, loaded) if cut else None
        found = gradients(loaded.model, batch, "pretrain" if data == "pretrain" else "finetune", uncut)
        ours = {to_official_name(name): gradient for name, gradient in found.of.items()}
        norms = {name: norm for name, norm in recorded["grad_norm"].items() if norm}
        full = {name.split("/")[1]: arrays[name] for name in arrays if name.startswith(f"{data}/")}
        pairs |= {
            f"{data}: trainable": _one(sorted(map(to_official_name, found.trainable)), sorted(recorded["trainable"])),
            f"{data}: loss": _one(found.loss, recorded["loss"]),
            f"{data}: grad_norm": ({name: ours[name].norm() for name in norms}, norms),
        }
        if norms.keys() >= full.keys():
            pairs[f"{data}: selected gradients"] = {name: ours[name] for name in full}, full
    alone = recording["pretrain"]["loss_of_each_sample_alone"]
    pairs["pretrain: loss_of_each_sample_alone"] = _one(_losses_alone(converted.stage1), alone)
    return pairs


def _losses_alone(loaded: Loaded) -> list[float]:
    samples = dataset("pretrain", loaded.processor)
    return [forward(loaded.model, loaded.batch([samples[index]])).loss_of_kept for index in range(len(samples))]


# -------------------------------------------------------------------------------------------------------------- sampler


def sampler(converted: Converted) -> Pairs:
    """Lengths as the data set reports them, and the order of two passes from torch's global state."""
    recording = read_recording("sampler")
    lengths = recording["modality_lengths"]
    ours: dict[str, Cases] = {"indices": {}, "indices_second_pass": {}}
    recorded: dict[str, Cases] = {"indices": {}, "indices_second_pass": {}}
    for case in recording["cases"]:
        order = ModalityGroupedSampler(case["lengths"], case["batch_size"], case["world_size"])
        torch.manual_seed(case["seed"])
        for quantity in ours:
            name = f"{case['name']}, seed {case['seed']}"
            ours[quantity][name], recorded[quantity][name] = list(order), case[quantity]
    reported = {data: dataset(data, converted.complete.processor).modality_lengths for data in lengths}
    return {
        "modality_lengths": (reported, lengths),
        **{quantity: (ours[quantity], recorded[quantity]) for quantity in ours},
    }


COMPARISONS: dict[str, Callable[[Converted], Pairs]] = {
    "image_preprocess": image_preprocess,
    "vision_features": vision_features,
    **{recording: training_batch(recording) for recording in BATCHES},
    "gradients": all_gradients,
    "inference": inference,
    "tokenization": tokenization,
    "sampler": sampler,
}
