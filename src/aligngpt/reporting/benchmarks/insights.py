"""What a folder of benchmark results says, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

from aligngpt.reporting import formatting as text
from aligngpt.reporting.benchmarks.load import COUNTS, BenchmarkFolder, Gate, Score
from aligngpt.reporting.benchmarks.paper_results import ALIGNGPT_7B, LLAVA_7B, TITLES, PaperModel, of_full

_SEEN = 0.001  # nats; less is not seen in the three digits that are written
_ENOUGH = 10  # questions; bootstrap intervals of fewer are too narrow


def headline(folder: BenchmarkFolder) -> list[str]:
    """How many benchmarks have a score, and how they stand against the paper's 7B models."""
    verb = "has" if len(folder.scores) == 1 else "have"
    sentences = [f"{len(folder.scores)} of {text.count_of(len(folder.results), 'benchmark')} {verb} a score."]
    sentences += [against(folder, model) for model in (ALIGNGPT_7B, LLAVA_7B) if folder.comparable]
    return sentences


def against(folder: BenchmarkFolder, model: PaperModel) -> str:
    """On how many benchmarks the score is above a model of the paper, and where the difference may be chance."""
    shared, above, within = standing(folder, model)
    return (
        f"Against the paper's {model.name} the score is higher on {above} of {text.count_of(shared, 'benchmark')}; "
        f"on {within} the difference may be chance: the paper's figure lies within the interval, or there is none."
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
    """How evenly the gate spreads, and which benchmarks the entropy tells apart."""
    even = math.log(len(next(iter(by_benchmark.values())).weights))
    ranked = sorted(by_benchmark, key=lambda name: by_benchmark[name].entropy)
    least, most = (text.decimal(even - by_benchmark[name].entropy, 3) for name in (ranked[0], ranked[-1]))
    said = f"{text.decimal(even, 3)} nats, the entropy of even weights"
    if len(ranked) == 1:
        return [f"The entropy of the gate's weights is {least} below {said}."]
    parted = _parted(by_benchmark, "benchmarks")
    return [
        f"The entropy of the gate's weights is between {most} ({ranked[-1]}) and {least} ({ranked[0]}) below {said}.",
        parted[0].upper() + parted[1:],
    ]


def _parted(rows: Mapping[str, Gate], what: str) -> str:
    """Which two are the widest apart of those that are told apart, if any are."""
    pairs = list(combinations(rows, 2))
    apart = [(shift(rows[one], rows[other]), one, other) for one, other in pairs if told_apart(rows[one], rows[other])]
    if not apart:
        return f"no two {what} are told apart by their entropy and its 95 % intervals."
    moved, one, other = max(apart)
    return (
        f"entropy tells {len(apart)} of {text.count_of(len(pairs), 'pair')} of {what} apart; of these the widest apart "
        f"are {one} and {other}: {text.percent(moved)} of the weight lies on other levels."
    )


def kinds(title: str, parts: Mapping[str, Gate], what: str) -> str | None:
    """Which parts of one benchmark's questions the entropy tells apart; None if it does not."""
    if not any(told_apart(one, other) for one, other in combinations(parts.values(), 2)):
        return None
    return f"{title}: {_parted(parts, what)}"


def told_apart(one: Gate, other: Gate) -> bool:
    """Whether two mean entropies differ by what can be seen, with intervals of enough questions that do not overlap."""
    if min(one.count, other.count) < _ENOUGH:
        return False
    overlap = not (one.interval[1] < other.interval[0] or other.interval[1] < one.interval[0])
    return not overlap and abs(one.entropy - other.entropy) >= _SEEN


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
        sentences.append(f"{text.count_of(unreadable, 'image')} could not be read.")
    return sentences
