"""Tokenize marked text, with masks of the user's and the assistant's tokens.

A chat template marks instructions and answers with the variables `instruction_start`, `instruction_end`,
`answer_start` and `answer_end`. They are empty unless the processor sets them, so it is an ordinary chat template; when
set, they are Unicode noncharacters that never reach the tokenizer. The label mask and the gate's mask therefore come
from the template, not from a search for separators in its output. A fifth mark is inserted into text that spells a
special token, such as `</s>` in a question, so that it is tokenized as text.

As in the official code, the text on either side of an image is encoded separately, so a SentencePiece tokenizer adds
its leading-space marker to each piece, also to one that begins with a space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from aligngpt.utils.constants import IMAGE_TOKEN, RESERVED_CHARACTERS

_INSTRUCTION, _INSTRUCTION_END, _ANSWER, _ANSWER_END, _LITERAL = tuple(RESERVED_CHARACTERS)
MARK = re.compile(f"[{RESERVED_CHARACTERS}]")
MARKS = {
    "instruction_start": _INSTRUCTION,
    "instruction_end": _INSTRUCTION_END,
    "answer_start": _ANSWER,
    "answer_end": _ANSWER_END,
}

Span = tuple[int, int]


@dataclass
class Encoding:
    """A tokenized prompt or conversation; the masks have the length of `input_ids`."""

    input_ids: list[int]
    instruction_mask: list[bool]
    answer_mask: list[bool]


@dataclass(frozen=True)
class _Special:
    """A special token of the template: start and end of its text, and its id."""

    start: int
    end: int
    id: int


class TextEncoder:
    """Encodes marked text with a fast tokenizer; only the template can produce special tokens.

    Args:
        tokenizer: A fast tokenizer of transformers, with `<image>` as a special token.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = {token.content: (token, index) for index, token in tokenizer.added_tokens_decoder.items()}
        self._specials = {text: index for text, (token, index) in added.items() if token.special}
        self._strips = {index for token, index in added.values() if token.special and token.rstrip}
        longest_first = sorted(self._specials, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)))
        self._pieces = re.compile(f"{MARK.pattern}|{self._special.pattern}")
        self._image_id: int = self._specials[IMAGE_TOKEN]
        bos = tokenizer.bos_token_id
        self._opening = bos if bos is not None and bos in tokenizer("")["input_ids"] else None
        self._plain, self._marker = _remove_leading_space(tokenizer.backend_tokenizer)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore `encode_special_tokens`, which is lost when a tokenizer is copied or sent to another process."""
        self.__dict__ |= state
        self._plain.encode_special_tokens = True

    def escape(self, words: str, *, keep_images: bool = False) -> str:
        """Mark words of a turn that spell a special token, so that they are encoded as text.

        With `keep_images`, `<image>` is an image.
        """

        def mark(match: re.Match[str]) -> str:
            text = match[0]
            return text if keep_images and text == IMAGE_TOKEN else text[0] + _LITERAL + text[1:]

        return self._special.sub(mark, words)

    def encode(self, text: str) -> Encoding:
        """Tokenize marked text; `<image>` becomes one token.

        The instruction mask covers text and images of the turn that the gate reads: the first with an image, or the
        first turn if there is none. So every turn has the same alignment embedding, in training and inference.
        """
        plain, spans, specials = self._remove_marks(text)
        ids: list[int] = []
        offsets: list[Span] = []
        if self._opening is not None and not (specials and specials[0] == _Special(0, specials[0].end, self._opening)):
            ids, offsets = [self._opening], [(0, 0)]
        for special, section_ids, section_offsets in self._encode_sections(plain, specials):
            ids += section_ids
            offsets += section_offsets
            if special is not None:
                ids.append(special.id)
                offsets.append((special.start, special.end))
        read = self._select_turn(spans[_INSTRUCTION], specials)
        return Encoding(ids, _mask_tokens(offsets, read), _mask_tokens(offsets, spans[_ANSWER]))

    def _remove_marks(self, text: str) -> tuple[str, dict[str, list[Span]], list[_Special]]:
        """Return the text without marks, the character spans they enclose, and the special tokens of the template."""
        spans: dict[str, list[Span]] = {_INSTRUCTION: [], _ANSWER: []}
        specials: list[_Special] = []
        plain: list[str] = []
        length = start = done = 0
        for match in self._pieces.finditer(text):
            plain.append(text[done : match.start()])
            length += match.start() - done
            done = match.end()
            piece = match[0]
            if piece in self._specials:
                plain.append(piece)
                specials.append(_Special(length, length + len(piece), self._specials[piece]))
                length += len(piece)
            elif piece in spans:
                start = length
            elif piece != _LITERAL:
                spans[_INSTRUCTION if piece == _INSTRUCTION_END else _ANSWER].append((start, length))
        plain.append(text[done:])
        return "".join(plain), spans, specials

    def _encode_sections(
        self, plain: str, specials: Sequence[_Special]
    ) -> Iterator[tuple[_Special | None, list[int], list[Span]]]:
        """Yield each special token, and `None` at the end, with tokens and offsets of the text before it."""
        bounds: list[tuple[int, int, bool]] = []
        start, begins = 0, True  # whether the section is at the start or after an image
        for special in specials:
            bounds.append((start, special.start, begins))
            begins = special.id == self._image_id or (special.start == 0 and special.id == self._opening)
            start = special.end
            if special.id in self._strips:
                start += len(plain[start:]) - len(plain[start:].lstrip())
        bounds.append((start, len(plain), begins))
        spaces = [
            self._marker == "always" or (self._marker == "first" and (begins or plain.startswith(" ", start, end)))
            for start, end, begins in bounds
        ]
        texts = [
            (" " if space else "") + plain[start:end] if end > start else ""
            for (start, end, _), space in zip(bounds, spaces, strict=True)
        ]
        encoded = self._plain.encode_batch(texts, add_special_tokens=False)
        next_specials: list[_Special | None] = [*specials, None]
        for next_special, (start, _, _), space, section in zip(next_specials, bounds, spaces, encoded, strict=True):
            if space:  # the marker belongs to the section's first character
                offsets = [(start + max(a - 1, 0), start + max(b - 1, 1)) for a, b in section.offsets]
            else:
                offsets = [(start + a, start + b) for a, b in section.offsets]
            yield next_special, section.ids, offsets

    def _select_turn(self, instructions: list[Span], specials: Iterable[_Special]) -> list[Span]:
        images = [special.start for special in specials if special.id == self._image_id]
        with_image = [span for span in instructions if images and span[0] <= images[0] < span[1]]
        return with_image or instructions[:1]


def _remove_leading_space(backend: Tokenizer) -> tuple[Tokenizer, str]:
    """Return a copy of a tokenizer without leading-space marker and special tokens, and when the original adds one.

    Returns:
        The copy, and `"first"` (before the text), `"always"` (also after each special token) or `"never"`.
    """
    state = json.loads(backend.to_str())
    state["post_processor"] = None  # it would add special tokens and leave spaces out of the offsets
    state["padding"] = state["truncation"] = None  # settings of an earlier call
    marker = "never"
    for step in _list_steps(state["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace":
            marker, step["prepend_scheme"] = step["prepend_scheme"], "never"
    normalizer = state["normalizer"]
    prepends = [step for step in _list_steps(normalizer, "normalizers") if step["type"] == "Prepend"]
    if prepends:
        marker = "always"
        steps = [step for step in _list_steps(normalizer, "normalizers") if step["type"] != "Prepend"]
        state["normalizer"] = {"type": "Sequence", "normalizers": steps}
    copy = Tokenizer.from_str(json.dumps(state))
    copy.encode_special_tokens = True
    return copy, marker


def _list_steps(part: dict[str, Any] | None, of_sequence: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return part[of_sequence] if part["type"] == "Sequence" else [part]


def _mask_tokens(offsets: list[Span], spans: list[Span]) -> list[bool]:
    """Return which tokens overlap one of the spans; both are in ascending order."""
    mask = []
    remaining = iter(spans)
    span = next(remaining, None)
    for start, end in offsets:
        while span is not None and span[1] <= start:
            span = next(remaining, None)
        mask.append(span is not None and start < end and span[0] < end)
    return mask
