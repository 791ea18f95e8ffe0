"""Every built-in template: its text, the text that the gate reads, the labels, and invalid conversations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, CLIPImageProcessorPil

from aligngpt import AlignGPTProcessor
from aligngpt.modeling.processing import Message, list_templates, load_template
from aligngpt.modeling.tokens import MARK, MARKS
from tests import tiny
from tests.modeling.word_pieces import byte_level, sentencepiece

PATCHES = 2
READ = MARKS["instruction_start"]
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS: list[Message] = [
    {"role": "user", "content": "<image>\nHow many?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


@dataclass(frozen=True)
class Form:
    """A template's form; what the gate reads stands in ⟦ ⟧, what is learned in « ».

    Attributes:
        opening: Text in front of the first user's words.
        told: The same where the system prompt is SYSTEM.
        body: The rest of TURNS.
        specials: Special tokens of the family beside those of the beginning and the end.
        bos, eos: Tokens of the beginning and the end; a family may have none for the beginning.
    """

    opening: str
    told: str
    body: str
    specials: tuple[str, ...] = ()
    bos: str | None = "<s>"
    eos: str = "</s>"

    @property
    def all_specials(self) -> list[str]:
        return [text for text in (self.bos, self.eos, *self.specials, "<image>") if text]

    def text(self, system: bool) -> str:
        return (self.told if system else self.opening) + self.body

    def prompts(self, system: bool) -> list[str]:
        """What stands in front of each answer."""
        text = self.text(system)
        return [text[: found.start()] for found in re.finditer("«", text)]


VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question does not make "
    "any sense, or is not factually coherent, explain why instead of answering something not correct. If you don't "
    "know the answer to a question, please don't share false information."
)
LLAMA_3 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_V1 = "USER: ⟦<image>\nHow many?⟧ ASSISTANT:« Two.</s>»USER: Sure? ASSISTANT:« Yes.</s>»"
_CHATML = (
    "<|im_start|>user\n⟦<image>\nHow many?⟧<|im_end|>\n<|im_start|>assistant\n«Two.<|im_end|>»\n"
    "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n«Yes.<|im_end|>»\n"
)
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n".format
FORMS = {
    "bare": Form("<s>", "<s>Be brief. ", _V1),
    "vicuna_v1": Form(f"<s>{VICUNA} ", "<s>Be brief. ", _V1),
    "llava_v1": Form(f"<s>{VICUNA.replace('user', 'human')} ", "<s>Be brief. ", _V1),
    "phi": Form(
        f"{VICUNA} ",
        "Be brief. ",
        _V1.replace("</s>", "<|endoftext|>"),
        bos=None,
        eos="<|endoftext|>",
    ),
    "llama_2": Form(
        f"<s>[INST] <<SYS>>\n{LLAMA_2}\n<</SYS>>\n\n",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n",
        "⟦<image>\nHow many?⟧ [/INST]« Two. </s>»<s>[INST] Sure? [/INST]« Yes. </s>»",
    ),
    "llama_3": Form(
        f"<|begin_of_text|>{_HEADER('system')}{LLAMA_3}<|eot_id|>",
        f"<|begin_of_text|>{_HEADER('system')}Be brief.<|eot_id|>",
        f"{_HEADER('user')}⟦<image>\nHow many?⟧<|eot_id|>{_HEADER('assistant')}«Two.<|eot_id|>»"
        f"{_HEADER('user')}Sure?<|eot_id|>{_HEADER('assistant')}«Yes.<|eot_id|>»",
        _HEADERS,
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
    "llama_3_family": Form(
        f"<|begin_of_text|>{LLAMA_3} ",
        "<|begin_of_text|>Be brief. ",
        "<|start_header_id|>user: ⟦<image>\nHow many?⟧ <|start_header_id|>assistant:« Two.<|end_of_text|>»"
        "<|start_header_id|>user: Sure? <|start_header_id|>assistant:« Yes.<|end_of_text|>»",
        _HEADERS,
        "<|begin_of_text|>",
        "<|end_of_text|>",
    ),
    "gemma": Form(
        "<bos><start_of_turn>user\n",
        "<bos><start_of_turn>user\nBe brief.\n\n",
        "⟦<image>\nHow many?⟧<end_of_turn>\n<start_of_turn>model\n«Two.<end_of_turn>»\n"
        "<start_of_turn>user\nSure?<end_of_turn>\n<start_of_turn>model\n«Yes.<end_of_turn>»\n",
        ("<start_of_turn>", "<end_of_turn>"),
        "<bos>",
        "<eos>",
    ),
    "mistral": Form(
        "<s>[INST] ",
        "<s>[INST] Be brief.\n\n",
        "⟦<image>\nHow many?⟧ [/INST]« Two.</s>»[INST] Sure? [/INST]« Yes.</s>»",
    ),
    "qwen": Form(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n",
        _CHATML,
        ("<|im_start|>", "<|im_end|>"),
        None,
        "<|endoftext|>",
    ),
    "chatml": Form(
        "", "<|im_start|>system\nBe brief.<|im_end|>\n", _CHATML, ("<|im_start|>", "<|im_end|>"), None, "<|endoftext|>"
    ),
}
PLAIN: list[Message] = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": " A square. "}]
NAMES = [*FORMS, "plain"]

with_and_without_system = pytest.mark.parametrize("system", [False, True], ids=["", "system"])
every_form = pytest.mark.parametrize("name", FORMS)


def processor(name: str, kind: str = "bytes") -> AlignGPTProcessor:
    """Of a template, with a tokenizer that has the special tokens of its family."""
    form = FORMS.get(name, Form("", "", ""))
    options: dict[str, Any] = {"bos": form.bos, "eos": form.eos}
    words = (
        byte_level(form.all_specials, **options)
        if kind == "bytes"
        else sentencepiece(kind, form.all_specials, **options)
    )
    return AlignGPTProcessor(image_processor(), words, load_template(name), image_seq_length=PATCHES)


def image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})


def conversation(system: bool, turns: int = 4) -> list[Message]:
    return [SYSTEM] * system + TURNS[:turns]


def columns(made: AlignGPTProcessor, form: Form, notated: str) -> tuple[list[int], list[bool], list[bool]]:
    """Ids, instruction mask and answer mask of a text in the form's notation, worked out piece by piece."""
    specials = "|".join(map(re.escape, form.all_specials))
    ids: list[int] = []
    read: list[bool] = []
    learned: list[bool] = []
    mark = ""
    for piece in re.split(f"([⟦⟧«»]|{specials})", notated):
        if piece and piece in "⟦⟧«»":
            mark = piece
            continue
        tokens = made.tokenizer.encode(piece, add_special_tokens=False) * (PATCHES if piece == "<image>" else 1)
        ids += tokens
        read += [mark == "⟦"] * len(tokens)
        learned += [mark == "«"] * len(tokens)
    return (
        [ids[0], made.align_token_id, *ids[1:]],
        [read[0], False, *read[1:]],
        [learned[0], False, *learned[1:]],
    )


