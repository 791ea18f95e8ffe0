"""Types of the JSON files that evaluation writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, TypeAdapter, field_serializer
from pydantic.dataclasses import dataclass

from aligngpt.utils.artifacts import Artifact, Record, RunArtifact
from aligngpt.utils.text import format_p_value

Id = int | str
Interval = tuple[float, float]
AlignmentSetting = str | int | list[float]

TITLES = {
    "vqav2": "VQAv2",
    "gqa": "GQA",
    "vizwiz": "VizWiz",
    "scienceqa": "SQA-I",
    "textvqa": "TextVQA",
    "pope": "POPE",
    "mme": "MME",
    "mmbench": "MMB",
    "mmbench_cn": "MMB-CN",
    "seed": "SEED-I",
    "llava_bench": "LLaVA-W",
    "mmvet": "MM-Vet",
}  # of the benchmarks in the paper, in the order of its tables
FULL_SUB_SCORES = {"mme": 200.0}  # best possible score in a category; 100 for the others
FULL_SCORES = {"mme": 10 * FULL_SUB_SCORES["mme"]}  # best possible score, for MME a sum of ten; 100 for the others


# eval run: the run ---------------------------------------------------------------------------------------------------


class ModelInfo(Record):
    """What identifies a model, read from its folder without loading it."""

    model: str = Field(description="Name of the model folder.")
    model_hash: str = Field(description="Fingerprint of the model: small files, and the start of each weight tensor.")
    template: str = Field(description="Name of the chat template; `custom` if it is not one of the package's.")
    template_hash: str = Field(description="SHA-256 of the chat template.")
    alignment: AlignmentSetting = Field(description="Alignment setting: a name, a level from 1, or N weights.")
    dtype: str = Field(description="Type of the weights, such as `bfloat16`.")


class EvalRunConfig(RunArtifact, ModelInfo):
    """What makes the predictions of one benchmark what they are; written once, before the first prediction."""

    FILE: ClassVar[str] = "run_config.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt eval run"

    benchmark: str = Field(description="Name of the benchmark.")
    generation: dict[str, Any] = Field(description="Arguments of `generate`: `do_sample`, `num_beams`, ...")
    limit: int | None = Field(description="Only the first N questions; null for all.")
    data_hash: str = Field(description="SHA-256 of the question file.")
    data_note: str | None = Field(description="Note of the data's `dataset_info.json`; null if there is none.")
    image_sizes: list[int] = Field(description="Bytes of up to 100 images, evenly spaced; -1 for a missing one.")


class UnreadableImageRecord(Record):
    """A question whose image could not be read; its prediction is empty."""

    question_id: Id = Field(description="Id of the question.")
    image: str | None = Field(description="Path below the image folder; null if the question file holds the image.")
    reason: str = Field(description="Why it cannot be read.")


class JudgeSummary(Record):
    """The judge whose reviews a score is made of."""

    model: str = Field(description="Requested model.")
    answered_by: dict[str, int] = Field(description="Replies by the model name that the endpoint reported.")
    cost: float | None = Field(description="Cost of all replies; null without prices.")
    n_unreadable: int = Field(description="Replies without a readable rating.")


class BenchmarkResult(Record):
    """One row of `results.json`: a benchmark and its primary metric."""

    benchmark: str = Field(description="Name of the benchmark.")
    title: str = Field(description="Title in tables.")
    metric: str = Field(description="Name of the primary metric.")
    higher_is_better: bool = Field(default=True, description="Direction of the primary metric.")
    score: float | None = Field(default=None, description="Primary metric, not rounded; null without a score.")
    formatted: str | None = Field(default=None, description="Primary metric as the official scorer prints it.")
    ci95: Interval | None = Field(default=None, description="95% bootstrap interval; null if its width is zero.")
    n_samples: int | None = Field(default=None, description="Samples that count in the primary metric.")
    n_questions: int | None = Field(default=None, description="Questions of the run; null before all are answered.")
    n_missing: int | None = Field(default=None, description="Samples without a prediction.")
    n_unreadable_images: int = Field(default=0, description="Questions whose image could not be read.")
    limit: int | None = Field(default=None, description="Only the first N questions were asked.")
    alignment: AlignmentSetting | None = Field(default=None, description="Alignment setting of the run.")
    seconds: float | None = Field(default=None, description="Generation time, summed over the workers.")
    data_note: str | None = Field(default=None, description="Why the data are not the benchmark's own.")
    judge: JudgeSummary | None = Field(default=None, description="The judge, if the predictions were judged.")
    submission: str | None = Field(default=None, description="File for the benchmark's server.")
    unreadable_images: list[UnreadableImageRecord] = Field(default=[], description="Each of them, with the reason.")
    reasons: list[str] = Field(default=[], description="Why there is no score, or which step failed.")
    failed: bool = Field(default=False, description="Whether judging, scoring or the submission ended in an error.")


class EvalResults(RunArtifact):
    """All benchmarks of an output folder."""

    FILE: ClassVar[str] = "results.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt eval run"

    model: str = Field(description="Name of the model folder.")
    model_hash: str = Field(description="Fingerprint of the model, as in `run_config.json`.")
    benchmarks: list[BenchmarkResult] = Field(description="One row per benchmark, in the order of the paper's tables.")


class GateMeans(Record):
    """Mean of what the gate computes (Eq. 2) over some questions."""

    n_samples: int = Field(description="Questions with an image.")
    weights: list[float] = Field(description="Mean gate weights (N - 1); they sum to 1.")
    entropy: float = Field(description="Mean entropy of the weights (nats).")
    entropy_ci95: Interval | None = Field(description="95% bootstrap interval; null for a single question.")


class GateStats(Artifact):
    """Gate statistics of one benchmark; absent if the alignment setting does not use the gate."""

    FILE: ClassVar[str] = "gate_stats.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt eval run"

    overall: GateMeans = Field(description="Over all questions.")
    by_kind: dict[str, GateMeans] = Field(description="By kind of question.")
    by_group: dict[str, dict[str, GateMeans]] = Field(
        description="By category of the score, then by its values; categories with more than 30 values are omitted."
    )


# eval score: the score -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleScore:
    """The score of one sample: a question, or several that are scored together."""

    id: Id = Field(description="Id in the label file.")
    score: float = Field(description="0 to 1, for tests between two models.")
    text: str | None = Field(default=None, description="The predicted text; null without a prediction.")
    prediction: Any = Field(default=None, description="What the scorer extracted from it.")
    label: Any = Field(default=None, description="The correct answer.")
    groups: Mapping[str, str | tuple[str, ...]] = Field(
        default_factory=dict, description="The sample's value, or values, in each category."
    )
    aggregation_group: str | None = Field(
        default="all", description="Part of the primary metric that it counts in; null if it does not count."
    )
    value: float | None = Field(default=None, description="Its term of the numerator; null for `score`.")
    weight: float = Field(default=1.0, description="Its term of the denominator.")
    parts: tuple[SampleScore, ...] = Field(
        default=(), description="The single questions, where several are one sample."
    )

    @property
    def terms(self) -> tuple[float, float]:
        """Numerator and denominator: a metric is the sum of the numerators over the sum of the denominators."""
        return self.score if self.value is None else self.value, self.weight


class GroupScore(Record):
    """The score of one value of a category."""

    score: float | None = Field(description="In the unit of the primary metric.")
    ci95: Interval | None = Field(description="95% bootstrap interval; null if its width is zero.")
    n_samples: int = Field(description="Samples.")


class PredictionCounts(Record):
    """How predictions and labels fit."""

    n_predictions: int = Field(description="Lines of the predictions file.")
    n_missing: int = Field(default=0, description="Samples without a prediction.")
    n_extra: int = Field(default=0, description="Predictions for no question of the labels.")
    n_duplicates: int = Field(default=0, description="Repeated predictions.")


class BenchmarkScore(Artifact):
    """The score of one predictions file."""

    FILE: ClassVar[str] = "score.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt eval score"

    benchmark: str = Field(description="Name of the benchmark.")
    metric: str = Field(description="Name of the primary metric.")
    higher_is_better: bool = Field(default=True, description="Direction of the primary metric.")
    protocol: Literal["official", "strict"] = Field(description="Protocol of `score`.")
    score: float | None = Field(description="Primary metric, not rounded; null if it is undefined.")
    formatted: str = Field(description="Primary metric as the official scorer prints it.")
    ci95: Interval | None = Field(description="95% bootstrap interval; null if its width is zero.")
    n_samples: int = Field(description="Samples that count in the primary metric.")
    counts: PredictionCounts = Field(description="How predictions and labels fit.")
    protocols: dict[str, float | None] = Field(description="Primary metric by either protocol; null if it has none.")
    groups: dict[str, dict[str, GroupScore]] = Field(description="Sub-scores by category, then by its values.")
    details: dict[str, Any] = Field(description="What the official scorer reports, under its own names.")
    notes: list[str] = Field(description="How the protocols differ, and what does not fit.")
    samples: list[SampleScore] = Field(description="Every sample.")

    @field_serializer("samples")
    def _omit_defaults(self, samples: list[SampleScore]) -> list[dict[str, Any]]:
        return _SAMPLES.dump_python(samples, exclude_defaults=True)  # label files have up to 200,000 samples


_SAMPLES = TypeAdapter(list[SampleScore])


# eval judge ----------------------------------------------------------------------------------------------------------


class JudgeUsage(Record):
    """Replies, tokens and cost."""

    n_replies: int = Field(description="Replies.")
    n_replies_without_usage: int = Field(description="Replies without token counts, which the sums do not include.")
    prompt_tokens: int = Field(description="Prompt tokens.")
    completion_tokens: int = Field(description="Completion tokens.")
    cost: float | None = Field(description="In the currency of the prices; null without prices.")


class UnreadableReply(Record):
    """A reply from which no score could be parsed."""

    id: Id = Field(description="Id of the question.")
    run: int = Field(description="Run, from 0.")
    reply: str = Field(description="Text of the last reply.")


class JudgeResult(Artifact):
    """A judge's scores and what they cost; `eval judge` names the file after its reviews file."""

    FILE: ClassVar[str] = "reviews-judge.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt eval judge"

    benchmark: str = Field(description="Name of the benchmark.")
    config: dict[str, Any] = Field(description="Resolved configuration of the judge, without the name of the API key.")
    answered_by: dict[str, int] = Field(description="Replies by the model name that the endpoint reported.")
    system_fingerprints: list[str] = Field(description="Fingerprints that the endpoint reported.")
    n_samples: int = Field(description="Predictions that were judged.")
    counts: PredictionCounts = Field(description="How predictions and questions match.")
    unanswered: list[Id] = Field(description="Questions without a prediction; they were not judged.")
    unreadable: list[UnreadableReply] = Field(description="Replies from which no score could be parsed.")
    scores: dict[str, list[Any]] = Field(description="Scores by question, one per run; null where unreadable.")
    notes: list[str] = Field(description="What does not match, and how the judge was asked.")
    usage: JudgeUsage = Field(description="Over all replies, stored ones included.")
    usage_this_call: JudgeUsage = Field(description="Over the replies that the last call requested.")


