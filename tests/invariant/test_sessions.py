"""A session answers each turn as if the whole conversation had been computed from the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aligngpt.inference.chat_session import ChatAnswer, ChatSession
from tests import tiny
from tests.invariant.samples import Built, assert_same_logits

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders for each text of the gate, whose answers are a word and an end as the template writes them."""
    folder = tmp_path_factory.mktemp("sessions")
    for seed in range(3):
        tiny.make_image(seed).save(folder / f"{seed}.png")
    for gate_text in ("instruction", "all"):
        built = tiny.build(folder / "backbones", gate_text=gate_text)
        write_words(built)
        for part in built:
            part.save_pretrained(folder / gate_text)
    return folder


def write_words(built: Built) -> None:
    """Make the model write a space, letters, and `</s>` as the last token; random weights write half characters."""
    model, processor = built
    letters = {processor.tokenizer.convert_tokens_to_ids(letter) for letter in LETTERS}
    space = processor.tokenizer.encode(" ", add_special_tokens=False)[0]
    everything, end = set(range(len(processor.tokenizer))), processor.tokenizer.eos_token_id
    settings = model.generation_config
    settings.suppress_tokens = sorted(everything - letters - {space, end})
    settings.begin_suppress_tokens = sorted(everything - {space})
    settings.forced_eos_token_id = end


class Watched(ChatSession):
    """A session that notes of each turn the logits of its steps and whether it continued from a cache."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logits: list[Tensor] = []
        self.continued: list[bool] = []
        model: Any = self.model
        generate = model.generate

        def watched(**options: Any) -> Any:
            self.continued.append(options["past_key_values"].get_seq_length() > 0)
            output = generate(**options, output_logits=True)
            self.logits.append(torch.stack(output.logits, dim=1)[0])
            return output

        model.generate = watched

    def assert_as_from_the_start(self, result: ChatAnswer, new_tokens: int) -> None:
        """The last turn equals what the model gives for the whole conversation, without any cache."""
        text = self.processor.render(self.messages[:-1], add_generation_prompt=True)
        inputs = self.processor(self.images or None, text, alignment=self.alignment, return_tensors="pt")
        options: dict[str, Any] = {"max_new_tokens": new_tokens, "do_sample": False, "return_dict_in_generate": True}
        output = type(self.model).generate(
            self.model, **inputs, alignment=self.alignment, use_cache=False, output_logits=True, **options
        )
        assert result.token_ids == output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        assert_same_logits(self.logits[-1], torch.stack(output.logits, dim=1)[0])


def talk(session: Watched, folder: Path, *turns: tuple[str, Sequence[int]]) -> None:
    for prompt, images in turns:
        result = session.ask(prompt, images=[folder / f"{seed}.png" for seed in images], max_new_tokens=7)
        session.assert_as_from_the_start(result, 7)


@pytest.mark.parametrize(
    ("first", "later", "continues"),
    [((), (), True), ((0,), (), True), ((0, 1), (), True), ((), (0,), False), ((), (0, 1), False)],
    ids=["no image", "one", "two", "one in the second turn", "two in the second turn"],
)
def test_the_second_and_third_turn_equal_those_from_the_start(
    folder: Path, first: Sequence[int], later: Sequence[int], continues: bool
) -> None:
    session = Watched(folder / "instruction")
    talk(session, folder, ("What is it?", first), ("Describe all of it, word by word.", later), ("Why?", ()))
    assert session.continued == [False, continues, True]


@pytest.mark.parametrize("later", [(1,), (1, 2)], ids=["one", "two"])
def test_a_new_image_in_the_second_turn_equals_one_from_the_start(folder: Path, later: Sequence[int]) -> None:
    talk(Watched(folder / "instruction"), folder, ("What is it?", (0,)), ("And here?", later), ("Why?", ()))


def test_an_incomplete_or_differently_tokenized_answer_changes_nothing(folder: Path) -> None:
    """Whether the answer's tokens are those of its text, or it ends in half a character and is computed again."""
    session = Watched(folder / "instruction", [folder / "0.png"])
    settings = session.model.generation_config
    settings.forced_eos_token_id = None
    talk(session, folder, ("What is it?", ()), ("Why?", ()))
    settings.suppress_tokens = settings.begin_suppress_tokens = None
    talk(session, folder, ("And now?", ()), ("Why?", ()))
    assert session.continued == [False, True, True, False]


def test_changing_the_setting_equals_starting_with_it(folder: Path) -> None:
    session = Watched(folder / "instruction", [folder / "0.png"])
    for setting in (None, 2, 2, "none", "global"):
        session.set_alignment(setting)
        talk(session, folder, ("What is it?", ()))
    assert session.continued == [False] * 5
    talk(session, folder, ("And why?", ()))
    assert session.continued[-1]


def test_gate_text_all_computes_every_turn_from_the_start(folder: Path) -> None:
    session = Watched(folder / "all", [folder / "0.png"])
    talk(session, folder, ("What is it?", ()), ("Describe all of it, word by word.", ()), ("And here?", (1,)))
    assert session.continued == [False] * 3
    session.set_alignment("global")  # reads no gate, so what was computed stays true
    talk(session, folder, ("What is it?", ()), ("Why?", ()))
    assert session.continued[3:] == [False, True]
