"""JSON files that the curation commands write."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from aligngpt.curation.choices import DriftStatus, LongCaptions, Strategy
from aligngpt.utils.artifacts import Record, RunArtifact


class ScorerInfo(Record):
    """A scorer, as far as scores depend on it."""

    name: str = Field(description="Name of its checkpoint: a bundled name, or that of the folder.")
    architecture: str = Field(description="Class of the model, such as `CLIPModel`.")
    weights_hash: str = Field(description="SHA-256 over weights, configuration, tokenizer and image processor.")
    dtype: str = Field(description="Type of the weights in memory, such as `float32`.")


class DataFields(Record):
    """Names of the fields of a record; null for the usual names."""

    image: str | None = Field(None, description="Field of the image.")
    caption: str | None = Field(None, description="Field of the caption.")
    id: str | None = Field(None, description="Field of the id.")


class ScoreInputs(Record):
    """What scores depend on; a folder holds the scores of one such combination."""

    pairs_hash: str = Field(description="Fingerprint of the pairs.")
    fields: DataFields = Field(description="Fields that image, caption and id were read from.")
    images_hash: str | None = Field(description="SHA-256 over names and sizes of a sample of the image files, or null.")
    scorers: list[dict[str, str]] = Field(description="Of each scorer architecture, weights_hash and dtype.")
    columns: list[str] = Field(description="Columns of scores, in the order of the scorers.")
    long_captions: LongCaptions = Field(description="How captions beyond the context of a scorer are handled.")
    shards: int = Field(description="Shards of the pairs.")


class ScoreRunConfig(RunArtifact):
    """What a folder of scores is a run of. Written when scoring starts."""

    FILE: ClassVar[str] = "run_config.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt score"

    inputs: ScoreInputs = Field(description="What the scores depend on.")
    snapshot: str | None = Field(
        description="SHA-256 over settings and over names, sizes and modification times of the input files, by which a "
        "finished run is recognized without reading them; null if they are not on this machine."
    )
    image_sample: list[str] = Field(description="Paths of the image files in `images_hash`.")


class ScorerAgreement(Record):
    """How far two scorers agree on the same pairs."""

    scorers: tuple[str, str] = Field(description="Names of the two scorers.")
    pairs: int = Field(description="Pairs with a score of both, at most 1,000,000 of them, evenly spaced.")
    spearman: float | None = Field(description="Rank correlation, -1 to 1; null if a scorer gives one score to all.")
    equal_levels: float | None = Field(description="Fraction of the pairs in the same of 8 equally full levels.")


class ScoreCounts(Record):
    """Rows of a folder of scores."""

    scored: int = Field(description="Pairs with a score.")
    failed: int = Field(description="Pairs with an error instead.")
    truncated: int = Field(description="Pairs whose caption was truncated by a scorer.")
    errors: dict[str, int] = Field(description="Failed pairs by reason, numbers written as N; most frequent first.")

    @property
    def rows(self) -> int:
        """All pairs, with a score or without."""
        return self.scored + self.failed


class ScoreManifest(RunArtifact):
    """What was scored, with which scorers, and the result. Written last: a folder with it is complete."""

    FILE: ClassVar[str] = "manifest.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt score"

    inputs: ScoreInputs = Field(description="What the scores depend on.")
    scorers: list[ScorerInfo] = Field(description="The scorers; scores of the first are in `clip_score`.")
    shards: int = Field(description="Number of parts, one for each shard of the pairs.")
    counts: ScoreCounts = Field(description="Rows by outcome.")
    agreement: list[ScorerAgreement] = Field(description="Agreement of every two scorers.")
    seconds: float = Field(description="Runtime of the run that finished the folder, loading included (s).")


class DriftReport(Record):
    """Scores compared with the scores that the level boundaries were fitted on."""

    population_stability_index: float = Field(description="PSI over the levels, 0 or more.")
    expected_by_chance: float = Field(description="Mean PSI without drift for as many pairs.")
    status: DriftStatus = Field(description="PSI below 0.1, up to 0.25, above 0.25.")
    fitted_counts: tuple[int, ...] = Field(description="Pairs of each level 1..N at the fit.")
    counts: tuple[int, ...] = Field(description="Pairs of each level 1..N now.")
    fitted_quantiles: dict[str, float] | None = Field(description="Scores at the fit by percentile, `p1` to `p99`.")
    quantiles: dict[str, float] = Field(description="Scores now by percentile.")
    below: float = Field(description="Fraction of scores now below the fitted range.")
    above: float = Field(description="Fraction of scores now above the fitted range.")


class LevelSettings(Record):
    """Arguments that levels depend on."""

    num_levels: int | None = Field(description="Requested number of levels; null if it follows from the boundaries.")
    strategy: str | None = Field(description="Requested strategy; null if it follows from the boundaries.")
    boundaries: tuple[float, ...] | None = Field(description="Explicit boundaries.")
    boundaries_from: str | None = Field(description="SHA-256 of the levels or scores that give the boundaries.")


class LevelsSummary(RunArtifact):
    """Level boundaries and what the levels look like. Next to it, `levels.parquet` holds the level of each pair."""

    FILE: ClassVar[str] = "levels.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt level"

    num_levels: int = Field(description="N, 2 to 64.")
    strategy: Strategy = Field(description="`quantile` (equally full), `uniform` (equally wide) or `explicit`.")
    boundaries: tuple[float, ...] = Field(description="N - 1 ascending scores; a score on a boundary is above it.")
    minimum: float = Field(description="Lowest score of the fit.")
    maximum: float = Field(description="Highest score of the fit.")
    counts: tuple[int, ...] = Field(description="Pairs of each level 1..N.")
    mean_score_by_level: tuple[float | None, ...] = Field(description="Mean score of each level; null if it is empty.")
    score_quantiles: dict[str, float] = Field(description="Scores by percentile, `p1` to `p99`.")
    unscored: int = Field(description="Pairs without a score and hence without a level.")
    drift: DriftReport | None = Field(description="Comparison with the scores of the fit; null if these are the same.")
    warnings: tuple[str, ...] = Field(description="What to check, one line each.")
    scorer: ScorerInfo = Field(description="Scorer of the scores.")
    pairs_hash: str = Field(description="Fingerprint of the pairs.")
    scores_hash: str = Field(description="SHA-256 over the parts of the scores.")
    settings: LevelSettings = Field(description="Arguments of the command.")
    snapshot: str = Field(description="SHA-256 over names, sizes and modification times of the scores.")


class FilterResult(RunArtifact):
    """What a filter retained and skipped. In a folder, or next to an output file as `<file>.filter.json`."""

    FILE: ClassVar[str] = "filter.json"
    WRITTEN_BY: ClassVar[str] = "aligngpt filter"

    data: str = Field(description="The pairs that were read.")
    format: str = Field(description="Their format.")
    filters: dict[str, Any] = Field(description="Settings of the filters.")
    write_levels: bool = Field(description="Whether records have a field `alignment_level`.")
    num_read: int = Field(description="Records of the input.")
    num_retained: int = Field(description="Records of the input that were written.")
    num_written: int = Field(description="Records of the output, repetitions counted.")
    skipped: dict[str, int] = Field(
        description="Records by the first filter that they do not pass, most frequent first. Filters apply in the "
        "order quality issues, levels, scores, level weights."
    )
    read_by_level: tuple[int, ...] = Field(description="Records of the input of level 1..N; empty without levels.")
    written_by_level: tuple[int, ...] = Field(description="Records of the output of level 1..N; empty without levels.")
    skipped_examples: dict[str, list[str]] = Field(description="Up to three ids for each reason.")
    scorer: ScorerInfo = Field(description="Scorer of the scores.")
    pairs_hash: str = Field(description="Fingerprint of the pairs.")
    scores_hash: str = Field(description="SHA-256 over the parts of the scores.")
    levels_hash: str | None = Field(description="SHA-256 of `levels.parquet`, or null without levels.")
