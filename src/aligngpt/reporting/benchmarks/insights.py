"""Insights of the benchmark report: sentences computed from the results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from aligngpt.evaluation.artifacts import TITLES, BenchmarkScore, Comparison, GateMeans, SkippedComparison
from aligngpt.reporting.benchmarks.load import BenchmarkFolder
from aligngpt.reporting.benchmarks.paper_results import ALIGNGPT_7B, LLAVA_7B, PaperModel, scale_to_percent
from aligngpt.reporting.formatting import format_count, format_decimal, format_integer, format_percent, join_words

_MIN_DIFFERENCE = 0.001  # nats; smaller differences vanish in three digits
_MIN_SAMPLES = 10  # bootstrap intervals of fewer samples are too narrow


def describe_overview(folder: BenchmarkFolder) -> list[str]:
    """Describe how many benchmarks have a score, and how they compare with the paper's 7B models."""
    verb = "has" if len(folder.scores) == 1 else "have"
    sentences = [f"{len(folder.scores)} of {format_count(len(folder.results), 'benchmark')} {verb} a score."]
    for model in (ALIGNGPT_7B, LLAVA_7B) if folder.comparable else ():
        shared, higher, inconclusive = count_higher(folder, model)
        sentences.append(
            f"Compared with {model.name} of the paper, the score is higher on {higher} of "
            f"{format_count(shared, 'benchmark')}; on {inconclusive} the paper's score is within the 95% CI."
        )
    return sentences


def count_higher(folder: BenchmarkFolder, model: PaperModel) -> tuple[int, int, int]:
    """Return the numbers of shared benchmarks, of those with a higher score, and of inconclusive differences."""
    shared = {name: score for name, score in folder.comparable.items() if name in model.scores}
    higher = sum((score.score or 0.0) > model.scores[name] for name, score in shared.items())
    return len(shared), higher, sum(is_inconclusive(score, model.scores[name]) for name, score in shared.items())


def is_inconclusive(score: BenchmarkScore, reference: float) -> bool:
    """Return whether the reference is within the interval of the score, or the score has no interval."""
    return score.ci95 is None or score.ci95[0] <= reference <= score.ci95[1]


def describe_largest_differences(folder: BenchmarkFolder, model: PaperModel) -> list[str]:
    """Describe where the folder's model exceeds a model of the paper most, and where it falls short most."""
    differences = [
        (scale_to_percent(name, (score.score or 0.0) - model.scores[name]), TITLES[name])
        for name, score in folder.comparable.items()
        if name in model.scores
    ]
    if not differences:
        return []
    extremes = [("above", *max(differences)), ("below", *min(differences))]
    return [
        f"Furthest {word} {model.name}: {title}, by {format_decimal(abs(value), 1)}% of the full score."
        for word, value, title in extremes
        if (value > 0) == (word == "above") and value
    ]


def describe_gate_entropy(by_benchmark: Mapping[str, GateMeans]) -> list[str]:
    """Describe how uniform the gate weights are, and which benchmarks differ in their entropy."""
    uniform = math.log(len(next(iter(by_benchmark.values())).weights))
    ranked = sorted(by_benchmark, key=lambda name: by_benchmark[name].entropy)
    largest, smallest = (format_decimal(uniform - by_benchmark[name].entropy, 3) for name in (ranked[0], ranked[-1]))
    reference = f"below the entropy of uniform weights ({format_decimal(uniform, 3)} nats)"
    if len(ranked) == 1:
        return [f"The entropy of the gate weights is {largest} nats {reference}."]
    return [
        f"The entropy of the gate weights is {smallest} ({ranked[-1]}) to {largest} ({ranked[0]}) nats {reference}.",
        _describe_differences(by_benchmark, "benchmarks") or "The 95% CIs of the entropy separate no two benchmarks.",
    ]


def describe_categories(title: str, parts: Mapping[str, GateMeans], noun: str) -> str | None:
    """Describe which parts of one benchmark differ in their entropy, or return `None`."""
    sentence = _describe_differences(parts, noun)
    return None if sentence is None else f"{title}: {sentence}"


def _describe_differences(rows: Mapping[str, GateMeans], noun: str) -> str | None:
    pairs = list(combinations(rows, 2))
    separate = [
        (compute_moved_weight(rows[left], rows[right]), left, right)
        for left, right in pairs
        if are_different(rows[left], rows[right])
    ]
    if not separate:
        return None
    moved, left, right = max(separate)
    return (
        f"the 95% CIs of the entropy separate {len(separate)} of {format_count(len(pairs), 'pair')} of {noun}; "
        "the largest "
        f"difference is between {left} and {right}, with {format_percent(moved)} of the weight on other levels."
    )


def are_different(left: GateMeans, right: GateMeans) -> bool:
    """Return whether two mean entropies differ: enough samples, separate intervals, a visible difference."""
    separate = not do_overlap(left.entropy_ci95, right.entropy_ci95)
    enough = min(left.n_samples, right.n_samples) >= _MIN_SAMPLES
    return separate and enough and abs(left.entropy - right.entropy) >= _MIN_DIFFERENCE


def do_overlap(left: Sequence[float] | None, right: Sequence[float] | None) -> bool:
    """Return whether two intervals overlap, or one is unknown."""
    return left is None or right is None or (left[0] <= right[1] and right[0] <= left[1])


def compute_moved_weight(left: GateMeans, right: GateMeans) -> float:
    """Return the fraction of the weight, 0 to 1, by which two mixtures differ (total variation)."""
    return sum(abs(a - b) for a, b in zip(left.weights, right.weights, strict=True)) / 2


def describe_predictions(folder: BenchmarkFolder) -> list[str]:
    """Describe missing, extra and repeated predictions and unreadable images."""
    sentences = []
    if folder.scores:
        counts = [score.counts for score in folder.scores.values()]
        names = ("n_predictions", "n_missing", "n_extra", "n_duplicates")
        total, *others = (format_integer(sum(getattr(count, name) for count in counts)) for name in names)
        sentences.append("{} predictions; {} missing, {} extra, {} repeated.".format(total, *others))
    unreadable = sum(result.row.n_unreadable_images for result in folder.results)
    if unreadable:
        sentences.append(f"{format_count(unreadable, 'image')} could not be read.")
    return sentences


def get_sign(ci95: Sequence[float] | None) -> int:
    """Return 1 for an interval above zero, -1 below, else 0; also 0 without an interval or with one of zero width."""
    if ci95 is None or ci95[0] == ci95[1]:
        return 0
    return int(ci95[0] > 0) - int(ci95[1] < 0)


def describe_comparison(comparisons: Sequence[Comparison | SkippedComparison]) -> list[str]:
    """Describe on which benchmarks two models differ, with the interval of the difference."""
    compared = [row for row in comparisons if isinstance(row, Comparison)]
    if not compared:
        return ["No benchmark could be compared."]
    model, baseline = compared[0].model.name, compared[0].baseline.name
    signs = {row.title: get_sign(row.ci95) for row in compared}
    sentences = [
        f"{name} scores higher on {join_words(titles)}: the 95% CI of the difference excludes zero."
        for name, sign in ((model, 1), (baseline, -1))
        if (titles := [title for title in signs if signs[title] == sign])
    ]
    undecided = [title for title in signs if not signs[title]]
    if undecided:
        sentences.append(f"On {join_words(undecided)} the results show no difference: the 95% CI includes zero.")
    return sentences + [f"{row.title}: {note}." for row in compared for note in row.notes]
