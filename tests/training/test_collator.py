"""The collator's tensors, and the sampler's order; tests/parity holds it against what the official code did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aligngpt.data.schema import Conversation, Turn
from aligngpt.training.collator import Collator
from aligngpt.training.datasets import IGNORED, InstructionDataset
from aligngpt.training.sampler import ModalityGroupedSampler
from tests import tiny
from tests.source_files import indexed


def sample(input_ids: list[int], answers: int, **changes: Any) -> dict[str, Any]:
    """A sample whose last `answers` tokens are learned and whose second token is the user's."""
    masked = len(input_ids) - answers
    return {
        "id": "s",
        "input_ids": input_ids,
        "labels": [IGNORED] * masked + input_ids[masked:],
        "instruction_mask": [place == 1 for place in range(len(input_ids))],
        "pixel_values": None,
        "alignment_level": None,
        "truncated": False,
        "skipped": None,
    } | changes


# ----------------------------------------------------------------------------------------------------------- collator


def test_the_docstrings_example() -> None:
    batch = Collator(0)([sample([2, 7, 8, 9, 3], 2), sample([2, 7, 8, 3], 1, truncated=True)])
    ignored = IGNORED
    expected = {
        "input_ids": [[2, 7, 8, 9, 3], [2, 7, 8, 3, 0]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]],
        "instruction_mask": [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0]],
        "labels": [[ignored, ignored, ignored, 9, 3], [ignored, ignored, ignored, 3, ignored]],
        "logits_to_keep": [2, 3],
        "shift_labels": [[9, 3], [3, ignored]],
    }
    assert batch.pop("truncated") == 1
    assert {name: value.tolist() for name, value in batch.items()} == expected
    assert {value.dtype for value in batch.values()} == {torch.long}


def test_the_padding_may_be_a_token_of_the_text() -> None:
    batch = Collator(7)([sample([2, 7, 8, 7], 1), sample([2, 3], 1)])
    assert batch["input_ids"].tolist() == [[2, 7, 8, 7], [2, 3, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED] * 3 + [7], [IGNORED, 3, IGNORED, IGNORED]]


def test_images_come_in_row_order_and_levels_as_one_tensor() -> None:
    one, two = torch.rand(1, 3, 4, 4), torch.rand(2, 3, 4, 4)
    rows = [sample([2, 3], 1, pixel_values=two), sample([2, 3], 1), sample([2, 3], 1, pixel_values=one)]
    batch = Collator(0)(rows)
    assert torch.equal(batch["pixel_values"], torch.cat([two, one]))
    assert "alignment" not in batch
    levelled = Collator(0)([row | {"alignment_level": level} for row, level in zip(rows, (8, 1, 3), strict=True)])
    assert levelled["alignment"].tolist() == [8, 1, 3]
    assert "pixel_values" not in Collator(0)([sample([2, 3], 1)])


def test_the_loss_of_the_kept_positions_is_the_loss_of_all(tmp_path: Path) -> None:
    model, processor = tiny.build(tmp_path)
    tiny.make_image(0).save(tmp_path / "0.png")
    turns = (Turn("user", "<image>\nWhat?"), Turn("assistant", "a cat"))
    longer = (*turns, Turn("user", "Where, and why is it there?"), Turn("assistant", "at the top"))
    conversations = [
        Conversation("a", ("0.png",), turns),
        Conversation("b", ("0.png",), longer),
        Conversation("c", (), (Turn("user", "Name a color."), Turn("assistant", "red"))),
    ]
    dataset = InstructionDataset(indexed(conversations, tmp_path), processor)
    batch = Collator(0)([dataset[index] for index in range(3)])
    batch.pop("truncated")
    whole = {name: value for name, value in batch.items() if name not in ("logits_to_keep", "shift_labels")}
    with torch.no_grad():
        kept, full = model(**batch), model(**whole)
    supervised = int((batch["labels"] != IGNORED).sum())
    assert kept.logits.shape[1] == len(batch["logits_to_keep"]) < full.logits.shape[1]
    assert torch.allclose(kept.logits, full.logits[:, batch["logits_to_keep"]], atol=1e-5)
    picked = full.logits[:, :-1].log_softmax(-1).gather(2, whole["labels"][:, 1:, None].clamp(min=0)).squeeze(-1)
    by_hand = -picked[whole["labels"][:, 1:] != IGNORED].sum() / supervised
    assert kept.loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert full.loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ sampler


def test_words_of_all_turns_are_counted_negative_without_a_image(tmp_path: Path) -> None:
    turns = (Turn("user", "<image>\nWhat is  it?"), Turn("assistant", "a red\ncat"))
    spoken = (Turn("user", "Why?"), Turn("assistant", "So."))
    _, processor = tiny.build(tmp_path)
    rows = [Conversation("a", ("0.png",), turns), Conversation("b", (), spoken)]
    assert InstructionDataset(indexed(rows, tmp_path), processor).modality_lengths == [7, -2]


LENGTHS = [5, -3, 8, 2, -9, 4, 7, -1, 6, 3, -2, 1]


def test_seed_and_epoch_fix_the_order() -> None:
    sampler, same = (ModalityGroupedSampler(LENGTHS, 2, seed=3) for _ in range(2))
    first = list(sampler)
    torch.manual_seed(99)  # the global state has no part in it
    assert list(sampler) == first == list(same)
    sampler.set_epoch(1)
    assert list(sampler) != first
    same.set_epoch(1)
    assert list(sampler) == list(same)
    assert list(ModalityGroupedSampler(LENGTHS, 2, seed=4)) == list(sampler)  # seed + epoch
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize("lengths", [LENGTHS, [abs(n) for n in LENGTHS], [-abs(n) for n in LENGTHS], [4], [3, -2]])
@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 1), (2, 2), (3, 1), (16, 2)])
def test_every_index_comes_once(lengths: list[int], batch_size: int, world_size: int) -> None:
    sampler = ModalityGroupedSampler(lengths, batch_size, world_size, seed=0)
    assert len(sampler) == len(lengths)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(len(lengths)))


def test_whole_batches_are_of_one_modality() -> None:
    lengths = [5] * 9 + [-5] * 9
    order = list(ModalityGroupedSampler(lengths, 4, seed=1))
    batches = [order[start : start + 4] for start in range(0, 16, 4)]
    assert all(len({lengths[index] > 0 for index in batch}) == 1 for batch in batches)
    assert {lengths[batch[0]] > 0 for batch in batches} == {True, False}


def test_a_length_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="length 0"):
        ModalityGroupedSampler([3, 0, -2], 2)
