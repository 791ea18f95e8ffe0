"""The processor of an AlignGPT model: conversations and images to model inputs."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.image_utils import load_image as hub_load_image
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils.chat_template_utils import render_jinja_template

from aligngpt.modeling.configuration import AlignGPTConfig
from aligngpt.modeling.hub import resolve_model
from aligngpt.modeling.settings import needs_gate
from aligngpt.modeling.tokens import MARK, MARKS, Encoding, TextEncoder
from aligngpt.utils.constants import ALIGN_TOKEN, IMAGE_TOKEN

logger = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
_INCLUDE = re.compile(r'\{%- include "(\w+)" -%\}\n')
IMAGE_ASPECT_RATIOS = ("pad", "square")
_INSTRUCTION, _INSTRUCTION_END = MARKS["instruction_start"], MARKS["instruction_end"]
_ANSWER, _ANSWER_END = MARKS["answer_start"], MARKS["answer_end"]

Message = dict[str, Any]


class AlignGPTProcessor(ProcessorMixin):
    """Tokenizer, image processor and chat template of an AlignGPT model, saved and loaded with it.

    Args:
        image_processor: Of the vision tower.
        tokenizer: A fast tokenizer; `<image>` and `<align>` are added if it lacks them.
        chat_template: A Jinja template; see `tokens` for its marks.
        image_seq_length: P, the tokens per image.
        image_aspect_ratio: `"pad"`: first pad to a square with the mean color; `"square"`: only resize and crop.
        use_alignment: Insert `<align>` into samples with an image; off for a model trained without alignment.

    Raises:
        ValueError: The tokenizer is slow, or `image_aspect_ratio` is unknown.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_seq_length: int = 576,
        image_aspect_ratio: str = "pad",
        use_alignment: bool = True,
        **kwargs: Any,
    ) -> None:
        if image_aspect_ratio not in IMAGE_ASPECT_RATIOS:
            raise ValueError(
                f"image_aspect_ratio is {image_aspect_ratio!r}; choose one of {', '.join(IMAGE_ASPECT_RATIOS)}"
            )
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is a slow tokenizer; pass a fast one, which the masks need")
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [IMAGE_TOKEN, ALIGN_TOKEN]}, replace_extra_special_tokens=False
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        if getattr(tokenizer, "legacy", False):
            tokenizer.init_kwargs["legacy"] = True  # LlamaTokenizer does not save it otherwise
        self.image_seq_length = image_seq_length
        self.image_aspect_ratio = image_aspect_ratio
        self.use_alignment = use_alignment
        self._encoder_of_size: tuple[int, TextEncoder] | None = None
        self.image_token = IMAGE_TOKEN
        self.align_token = ALIGN_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.align_token_id = tokenizer.convert_tokens_to_ids(ALIGN_TOKEN)

    @classmethod
    def from_backbones(
        cls,
        language_model: str | Path,
        vision_tower: str | Path,
        *,
        template: str | Path = "vicuna_v1",
        image_aspect_ratio: str = "pad",
    ) -> AlignGPTProcessor:
        """Build the processor of two backbones; `image_seq_length` and `use_alignment` are set with the model."""
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(language_model))
        image_processor = AutoImageProcessor.from_pretrained(resolve_model(vision_tower), backend="pil")
        return cls(image_processor, tokenizer, load_template(template), image_aspect_ratio=image_aspect_ratio)

    # ------------------------------------------------------------------------------------------------ conversations

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, **kwargs: Any) -> Any:
        """Render a conversation as in transformers; with `tokenize=True`, return masks and escape special tokens.

        Special tokens in the text of a turn, such as `</s>` in a question, are tokenized as text.
        """
        if kwargs.get("tokenize"):
            kwargs |= MARKS
            batched = bool(conversation) and isinstance(conversation[0], list | tuple)
            conversations = list(conversation) if batched else [conversation]
            for messages in conversations:
                _check_turns(messages)
            escaped = [list(map(self._escape_message, messages)) for messages in conversations]
            conversation = escaped if batched else escaped[0]
        return super().apply_chat_template(conversation, chat_template, **kwargs)

    def render(
        self, messages: list[Message], template: str | None = None, *, has_images: bool = True, **kwargs: Any
    ) -> str:
        """Render a conversation as marked text for `encode`.

        Args:
            messages: `{"role": "user" | "assistant" | "system", "content": text or parts}`. In the text of a user,
                `<image>` is an image; among parts an image is `{"type": "image"}`, and `<image>` in text is text.
            template: Jinja text instead of the processor's own template.
            has_images: False makes every `<image>` text.
            **kwargs: Variables of the template, such as `add_generation_prompt`.

        Raises:
            ValueError: The turns do not alternate or do not fit the template; a question contains `<align>` or a turn
                a reserved character; or there is no template.
        """
        if template is None and self.chat_template is None:
            raise ValueError("the processor has no chat template; build it with one, such as vicuna_v1")
        _check_turns(messages)
        try:
            rendered, _ = render_jinja_template(
                conversations=[[self._escape_message(message, has_images) for message in messages]],
                chat_template=template or self.chat_template,
                **self.tokenizer.special_tokens_map,
                **MARKS,
                **kwargs,
            )
        except jinja2.TemplateError as error:
            raise ValueError(f"the conversation does not fit the template: {error}") from error
        return rendered[0]

    def _escape_message(self, message: Message, has_images: bool = True) -> Message:
        """Return a message whose special tokens are marked as text, except each `<image>` that is an image."""
        content = message["content"]
        if isinstance(content, str):
            keep_images = has_images and message["role"] == "user"
            return {**message, "content": self._encoder.escape(content, keep_images=keep_images)}
        parts: list[dict[str, Any]] = []
        for part in content:
            if "text" in part and parts and "text" in parts[-1]:  # two parts may spell a special token together
                parts[-1] = {**parts[-1], "text": parts[-1]["text"] + part["text"]}
            else:
                parts.append(part)
        parts = [{**part, "text": self._encoder.escape(part["text"])} if "text" in part else part for part in parts]
        return {**message, "content": parts}

    @property
    def _encoder(self) -> TextEncoder:
        """The encoder of the current vocabulary."""
        size = len(self.tokenizer)
        if self._encoder_of_size is None or self._encoder_of_size[0] != size:
            self._encoder_of_size = (size, TextEncoder(self.tokenizer))
        return self._encoder_of_size[1]

    def encode(self, text: str, *, alignment: Any = None) -> Encoding:
        """Tokenize one rendered text, repeat `<image>` once per image token and insert `<align>` after the first token.

        Args:
            text: From `render` or `apply_chat_template`, or text in the form of the template.
            alignment: With `"none"`, as with `use_alignment=False`, no `<align>` is inserted.

        Raises:
            ValueError: The text contains `<align>`.
        """
        if ALIGN_TOKEN in text:
            raise ValueError(f"the text contains {ALIGN_TOKEN}, which is reserved; remove it, the processor inserts it")
        if not MARK.search(text):
            text = self._mark_instructions(text)
        encoding = self._expand_images(self._encoder.encode(text))
        if self.use_alignment and not _is_none(alignment) and self.image_token_id in encoding.input_ids:
            encoding.input_ids.insert(1, self.align_token_id)  # after BOS, if the tokenizer has one
            encoding.instruction_mask.insert(1, False)
            encoding.answer_mask.insert(1, False)
        return encoding

    def _expand_images(self, encoding: Encoding) -> Encoding:
        expanded = Encoding([], [], [])
        columns = zip(encoding.input_ids, encoding.instruction_mask, encoding.answer_mask, strict=True)
        for token, in_instruction, in_answer in columns:
            is_image = token == self.image_token_id
            times = self.image_seq_length if is_image else 1
            expanded.input_ids += [token] * times
            expanded.instruction_mask += [in_instruction] * times
            expanded.answer_mask += [in_answer and not is_image] * times
        return expanded

    @property
    def answer_end_ids(self) -> list[int]:
        """The special token that ends an answer in the template, if there is one; generation stops there."""
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
        try:
            encoding = self.encode(self.render(turns))
        except ValueError:  # plain, which ends a caption with a newline
            return []
        answer = [token for token, kept in zip(encoding.input_ids, encoding.answer_mask, strict=True) if kept]
        added = self.tokenizer.added_tokens_decoder
        return [token for token in answer[-1:] if token in added and added[token].special]

    def _mark_instructions(self, text: str) -> str:
        """Mark instructions in text that was rendered without marks, by the text around them in the template."""
        first, later, closing = self._turn_borders
        if not later:
            return text
        opening = first if first.strip() and first in text else later
        marked, done = "", 0
        while (position := text.find(opening, done)) >= 0:
            start = position + len(opening)
            end = text.find(closing, start) if closing else -1
            end = len(text) if end < 0 else end
            marked += f"{text[done:start]}{_INSTRUCTION}{text[start:end]}{_INSTRUCTION_END}"
            done, opening = end, later
        return marked + text[done:]

    @property
    def _turn_borders(self) -> tuple[str, str, str]:
        """The template's text before the first user turn, before a later one, and after one.

        For vicuna_v1 these are twice `USER: ` and ` ASSISTANT:`; for llama_2 the first is the end of the system prompt.
        A system prompt inside the first turn, as in mistral and gemma, counts as part of the instruction.
        """
        if self.chat_template is None:
            return "", "", ""
        turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
        try:
            parts = re.split(f"[{_INSTRUCTION}{_INSTRUCTION_END}]", self.render(turns))
        except ValueError:  # a template for one turn, such as plain
            parts = []
        if len(parts) != 5:
            return "", "", ""
        before_first, before_second = MARK.sub("", parts[0]), MARK.sub("", parts[2].split(_ANSWER_END)[-1])
        try:
            other = self.render([{"role": "system", "content": "y"}, *turns]).split(_INSTRUCTION)[0]
        except ValueError:  # the template has no system prompt
            other = before_first
        first = _common_suffix(before_first, MARK.sub("", other)).lstrip(" ")
        return first, before_second.lstrip(), MARK.sub("", parts[2].split(_ANSWER)[0]).rstrip()

    # ------------------------------------------------------------------------------------------------------- call

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        alignment: Any = None,
        return_tensors: str | None = None,
        padding_side: str = "left",
        **kwargs: Any,
    ) -> BatchFeature:
        """Convert prompts and images to model inputs.

        Args:
            images: An image, its path or its URL; a list in the order of the `<image>` placeholders; or a list of such
                lists, one per prompt.
            text: A prompt or a list of prompts in the form of the template.
            alignment: With `"none"` no `<align>` is inserted; pass other settings to `forward` and `generate`.
            return_tensors: `"pt"` for tensors; lists otherwise.
            padding_side: Side on which shorter prompts are padded; generation needs left.
            **kwargs: Ignored, for compatibility with `ProcessorMixin`; `truncation` and `max_length` are refused, since
                a prompt must not lose image tokens.

        Returns:
            `input_ids`, `attention_mask`, `instruction_mask` (B, T), and with images `pixel_values` (I, 3, h, w).

        Raises:
            ValueError: The numbers of images and `<image>` placeholders differ, in total or in a prompt.
        """
        if kwargs.get("truncation") or kwargs.get("max_length"):
            raise ValueError("a prompt with image tokens cannot be truncated; shorten its text")
        data: dict[str, Any] = {}
        flat = _flatten_images(images)
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            count = sum(prompt.count(IMAGE_TOKEN) for prompt in texts)
            if images is not None and count != len(flat):
                raise ValueError(f"the prompts have {count} {IMAGE_TOKEN} placeholders for {len(flat)} images")
            _check_each_prompt(texts, images)
            encodings = [self.encode(prompt, alignment=alignment) for prompt in texts]
            may_gate = alignment is None or needs_gate(alignment)
            if may_gate and any(map(self._gate_reads_nothing, encodings)):
                logger.warning("a prompt with an image has no instruction text, so the gate reads nothing")
            data |= self._pad(encodings, padding_side)
        if flat:
            data["pixel_values"] = self.pixel_values(flat)
        if return_tensors is None:
            data = {key: value.tolist() for key, value in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def _gate_reads_nothing(self, encoding: Encoding) -> bool:
        tokens = zip(encoding.input_ids, encoding.instruction_mask, strict=True)
        words = any(read and token != self.image_token_id for token, read in tokens)
        return self.align_token_id in encoding.input_ids and not words

    def _pad(self, encodings: list[Encoding], side: str) -> dict[str, Tensor]:
        def pad(rows: list[Any], value: int) -> Tensor:
            tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
            return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)

        return {
            "input_ids": pad([encoding.input_ids for encoding in encodings], self.tokenizer.pad_token_id),
            "attention_mask": pad([[1] * len(encoding.input_ids) for encoding in encodings], 0),
            "instruction_mask": pad([encoding.instruction_mask for encoding in encodings], 0),
        }

    def pixel_values(self, images: Iterable[Image.Image]) -> Tensor:
        """Return images as inputs of the vision tower, (I, 3, height, width)."""
        converted = [image.convert("RGB") for image in images]
        if self.image_aspect_ratio == "pad":
            converted = [pad_to_square(image, self.image_processor.image_mean) for image in converted]
        return self.image_processor(converted, return_tensors="pt")["pixel_values"]

    @property
    def model_input_names(self) -> list[str]:
        """The outputs of `__call__`."""
        return ["input_ids", "attention_mask", "instruction_mask", "pixel_values"]


