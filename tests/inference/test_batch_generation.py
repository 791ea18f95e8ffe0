"""Batched text equals that of single prompts, token for token; unreadable images are reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aligngpt.data.schema import BadImage, UnreadableImage
from aligngpt.inference.batch_generation import Completion, GenerationSettings, generate_all, generate_batches
from aligngpt.inference.prompts import Prompt, build_prompt
from aligngpt.modeling.checkpoints import load_model
from tests import tiny
from tests.evaluation.mock_runs import LEVELS, save_model

QUESTIONS = ("Red?", "What is this? And what is that, over there behind the house?", "How many?" * 9, "Why", "x" * 120)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return load_model(save_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture(scope="module")
def prompts(loaded: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Prompt]:
    """Twenty questions of mixed length; two of three have an image, as a file or as its content."""
    folder = tmp_path_factory.mktemp("images")
    found = []
    for number in range(20):
        path = folder / f"{number}.png"
        tiny.make_image(number, (30 + number, 24)).save(path)
        content: list[dict[str, str]] = [{"type": "text", "text": QUESTIONS[number % len(QUESTIONS)] + str(number)}]
        images: tuple[Path | bytes, ...] = ()
        if number % 3:
            content.insert(0, {"type": "image"})
            images = (path,) if number % 2 else (path.read_bytes(),)
        text = loaded[1].render([{"role": "user", "content": content}], add_generation_prompt=True)
        found.append(Prompt(text, images))
    return found


def tokens_of(loaded: tuple[Any, Any], prompts: list[Prompt], batch_size: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The answers, and the tokens of each up to the one that ends it."""
    model, processor = loaded
    ends, pad = set(model.generation_config.eos_token_id), processor.tokenizer.pad_token_id
    rows: list[list[int]] = []
    generate = type(model).generate

    def kept(self: Any, **inputs: Any) -> Any:
        written = generate(self, **inputs)
        for row in written.sequences[:, inputs["input_ids"].shape[1] :].tolist():
            end = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
            assert set(row[end + 1 :]) <= {pad}
            rows.append(row[: end + 1])
        return written

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "generate", kept)
        given = list(
            generate_all(
                model, processor, prompts, GenerationSettings(40, return_gate_weights=True), batch_size=batch_size
            )
        )
    return given, rows


