"""The public Python API: every name resolves, and a model can be loaded, asked and talked to in a few lines."""

from __future__ import annotations

from pathlib import Path

import pytest

import aligngpt
from tests import tiny


@pytest.mark.parametrize("name", aligngpt._PUBLIC)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    assert (getattr(aligngpt, name).__doc__ or "").strip()
    assert name in (aligngpt.__doc__ or "")


def test_a_model_answers(tmp_path: Path) -> None:
    for part in tiny.build(tmp_path / "backbones"):
        part.save_pretrained(tmp_path / "model")
    tiny.make_image(0).save(tmp_path / "image.png")

    model, processor = aligngpt.load(tmp_path / "model")
    answer = aligngpt.generate(tmp_path / "model", "What is it?", images=[tmp_path / "image.png"], max_new_tokens=4)
    session = aligngpt.ChatSession(tmp_path / "model", images=[tmp_path / "image.png"])
    assert session.ask("What is it?", max_new_tokens=4).text == answer.text == answer.text.strip()
    assert processor.decode(answer.token_ids, skip_special_tokens=True).strip() == answer.text
    assert answer.gate_weights is not None and len(answer.gate_weights) == model.config.num_alignment_levels - 1
