"""Records kept or dropped by their grades, and written in the format they were read from.

Pairs, scores and levels are read side by side, record by record: nothing is held in memory but one byte for each record
and defect that is told by comparing records (see `defects`). The output appears as a whole, in the order of the input,
with `selection.json` in it, or beside it where it is a file, that says what was kept and why the rest was not.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.curation.filters import Defect, SelectionRules
from aligngpt.curation.levels import (
    LEVELS_JSON,
    LEVELS_PARQUET,
    SCORE_FILES,
    LevelBoundaries,
    levels_file,
    score_column,
)
from aligngpt.curation.quality_issues import defect_mask
from aligngpt.curation.scoring.batches import caption_hash
from aligngpt.curation.scoring.store import iter_scores, read_manifest
from aligngpt.data.sources import Source
from aligngpt.data.writers import WriteRecord, can_be_written, check_output, open_writer
from aligngpt.utils.io import atomic_path, hash_file, hash_folder, read_json, versions, write_json

SELECTION_JSON = "selection.json"

_EXAMPLES = 3
_COPY = re.compile(r"~\d+$")


@dataclass(frozen=True)
class SelectionSummary:
    """What a selection did.

    Attributes:
        read: Records of the input.
        kept: Records of it that were written.
        written: Records of the output, copies counted.
        dropped: Records that were not, by the first rule that they do not pass, most frequent first. Rules apply in
            the order: defects, levels, scores, weights.
        read_by_level: Records of the input of level 1..N; empty without levels.
        written_by_level: Records of the output of level 1..N; empty without levels.
    """

    read: int
    kept: int
    written: int
    dropped: dict[str, int]
    read_by_level: tuple[int, ...] = ()
    written_by_level: tuple[int, ...] = ()


def select_pairs(
    source: Source,
    scores_folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    rules: SelectionRules,
    *,
    levels: str | os.PathLike[str] | None = None,
    write_levels: bool = False,
) -> SelectionSummary:
    """Write the records that pass the rules, with all their fields, in the order and format of the input.

    A record that is written more than once has `~2`, `~3`, ... behind its id from the second copy on. One that was lost
    in a damaged file is dropped whatever the rules say.

    Args:
        source: The pairs that were scored.
        scores_folder: Their finished folder of scores.
        output: File or folder to write; an existing folder is replaced if it is an earlier selection, or empty.
        rules: What is kept.
        levels: Their folder of levels, for rules on levels. Rules on scores then read the scores that were cut.
        write_levels: Whether records get a field `alignment_level`.

    Raises:
        FileNotFoundError: If an input is missing.
        ValueError: If the three inputs do not belong together, the rules need levels that are not given, the output
            has a wrong suffix or would replace something else, or no record is left.
    """
    grades = _Grades.open(scores_folder, levels)
    _check_rules(rules, grades, write_levels)
    check_output(source, output)
    _check_free(source, Path(output))
    if grades.manifest["inputs"]["pairs_hash"] != source.fingerprint:
        raise ValueError(_other_pairs(source, grades))
    tally = _Tally()
    with atomic_path(output) as temporary:
        with open_writer(source, output, temporary, write_levels) as write:
            _write_kept(source, grades, rules, tally, write, write_levels)
        summary = tally.summary(grades)
        if not summary.kept:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in summary.dropped.items())
            raise ValueError(f"{source.path}: none of its {summary.read} records is left ({reasons})")
        description = _description(source, grades, rules, summary, tally.examples)
        if temporary.is_dir():
            write_json(temporary / SELECTION_JSON, description)
    if Path(output).is_file():
        write_json(selection_file(output), description)
    return summary


def selection_file(output: str | os.PathLike[str]) -> Path:
    """Where the description of an output stands: in a folder, or beside a file as `<file>.selection.json`."""
    path = Path(output)
    return path / SELECTION_JSON if path.is_dir() else path.with_name(f"{path.name}.{SELECTION_JSON}")


def _write_kept(
    source: Source, grades: _Grades, rules: SelectionRules, tally: _Tally, write: WriteRecord, write_levels: bool
) -> None:
    """Go through records and their grades side by side."""
    repeats = any(weight > 1 for weight in rules.weights.values())
    records = ((shard, record) for shard in source.shards() for record in shard.read(whole=True))
    for row in _rows(grades, rules):
        shard, record = next(records, (None, None))
        if shard is None or record is None or record.id != row.id or not row.is_of(record.caption):
            raise ValueError(_other_pairs(source, grades))
        if row.copies and not can_be_written(source, record):
            row = replace(row, copies=0, reason="lost in a damaged file")
        if row.copies:
            row = _drawn(rules, row, f"{shard.name}\0{row.id}" if source.kind == "webdataset" else row.id)
        if row.copies and repeats and _COPY.search(row.id):
            raise ValueError(
                f"id {row.id} ends as that of a copy does, so ids would not stay unique: select from the pairs that "
                "were copied, or give weights of at most 1"
            )
        tally.add(row)
        for copy in range(1, row.copies + 1):
            write(shard, record, copy, row.level or None if write_levels else None)
    if next(records, None) is not None:
        raise ValueError(_other_pairs(source, grades))


# Grades --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grades:
    """A folder of scores, and of the levels that were made of it where there are any."""

    scores: Path
    manifest: dict[str, Any]
    column: str
    scorer: dict[str, Any]
    scores_hash: str
    levels: Path | None = None
    boundaries: LevelBoundaries | None = None

    @classmethod
    def open(cls, scores: str | os.PathLike[str], levels: str | os.PathLike[str] | None) -> _Grades:
        manifest, scores_hash = read_manifest(scores), hash_folder(scores, (SCORE_FILES,))
        if levels is None:
            return cls(Path(scores), manifest, *score_column(manifest), scores_hash)
        content = read_json(levels_file(levels, LEVELS_JSON))
        if content.get("scores_hash") != scores_hash:
            raise ValueError(f"{levels} holds levels of other scores than those in {scores}: level these anew")
        column, scorer = score_column(manifest, content["scorer"]["name"])
        path = Path(levels)
        return cls(Path(scores), manifest, column, scorer, scores_hash, path, LevelBoundaries.load(levels))

    def batches(self) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """Batches of scores, each with the levels of its rows, int64 (n,), 0 where there is none."""
        batches = iter_scores(self.scores, ["id", "text_truncated", "error", "caption_hash", self.column])
        if self.levels is None:
            yield from ((batch, np.zeros(batch.num_rows, np.int64)) for batch in batches)
            return
        with pq.ParquetFile(levels_file(self.levels, LEVELS_PARQUET)) as file:
            rest = file.iter_batches(columns=["alignment_level"])
            levels = np.zeros(0, np.int64)
            for batch in batches:
                while levels.size < batch.num_rows:
                    more = next(rest, None)
                    if more is None:
                        raise ValueError(f"{self.levels} holds fewer rows than {self.scores}: level these anew")
                    levels = np.concatenate([levels, more.column(0).fill_null(0).to_numpy().astype(np.int64)])
                yield batch, levels[: batch.num_rows]
                levels = levels[batch.num_rows :]


def _check_rules(rules: SelectionRules, grades: _Grades, write_levels: bool) -> None:
    if grades.boundaries is None:
        if rules.need_levels or write_levels:
            raise ValueError("rules on levels, and writing them, need the folder of levels: name it")
        return
    beyond = [level for level in rules.named_levels() if level > grades.boundaries.num_levels]
    if beyond:
        raise ValueError(f"there are {grades.boundaries.num_levels} levels, got a rule on level {beyond[0]}")


def _check_free(source: Source, output: Path) -> None:
    """Nothing is replaced but an earlier selection, least of all what is read, and nothing is added to it."""
    taken, read = output.resolve(), Path(source.path).resolve()
    if any(taken == Path(file).resolve() or taken in Path(file).resolve().parents for file in source.files):
        raise ValueError(f"{output} holds the pairs that are read: name another output")
    if read.is_dir() and read in taken.parents:
        raise ValueError(f"{output} lies in the folder that is read, of which it would become a part: name another")
    if output.is_dir() and any(output.iterdir()) and not (output / SELECTION_JSON).is_file():
        raise ValueError(f"{output} exists and is no selection: name another output, or delete it")


def _other_pairs(source: Source, grades: _Grades) -> str:
    return f"{source.path} does not hold the pairs that {grades.scores} holds scores of: give those, or score these"


# Decisions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """How often a record is written, and the reason if it is not."""

    id: str
    level: int
    copies: int
    reason: str | None = None
    caption_hash: int | None = None

    def is_of(self, caption: str | None) -> bool:
        """Whether the caption is the one that was scored; a record that was not has none on either side."""
        return caption is None or self.caption_hash is None or caption_hash(caption) == self.caption_hash


def _rows(grades: _Grades, rules: SelectionRules) -> Iterator[_Row]:
    """Decide on every record, in order."""
    boundaries = grades.boundaries.boundaries if grades.boundaries else ()
    defects = dict.fromkeys((*rules.drop_defects, *rules.only_defects))
    masks = {defect: defect_mask(defect, grades.scores, grades.column, boundaries) for defect in defects}
    start = 0
    for batch, levels in grades.batches():
        reasons: list[str | None] = [None] * batch.num_rows
        scores = batch[grades.column].to_numpy(zero_copy_only=False)
        found = {defect: mask(batch, start) for defect, mask in masks.items()}
        for reason, fails in (*_defect_tests(rules, found), *_grade_tests(rules, levels, scores)):
            for place in np.flatnonzero(fails):
                reasons[place] = reasons[place] or reason
        columns = (batch["id"].to_pylist(), levels.tolist(), reasons, batch["caption_hash"].to_pylist())
        for name, level, why, caption in zip(*columns, strict=True):
            yield _Row(name, level, 0 if why else 1, why, caption)
        start += batch.num_rows


def _defect_tests(rules: SelectionRules, found: Mapping[Defect, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Reason and rows that it holds for, of every rule on defects."""
    yield from ((str(defect), found[defect]) for defect in rules.drop_defects)
    if rules.only_defects:
        names = " or ".join(map(str, rules.only_defects))
        yield f"no {names}", ~np.any([found[defect] for defect in rules.only_defects], axis=0)


