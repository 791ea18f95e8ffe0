"""Which judge model is asked, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class JudgeConfig:
    """A judge model at an OpenAI-compatible endpoint; without `judge_model` there is no judge."""

    judge_url: str | None = Field(
        default=None, pattern=r"^https?://", description="OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1."
    )
    judge_model: str | None = Field(default=None, min_length=1, description="Name of the judge model at the endpoint.")
    judge_api_key_env: str = Field(
        default="OPENAI_API_KEY",
        description="Environment variable with the API key; a local server may need none.",
    )
    judge_seed: int = Field(default=0, description="Seed of the first run; each further run adds 1.")
    judge_temperature: float | None = Field(
        default=None, ge=0, le=2, description="Sampling temperature; none for that of the official evaluator."
    )
    num_runs: int = Field(default=1, ge=1, description="Scores per prediction of mmvet.")
    input_cost_per_mtok: float | None = Field(default=None, ge=0, description="Cost of a million prompt tokens.")
    output_cost_per_mtok: float | None = Field(default=None, ge=0, description="Cost of a million completion tokens.")
    judge_max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Maximum reply (tokens), larger for a reasoning model; none for the benchmark's own.",
    )
    judge_max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="Name of that limit at the endpoint."
    )
    judge_max_retries: int = Field(default=5, ge=0, description="Retries of a failed request.")
    judge_timeout: float = Field(default=120.0, gt=0, description="Timeout of a request in seconds.")
    max_concurrency: int = Field(default=4, ge=1, description="Concurrent requests.")

    def __post_init__(self) -> None:
        if (self.judge_url is None) != (self.judge_model is None):
            raise ValueError("a judge needs both judge_url and judge_model")
        if (self.input_cost_per_mtok is None) != (self.output_cost_per_mtok is None):
            raise ValueError("a cost needs both input_cost_per_mtok and output_cost_per_mtok")


JUDGE_PRESETS = {"default": JudgeConfig}
