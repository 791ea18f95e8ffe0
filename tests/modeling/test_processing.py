"""The processor: masks, the position of `<align>`, and equal results of all ways to build a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import processors

from aligngpt import AlignGPTProcessor
from aligngpt.modeling.processing import MARKS, load_template, pad_to_square
from tests import tiny
from tests.modeling.conftest import Built

TWO_TURNS = [
    {"role": "user", "content": "<image>\nHow many?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


def masked(processor: AlignGPTProcessor, ids: list[int], mask: list[bool]) -> str:
    text = processor.tokenizer.decode([token for token, kept in zip(ids, mask, strict=True) if kept])
    return text.replace("<image>" * 9, "<image>")


@pytest.mark.parametrize("template", ["bare", "vicuna_v1"])
def test_masks_are_exactly_the_first_images_turn_and_the_answers_with_their_end(built: Built, template: str):
    processor = built[1]
    encoding = processor.encode(processor.render(TWO_TURNS, load_template(template)))
    assert masked(processor, encoding.input_ids, encoding.instruction_mask) == "<image>\nHow many?"
    assert masked(processor, encoding.input_ids, encoding.answer_mask) == " Two.</s> Yes.</s>"
    assert encoding.input_ids.count(processor.image_token_id) == 9
    assert encoding.input_ids[:2] == [2, processor.align_token_id]
    assert encoding.input_ids.count(processor.align_token_id) == 1


@pytest.mark.parametrize(
    ("questions", "read"),
    [
        (("<image> one", "two", "three"), ["<image> one"] * 3),
        (("one", "<image> two", "three"), ["one", "<image> two", "<image> two"]),
        (("one", "two <image>", "<image> three"), ["one", "two <image>", "two <image>"]),
        (("<image><image> one", "<image> two", "three"), ["<image><image> one"] * 3),
        (("one", "two", "three"), ["one"] * 3),
    ],
    ids=["first", "second", "second and third", "two and one", "none"],
)
def test_the_gate_reads_the_turn_of_the_first_image_in_every_turn(
    built: Built, questions: tuple[str, ...], read: list[str]
) -> None:
    processor = built[1]
    turns: list[dict[str, Any]] = []
    for question, expected in zip(questions, read, strict=True):
        turns.append({"role": "user", "content": question})
        encoding = processor.encode(processor.render(turns, add_generation_prompt=True))
        assert masked(processor, encoding.input_ids, encoding.instruction_mask) == expected
        turns.append({"role": "assistant", "content": "an answer"})


def test_vicuna_is_written_as_the_official_template_has_it(built: Built):
    text = built[1].apply_chat_template(TWO_TURNS, load_template("vicuna_v1"))
    assert text == (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nHow many? ASSISTANT: Two.</s>"
        "USER: Sure? ASSISTANT: Yes.</s>"
    )


def test_plain_is_the_image_and_the_caption_with_a_newline(built: Built):
    processor = built[1]
    turns = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": " A dog. "}]
    encoding = processor.encode(processor.render(turns, load_template("plain")))
    image = [processor.image_token_id] * 9
    caption = processor.tokenizer.encode(" A dog. \n", add_special_tokens=False)
    assert encoding.input_ids == [2, processor.align_token_id, *image, *caption]
    assert encoding.answer_mask == [False] * 11 + [True] * len(caption)
    assert not any(encoding.instruction_mask)


def test_text_alone_has_no_align_token_and_neither_has_a_model_without_alignment(built: Built, fresh: Built):
    processor = built[1]
    assert processor.align_token_id not in processor.encode("<s>USER: Hi ASSISTANT:").input_ids
    image = "<s>USER: <image>\nHi ASSISTANT:"
    assert processor.align_token_id in processor.encode(image).input_ids
    assert processor.align_token_id not in processor.encode(image, alignment="none").input_ids
    fresh[1].use_alignment = False
    assert fresh[1].align_token_id not in fresh[1].encode(image).input_ids


@pytest.mark.parametrize(
    "turns",
    [TWO_TURNS[:1], TWO_TURNS[:3], [{"role": "user", "content": "a USER b\n\nc"}]],
    ids=["one turn", "two turns", "odd words"],
)
@pytest.mark.parametrize("template", ["bare", "vicuna_v1"])
def test_text_without_marks_gives_the_same_masks(built: Built, template: str, turns: list[dict[str, Any]], tmp_path):
    processor = AlignGPTProcessor(
        built[1].image_processor, tiny.tokenizer(), load_template(template), image_seq_length=9
    )
    marked = processor.encode(processor.render(turns, add_generation_prompt=True))
    plain = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert not any(mark in plain for mark in MARKS.values())
    assert processor.encode(plain).input_ids == marked.input_ids
    assert processor.encode(plain).instruction_mask == marked.instruction_mask


def test_chat_template_with_tokenize_is_the_call_on_rendered_text(built: Built):
    processor = built[1]
    parts = [{"type": "image", "image": tiny.make_image(0)}, {"type": "text", "text": "How many?"}]
    found = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    text = processor.render(TWO_TURNS[:1], add_generation_prompt=True)
    expected = processor(tiny.make_image(0), text, return_tensors="pt")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_without_bos_align_follows_the_first_token(built: Built):
    words = tiny.tokenizer()
    words.bos_token = None
    words.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    processor = AlignGPTProcessor(built[1].image_processor, words, load_template("bare"), image_seq_length=9)
    encoding = processor.encode(processor.render(TWO_TURNS[:1]))
    first, second = words.convert_tokens_to_ids(["U", "S"])
    assert encoding.input_ids[:3] == [first, processor.align_token_id, second]


def test_padding_sides_and_lists(built: Built):
    processor = built[1]
    texts = ["<s>USER: Hi ASSISTANT:", "<s>USER: Good morning ASSISTANT:"]
    left = processor(text=texts, return_tensors="pt")
    right = processor(text=texts, return_tensors="pt", padding_side="right")
    gap = int((left["attention_mask"][0] == 0).sum())
    assert gap == len(" morning") + len("Good") - len("Hi")
    for name in ("input_ids", "attention_mask", "instruction_mask"):
        assert torch.equal(left[name][0].roll(-gap), right[name][0])
    assert processor(text=texts)["input_ids"] == left["input_ids"].tolist()


def test_a_prompt_in_another_form_logs_a_warning(built: Built, caplog: pytest.LogCaptureFixture):
    processor = built[1]
    processor(tiny.make_image(0), "<s>USER: <image>\nHi ASSISTANT:")
    processor(tiny.make_image(0), "<s><image>", alignment=3)
    assert not caplog.records
    processor(tiny.make_image(0), "<s>Question: <image>\nHi Answer:")
    assert "has no instruction text" in caplog.text


def test_pad_to_square_centres_on_the_mean_color():
    image = Image.new("RGB", (5, 2), (10, 20, 30))
    square = pad_to_square(image, (0.5, 0.25, 1.0))
    assert square.size == (5, 5)
    fill = (127, 63, 255)
    assert [square.getpixel((2, y)) for y in range(5)] == [fill, (10, 20, 30), (10, 20, 30), fill, fill]


def test_aspect_ratio_decides_between_padding_and_cropping(built: Built, fresh: Built):
    wide = Image.new("RGB", (60, 20), (255, 0, 0))
    padded = built[1].pixel_values([wide])
    fresh[1].image_aspect_ratio = "square"
    cropped = fresh[1].pixel_values([wide])
    assert padded.shape == cropped.shape == (1, 3, 24, 24)
    assert torch.equal(cropped[0, :, 0, 0], cropped[0, :, 12, 12])  # red all over
    assert not torch.allclose(padded[0, :, 0, 0], padded[0, :, 12, 12])


def test_bad_settings_and_texts_say_so(built: Built, tmp_path: Path):
    processor = built[1]
    with pytest.raises(ValueError, match="image_aspect_ratio is 'round'; choose one of pad, square"):
        AlignGPTProcessor(processor.image_processor, tiny.tokenizer(), image_aspect_ratio="round")
    with pytest.raises(ValueError, match="template 'vicuna' is unknown; pass the path of a Jinja file or one of bare"):
        load_template("vicuna")
    with pytest.raises(
        ValueError, match=r"turn 1, user: 'hi \\ufdd2' contains a reserved character \(U\+FDD0 to U\+FDD4\)"
    ):
        processor.render([{"role": "user", "content": f"hi {MARKS['answer_start']}"}])
    with pytest.raises(ValueError, match="turn 1, user: 'hi <align>' contains <align>, which is reserved"):
        processor.render([{"role": "user", "content": "hi <align>"}])
    with pytest.raises(ValueError, match="the text contains <align>, which is reserved"):
        processor(text="<s>USER: hi <align> ASSISTANT:")
    with pytest.raises(ValueError, match="cannot be truncated"):
        processor(text="<s>USER: hi ASSISTANT:", truncation=True)
    with pytest.raises(ValueError, match=r"\[1, 2\] <image> placeholders each, for \[2, 1\] images each"):
        images = [tiny.make_image(seed) for seed in range(3)]
        processor([images[:2], images[2:]], ["<s>USER: <image> a", "<s>USER: <image><image> b"])
    with pytest.raises(ValueError, match="no chat template"):
        AlignGPTProcessor(processor.image_processor, tiny.tokenizer()).render(TWO_TURNS)
    own = tmp_path / "own.jinja"
    own.write_text("{{ messages[0].content }}")
    assert load_template(own) == "{{ messages[0].content }}"
