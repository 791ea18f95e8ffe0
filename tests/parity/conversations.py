"""The recorded conversations as our data path tokenizes them, under both settings of the tokenizer's `legacy`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from aligngpt import AlignGPTProcessor
from aligngpt.data.indexed import open_conversations, open_pairs
from aligngpt.data.sources import open_source
from aligngpt.training.datasets import InstructionDataset, PretrainDataset, Sample
from tests.parity.deviations import Cases, Pairs
from tests.parity.ours import Converted
from tests.parity.recorded import IMAGES, MAX_LENGTH, in_our_form, labels_of, read_recording

# What ours makes something else of, or refuses; test_differences.py shows each of them with both values.
_REFUSED = {"image_twice_in_the_middle", "empty_answer"}
DIFFERENT = {
    "v1": _REFUSED | {"ends_with_human", "separator_inside", "eos_text_inside"},
    "llama_2": _REFUSED | {"ends_with_human", "eos_text_inside"},
    "plain": _REFUSED | {"literal_image_text_only"},
}
CUT_BEFORE_THE_ANSWER = {("single_turn_text", 64), ("multi_turn_text", 64)}
CUT_IN_THE_IMAGE = {("single_turn_image", 64), ("multi_turn_image", 64), ("single_turn_image", 120)} | {
    ("multi_turn_image", 120)
}


def recorded_of(conversation: dict[str, Any], template: str, legacy: str) -> dict[str, Any]:
    """What the official code made of a conversation; the setting is recorded apart where it matters."""
    recorded = conversation["tokenized"][template]
    return recorded["both"] if "both" in recorded else recorded[f"legacy_{legacy}"]


def sample_of(
    conversation: dict[str, Any],
    processor: AlignGPTProcessor,
    template: str = "v1",
    max_length: int = MAX_LENGTH,
    images: int = 1,
) -> Sample:
    """One conversation, written to a file, read, and made a sample of its stage.

    Raises:
        ValueError: Ours refuses it.
    """
    record = {"id": conversation["name"], "conversations": conversation["conversation"]}
    if conversation["has_image"]:
        record["image"] = "tiny.png" if images == 1 else ["tiny.png"] * images
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.json"
        path.write_text(json.dumps([record]), encoding="utf-8")
        source = open_source(path, IMAGES)
        if template == "plain":
            pairs = open_pairs(source)
            pairs.check()
            return PretrainDataset(pairs, processor, None, max_length)[0]
        conversations = open_conversations(source)
        conversations.check()
        return InstructionDataset(conversations, processor, max_length)[0]


def _ours(*arguments: Any) -> tuple[Any, Any]:
    try:
        sample = sample_of(*arguments)
    except ValueError:
        return "refused", "refused"
    return sample["input_ids"], sample["labels"]


def _recorded(recorded: dict[str, Any], processor: AlignGPTProcessor) -> tuple[Any, Any]:
    if "error" in recorded:
        return "refused", "refused"
    labels = labels_of(recorded["input_ids"], recorded["target_spans"])
    return in_our_form(recorded["input_ids"], labels, processor)


def tokenization(converted: Converted) -> Pairs:
    """Ids and labels of every conversation that is not in `DIFFERENT`."""
    recording = read_recording("tokenization")
    pairs: Pairs = {}
    for template, different in DIFFERENT.items():
        for legacy in ("false", "true"):
            processor = converted.processors["v1" if template == "plain" else template, legacy]
            equal = [one for one in recording["conversations"] if one["name"] not in different]
            assert len(equal) == len(recording["conversations"]) - len(different)
            ours = {one["name"]: _ours(one, processor, template) for one in equal}
            recorded = {one["name"]: _recorded(recorded_of(one, template, legacy), processor) for one in equal}
            pairs |= _in_two(f"{template}, legacy {legacy}", ours, recorded)
    return pairs | _small_model_max_length(converted.processors["v1", "false"], recording)


def _small_model_max_length(processor: AlignGPTProcessor, recording: dict[str, Any]) -> Pairs:
    """The tokenizer cuts text alone; rows with an image are recorded before they are cut."""
    conversations = {one["name"]: one for one in recording["conversations"]}
    ours: Cases = {}
    recorded: Cases = {}
    for one in recording["small_model_max_length"]:
        place = one["name"], one["model_max_length"]
        if place not in CUT_BEFORE_THE_ANSWER:
            longest = MAX_LENGTH if place in CUT_IN_THE_IMAGE else one["model_max_length"]
            name = f"{one['name']} at {one['model_max_length']}"
            ours[name] = _ours(conversations[one["name"]], processor, one["template"], longest)
            recorded[name] = _recorded(one, processor)
    assert len(ours) == len(recording["small_model_max_length"]) - len(CUT_BEFORE_THE_ANSWER)
    return _in_two("small_model_max_length", ours, recorded)


def _in_two(prefix: str, ours: Cases, recorded: Cases) -> Pairs:
    """Ids and labels, which come together, as two quantities."""
    pairs: Pairs = {}
    for place, quantity in enumerate(("input_ids", "target_spans")):
        one, other = ({name: value[place] for name, value in side.items()} for side in (ours, recorded))
        pairs[f"{prefix}: {quantity}"] = one, other
    return pairs
