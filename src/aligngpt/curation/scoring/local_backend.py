"""Score pairs on this machine: worker processes decode images, batches go to the models, each shard becomes one part.

What is guaranteed about equal scores: a batch depends only on the records of its shard and on the batch size, and equal
batches give equal bytes on one kind of processor. So interruptions, the number of processes, `--shard`, the backend
(local or Ray) and the file format change nothing, as long as shards and batch size stay the same. In a batch of another
composition (another batch size, or the input divided into other files or row groups) the matrix products are summed in
another order: scores in float32 then agree within `SCORE_TOLERANCE`. The largest difference measured is 6e-8.

Images and texts that occur again within a shard are embedded once. Nothing is carried from shard to shard, because
after an interruption it would be missing and batches would be composed differently.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aligngpt.curation.scoring.batches import ScoredBatch, decode_batches, plan_batches, score_batches
from aligngpt.curation.scoring.decoding import Decoder
from aligngpt.curation.scoring.run import RunSettings, ScoreRun, ScoreSummary
from aligngpt.curation.scoring.scorers import Scorer
from aligngpt.data.sources import Source, SourceShard
from aligngpt.utils.processes import available_cpus

SCORE_TOLERANCE = 1e-6  # between float32 scores of one pair from batches of different composition
_FEW_RECORDS = 128  # which are decoded before worker processes would have started


def score_source(
    source: Source,
    scorers: Sequence[Scorer],
    output: str | os.PathLike[str],
    *,
    num_workers: int | None = None,
    **settings: Any,
) -> ScoreSummary:
    """Score every pair of an input with loaded scorers, and write the folder described in `scoring.store`.

    Memory depends on the batch size, the number of processes and the largest image, not on the length of the input.

    Args:
        source: The input.
        scorers: One or more, usually each a `ClipScorer`; the scores of the first are `clip_score`.
        output: Folder to write or to resume.
        num_workers: Processes that decode images; default one per CPU, or none for up to 128 records.
        settings: Fields of `RunSettings`.

    Raises:
        NothingScored, ValueError, OSError: As `score_pairs`.
    """
    described, run_settings = [scorer.describe() for scorer in scorers], RunSettings(**settings)
    batch_size = run_settings.batch_size
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")

    def score(shards: Sequence[SourceShard]) -> Iterable[ScoredBatch]:
        workers = num_workers
        if workers is None:
            few = sum(_FEW_RECORDS + 1 if shard.size is None else shard.size for shard in shards) <= _FEW_RECORDS
            workers = 0 if few else available_cpus()
        low_priority = all(scorer.device == "cpu" for scorer in scorers)
        decoder = Decoder([scorer.preparation for scorer in scorers])
        batches = plan_batches(shards, source.images, batch_size)
        return score_batches(decode_batches(batches, decoder, workers, 2 * batch_size, low_priority), scorers)

    return ScoreRun(Path(output), source, described, run_settings).score(score)
