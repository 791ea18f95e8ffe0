"""What the numbers of a run say, in plain sentences derived from them alone: gains, losses and ties alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev

from aligngpt.reporting.formatting import (
    STAGE_NAMES,
    count_of,
    decimal,
    duration,
    integer,
    kind_name,
    listed,
    memory,
    percent,
    percent_range,
    points,
)
from aligngpt.reporting.run.load import Captions, GateExample, Gates, Levels, Pair, Result, Training

_SAME_LOSS = 0.01  # losses closer than this share count as equal
_FLAT_GATE = 0.05  # gate weights that vary less than this between kinds count as equal


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two closed intervals share a point; an unknown bound (NaN) never sets them apart."""
    return not (one[0] > other[1] or other[0] > one[1])


def paired_difference(adaptive: Result, none: Result) -> tuple[float, float, float] | None:
    """Mean difference of scores on the same questions with its 95 % interval (normal approximation).

    `None` unless both answered the same two or more questions and their scores add up to the accuracies reported.
    """
    if len(adaptive.scores) < 2 or adaptive.scores.keys() != none.scores.keys():
        return None
    for result in (adaptive, none):
        if abs(fmean(result.scores.values()) - result.overall.accuracy) > 0.001:
            return None
    differences = [score - none.scores[question] for question, score in adaptive.scores.items()]
    mean, reach = fmean(differences), 1.96 * stdev(differences) / math.sqrt(len(differences))
    return mean, mean - reach, mean + reach


def accuracy(results: dict[str, Result]) -> list[str]:
    """Adaptive alignment against none over all questions."""
    if len(results) < 2:
        return [
            f"{'Adaptive alignment' if name == 'adaptive' else 'The model without alignment'} reaches an accuracy of "
            f"{percent(result.overall.accuracy)} on {count_of(result.overall.count, 'question')} "
            f"(95 % interval {percent_range(result.overall.interval)}); there is nothing to compare it with."
            for name, result in results.items()
        ]
    adaptive, none = results["adaptive"], results["none"]
    gap = adaptive.overall.accuracy - none.overall.accuracy
    place = f"{points(abs(gap))[1:]} points {'ahead of' if gap > 0 else 'behind'}"
    if abs(gap) < 0.0005:
        place = "level with"
    said = (
        f"With adaptive alignment the model reaches an accuracy of {percent(adaptive.overall.accuracy)} on "
        f"{count_of(adaptive.overall.count, 'question')}, {place} the model trained without alignment "
        f"({percent(none.overall.accuracy)})."
    )
    return [said, _verdict(adaptive, none)]


def _verdict(adaptive: Result, none: Result) -> str:
    """Whether the difference is more than chance over questions explains."""
    touching = overlap(adaptive.overall.interval, none.overall.interval)
    intervals = f"The two 95 % intervals {'overlap' if touching else 'do not overlap'}"
    seeds = "Each model was trained once, so luck in training is not part of any interval."
    paired = paired_difference(adaptive, none)
    if paired is None:
        meaning = "this run does not tell the two apart" if touching else "chance over questions does not explain it"
        return f"{intervals}: {meaning}. {seeds}"
    mean, low, high = paired
    zero = low <= 0 <= high
    meaning = (
        "includes zero: this run does not tell the two apart"
        if zero
        else "leaves out zero: chance over questions does not explain it"
    )
    return (
        f"{intervals}; compared question by question the difference is {points(mean)} points, and its 95 % interval, "
        f"{points(low)} to {points(high)}, {meaning}. {seeds}"
    )


def accuracy_by_kind(results: dict[str, Result]) -> list[str]:
    """On which kinds of question the two models differ by more than their intervals."""
    if len(results) < 2:
        return []
    adaptive, none = results["adaptive"].by_kind, results["none"].by_kind
    shared = [kind for kind in adaptive if kind in none]
    apart = [kind for kind in shared if not overlap(adaptive[kind].interval, none[kind].interval)]
    if not apart:
        return [f"On none of the {len(shared)} kinds do the intervals come apart."]
    said = []
    for word, sign in (("ahead", 1), ("behind", -1)):
        kinds = [kind for kind in apart if sign * (adaptive[kind].accuracy - none[kind].accuracy) > 0]
        if kinds:
            names = listed([f"“{kind_name(kind)}”" for kind in kinds])
            said.append(f"adaptive alignment is {word} on {names}")
    rest = len(shared) - len(apart)
    return [
        f"Where the intervals come apart, {' and '.join(said)}; on the other {rest} they overlap."
        if rest
        else f"The intervals come apart on every kind: {' and '.join(said)}.",
        f"With {len(shared)} kinds compared, one may stand out by chance.",
    ]


def levels(cut: Levels, scores: Sequence[float]) -> list[str]:
    """How the scores spread and how full the levels are."""
    scored = [score for score in scores if not math.isnan(score)]
    failed = len(scores) - len(scored)
    spread = f"The {count_of(len(scored), 'score')} range from {decimal(min(scored))} to {decimal(max(scored))}."
    how = {"quantile": "equally full", "uniform": "equally wide"}.get(cut.strategy, cut.strategy)
    least, most = min(cut.counts), max(cut.counts)
    held = integer(least) if least == most else f"{integer(least)} to {integer(most)}"
    said = f"The {cut.num_levels} levels are cut to be {how} and hold {held} pairs each."
    empty = cut.counts.count(0)
    if empty:
        said += f" {count_of(empty, 'level')} {'is' if empty == 1 else 'are'} empty."
    if failed:
        said += f" {count_of(failed, 'pair')} could not be scored."
    return [spread, said]


