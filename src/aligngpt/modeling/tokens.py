"""From marked text to tokens, and which of them are the users' words and which the assistant's.

A template marks the users' words and the answers itself, with the variables `instruction_start`, `instruction_end`,
`answer_start` and `answer_end`. They render as nothing unless the processor sets them, so a template stays an ordinary
chat template; when set, they are characters that Unicode reserves for such inner use and that never reach the
tokenizer. The label mask and the gate's mask therefore come from the template, not from searching its output for
separators. A fifth mark stands inside words that spell a special token, such as `</s>` in a question; they remain
words.

The text on either side of an image is encoded on its own, as the official code does, so that a SentencePiece tokenizer
puts its leading-space marker in front of each such piece, also in front of one that begins with a space.
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
    """One tokenized prompt or conversation; the masks are lists of bools as long as `input_ids`."""

    input_ids: list[int]
    instruction_mask: list[bool]
    answer_mask: list[bool]


@dataclass(frozen=True)
class _Special:
    """A special token of the template: where its text stands, and its id."""

    start: int
    end: int
    id: int


class TextEncoder:
    """Encodes marked text with a fast tokenizer, special tokens only where the template put them.

    Args:
        tokenizer: Of transformers, with `<image>` among its special tokens.
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
        self._plain, self._marker = _without_leading_space(tokenizer.backend_tokenizer)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A tokenizer that was copied or sent to another process has forgotten that special tokens are words to it."""
        self.__dict__ |= state
        self._plain.encode_special_tokens = True

    def escape(self, words: str, *, keep_images: bool = False) -> str:
        """Mark what spells a special token in a user's or assistant's words, so that it is encoded as words.

        Args:
            words: What was said.
            keep_images: `<image>` stands for an image.
        """

        def marked(found: re.Match[str]) -> str:
            text = found[0]
            return text if keep_images and text == IMAGE_TOKEN else text[0] + _LITERAL + text[1:]

        return self._special.sub(marked, words)

    def encode(self, text: str) -> Encoding:
        """Tokenise marked text; `<image>` becomes one token.

        The instruction mask covers the turn that the gate reads, its words and images: the first with an image, or
        the first of all where no turn has one. Every turn of the conversation then has the same alignment embedding, in
        training and afterwards.
        """
        plain, spans, specials = self._take_marks(text)
        ids: list[int] = []
        offsets: list[Span] = []
        if self._opening is not None and not (specials and specials[0] == _Special(0, specials[0].end, self._opening)):
            ids, offsets = [self._opening], [(0, 0)]
        for special, section_ids, section_offsets in self._sections(plain, specials):
            ids += section_ids
            offsets += section_offsets
            if special is not None:
                ids.append(special.id)
                offsets.append((special.start, special.end))
        read = self._turn_of_first_image(spans[_INSTRUCTION], specials)
        return Encoding(ids, _covered(offsets, read), _covered(offsets, spans[_ANSWER]))

    def _take_marks(self, text: str) -> tuple[str, dict[str, list[Span]], list[_Special]]:
        """Text without marks, the character spans they enclosed, and the special tokens that are no words."""
        spans: dict[str, list[Span]] = {_INSTRUCTION: [], _ANSWER: []}
        specials: list[_Special] = []
        plain: list[str] = []
        length = start = done = 0
        for found in self._pieces.finditer(text):
            plain.append(text[done : found.start()])
            length += found.start() - done
            done = found.end()
            piece = found[0]
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

    def _sections(
        self, plain: str, specials: Sequence[_Special]
    ) -> Iterator[tuple[_Special | None, list[int], list[Span]]]:
        """Tokens and offsets of the text in front of each special token and behind the last one."""
        bounds: list[tuple[int, int, bool]] = []
        start, begins = 0, True  # whether the section begins a piece of its own, at the start or behind an image
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
        behind: list[_Special | None] = [*specials, None]
        for mark, (start, _, _), space, section in zip(behind, bounds, spaces, encoded, strict=True):
            if space:  # the marker belongs to the section's first character
                yield mark, section.ids, [(start + max(a - 1, 0), start + max(b - 1, 1)) for a, b in section.offsets]
            else:
                yield mark, section.ids, [(start + a, start + b) for a, b in section.offsets]

    def _turn_of_first_image(self, instructions: list[Span], specials: Iterable[_Special]) -> list[Span]:
        images = [special.start for special in specials if special.id == self._image_id]
        with_image = [span for span in instructions if images and span[0] <= images[0] < span[1]]
        return with_image or instructions[:1]


def _without_leading_space(backend: Tokenizer) -> tuple[Tokenizer, str]:
    """A copy of a tokenizer that adds no leading-space marker and knows no special tokens, and when it added one.

    Returns:
        The copy, and `"first"` (in front of the text), `"always"` (also behind each special token) or `"never"`.
    """
    state = json.loads(backend.to_str())
    state["post_processor"] = None  # it would add special tokens and leave spaces out of the offsets
    state["padding"] = state["truncation"] = None  # an earlier call of the tokenizer leaves its own behind
    marker = "never"
    for step in _steps(state["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace":
            marker, step["prepend_scheme"] = step["prepend_scheme"], "never"
    normalizer = state["normalizer"]
    prepends = [step for step in _steps(normalizer, "normalizers") if step["type"] == "Prepend"]
    if prepends:
        marker = "always"
        steps = [step for step in _steps(normalizer, "normalizers") if step["type"] != "Prepend"]
        state["normalizer"] = {"type": "Sequence", "normalizers": steps}
    copy = Tokenizer.from_str(json.dumps(state))
    copy.encode_special_tokens = True
    return copy, marker


def _steps(part: dict[str, Any] | None, of_sequence: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return part[of_sequence] if part["type"] == "Sequence" else [part]


def _covered(offsets: list[Span], spans: list[Span]) -> list[bool]:
    """Which tokens share a character with one of the spans; both are in rising order."""
    covered = []
    waiting = iter(spans)
    span = next(waiting, None)
    for start, end in offsets:
        while span is not None and span[1] <= start:
            span = next(waiting, None)
        covered.append(span is not None and start < end and span[0] < end)
    return covered
