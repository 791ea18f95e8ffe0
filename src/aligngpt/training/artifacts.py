"""Files that a training run writes and other commands read."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from aligngpt.utils.artifacts import Artifact, Record, RunArtifact

Stage = Literal["pretrain", "finetune"]


class TrainConfigFile(RunArtifact):
    """The identity of a training run: the same command resumes it, another one is refused."""

    FILE: ClassVar[str] = "run_config.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt pretrain or finetune"

    stage: Stage = Field(description="Stage of the training.")
    config: dict[str, Any] = Field(description="Every field of the configuration, as in `config.yaml`.")
    inputs: dict[str, Any] = Field(
        description="Sizes, times and fingerprints of the data files, path of the images, fingerprints of checkpoints."
    )


class LogEntry(Record):
    """One entry of the loss history."""

    step: int = Field(description="Optimizer step.")
    loss: float | None = Field(description="Mean over the steps since the entry before (nats per token).")
    learning_rate: float | None = Field(description="Learning rate of the step.")
    grad_norm: float | None = Field(description="Norm of the gradients before clipping.")


class ModuleSummary(Record):
    """One module of the model."""

    name: str = Field(description="Name of the module.")
    num_parameters: int = Field(description="Number of its parameters.")
    trainable: bool = Field(description="Whether the stage trains it.")


class SkippedSample(Record):
    """One line of `skipped.jsonl`: a sample that training did not use."""

    source: str | None = Field(default=None, description="File of the record.")
    line: int | None = Field(default=None, description="Line of the record in a JSON Lines file, from 1.")
    index: int | None = Field(default=None, description="Index of the record in its file, from 0.")
    id: str | None = Field(description="Id of the sample, if it has one.")
    image: str | None = Field(default=None, description="Path of the image, if it is the reason.")
    reason: str = Field(description="Why it was skipped.")


class TrainResult(Artifact):
    """The result of a training run, written last: a folder that has it is complete."""

    FILE: ClassVar[str] = "train_results.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt pretrain or finetune"

    stage: Stage = Field(description="Stage of the training.")
    alignment: str = Field(description="Alignment setting of the configuration.")
    global_step: int = Field(description="Number of optimizer steps.")
    global_batch_size: int = Field(description="Samples per optimizer step over all devices.")
    num_samples: int = Field(description="Number of samples in the dataset.")
    num_without_level: int = Field(default=0, description="Pairs not used because they have no alignment level.")
    num_skipped: int = Field(description="Records that cannot be read; `skipped.jsonl` has the reasons.")
    num_truncated: int = Field(description="Distinct samples truncated to max_length, in the first pass over the data.")
    train_runtime: float = Field(description="Seconds of training since the last start.")
    train_loss: float = Field(description="Mean loss over all logged steps (nats per token).")
    final_loss: float = Field(description="Mean of the last five entries of log_history (nats per token).")
    log_history: list[LogEntry] = Field(description="The loss every logging_steps steps.")
    loss_by_level: list[float | None] | None = Field(
        default=None,
        description="Stage 1: mean caption loss of each level after training; null for a level without pairs.",
    )
    modules: list[ModuleSummary] = Field(description="Modules of the model and whether they were trained.")
