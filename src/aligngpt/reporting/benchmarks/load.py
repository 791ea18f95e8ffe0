"""Read an output folder of `aligngpt eval run`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from aligngpt.evaluation.artifacts import TITLES, BenchmarkResult, BenchmarkScore, EvalResults, EvalRunConfig, GateStats
from aligngpt.reporting.benchmarks.paper_results import PAPER_JUDGE
from aligngpt.utils.artifacts import Artifact

_A = TypeVar("_A", bound=Artifact)


@dataclass(frozen=True)
class Result:
    """One benchmark of the folder; what was not computed is `None`."""

    row: BenchmarkResult
    score: BenchmarkScore | None
    gate: GateStats | None
    config: EvalRunConfig | None

    @property
    def name(self) -> str:
        """Return the name of the benchmark."""
        return self.row.benchmark

    @property
    def title(self) -> str:
        """Return the title of the benchmark."""
        return self.row.title

    @property
    def judges(self) -> tuple[str, ...]:
        """Return the models that scored the predictions: those that replied, or the requested one."""
        if self.row.judge is None:
            return ()
        replied = tuple(name for name in self.row.judge.answered_by if name != "not named")
        return replied or (self.row.judge.model,)

    @property
    def caveat(self) -> str:
        """Return why the score is not comparable with the paper's; empty if it is."""
        reasons = ["not the benchmark's own data"] if self.row.data_note and self.name in TITLES else []
        reasons += [f"first {self.row.limit} questions"] if self.row.limit else []
        if not all(name.lower().startswith(PAPER_JUDGE.lower()) for name in self.judges):
            reasons.append(f"judge: {', '.join(self.judges)}, the paper's is {PAPER_JUDGE}")
        return "; ".join(reasons)


@dataclass(frozen=True)
class BenchmarkFolder:
    """All benchmarks of an output folder, in the order of the paper's tables."""

    folder: Path
    name: str
    model: str
    versions: dict[str, str]
    results: tuple[Result, ...]

    @cached_property
    def scores(self) -> dict[str, BenchmarkScore]:
        """Return the scores by benchmark."""
        return {result.name: result.score for result in self.results if result.score}

    @cached_property
    def comparable(self) -> dict[str, BenchmarkScore]:
        """Return the scores that are comparable with the paper's, by benchmark."""
        with_caveat = {result.name for result in self.results if result.caveat}
        return {name: score for name, score in self.scores.items() if name in TITLES and name not in with_caveat}


def list_data_notes(rows: Iterable[BenchmarkResult]) -> list[str]:
    """Return each note about the data once, after the titles of its benchmarks."""
    titles: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.data_note:
            titles.setdefault(row.data_note, {})[row.title] = None
    return [f"{', '.join(names)}: {note}" for note, names in titles.items()]


def load_folder(folder: Path, name: str | None = None) -> BenchmarkFolder:
    """Read `results.json` and the files of each benchmark.

    Args:
        folder: Folder written by `aligngpt eval run`.
        name: Name of the model in the report; by default the name of the folder.

    Raises:
        FileNotFoundError: The folder has no `results.json`.
        ValueError: A file is not what `aligngpt eval run` writes.
    """
    content = EvalResults.read(folder / EvalResults.FILE)
    order = list(TITLES)
    rows = sorted(content.benchmarks, key=lambda row: [*order, row.benchmark].index(row.benchmark))
    results = tuple(_read_result(row, folder / row.benchmark) for row in rows)
    return BenchmarkFolder(folder, name or folder.resolve().name, content.model, content.versions, results)


def _read_result(row: BenchmarkResult, files: Path) -> Result:
    score = read_optional(BenchmarkScore, files)
    score = score if score is not None and score.score is not None else None
    return Result(row, score, gate=read_optional(GateStats, files), config=read_optional(EvalRunConfig, files))


def read_optional(kind: type[_A], folder: Path) -> _A | None:
    """Return the artifact of a folder, or None if the folder has none."""
    return kind.read(folder) if (folder / kind.FILE).is_file() else None
