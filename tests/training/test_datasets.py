"""Samples: labels on answers only, the gate's mask on the turn of the first image only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from aligngpt import AlignGPTProcessor
from aligngpt.data.schema import Conversation, ImageTextPair, Turn
from aligngpt.training.datasets import IGNORED, InstructionDataset, PretrainDataset, Sample, read_levels
from tests import tiny
from tests.source_files import indexed

PATCHES = (tiny.IMAGE_SIZE // tiny.PATCH_SIZE) ** 2
BOS, EOS = 2, 3
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
PAIR = ImageTextPair("p", "0.png", " A dog, près.\n")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("backbones")
    return tiny.save_language_model(folder / "llm"), tiny.save_vision_tower(folder / "tower")


def processor(folders: tuple[Path, Path], template: str = "bare") -> AlignGPTProcessor:
    made = AlignGPTProcessor.from_backbones(*folders, template=template)
    made.image_seq_length = PATCHES
    return made


def ids(processor: AlignGPTProcessor, text: str) -> list[int]:
    """Return one token per byte, without special tokens."""
    return processor.tokenizer.encode(text, add_special_tokens=False)


def where(sample: dict[str, Any], mask: str) -> list[int]:
    """Return the ids where a mask is set."""
    return [token for token, marked in zip(sample["input_ids"], sample[mask], strict=True) if marked]


def learned(sample: dict[str, Any]) -> list[int]:
    """Return the labels that are not ignored, each checked to be at its own token."""
    for token, label in zip(sample["input_ids"], sample["labels"], strict=True):
        assert label in (token, IGNORED)
    return [label for label in sample["labels"] if label != IGNORED]


def talk(name: str, images: tuple[str, ...], *texts: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(name, images, tuple(Turn(roles[index % 2], text) for index, text in enumerate(texts)))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ stage 1


def test_a_pair_becomes_align_image_and_caption(folders: tuple[Path, Path], images: Path) -> None:
    words = processor(folders)
    sample = PretrainDataset(indexed([PAIR], images), words, np.array([6]))[0]
    caption = ids(words, " A dog, près.\n\n")  # as in the file, with the template's line end
    head = [BOS, words.align_token_id, *[words.image_token_id] * PATCHES]
    assert sample["input_ids"] == head + caption
    assert sample["labels"] == [IGNORED] * len(head) + caption
    assert where(sample, "instruction_mask") == []  # stage 1 does not use the file's prompt
    assert (sample["id"], sample["alignment_level"], sample["truncated"]) == ("p", 6, False)
    assert sample["pixel_values"].shape == (1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)


def test_pairs_without_a_level_are_not_in_the_dataset_and_counted(
    folders: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    pairs = indexed([replace(PAIR, id=name, image=f"{name}.png") for name in "012"], images)
    columns = {"id": ["2", "1", "0", "else"], "alignment_level": pa.array([1, None, 8, 3], pa.int8())}
    pq.write_table(pa.table(columns), tmp_path / "levels.parquet")
    dataset = PretrainDataset(pairs, processor(folders), read_levels(pairs, tmp_path))
    assert [(dataset[i]["id"], dataset[i]["alignment_level"]) for i in range(len(dataset))] == [("0", 8), ("2", 1)]
    assert dataset.num_without_level == 1
    assert dataset.modality_lengths == [3, 3]
    with pytest.raises(ValueError, match="none of the 3 pairs has a level"):
        PretrainDataset(pairs, processor(folders), np.zeros(3, np.uint8))
    levels = indexed([PAIR, replace(PAIR, id="q", alignment_level=7)], images)
    assert read_levels(levels, None).tolist() == [0, 7]


def test_without_alignment_a_pair_has_no_level_and_no_align_token(folders: tuple[Path, Path], images: Path) -> None:
    words = processor(folders)
    words.use_alignment = False
    dataset = PretrainDataset(indexed([PAIR], images), words, None)
    assert (dataset[0]["alignment_level"], dataset.num_without_level) == (None, 0)
    assert dataset[0]["input_ids"][: 1 + PATCHES] == [BOS, *[words.image_token_id] * PATCHES]


# ------------------------------------------------------------------------------------------------------------ stage 2


@pytest.mark.parametrize(("template", "opening"), [("bare", ""), ("vicuna_v1", VICUNA)])
def test_only_answers_have_labels(folders: tuple[Path, Path], images: Path, template: str, opening: str) -> None:
    words = processor(folders, template)
    turns = ("<image>\nHow many? ASSISTANT: two", " two ", "Where is\nit?", "at the top")
    sample = InstructionDataset(indexed([talk("c", ("0.png",), *turns)], images), words)[0]
    image = [words.image_token_id] * PATCHES
    pieces: list[tuple[list[int], bool, bool]] = [  # ids, learned, read by the gate
        ([BOS, words.align_token_id], False, False),
        (ids(words, f"{opening}USER: "), False, False),
        (image, False, True),
        (ids(words, "\nHow many? ASSISTANT: two"), False, True),  # a user may write what the template writes
        (ids(words, " ASSISTANT:"), False, False),
        (ids(words, "  two "), True, False),  # the template's space, and the answer as in the file
        ([EOS], True, False),
        (ids(words, "USER: Where is\nit? ASSISTANT:"), False, False),  # the gate reads only the first image's turn
        (ids(words, " at the top"), True, False),
        ([EOS], True, False),
    ]
    assert sample["input_ids"] == [token for piece, _, _ in pieces for token in piece]
    assert sample["labels"] == [token if answer else IGNORED for piece, answer, _ in pieces for token in piece]
    assert sample["instruction_mask"] == [read for piece, _, read in pieces for _ in piece]
    assert sample["alignment_level"] is None


def test_a_text_only_sample_has_no_image_and_no_align_token(folders: tuple[Path, Path], images: Path) -> None:
    words = processor(folders)
    conversations = [talk("t", (), "What is red?", "a color"), talk("i", ("0.png",), "<image>", "x")]
    dataset = InstructionDataset(indexed(conversations, images), words)
    sample = dataset[0]
    assert sample["input_ids"] == [BOS, *ids(words, "USER: What is red? ASSISTANT: a color"), EOS]
    assert learned(sample) == [*ids(words, " a color"), EOS]
    assert where(sample, "instruction_mask") == ids(words, "What is red?")
    assert sample["pixel_values"] is None
    assert dataset.modality_lengths == [-5, 2]


def test_an_image_placeholder_without_an_image_is_text(folders: tuple[Path, Path], images: Path) -> None:
    words = processor(folders)
    sample = InstructionDataset(indexed([talk("t", (), "Is <image> a tag?", "<image> is.")], images), words)[0]
    spelled = [words.tokenizer.convert_tokens_to_ids(byte) for byte in "<image>"]
    assert sample["input_ids"] == [
        BOS,
        *ids(words, "USER: Is "),
        *spelled,
        *ids(words, " a tag? ASSISTANT: "),
        *spelled,
        *ids(words, " is."),
        EOS,
    ]
    assert sample["pixel_values"] is None


def test_the_only_image_of_a_turn_moves_to_its_front_and_several_stay(folders: tuple[Path, Path], images: Path) -> None:
    words = processor(folders)
    asked = ("  What is it? <image>\n", "<image>", "Is <image> like <image>? ")
    turns = [text for question in asked for text in (question, "x")]
    sample = InstructionDataset(indexed([talk("m", ("0.png",) * 4, *turns)], images), words)[0]
    text = words.tokenizer.decode(sample["input_ids"]).replace("<image>" * PATCHES, "<image>")
    assert text == (
        "<s><align>USER: <image>\nWhat is it? ASSISTANT: x</s>USER: <image> ASSISTANT: x</s>"
        "USER: Is <image> like <image>?  ASSISTANT: x</s>"
    )


def test_several_images_share_one_align_token(folders: tuple[Path, Path], images: Path) -> None:
    words = processor(folders)
    conversation = talk("m", ("0.png", "1.png", "2.png"), "<image>\n<image>\nWhich?", "both", "And <image>?", "no")
    sample = InstructionDataset(indexed([conversation], images), words)[0]
    tokens = sample["input_ids"]
    assert tokens.index(words.align_token_id) == 1 and tokens.count(words.align_token_id) == 1
    assert tokens.count(words.image_token_id) == 3 * PATCHES
    image = [words.image_token_id] * PATCHES
    read = [*image, *ids(words, "\n"), *image, *ids(words, "\nWhich?")]  # the turn of the first image
    assert where(sample, "instruction_mask") == read
    assert learned(sample) == [*ids(words, " both"), EOS, *ids(words, " no"), EOS]
    each = [
        InstructionDataset(indexed([talk("s", (name,), "<image>", "x")], images), words)[0]["pixel_values"]
        for name in conversation.images
    ]
    assert torch.equal(sample["pixel_values"], torch.cat(each))
    assert not torch.equal(each[0], each[1])


# ------------------------------------------------------------------------------------------- what does not fit or exist


def test_a_truncated_sample_is_marked(folders: tuple[Path, Path], images: Path) -> None:
    words = processor(folders)
    conversation = talk("c", ("0.png",), "<image>\nWhy?", "because")
    whole = InstructionDataset(indexed([conversation], images), words)[0]
    length = len(whole["input_ids"])
    fits = InstructionDataset(indexed([conversation], images), words, max_length=length)[0]
    cut = InstructionDataset(indexed([conversation], images), words, max_length=length - 3)[0]
    assert (whole["truncated"], fits["truncated"], cut["truncated"]) == (False, False, True)
    assert learned(cut) == ids(words, " becau")
    for name in ("input_ids", "labels", "instruction_mask"):
        assert fits[name] == whole[name]
        assert cut[name] == whole[name][: length - 3]


def assert_nothing_learned(sample: Sample, name: str) -> None:
    assert sample["id"] == name and sample["truncated"]
    assert (len(sample["input_ids"]), sample["labels"], sample["instruction_mask"]) == (1, [IGNORED], [False])
    assert sample["pixel_values"] is None


def test_a_sample_without_room_for_an_answer_adds_no_loss_and_is_named(
    folders: tuple[Path, Path], images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = processor(folders)
    conversation = talk("deep/17", ("0.png",), "<image>\nWhy?", "because")
    length = len(InstructionDataset(indexed([conversation], images), words)[0]["input_ids"])
    answer = len(ids(words, " because")) + 1
    reached = InstructionDataset(indexed([conversation], images), words, max_length=length - answer + 1)[0]
    assert learned(reached) == ids(words, " ")
    assert not caplog.records
    assert_nothing_learned(
        InstructionDataset(indexed([conversation], images), words, max_length=length - answer)[0], "deep/17"
    )
    assert f"sample deep/17 adds no loss: its {length} tokens" in caplog.text
    pair = PretrainDataset(indexed([PAIR], images), words, np.array([1]), max_length=PATCHES)[0]
    assert_nothing_learned(pair, "p")
    assert pair["alignment_level"] == 1


def test_a_sample_with_a_truncated_image_adds_no_loss(folders: tuple[Path, Path], images: Path) -> None:
    words = processor(folders)
    conversation = talk("late", ("0.png", "1.png"), "<image>\nWhat?", "x", "<image>\nAnd this?", "y")
    tokens = InstructionDataset(indexed([conversation], images), words)[0]["input_ids"]
    last = len(tokens) - tokens[::-1].index(words.image_token_id)
    assert_nothing_learned(InstructionDataset(indexed([conversation], images), words, max_length=last - 2)[0], "late")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("truncated.jpg", "truncated or damaged"), ("gone.png", "no such file"), ("empty.jpg", "0 bytes")],
)
def test_an_unreadable_image_is_named(folders: tuple[Path, Path], images: Path, name: str, reason: str) -> None:
    words = processor(folders)
    conversation = InstructionDataset(indexed([talk("c", (name,), "<image>", "x")], images), words)
    pair = PretrainDataset(indexed([replace(PAIR, image=name)], images), words, np.array([5]))
    for dataset, record_id in ((conversation, "c"), (pair, "p")):
        skipped = dataset[0]["skipped"]
        assert [skipped[key] for key in ("source", "index", "id", "image")] == ["pairs.jsonl", 0, record_id, name]
        assert reason in skipped["reason"]
        assert (dataset[0]["labels"], dataset[0]["pixel_values"], dataset[0]["truncated"]) == ([IGNORED], None, False)
        with pytest.raises(ValueError, match=rf"none of 1 samples can be read, .*{name}: .*{reason}.*--images"):
            dataset.check_images()
    assert pair[0]["alignment_level"] == 5  # else the level of the whole batch would be lost


def test_no_conversation_is_an_error(folders: tuple[Path, Path], images: Path) -> None:
    with pytest.raises(ValueError, match="no valid record"):
        InstructionDataset(indexed([], images), processor(folders))
