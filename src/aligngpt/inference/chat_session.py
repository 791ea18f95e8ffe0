"""A conversation with a model about images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import TextStreamer

from aligngpt.data.images import load_image
from aligngpt.inference.batch_generation import GenerationSettings, generate_tokens
from aligngpt.inference.prompts import Message, build_user_turn
from aligngpt.modeling.alignment import parse_alignment
from aligngpt.modeling.checkpoints import load_model
from aligngpt.modeling.hub import read_num_levels
from aligngpt.modeling.settings import needs_gate, parse_setting
from aligngpt.modeling.tokens import MARK
from aligngpt.utils.constants import IMAGE_TOKEN
from aligngpt.utils.errors import ArgumentError


@dataclass(frozen=True)
class ChatAnswer:
    """The answer to one turn.

    Attributes:
        text: The answer, stripped.
        alignment: The alignment setting.
        gate_weights: (N - 1); `None` if the setting needs no gate or there is no image.
        token_ids: The generated tokens.
        seconds: Time to generate the answer, without loading the model.
    """

    text: str
    alignment: Any
    gate_weights: list[float] | None
    token_ids: list[int]
    seconds: float


class ChatSession:
    """A model, its processor, and the turns and images of one conversation.

    The key-value cache of earlier turns is reused where it is still valid, so every answer equals that of the whole
    conversation computed from the start. The cache is valid as long as the earlier tokens and the alignment embedding
    are the same: the default gate reads only the turn of the first image, so a new instruction changes neither. It is
    dropped when the alignment setting changes, when the first image comes in a later turn, when the text of an answer
    is tokenized differently from the generated tokens, and always with `gate_text="all"`.

    Args:
        model: Model folder, stage-1 checkpoint or hub name.
        images: Images of the first turn.
        alignment: Alignment setting of every turn; the model's own by default.

    Raises:
        FileNotFoundError: The model folder does not exist.
        BadImage: An image cannot be read.
        ValueError: The alignment setting is unknown, or the model was trained without alignment.
    """

    def __init__(self, model: str | Path, images: Sequence[str | Path] = (), alignment: Any = None) -> None:
        if alignment is not None:
            parse_setting(alignment, read_num_levels(model))  # before the weights are loaded
        self._first_images: list[Image.Image] = [load_image(image) for image in images]
        self.model, self.processor = load_model(model)
        self.alignment: Any = None
        self.messages: list[Message] = []
        self.images: list[Image.Image] = []  # of all turns so far
        self.gate_weights: list[float] | None = None  # of the last answer
        self._cached: _CachedTurns | None = None
        self.set_alignment(alignment)

    @property
    def active_alignment(self) -> Any:
        """The alignment setting of the next turn."""
        return self.model.config.alignment if self.alignment is None else self.alignment

    def set_alignment(self, alignment: Any) -> None:
        """Set the alignment of the following turns; `None` restores the model's own.

        Raises:
            ValueError: The setting is unknown, or the model was trained without alignment.
        """
        if alignment is not None:
            alignment = parse_alignment(alignment, self.model.config.num_alignment_levels)
            if not self.processor.use_alignment and alignment != "none":
                raise ArgumentError(
                    f"the model was trained without alignment; remove the alignment setting {alignment!r}"
                )
        self.alignment = alignment
        self._cached = None

    def ask(
        self,
        prompt: str,
        *,
        images: Sequence[str | Path] = (),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        stream: Callable[[str], None] | None = None,
    ) -> ChatAnswer:
        """Answer one more turn. If it fails or is interrupted, the conversation stays as it was.

        Args:
            prompt: The user's text. Images come before it, or where it has one `<image>` for each of them. In a turn
                without images, `<image>` is ordinary text.
            images: Images of this turn.
            max_new_tokens: Maximum length of the answer.
            temperature: Sampling temperature; 0 means greedy decoding.
            stream: Called with each piece of text; the pieces together are the answer's text.

        Raises:
            BadImage: An image cannot be read.
            ValueError: The prompt is invalid.
        """
        started = time.monotonic()
        new_images = [*(self._first_images if not self.messages else ()), *(load_image(image) for image in images)]
        _check_placeholders(prompt, len(new_images))
        question, all_images = build_user_turn(prompt, len(new_images)), [*self.images, *new_images]
        text = self.processor.render([*self.messages, question], add_generation_prompt=True)
        inputs = self.processor(images=all_images or None, text=text, alignment=self.alignment, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        prompt_ids = inputs["input_ids"][0].tolist()
        cached, self._cached = self._cached, None  # `generate` extends the cache, so it is lost if that fails
        if cached is not None and not cached.is_prefix_of(prompt_ids):
            cached = None
        uses_gate = bool(all_images) and needs_gate(self.active_alignment)
        generated = generate_tokens(
            self.model,
            self.processor,
            inputs,
            GenerationSettings(max_new_tokens, self.alignment, temperature),
            past_key_values=cached.past_key_values if cached else None,
            streamer=_Streamer(self.processor.tokenizer, stream) if stream else None,
        )
        sequence = generated.sequences[0].tolist()
        token_ids = sequence[len(prompt_ids) :]
        answer = self.processor.tokenizer.decode(token_ids, skip_special_tokens=True).strip()
        self.messages += [question, {"role": "assistant", "content": MARK.sub("", answer)}]
        self.images = all_images
        if not uses_gate:
            self.gate_weights = None
        elif generated.gate_weights is not None:  # with a cache the gate is not evaluated again: its input is the same
            self.gate_weights = [round(weight, 5) for weight in generated.gate_weights[0].tolist()]
        if self.model.config.gate_text != "all" or not needs_gate(self.active_alignment):
            self._cached = _CachedTurns(sequence, generated.past_key_values)
        seconds = round(time.monotonic() - started, 3)
        return ChatAnswer(answer, self.active_alignment, self.gate_weights, token_ids, seconds)

    def reset(self) -> None:
        """Clear the conversation; the images of the first turn stay."""
        self.messages, self.images, self.gate_weights, self._cached = [], [], None, None


def _check_placeholders(prompt: str, num_images: int) -> None:
    placeholders = prompt.count(IMAGE_TOKEN)
    if num_images and placeholders not in (0, num_images):
        raise ValueError(
            f"the prompt has {placeholders} {IMAGE_TOKEN} for {num_images} images; write one for each image, or "
            "none to put the images first"
        )


@dataclass
class _CachedTurns:
    """The tokens of the conversation so far and the cache of all of them but the last."""

    tokens: list[int]
    past_key_values: Any

    def is_prefix_of(self, prompt_ids: list[int]) -> bool:
        """Whether a prompt begins with these tokens and the cache holds them."""
        length = len(self.tokens)
        return (
            len(prompt_ids) > length
            and prompt_ids[:length] == self.tokens
            and self.past_key_values.get_seq_length() == length - 1
        )


class _Streamer(TextStreamer):
    """Passes each piece of the answer to a function, without the whitespace around the answer."""

    def __init__(self, tokenizer: Any, stream: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._stream = stream
        self._started = False
        self._whitespace = ""  # held back until more text follows

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = self._whitespace + text if self._started else text.lstrip()
        stripped = text.rstrip()
        self._whitespace = text[len(stripped) :]
        if stripped:
            self._started = True
            self._stream(stripped)


def generate(
    model: str | Path,
    prompt: str,
    *,
    images: Sequence[str | Path] = (),
    alignment: Any = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    stream: Callable[[str], None] | None = None,
) -> ChatAnswer:
    """Load a model and answer one prompt; see `ChatSession` and `ChatSession.ask` for the arguments."""
    session = ChatSession(model, images, alignment)
    return session.ask(prompt, max_new_tokens=max_new_tokens, temperature=temperature, stream=stream)
