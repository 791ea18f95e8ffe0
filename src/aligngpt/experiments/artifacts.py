"""Types of the JSON files of a run: cost of its steps, captions by level, and the summary of its metrics."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from aligngpt.utils.artifacts import Artifact, Record, RunArtifact

RUN_COMMAND = "aligngpt run"
VARIANTS = {"adaptive": "Adaptive alignment", "none": "No alignment"}  # title by alignment setting


class StepCost(Record):
    """Cost of one step, summed over the calls that it took."""

    runtime_s: float = Field(description="Wall-clock seconds.")
    peak_memory_mb: float = Field(description="Peak resident memory of its process in MB.")
    done: bool = Field(description="Whether the step is complete.")


class StepCosts(Artifact):
    """Cost of each step that was started; written when a step ends."""

    FILE: ClassVar[str] = "steps.json"
    WRITTEN_BY: ClassVar[str] = RUN_COMMAND

    steps: dict[str, StepCost] = Field(description="Cost by name of the step.")


class Estimate(Record):
    """A metric with its uncertainty."""

    value: float = Field(description="Value of the metric.")
    ci95: tuple[float, float] | None = Field(description="95% confidence interval (bootstrap over samples).")


class CaptionLevel(Record):
    """What the captions of one alignment level describe, over all objects of all images."""

    level: int = Field(description="Alignment level, from 1.")
    precision: Estimate = Field(description="Fraction of the described objects (color, shape) that are in the image.")
    recall: Estimate = Field(description="Fraction of the objects in the image that are described.")


class CaptionExample(Record):
    """Captions of one image."""

    image: str = Field(description="File name in the image folder.")
    truth: str = Field(description="Complete description.")
    captions: list[str] = Field(description="Generated caption of each level, from level 1.")


class LevelCaptions(Artifact):
    """Captions that a stage-1 model generates at each alignment level."""

    FILE: ClassVar[str] = "captions.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt synthetic captions"

    inputs: dict[str, Any] = Field(description="Model and question files by size and hash, and the limit of images.")
    num_levels: int = Field(description="N, the number of levels.")
    by_level: list[CaptionLevel] = Field(description="Metrics of each level.")
    examples: list[CaptionExample] = Field(description="Captions of a few images.")


class GateExample(Record):
    """What the gate computes for one question (Eq. 2)."""

    image: str = Field(description="File name in the image folder.")
    question: str = Field(description="The question.")
    answer: str = Field(description="The correct answer.")
    prediction: str = Field(description="The predicted answer.")
    grid: tuple[int, int] = Field(description="Rows and columns of image tokens.")
    image_text_similarity: list[float] = Field(description="Image-text dot product of each image token, row by row.")
    gate_weights: list[float] = Field(description="Weights (N - 1) of the levels below N.")

    @model_validator(mode="after")
    def _check_grid(self) -> Self:
        if len(self.image_text_similarity) != self.grid[0] * self.grid[1]:
            raise ValueError(
                f"{len(self.image_text_similarity)} similarities for a grid of {self.grid[0]} x {self.grid[1]}"
            )
        return self


class GateExamples(Artifact):
    """What the gate computes for a few test questions."""

    FILE: ClassVar[str] = "gate_examples.json"
    WRITTEN_BY: ClassVar[str] = RUN_COMMAND

    examples: list[GateExample] = Field(description="Questions of each kind.")


class VariantMetrics(Record):
    """Results of one variant on the synthetic benchmark."""

    accuracy: Estimate = Field(description="Mean score over all questions, 0 to 1.")
    accuracy_by_kind: dict[str, Estimate] = Field(description="Mean score by kind of question.")
    description: dict[str, Estimate] = Field(default={}, description="Precision and recall of described objects.")


class Difference(Record):
    """Difference of two variants on the same questions."""

    value: float = Field(description="Accuracy of the first variant minus accuracy of the second.")
    ci95: tuple[float, float] = Field(description="95% confidence interval (paired bootstrap over questions).")
    p_value: float = Field(description="Two-sided p-value of an exact paired test.")


class LevelStats(Record):
    """The fitted alignment levels."""

    boundaries: list[float] = Field(description="N - 1 score boundaries, ascending.")
    counts: list[int] = Field(description="Pairs of each level.")
    mean_coverage: list[float | None] = Field(description="Mean true coverage of each level's captions, 0 to 1.")


class Summary(RunArtifact):
    """Metrics of a finished run."""

    FILE: ClassVar[str] = "metrics.json"
    WRITTEN_BY: ClassVar[str] = RUN_COMMAND

    synthetic: dict[str, VariantMetrics] = Field(description="Results on the synthetic benchmark by variant.")
    adaptive_minus_none: Difference | None = Field(default=None, description="Of the variants, each trained once.")
    score_coverage_spearman: float = Field(description="Rank correlation of CLIP score and true coverage over pairs.")
    stage1_loss_by_level: list[float | None] = Field(description="Final stage-1 loss of each level (nats per token).")
    captions_by_level: list[CaptionLevel] = Field(description="What stage-1 captions describe at each level.")
    levels: LevelStats = Field(description="The fitted alignment levels.")
    runtime_s: dict[str, float] = Field(description="Wall-clock seconds of each step.")
    peak_memory_mb: dict[str, float] = Field(description="Peak resident memory of each step in MB.")
    config: dict[str, Any] = Field(description="The resolved configuration.")
