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
    """Paths of a benchmark's files below the data folder, LLaVA's `playground/data/eval`."""

    questions: str  # question file
    images: str | None  # folder that image paths are relative to; None where the question file holds the images
    labels: tuple[str, ...]  # label files; empty where only a server has them
    answers: str  # predictions file; `{model}` is the name of the model
    source: str = "ask its authors"  # where questions, labels and images can be downloaded
    submission: str | None = None  # file that a server scores, if there is one
    # File that lists the questions of a submission, where it is not `questions`.
    submission_questions: str | None = None
    other_labels: tuple[str, ...] = ()  # label files to use where `labels` are missing
    reviews: str | None = None  # a judge's reviews of the predictions, if a judge scores them


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its files, its questions and its scorer."""

    name: str  # name on the command line
    title: str  # title in tables
    metric: str  # name of the primary metric
    files: BenchmarkFiles  # paths of its files
    max_new_tokens: int  # maximum length of an answer
    read_labels: Callable[[Sequence[Path]], Labels]  # reads label files or their folders
    score: Callable[[Labels, Predictions, Protocol], Score]  # scores predictions by a protocol
    official_caveat: str  # how the official scorer differs from the strict protocol
    read_questions: Callable[[Path], list[Question]] = readers.read_questions  # reads the question file
    # Reads a predictions file, or a judge's reviews of one.
    read_predictions: Callable[[Path], Predictions] = readers.read_predictions
    scale: float = 100.0  # primary metric of a perfect model, per aggregation group
    combine: Literal["mean", "sum"] = "mean"  # how the primary metric combines its aggregation groups
    # Writes the file that a server scores, from question file and predictions.
    write_submission: Callable[[Path, Predictions, Path], None] | None = None
    judge: Judge | None = None  # how a language model scores the predictions, where the benchmark needs one
    # As `read_labels`, without the check of images, which a run has done already.
    read_labels_for_run: Callable[[Sequence[Path]], Labels] | None = None
    # Returns the id of the sample that each question belongs to, from the questions and, where there are any, the
    # labels; None where it is the question's id.
    sample_ids: Callable[[Sequence[Question], Labels | None], list[Id]] | None = None

    def group_by_sample(self, questions: Sequence[Question], labels: Labels | None = None) -> dict[str, list[Question]]:
        """Return the questions of each sample, by the sample's id as text."""
        ids = [question.id for question in questions] if self.sample_ids is None else self.sample_ids(questions, labels)
        samples: dict[str, list[Question]] = {}
        for sample_id, question in zip(ids, questions, strict=True):
            samples.setdefault(str(sample_id), []).append(question)
        return samples
