"""Score pairs on this machine: processes decode images, batches go to the models, each shard becomes one part.

What is guaranteed about equal scores: a batch depends only on the records of its shard and on the batch size, and equal
batches give equal bytes on one kind of processor. So interruptions, the number of processes, `--shard`, the backend
(local or Ray) and the file format change nothing, as long as shards and batch size stay the same. In a batch of another
composition (another batch size, or the input divided into other files or row groups) the matrix products are summed in
another order: scores in float32 then agree within `SCORE_TOLERANCE`. The largest difference measured is 6e-8.

Images and texts that occur again within a shard are embedded once. Nothing is carried from shard to shard, because
after an interruption it would be missing and batches would be composed differently.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from aligngpt.curation.scorer_ranks import agreements
from aligngpt.curation.scoring.batches import ScoredBatch, decoded_batches, planned, scored_batches
from aligngpt.curation.scoring.decoding import Decoder
from aligngpt.curation.scoring.scorers import LongCaptions, Scorer
from aligngpt.curation.scoring.store import (
    MANIFEST,
    PartWriter,
    ScoreCounts,
    ScoreSummary,
    claim_folder,
    is_finished,
    iter_part,
    part_mark,
    part_path,
    score_columns,
    score_schema,
)
from aligngpt.data.sources import Source, SourceShard
from aligngpt.utils.io import alone_in, file_size, versions, write_json

SCORE_TOLERANCE = 1e-6  # between scores of one pair from different batches, float32
_SHARDS_IN_FINGERPRINT = 8
_IMAGES_IN_FINGERPRINT = 32
_FEW_RECORDS = 128


def score_source(
    source: Source,
    scorers: Sequence[Scorer],
    output: str | os.PathLike[str],
    *,
    batch_size: int = 64,
    workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    long_captions: LongCaptions = "truncate",
    progress: bool = True,
) -> ScoreSummary:
    """Score every pair of an input and write the folder described in `aligngpt.curation.scoring.store`.

    A record that cannot be used, or whose score is no number, becomes a row with an `error` and no score. If the run
    is cut off, the same call goes on behind the last finished shard. Memory depends on the sizes below, the number of
    processes and the largest image, not on the length of the input.

    Args:
        source: The input.
        scorers: One or more, usually each a `ClipScorer`; the first one's scores are `clip_score`.
        output: The folder to write or to continue.
        batch_size: Images embedded at once; a shard's batches are the same in every run.
        workers: Processes that decode; unless given one per CPU, or none for up to 128 records. 0 decodes in this
            process.
        shard: (i, n), i from 1 to n: score every n-th shard of the input from the i-th on, while other runs, on this
            machine or another, score the rest into the same folder; the last to end finishes the folder.
        long_captions: What the scorers do with captions beyond their limit, for the manifest.
        progress: Whether to show a progress bar on stderr, if that is a terminal.

    Raises:
        NothingScored: If no record can be used.
        ValueError: If an argument is out of range, two scorers have one name, images are named by paths but `source`
            has no image folder, `output` holds scores of another input, or another run is at work on the same share.
        OSError: If reading or writing fails, or a decoding process is killed.
    """
    described = [scorer.describe() for scorer in scorers]
    check_arguments([one["name"] for one in described], batch_size, shard)
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    started = time.monotonic()
    shards = source.shards()
    with share_of(output, shard):
        run = ScoreRun(Path(output), source, shards, described, long_captions)
        todo = run.unfinished(shard)
        if todo:
            processes = _processes(_total(todo)) if workers is None else workers
            polite = all(scorer.device == "cpu" for scorer in scorers)
            decoder = Decoder([scorer.preparation for scorer in scorers])
            with progress_bar(todo, progress) as advance:
                batches = planned(todo, source.images, batch_size)
                ready = decoded_batches(batches, decoder, processes, 2 * batch_size, polite)
                run.write(scored_batches(ready, scorers), advance)
        return run.finish(len(shards) - len(todo), started)


class NothingScored(ValueError):
    """No record of an input could be used; the folder is written all the same.

    Attributes:
        summary: What it holds.
    """

    def __init__(self, message: str, summary: ScoreSummary) -> None:
        super().__init__(message)
        self.summary = summary


def share_of(output: str | os.PathLike[str], shard: tuple[int, int]) -> AbstractContextManager[None]:
    """Keep a second run of the same share out of the folder; errors as in `alone_in`."""
    return alone_in(output, "" if shard == (1, 1) else f"-{shard[0]}-of-{shard[1]}")


class ScoreRun:
    """The folder a run writes, from its first claim to its manifest."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        shards: Sequence[SourceShard],
        scorers: Sequence[dict[str, str]],
        long_captions: LongCaptions,
    ) -> None:
        """Claim the folder. Errors: `score_source`."""
        self._folder, self._shards, self._source = folder, shards, source
        self._names = [scorer["name"] for scorer in scorers]
        self._schema = score_schema(self._names[1:])
        inputs = {
            "pairs_hash": source.fingerprint,
            "fields": asdict(source.columns),
            "images_hash": _images_hash(source, shards),
            "scorers": [{key: one[key] for key in ("class", "weights_hash", "dtype")} for one in scorers],
            "columns": score_columns(self._names[1:]),
            "long_captions": long_captions,
            "shards": len(shards),
        }
        self._header: dict[str, Any] = {"inputs": inputs, "scorers": list(scorers), "versions": versions()}
        self._complete = claim_folder(folder, self._header) is not None

    def unfinished(self, share: tuple[int, int] = (1, 1)) -> list[SourceShard]:
        """The shards of a share, see `score_source`, without a part.

        Raises:
            ValueError: If a part is not what belongs there.
        """
        mine = self._shards[share[0] - 1 :: share[1]]
        return [shard for shard in mine if not is_finished(self._part(shard.number), self._mark(shard.number))]

    def write(self, batches: Iterable[ScoredBatch], advance: Callable[[int], object]) -> None:
        """Write parts as their batches come, those of a shard in order; `advance` is told how many rows are done."""
        writers: dict[int, PartWriter] = {}
        try:
            for batch in batches:
                if batch.shard not in writers:
                    part = self._part(batch.shard)
                    writers[batch.shard] = PartWriter(part, self._schema, self._mark(batch.shard))
                writers[batch.shard].write(batch.columns)
                advance(len(batch.columns["id"]))
                if batch.last:
                    writers.pop(batch.shard).close()
        except BaseException as error:
            for writer in writers.values():
                writer.discard(error)
            raise

    def finish(self, resumed: int, started: float) -> ScoreSummary:
        """Count what the folder holds and, if nothing is missing, write its manifest."""
        counts = ScoreCounts()
        present = [shard for shard in self._shards if self._part(shard.number).is_file()]
        for shard in present:
            counts.add(self._part(shard.number))
        missing = len(self._shards) - len(present)
        seconds = time.monotonic() - started
        found: list[dict[str, Any]] = []
        if not missing:
            columns = score_columns(self._names[1:])
            found = agreements([self._part(shard.number) for shard in present], columns, self._names)
            if not self._complete:
                body = {"counts": counts.as_dict(), "agreement": found, "seconds": round(seconds, 3)}
                path = self._folder / MANIFEST
                write_json(path, self._header | {"complete": True, "shards": len(self._shards)} | body)
        summary = ScoreSummary(
            **counts.as_dict(),
            agreement=tuple(found),
            seconds=seconds,
            shards=len(self._shards),
            resumed_shards=resumed,
            missing_shards=missing,
        )
        if not (missing or counts.scored):
            self._raise_nothing_scored(summary)
        return summary

    def _raise_nothing_scored(self, summary: ScoreSummary) -> NoReturn:
        parts = (self._part(shard.number) for shard in self._shards)
        first = next((batch.slice(0, 1).to_pylist()[0] for part in parts for batch in iter_part(part)), None)
        shown = f", the first is {first['id']}: {first['image']}: {first['error']}" if first else ""
        raise NothingScored(
            f"{self._source.path} has {summary.failed} records and none of them can be used{shown}: is this the right "
            "input, and the images folder the one that its paths start from?",
            summary,
        )

    def _part(self, number: int) -> Path:
        return part_path(self._folder, number)

    def _mark(self, number: int) -> dict[bytes, bytes]:
        return part_mark(self._header["inputs"], self._shards[number].name)


