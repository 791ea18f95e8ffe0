"""Filter pairs by scores and levels, and write them in the format they were read from.

Pairs, scores and levels are read in parallel, record by record; memory holds only one byte for each record and quality
issue that compares records (see `filters`). The output appears when it is complete, in the order of the input, with
`filter.json` in it, or next to it if it is a file, see `FilterResult`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.curation.artifacts import FilterResult, LevelsSummary, ScoreManifest, ScorerInfo
from aligngpt.curation.filters import FilterConfig, QualityIssue
from aligngpt.curation.levels import LEVELS_PARQUET, LevelBoundaries, levels_file, score_column
from aligngpt.curation.scoring.batches import caption_hash
from aligngpt.curation.scoring.store import PART_PATTERN, iter_scores, read_manifest
from aligngpt.data.sources import Source, open_source
from aligngpt.data.writers import WriteRecord, can_be_written, check_output, open_writer
from aligngpt.utils.io import atomic_path, hash_file, hash_folder, versions
from aligngpt.utils.output_dir import describe_differences, is_empty
from aligngpt.utils.progress import Advance, progress

_logger = logging.getLogger(__name__)

_EXAMPLES = 3
_REPETITION = re.compile(r"~\d+$")


def filter_pairs(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    scores: str | os.PathLike[str],
    levels: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    write_levels: bool = False,
    show_progress: bool = True,
    **filters: Any,
) -> FilterResult:
    """Write the pairs that pass all filters, with all their fields, in the order and format of the input.

    A record that is written several times has `~2`, `~3`, ... after its id from the second time on. A record lost in
    a damaged file is skipped by any filter. The same call on the same inputs is skipped.

    Args:
        data: The pairs that were scored.
        output: File or folder to write.
        scores: The finished folder of their scores.
        levels: The folder of their levels, for filters on levels. Filters on scores then use the scores that were
            binned.
        images: Folder that image paths are relative to; required only if the pairs have absolute paths.
        write_levels: Whether records get a field `alignment_level`.
        show_progress: Whether to show progress on standard error.
        filters: Fields of `FilterConfig`, such as `min_level=3`.

    Raises:
        FileNotFoundError: An input is missing.
        ValueError: The inputs do not belong together, a filter is out of range or needs levels that are missing, the
            output has a wrong suffix or holds something else, or no record is left.
    """
    return filter_source(
        open_scored_pairs(data, read_manifest(scores), images),
        scores,
        output,
        FilterConfig(**filters),
        levels=levels,
        write_levels=write_levels,
        show_progress=show_progress,
    )


def open_scored_pairs(
    data: str | os.PathLike[str], manifest: ScoreManifest, images: str | os.PathLike[str] | None = None
) -> Source:
    """Open pairs with the fields they were scored by; arguments and errors as in `open_source`."""
    fields = manifest.inputs.fields
    return open_source(data, images, image_column=fields.image, caption_column=fields.caption, id_column=fields.id)


def filter_source(
    source: Source,
    scores: str | os.PathLike[str],
    output: str | os.PathLike[str],
    filters: FilterConfig,
    *,
    levels: str | os.PathLike[str] | None = None,
    write_levels: bool = False,
    show_progress: bool = False,
) -> FilterResult:
    """Filter an opened source; arguments and errors as in `filter_pairs`."""
    curated = _Curated.open(scores, levels)
    _check_levels(filters, curated, write_levels)
    check_output(source, output)
    _check_location(source, Path(output))
    if curated.manifest.inputs.pairs_hash != source.fingerprint:
        raise ValueError(_other_pairs(source, curated))
    identity = {
        "filters": filters.to_dict(),
        "write_levels": write_levels,
        "pairs_hash": source.fingerprint,
        "scores_hash": curated.scores_hash,
        "levels_hash": None if curated.levels is None else hash_file(levels_file(curated.levels, LEVELS_PARQUET)),
    }
    existing = _read_existing(Path(output), identity)
    if existing is not None:
        _logger.info("%s is complete; nothing to do", output)
        return existing
    counts = _Counts()
    with atomic_path(output) as temporary:
        with (
            open_writer(source, output, temporary, write_levels) as write,
            progress("filtering", _num_rows(curated), show_progress) as advance,
        ):
            _write_retained(source, curated, filters, counts, write, write_levels, advance)
        if not counts.retained:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in counts.skipped.most_common())
            raise ValueError(f"{source.path}: none of its {counts.read.total()} records is left ({reasons})")
        result = FilterResult(
            data=str(source.path),
            format=source.kind,
            **counts.to_fields(curated),
            **identity,
            scorer=curated.scorer,
            versions=versions(),
        )
        if temporary.is_dir():
            result.write(temporary)
    if Path(output).is_file():
        result.write(result_file(output))
    return result


def result_file(output: str | os.PathLike[str]) -> Path:
    """Return the path of an output's `FilterResult`: in a folder, or next to a file as `<file>.filter.json`."""
    path = Path(output)
    return path / FilterResult.FILE if path.is_dir() else path.with_name(f"{path.name}.{FilterResult.FILE}")


