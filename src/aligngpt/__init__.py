"""AlignGPT: train multimodal language models on image-text data of uneven quality.

The public names are imported at first use, so `import aligngpt` touches no device, no network and no heavy library.
Functions have the names of the commands, and their parameters those of the command options.

* Curate: `score_pairs`, `assign_levels`, `filter_pairs`
* Train: `pretrain` with `PretrainConfig`, `finetune` with `FinetuneConfig`
* Use: `load`, `generate`, `ChatSession`; `AlignGPTForConditionalGeneration`, `AlignGPTProcessor`, `AlignGPTConfig`
* Evaluate: `evaluate`, `compare`
* Report: `report_data`, `report_run`, `report_eval`
"""

from typing import TYPE_CHECKING

from aligngpt.utils.lazy import export_lazily

if TYPE_CHECKING:
    from aligngpt.inference.chat_session import ChatSession, generate
    from aligngpt.modeling.checkpoints import load_model as load
    from aligngpt.modeling.configuration import AlignGPTConfig
    from aligngpt.modeling.model import AlignGPTForConditionalGeneration
    from aligngpt.modeling.processing import AlignGPTProcessor
    from aligngpt.training.configs import FinetuneConfig, PretrainConfig
    from aligngpt.training.stages import finetune, pretrain

__version__ = "0.1.0"

_MODULES = {
    "AlignGPTConfig": "aligngpt.modeling.configuration",
    "AlignGPTForConditionalGeneration": "aligngpt.modeling.model",
    "AlignGPTProcessor": "aligngpt.modeling.processing",
    "ChatSession": "aligngpt.inference.chat_session",
    "FinetuneConfig": "aligngpt.training.configs",
    "PretrainConfig": "aligngpt.training.configs",
    "finetune": "aligngpt.training.stages",
    "generate": "aligngpt.inference.chat_session",
    "load": "aligngpt.modeling.checkpoints:load_model",
    "pretrain": "aligngpt.training.stages",
}

__all__ = [
    "AlignGPTConfig",
    "AlignGPTForConditionalGeneration",
    "AlignGPTProcessor",
    "ChatSession",
    "FinetuneConfig",
    "PretrainConfig",
    "__version__",
    "finetune",
    "generate",
    "load",
    "pretrain",
]

__getattr__, __dir__ = export_lazily(__name__, _MODULES)
