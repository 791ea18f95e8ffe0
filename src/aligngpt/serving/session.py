"""A loaded model that answers: the one place where prompts become generated text outside of benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import TextStreamer

from aligngpt.data.images import load_image
from aligngpt.modeling import parse_alignment
from aligngpt.modeling.alignment import needs_gate
from aligngpt.modeling.checkpoints import load_model

Message = dict[str, Any]


class Session:
    """A model, its processor, the pictures in view and what has been said.

    The alignment embedding depends on every instruction of the conversation, and it stands before all of them: a
    key-value cache kept from an earlier turn would hold it as it was then. Every turn therefore starts from the whole
    conversation.

    Args:
        model: Model folder or stage-1 checkpoint.
        images: Pictures that the conversation is about; they stand in front of its first turn.
        alignment: The setting of every turn, the model's own by default.

    Raises:
        FileNotFoundError: The model folder does not exist.
        BadImage: A picture cannot be read.
        ValueError: The alignment setting is not known, or the model was trained without alignment.
    """

    def __init__(self, model: str | Path, images: Sequence[str | Path] = (), alignment: Any = None) -> None:
        self.images: list[Image.Image] = [load_image(image) for image in images]
        self.model, self.processor = load_model(model)
        self.alignment: Any = None
        self.set_alignment(alignment)
        self.messages: list[Message] = []

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

    def ask(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        stream: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Answer one more turn.

        Args:
            prompt: What the user says.
            max_new_tokens: Longest answer.
            temperature: 0 takes the likeliest token, more samples.
            stream: Called with each piece of text as it is written; together they are the answer's text.

        Returns:
            `text`, `alignment`, `gate_weights` (N - 1, or `None` where no gate is read), `new_tokens`, `seconds`.

        Raises:
            ValueError: The prompt cannot be asked; the conversation is as it was.
        """
        started = time.monotonic()
        marks = "<image>\n" * len(self.images) if not self.messages else ""
        asked: Message = {"role": "user", "content": marks + prompt}
        text = self.processor.render([*self.messages, asked], add_generation_prompt=True)
        inputs = self.processor(
            images=self.images or None, text=text, alignment=self.alignment, return_tensors="pt"
        ).to(self.model.device)
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        written = self.model.generate(
            **inputs,
            **sampling,
            alignment=self.alignment,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            streamer=_Streamer(self.processor.tokenizer, stream) if stream else None,
        )[0, inputs["input_ids"].shape[1] :]
        answer = self.processor.tokenizer.decode(written, skip_special_tokens=True).strip()
        self.messages += [asked, {"role": "assistant", "content": answer}]
        return {
            "text": answer,
            "alignment": self.model.config.alignment if self.alignment is None else self.alignment,
            "gate_weights": self._gate_weights(inputs),
            "new_tokens": len(written),
            "seconds": round(time.monotonic() - started, 3),
        }

    def _gate_weights(self, inputs: Any) -> list[float] | None:
        setting = self.model.config.alignment if self.alignment is None else self.alignment
        if not self.images or not needs_gate(setting):
            return None
        return [round(weight, 5) for weight in self.model.gate(**inputs)[0][0].tolist()]

    def reset(self) -> None:
        """Forget what has been said; the pictures stay."""
        self.messages.clear()


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
    """Load a model and answer one prompt; see `Session` and `Session.ask`."""
    session = Session(model, images, alignment)
    return session.ask(prompt, max_new_tokens=max_new_tokens, temperature=temperature, stream=stream)