def _read_existing(output: Path, identity: dict[str, Any]) -> FilterResult | None:
    """Return the result of the same run, `None` if the output is free.

    Raises:
        ValueError: The output holds something else.
    """
    if not output.exists() or is_empty(output):
        return None
    if not result_file(output).is_file():
        raise ValueError(f"{output} exists and was not written by `aligngpt filter`; choose another --output")
    existing = FilterResult.read(result_file(output))
    differences = describe_differences(existing.model_dump(mode="json"), identity)
    if differences:
        raise ValueError(f"{output} belongs to another run: {differences}; choose another --output or delete this one")
    return existing


def _write_retained(
    source: Source,
    curated: _Curated,
    filters: FilterConfig,
    counts: _Counts,
    write: WriteRecord,
    write_levels: bool,
    advance: Advance,
) -> None:
    """Read records and decisions in parallel, and write what is retained."""
    repeats = any(weight > 1 for weight in filters.level_weights.values())
    records = ((shard, record) for shard in source.shards() for record in shard.read(whole=True))
    for decision in _decide(curated, filters):
        shard, record = next(records, (None, None))
        if shard is None or record is None or record.id != decision.id or not decision.matches(record.caption):
            raise ValueError(_other_pairs(source, curated))
        if decision.times and not can_be_written(source, record):
            decision = replace(decision, times=0, reason="lost in a damaged file")
        if decision.times:
            name = f"{shard.name}\0{decision.id}" if source.kind == "webdataset" else decision.id
            decision = _sample(filters, decision, name)
        if decision.times and repeats and _REPETITION.search(decision.id):
            raise ValueError(
                f"id {decision.id} ends like that of a repeated record, so that ids would not be unique; filter the "
                "pairs before their repetition, or use weights of at most 1"
            )
        counts.add(decision)
        for number in range(1, decision.times + 1):
            write(shard, record, number, decision.level or None if write_levels else None)
        advance(1)
    if next(records, None) is not None:
        raise ValueError(_other_pairs(source, curated))


# Scores and levels --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Curated:
    """A folder of scores, and the levels made of it if there are any."""

    scores: Path
    manifest: ScoreManifest
    column: str
    scorer: ScorerInfo
    scores_hash: str
    levels: Path | None = None
    boundaries: LevelBoundaries | None = None

    @classmethod
    def open(cls, scores: str | os.PathLike[str], levels: str | os.PathLike[str] | None) -> _Curated:
        manifest, scores_hash = read_manifest(scores), hash_folder(scores, (PART_PATTERN,))
        if levels is None:
            return cls(Path(scores), manifest, *score_column(manifest), scores_hash)
        summary = LevelsSummary.read(levels)
        if summary.scores_hash != scores_hash:
            raise ValueError(f"{levels} holds levels of other scores than {scores}; run `aligngpt level` on these")
        column, scorer = score_column(manifest, summary.scorer.name)
        path = Path(levels)
        return cls(Path(scores), manifest, column, scorer, scores_hash, path, LevelBoundaries.of(summary))

    def batches(self) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """Yield batches of scores, each with the levels of its rows, int64 (n,), 0 where there is none."""
        batches = iter_scores(self.scores, ["id", "text_truncated", "error", "caption_hash", self.column])
        if self.levels is None:
            yield from ((batch, np.zeros(batch.num_rows, np.int64)) for batch in batches)
            return
        with pq.ParquetFile(levels_file(self.levels, LEVELS_PARQUET)) as file:
            level_batches = file.iter_batches(columns=["alignment_level"])
            levels = np.zeros(0, np.int64)
            for batch in batches:
                while levels.size < batch.num_rows:
                    more = next(level_batches, None)
                    if more is None:
                        raise ValueError(f"{self.levels} has fewer rows than {self.scores}; run `aligngpt level` again")
                    levels = np.concatenate([levels, more.column(0).fill_null(0).to_numpy().astype(np.int64)])
                yield batch, levels[: batch.num_rows]
                levels = levels[batch.num_rows :]


def _num_rows(curated: _Curated) -> int:
    return curated.manifest.counts.scored + curated.manifest.counts.failed


def _check_levels(filters: FilterConfig, curated: _Curated, write_levels: bool) -> None:
    if curated.boundaries is None:
        if filters.needs_levels or write_levels:
            raise ValueError("filters on levels, and write_levels, need the folder of levels; pass --levels")
        return
    num_levels = curated.boundaries.num_levels
    beyond = [level for level in filters.named_levels if level > num_levels]
    if beyond:
        raise ValueError(f"there are {num_levels} levels, got a filter on level {beyond[0]}")


def _check_location(source: Source, output: Path) -> None:
    """Check that the output neither replaces an input nor becomes a part of it."""
    target, read = output.resolve(), Path(source.path).resolve()
    if any(target == Path(file).resolve() or target in Path(file).resolve().parents for file in source.files):
        raise ValueError(f"{output} holds the pairs to read; choose another --output")
    if read.is_dir() and read in target.parents:
        raise ValueError(f"{output} is in the folder to read and would become a part of it; choose another --output")