def spearman(value: float) -> str:
    """How well scores rank pairs by the truth."""
    strength = "closely" if value >= 0.8 else "roughly" if value >= 0.5 else "poorly" if value > 0 else "not at all"
    return f"Scores rank pairs by their true coverage {strength}: Spearman correlation {decimal(value)} (1 is perfect)."


def trend(values: Sequence[float], what: str, places: int = 2) -> str:
    """How a quantity runs from level 1 to level N, NaN (an empty level) passed over."""
    known = [(level, value) for level, value in enumerate(values, start=1) if not math.isnan(value)]
    if len(known) < 2:
        return f"{what} is known for too few levels to compare."
    (first, low), (last, high) = known[0], known[-1]
    steps = [b - a for (_, a), (_, b) in pairwise(known)]
    change = "rises" if high > low else "falls" if high < low else "stays"
    steady = all(step >= 0 for step in steps) or all(step <= 0 for step in steps)
    said = f"{what} {change} from {decimal(low, places)} at level {first} to {decimal(high, places)} at level {last}"
    return f"{said}{', at every step' if steady and change != 'stays' else ', though not at every step'}."


def losses(trainings: dict[tuple[str, str], Training], stage: str) -> str:
    """Where the two losses of one stage end."""
    ends = {name: trainings[stage, name].final_loss for name in ("adaptive", "none") if (stage, name) in trainings}
    if len(ends) < 2:
        return "".join(f"{STAGE_NAMES[stage]} ends at a loss of {decimal(end, 3)}." for end in ends.values())
    adaptive, none = ends["adaptive"], ends["none"]
    close = abs(adaptive - none) < _SAME_LOSS * abs(none)
    word = "about the same as" if close else "lower than" if adaptive < none else "higher than"
    return (
        f"{STAGE_NAMES[stage]} ends at a loss of {decimal(adaptive, 3)} with alignment, "
        f"{word} without ({decimal(none, 3)})."
    )


def captions(told: Captions) -> list[str]:
    """Whether a higher level makes a fuller caption."""
    first, last = told.by_level[0], told.by_level[-1]
    gain = last.recall - first.recall
    apart = not overlap(first.recall_interval, last.recall_interval)
    if apart:
        word = "fuller" if gain > 0 else "poorer"
        verdict = f"the intervals do not overlap, so a caption at level {last.level} is {word} than one at level 1"
    else:
        verdict = "the intervals overlap, so the level does not show in how much is told"
    return [
        f"Told level {first.level}, the stage-1 model names {percent(first.recall)} of an image's objects; told level "
        f"{last.level}, {percent(last.recall)} ({points(gain)} points): {verdict}.",
        trend([row.precision for row in told.by_level], "The share of named objects that are really there"),
    ]


def gates(gate: Gates) -> list[str]:
    """Whether the gate tells kinds of question apart, and how far from even its weights are."""
    columns = list(zip(*(row.weights for row in gate.by_kind.values()), strict=True))
    spreads = [max(column) - min(column) for column in columns]
    widest = max(range(len(spreads)), key=spreads.__getitem__)
    size = decimal(spreads[widest])
    if spreads[widest] < _FLAT_GATE:
        said = f"The gate hardly tells kinds of question apart: no level's mean weight differs by more than {size}."
    else:
        kinds = sorted(gate.by_kind, key=lambda kind: gate.by_kind[kind].weights[widest])
        said = (
            f"Kinds of question differ most at level {widest + 1}: “{kind_name(kinds[-1])}” gives it {size} more "
            f"weight than “{kind_name(kinds[0])}”."
        )
    even = fmean(row.entropy for row in gate.by_kind.values()) / math.log(len(columns)) if len(columns) > 1 else 0.0
    nearly = "nearly even" if even > 0.95 else "spread over several levels" if even > 0.5 else "set on few levels"
    return [said, f"The weights are {nearly}: entropy is {percent(even, 0)} of its highest possible value."]


def heat_maps(shown: Sequence[GateExample]) -> str:
    """How many of the shown questions were answered right."""
    right = sum(one.prediction.strip() == one.answer.strip() for one in shown)
    return f"{right} of the {count_of(len(shown), 'prediction')} shown match the answer word for word."


def costs(seconds: dict[str, float], megabytes: dict[str, float]) -> list[str]:
    """What the run cost in all."""
    said = []
    if seconds:
        longest = max(seconds, key=seconds.__getitem__)
        said.append(
            f"The steps add up to {duration(sum(seconds.values()))}, the longest of them, {longest}, to "
            f"{duration(seconds[longest])}; steps that ran side by side make the wait shorter than the sum."
        )
    if megabytes:
        largest = max(megabytes, key=megabytes.__getitem__)
        said.append(f"Memory peaked at {memory(megabytes[largest])}, in {largest}.")
    return said


def mean_coverage(pairs: Sequence[Pair], num_levels: int) -> list[float]:
    """Mean true coverage of each level 1..N, NaN for a level without known truth."""
    means = []
    for level in range(1, num_levels + 1):
        known = [pair.coverage for pair in pairs if pair.level == level and pair.coverage is not None]
        means.append(fmean(known) if known else math.nan)
    return means
