"""A loaded model that answers: the one place where prompts become generated text outside of benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import TextStreamer

from aligngpt.data.images import load_image
from aligngpt.data.schema import IMAGE_PLACEHOLDER
from aligngpt.inference.prompts import move_image_to_front
from aligngpt.modeling import parse_alignment
from aligngpt.modeling.alignment import needs_gate
from aligngpt.modeling.checkpoints import load_model
from aligngpt.modeling.tokens import MARK

Message = dict[str, Any]


class ChatSession:
    """A model, its processor, the images in view and what has been said.

    Keys and values of the earlier turns are kept where they are still true, and the answer is the one that the whole
    conversation gives from the start. They are true as long as the tokens in front and the alignment embedding are the
    same: the default gate reads the turn of the first image alone, so a new instruction changes neither. They are
    dropped when the setting changes, when an image comes first in a later turn, when an answer is tokenized in another
    way than it was written, and always with the official code's gate, which reads the whole prompt.

    Args:
        model: Model folder or stage-1 checkpoint.
        images: Images that the conversation is about; they stand in its first turn.
        alignment: The setting of every turn, the model's own by default.

    Raises:
        FileNotFoundError: The model folder does not exist.
        BadImage: An image cannot be read.
        ValueError: The alignment setting is not known, or the model was trained without alignment.
    """

    def __init__(self, model: str | Path, images: Sequence[str | Path] = (), alignment: Any = None) -> None:
        self._first_images: list[Image.Image] = [load_image(image) for image in images]
        self.model, self.processor = load_model(model)
        self.alignment: Any = None
        self.messages: list[Message] = []
        self.images: list[Image.Image] = []  # all that have been shown so far
        self._past: _Past | None = None
        self.set_alignment(alignment)

    def set_alignment(self, alignment: Any) -> None:
        """Change the setting from the next turn on; `None` is the model's own.

        Raises:
            ValueError: The setting is not known, or the model was trained without alignment and has nothing to set.
        """
        if alignment is not None:
            alignment = parse_alignment(alignment, self.model.config.num_alignment_levels)
            if not self.processor.use_alignment and alignment != "none":
                raise ValueError(f"the model was trained without alignment: leave out the setting {alignment!r}")
        self.alignment = alignment
        self._past = None

    def ask(
        self,
        prompt: str,
        *,
        images: Sequence[str | Path] = (),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        stream: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Answer one more turn.

        Args:
            prompt: What the user says. The turn's images stand in front of it; several stand where it has one
                `<image>` for each of them. Without images `<image>` is words.
            images: Images that come with this turn.
            max_new_tokens: Longest answer.
            temperature: 0 takes the likeliest token, more samples.
            stream: Called with each piece of text as it is written; together they are the answer's text.

        Returns:
            `text`, `alignment`, `gate_weights` (N - 1, or `None` where no gate is read), `token_ids` of the answer,
            `new_tokens` (their number), `seconds`.

        Raises:
            BadImage: An image cannot be read.
            ValueError: The prompt cannot be asked; the conversation is as it was.
        """
        started = time.monotonic()
        new_images = [*(self._first_images if not self.messages else ()), *(load_image(image) for image in images)]
        asked, all_images = _turn(prompt, len(new_images)), [*self.images, *new_images]
        inputs = self._inputs([*self.messages, asked], all_images)
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        past, self._past = self._past, None
        prompt_ids = inputs["input_ids"][0].tolist()
        result = self.model.generate(
            **inputs,
            **sampling,
            alignment=self.alignment,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            streamer=_Streamer(self.processor.tokenizer, stream) if stream else None,
            past_key_values=past.cache if past is not None and past.leads_to(prompt_ids) else None,
            return_dict_in_generate=True,
        )
        sequence = result.sequences[0].tolist()
        written = sequence[len(prompt_ids) :]
        answer = self.processor.tokenizer.decode(written, skip_special_tokens=True).strip()
        self.messages += [asked, {"role": "assistant", "content": MARK.sub("", answer)}]
        self.images = all_images
        setting = self.model.config.alignment if self.alignment is None else self.alignment
        if self.model.config.gate_text != "all" or not needs_gate(setting):
            self._past = _Past(sequence, result.past_key_values)
        return {
            "text": answer,
            "alignment": setting,
            "gate_weights": self._gate_weights(inputs),
            "token_ids": written,
            "new_tokens": len(written),
            "seconds": round(time.monotonic() - started, 3),
        }

    def _inputs(self, messages: list[Message], images: list[Image.Image]) -> Any:
        text = self.processor.render(messages, add_generation_prompt=True)
        inputs = self.processor(images=images or None, text=text, alignment=self.alignment, return_tensors="pt")
        return inputs.to(self.model.device)

    def _gate_weights(self, inputs: Any) -> list[float] | None:
        setting = self.model.config.alignment if self.alignment is None else self.alignment
        if not self.images or not needs_gate(setting):
            return None
        return [round(weight, 5) for weight in self.model.gate(**inputs)[0][0].tolist()]

    def reset(self) -> None:
        """Forget what has been said; the images of the beginning stay."""
        self.messages, self.images, self._past = [], [], None


def _turn(prompt: str, num_images: int) -> Message:
    """A user's turn with its images where the prompt has them, in front of it otherwise."""
    marks = prompt.count(IMAGE_PLACEHOLDER)
    if num_images and marks == num_images:
        return {"role": "user", "content": move_image_to_front(prompt)}
    if num_images and marks:
        raise ValueError(
            f"the prompt has {marks} {IMAGE_PLACEHOLDER} for {num_images} images: give one for each, or none to put "
            "the images in front"
        )
    return {"role": "user", "content": [{"type": "image"}] * num_images + [{"type": "text", "text": prompt}]}


@dataclass
class _Past:
    """The tokens of a conversation so far, and keys and values of all of them but the last."""

    tokens: list[int]
    cache: Any

    def leads_to(self, prompt: list[int]) -> bool:
        """Whether a prompt begins with these very tokens and the cache holds them."""
        return (
            len(prompt) > len(self.tokens)
            and prompt[: len(self.tokens)] == self.tokens
            and self.cache.get_seq_length() == len(self.tokens) - 1
        )


class _Streamer(TextStreamer):
    """Hands each piece of the answer to a function instead of printing it, without the space around the answer."""

    def __init__(self, tokenizer: Any, stream: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._stream = stream
        self._begun = False
        self._space = ""  # held back until more text follows

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = self._space + text if self._begun else text.lstrip()
        written = text.rstrip()
        self._space = text[len(written) :]
        if written:
            self._begun = True
            self._stream(written)


def generate(
    model: str | Path,
    images: Sequence[str | Path],
    prompt: str,
    *,
    alignment: Any = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    stream: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Load a model and answer one prompt; see `ChatSession` and `ChatSession.ask`."""
    session = ChatSession(model, images, alignment)
    return session.ask(prompt, max_new_tokens=max_new_tokens, temperature=temperature, stream=stream)
