"""AlignGPT: train multimodal language models on image-text data of uneven quality.

The public names are imported at first use, so `import aligngpt` touches no device, no network and no heavy library.
`pretrain`, `finetune`, `convert` and `generate` are named after their commands; of the others, `score_pairs` is
`score`, `assign_levels` is `level`, `filter_pairs` is `filter`, `ChatSession` is `chat`, `evaluate` is `eval run`,
`judge_predictions` is `eval judge`, `compare` is `eval compare`, and `report_X` is `report X`. Parameters have the
names of the options; one that takes several values is a plural, as `scorers` for `--scorer`.

* Curate: `score_pairs`, `assign_levels`, `filter_pairs`; `ClipScorer`, `LevelBoundaries`
* Train: `pretrain` with `PretrainConfig`, `finetune` with `FinetuneConfig`
* Use: `load`, `convert`, `generate`, `ChatSession`
* Model classes: `AlignGPTForConditionalGeneration`, `AlignGPTProcessor`, `AlignGPTConfig`
* Evaluate: `evaluate` with `EvalConfig`, `judge_predictions` with `JudgeConfig`, `compare`
* Report: `report_data`, `report_run`, `report_eval`
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aligngpt.curation.filtering import filter_pairs as filter_pairs
    from aligngpt.curation.levels import LevelBoundaries as LevelBoundaries
    from aligngpt.curation.levels import assign_levels as assign_levels
    from aligngpt.curation.scoring.score import score_pairs as score_pairs
    from aligngpt.curation.scoring.scorers import ClipScorer as ClipScorer
    from aligngpt.evaluation.compare import compare as compare
    from aligngpt.evaluation.judge.config import JudgeConfig as JudgeConfig
    from aligngpt.evaluation.judge.judge import judge_predictions as judge_predictions
    from aligngpt.evaluation.run import evaluate as evaluate
    from aligngpt.evaluation.types import EvalConfig as EvalConfig
    from aligngpt.inference.chat_session import ChatSession as ChatSession
    from aligngpt.inference.chat_session import generate as generate
    from aligngpt.modeling.checkpoints import load_model as load  # noqa: F401
    from aligngpt.modeling.configuration import AlignGPTConfig as AlignGPTConfig
    from aligngpt.modeling.conversion.from_official import convert_official as convert  # noqa: F401
    from aligngpt.modeling.model import AlignGPTForConditionalGeneration as AlignGPTForConditionalGeneration
    from aligngpt.modeling.processing import AlignGPTProcessor as AlignGPTProcessor
    from aligngpt.reporting.benchmarks.page import report_eval as report_eval
    from aligngpt.reporting.data.page import report_data as report_data
    from aligngpt.reporting.run.page import report_run as report_run
    from aligngpt.training.configs import FinetuneConfig as FinetuneConfig
    from aligngpt.training.configs import PretrainConfig as PretrainConfig
    from aligngpt.training.stages import finetune as finetune
    from aligngpt.training.stages import pretrain as pretrain

__version__ = "0.1.0"

# The module of each public name, and its name there if it has another one.
_PUBLIC = {
    "AlignGPTConfig": "aligngpt.modeling.configuration",
    "AlignGPTForConditionalGeneration": "aligngpt.modeling.model",
    "AlignGPTProcessor": "aligngpt.modeling.processing",
    "ChatSession": "aligngpt.inference.chat_session",
    "ClipScorer": "aligngpt.curation.scoring.scorers",
    "EvalConfig": "aligngpt.evaluation.types",
    "FinetuneConfig": "aligngpt.training.configs",
    "JudgeConfig": "aligngpt.evaluation.judge.config",
    "LevelBoundaries": "aligngpt.curation.levels",
    "PretrainConfig": "aligngpt.training.configs",
    "assign_levels": "aligngpt.curation.levels",
    "compare": "aligngpt.evaluation.compare",
    "convert": "aligngpt.modeling.conversion.from_official:convert_official",
    "evaluate": "aligngpt.evaluation.run",
    "filter_pairs": "aligngpt.curation.filtering",
    "finetune": "aligngpt.training.stages",
    "generate": "aligngpt.inference.chat_session",
    "judge_predictions": "aligngpt.evaluation.judge.judge",
    "load": "aligngpt.modeling.checkpoints:load_model",
    "pretrain": "aligngpt.training.stages",
    "report_data": "aligngpt.reporting.data.page",
    "report_eval": "aligngpt.reporting.benchmarks.page",
    "report_run": "aligngpt.reporting.run.page",
    "score_pairs": "aligngpt.curation.scoring.score",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name at first use.

    Raises:
        AttributeError: There is no public name `name`.
    """
    if name not in _PUBLIC:
        raise AttributeError(f"module 'aligngpt' has no attribute {name!r}; its public names are {', '.join(_PUBLIC)}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = globals()[name] = getattr(importlib.import_module(module), attribute or name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
