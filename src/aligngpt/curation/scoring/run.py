"""The output folder of a scoring run: what it is a run of, which shards are unfinished, and its manifest."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import Field

from aligngpt.curation.artifacts import (
    DataFields,
    ScoreCounts,
    ScoreInputs,
    ScoreManifest,
    ScorerAgreement,
    ScorerInfo,
    ScoreRunConfig,
)
from aligngpt.curation.choices import LongCaptions
from aligngpt.curation.scorer_agreement import compare_all
from aligngpt.curation.scoring.store import (
    Failures,
    count_rows,
    is_finished,
    open_part,
    part_metadata,
    part_path,
    sample_failures,
    score_columns,
    score_schema,
)
from aligngpt.data.sources import Source, SourceShard
from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.io import file_size, hash_stats, versions
from aligngpt.utils.output_dir import OutputDir
from aligngpt.utils.progress import progress

if TYPE_CHECKING:  # batches imports torch, which a finished run does not need
    from aligngpt.curation.scoring.batches import ScoredBatch

    Work = Callable[[Sequence[SourceShard]], Iterable[ScoredBatch]]

_SAMPLED_SHARDS = 8
_SAMPLED_IMAGES = 32
_MAX_BATCH_SIZE = 1 << 20


class ScoreSummary(ScoreCounts):
    """What a folder of scores holds, and what the run that ended with it did."""

    agreement: list[ScorerAgreement] = Field(description="Agreement of every two scorers.")
    seconds: float = Field(description="Runtime of this call (s).")
    shards: int = Field(description="Shards of the pairs.")
    resumed_shards: int = Field(description="Shards that were finished before this run.")
    missing_shards: int = Field(description="Shards left to other runs with `--shard`; not in the counts above.")


class NothingScored(ValueError):
    """No record of an input can be used. The folder is emptied, so that a corrected command can use it.

    Attributes:
        summary: Counts of the records.
        failures: First records of each reason, see `sample_failures`.
    """

    def __init__(self, message: str, summary: ScoreSummary, failures: Failures) -> None:
        super().__init__(message)
        self.summary, self.failures = summary, failures


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run that do not depend on the backend.

    Attributes:
        batch_size: Images embedded at once.
        shard: See `score_pairs`.
        long_captions: How the scorers handle captions beyond their context, for the manifest.
        show_progress: Whether to show progress on standard error.
        snapshot: See `ScoreRunConfig`.
        started: `time.monotonic()` at the start of the run; default now.

    Raises:
        ValueError: A number is out of range.
    """

    batch_size: int = 64
    shard: tuple[int, int] = (1, 1)
    long_captions: LongCaptions = "truncate"
    show_progress: bool = True
    snapshot: str | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= _MAX_BATCH_SIZE:
            raise ValueError(f"batch_size must be between 1 and {_MAX_BATCH_SIZE:,}, got {self.batch_size}")
        if not 1 <= self.shard[0] <= self.shard[1]:
            raise ValueError(f"shard must be i/n with i from 1 to n, got {self.shard[0]}/{self.shard[1]}")


def check_names(names: Sequence[str]) -> None:
    """Check the names of scorers.

    Raises:
        ValueError: There is none, or two are equal.
    """
    if not names:
        raise ValueError("scoring needs at least one scorer")
    if len(set(names)) < len(names):
        raise ValueError(f"scorers are named after their folders, got {', '.join(names)}; rename one of the folders")


def read_finished(output: Path, images: Path | None, snapshot: str | None) -> ScoreSummary | None:
    """Return the summary of a finished run with this snapshot, without reading any input; `None` if there is none."""
    if snapshot is None or not all((output / file).is_file() for file in (ScoreManifest.FILE, ScoreRunConfig.FILE)):
        return None
    started = time.monotonic()
    config, manifest = ScoreRunConfig.read(output), ScoreManifest.read(output)
    parts = [part_path(output, number) for number in range(manifest.shards)]
    if config.snapshot != snapshot or not all(part.is_file() for part in parts):
        return None
    if _hash_images(images, config.image_sample) != config.inputs.images_hash:
        return None
    seconds = time.monotonic() - started
    return _summarize(manifest.counts, manifest.agreement, seconds, parts, len(parts))


