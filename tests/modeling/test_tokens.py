"""Tokenizing marked text: leading-space markers, special tokens and masks."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from tokenizers import AddedToken

from aligngpt.modeling.tokens import MARKS, TextEncoder
from tests.modeling.word_pieces import MARKERS, byte_level, sentencepiece

READ, READ_END = MARKS["instruction_start"], MARKS["instruction_end"]
SAID, SAID_END = MARKS["answer_start"], MARKS["answer_end"]
ALWAYS = ("always", "prepend")
KINDS = (*MARKERS, "bytes")


def tokenizer(kind: str, *specials: str | AddedToken, **options: Any) -> Any:
    chosen = ("<image>", *specials)
    return byte_level(chosen, **options) if kind == "bytes" else sentencepiece(kind, chosen, **options)


def pieces(words: Any, text: str) -> list[str]:
    return words.convert_ids_to_tokens(TextEncoder(words).encode(text).input_ids)


def covered(words: Any, text: str, mask: str) -> list[str]:
    """The tokens at which a mask is set."""
    encoding = TextEncoder(words).encode(text)
    tokens = words.convert_ids_to_tokens(encoding.input_ids)
    return [token for token, marked in zip(tokens, getattr(encoding, mask), strict=True) if marked]


# ------------------------------------------------------------------------------------------------ the first token, BOS


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_one_bos_at_the_start(kind: str) -> None:
    words = tokenizer(kind)
    assert pieces(words, "<s>ab") == pieces(words, "ab")
    assert pieces(words, f"{READ}<s>ab{READ_END}") == pieces(words, "ab")
    assert pieces(words, "ab").count("<s>") == 1
    assert pieces(words, "</s>")[:2] == ["<s>", "</s>"]
    assert pieces(words, "<s><s>") == ["<s>", "<s>"]  # the second is what the template wrote


@pytest.mark.parametrize("options", [{"adds_bos": False}, {"bos": None}], ids=["not added", "without"])
@pytest.mark.parametrize("kind", KINDS)
def test_bos_is_not_added_if_the_tokenizer_adds_none(kind: str, options: dict[str, Any]) -> None:
    words = tokenizer(kind, **options)
    assert "<s>" not in pieces(words, "ab")
    assert pieces(words, "<s>ab</s><s>").count("<s>") == 2


# ------------------------------------------------------------------------------------------- the leading-space marker


def test_a_space_after_an_end_token_gets_a_marker() -> None:
    """As the official tokenizer does under `legacy: false`; a word there has none."""
    words = tokenizer("first")
    assert pieces(words, "<s>x</s> y")[3:] == ["</s>", "▁", "▁", "y"]
    assert pieces(words, "<s>x</s>y")[3:] == ["</s>", "y"]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("first",), "<s> ▁ab <image> ▁ab </s> ab <image> <image> ▁ab"),
        (ALWAYS, "<s> ▁ab <image> ▁ab </s> ▁ab <image> <image> ▁ab"),
        (("never",), "<s> ab <image> ab </s> ab <image> <image> ab"),
        (("bytes",), "<s> a b <image> a b </s> a b <image> <image> a b"),
    ],
    ids=str,
)
def test_text_after_an_image_is_a_separate_piece(kinds: tuple[str, ...], expected: str) -> None:
    for kind in kinds:
        for bos in ("", "<s>"):
            found = pieces(tokenizer(kind), f"{bos}ab<image>ab</s>ab<image><image>ab")
            assert found == expected.split(), kind


@pytest.mark.parametrize("kind", KINDS)
def test_text_without_an_image_is_tokenized_as_by_the_tokenizer_itself(kind: str) -> None:
    words = tokenizer(kind)
    for text in ("ab: ab", "ab</s>ba c</s>", "a\nb é日", "</s>", ""):
        assert TextEncoder(words).encode(text).input_ids == words(text)["input_ids"], text


@pytest.mark.parametrize(
    ("kind", "begin", "behind"),
    [
        ("first", "▁ ▁ab", "▁ ▁ab"),
        ("always", "▁ ▁ab", "▁ ▁ab"),
        ("prepend", "▁ ▁ab", "▁ ▁ab"),
        ("never", "▁ab", "▁ab"),
        ("bytes", "Ġ a b", "Ġ a b"),
    ],
)
def test_a_piece_that_begins_with_a_space_also_gets_a_marker(kind: str, begin: str, behind: str) -> None:
    assert pieces(tokenizer(kind), " ab<image> ab</s> ab") == f"<s> {begin} <image> {begin} </s> {behind}".split()


@pytest.mark.parametrize(
    ("kind", "line"),
    [("first", "▁ <0x0A>"), ("always", "▁ <0x0A>"), ("prepend", "▁ <0x0A>"), ("never", "<0x0A>"), ("bytes", "Ċ")],
)
def test_an_empty_piece_has_no_marker_and_a_line_has_one(kind: str, line: str) -> None:
    words = tokenizer(kind)
    for text in ("", "<image>", "<image><image></s>", "<image></s><image>"):
        assert "".join(pieces(words, text)) == f"<s>{text}"
    assert pieces(words, "<image>\n</s>") == ["<s>", "<image>", *line.split(), "</s>"]


# ------------------------------------------------------------------------------------------------------ special tokens


TYPED = ("</s>", "<s>ab</s>", "What is <|end|>?", "<</s>s> <image>")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("typed", TYPED)
def test_typed_special_tokens_are_text(kind: str, typed: str) -> None:
    words = tokenizer(kind, "<|end|>")
    encoder = TextEncoder(words)
    text = f"ab: {READ}{encoder.escape(typed)}{READ_END}:{SAID}{encoder.escape(typed)}</s>{SAID_END}"
    ids = encoder.encode(text).input_ids
    assert [token for token in ids if token in words.all_special_ids] == [words.bos_token_id, words.eos_token_id]
    assert words.decode(ids[1:]).lstrip() == f"ab: {typed}:{typed}</s>"
    *spelled, end = covered(words, text, "answer_mask")
    assert ("".join(spelled).replace("▁", " ").replace("Ġ", " "), end) == (typed, "</s>")


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_placeholder_in_text_is_an_image_if_kept(kind: str) -> None:
    words = tokenizer(kind)
    encoder = TextEncoder(words)
    kept, spelled = (encoder.escape("<image>a</s><image>", keep_images=keep) for keep in (True, False))
    assert pieces(words, kept).count("<image>") == 2 and "</s>" not in pieces(words, kept)
    assert pieces(words, spelled).count("<image>") == 0
    assert encoder.escape("a < b <im", keep_images=True) == "a < b <im"  # spells nothing special


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))], ids=["copied", "pickled"]
)
def test_typed_special_tokens_are_words_in_another_process_too(way: Any) -> None:
    encoder = TextEncoder(tokenizer("first"))
    text = f"{READ}ab {encoder.escape('</s><image>')}{READ_END}<image>ab</s>"
    assert way(encoder).encode(text) == encoder.encode(text)


def test_the_longest_special_token_is_meant() -> None:
    words = tokenizer("never", "<|end|>", "<|end|>:")
    assert pieces(words, "a<|end|>:b<|end|>b") == ["<s>", "a", "<|end|>:", "b", "<|end|>", "b"]
    assert pieces(words, TextEncoder(words).escape("<|end|>:"))[1:] == [*"<|end|>:"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_may_strip_the_space_after_it(kind: str) -> None:
    words = tokenizer(kind, AddedToken("<|end|>", rstrip=True, normalized=False))
    text = f"<|end|> \n ab: {READ}ab{READ_END}<|end|> <image>"
    tight = f"<|end|>ab: {READ}ab{READ_END}<|end|><image>"
    assert pieces(words, text) == pieces(words, tight)
    read = covered(words, text, "instruction_mask")
    assert read == covered(words, tight, "instruction_mask") and "".join(read).endswith("ab")
    assert pieces(words, "<image> ab") != pieces(words, "<image>ab")  # the image takes none


# ------------------------------------------------------------------------------------------------- whose a token is


@pytest.mark.parametrize(
    ("text", "learned"),
    [
        (f"ab.{SAID} ab</s>{SAID_END}ab", ["▁ab", "</s>"]),
        (f"ab.{SAID} \nab</s>{SAID_END}ab", ["▁", "<0x0A>", "ab", "</s>"]),
        (f"<image>{SAID}ab{SAID_END}", ["▁ab"]),
        (f"<image>{SAID}\nab{SAID_END}", ["▁", "<0x0A>", "ab"]),  # the marker belongs to what it stands in front of
        (f"<image>{SAID} ab{SAID_END}", ["▁", "▁ab"]),
        (f"{SAID}ab{SAID_END}", ["▁ab"]),
        (f"ab.{SAID}</s>{SAID_END}", ["</s>"]),
        (f"ab{SAID}{SAID_END}ab", []),
        (f"{SAID}a{SAID_END}b{SAID}c{SAID_END}</s>", ["▁ab", "c"]),  # a token of both is the answer's
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["first", *ALWAYS])
def test_an_answer_begins_with_its_bare_leading_space(kind: str, text: str, learned: list[str]) -> None:
    assert covered(tokenizer(kind), text, "answer_mask") == learned
    assert not any(TextEncoder(tokenizer(kind)).encode(text).instruction_mask)


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_of_a_character_has_the_same_mask(kind: str) -> None:
    words = tokenizer(kind)
    text = f"é:{READ}é日{READ_END}日{SAID}\U0001f600</s>{SAID_END}"
    encoding = TextEncoder(words).encode(text)
    start = encoding.input_ids.index(words.convert_tokens_to_ids(":")) + 1
    read, between, learned = len("é日".encode()), len("日".encode()), len("\U0001f600".encode()) + 1
    assert encoding.instruction_mask == [False] * start + [True] * read + [False] * (between + learned)
    assert encoding.answer_mask == [False] * (start + read + between) + [True] * learned


@pytest.mark.parametrize("kind", ["first", *ALWAYS])
def test_a_token_with_a_leading_space_belongs_to_the_user(kind: str) -> None:
    text = f"ab. {READ}ab{READ_END} ab. {READ}c{READ_END}"
    assert covered(tokenizer(kind), text, "instruction_mask") == ["▁ab"]
    bare = f"ab. {READ}\nc{READ_END} ab"  # the bare marker is the template's space alone
    assert covered(tokenizer(kind), bare, "instruction_mask") == ["<0x0A>", "c"]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (f"{READ}a{READ_END}{READ}b{READ_END}", ["a"]),
        (f"{READ}a{READ_END}{READ}b<image>{READ_END}{READ}c<image>{READ_END}", ["b", "<image>"]),
        (f"{READ}<image>a{READ_END}{READ}b{READ_END}", ["<image>", "a"]),
        (f"{READ}a<image>b<image>c{READ_END}", ["a", "<image>", "b", "<image>", "c"]),
        (f"<image>{READ}a{READ_END}{READ}b<image>{READ_END}", ["a"]),  # the image is no turn's: the first turn
        (f"{READ}{READ_END}{READ}b{READ_END}", []),
        ("a<image>", []),
    ],
    ids=repr,
)
def test_the_gate_reads_the_turn_of_the_first_image_or_the_first_of_all(text: str, read: list[str]) -> None:
    assert covered(tokenizer("bytes"), text, "instruction_mask") == read


@pytest.mark.parametrize("kind", KINDS)
def test_marks_are_not_tokenized(kind: str) -> None:
    words = tokenizer(kind)
    marked = f"a{READ}b<image>a{READ_END}b{SAID} ab</s>{SAID_END}"
    assert pieces(words, marked) == pieces(words, "ab<image>ab ab</s>")


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_call_of_the_tokenizer_changes_nothing(kind: str) -> None:
    words = tokenizer(kind, bos=None)
    expected = pieces(words, "ab<image>ab ab ab</s>ab")
    words(["ab", "ab ab"], padding=True, truncation=True, max_length=2)
    assert pieces(words, "ab<image>ab ab ab</s>ab") == expected
