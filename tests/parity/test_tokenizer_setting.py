"""The tokenizer's `legacy` setting, which decides about text after an end token, survives saving."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aligngpt import AlignGPTProcessor
from aligngpt.modeling.conversion.from_official import convert_official
from tests.parity.conversations import recorded_of, sample_of
from tests.parity.recorded import CHECKPOINT, VISION_TOWER, read_recording


@pytest.mark.parametrize(("said", "legacy"), [("false", "false"), ("true", "true"), ("null", "true")])
def test_a_converted_folder_keeps_the_setting(tmp_path: Path, said: str, legacy: str) -> None:
    """The official code takes a tokenizer that does not say it for a legacy one."""
    shutil.copytree(CHECKPOINT, tmp_path / "official")
    path = tmp_path / "official" / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"legacy": json.loads(said)}), encoding="utf-8")
    convert_official(tmp_path / "official", tmp_path / "ours", vision_tower=VISION_TOWER)
    processor = AlignGPTProcessor.from_pretrained(tmp_path / "ours")
    conversation = next(
        one for one in read_recording("tokenization")["conversations"] if one["name"] == "multi_turn_text"
    )
    assert sample_of(conversation, processor)["input_ids"] == recorded_of(conversation, "v1", legacy)["input_ids"]
