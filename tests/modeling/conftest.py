from __future__ import annotations

from pathlib import Path

import pytest

from aligngpt import AlignGPTForConditionalGeneration, AlignGPTProcessor
from tests import tiny

Built = tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A tiny llama on a tiny CLIP; leave it as it was."""
    return tiny.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def fresh(tmp_path: Path) -> Built:
    """The same, to be changed."""
    return tiny.build(tmp_path)
