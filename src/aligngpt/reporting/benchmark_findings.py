"""What a folder of benchmark results says, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from aligngpt.reporting import text
from aligngpt.reporting.benchmark_folder import COUNTS, BenchmarkFolder, Gate, Result, Score
from aligngpt.reporting.paper_results import ALIGNGPT_7B, LLAVA_7B, TITLES, PaperModel, of_full


def headline(folder: BenchmarkFolder) -> list[str]:
    """How many benchmarks have a score, and how they stand against the paper's 7B models."""
    sentences = [f"{len(folder.scores)} of {text.count_of(len(folder.results), 'benchmark')} have a score."]
    sentences += [against(folder, model) for model in (ALIGNGPT_7B, LLAVA_7B) if folder.comparable]
    return sentences


def against(folder: BenchmarkFolder, model: PaperModel) -> str:
    """On how many benchmarks the score is above a model of the paper, and where the difference may be chance."""
    shared, above, within = standing(folder, model)
    return (
        f"Against the paper's {model.name} the score is higher on {above} of {text.count_of(shared, 'benchmark')}; "
        f"on {within} the paper's figure lies within the interval."
    )


def standing(folder: BenchmarkFolder, model: PaperModel) -> tuple[int, int, int]:
    """How many benchmarks both have, on how many of them the folder's model is higher, and how many are within."""
    shared = {name: score for name, score in folder.comparable.items() if name in model.scores}
    above = sum(score.value > model.scores[name] for name, score in shared.items())
    return len(shared), above, sum(is_within(score, model.scores[name]) for name, score in shared.items())


def is_within(score: Score, figure: float) -> bool:
    """Whether a figure of the paper lies in the interval; one without width, of few questions, tells nothing."""
    low, high = score.interval
    return low == high or low <= figure <= high


def widest(folder: BenchmarkFolder, model: PaperModel) -> list[str]:
    """Where the folder's model is furthest ahead of one of the paper's, and where furthest behind."""
    ahead = [
        (of_full(name, score.value - model.scores[name]), TITLES[name])
        for name, score in folder.comparable.items()
        if name in model.scores
    ]
    sentences = []
    for word, share, title in [("ahead of", *max(ahead)), ("behind", *min(ahead))] if ahead else []:
        if share > 0 if word == "ahead of" else share < 0:
            sentences.append(
                f"Furthest {word} {model.name}: {title}, by {text.decimal(abs(share), 1)} % of the full score."
            )
    return sentences


def gates(by_benchmark: Mapping[str, Gate]) -> list[str]:
    """How evenly the gate spreads, and how far benchmarks part."""
    even = text.decimal(math.log(len(next(iter(by_benchmark.values())).weights)))
    ranked = sorted(by_benchmark, key=lambda name: by_benchmark[name].entropy)
    least, most = (f"on {name}, {text.decimal(by_benchmark[name].entropy)}" for name in (ranked[0], ranked[-1]))
    if len(ranked) == 1:
        return [f"The entropy of the gate's weights {least} nats; even weights would have {even}."]
    moved, one, other = max(
        (shift(by_benchmark[one], by_benchmark[other]), one, other) for one, other in combinations(ranked, 2)
    )
    return [
        f"The entropy of the gate's weights is lowest {least} nats, and highest {most}; "
        f"even weights would have {even}.",
        f"The widest apart are {one} and {other}: {text.percent(moved)} of the weight lies on other levels.",
    ]


def kinds(divided: Sequence[Result]) -> str:
    """How far the gate parts the questions of one benchmark by their kind."""
    moved, title = max(
        (max(shift(one, other) for one, other in combinations(result.kinds.values(), 2)), result.title)
        for result in divided
    )
    return (
        f"Within one benchmark the kinds of questions part most in {title}: between the two widest apart "
        f"{text.percent(moved)} of the weight lies on other levels."
    )


def shift(one: Gate, other: Gate) -> float:
    """The share of the weight, 0 to 1, that has to move to turn one mixture into the other."""
    return sum(abs(first - second) for first, second in zip(one.weights, other.weights, strict=True)) / 2


def answers(folder: BenchmarkFolder) -> list[str]:
    """What was missing, superfluous or unreadable."""
    sentences = []
    if folder.scores:
        given, missing, extra, duplicate = (
            text.integer(sum(score.answers[name] for score in folder.scores.values())) for name in COUNTS
        )
        sentences.append(
            f"Answers: {given}. Questions without one: {missing}; answers to no question: {extra}; answers that came "
            f"again: {duplicate}."
        )
    unreadable = sum(len(result.unreadable) for result in folder.results)
    if unreadable:
        sentences.append(f"{text.count_of(unreadable, 'picture')} could not be read.")
    return sentences
