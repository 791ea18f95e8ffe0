"""Types of the JSON files that describe synthetic data and backbones."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from aligngpt.utils.artifacts import Artifact, Record, RunArtifact

DATASET_INFO = "dataset_info.json"
QUESTIONS_FILE = "questions.jsonl"


class DatasetInfo(Artifact):
    """Settings of the synthetic dataset."""

    FILE: ClassVar[str] = DATASET_INFO
    WRITTEN_BY: ClassVar[str] = "aligngpt synthetic generate"

    note: str = Field(description="What a reader of results on this data has to know.")
    pairs: int = Field(description="Image-text pairs in `pretrain.json`.")
    conversations: int = Field(description="Conversations in `finetune.json`.")
    questions: int = Field(description="Test questions in `questions.jsonl`.")
    seed: int = Field(description="Random seed of images and texts.")


class MockBenchmarksInfo(Artifact):
    """Settings of the mock benchmark files."""

    FILE: ClassVar[str] = DATASET_INFO
    WRITTEN_BY: ClassVar[str] = "aligngpt synthetic benchmarks"

    note: str = Field(description="What a reader of results on this data has to know.")
    questions: int = Field(description="Questions per benchmark; a few benchmarks need more for all their categories.")
    seed: int = Field(description="Random seed of images and texts.")


class PairTruth(Record):
    """Ground truth about one image-text pair."""

    kind: Literal["whole", "part", "dropped", "mismatched"] = Field(
        description="All objects, some of them, objects without some attributes, or the caption of another image."
    )
    coverage: float = Field(description="Fraction of the image's facts that the caption states correctly, 0 to 1.")


class Truth(Artifact):
    """Ground truth about the image-text pairs, for evaluation; training never reads it."""

    FILE: ClassVar[str] = "truth.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt synthetic generate"

    pairs: dict[str, PairTruth] = Field(description="Ground truth by pair id.")


class BackbonesInfo(RunArtifact):
    """How the synthetic backbones were trained."""

    FILE: ClassVar[str] = "backbones.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt synthetic backbones"

    config: dict[str, Any] = Field(description="The resolved `BackboneTrainingConfig`.")
    seconds: int | None = Field(description="Training time; null until both models are trained.")
