"""Insights of the run report: sentences computed from the results, whichever way they point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aligngpt.evaluation.artifacts import Comparison, SkippedComparison
from aligngpt.experiments.artifacts import VARIANTS, GateExample, LevelCaptions
from aligngpt.reporting.benchmarks.charts import format_score
from aligngpt.reporting.benchmarks.insights import do_overlap
from aligngpt.reporting.benchmarks.load import BenchmarkFolder
from aligngpt.reporting.data.insights import describe_trend
from aligngpt.reporting.formatting import (
    STAGE_NAMES,
    format_count,
    format_decimal,
    format_difference,
    format_duration,
    format_interval,
    format_memory,
    format_percent,
)
from aligngpt.training.artifacts import TrainResult

_EQUAL_LOSS = 0.01  # relative difference below which losses count as equal


def describe_variants(
    evaluations: Mapping[str, BenchmarkFolder], comparisons: Sequence[Comparison | SkippedComparison]
) -> list[str]:
    """Describe the score of each variant, and the difference with its interval."""
    sentences = []
    for name, folder in evaluations.items():
        for result in folder.results:
            if result.score is not None:
                score = f"{format_score(result.score.score)} (95% CI {format_interval(result.score.ci95)})"
                sentences.append(f"{VARIANTS[name]}: {result.title} {result.score.metric} {score}.")
    for row in comparisons:
        if isinstance(row, Comparison) and row.ci95[0] < row.ci95[1]:
            includes = row.ci95[0] <= 0 <= row.ci95[1]
            verdict = "includes zero: this run shows no difference" if includes else "excludes zero"
            sentences.append(
                f"The difference on {row.title} is {format_difference(row.difference)} points; its 95% CI over "
                f"questions, {format_interval(row.ci95)}, {verdict}."
            )
    if len(evaluations) > 1:
        sentences.append(
            "Each variant was trained with one seed, and the interval does not include the variation between seeds: "
            "one run does not show that a variant is better."
        )
    return sentences


def describe_spearman(value: float) -> str:
    """Describe how well scores rank pairs by true coverage."""
    strength = "strongly" if value >= 0.8 else "moderately" if value >= 0.5 else "weakly" if value > 0 else "not"
    return f"Scores are {strength} correlated with true coverage: Spearman correlation {format_decimal(value)}."


def describe_losses(trainings: Mapping[tuple[str, str], TrainResult], stage: str) -> str:
    """Describe the final losses of one stage."""
    final = {name: trainings[stage, name].final_loss for name in VARIANTS if (stage, name) in trainings}
    if len(final) < 2:
        return "".join(
            f"Final {STAGE_NAMES[stage].lower()} loss: {format_decimal(loss, 3)}." for loss in final.values()
        )
    adaptive, none = final["adaptive"], final["none"]
    equal = abs(adaptive - none) < _EQUAL_LOSS * abs(none)
    relation = "about the same as" if equal else "lower than" if adaptive < none else "higher than"
    return (
        f"Final {STAGE_NAMES[stage].lower()} loss: {format_decimal(adaptive, 3)} with alignment, {relation} without "
        f"({format_decimal(none, 3)})."
    )


def describe_captions(result: LevelCaptions) -> list[str]:
    """Describe whether captions of a higher level describe more objects."""
    low, high = result.by_level[0], result.by_level[-1]
    gain = high.recall.value - low.recall.value
    if do_overlap(low.recall.ci95, high.recall.ci95):
        verdict = "the CIs overlap, so no effect of the level on recall is shown"
    else:
        verdict = f"the CIs do not overlap: captions at level {high.level} describe {'more' if gain > 0 else 'less'}"
    return [
        f"Conditioned on level {low.level}, the stage-1 model describes {format_percent(low.recall.value)} of the "
        "objects in "
        f"an image; on level {high.level}, {format_percent(high.recall.value)} ({format_difference(100 * gain)} "
        f"points): {verdict}.",
        describe_trend([row.precision.value for row in result.by_level], "Precision of the described objects"),
    ]


def describe_gate_examples(examples: Sequence[GateExample]) -> str:
    """Describe how many of the shown predictions are correct."""
    correct = sum(example.prediction.strip() == example.answer.strip() for example in examples)
    return f"{correct} of {format_count(len(examples), 'prediction')} match the answer exactly."


def describe_costs(seconds: Mapping[str, float], megabytes: Mapping[str, float]) -> list[str]:
    """Describe runtime and peak memory of the run."""
    sentences = []
    if seconds:
        longest = max(seconds, key=seconds.__getitem__)
        sentences.append(
            f"Total runtime of the steps: {format_duration(sum(seconds.values()))}; the longest is {longest} with "
            f"{format_duration(seconds[longest])}. Steps that run in parallel shorten the wall-clock time."
        )
    if megabytes:
        largest = max(megabytes, key=megabytes.__getitem__)
        sentences.append(f"Peak memory: {format_memory(megabytes[largest])}, in {largest}.")
    return sentences
