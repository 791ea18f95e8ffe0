"""A chat session: every answer equals that of the complete conversation; streaming; alignment settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aligngpt.data.schema import BadImage
from aligngpt.inference.chat_session import ChatSession, generate
from aligngpt.modeling.checkpoints import load_model
from tests import tiny

LEVELS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random adaptive model, one without alignment, and two images."""
    folder = tmp_path_factory.mktemp("serving")
    for name, setting in (("model", "adaptive"), ("plain", "none")):
        model, processor = tiny.build(folder / "backbones", num_alignment_levels=LEVELS, alignment=setting)
        processor.use_alignment = setting != "none"
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    for seed in range(2):
        tiny.make_image(seed).save(folder / f"{seed}.png")
    return folder


def make_images(folder: Path, number: int = 1) -> list[Path]:
    return [folder / f"{seed}.png" for seed in range(number)]


def answered(folder: Path, messages: list[tuple[str, str]], images: int, alignment: Any = None) -> tuple[str, str]:
    """The prompt's text, and its answer worked out from scratch: greedy steps, no cache, no `generate`."""
    model, processor = load_model(folder / "model")
    turns = [{"role": role, "content": text} for role, text in messages]
    prompt = processor.render(turns, add_generation_prompt=True)
    inputs = processor([tiny.make_image(seed) for seed in range(images)] or None, prompt, return_tensors="pt")
    ids, read, written = inputs["input_ids"], inputs["instruction_mask"], []
    for _ in range(8):
        with torch.no_grad():
            logits = model(ids, inputs.get("pixel_values"), instruction_mask=read, alignment=alignment).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == 3:
            break
        ids = torch.cat([ids, torch.tensor([[written[-1]]])], dim=1)
        read = torch.nn.functional.pad(read, (0, 1))
    return prompt, processor.tokenizer.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize("images", [0, 1, 2])
def test_a_second_turn_equals_the_complete_conversation(folder: Path, images: int) -> None:
    session = ChatSession(folder / "model", make_images(folder, images))
    first = session.ask("What is it?", max_new_tokens=8)
    second = session.ask("And why?", max_new_tokens=8)
    opening = ("user", "<image>\n" * images + "What is it?")
    assert answered(folder, [opening], images)[1] == first.text
    messages = [opening, ("assistant", first.text), ("user", "And why?")]
    prompt, text = answered(folder, messages, images)
    assert second.text == text
    assert prompt.count("<image>") == images
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
    assert 1 <= len(second.token_ids) <= 8 and second.seconds >= 0
    assert (second.gate_weights is None) == (images == 0)


def test_the_gate_reads_the_turn_of_the_first_image_in_every_turn(folder: Path) -> None:
    session = ChatSession(folder / "model", make_images(folder))
    first, second = (
        session.ask(prompt, max_new_tokens=2).gate_weights for prompt in ("What?", "A very different question")
    )
    assert first is not None and len(first) == LEVELS - 1
    assert sum(first) == pytest.approx(1, abs=1e-4)
    assert second == first
    session.reset()
    assert session.ask("A very different question", max_new_tokens=2).gate_weights != first


def test_gate_text_all_evaluates_the_gate_in_every_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ChatSession(folder / "model", make_images(folder))
    monkeypatch.setattr(session.model.config, "gate_text", "all")
    first, second = (session.ask(prompt, max_new_tokens=8) for prompt in ("What is it?", "And why?"))
    assert second.gate_weights is not None and first.gate_weights != second.gate_weights
    messages = [("user", "<image>\nWhat is it?"), ("assistant", first.text), ("user", "And why?")]
    assert second.text == answered(folder, messages, 1, [*second.gate_weights, 1.0])[1]


def test_streamed_pieces_are_the_text(folder: Path) -> None:
    for prompt in ("What?", "Where is it?", "Tell all of it.", "x"):
        pieces: list[str] = []
        result = generate(folder / "model", prompt, images=make_images(folder), max_new_tokens=40, stream=pieces.append)
        assert "".join(pieces) == result.text
        assert "" not in pieces


def test_streaming_strips_whitespace_around_an_answer() -> None:
    from aligngpt.inference.chat_session import _Streamer

    words = tiny.tokenizer()
    pieces: list[str] = []
    streamer = _Streamer(words, pieces.append)
    streamer.put(torch.tensor([[2, 9, 9]]))  # the prompt
    for token in words.encode(" \n a red\n\ncat \n ", add_special_tokens=False):
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert len(pieces) > 1 and "".join(pieces) == "a red\n\ncat"


