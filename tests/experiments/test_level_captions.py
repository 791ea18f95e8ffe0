"""Captions by level: what is asked, and that a batch changes no caption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aligngpt.experiments import level_captions
from aligngpt.experiments.artifacts import LevelCaptions
from aligngpt.experiments.level_captions import build_caption_prompt, caption_by_level
from aligngpt.inference import batch_generation
from aligngpt.modeling.checkpoints import describe_backbones, load_model, save_stage1
from aligngpt.modeling.processing import load_template
from aligngpt.synthetic.dataset import generate_dataset, read_questions
from aligngpt.synthetic.scenes import describe
from tests import tiny

LEVELS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset and a stage-1 checkpoint of a tiny random model."""
    folder = tmp_path_factory.mktemp("captions")
    generate_dataset(folder / "data", pairs=2, conversations=2, questions=14)
    model, _ = tiny.build(folder / "backbones", num_alignment_levels=LEVELS, alignment="adaptive")
    base = describe_backbones(folder / "backbones" / "llama-False", folder / "backbones" / "clip")
    settings = {"template": "bare", "num_alignment_levels": LEVELS, "alignment": "global"}
    save_stage1(model, folder / "stage1", base, settings)
    return folder


def test_captions_of_each_level(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[Any] = []
    original = batch_generation.generate_all

    def generate_all(model: Any, processor: Any, prompts: Any, settings: Any, **options: Any) -> Any:
        levels.append(settings.alignment)
        return original(model, processor, prompts, replace(settings, max_new_tokens=6), **options)

    monkeypatch.setattr(level_captions, "generate_all", generate_all)
    result = caption_by_level(folder / "stage1", folder / "data", tmp_path, batch_size=2, limit=3)
    assert levels == [1, 2, 3]
    assert LevelCaptions.read(tmp_path) == result
    monkeypatch.setattr(level_captions, "load_model", None)
    assert caption_by_level(folder / "stage1", folder / "data", tmp_path, limit=3) == result
    with pytest.raises(ValueError, match=r"belongs to another run: inputs\.limit is 3 there, 2 requested"):
        caption_by_level(folder / "stage1", folder / "data", tmp_path, limit=2)
    assert result.num_levels == LEVELS
    assert [row.level for row in result.by_level] == [1, 2, 3]
    questions = read_questions(folder / "data")[:3]
    assert [example.image for example in result.examples] == [question["image"] for question in questions]
    assert [example.truth for example in result.examples] == [describe(q["objects"]) for q in questions]
    model, processor = load_model(folder / "stage1")
    newline = processor.tokenizer.encode("\n", add_special_tokens=False)[-1]
    for index, question in enumerate(questions):
        prompt = build_caption_prompt(processor, folder / "data" / "images" / question["image"])
        assert prompt.text == processor.render([{"role": "user", "content": "<image>"}], load_template("plain"))
        for level in (1, 2, 3):
            settings = batch_generation.GenerationSettings(6, level, stop_token_ids=(newline,))
            [completion] = original(model, processor, [prompt], settings)
            assert result.examples[index].captions[level - 1] == completion.text