def _other_pairs(source: Source, curated: _Curated) -> str:
    return (
        f"{source.path} does not hold the pairs of the scores in {curated.scores}; pass those as --data, or score these"
    )


# Decisions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Decision:
    """How often a record is written, and the reason if it is skipped."""

    id: str
    level: int
    times: int
    reason: str | None = None
    caption_hash: int | None = None

    def matches(self, caption: str | None) -> bool:
        """Return whether the caption is the one that was scored; bad records have none."""
        return caption is None or self.caption_hash is None or caption_hash(caption) == self.caption_hash


def _decide(curated: _Curated, filters: FilterConfig) -> Iterator[_Decision]:
    """Decide on every record, in order, before sampling."""
    boundaries = curated.boundaries.boundaries if curated.boundaries else ()
    issues = dict.fromkeys((*filters.exclude, *filters.only))
    masks = {issue: issue.prepare(curated.scores, curated.column, boundaries) for issue in issues}
    start = 0
    for batch, levels in curated.batches():
        reasons: list[str | None] = [None] * batch.num_rows
        scores = batch[curated.column].to_numpy(zero_copy_only=False)
        has_issue = {issue: mask(batch, start) for issue, mask in masks.items()}
        for reason, fails in (*_test_issues(filters, has_issue), *_test_scores(filters, levels, scores)):
            for index in np.flatnonzero(fails):
                reasons[index] = reasons[index] or reason
        columns = (batch["id"].to_pylist(), levels.tolist(), reasons, batch["caption_hash"].to_pylist())
        for name, level, skip_reason, caption in zip(*columns, strict=True):
            yield _Decision(name, level, 0 if skip_reason else 1, skip_reason, caption)
        start += batch.num_rows


def _test_issues(
    filters: FilterConfig, has_issue: Mapping[QualityIssue, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the reason and the rows that fail, bool (n,), of every filter on quality issues."""
    yield from ((str(issue), has_issue[issue]) for issue in filters.exclude)
    if filters.only:
        names = " or ".join(map(str, filters.only))
        yield f"no {names}", ~np.any([has_issue[issue] for issue in filters.only], axis=0)


def _test_scores(filters: FilterConfig, levels: np.ndarray, scores: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the reason and the rows that fail, bool (n,), of every filter on levels and scores."""
    if filters.named_levels:
        yield "no level", levels == 0
    if filters.min_level is not None:
        yield f"level below {filters.min_level}", levels < filters.min_level
    if filters.max_level is not None:
        yield f"level above {filters.max_level}", levels > filters.max_level
    if filters.keep_levels:
        yield f"level not {' or '.join(map(str, filters.keep_levels))}", ~np.isin(levels, filters.keep_levels)
    if filters.min_score is not None or filters.max_score is not None:
        yield "no score", ~np.isfinite(scores)
    # Compared as float32, the type of the scores: 0.7 is not below 0.7.
    if filters.min_score is not None:
        yield f"score below {filters.min_score:g}", scores < np.float32(filters.min_score)
    if filters.max_score is not None:
        yield f"score above {filters.max_score:g}", scores > np.float32(filters.max_score)


def _sample(filters: FilterConfig, decision: _Decision, name: str) -> _Decision:
    """Sample how often a record is written: the integer part of its weight, plus one with the fraction's probability.

    Args:
        name: Unique name of the record: its id, in WebDataset with the name of its tar.
    """
    weight = filters.level_weights.get(decision.level, 1.0)
    whole = int(weight)
    times = whole + (_uniform(filters.seed, name) < weight - whole)
    reason = None if times else f"not sampled (level {decision.level}, weight {weight:g})"
    return replace(decision, times=times, reason=reason)


def _uniform(seed: int, name: str) -> float:
    """Return a number in [0, 1) that depends on the seed and the name only."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, salt=seed.to_bytes(16, "little", signed=True)).digest()
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)


@dataclass
class _Counts:
    """Counts of the decisions so far."""

    read: Counter[int] = field(default_factory=Counter)
    written: Counter[int] = field(default_factory=Counter)
    retained: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, decision: _Decision) -> None:
        self.read[decision.level] += 1
        self.written[decision.level] += decision.times
        self.retained += decision.times > 0
        if decision.reason is not None:
            self.skipped[decision.reason] += 1
            examples = self.examples.setdefault(decision.reason, [])
            if len(examples) < _EXAMPLES:
                examples.append(decision.id)

    def to_fields(self, curated: _Curated) -> dict[str, Any]:
        levels = range(1, curated.boundaries.num_levels + 1) if curated.boundaries else ()
        return {
            "num_read": self.read.total(),
            "num_retained": self.retained,
            "num_written": self.written.total(),
            "skipped": dict(self.skipped.most_common()),
            "read_by_level": tuple(self.read[level] for level in levels),
            "written_by_level": tuple(self.written[level] for level in levels),
            "skipped_examples": self.examples,
        }