class ScoreRun:
    """The folder that a run writes, from its start to its manifest.

    Args:
        folder: The folder.
        source: The pairs.
        scorers: What they say in `describe`.
        settings: See `RunSettings`.

    Raises:
        ValueError: As `check_names`, or images are given by paths and the source has no image folder.
    """

    def __init__(self, folder: Path, source: Source, scorers: Sequence[dict[str, str]], settings: RunSettings) -> None:
        self._folder, self._settings = folder, settings
        self._shards = source.shards()
        self._scorers = [ScorerInfo(**scorer) for scorer in scorers]
        check_names([scorer.name for scorer in self._scorers])
        self._columns = score_columns([scorer.name for scorer in self._scorers[1:]])
        self._image_sample = list(_iter_image_paths(source, self._shards))
        self._inputs = ScoreInputs(
            pairs_hash=source.fingerprint,
            fields=DataFields(image=source.columns.image, caption=source.columns.caption, id=source.columns.id),
            images_hash=_hash_images(source.images, self._image_sample),
            scorers=[scorer.model_dump(exclude={"name"}) for scorer in self._scorers],
            columns=self._columns,
            long_captions=settings.long_captions,
            shards=len(self._shards),
        )
        identity = {"schema_version": ScoreRunConfig.VERSION, "inputs": self._inputs.model_dump()}
        self._output_dir = OutputDir(folder, identity, run_file=ScoreRunConfig.FILE, result_file=ScoreManifest.FILE)

    def score(self, work: Work) -> ScoreSummary:
        """Score the unfinished shards of this run's fraction of the work, and finish the folder if none is missing.

        Args:
            work: Returns the scored batches of shards, those of one shard in order.

        Raises:
            NothingScored: All shards are scored and no pair has a score.
            ValueError: The folder belongs to another run, another process works on the same fraction, or a part does
                not belong to this run.
        """
        shard = self._settings.shard
        self._output_dir.check()
        with self._output_dir.lock(shard):
            snapshot = self._settings.snapshot
            self._output_dir.start(snapshot=snapshot, image_sample=self._image_sample, versions=versions())
            mine = self._shards[shard[0] - 1 :: shard[1]]
            todo = [item for item in mine if not is_finished(self._part(item.number), self._metadata(item.number))]
            if todo:
                self._write(work(todo), mine, todo)
            return self._finish(len(self._shards) - len(todo))

    def _write(self, batches: Iterable[ScoredBatch], mine: Sequence[SourceShard], todo: Sequence[SourceShard]) -> None:
        """Write the parts, and show progress in pairs where their number is known, else in shards."""
        by_pairs = all(shard.size is not None for shard in mine)
        total, left = (sum(shard.size or 0 for shard in shards) if by_pairs else len(shards) for shards in (mine, todo))
        description, scored = "scoring" if by_pairs else "scoring shards", 0
        schema = score_schema([scorer.name for scorer in self._scorers[1:]])
        parts: dict[int, tuple[ExitStack, Callable[[dict[str, Any]], None]]] = {}
        with progress(description, total, self._settings.show_progress, total - left) as advance, ExitStack() as stack:
            for batch in batches:
                if batch.shard not in parts:
                    part = stack.enter_context(ExitStack())
                    opened = open_part(self._part(batch.shard), schema, self._metadata(batch.shard))
                    parts[batch.shard] = part, part.enter_context(opened)
                part, write = parts[batch.shard]
                write(batch.columns)
                if batch.last:
                    part.close()
                    del parts[batch.shard]
                rows = len(batch.columns["id"])
                scored += rows
                if by_pairs:
                    advance(rows)
                else:
                    advance(int(batch.last), f"{description} ({scored:,} pairs)")

    def _finish(self, resumed: int) -> ScoreSummary:
        parts = [self._part(shard.number) for shard in self._shards]
        present = [part for part in parts if part.is_file()]
        missing = len(parts) - len(present)
        counts = count_rows(present)
        if not missing and not counts.scored:
            self._discard(counts, present, resumed)
        names = [scorer.name for scorer in self._scorers]
        agreement = [] if missing else compare_all(present, self._columns, names)
        seconds = time.monotonic() - self._settings.started
        if not missing and not self._output_dir.done:
            ScoreManifest(
                inputs=self._inputs,
                scorers=self._scorers,
                shards=len(parts),
                counts=counts,
                agreement=agreement,
                seconds=round(seconds, 3),
                versions=versions(),
            ).write(self._folder)
        return _summarize(counts, agreement, seconds, present, resumed, missing)

    def _discard(self, counts: ScoreCounts, parts: Sequence[Path], resumed: int) -> NoReturn:
        """Remove everything that the run wrote."""
        failures = sample_failures(parts)
        for path in (*parts, self._output_dir.run_file):
            path.unlink()
        row = next((rows[0] for rows in failures.values()), None)
        example = f", the first is {row['id']}: {row['image']}: {row['error']}" if row else ""
        seconds = time.monotonic() - self._settings.started
        raise NothingScored(
            f"the input has {counts.failed} records and none of them can be used{example}; check --data, and that "
            f"--images is the folder that its image paths are relative to; nothing remains in {self._folder}",
            _summarize(counts, [], seconds, parts, resumed),
            failures,
        )

    def _part(self, number: int) -> Path:
        return part_path(self._folder, number)

    def _metadata(self, number: int) -> dict[bytes, bytes]:
        return part_metadata(self._inputs.model_dump(), self._shards[number].name)


