"""What a benchmark is: its files, its questions and its scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import Id
from aligngpt.evaluation.types import Predictions, Protocol, Question, Score

if TYPE_CHECKING:
    from aligngpt.evaluation.judge.judge import Judge

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
class Benchmark:
    """A benchmark: its files, its questions and its scorer.

    Args:
        name: Name on the command line.
        title: Title in tables.
        metric: Name of the primary metric.
        files: Paths of its files.
        max_new_tokens: Maximum length of an answer.
        read_labels: Reads label files or their folders.
        score: Scores predictions by a protocol.
        official_caveat: How the official scorer differs from the strict protocol.
        read_questions: Reads the question file.
        read_predictions: Reads a predictions file, or a judge's reviews of one.
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
    read_labels: Callable[[Sequence[Path]], Labels]
    score: Callable[[Labels, Predictions, Protocol], Score]
    official_caveat: str
    read_questions: Callable[[Path], list[Question]] = readers.read_questions
    read_predictions: Callable[[Path], Predictions] = readers.read_predictions
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
