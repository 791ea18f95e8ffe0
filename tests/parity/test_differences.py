"""Intended differences from the official code: both values. docs/about/differences.md has the reasons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aligngpt.data.schema import Turn
from aligngpt.modeling.conversion.official_config import to_official_name
from aligngpt.training.datasets import IGNORED
from tests.parity.comparisons import BATCHES
from tests.parity.conversations import CUT_BEFORE_THE_ANSWER, CUT_IN_THE_IMAGE, DIFFERENT, recorded_of, sample_of
from tests.parity.deviations import deviation
from tests.parity.ours import Converted, collated, dataset, forward, gradients
from tests.parity.recorded import IMAGE, IMAGES, Arrays, in_our_form, labels_of, read_recording
from tests.source_files import indexed

UNKNOWN = 0  # and padding, in the official code


# -------------------------------------------------------------------------------------------------------------- batches


def test_rows_keep_the_batchs_order(converted: Converted) -> None:
    recorded = Arrays("finetune_mixed")
    batch = collated("finetune_mixed", converted.complete)
    assert recorded["row_to_sample"].tolist() == [0, 2, 1]
    assert [deviation(batch["labels"][row], recorded["expanded_labels"][row]) == 0 for row in range(3)] == [1, 0, 0]
    assert converted.complete.rows_with_image(batch) == [0, 2]


def test_a_text_sample_keeps_its_length_in_a_batch_with_shorter_image_samples(converted: Converted) -> None:
    samples = dataset("finetune_truncated", converted.complete.processor, 700)
    batch = converted.complete.batch([samples[1], samples[2]])
    text, image = batch["attention_mask"].sum(-1).tolist()
    official = batch["labels"][0, :image]  # cut to the width of the image rows
    assert (text, image) == (700, 653)
    assert (int((batch["labels"][0] != IGNORED).sum()), int((official != IGNORED).sum())) == (628, 581)


def test_the_gate_of_a_truncated_row_reads_the_remaining_text(converted: Converted) -> None:
    recorded, model = Arrays("finetune_truncated"), converted.complete.model
    batch = collated("finetune_truncated", converted.complete, 700)
    result = forward(model, batch)
    weights = result.output.gate_weights[converted.complete.rows_with_image(batch)]
    assert deviation(weights[1], recorded["gate_weights"][1]) < 1e-6  # the sample that is not cut
    assert recorded["gate_weights"][0].tolist() == pytest.approx(
        [0.162, 0.082, 0.378, 0.117, 0.090, 0.081, 0.090], abs=1e-3
    )
    assert weights[0].tolist() == pytest.approx([0.213, 0.101, 0.316, 0.099, 0.094, 0.081, 0.096], abs=1e-3)
    assert float(recorded["loss"]) == pytest.approx(8.75753, abs=1e-5)
    assert result.loss_of_kept == pytest.approx(8.75541, abs=1e-5)


def test_the_gradients_of_a_truncated_row_follow_its_gate(converted: Converted) -> None:
    recorded = Arrays("gradients")["finetune_truncated/gated_weight_layer.mlp.2.bias"]
    batch = collated("finetune_truncated", converted.complete, 700)
    found = gradients(converted.complete.model, batch, "finetune")
    assert 0.01 < deviation(found.of["alignment_gate.linear_2.bias"], recorded, relative=True) < 1


def test_the_official_gate_reads_the_answer_and_the_default_one_does_not(
    converted: Converted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded, recorded = converted.complete, Arrays("finetune_mixed")["gate_weights"][0]
    samples = dataset("finetune_mixed", loaded.processor)
    conversation = samples.records[0]
    answer = Turn("assistant", "No, a kite!")
    changed = replace(conversation, turns=(conversation.turns[0], answer))
    samples.records = indexed([conversation, changed], IMAGES, tmp_path)
    as_recorded, otherwise = (loaded.batch([samples[index]]) for index in (0, 1))

    def gate_weights(batch: dict[str, Any]) -> torch.Tensor:
        return forward(loaded.model, batch).output.gate_weights[0]

    assert deviation(gate_weights(as_recorded), recorded) < 1e-6
    assert deviation(gate_weights(otherwise), recorded) > 1e-2
    monkeypatch.setattr(loaded.model.config, "gate_text", "instruction")
    assert deviation(gate_weights(as_recorded), recorded) > 1e-2
    assert deviation(gate_weights(otherwise), gate_weights(as_recorded)) == 0


def test_an_unknown_token_stays_in_the_text(converted: Converted) -> None:
    for recording in BATCHES:
        arrays = Arrays(recording)
        assert (arrays["attention_mask"] == (arrays["input_ids"] != UNKNOWN)).all()
    sample = dataset("finetune_text_only", converted.complete.processor)[0]
    sample["input_ids"][5] = UNKNOWN
    batch = converted.complete.batch([sample])
    official = batch["input_ids"] != UNKNOWN
    assert (int(batch["attention_mask"].sum()), int(official.sum())) == (
        len(sample["input_ids"]),
        len(sample["input_ids"]) - 1,
    )


# ------------------------------------------------------------------------------------------------------------ gradients


def test_without_an_image_gate_and_projector_have_no_gradient(
    converted: Converted,
) -> None:
    recorded = read_recording("gradients")["finetune_text_only"]["grad_norm"]
    zero = {name for name, norm in recorded.items() if norm == 0}
    found = gradients(converted.complete.model, collated("finetune_text_only", converted.complete), "finetune")
    assert {name.split(".")[0] for name in zero} == {"mm_projector", "gated_weight_layer"} and len(zero) == 8
    assert {to_official_name(name) for name in found.trainable if name not in found.of} == zero
    arrays = Arrays("gradients")
    assert not any(arrays[name].any() for name in arrays if name.startswith("finetune_text_only/"))


@pytest.mark.parametrize("data", ["pretrain", "finetune_mixed", "finetune_truncated"])
def test_with_images_every_gradient_exists_in_both(converted: Converted, data: str) -> None:
    loaded = converted.trained_on(data)
    found = gradients(loaded.model, collated(data, loaded), "pretrain" if data == "pretrain" else "finetune")
    assert all(read_recording("gradients")[data]["grad_norm"].values())
    assert set(found.of) == set(found.trainable)


def test_the_rows_of_the_placeholders_which_the_official_vocabulary_lacks_do_not_learn(converted: Converted) -> None:
    words = Arrays("finetune_mixed")["logits"].shape[-1]
    found = gradients(converted.complete.model, collated("finetune_mixed", converted.complete), "finetune")
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        assert found.of[name].shape[0] == words + 2
        assert not found.of[name][words:].any()


# -------------------------------------------------------------------------------------------------------- conversations


def conversation_of(name: str) -> dict[str, Any]:
    return next(one for one in read_recording("tokenization")["conversations"] if one["name"] == name)


def spans_of(labels: list[int]) -> list[list[int]]:
    learned = [place for place, label in enumerate(labels) if label != IGNORED]
    starts = [place for place in learned if place - 1 not in learned]
    return [[start, next(end for end in range(start, len(labels) + 1) if end not in learned)] for start in starts]


REFUSED = {
    "image_twice_in_the_middle": "2 <image> in the questions, 1 in `image`",
    "empty_answer": "empty caption or answer in turn 2",
    "ends_with_human": "the last turn \\(3\\) has no answer",
    "literal_image_text_only": "a pair has one image, this record has none",
}
# Template, conversation, and what the official code learns of it.
NOT_AS_RECORDED = [
    ("v1", "image_twice_in_the_middle", [[84, 91]]),
    ("v1", "empty_answer", []),
    ("v1", "ends_with_human", []),
    ("llama_2", "image_twice_in_the_middle", [[305, 313]]),
    ("llama_2", "empty_answer", []),
    ("llama_2", "ends_with_human", []),
    ("plain", "image_twice_in_the_middle", [[2, 9]]),
    ("plain", "empty_answer", [[2, 4]]),
    ("plain", "literal_image_text_only", [[2, 7]]),
]
LEARNED = {"separator_inside", "eos_text_inside"}


def test_every_conversation_that_is_not_compared_is_shown_here() -> None:
    shown = {(template, name) for template, name, _ in NOT_AS_RECORDED}
    shown |= {("v1", "separator_inside"), ("v1", "eos_text_inside"), ("llama_2", "eos_text_inside")}
    assert shown == {(template, name) for template, names in DIFFERENT.items() for name in names}


@pytest.mark.parametrize("legacy", ["false", "true"])
@pytest.mark.parametrize(("template", "name", "spans"), NOT_AS_RECORDED)
def test_records_that_are_refused(converted: Converted, template: str, name: str, spans: Any, legacy: str) -> None:
    conversation = conversation_of(name)
    assert recorded_of(conversation, template, legacy)["target_spans"] == spans
    processor = converted.processors["v1" if template == "plain" else template, legacy]
    with pytest.raises(ValueError, match=REFUSED[name]):
        sample_of(conversation, processor, template)


def test_two_placeholders_are_two_images(converted: Converted) -> None:
    conversation, processor = conversation_of("image_twice_in_the_middle"), converted.complete.processor
    recorded = recorded_of(conversation, "v1", "false")["input_ids"]
    sample = sample_of(conversation, processor, images=2)
    words = processor.tokenizer.decode(sample["input_ids"]).split("<image>" * processor.image_seq_length)
    assert recorded.count(IMAGE) == 1 and recorded.index(IMAGE) == 64  # one image, in front
    assert [words[0][-14:], *words[1:]] == ["USER: Look at ", "  and ", "  closely. ASSISTANT: I see a cat.</s>"]
    assert len(sample["pixel_values"]) == 2


@pytest.mark.parametrize("legacy", ["false", "true"])
def test_an_answer_has_labels_although_the_question_contains_the_separator(converted: Converted, legacy: str) -> None:
    conversation = conversation_of("separator_inside")
    recorded = recorded_of(conversation, "v1", legacy)
    sample = sample_of(conversation, converted.processors["v1", legacy])
    assert sample["input_ids"] == recorded["input_ids"]
    assert (recorded["target_spans"], recorded["mismatch_warning"]) == ([], True)
    assert spans_of(sample["labels"]) == [[71, 74]]


@pytest.mark.parametrize("legacy", ["false", "true"])
@pytest.mark.parametrize(
    ("template", "answers"), [("v1", "A mark.</s> Yes.</s>"), ("llama_2", "A mark. </s> Yes. </s>")]
)
def test_an_end_token_that_a_user_types_is_words(
    converted: Converted, template: str, answers: str, legacy: str
) -> None:
    conversation = conversation_of("eos_text_inside")
    recorded, processor = recorded_of(conversation, template, legacy), converted.processors[template, legacy]
    end = processor.tokenizer.eos_token_id
    sample = sample_of(conversation, processor, template)
    assert (recorded["input_ids"].count(end), sample["input_ids"].count(end)) == (3, 2)
    learned = [label for label in sample["labels"] if label != IGNORED]
    assert (recorded["target_spans"], processor.tokenizer.decode(learned)) == ([], answers)
    assert "What is </s> here?" in processor.tokenizer.decode(sample["input_ids"])


def test_a_sample_truncated_before_its_answer_has_no_labels(converted: Converted) -> None:
    recording = {
        (one["name"], one["model_max_length"]): one for one in read_recording("tokenization")["small_model_max_length"]
    }
    processor = converted.complete.processor
    for name, longest in CUT_BEFORE_THE_ANSWER:
        assert recording[name, longest]["target_spans"] == []  # a batch of such samples has the loss NaN
        sample = sample_of(conversation_of(name), processor, max_length=longest)
        assert (len(recording[name, longest]["input_ids"]), sample["labels"]) == (longest, [IGNORED])
    for name, longest in CUT_IN_THE_IMAGE:
        recorded = recording[name, longest]
        labels = labels_of(recorded["input_ids"], recorded["target_spans"])
        ids, labels = in_our_form(recorded["input_ids"], labels, processor, longest)
        assert ids.count(processor.image_token_id) < 576 and spans_of(labels) == []
        assert sample_of(conversation_of(name), processor, max_length=longest)["labels"] == [IGNORED]
