"""Filter pairs by scores and levels, and write them in the format they were read from.

Pairs and scores are read in parallel, record by record, and levels follow from their boundaries; memory holds only one
byte for each record and quality issue that compares records (see `filters`). The output appears when it is complete, in
the order of the input, with `filter.json` in it, or next to it if it is a file, see `FilterResult`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aligngpt.curation.artifacts import FilterResult, ScoreManifest, ScorerInfo
from aligngpt.curation.filters import FilterConfig, QualityIssue
from aligngpt.curation.levels import LEVELS_PARQUET, LevelBoundaries, levels_file, read_summary, score_column
from aligngpt.curation.scoring.batches import caption_hash
from aligngpt.curation.scoring.store import PART_PATTERN, iter_scores, read_manifest
from aligngpt.data.sources import Source, open_source
from aligngpt.data.writers import WriteRecord, can_be_written, check_output, open_writer
from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.io import atomic_path, hash_file, hash_folder, versions
from aligngpt.utils.output_dir import describe_differences, is_empty, log_complete
from aligngpt.utils.progress import Advance, progress

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
        levels: The folder of their levels or its `levels.parquet`, for filters on levels. Filters on scores then use
            the scores that were binned.
        images: Folder that image paths are relative to; required only if the pairs have absolute paths.
        write_levels: Whether records get a field `alignment_level`.
        show_progress: Whether to show progress on standard error.
        filters: Fields of `FilterConfig`, such as `min_level=3`.

    Raises:
        FileNotFoundError: An input is missing.
        ValueError: The inputs do not belong together, a filter is out of range or needs levels that are missing, the
            output has a wrong suffix or holds something else, or no record is left.
    """
    rules = FilterConfig(**filters)
    if levels is None and (rules.needs_levels or write_levels):
        raise ArgumentError("filters on levels and --write-levels require --levels")
    curated = _Curated.open(scores, levels)
    source = open_scored_pairs(data, curated.manifest, images)
    _check_levels(rules, curated)
    check_output(source, output)
    _check_location(source, Path(output))
    if curated.manifest.inputs.pairs_hash != source.fingerprint:
        raise ValueError(_describe_other_pairs(source, curated))
    identity = {
        "filters": rules.to_dict(),
        "write_levels": write_levels,
        "pairs_hash": source.fingerprint,
        "scores_hash": curated.scores_hash,
        "levels_hash": curated.levels_hash,
    }
    existing = _read_existing(Path(output), identity)
    if existing is None:
        return _write_output(source, curated, rules, Path(output), identity, show_progress)
    log_complete(output)
    return existing


def open_scored_pairs(
    data: str | os.PathLike[str], manifest: ScoreManifest, images: str | os.PathLike[str] | None = None
) -> Source:
    """Open pairs with the fields they were scored by; arguments and errors as in `open_source`."""
    fields = manifest.inputs.fields
    return open_source(data, images, image_column=fields.image, caption_column=fields.caption, id_column=fields.id)


def _write_output(
    source: Source,
    curated: _Curated,
    filters: FilterConfig,
    output: Path,
    identity: dict[str, Any],
    show_progress: bool,
) -> FilterResult:
    write_levels = identity["write_levels"]
    with atomic_path(output) as temporary:
        with (
            open_writer(source, output, temporary, write_levels) as write,
            progress("filtering", curated.manifest.counts.rows, show_progress) as advance,
        ):
            counts = _write_retained(source, curated, filters, write, write_levels, advance)
        if not counts["num_retained"]:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in counts["skipped"].items())
            raise ValueError(f"{source.path}: none of its {counts['num_read']} records is left ({reasons})")
        described = {"data": str(source.path), "format": source.kind, "scorer": curated.scorer, "versions": versions()}
        result = FilterResult(**described, **counts, **identity)
        if temporary.is_dir():
            result.write(temporary)
    if output.is_file():
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
    source: Source, curated: _Curated, filters: FilterConfig, write: WriteRecord, write_levels: bool, advance: Advance
) -> dict[str, Any]:
    """Read records and decisions in parallel, write what is retained, and return the counts of `FilterResult`."""
    read, written, skipped = Counter[int](), Counter[int](), Counter[str]()
    examples: dict[str, list[str]] = {}
    repeats = any(weight > 1 for weight in filters.level_weights.values())
    records = ((shard, record) for shard in source.shards() for record in shard.read(whole=True))
    for name, level, reason, scored_caption in _decide(curated, filters):
        shard, record = next(records, (None, None))
        if shard is None or record is None or record.id != name or _is_changed(record.caption, scored_caption):
            raise ValueError(_describe_other_pairs(source, curated))
        times = 0
        if reason is None and not can_be_written(source, record):
            reason = "lost in a damaged file"
        if reason is None:
            weight = filters.level_weights.get(level, 1.0)
            unique_name = f"{shard.name}\0{name}" if source.kind == "webdataset" else name
            times = _sample_times(weight, filters.seed, unique_name)
            if not times:
                reason = f"not sampled (level {level}, weight {weight:g})"
        if times and repeats and _REPETITION.search(name):
            raise ValueError(
                f"id {name} ends like that of a repeated record, so that ids would not be unique; filter the "
                "pairs before their repetition, or use weights of at most 1"
            )
        read[level] += 1
        written[level] += times
        if reason is not None:
            skipped[reason] += 1
            if skipped[reason] <= _EXAMPLES:
                examples.setdefault(reason, []).append(name)
        for number in range(1, times + 1):
            write(shard, record, number, level or None if write_levels else None)
        advance(1)
    if next(records, None) is not None:
        raise ValueError(_describe_other_pairs(source, curated))
    levels = range(1, curated.boundaries.num_levels + 1) if curated.boundaries else ()
    return {
        "num_read": read.total(),
        "num_retained": read.total() - skipped.total(),
        "num_written": written.total(),
        "skipped": dict(skipped.most_common()),
        "read_by_level": tuple(read[level] for level in levels),
        "written_by_level": tuple(written[level] for level in levels),
        "skipped_examples": examples,
    }


