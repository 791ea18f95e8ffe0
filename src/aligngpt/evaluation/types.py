"""What a benchmark is: where its files lie, what it asks, how it scores; and what a score says of each question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from aligngpt.data.images import UnreadableImage
    from aligngpt.evaluation.judge.judge import Judge

Protocol = Literal["official", "strict"]
Id = int | str
Labels = Any  # each benchmark has its own

LLAVA_FILES = "eval.zip, of docs/Evaluation.md in https://github.com/haotian-liu/LLaVA"


@dataclass(frozen=True)
class BenchmarkFiles:
    """Where a benchmark's files lie below `playground/data/eval`, as LLaVA publishes them.

    Args:
        questions: The question file.
        images: The folder its image paths start from; None where the question file holds the images.
        labels: The label files; none where only a server has them.
        answers: The answers file; `{model}` stands for the model's name.
        source: Where questions, labels and images can be had.
        submission: What a server scores, if one does.
        submission_questions: The file that says what a submission has to hold, where it is not `questions`.
        other_labels: Labels that do as well where `labels` are not there.
        reviews: Where a judge's reviews of the answers go, if it is a judge that marks them.
    """

    questions: str
    images: str | None
    labels: tuple[str, ...]
    answers: str
    source: str = "ask its authors"
    submission: str | None = None
    submission_questions: str | None = None
    other_labels: tuple[str, ...] = ()
    reviews: str | None = None


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        id: As the answers file names it.
        prompt: What the model is asked, without the image's placeholder.
        image: Path below the image folder, the image's bytes, or why these cannot be read; None for a question
            without an image.
        kind: What sort of question it is.
        stored_prompt: What the answers file keeps as its prompt, where that is not `prompt`.
        extra: Further fields of its line in the answers file.
    """

    id: Id
    prompt: str
    image: str | bytes | UnreadableImage | None = None
    kind: str = "default"
    stored_prompt: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """One answer, with the line it stands in (0 where a file has no lines) and what else a scorer reads of it."""

    id: Id
    text: str
    prompt: str = ""
    line: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictions:
    """An answers file; `submission` says that it has the form a server takes, and is scored as it stands."""

    source: str
    rows: Sequence[Prediction]
    submission: bool = False


@dataclass(frozen=True)
class SampleScore:
    """What a scorer made of one question.

    Args:
        id: The question's.
        score: 0 to 1, for tests between two models.
        text: The answer as it was given; None if there is none.
        prediction: What was read out of it.
        label: What is right.
        groups: The sub-scores it counts in: name of the division, then the part or parts.
        stratum: The part of the headline it counts in; None if it does not count there.
        value: Its share of the numerator; None for `score`.
        weight: Its share of the denominator.
        parts: The single answers, where one item stands for several.
    """

    id: Id
    score: float
    text: str | None = None
    prediction: Any = None
    label: Any = None
    groups: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    aggregation_group: str | None = "all"
    value: float | None = None
    weight: float = 1.0
    parts: tuple[SampleScore, ...] = ()

    @property
    def terms(self) -> tuple[float, float]:
        """Numerator and denominator: a score is the sum of the ones over the sum of the others."""
        return self.score if self.value is None else self.value, self.weight


@dataclass(frozen=True)
class MatchCounts:
    """How answers and labels fit: questions without an answer, answers to no question, and repeated answers."""

    missing: int = 0
    extra: int = 0
    duplicate: int = 0


@dataclass(frozen=True)
class Score:
    """The outcome.

    Args:
        value: The headline in the unit of the paper's tables, not rounded.
        printed: The headline as the official scorer prints it.
        items: One for each question.
        count: How answers and labels fit.
        details: What the official scorer reports, under its own names.
        notes: What a reader should know, such as where the official scorer would have stopped.
    """

    value: float
    formatted: str
    samples: Sequence[SampleScore]
    count: MatchCounts
    details: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Args:
        name: On the command line.
        title: In tables.
        metric: What the headline is.
        layout: Where its files lie.
        max_new_tokens: Longest answer, in tokens.
        read_questions: Question file to questions.
        read_labels: The given label files and folders to labels.
        read_answers: An answers file, or reviews of one, to answers.
        score: Labels and answers to a score, by either protocol.
        differs: How the official scorer differs from the strict protocol.
        scale: The headline of a perfect model, for each stratum.
        combine: How the headline is made of its strata.
        write_submission: Question file, answers and where to write what a server scores.
        judge: How another model marks the answers, where only that can.
        read_labels_alone: As `read_labels`, for a run that has named broken images in the label file already.
        items_of: Questions, and the labels where there are any, to the id of the item each is scored in; None where
            that is the question's own.
    """

    name: str
    title: str
    metric: str
    files: BenchmarkFiles
    max_new_tokens: int
    read_questions: Callable[[Path], list[Question]]
    read_labels: Callable[[Sequence[Path]], Labels]
    read_answers: Callable[[Path], Predictions]
    score: Callable[[Labels, Predictions, Protocol], Score]
    official_caveat: str
    scale: float = 100.0
    combine: Literal["mean", "sum"] = "mean"
    write_submission: Callable[[Path, Predictions, Path], None] | None = None
    judge: Judge | None = None
    read_labels_for_run: Callable[[Sequence[Path]], Labels] | None = None
    sample_ids: Callable[[Sequence[Question], Labels | None], list[Id]] | None = None


def match_predictions(ids: Iterable[Id], answers: Predictions) -> tuple[dict[str, Prediction], MatchCounts]:
    """Find the answer to each question; of several the last counts.

    Args:
        ids: The questions'; compared with those of the answers as text.

    Returns:
        The answers by the text of their id, those to no question left out, and how they fit.

    Raises:
        ValueError: If not one of the answers is to one of the questions.
    """
    wanted = dict.fromkeys(str(one) for one in ids)
    known = [row for row in answers.rows if str(row.id) in wanted]
    if not known and wanted:
        raise ValueError(
            f"{answers.source}: none of its {len(answers.rows)} answers is to a question of the labels (its ids begin "
            f"with {_first(row.id for row in answers.rows)}, those of the labels with {_first(wanted)}): is it for "
            "another split or another benchmark?"
        )
    found = {str(row.id): row for row in known}
    return found, MatchCounts(len(wanted) - len(found), len(answers.rows) - len(known), len(known) - len(found))


def _first(ids: Iterable[Id]) -> str:
    return repr(next(iter(ids), None))


def group_samples(samples: Iterable[SampleScore], name: str) -> dict[str, list[SampleScore]]:
    """Sort items by the parts of a division; an item may be in several, or in none."""
    parts: dict[str, list[SampleScore]] = {}
    for sample in samples:
        own = sample.groups.get(name, ())
        for part in (own,) if isinstance(own, str) else own:
            parts.setdefault(part, []).append(sample)
    return parts


def missing_note(count: MatchCounts, what_official_does: str) -> tuple[str, ...]:
    """Say that answers are missing and what the official scorer would have done."""
    if not count.missing:
        return ()
    return (f"questions without an answer, counted as wrong: {count.missing}; {what_official_does}",)


def count_duplicates(ids: Iterable[Id]) -> int:
    """How many ids stand there once more than needed."""
    return sum(times - 1 for times in Counter(map(str, ids)).values())
