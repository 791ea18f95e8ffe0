"""What `aligngpt eval run` leaves behind, read for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from aligngpt.evaluation.artifacts import (
    BenchmarkResult,
    BenchmarkScore,
    EvalResults,
    EvalRunConfig,
    GateMeans,
    GateStats,
)
from aligngpt.reporting.benchmarks.paper_results import PAPER_JUDGE, TITLES, title_of
from aligngpt.utils.artifacts import Artifact

_A = TypeVar("_A", bound=Artifact)

COUNTS = ("given", "missing", "extra", "duplicate")  # of a score's answers


@dataclass(frozen=True)
class Gate:
    """What the gate made of some questions.

    Attributes:
        weights: Mean weights (N - 1), which sum to 1.
        entropy: Mean entropy in nats.
        count: Questions.
        interval: 95 % interval of the entropy; NaN where there is none.
    """

    weights: tuple[float, ...]
    entropy: float
    count: int
    interval: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True)
class Score:
    """What `aligngpt eval score` wrote, without its items.

    Attributes:
        value: The headline in the unit of the paper's tables.
        interval: Its 95 % interval; NaN where there is none.
        count: Items that count in it.
        protocol: Which of `protocols`, the headline by each, it is; `None` where one has none.
        answers: How many of each of `COUNTS`.
        groups: By division, then by part: `score`, `interval` and `count`.
        notes: How the protocols differ, where the official scorer would have stopped.
    """

    value: float
    metric: str
    interval: tuple[float, float]
    count: int
    protocol: str
    protocols: Mapping[str, float | None]
    answers: Mapping[str, int]
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """One benchmark of the folder.

    Attributes:
        score: `None` where there is none.
        reasons: Why there is none, or what else was not done.
        run: Settings and counts of the run; empty where the benchmark was not run.
        gate: Of all its questions; `None` for a model without a gate.
        kinds: Of each kind of question.
        groups: Of each part of each division of the score.
        judges: The models that marked its answers, as they call themselves; none where no judge is recorded.
    """

    name: str
    title: str
    score: Score | None
    reasons: tuple[str, ...]
    run: Mapping[str, Any]
    gate: Gate | None
    kinds: Mapping[str, Gate]
    groups: Mapping[str, Mapping[str, Gate]]
    judges: tuple[str, ...]

    @property
    def apart(self) -> str:
        """Why the paper's figures are not to be set beside its score; empty if they may be."""
        limit = self.run.get("limit")
        marks = (["not its own data"] if self.data_note else []) + ([f"first {limit} questions"] if limit else [])
        if not all(name.lower().startswith(PAPER_JUDGE.lower()) for name in self.judges):
            marks.append(f"judge: {', '.join(self.judges)}, the paper's is {PAPER_JUDGE}")
        return "; ".join(marks)

    @property
    def data_note(self) -> str:
        """What makes its data others than the paper's, such as a drawn miniature; empty if nothing does."""
        return str(self.run.get("data_note") or "")

    @property
    def unreadable(self) -> list[Mapping[str, Any]]:
        """Images that could not be read, each with `question_id`, `image` (or null) and `reason`."""
        return list(self.run.get("unreadable_images") or [])


@dataclass(frozen=True)
class BenchmarkFolder:
    """All benchmarks of a folder, in the order of the paper's tables."""

    folder: Path
    model: str
    results: tuple[Result, ...]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def scores(self) -> dict[str, Score]:
        """What there is of scores, by benchmark."""
        return {result.name: result.score for result in self.results if result.score}

    @cached_property
    def comparable(self) -> dict[str, Score]:
        """Those that may be set beside the paper's."""
        apart = {result.name for result in self.results if result.apart}
        return {name: score for name, score in self.scores.items() if name in TITLES and name not in apart}


def load_folder(folder: Path) -> BenchmarkFolder:
    """Read `results.json` and the files of each benchmark beside it.

    Raises:
        FileNotFoundError: If there is no `results.json`.
        ValueError: If a file is not what `aligngpt eval run` writes.
    """
    results = EvalResults.read(folder / EvalResults.FILE)
    rows = {row.benchmark: row for row in results.benchmarks}
    names = sorted(rows, key=lambda name: list(TITLES).index(name) if name in TITLES else len(TITLES))
    return BenchmarkFolder(folder, results.model, tuple(_result(folder / name, rows[name]) for name in names))


def _result(folder: Path, row: BenchmarkResult) -> Result:
    score, config, gates = _read(BenchmarkScore, folder), _read(EvalRunConfig, folder), _read(GateStats, folder)
    return Result(
        name=folder.name,
        title=title_of(folder.name, row.title),
        score=_score(score) if score else None,
        reasons=tuple(row.reasons),
        run=(config.model_dump() if config else {}) | _run(row),
        gate=_gate(gates.overall) if gates else None,
        kinds=_gates(gates.by_kind) if gates else {},
        groups={name: _gates(parts) for name, parts in gates.by_group.items()} if gates else {},
        judges=_judges(row.judge.model_dump() if row.judge else None),
    )


def _run(row: BenchmarkResult) -> dict[str, Any]:
    if row.n_questions is None:
        return {}
    counts = {"questions": row.n_questions, "unreadable_images": row.n_unreadable_images}
    images = [one.model_dump() for one in row.unreadable_images]
    return {"complete": True, "seconds": row.seconds, "counts": counts, "unreadable_images": images}


def _read(kind: type[_A], folder: Path) -> _A | None:
    return kind.read(folder / kind.FILE) if (folder / kind.FILE).is_file() else None


def _score(content: BenchmarkScore) -> Score | None:
    if content.score is None:
        return None
    counts = content.counts
    numbers = (counts.n_predictions, counts.n_missing, counts.n_extra, counts.n_duplicates)
    return Score(
        value=content.score,
        metric=content.metric,
        interval=content.ci95 or (math.nan, math.nan),
        count=content.n_samples,
        protocol=content.protocol,
        protocols=content.protocols,
        answers=dict(zip(COUNTS, numbers, strict=True)),
        groups={
            name: {
                part: {"score": one.score, "interval": one.ci95 or [math.nan] * 2, "count": one.n_samples}
                for part, one in parts.items()
            }
            for name, parts in content.groups.items()
        },
        notes=tuple(content.notes),
    )


def _gates(parts: Mapping[str, GateMeans]) -> dict[str, Gate]:
    return {name: _gate(part) for name, part in parts.items()}


def _gate(part: GateMeans) -> Gate:
    return Gate(tuple(part.weights), part.entropy, part.n_samples, part.entropy_ci95 or (math.nan, math.nan))


def _judges(judge: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Who answered for the judge, or who was asked where the server gave no names."""
    if not judge:
        return ()
    named = tuple(name for name in judge.get("answered_by") or () if name != "not named")
    return named or (str(judge["model"]),)
