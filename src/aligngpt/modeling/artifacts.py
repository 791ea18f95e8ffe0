"""Files of checkpoints that one command writes and another reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from aligngpt.utils.artifacts import Artifact, Record, RunArtifact


class BackboneReference(Record):
    """The two backbones that a stage-1 checkpoint belongs to."""

    language_model: str = Field(description="Folder, bundled name or hub name of the language model.")
    vision_tower: str = Field(description="Folder, bundled name or hub name of the vision tower.")
    language_model_files: dict[str, str] = Field(description="Fingerprint of each file: size and hash of samples.")
    vision_tower_files: dict[str, str] = Field(description="Fingerprint of each file: size and hash of samples.")

    @property
    def identity(self) -> dict[str, dict[str, str]]:
        """The fingerprints, which do not depend on where the backbones are stored."""
        return {"language_model": self.language_model_files, "vision_tower": self.vision_tower_files}


class Stage1Settings(Record):
    """Arguments of `from_backbones` that rebuild the model of stage 1."""

    template: str = Field(description="Chat template for stage 2: a bundled name or a Jinja file.")
    num_alignment_levels: int = Field(description="Number of levels N, the rows of the alignment table.")
    image_aspect_ratio: Literal["pad", "square"] = Field(
        default="pad", description="Pad images to a square, or resize and crop."
    )
    alignment: Any = Field(description="Alignment setting; `none` if the table was not trained.")


class Stage1Checkpoint(Artifact):
    """The description of a stage-1 checkpoint, next to `stage1.safetensors`."""

    FILE: ClassVar[str] = "stage1.json"
    WEIGHTS: ClassVar[str] = "stage1.safetensors"
    WRITTEN_BY: ClassVar[str] = "aligngpt pretrain"

    backbones: BackboneReference = Field(description="The backbones that stage 1 was trained on.")
    settings: Stage1Settings = Field(description="How to build the model around projector and alignment table.")
    tensors: dict[str, list[int]] = Field(description="Shape of each tensor in `stage1.safetensors`.")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read the description of the stage-1 checkpoint in a folder.

        Raises:
            FileNotFoundError: It is not a finished stage-1 checkpoint.
            ValueError: `stage1.json` is invalid.
        """
        if not all((Path(path) / name).is_file() for name in (cls.FILE, cls.WEIGHTS)):
            raise FileNotFoundError(
                f"{path} is not a finished stage-1 checkpoint ({cls.FILE} and {cls.WEIGHTS}); run `{cls.WRITTEN_BY}`"
            )
        return super().read(path)


class ConversionReport(RunArtifact):
    """The record of a converted checkpoint."""

    FILE: ClassVar[str] = "conversion.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt convert"

    target: Literal["aligngpt", "official"] = Field(description="Format of this folder.")
    kind: Literal["complete", "stage 1"] = Field(description="Complete model, or projector and alignment table.")
    inputs: dict[str, Any] = Field(description="Fingerprints of the source; equal inputs are not converted again.")
    language_model: str = Field(description="Type of the language model, such as `llama`.")
    template: str = Field(description="Name of the bundled chat template, or `custom`.")
    num_alignment_levels: int = Field(description="Number of levels N.")
    image_seq_length: int = Field(description="Tokens per image.")
    dtype: str = Field(description="Data type of the weights.")
    warnings: list[str] = Field(description="Differences that may change the answers.")
