"""Every quantity of every recording against ours, at its tolerance; test_differences.py has what differs on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aligngpt.training.datasets import IGNORED
from tests.parity.comparisons import COMPARISONS
from tests.parity.deviations import Pairs, check
from tests.parity.ours import Converted, collated, forward
from tests.parity.recorded import RECORDINGS, opened
from tests.parity.tolerances import TOLERANCES


@pytest.mark.parametrize(("recording", "quantity"), TOLERANCES, ids=["-".join(row) for row in TOLERANCES])
def test_ours_equals_the_recording(recording: str, quantity: str, pairs_of: Callable[[str], Pairs]) -> None:
    check(recording, quantity, *pairs_of(recording)[quantity])


@pytest.mark.parametrize("recording", COMPARISONS)
def test_nothing_is_compared_without_a_tolerance(recording: str, pairs_of: Callable[[str], Pairs]) -> None:
    assert set(pairs_of(recording)) == {quantity for name, quantity in TOLERANCES if name == recording}


@pytest.mark.parametrize("path", sorted(RECORDINGS.iterdir()), ids=lambda path: path.name)
def test_every_recording_is_read_to_its_last_array(path, pairs_of: Callable[[str], Pairs]) -> None:
    assert pairs_of(path.stem)
    if path.suffix == ".npz":
        assert not opened(path.stem).unread


@pytest.mark.parametrize(("weights", "moves"), [([0.0] * 8, 2.5), ([1 / 7] * 7 + [1.0], 1.0)], ids=["none", "uniform"])
def test_another_alignment_changes_the_logits_beyond_the_tolerance(
    converted: Converted, weights: list[float], moves: float
) -> None:
    batch = collated("finetune_mixed", converted.complete)
    rows, positions = (batch["labels"][:, 1:] != IGNORED).nonzero(as_tuple=True)
    recorded, other = (
        forward(converted.complete.model, batch, alignment=alignment).output.logits[rows, positions]
        for alignment in (None, weights)
    )
    assert moves < (other - recorded).abs().max() < 10