def _grade_tests(rules: SelectionRules, levels: np.ndarray, scores: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Reason and rows that it holds for, of every rule on levels and scores."""
    if rules.named_levels():
        yield "no level", levels == 0
    if rules.min_level is not None:
        yield f"level below {rules.min_level}", levels < rules.min_level
    if rules.max_level is not None:
        yield f"level above {rules.max_level}", levels > rules.max_level
    if rules.keep_levels:
        yield f"level not {' or '.join(map(str, rules.keep_levels))}", ~np.isin(levels, rules.keep_levels)
    if rules.min_score is not None or rules.max_score is not None:
        yield "no score", ~np.isfinite(scores)
    # Compared as float32, in which the scores are kept: 0.7 is not below 0.7.
    if rules.min_score is not None:
        yield f"score below {rules.min_score:g}", scores < np.float32(rules.min_score)
    if rules.max_score is not None:
        yield f"score above {rules.max_score:g}", scores > np.float32(rules.max_score)


def _drawn(rules: SelectionRules, row: _Row, name: str) -> _Row:
    """Draw how often a record is written: the whole part of its weight, and once more with the rest's probability.

    `name` is what no other record is called: its id, in WebDataset with that of its tar.
    """
    weight = rules.weights.get(row.level, 1.0)
    whole = int(weight)
    copies = whole + (_uniform(rules.seed, name) < weight - whole)
    return replace(row, copies=copies, reason=None if copies else f"not drawn (level {row.level}, weight {weight:g})")


def _uniform(seed: int, name: str) -> float:
    """A number from 0 to 1, below 1, that depends on the seed and the name alone."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, salt=seed.to_bytes(16, "little", signed=True)).digest()
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)


