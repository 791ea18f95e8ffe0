from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from transformers import AutoTokenizer

from aligngpt import AlignGPTProcessor
from aligngpt.modeling.checkpoints import load_model
from aligngpt.modeling.conversion.from_official import convert_official
from aligngpt.modeling.processing import load_template
from tests.parity.comparisons import COMPARISONS
from tests.parity.deviations import Pairs
from tests.parity.ours import Converted, Loaded
from tests.parity.recorded import BASE_LLM, CHECKPOINT, STAGE1, VISION_TOWER


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """The official checkpoints, converted and loaded; leave them as they were."""
    folder = tmp_path_factory.mktemp("converted")
    convert_official(STAGE1, folder / "stage1", vision_tower=VISION_TOWER, language_model=BASE_LLM)
    convert_official(CHECKPOINT, folder / "complete", vision_tower=VISION_TOWER)
    complete = Loaded(folder / "complete", *load_model(folder / "complete", device="cpu"))
    image_processor = complete.processor.image_processor
    processors = {
        (name, legacy): AlignGPTProcessor(
            image_processor, AutoTokenizer.from_pretrained(BASE_LLM, legacy=legacy == "true"), load_template(template)
        )
        for name, template in (("v1", "vicuna_v1"), ("llama_2", "llama_2"))
        for legacy in ("false", "true")
    }
    processors["v1", "false"] = complete.processor
    return Converted(Loaded(folder / "stage1", *load_model(folder / "stage1", device="cpu")), complete, processors)


@pytest.fixture(scope="session")
def pairs_of(converted: Converted) -> Callable[[str], Pairs]:
    """Ours and the recorded of a recording, computed once."""
    return functools.cache(lambda recording: COMPARISONS[recording](converted))
