from __future__ import annotations

from pathlib import Path

import pytest

from aligngpt.training.datasets import InstructionDataset
from tests import tiny
from tests.invariant.samples import ALL, Built, dataset_of


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A tiny llama on a tiny CLIP; leave it as it was."""
    return tiny.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def fresh(tmp_path: Path) -> Built:
    """The same, to be changed."""
    return tiny.build(tmp_path)


BACKBONES = [(llm, tower, tied) for llm in tiny.LANGUAGE_MODELS for tower in tiny.VISION_TOWERS for tied in (0, 1)]


@pytest.fixture(scope="session", params=BACKBONES, ids=lambda one: f"{one[0]}-{one[1]}-{'un' * (not one[2])}tied")
def backbones(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Every language model on every vision tower, with embeddings and head tied or not; leave it as it was."""
    llm, tower, tied = request.param
    return tiny.build(tmp_path_factory.mktemp("backbones"), llm, tower, bool(tied))


@pytest.fixture(scope="session")
def dataset(built: Built, tmp_path_factory: pytest.TempPathFactory) -> InstructionDataset:
    """All eight conversations as training samples."""
    return dataset_of(built[1], tmp_path_factory.mktemp("images"), *ALL)
