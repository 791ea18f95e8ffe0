"""The gate reads the text of one turn, never the answers: the same in training and in every turn of inference."""

from __future__ import annotations

import pytest
import torch

from aligngpt.inference.prompts import move_image_to_front
from aligngpt.training.datasets import InstructionDataset
from tests.invariant.samples import (
    ALL,
    CONVERSATIONS,
    ONE,
    Built,
    images_of,
    messages_of,
    training_batch,
)

IN_ONE_TURN = [name for name in ALL if images_of(name) and name != "images in two turns"]


def gate_of_prompt(built: Built, name: str, turns: int) -> torch.Tensor:
    """What the gate says when the last of so many turns is to be answered, (N - 1,)."""
    model, processor = built
    said = CONVERSATIONS[name][:turns]
    messages = [{**one, "content": move_image_to_front(one["content"])} for one in messages_of(said)]
    images = images_of(name)[: "".join(said).count("<image>")]
    text = processor.render(messages, add_generation_prompt=True)
    return model.get_gate_weights(**processor(images, text, return_tensors="pt"))[0][0]


def gate_of_sample(built: Built, dataset: InstructionDataset, name: str) -> torch.Tensor:
    with torch.no_grad():
        batch = training_batch(dataset, ALL.index(name))
        return built[0](**batch, return_gate_weights=True).gate_weights[0]


def questions_with_a_image(name: str) -> list[int]:
    """After how many turns there is something to answer and an image in view."""
    turns = CONVERSATIONS[name]
    return [end for end in range(1, len(turns), 2) if "<image>" in "".join(turns[:end])]


@pytest.mark.parametrize("name", IN_ONE_TURN)
def test_a_training_sample_has_the_gate_of_each_of_its_questions(
    built: Built, dataset: InstructionDataset, name: str
) -> None:
    expected = gate_of_sample(built, dataset, name)
    for turns in questions_with_a_image(name):
        torch.testing.assert_close(gate_of_prompt(built, name, turns), expected, atol=1e-6, rtol=0)


def test_an_image_in_a_later_turn_does_not_change_earlier_gates(built: Built, dataset: InstructionDataset) -> None:
    expected = gate_of_sample(built, dataset, "images in two turns")
    for turns in questions_with_a_image("images in two turns"):
        torch.testing.assert_close(gate_of_prompt(built, "images in two turns", turns), expected, atol=1e-6, rtol=0)


def test_the_gate_reads_the_words_of_the_turn_with_the_first_image(built: Built, dataset: InstructionDataset) -> None:
    processor = built[1]
    read = []
    for sample in (dataset[index] for index in range(len(ALL))):
        masked = zip(sample["input_ids"], sample["instruction_mask"], strict=True)
        words = [token for token, kept in masked if kept and token != processor.image_token_id]
        read.append(processor.tokenizer.decode(words))
    assert read == [
        "\nHow many shapes?",
        "Good morning. Who are you?",
        "\nWhat stands here?",
        "\nIs this  the same?",
        "Which is larger? ",
        "Say a word.",
        "\nWhat is that?",
        "\nWhat?",
    ]


@pytest.mark.parametrize("name", [ONE, "two at the end"])
def test_only_the_answers_change_and_nothing_before_them_does(fresh: Built, name: str) -> None:
    model, processor = fresh
    turns = CONVERSATIONS[name]
    others = tuple("There is nothing at all." if place % 2 else text for place, text in enumerate(turns))

    def run(said: tuple[str, ...], gate_text: str) -> tuple[torch.Tensor, torch.Tensor]:
        model.config.gate_text = gate_text
        inputs = processor(images_of(name), processor.render(messages_of(said)), return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs, return_gate_weights=True)
        asked = processor.encode(processor.render(messages_of(said[:1]), add_generation_prompt=True))
        return output.gate_weights, output.logits[:, : len(asked.input_ids)]

    (gate, logits), (other_gate, other_logits) = (run(said, "instruction") for said in (turns, others))
    assert torch.equal(gate, other_gate)
    torch.testing.assert_close(logits, other_logits, atol=1e-5, rtol=0)
    (gate, _), (other_gate, _) = (run(said, "all") for said in (turns, others))
    assert (gate - other_gate).abs().max() > 1e-3  # the official code's gate reads them
