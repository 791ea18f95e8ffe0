"""Records of evaluation: questions, predictions, ground truth and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aligngpt.data.schema import UnreadableImage
from aligngpt.evaluation.artifacts import Id, SampleScore

Protocol = Literal["official", "strict"]


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        id: Id in the predictions file.
        prompt: Text for the model, without the image placeholder.
        image: Path below the image folder, content of the image, or why it cannot be read; None without an image.
        kind: Kind of question, for statistics of the gate.
        stored_prompt: Prompt in the predictions file, where it differs from `prompt`.
        extra: Further fields of its line in the predictions file.
    """

    id: Id
    prompt: str
    image: str | bytes | UnreadableImage | None = None
    kind: str = "default"
    stored_prompt: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """One answer of a model.

    Args:
        id: Id of the question.
        text: The answer.
        prompt: Stored prompt, empty if there is none.
        line: Line of the predictions file; 0 where a file has no lines.
        extra: Further values that the scorer reads, such as a judge's rating.
    """

    id: Id
    text: str
    prompt: str = ""
    line: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictions:
    """The predictions of one file.

    Args:
        source: Name for error messages.
        rows: Predictions in the order of the file.
        submission: Whether the file has a server's format, whose texts are scored as they are.
    """

    source: str
    rows: Sequence[Prediction]
    submission: bool = False


@dataclass(frozen=True)
class Target:
    """The ground truth of one sample.

    Args:
        id: Id of the sample.
        label: The correct answer, or the most frequent answer of several people.
        groups: The sample's value, or values, in each category of sub-scores.
        aggregation_group: As in `SampleScore`.
        answers: The answers of several people.
        data: What else the scorer of the benchmark needs.
    """

    id: Id
    label: Any = None
    groups: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    aggregation_group: str | None = "all"
    answers: tuple[str, ...] = ()
    data: Any = None


@dataclass(frozen=True)
class MatchCounts:
    """Numbers of questions without a prediction, of predictions for no question, and of repeated predictions."""

    n_missing: int = 0
    n_extra: int = 0
    n_duplicates: int = 0


@dataclass(frozen=True)
class Score:
    """The score of a predictions file by one protocol.

    Args:
        value: Primary metric in the unit of the paper's tables, not rounded.
        formatted: Primary metric as the official scorer prints it.
        samples: One per sample.
        count: How predictions and labels fit.
        details: What the official scorer reports, under its own names.
        notes: Remarks for the reader, such as where the official scorer would have stopped.
    """

    value: float
    formatted: str
    samples: Sequence[SampleScore]
    count: MatchCounts
    details: Mapping[str, Any]
    notes: tuple[str, ...] = ()
