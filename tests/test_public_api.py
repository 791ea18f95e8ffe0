"""The public Python API: every name resolves, and a model can be loaded, asked and talked to in a few lines."""

from __future__ import annotations

from pathlib import Path

import pytest

import aligngpt
import aligngpt.modeling
from tests import tiny


@pytest.mark.parametrize("package", [aligngpt, aligngpt.modeling])
def test_every_public_name_resolves(package: object) -> None:
    names = set(package.__all__) - {"__version__"}  # type: ignore[attr-defined]
    assert names == set(package._MODULES)  # type: ignore[attr-defined]
    for name in names:
        value = getattr(package, name)
        assert (value.__doc__ or "").strip(), name


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