# What a run depends on, and what it shows ---------------------------------------------------------------------------


def check_arguments(names: Sequence[str], batch_size: int, shard: tuple[int, int]) -> None:
    """Refuse what no engine can do; arguments and errors as in `score_source`, `names` are the scorers'."""
    if not names:
        raise ValueError("scoring needs at least one scorer")
    if len(set(names)) < len(names):
        raise ValueError(f"scorers are told apart by their folders' names, got {', '.join(names)}: rename one of them")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"shard must be i/n with i from 1 to n, got {shard[0]}/{shard[1]}")


def _images_hash(source: Source, shards: Sequence[SourceShard]) -> str | None:
    """Names and sizes of a sample of the images; `None` where they come with the records.

    Raises:
        ValueError: If there are paths and no folder of images they start from.
    """
    digest = hashlib.sha256()
    paths = False
    for shard in shards[:: max(1, len(shards) // _SHARDS_IN_FINGERPRINT)]:
        for record in islice(shard.read(), _IMAGES_IN_FINGERPRINT):
            if record.error is None and record.data is None:
                paths = True
                if source.images is None:
                    raise ValueError(f"{source.path} names its images by paths: give the folder they start from")
                digest.update(f"{record.image}\0{file_size(source.images / (record.image or ''))}\n".encode())
    return digest.hexdigest() if paths else None


def _processes(records: int | None) -> int:
    """How many processes decode: one for each CPU, none for so few records that they would start too late."""
    if records is not None and records <= _FEW_RECORDS:
        return 0
    return available_cpus()


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _total(shards: Sequence[SourceShard]) -> int | None:
    sizes = [shard.size for shard in shards]
    return None if None in sizes else sum(size or 0 for size in sizes)


@contextmanager
def progress_bar(shards: Sequence[SourceShard], wanted: bool) -> Iterator[Callable[[int], object]]:
    """A function to be told how many pairs of these shards are done; shows them only on a terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("scoring", total=_total(shards))
        yield lambda count: bar.advance(task, count)