def _summarize(
    counts: ScoreCounts,
    agreement: list[ScorerAgreement],
    seconds: float,
    parts: Sequence[Path],
    resumed: int,
    missing: int = 0,
) -> ScoreSummary:
    return ScoreSummary(
        **counts.model_dump(),
        agreement=agreement,
        seconds=round(seconds, 3),
        shards=len(parts) + missing,
        resumed_shards=resumed,
        missing_shards=missing,
    )


def check_images(source: Source) -> None:
    """Check that some image of a sample exists, before models are loaded; images in the records need no check.

    Raises:
        ArgumentError: There are paths and no image folder, or it has no image of the sample.
    """
    checked = []
    for name in _iter_image_paths(source, source.shards()):
        checked.append(name)
        if file_size((source.images or Path()) / name) >= 0:
            return
    if checked:
        raise ArgumentError(
            f"{source.images} has none of the first {len(checked)} images of {source.path}, such as {checked[0]}; "
            "pass the folder that image paths are relative to as --images"
        )


def _iter_image_paths(source: Source, shards: Sequence[SourceShard]) -> Iterator[str]:
    """Yield paths of some of the images; none if they are stored in the records.

    Raises:
        ArgumentError: There are paths and no image folder.
    """
    for shard in shards[:: max(1, len(shards) // _SAMPLED_SHARDS)]:
        for record in islice(shard.read(), _SAMPLED_IMAGES):
            if record.error is None and record.data is None:
                if source.images is None:
                    raise ArgumentError(f"{source.path}: images are given by paths; pass the folder of --images")
                yield record.image or ""


def _hash_images(images: Path | None, sample: Sequence[str]) -> str | None:
    """Return a hash over names and sizes of image files, `None` for an empty sample."""
    lines = "".join(f"{name}\0{file_size((images or Path()) / name)}\n" for name in sample)
    return hashlib.sha256(lines.encode()).hexdigest() if sample else None


def snapshot_run(source: Source, scorers: Sequence[Path], settings: dict[str, Any]) -> str | None:
    """Return a hash over settings, and over names, sizes and modification times of the files a run reads.

    Returns:
        `None` if the files of the source are not on this machine.
    """
    if any("://" in file for file in source.files):
        return None
    weights = [path for folder in scorers for path in sorted(folder.iterdir()) if path.is_file()]
    return hash_stats([*map(Path, source.files), *weights], sorted(settings.items()))