# What is said about it -----------------------------------------------------------------------------------------------


@dataclass
class _Tally:
    """Counts while records are written."""

    read: Counter[int] = field(default_factory=Counter)
    written: Counter[int] = field(default_factory=Counter)
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, row: _Row) -> None:
        self.read[row.level] += 1
        self.written[row.level] += row.copies
        self.kept += row.copies > 0
        if row.reason is not None:
            self.dropped[row.reason] += 1
            examples = self.examples.setdefault(row.reason, [])
            if len(examples) < _EXAMPLES:
                examples.append(row.id)

    def summary(self, grades: _Grades) -> SelectionSummary:
        levels = range(1, grades.boundaries.num_levels + 1) if grades.boundaries else ()
        by_level = (tuple(counts[level] for level in levels) for counts in (self.read, self.written))
        return SelectionSummary(
            self.read.total(), self.kept, self.written.total(), dict(self.dropped.most_common()), *by_level
        )


def _description(
    source: Source,
    grades: _Grades,
    rules: SelectionRules,
    summary: SelectionSummary,
    examples: Mapping[str, list[str]],
) -> dict[str, Any]:
    levels = None if grades.levels is None else hash_file(levels_file(grades.levels, LEVELS_PARQUET))
    counts = asdict(summary) | {
        "read_by_level": list(summary.read_by_level),
        "written_by_level": list(summary.written_by_level),
    }
    return {
        "source": source.path,
        "format": source.kind,
        "pairs_hash": source.fingerprint,
        "scorer": grades.scorer,
        "scores_hash": grades.scores_hash,
        "levels_hash": levels,
        "rules": rules.as_dict(),
        **counts,
        "examples_of_dropped": dict(examples),
        "versions": versions(),
    }