# eval compare --------------------------------------------------------------------------------------------------------


class ComparedModel(Record):
    """One of two compared models."""

    name: str = Field(description="Name of the model.")
    source: str = Field(description="The compared file.")
    score: float = Field(description="Primary metric on the shared samples.")
    n_better: int = Field(description="Samples on which it scores higher than the other model.")
    judge: str | None = Field(description="Judge that scored its predictions; null without a judge.")


class DifferingSample(Record):
    """A sample on which two models differ; pairs are (model, baseline)."""

    id: Id = Field(description="Id of the sample.")
    label: Any = Field(description="The correct answer.")
    scores: tuple[float, float] = Field(description="Scores of both models.")
    texts: tuple[Any, Any] = Field(description="Texts of both models; a list where a sample has several questions.")
    question: str | None = Field(default=None, description="The question, if the data folder is available.")
    image: Path | bytes | None = Field(default=None, exclude=True, description="The image, for a page.")


class Comparison(Record):
    """Two models on the samples that both were scored on; a difference is model minus baseline."""

    benchmark: str = Field(description="Name of the benchmark.")
    title: str = Field(description="Title in tables.")
    metric: str = Field(description="Name of the primary metric.")
    protocol: str = Field(description="Protocol of both scores.")
    model: ComparedModel = Field(description="The model.")
    baseline: ComparedModel = Field(description="The model it is compared with.")
    n_samples: int = Field(description="Samples of both.")
    n_unpaired: int = Field(description="Samples that only one of them has; they are skipped.")
    n_equal: int = Field(description="Samples with equal scores.")
    difference: float = Field(description="Score of the model minus score of the baseline.")
    ci95: Interval = Field(description="95% interval of the difference: paired bootstrap over samples.")
    test: Literal["McNemar", "sign"] = Field(description="Exact McNemar test, or sign test where scores are partial.")
    p_value: float = Field(description="Two-sided p-value of the test.")
    notes: list[str] = Field(default=[], description="What limits the comparison, such as different judges.")
    differing: list[DifferingSample] = Field(description="Every sample with different scores.")
    examples: list[DifferingSample] = Field(default=[], description="Some of them with question and image, for a page.")
    examples_note: str | None = Field(default=None, description="Why the examples have no question; null if they do.")

    def __str__(self) -> str:
        low, high = self.ci95
        scores = ", ".join(f"{model.name} {model.score:.2f}" for model in (self.model, self.baseline))
        return (
            f"{self.title}, {self.metric}: {scores}, difference {self.difference:+.2f}, "
            f"95% CI {low:.2f} to {high:.2f}, p {format_p_value(self.p_value)}"
        )


class SkippedComparison(Record):
    """A benchmark on which two models cannot be compared."""

    benchmark: str = Field(description="Name of the benchmark.")
    title: str = Field(description="Title in tables.")
    reason: str = Field(description="Why.")

    def __str__(self) -> str:
        return f"{self.title}: {self.reason}"