def unmarked(notated: str) -> str:
    return re.sub("[⟦⟧«»]", "", notated)


def test_every_built_in_template_is_tested() -> None:
    assert sorted(NAMES) == list_templates()


# ------------------------------------------------------------------------------------------------ what is written


@every_form
@with_and_without_system
def test_a_conversation_is_written_exactly(name: str, system: bool) -> None:
    made, form = processor(name), FORMS[name]
    assert made.apply_chat_template(conversation(system)) == unmarked(form.text(system))
    for turns, prompt in zip((1, 3), form.prompts(system), strict=True):
        said = conversation(system, turns)
        assert made.apply_chat_template(said, add_generation_prompt=True) == unmarked(prompt)
        assert MARK.sub("", made.render(said, add_generation_prompt=True)) == unmarked(prompt)


@every_form
@with_and_without_system
def test_exactly_the_answer_and_its_end_are_learned_and_the_first_images_turn_is_read(name: str, system: bool) -> None:
    made, form = processor(name), FORMS[name]
    whole = (conversation(system), form.text(system), False)
    prompts = [(conversation(system, turns), form.prompts(system)[turns // 2], True) for turns in (1, 3)]
    for said, notated, asks in (whole, *prompts):
        encoding = made.encode(made.render(said, add_generation_prompt=asks))
        assert (encoding.input_ids, encoding.instruction_mask, encoding.answer_mask) == columns(made, form, notated)


@pytest.mark.parametrize("kind", ["bytes", "first", "always", "prepend", "never"])
@every_form
@with_and_without_system
def test_an_answer_continues_its_prompt_as_in_training(name: str, kind: str, system: bool) -> None:
    made, form = processor(name, kind), FORMS[name]
    answers = re.findall("«(.*?)»([^<U[]*)", form.body, re.S)  # with the line that chatml and gemma write behind it
    for turns, (answer, tail) in zip((2, 4), answers, strict=True):
        prompt = made.encode(made.render(conversation(system, turns - 1), add_generation_prompt=True))
        whole = made.encode(made.render(conversation(system, turns)))
        length = len(prompt.input_ids)
        assert whole.input_ids[:length] == prompt.input_ids
        assert whole.instruction_mask[:length] == prompt.instruction_mask
        rest, learned = whole.input_ids[length:], sum(whole.answer_mask[length:])
        assert whole.answer_mask[length:] == [True] * learned + [False] * (len(rest) - learned)
        assert made.tokenizer.decode(rest[:learned]) == answer
        assert made.tokenizer.decode(rest[learned:]).strip(" ") == tail
        assert rest[learned - 1 : learned] == made.answer_end_ids


@every_form
def test_text_that_looks_like_the_template_stays_text(name: str) -> None:
    made, form = processor(name), FORMS[name]
    words = f"a USER: b ASSISTANT: c [INST] d [/INST] {' e '.join(form.all_specials[:-1])} user\n"
    said = [{"role": "user", "content": f"<image>\n{words}"}, {"role": "assistant", "content": words}]
    encoding = made.encode(made.render(said))
    read, learned = (
        [token for token, marked in zip(encoding.input_ids, mask, strict=True) if marked]
        for mask in (encoding.instruction_mask, encoding.answer_mask)
    )
    specials = {made.tokenizer.convert_tokens_to_ids(text) for text in form.all_specials}
    assert made.tokenizer.decode(read) == f"{'<image>' * PATCHES}\n{words}"
    assert made.tokenizer.decode(learned).lstrip() == f"{words}{' ' * (name == 'llama_2')}{ending(name)}"
    assert [token for token in read + learned if token in specials] == [
        *[made.image_token_id] * PATCHES,
        *made.answer_end_ids,
    ]


def ending(name: str) -> str:
    """The token with which an answer ends."""
    found = re.search(r"Two\. ?(\S+)»", FORMS[name].body)
    assert found is not None
    return found[1]


@every_form
def test_an_answer_ends_with_the_templates_own_token(name: str) -> None:
    made = processor(name)
    assert made.answer_end_ids == [made.tokenizer.convert_tokens_to_ids(ending(name))]


@pytest.mark.parametrize("template", ["bare", "llama_2"])
def test_only_user_text_contains_images(template: str) -> None:
    made = processor(template)
    said = [
        {"role": "system", "content": "Mark <image>."},
        TURNS[0],
        {"role": "assistant", "content": "<image> <align>"},
    ]
    ids = made.encode(made.render(said)).input_ids
    assert (ids.count(made.image_token_id), ids.count(made.align_token_id)) == (PATCHES, 1)


def test_parts_that_spell_a_special_token_together_are_words() -> None:
    made = processor("bare")
    parts = [{"type": "text", "text": text} for text in ("a </", "s> b <ima", "ge> c")]
    ids = made.encode(made.render([{"role": "user", "content": parts}])).input_ids
    assert made.tokenizer.eos_token_id not in ids and made.image_token_id not in ids
    assert "a </s> b <image> c" in made.tokenizer.decode(ids)


def test_tokenizing_at_once_checks_the_turns_as_rendering_does() -> None:
    made = processor("bare")
    for said in ([TURNS[0]] * 2, [{"role": "user", "content": MARKS["answer_start"]}]):
        with pytest.raises(ValueError, match=r"should be from assistant|contains a reserved character"):
            made.apply_chat_template(said, tokenize=True, return_dict=True)


# ----------------------------------------------------------------------------------------- every way to the same prompt


@pytest.mark.parametrize("kind", ["bytes", "first", "prepend"])
@every_form
@with_and_without_system
def test_text_without_marks_gives_the_same_masks(name: str, kind: str, system: bool) -> None:
    made = processor(name, kind)
    for turns in (1, 3):
        said = conversation(system, turns)
        text = made.apply_chat_template(said, add_generation_prompt=True)
        marked = made.render(said, add_generation_prompt=True)
        assert not MARK.search(text) and MARK.sub("", marked) == text
        within = system and name in ("gemma", "mistral")  # they have no other place for it: it counts as the user's
        if within:
            marked = marked.replace(f"Be brief.\n\n{READ}", f"{READ}Be brief.\n\n")
        found, expected = (made(tiny.make_image(0), prompt) for prompt in (text, marked))
        assert found == expected
        read = torch.tensor(found["input_ids"][0])[torch.tensor(found["instruction_mask"][0]).bool()]
        words = made.tokenizer.decode(read).replace(" \n", "\n").lstrip()  # of the marker behind the image
        assert words == "Be brief.\n\n" * within + "<image>" * PATCHES + "\nHow many?"


@pytest.mark.parametrize("kind", ["bytes", "first"])
@every_form
def test_tokenizing_at_once_is_rendering_and_encoding(name: str, kind: str) -> None:
    made = processor(name, kind)
    image = {"type": "image", "image": tiny.make_image(0)}
    end = ending(name)
    said = [{"role": "user", "content": [image, {"type": "text", "text": f"How {end} many?"}]}]
    options: dict[str, Any] = {"return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    found = made.apply_chat_template(said, tokenize=True, **options)
    expected = made(tiny.make_image(0), made.render(said, add_generation_prompt=True), return_tensors="pt")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    typed = found["input_ids"][0][found["instruction_mask"][0].bool()]
    words = made.tokenizer.decode(typed).replace(" \n", "\n")  # of the marker behind the image
    assert words == f"{'<image>' * PATCHES}\nHow {end} many?"


@every_form
@with_and_without_system
def test_parts_are_the_text(name: str, system: bool) -> None:
    made = processor(name)

    def in_parts(message: Message) -> Message:
        text = message["content"].removeprefix("<image>\n")
        said = [{"type": "text", "text": text[:3]}, {"type": "text", "text": text[3:]}]
        return {**message, "content": [{"type": "image"}] * message["content"].count("<image>") + said}

    said = conversation(system)
    assert made.encode(made.render(list(map(in_parts, said)))) == made.encode(made.render(said))
    assert made.apply_chat_template(list(map(in_parts, said))) == made.apply_chat_template(said)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_saved_with_its_processor(name: str, tmp_path: Path) -> None:
    made = processor(name, "first")
    made.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    said = PLAIN if name == "plain" else conversation(False)
    assert again.chat_template == load_template(name)
    assert again.apply_chat_template(said) == made.apply_chat_template(said)
    assert again.encode(again.render(said)) == made.encode(made.render(said))
    assert again.answer_end_ids == made.answer_end_ids


# --------------------------------------------------------------------------------------------------------------- plain


@pytest.mark.parametrize("kind", ["bytes", "first", "prepend"])
def test_plain_is_the_images_and_the_caption(kind: str) -> None:
    made = processor("plain", kind)
    assert made.apply_chat_template(PLAIN) == "<s><image> A square. \n"
    prompt = made.encode(made.render(PLAIN[:1], add_generation_prompt=True))
    image = [made.image_token_id] * PATCHES
    assert prompt.input_ids == [made.tokenizer.bos_token_id, made.align_token_id, *image]
    whole = made.encode(made.render(PLAIN))
    head = len(prompt.input_ids)
    assert whole.input_ids[:head] == prompt.input_ids
    assert whole.answer_mask == [False] * head + [True] * (len(whole.input_ids) - head)
    assert made.tokenizer.decode(whole.input_ids[head:]) == ("" if kind == "bytes" else " ") + " A square. \n"
    assert not any(whole.instruction_mask)
    assert made.answer_end_ids == []


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("kind", ["bytes", "first"])
def test_plain_begins_with_bos_before_align(kind: str, adds_bos: bool) -> None:
    options: dict[str, Any] = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "adds_bos": adds_bos}  # as phi has them
    words = byte_level(**options) if kind == "bytes" else sentencepiece(kind, **options)
    made = AlignGPTProcessor(image_processor(), words, load_template("plain"), image_seq_length=PATCHES)
    encoding = made.encode(made.render(PLAIN))
    head = [words.bos_token_id, made.align_token_id, *[made.image_token_id] * PATCHES]
    assert encoding.input_ids[: len(head)] == head and words.bos_token_id not in encoding.input_ids[1:]


def test_plain_takes_parts_and_images_alone_of_the_users_turn() -> None:
    made = processor("plain")
    words = [{"type": "text", "text": "What is it?"}]
    said = [
        {"role": "user", "content": [{"type": "image"}, *words, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A "}, {"type": "text", "text": "cat."}]},
    ]
    assert made.apply_chat_template(said) == "<s><image><image>A cat.\n"
    text = [{"role": "user", "content": "<image>What is it?<image>"}, {"role": "assistant", "content": "A cat."}]
    assert made.encode(made.render(text)) == made.encode(made.render(said))


# --------------------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ((0, 2), r"turn 2, user: 'Sure\?' should be from assistant"),
        ((0, 1, 1), r"turn 3, assistant: 'Two\.' should be from user"),
        ((1, 2), r"turn 1, assistant: 'Two\.' should be from user"),
        ((0, 1, -1, 2), r"turn 3, system: 'Be brief\.' should be from user"),
        ((-1, 0, -1), r"turn 2, system: 'Be brief\.' should be from assistant"),
        ((-1, -1, 0), r"turn 1, system: 'Be brief\.' should be from user"),
    ],
    ids=["two questions", "two answers", "answer first", "system between", "system behind", "two systems"],
)
@pytest.mark.parametrize("name", NAMES)
def test_turns_that_do_not_alternate_are_refused(name: str, turns: tuple[int, ...], reason: str) -> None:
    said = [SYSTEM if turn < 0 else TURNS[turn] for turn in turns]
    with pytest.raises(ValueError, match=reason):
        processor(name).render(said)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (TURNS, r"turn 3 \(user\) is one too many for plain"),
        (TURNS[:3], r"turn 3 \(user\) is one too many for plain"),
        ([SYSTEM, *PLAIN], r"turn 1 \(system\) is one too many for plain"),
        ([{"role": "user", "content": "What?"}, PLAIN[1]], r"turn 1 \(user\) has no image"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "<image>"}]}, PLAIN[1]],
            r"turn 1 \(user\) has no image",
        ),
    ],
    ids=["four", "three", "system", "no image", "words"],
)
def test_plain_is_one_image_and_one_caption(said: list[Message], reason: str) -> None:
    with pytest.raises(ValueError, match=f"the conversation does not fit the template: {reason}"):
        processor("plain").render(said)
    with pytest.raises(ValueError, match=r"turn 1 \(user\) has no image"):
        processor("plain").render(PLAIN, has_images=False)


@pytest.mark.parametrize("name", NAMES)
def test_reserved_text_is_refused_with_its_turn(name: str) -> None:
    made = processor(name)
    for words, what in (
        (f"a{MARKS['answer_start']}", "a reserved char"),
        (f"a{MARKS['answer_end']}", "a reserved char"),
    ):
        said = [TURNS[0], {"role": "assistant", "content": words}]
        with pytest.raises(ValueError, match=f"turn 2, assistant: .* contains {what}"):
            made.render(said)
