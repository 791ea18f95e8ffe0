"""The recorded prompts, one at a time."""

from __future__ import annotations

from typing import Any

from PIL import Image

from aligngpt.data.images import load_image
from aligngpt.modeling.tokens import MARK
from tests.parity.deviations import Cases, Pairs
from tests.parity.ours import Converted, Loaded, Seen, watched
from tests.parity.recorded import IMAGES, in_our_form, opened, read_recording

NEW_TOKENS = 12


def messages_of(recorded: dict[str, Any]) -> list[dict[str, str]]:
    """The turns of a recorded prompt; its image stands in the first."""
    mark = "<image>\n" if recorded["image"] else ""
    messages = []
    for number, (question, answer) in enumerate(recorded["turns"]):
        messages.append({"role": "user", "content": (mark if number == 0 else "") + question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return messages


def images_of(recorded: dict[str, Any]) -> list[Image.Image]:
    """The image of a recorded prompt, if it has one."""
    return [load_image(IMAGES / recorded["image"])] if recorded["image"] else []


def generated(loaded: Loaded, inputs: Any) -> tuple[Any, Seen]:
    """Twelve likeliest tokens, with the logits of each step and what the model saw of the prompt."""
    with watched(loaded.model) as seen:
        output = loaded.model.generate(
            **inputs, do_sample=False, max_new_tokens=NEW_TOKENS, output_logits=True, return_dict_in_generate=True
        )
    return output, seen[0]


def inference(converted: Converted) -> Pairs:
    """Prompt, tokens, what the gate made of them, and the twelve tokens that follow."""
    ours: dict[str, Cases] = {}
    recorded: dict[str, Cases] = {}
    for prompt in read_recording("inference"):
        for quantity, value in _ours(converted.complete, prompt).items():
            ours.setdefault(quantity, {})[prompt["name"]] = value
        for quantity, value in _recorded(converted.complete, prompt).items():
            recorded.setdefault(quantity, {})[prompt["name"]] = value
    return {quantity: (ours[quantity], recorded[quantity]) for quantity in ours}


def _ours(loaded: Loaded, prompt: dict[str, Any]) -> dict[str, Any]:
    processor, images = loaded.processor, images_of(prompt)
    text = processor.render(messages_of(prompt), add_generation_prompt=True)
    inputs = processor(images=images or None, text=text, return_tensors="pt")
    output, seen = generated(loaded, inputs)
    written = output.sequences[0, inputs["input_ids"].shape[1] :]
    words = opened("inference")["prompt_2_step_logits"].shape[-1]  # without the two placeholders
    logits = [step[0, :words] for step in output.logits]
    top = [step.topk(2).values for step in logits]
    found = {
        "prompt": MARK.sub("", text).removeprefix(processor.tokenizer.bos_token),
        "input_ids": inputs["input_ids"][0],
        "new_tokens": written,
        "text": processor.tokenizer.decode(written),
        "step_logits": [step.tolist() for step in logits],
        "top1_minus_top2": [(first - second).item() for first, second in top],
    }
    if images:
        gate_weights, dots = loaded.model.get_gate_weights(**inputs)
        assert seen.text_means is not None
        found |= {
            "position_ids": seen.position_ids[0],
            "gate_text_mean": seen.text_means[0],
            "gate_dots": dots[0],
            "gate_weights": gate_weights[0],
            "align_vector": seen.inputs_embeds[0, 1],
        }
    return found


def _recorded(loaded: Loaded, prompt: dict[str, Any]) -> dict[str, Any]:
    arrays, name = opened("inference"), prompt["name"]
    found = {quantity: prompt[quantity] for quantity in ("prompt", "new_tokens", "text", "top1_minus_top2")}
    found["input_ids"] = in_our_form(prompt["input_ids"], prompt["input_ids"], loaded.processor)[0]
    return found | {key.removeprefix(f"{name}_"): arrays[key] for key in arrays if key.startswith(name)}