# Alignment settings ------------------------------------------------------------------------------------------------
def test_the_setting_changes_the_next_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ChatSession(folder / "model", make_images(folder))
    embeddings: list[torch.Tensor] = []
    get_alignment = session.model.get_alignment

    def noted(*args: Any, **kwargs: Any) -> Any:
        aligned = get_alignment(*args, **kwargs)
        embeddings.append(aligned.embedding[0])
        return aligned

    monkeypatch.setattr(session.model, "get_alignment", noted)
    table = session.model.alignment_embeddings.weight
    settings: tuple[tuple[Any, Any, Any], ...] = (  # the setting, what is reported, the alignment embedding
        (None, "adaptive", None),
        ("adaptive", "adaptive", None),
        (1, 1, table[0]),
        ("3", 3, table[2]),
        ("global", "global", table[2]),
        ("0.5,0,-2", (0.5, 0.0, -2.0), 0.5 * table[0] - 2 * table[2]),
    )
    for setting, reported, embedding in settings:
        session.reset()
        session.set_alignment(setting)
        embeddings.clear()
        result = session.ask("Describe it.", max_new_tokens=8)
        assert result.text == answered(folder, [("user", "<image>\nDescribe it.")], 1, reported)[1]
        assert result.alignment == reported
        assert (result.gate_weights is None) == (embedding is not None)
        if embedding is not None:
            assert torch.allclose(embeddings[0], embedding, atol=1e-6)
    session.set_alignment("none")
    assert session.ask("Describe it.", max_new_tokens=2).gate_weights is None


def test_an_unknown_setting_is_refused_and_the_old_one_stays(folder: Path) -> None:
    session = ChatSession(folder / "model", alignment=2)
    for setting in ("much", "0", LEVELS + 1, "1,2"):
        with pytest.raises(ValueError, match=f"a level from 1 to {LEVELS}"):
            session.set_alignment(setting)
        assert session.alignment == 2
    with pytest.raises(ValueError, match="is invalid"):
        ChatSession(folder / "model", alignment="much")


def test_a_model_without_alignment_refuses_settings(folder: Path) -> None:
    session = ChatSession(folder / "plain", make_images(folder), alignment="none")
    with pytest.raises(ValueError, match="trained without alignment; remove the alignment setting 2"):
        session.set_alignment(2)
    result = session.ask("What?", max_new_tokens=2)
    assert (result.alignment, result.gate_weights) == ("none", None)


# -------------------------------------------------------------------------------------------------------- what fails


def test_a_failed_question_leaves_the_conversation_unchanged(folder: Path) -> None:
    session = ChatSession(folder / "model", make_images(folder))
    first = session.ask("What is it?", max_new_tokens=4)
    before = list(session.messages)
    for prompt, images, reason in (
        ("Why \ufdd0?", 0, "reserved character"),
        ("What is <align>?", 0, "contains <align>, which is reserved"),
        ("See <image>", 2, "the prompt has 1 <image> for 2 images; write one for each image, or none"),
        ("<image><image><image>", 2, "the prompt has 3 <image> for 2 images"),
    ):
        with pytest.raises(ValueError, match=reason):
            session.ask(prompt, images=make_images(folder, images))
        assert (session.messages, len(session.images)) == (before, 1)
    second = session.ask("And why?", max_new_tokens=4).text
    messages = [("user", "<image>\nWhat is it?"), ("assistant", first.text), ("user", "And why?")]
    assert answered(folder, messages, 1)[1].startswith(second)


def test_an_image_placeholder_without_an_image_is_text(folder: Path) -> None:
    session = ChatSession(folder / "model", make_images(folder))
    session.ask("What is it?", max_new_tokens=2)
    session.ask("And what is <image>?", max_new_tokens=2)
    assert session.messages[2]["content"] == [{"type": "text", "text": "And what is <image>?"}]
    encoding = session.processor.encode(session.processor.render(session.messages))
    assert encoding.input_ids.count(session.processor.image_token_id) == session.processor.image_seq_length
    assert "And what is <image>?" in session.processor.tokenizer.decode(encoding.input_ids)


def test_placeholders_in_a_prompt_position_its_images(folder: Path) -> None:
    session = ChatSession(folder / "model", make_images(folder))
    first = session.ask("Is <image> red?", max_new_tokens=8).text
    assert first == answered(folder, [("user", "Is <image> red?")], 1)[1]
    second = session.ask("Or <image>?", images=[folder / "1.png"], max_new_tokens=8).text
    messages = [("user", "Is <image> red?"), ("assistant", first), ("user", "Or <image>?")]
    assert second == answered(folder, messages, 2)[1]


def test_unreadable_images_and_models_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_text("no image")
    with pytest.raises(BadImage, match="not an image"):
        ChatSession(folder / "model", [tmp_path / "fake.png"])
    with pytest.raises(BadImage, match="no such file"):
        generate(folder / "model", "What?", images=[tmp_path / "gone.png"])
    with pytest.raises(FileNotFoundError, match="no such model folder"):
        ChatSession(tmp_path / "gone")


def test_sampling_depends_on_the_seed_and_greedy_decoding_does_not(folder: Path) -> None:
    texts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        texts.append(generate(folder / "model", "Say something", max_new_tokens=12, temperature=5.0).text)
    assert texts[0] == texts[1] != texts[2]
    greedy = {generate(folder / "model", "Say something", max_new_tokens=12).text for _ in range(2)}
    assert len(greedy) == 1
