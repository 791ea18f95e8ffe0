"""Read the folder of a run of `aligngpt run`; steps that were not run are `None` or absent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from aligngpt.curation.artifacts import ScoreManifest
from aligngpt.curation.levels import LEVELS_PARQUET, read_levels
from aligngpt.evaluation.artifacts import EvalResults
from aligngpt.experiments.artifacts import VARIANTS, GateExamples, LevelCaptions, Summary
from aligngpt.reporting.benchmarks.load import BenchmarkFolder, load_folder, read_optional
from aligngpt.reporting.formatting import STAGE_NAMES
from aligngpt.synthetic.artifacts import Truth
from aligngpt.training.artifacts import TrainResult


@dataclass(frozen=True)
class Run:
    """The results of a run."""

    folder: Path
    summary: Summary | None
    caption_kinds: Counter[tuple[int, str]]  # pairs by level and true kind of caption; empty without ground truth
    trainings: dict[tuple[str, str], TrainResult]  # by stage and variant
    captions: LevelCaptions | None
    gate_examples: GateExamples | None
    evaluations: dict[str, BenchmarkFolder]  # by variant

    @property
    def images(self) -> Path:
        """Return the image folder."""
        return self.folder / "data" / "images"


def load_run(folder: Path) -> Run:
    """Read a run.

    Raises:
        ValueError: The folder is not a run, or one of its files is damaged; the message names the file.
    """
    results = {name: folder / f"eval-{name}" for name in VARIANTS}
    run = Run(
        folder=folder,
        summary=read_optional(Summary, folder),
        caption_kinds=_count_kinds(folder),
        trainings={
            (stage, name): result
            for stage in STAGE_NAMES
            for name in VARIANTS
            if (result := read_optional(TrainResult, folder / f"{stage}-{name}"))
        },
        captions=read_optional(LevelCaptions, folder / "captions"),
        gate_examples=read_optional(GateExamples, folder),
        evaluations={
            name: load_folder(path, VARIANTS[name])
            for name, path in results.items()
            if (path / EvalResults.FILE).is_file()
        },
    )
    if not any((run.summary, run.trainings, run.captions, run.evaluations, has_scores(folder))):
        raise ValueError(f"{folder}: not the folder of a run; pass the --output of `aligngpt run`")
    return run


def has_scores(folder: Path) -> bool:
    """Return whether the pairs of a run are scored."""
    return (folder / "scores" / ScoreManifest.FILE).is_file()


def _count_kinds(folder: Path) -> Counter[tuple[int, str]]:
    truth = read_optional(Truth, folder / "data")
    if truth is None or not (folder / "levels" / LEVELS_PARQUET).is_file():
        return Counter()
    levels = read_levels(folder / "levels")
    return Counter((level, truth.pairs[pair].kind) for pair, level in levels.items() if pair in truth.pairs)
