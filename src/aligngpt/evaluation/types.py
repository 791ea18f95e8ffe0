"""Settings and records of evaluation: questions, predictions, ground truth and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass

from aligngpt.data.schema import UnreadableImage
from aligngpt.evaluation.artifacts import Id, PredictionCounts, SampleScore
from aligngpt.evaluation.judge.config import JudgeConfig
from aligngpt.modeling.settings import Dtype
from aligngpt.utils.config import STRICT

Protocol = Literal["official", "strict"]


@config_dataclass(frozen=True, config=STRICT)
class EvalConfig(JudgeConfig):
    """How a model is evaluated, and by which judge where a benchmark needs one."""

    alignment: Any = Field(
        default=None, description="Alignment setting: a name, a level from 1, or N weights; none for the model's own."
    )
    batch_size: int = Field(default=16, ge=1, description="Questions per batch.")
    num_workers: int | None = Field(
        default=None, ge=1, description="Processes, each of which loads the model; none for one per GPU."
    )
    limit: int | None = Field(default=None, ge=1, description="Run the first N questions, without a score.")
    dtype: Dtype | None = Field(default=None, description="Type of the weights; none for the model's own.")

    @property
    def judge(self) -> JudgeConfig | None:
        """The fields of the judge; None without a judge."""
        values = {field.name: getattr(self, field.name) for field in fields(JudgeConfig)}
        return JudgeConfig(**values) if self.judge_model else None


EVAL_PRESETS = {"default": EvalConfig}


@dataclass(frozen=True)
class Question:
    """One question."""

    id: Id  # id in the predictions file
    prompt: str  # text for the model, without the image placeholder
    # Path below the image folder, content of the image, or why it cannot be read; None without an image.
    image: str | bytes | UnreadableImage | None = None
    kind: str = "default"  # kind of question, for statistics of the gate
    stored_prompt: str | None = None  # prompt in the predictions file, where it differs from `prompt`
    extra: Mapping[str, Any] = field(default_factory=dict)  # further fields of its line in the predictions file


@dataclass(frozen=True)
class Prediction:
    """One answer of a model."""

    id: Id  # id of the question
    text: str  # the answer
    prompt: str = ""  # stored prompt, empty if there is none
    line: int = 0  # line of the predictions file; 0 where a file has no lines
    # Further values that the scorer reads, such as a judge's score.
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictions:
    """The predictions of one file."""

    source: str  # name for error messages
    rows: Sequence[Prediction]  # predictions in the order of the file
    submission: bool = False  # whether the file has a server's format, whose texts are scored as they are


@dataclass(frozen=True)
class Target:
    """The ground truth of one sample."""

    id: Id  # id of the sample
    label: Any = None  # the correct answer, or the most frequent answer of several people
    # The sample's value, or values, in each category of sub-scores.
    groups: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    aggregation_group: str | None = "all"  # as in `SampleScore`
    answers: tuple[str, ...] = ()  # the answers of several people
    data: Any = None  # what else the scorer of the benchmark needs


@dataclass(frozen=True)
class Score:
    """The score of a predictions file by one protocol."""

    value: float  # primary metric in the unit of the paper's tables, not rounded
    formatted: str  # primary metric as the official scorer prints it
    samples: Sequence[SampleScore]  # one per sample
    counts: PredictionCounts  # how predictions and labels fit
    details: Mapping[str, Any]  # what the official scorer reports, under its own names
    notes: tuple[str, ...] = ()  # remarks for the reader, such as where the official scorer would have stopped
