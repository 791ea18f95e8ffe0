"""The recorded answers from the command, a session, and a left-padded batch."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from aligngpt.cli import cli
from aligngpt.inference.chat_session import ChatSession
from tests.parity.deviations import deviation
from tests.parity.ours import Converted
from tests.parity.prompts import NEW_TOKENS, generated, images_of, messages_of
from tests.parity.recorded import IMAGES, Arrays, read_recording
from tests.parity.tolerances import LOGITS

PROMPTS: dict[str, Any] = {prompt["name"]: prompt for prompt in read_recording("inference")}


@pytest.mark.parametrize("name", ["prompt_0", "prompt_2"])
def test_the_command_writes_the_recorded_answer(converted: Converted, name: str) -> None:
    recorded = PROMPTS[name]
    image = ["--image", str(IMAGES / recorded["image"])] if recorded["image"] else []
    asked = ["--prompt", recorded["turns"][0][0], "--max-new-tokens", str(NEW_TOKENS), "--json"]
    result = CliRunner().invoke(cli, ["generate", "--model", str(converted.complete.folder), *image, *asked])
    answer = json.loads(result.stdout)
    assert answer["token_ids"] == recorded["new_tokens"]
    assert answer["text"] == recorded["text"].strip()  # ours leaves out the space around an answer
    if image:
        assert answer["gate_weights"] == pytest.approx(Arrays("inference")[f"{name}_gate_weights"].tolist(), abs=1e-5)
    else:
        assert answer["gate_weights"] is None


def test_a_session_continues_with_the_second_turn(converted: Converted) -> None:
    recorded = PROMPTS["prompt_1"]
    session = ChatSession(converted.complete.folder)
    *session.messages, question = messages_of(recorded)
    session.images = images_of(recorded)
    answer = session.ask(question["content"], max_new_tokens=NEW_TOKENS)
    assert answer.token_ids == recorded["new_tokens"]
    assert (answer.text, recorded["text"]) == ("ld%s;\ufffd 'sw \"=ckld", "ld%s;\ufffd 'sw \"=ckld\f")


def test_a_left_padded_batch_gives_the_recorded_answers(converted: Converted) -> None:
    # The official code puts the alignment into the padding there, so it can only be asked one prompt at a time.
    model, processor = converted.complete.model, converted.complete.processor
    texts = [processor.render(messages_of(prompt), add_generation_prompt=True) for prompt in PROMPTS.values()]
    images = [images_of(prompt) for prompt in PROMPTS.values()]
    inputs = processor(images=images, text=texts, return_tensors="pt")
    assert inputs["attention_mask"].sum(-1).tolist() == [652, 688, 73]
    output, _ = generated(converted.complete, inputs)
    written = output.sequences[:, inputs["input_ids"].shape[1] :]
    assert torch.equal(written, torch.tensor([prompt["new_tokens"] for prompt in PROMPTS.values()]))
    arrays, gate_weights = Arrays("inference"), model.get_gate_weights(**inputs)[0]
    for row, name in enumerate(PROMPTS):
        logits = torch.stack([step[row, :600] for step in output.logits])
        assert deviation(logits, arrays[f"{name}_step_logits"]) <= LOGITS.bound
        if PROMPTS[name]["image"]:
            assert deviation(gate_weights[row], arrays[f"{name}_gate_weights"]) <= 1e-6


def test_without_a_cache_the_gate_still_reads_the_prompt_alone(converted: Converted) -> None:
    recorded, processor = PROMPTS["prompt_0"], converted.complete.processor
    text = processor.render(messages_of(recorded), add_generation_prompt=True)
    inputs = processor(images=images_of(recorded), text=text, return_tensors="pt")
    output = converted.complete.model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        use_cache=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.cat(output.logits)[:, :600]
    assert deviation(logits, Arrays("inference")["prompt_0_step_logits"]) <= LOGITS.bound