# Scores and levels --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Curated:
    """A folder of scores, and the levels made of it if there are any."""

    scores: Path
    manifest: ScoreManifest
    scores_hash: str
    column: str
    scorer: ScorerInfo
    boundaries: LevelBoundaries | None = None
    levels_hash: str | None = None

    @classmethod
    def open(cls, scores: str | os.PathLike[str], levels: str | os.PathLike[str] | None) -> _Curated:
        manifest, scores_hash = read_manifest(scores), hash_folder(scores, (PART_PATTERN,))
        if levels is None:
            return cls(Path(scores), manifest, scores_hash, *score_column(manifest))
        summary = read_summary(levels)
        if summary.scores_hash != scores_hash:
            raise ValueError(f"{levels} holds levels of other scores than {scores}; run `aligngpt level` on these")
        column, scorer = score_column(manifest, summary.scorer.name)
        levels_hash = hash_file(levels_file(levels, LEVELS_PARQUET))
        return cls(Path(scores), manifest, scores_hash, column, scorer, LevelBoundaries.of(summary), levels_hash)


def _check_levels(filters: FilterConfig, curated: _Curated) -> None:
    if curated.boundaries is None:
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


def _describe_other_pairs(source: Source, curated: _Curated) -> str:
    return (
        f"{source.path} does not hold the pairs of the scores in {curated.scores}; pass those as --data, or score these"
    )


# Decisions ----------------------------------------------------------------------------------------------------------


def _decide(curated: _Curated, filters: FilterConfig) -> Iterator[tuple[str, int, str | None, int | None]]:
    """Yield id, level (0 for none), reason to skip it before sampling, and hash of the caption of every record."""
    boundaries = curated.boundaries.boundaries if curated.boundaries else ()
    issues = dict.fromkeys((*filters.exclude, *filters.only))
    masks = {issue: issue.prepare(curated.scores, curated.column, boundaries) for issue in issues}
    start = 0
    for batch in iter_scores(curated.scores, ["id", "text_truncated", "error", "caption_hash", curated.column]):
        reasons: list[str | None] = [None] * batch.num_rows
        scores = batch[curated.column].to_numpy(zero_copy_only=False)
        levels = curated.boundaries.apply(scores) if curated.boundaries else np.zeros(scores.size, np.int64)
        has_issue = {issue: mask(batch, start) for issue, mask in masks.items()}
        for reason, fails in (*_test_issues(filters, has_issue), *_test_scores(filters, levels, scores)):
            for index in np.flatnonzero(fails):
                reasons[index] = reasons[index] or reason
        yield from zip(
            batch["id"].to_pylist(), levels.tolist(), reasons, batch["caption_hash"].to_pylist(), strict=True
        )
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


def _is_changed(caption: str | None, scored_hash: int | None) -> bool:
    """Return whether a caption is not the one that was scored; bad records have none."""
    return None not in (caption, scored_hash) and caption_hash(caption or "") != scored_hash


def _sample_times(weight: float, seed: int, name: str) -> int:
    """Return the integer part of a weight, plus one with the probability of its fraction, by seed and name only."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, salt=seed.to_bytes(16, "little", signed=True)).digest()
    return int(weight) + ((int.from_bytes(digest, "little") >> 11) / (1 << 53) < weight - int(weight))