# ----------------------------------------------------------------------------------------------------------- helpers


def load_template(template: str | Path) -> str:
    """Return the text of a chat template, by the name of a bundled one or the path of a Jinja file.

    Raises:
        ValueError: It is neither.
    """
    if str(template) in list_templates():
        text = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
        # Inserted here, since a template is saved with the model as one file.
        return _INCLUDE.sub(lambda match: (TEMPLATES / f"_{match[1]}.jinja").read_text(encoding="utf-8"), text)
    if not Path(template).is_file():
        names = ", ".join(list_templates())
        raise ValueError(f"template {str(template)!r} is unknown; pass the path of a Jinja file or one of {names}")
    return Path(template).read_text(encoding="utf-8")


def list_templates() -> list[str]:
    """Return the names of the bundled chat templates."""
    return sorted(path.stem for path in TEMPLATES.glob("[!_]*.jinja"))


def name_template(text: str) -> str | None:
    """Return the name of the bundled chat template with this text, or `None`."""
    return next((name for name in list_templates() if load_template(name).strip() == text.strip()), None)


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Center an image on a square of its longer side, filled with the mean color (0 to 1 per channel)."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), tuple(int(channel * 255) for channel in mean))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _common_suffix(left: str, right: str) -> str:
    matches = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(left), reversed(right), strict=False))
    return left[len(left) - sum(1 for _ in matches) :]