@pytest.mark.parametrize("batch_size", [3, 16])
def test_batches_equal_single_prompts(
    batch_size: int, loaded: tuple[Any, Any], prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    single, single_tokens = tokens_of(loaded, prompts, 1, monkeypatch)
    batched, batched_tokens = tokens_of(loaded, prompts, batch_size, monkeypatch)
    assert batched_tokens == single_tokens
    assert len({len(row) for row in single_tokens}) > 3  # answers end at different places
    assert [one.text for one in batched] == [one.text for one in single]
    for one, other, prompt in zip(batched, single, prompts, strict=True):
        if not prompt.images:
            assert one.gate_weights is other.gate_weights is None
        else:
            torch.testing.assert_close(one.gate_weights, other.gate_weights, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(one.image_text_similarity, other.image_text_similarity, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("alignment", [None, "adaptive", "local", "global", 2])
def test_gate_weights_equal_those_of_the_model(alignment: Any, loaded: tuple[Any, Any], prompts: list[Prompt]) -> None:
    model, processor = loaded
    prompt = prompts[1]
    (given,) = generate_all(model, processor, [prompt], GenerationSettings(2, alignment, return_gate_weights=True))
    (image,) = (tiny.make_image(1, (31, 24)),)
    weights, dots = model.get_gate_weights(**processor(images=[image], text=[prompt.text], return_tensors="pt"))
    assert given.gate_weights is not None and len(given.gate_weights) == LEVELS - 1
    torch.testing.assert_close(given.gate_weights, weights[0].tolist())
    torch.testing.assert_close(given.image_text_similarity, dots[0].tolist())


def test_images_that_cannot_be_read(loaded: tuple[Any, Any], prompts: list[Prompt], tmp_path: Path) -> None:
    cut, words = tmp_path / "cut.png", tmp_path / "words.jpg"
    cut.write_bytes(Path(str(prompts[1].images[0])).read_bytes()[:600])
    words.write_text("no image")
    text = prompts[1].text
    bad = [Prompt(text, (tmp_path / "none.png",)), Prompt(text, (cut,)), Prompt(text, (words,)), Prompt(text, (b"",))]
    bad.append(Prompt(text, (UnreadableImage("broken base64"),)))
    batches = [[bad[0], prompts[1], bad[1], prompts[3]], bad[2:]]
    first, second = generate_batches(*loaded, batches, GenerationSettings(max_new_tokens=40))
    alone = list(generate_all(*loaded, prompts[:4], GenerationSettings(40), batch_size=1))
    assert (first[1], first[3]) == (alone[1], alone[3])
    assert first[0] == Completion("", error="no such file")
    assert [one.text for one in (first[2], *second)] == [""] * 4
    reasons = ["truncated", "not an image", "empty", "broken base64"]
    for one, reason in zip((first[2], *second), reasons, strict=True):
        assert one.error is not None and reason in one.error
    with pytest.raises(BadImage, match="no such file"):
        list(generate_all(*loaded, [prompts[1], bad[0]]))


def test_batches_are_taken_as_they_are_needed(loaded: tuple[Any, Any], prompts: list[Prompt]) -> None:
    taken = []

    def batches() -> Any:
        for number in range(6):
            taken.append(number)
            yield prompts[:1]

    answers = generate_batches(*loaded, batches(), GenerationSettings(max_new_tokens=1))
    next(answers)
    assert taken == [0, 1, 2]
    assert len(list(answers)) == 5


def test_too_little_memory_is_one_line(
    loaded: tuple[Any, Any], prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, **inputs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory\nTried to allocate")

    monkeypatch.setattr(type(loaded[0]), "generate", full)
    with pytest.raises(ValueError, match=r"a batch of 4 does not fit into the memory of cpu; reduce --batch-size"):
        list(generate_all(*loaded, prompts[:4], batch_size=4))


def test_prompts_with_several_images(loaded: tuple[Any, Any], prompts: list[Prompt]) -> None:
    (left,), (right,) = prompts[1].images, prompts[2].images
    mixed = [build_prompt(loaded[1], "Both?", (left, right)), prompts[0], prompts[4]]
    settings = GenerationSettings(6, return_gate_weights=True)
    single = [next(generate_all(*loaded, [prompt], settings)) for prompt in mixed]
    for expected, actual in zip(single, generate_all(*loaded, mixed, settings), strict=True):
        assert actual.text == expected.text
        if expected.gate_weights is not None:
            assert actual.gate_weights == pytest.approx(expected.gate_weights, abs=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_settings_are_those_of_generate(beams: int, loaded: tuple[Any, Any], prompts: list[Prompt]) -> None:
    """Beam search reorders the preallocated cache; the texts and the gate stay those of plain `generate`."""
    model, processor = loaded
    batch = prompts[1:3]
    inputs = processor(
        images=[tiny.make_image(1, (31, 24)), tiny.make_image(2, (32, 24))],
        text=[prompt.text for prompt in batch],
        return_tensors="pt",
    )
    options: dict[str, Any] = {"max_new_tokens": 30, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    expected = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    weights, _ = model.get_gate_weights(**inputs)
    settings = GenerationSettings(30, num_beams=beams, return_gate_weights=True)
    for row, completion in enumerate(generate_all(model, processor, batch, settings)):
        assert completion.text == processor.tokenizer.decode(expected[row], skip_special_tokens=True).strip()
        torch.testing.assert_close(completion.gate_weights, weights[row].tolist())


def test_stop_tokens_and_strings_end_an_answer(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    prompt = build_prompt(processor, "Say.")
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    tokens = model.generate(**processor(text=prompt.text, return_tensors="pt"), **options)[0]
    tokens = tokens[len(processor.encode(prompt.text).input_ids) :].tolist()
    stop = tokens[5]
    [stopped] = generate_all(model, processor, [prompt], GenerationSettings(12, stop_token_ids=(stop,)))
    expected = processor.tokenizer.decode(tokens[: tokens.index(stop) + 1], skip_special_tokens=True).strip()
    assert stopped.text == expected
    [whole] = generate_all(model, processor, [prompt], GenerationSettings(12))
    end = whole.text[2:4]
    [cut] = generate_all(model, processor, [prompt], GenerationSettings(12, stop_strings=("never seen", end)))
    assert cut.text == whole.text[: whole.text.index(end)]
