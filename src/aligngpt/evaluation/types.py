"""Records of evaluation: questions, predictions, scores, and what a benchmark is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aligngpt.evaluation.artifacts import Id, SampleScore

if TYPE_CHECKING:
    from aligngpt.data.images import UnreadableImage
    from aligngpt.evaluation.judge.judge import Judge

Protocol = Literal["official", "strict"]
Labels = Any  # each benchmark has its own

LLAVA_FILES = "eval.zip, of docs/Evaluation.md in https://github.com/haotian-liu/LLaVA"


@dataclass(frozen=True)
class BenchmarkFiles:
    """Paths of a benchmark's files below the data folder, LLaVA's `playground/data/eval`.

    Args:
        questions: Question file.
        images: Folder that image paths are relative to; None where the question file holds the images.
        labels: Label files; empty where only a server has them.
        answers: Predictions file; `{model}` is the name of the model.
        source: Where questions, labels and images can be downloaded.
        submission: File that a server scores, if there is one.
        submission_questions: File that lists the questions of a submission, where it is not `questions`.
        other_labels: Label files to use where `labels` are missing.
        reviews: A judge's reviews of the predictions, if a judge rates them.
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
        id: Id in the predictions file.
        prompt: Text for the model, without the image placeholder.
        image: Path below the image folder, content of the image, or why it cannot be read; None without an image.
        kind: Kind of question, for statistics of the gate.
        stored_prompt: Prompt in the predictions file, where it differs from `prompt`.
        extra: Further fields of its line in the predictions file.
    """

    id: Id
    prompt: str
    image: str | bytes | UnreadableImage | None = None
    kind: str = "default"
    stored_prompt: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """One answer of a model.

    Args:
        id: Id of the question.
        text: The answer.
        prompt: Stored prompt, empty if there is none.
        line: Line of the predictions file; 0 where a file has no lines.
        extra: Further values that the scorer reads, such as a judge's rating.
    """

    id: Id
    text: str
    prompt: str = ""
    line: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictions:
    """The predictions of one file.

    Args:
        source: Name for error messages.
        rows: Predictions in the order of the file.
        submission: Whether the file has a server's format, whose texts are scored as they are.
    """

    source: str
    rows: Sequence[Prediction]
    submission: bool = False


@dataclass(frozen=True)
class MatchCounts:
    """Numbers of questions without a prediction, of predictions for no question, and of repeated predictions."""

    missing: int = 0
    extra: int = 0
    duplicate: int = 0


@dataclass(frozen=True)
class Score:
    """The score of a predictions file by one protocol.

    Args:
        value: Primary metric in the unit of the paper's tables, not rounded.
        formatted: Primary metric as the official scorer prints it.
        samples: One per sample.
        count: How predictions and labels fit.
        details: What the official scorer reports, under its own names.
        notes: Remarks for the reader, such as where the official scorer would have stopped.
    """

    value: float
    formatted: str
    samples: Sequence[SampleScore]
    count: MatchCounts
    details: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its files, its questions and its scorer.

    Args:
        name: Name on the command line.
        title: Title in tables.
        metric: Name of the primary metric.
        files: Paths of its files.
        max_new_tokens: Maximum length of an answer.
        read_questions: Reads the question file.
        read_labels: Reads label files or their folders.
        read_answers: Reads a predictions file, or a judge's reviews of one.
        score: Scores predictions by a protocol.
        official_caveat: How the official scorer differs from the strict protocol.
        scale: Primary metric of a perfect model, per aggregation group.
        combine: How the primary metric combines its aggregation groups.
        write_submission: Writes the file that a server scores, from question file and predictions.
        judge: How a language model rates the predictions, where the benchmark needs one.
        read_labels_for_run: As `read_labels`, without the check of images, which a run has done already.
        sample_ids: Returns the id of the sample that each question belongs to, from the questions and, where there
            are any, the labels; None where it is the question's id.
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

    def group_by_sample(self, questions: Sequence[Question], labels: Labels | None = None) -> dict[str, list[Question]]:
        """Return the questions of each sample, by the sample's id as text."""
        ids = [question.id for question in questions] if self.sample_ids is None else self.sample_ids(questions, labels)
        samples: dict[str, list[Question]] = {}
        for sample_id, question in zip(ids, questions, strict=True):
            samples.setdefault(str(sample_id), []).append(question)
        return samples


def match_predictions(ids: Iterable[Id], predictions: Predictions) -> tuple[dict[str, Prediction], MatchCounts]:
    """Return the last prediction for each question, by the question's id as text, and how both fit.

    Args:
        ids: Ids of the questions; ids are compared as text.
        predictions: Predictions, perhaps for other questions as well.

    Raises:
        ValueError: No prediction belongs to any of the questions.
    """
    expected = dict.fromkeys(map(str, ids))
    known = [row for row in predictions.rows if str(row.id) in expected]
    if not known and expected:
        raise ValueError(
            f"{predictions.source}: none of its {len(predictions.rows)} answers is for a question of the labels (its "
            f"ids begin with {_first(row.id for row in predictions.rows)}, those of the labels with "
            f"{_first(expected)}); check the split and the benchmark"
        )
    matches = {str(row.id): row for row in known}
    extra = len(predictions.rows) - len(known)
    return matches, MatchCounts(len(expected) - len(matches), extra, len(known) - len(matches))


def _first(ids: Iterable[Id]) -> str:
    return repr(next(iter(ids), None))


def group_samples(samples: Iterable[SampleScore], category: str) -> dict[str, list[SampleScore]]:
    """Return the samples of each value of a category; a sample may have several values, or none."""
    groups: dict[str, list[SampleScore]] = {}
    for sample in samples:
        values = sample.groups.get(category, ())
        for value in (values,) if isinstance(values, str) else values:
            groups.setdefault(value, []).append(sample)
    return groups


def missing_note(count: MatchCounts, official_behavior: str) -> tuple[str, ...]:
    """Return a note about missing predictions and what the official scorer does with them; nothing if none is."""
    if not count.missing:
        return ()
    return (f"questions without an answer, counted as wrong: {count.missing}; {official_behavior}",)


def count_duplicates(ids: Iterable[Id]) -> int:
    """Return how many ids occur again after their first occurrence."""
    return sum(count - 1 for count in Counter(map(str, ids)).values())