def _check_turns(messages: Sequence[Message]) -> None:
    """Check that user and assistant alternate after an optional system prompt, without reserved text."""
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    for number, message in enumerate(turns, start=1):
        expected = "user" if number % 2 else "assistant"
        content = message["content"]
        words = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        shown = f"turn {number}, {message['role']}: {words[:60]!r}"
        if message["role"] != expected:
            raise ValueError(f"{shown} should be from {expected}; turns alternate and start with the user")
        if MARK.search(words):
            raise ValueError(f"{shown} contains a reserved character (U+FDD0 to U+FDD4)")
        if ALIGN_TOKEN in words and expected == "user":  # an answer may contain anything that a model generates
            raise ValueError(f"{shown} contains {ALIGN_TOKEN}, which is reserved")


def _check_each_prompt(texts: list[str], images: Any) -> None:
    """Check the number of placeholders of each prompt if images are passed as one list per prompt."""
    if not isinstance(images, list | tuple) or not any(isinstance(item, list | tuple) for item in images):
        return
    expected = [text.count(IMAGE_TOKEN) for text in texts]
    actual = [len(_flatten_images(item)) for item in images]
    if expected != actual:
        raise ValueError(f"the prompts have {expected} {IMAGE_TOKEN} placeholders each, for {actual} images each")


def _is_none(alignment: Any) -> bool:
    return isinstance(alignment, str) and alignment == "none"


def _flatten_images(images: Any) -> list[Image.Image]:
    if images is None:
        return []
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, str | Path):
        return [hub_load_image(str(images))]
    return [image for item in images for image in _flatten_images(item)]


AutoProcessor.register(AlignGPTConfig, AlignGPTProcessor)
