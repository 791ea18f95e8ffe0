"""Filters on levels, scores, quality issues and weights, in every format."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from aligngpt.cli import cli
from aligngpt.curation import filtering
from aligngpt.curation.artifacts import FilterResult
from aligngpt.curation.filtering import filter_pairs, result_file
from aligngpt.curation.filters import FilterConfig, QualityIssue
from aligngpt.curation.levels import read_levels
from aligngpt.data.sources import Source, open_source
from tests.curation.score_files import (
    FORMATS,
    NAMES,
    encoded,
    llava,
    make_source,
    write_curated,
    write_scores,
    write_tar,
)

# Of twelve pairs, p0 to p11; of four levels they are 4 4 3 1 1 1 2 2 2 3 3 and, without a score, none.
SCORES = [0.41, 0.42, 0.33, 0.11, 0.12, 0.13, 0.21, 0.22, 0.23, 0.31, 0.32, None]
OUTPUTS = {
    "llava_json": "out.json",
    "json_lines": "out.jsonl",
    "parquet": "out",
    "datasets": "out",
    "webdataset": "out",
}


def records(source: Source) -> list[Any]:
    """Return all records of a source, in order."""
    return [record for shard in source.shards() for record in shard.read(whole=True)]


def curated(folder: Path, kind: str = "json_lines", scores: Any = SCORES, **columns: Any) -> tuple[Source, Path, Path]:
    """Write a source of a format with its scores and levels."""
    source = make_source(folder / "source", kind, [f"p{number}" for number in range(len(scores))])
    return source, *write_curated(folder, source, scores, **columns)


def ids(path: Path) -> list[str]:
    """Return the ids of an output."""
    return [record.id for record in records(open_source(path))]


def filter_source(source: Source, scores: Path, output: Path, rules: FilterConfig, **settings: Any) -> FilterResult:
    """Filter an opened source."""
    fields = {name: value for name, value in vars(rules).items() if not name.startswith("_")}
    return filter_pairs(source.path, output, scores=scores, images=source.images, **settings, **fields)


# ------------------------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("kind", FORMATS)
def test_retained_records_do_not_change(tmp_path: Path, kind: str) -> None:
    source, scores, levels = curated(tmp_path, kind)
    output = tmp_path / OUTPUTS[kind]
    summary = filter_source(source, scores, output, FilterConfig(keep_levels=(4, 2)), levels=levels)
    kept = [record for record in records(source) if record.id in ("p0", "p1", "p6", "p7", "p8")]
    selected = open_source(output)
    assert selected.kind == kind
    actual = records(selected)
    assert [record.raw for record in actual] == [record.raw for record in kept]
    assert [(record.id, record.caption, record.data) for record in actual] == [
        (record.id, record.caption, record.data) for record in kept
    ]
    assert (summary.num_read, summary.num_retained, summary.num_written) == (12, 5, 5)
    assert summary.skipped == {"level not 4 or 2": 6, "no level": 1}
    assert (summary.read_by_level, summary.written_by_level) == ((3, 3, 3, 2), (0, 3, 0, 2))
    content = json.loads(result_file(output).read_text())
    assert content["format"] == kind and content["pairs_hash"] == source.fingerprint
    assert content["filters"]["keep_levels"] == [4, 2] and content["scorer"]["name"] == "tiny"
    assert content["skipped"] == summary.skipped
    assert content["skipped_examples"] == {"level not 4 or 2": ["p2", "p3", "p4"], "no level": ["p11"]}


@pytest.mark.parametrize("kind", FORMATS)
def test_repeated_records_have_their_own_ids_and_are_adjacent(tmp_path: Path, kind: str) -> None:
    source, scores, levels = curated(tmp_path, kind)
    output = tmp_path / OUTPUTS[kind]
    rules = FilterConfig(level_weights={1: 0, 2: 0, 3: 3, 4: 1})
    summary = filter_source(source, scores, output, rules, levels=levels, write_levels=True)
    assert ids(output) == ["p0", "p1", *(f"{name}{copy}" for name in ("p2", "p9", "p10") for copy in ("", "~2", "~3"))]
    assert (summary.num_retained, summary.num_written) == (5, 11)
    assert summary.skipped == {
        "not sampled (level 1, weight 0)": 3,
        "not sampled (level 2, weight 0)": 3,
        "no level": 1,
    }
    for record in records(open_source(output)):
        assert record.error is None
        level = record.raw["alignment_level.txt"] if kind == "webdataset" else record.raw["alignment_level"]
        assert int(level) == (4 if record.id in ("p0", "p1") else 3)


def test_folders_keep_the_names_of_their_files_without_empty_ones(tmp_path: Path) -> None:
    for kind, suffix in (("parquet", "parquet"), ("webdataset", "tar")):
        source, scores, levels = curated(tmp_path / kind, kind)
        output = tmp_path / kind / "out"
        filter_source(source, scores, output, FilterConfig(keep_levels=(2, 4)), levels=levels)
        assert sorted(path.name for path in output.iterdir()) == [f"0.{suffix}", f"1.{suffix}", "filter.json"]
        output = tmp_path / kind / "second"
        filter_source(source, scores, output, FilterConfig(keep_levels=(2,)), levels=levels)
        assert sorted(path.name for path in output.iterdir()) == [f"1.{suffix}", "filter.json"]
        one = tmp_path / kind / f"one.{suffix}"
        filter_source(source, scores, one, FilterConfig(keep_levels=(2, 4)), levels=levels)
        assert ids(one) == ["p0", "p1", "p6", "p7", "p8"]
        assert result_file(one).name == f"one.{suffix}.filter.json"


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_folder_may_have_a_dot_in_its_name(tmp_path: Path, kind: str) -> None:
    source, scores, _ = curated(tmp_path, kind)
    for name in ("good.v2", "0.5"):
        filter_source(source, scores, tmp_path / name, FilterConfig(min_score=0.4))
        assert ids(tmp_path / name) == ["p0", "p1"] and (tmp_path / name / "filter.json").is_file()


@pytest.mark.parametrize("first", ["missing", "cut", "without the columns"])
def test_a_table_has_the_schema_of_the_first_readable_file(tmp_path: Path, first: str) -> None:
    make_source(tmp_path / "source", "parquet")
    path = tmp_path / "source" / "0.parquet"
    if first == "missing":
        path.unlink()
    elif first == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    else:
        pq.write_table(pa.table({"url": ["x"]}), path)
    source = open_source(f"{tmp_path}/source/{{0..1}}.parquet")
    scores = write_scores(tmp_path / "scores", source, {"clip_score": [None, *SCORES[6:]]})
    summary = filter_source(source, scores, tmp_path / "out.parquet", FilterConfig())
    assert ids(tmp_path / "out.parquet") == [f"p{number}" for number in range(6, 12)]
    assert summary.skipped == {"lost in a damaged file": 1}
    assert pq.read_schema(tmp_path / "out.parquet") == pq.read_schema(source.files[1])


def test_a_datasets_folder_loads_with_its_features(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source, scores, levels = curated(tmp_path, "datasets")
    filter_source(source, scores, tmp_path / "plain", FilterConfig(min_level=3), levels=levels)
    before, after = datasets.load_from_disk(source.path), datasets.load_from_disk(str(tmp_path / "plain"))
    assert after.features == before.features
    assert [row["image"].tobytes() for row in after] == [before[index]["image"].tobytes() for index in (0, 1, 2, 9, 10)]
    filter_source(source, scores, tmp_path / "leveled", FilterConfig(), levels=levels, write_levels=True)
    leveled = datasets.load_from_disk(str(tmp_path / "leveled"))
    assert leveled["alignment_level"][:] == [4, 4, 3, 1, 1, 1, 2, 2, 2, 3, 3, None]
    assert leveled._fingerprint not in (before._fingerprint, after._fingerprint)


def test_a_parquet_file_keeps_its_columns_types_and_notes(tmp_path: Path) -> None:
    source, scores, levels = curated(tmp_path, "parquet")
    output = tmp_path / "out.parquet"
    filter_source(source, scores, output, FilterConfig(min_level=3), levels=levels)
    assert pq.read_schema(output) == pq.read_schema(source.files[0])
    output = tmp_path / "leveled.parquet"
    filter_source(source, scores, output, FilterConfig(min_level=3), levels=levels, write_levels=True)
    assert str(pq.read_schema(output).field("alignment_level").type) == "int8"


def test_the_level_of_official_files_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(json.dumps([llava("a", similarity=6), llava("b", alignment_level=1)]))
    source = open_source(tmp_path / "pairs.json")
    scores, levels = write_curated(tmp_path, source, [0.1, 0.2], num_levels=2)
    filter_source(source, scores, tmp_path / "out.json", FilterConfig(), levels=levels, write_levels=True)
    actual = json.loads((tmp_path / "out.json").read_text())
    assert actual == [llava("a", similarity=0, alignment_level=1), llava("b", alignment_level=2)]


def test_ids_in_the_json_of_a_sample_are_changed_with_its_name(tmp_path: Path) -> None:
    fields = json.dumps({"id": "x", "caption": "A cat.", "more": [1]}).encode()
    write_tar(tmp_path / "a.tar", [("0001", {"png": encoded(0), "json": fields})])
    source = open_source(tmp_path / "a.tar")
    scores, levels = write_curated(tmp_path, source, [0.1], num_levels=2)
    rules = FilterConfig(level_weights={2: 2})
    filter_source(source, scores, tmp_path / "out.tar.gz", rules, levels=levels)
    actual = records(open_source(tmp_path / "out.tar.gz"))
    assert [(record.id, record.raw["__key__"]) for record in actual] == [("x", "0001"), ("x~2", "0001~2")]
    assert json.loads(actual[1].raw["json"]) == {"id": "x~2", "caption": "A cat.", "more": [1]}
    filter_source(source, scores, tmp_path / "again.tar.gz", rules, levels=levels)
    assert (tmp_path / "again.tar.gz").read_bytes() == (tmp_path / "out.tar.gz").read_bytes()


# -------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (FilterConfig(), range(12)),
        (FilterConfig(min_level=3), [0, 1, 2, 9, 10]),
        (FilterConfig(max_level=2), range(3, 9)),
        (FilterConfig(min_level=2, max_level=3), [2, *range(6, 11)]),
        (FilterConfig(min_score=0.13), [0, 1, 2, *range(5, 11)]),
        (FilterConfig(max_score=0.21), [3, 4, 5, 6]),
        (FilterConfig(min_score=0.13, max_score=0.41, min_level=2), [0, 2, *range(6, 11)]),
        (FilterConfig(exclude=(QualityIssue("error"),)), range(11)),
        (
            FilterConfig(exclude=(QualityIssue("truncated_caption"), QualityIssue("mismatch", 20))),
            [0, 1, 2, *range(5, 10)],
        ),
        (FilterConfig(only=(QualityIssue("truncated_caption"), QualityIssue("mismatch", 20))), [3, 4, 10, 11]),
        (FilterConfig(only=(QualityIssue("mismatch", 20),), exclude=(QualityIssue("boundary", 0.095),)), [3]),
    ],
)
def test_a_record_is_retained_if_it_passes_every_filter(tmp_path: Path, rules: FilterConfig, kept: Any) -> None:
    source, scores, levels = curated(tmp_path, text_truncated=[False] * 10 + [True] * 2)
    summary = filter_source(source, scores, tmp_path / "out.jsonl", rules, levels=levels)
    assert ids(tmp_path / "out.jsonl") == [f"p{index}" for index in kept]
    assert summary.num_retained + sum(summary.skipped.values()) == summary.num_read == 12


def test_a_skipped_record_counts_for_the_first_filter_it_fails(tmp_path: Path) -> None:
    source, scores, levels = curated(tmp_path)
    rules = FilterConfig(exclude=(QualityIssue("mismatch", 10),), min_level=2, min_score=0.22)
    summary = filter_source(source, scores, tmp_path / "out.jsonl", rules, levels=levels)
    assert summary.skipped == {"level below 2": 2, "mismatch:10": 1, "no level": 1, "score below 0.22": 1}


def test_a_score_is_not_below_the_number_it_was_printed_as(tmp_path: Path) -> None:
    source, scores, _ = curated(tmp_path, scores=[0.7, 0.1, 0.69999])
    filter_source(source, scores, tmp_path / "out.jsonl", FilterConfig(min_score=0.7))
    assert ids(tmp_path / "out.jsonl") == ["p0"], "0.7 as float32 is less than 0.7"


def sample(folder: Path, names: list[str], weight: float, seed: int = 0) -> list[str]:
    """Return the ids that are retained of pairs of one level at a weight."""
    source = make_source(folder / "source", "json_lines", names)
    scores, levels = write_curated(folder, source, [0.1] * len(names))
    filter_source(source, scores, folder / "o.jsonl", FilterConfig(level_weights={4: weight}, seed=seed), levels=levels)
    return ids(folder / "o.jsonl")


def test_sampling_depends_on_seed_and_id_only(tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(2000)]
    few = sample(tmp_path / "a", names, 0.2)
    assert abs(len(few) - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8)
    assert set(sample(tmp_path / "b", names[::-1], 0.2)) == set(few)
    assert sample(tmp_path / "c", names[:700], 0.2) == few[: sum(int(name[1:]) < 700 for name in few)]
    assert set(few) < set(sample(tmp_path / "d", names, 0.5))
    other = sample(tmp_path / "e", names, 0.2, seed=1)
    assert 0 < len(set(few) & set(other)) < 150
    repeated = sample(tmp_path / "f", names, 2.2)
    assert {name.removesuffix("~3") for name in repeated if name.endswith("~3")} == set(few)
    assert len(repeated) == len(set(repeated)) == 4000 + len(few)


def test_samples_of_one_name_in_several_tars_are_different(tmp_path: Path) -> None:
    names = [f"{number:03d}" for number in range(300)]
    for tar in ("0.tar", "1.tar"):
        (tmp_path / "in").mkdir(exist_ok=True)
        write_tar(tmp_path / "in" / tar, [(name, {"png": encoded(0), "txt": b"A cat."}) for name in names])
    source = open_source(tmp_path / "in")
    scores, levels = write_curated(tmp_path, source, [0.1] * 600)
    rules = FilterConfig(level_weights={4: 0.5})
    filter_source(source, scores, tmp_path / "out", rules, levels=levels)
    sampled = [set(ids(tmp_path / "out" / tar)) for tar in ("0.tar", "1.tar")]
    assert all(100 < len(names) < 200 for names in sampled) and 40 < len(sampled[0] & sampled[1]) < 110
    with pytest.raises(ValueError, match=r"sample 000 is in several tars, .*; choose a folder as --output"):
        filter_source(source, scores, tmp_path / "out.tar", FilterConfig())
    assert not (tmp_path / "out.tar").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_level": 0}, "levels count from 1, got 0"),
        ({"keep_levels": (3, -1)}, "got -1"),
        ({"level_weights": {0: 1.0}}, "levels count from 1, got 0"),
        ({"level_weights": {1: -0.5}}, "the weight of level 1 must be a number from 0, got -0.5"),
        ({"level_weights": {1: float("inf")}}, "must be a number from 0"),
        ({"min_level": 3, "max_level": 2}, "no level is at least 3 and at most 2"),
        ({"min_score": 0.3, "max_score": 0.2}, "no score is at least 0.3 and at most 0.2"),
        ({"min_score": float("nan")}, "min_score must be a number, got nan"),
    ],
)
def test_impossible_filters_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FilterConfig(**fields)


# ------------------------------------------------------------------------------------------------- what is not accepted


def test_inputs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    source, scores, levels = curated(tmp_path)
    output = tmp_path / "out.jsonl"
    other = make_source(tmp_path / "other", "json_lines", NAMES[::-1])
    with pytest.raises(ValueError, match=r"other/pairs\.jsonl does not hold the pairs of the scores in .*scores"):
        filter_source(other, scores, output, FilterConfig())
    again, _ = write_curated(tmp_path / "again", source, [0.5] * 12)
    with pytest.raises(ValueError, match=r"levels holds levels of other scores than .*again"):
        filter_source(source, again, output, FilterConfig(), levels=levels)
    with pytest.raises(ValueError, match="filters on levels and --write-levels require --levels"):
        filter_source(source, scores, output, FilterConfig(min_level=2))
    with pytest.raises(ValueError, match="there are 4 levels, got a filter on level 5"):
        filter_source(source, scores, output, FilterConfig(level_weights={5: 1}), levels=levels)
    with pytest.raises(ValueError, match=r"expected a \.jsonl file or a \.ndjson file, the format of .* \(json_l"):
        filter_source(source, scores, tmp_path / "out.json", FilterConfig())
    with pytest.raises(ValueError, match=r"none of its 12 records is left \(score below 0\.9: 11; no score: 1\)"):
        filter_source(source, scores, output, FilterConfig(min_score=0.9))
    assert not output.exists()


def test_rows_that_are_not_those_of_the_pairs_are_noticed(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", "json_lines")
    for name, truncated in (("short", 11), ("renamed", 12)):
        scores = write_scores(tmp_path / name, source, {"clip_score": SCORES})
        table = pq.read_table(scores / "part-00000.parquet").slice(0, truncated)
        table = table.set_column(0, "id", [[*table["id"].to_pylist()[:-1], "p10" if truncated == 11 else "x"]])
        pq.write_table(table, scores / "part-00000.parquet")
        with pytest.raises(ValueError, match="does not hold the pairs"):
            filter_source(source, scores, tmp_path / "out.jsonl", FilterConfig())
    assert not (tmp_path / "out.jsonl").exists()


def test_a_caption_that_was_changed_in_place_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the fingerprint looks at pieces of a file only."""
    monkeypatch.setattr("aligngpt.data.sources._WHOLE", 0)
    monkeypatch.setattr("aligngpt.data.sources._PIECE", 1)
    source = make_source(tmp_path / "source", "webdataset")
    scores = write_scores(tmp_path / "scores", source, {"clip_score": SCORES})
    tar = tmp_path / "source" / "0.tar"
    tar.write_bytes(tar.read_bytes().replace(b"Caption of p3", b"Capture of p3"))
    changed = open_source(tmp_path / "source")
    assert changed.fingerprint == source.fingerprint
    with pytest.raises(ValueError, match="does not hold the pairs"):
        filter_source(changed, scores, tmp_path / "out", FilterConfig())


def test_inputs_and_other_outputs_are_not_replaced(tmp_path: Path) -> None:
    source, scores, levels = curated(tmp_path, "webdataset")
    with pytest.raises(ValueError, match="holds the pairs to read"):
        filter_source(source, scores, Path(source.path), FilterConfig())
    with pytest.raises(ValueError, match="holds the pairs to read"):
        filter_source(source, scores, tmp_path, FilterConfig())
    for name in ("new", "new.tar"):
        with pytest.raises(ValueError, match="is in the folder to read and would become a part of it"):
            filter_source(source, scores, Path(source.path) / name, FilterConfig())
    (tmp_path / "other.tar").touch()
    for path in (levels, tmp_path / "other.tar"):
        with pytest.raises(ValueError, match="exists and was not written by `aligngpt filter`"):
            filter_source(source, scores, path, FilterConfig())
    (tmp_path / "out").mkdir()
    filter_source(source, scores, tmp_path / "out", FilterConfig())
    with pytest.raises(ValueError, match=r"belongs to another run: filters\.min_score is null there, 0\.4 requested"):
        filter_source(source, scores, tmp_path / "out", FilterConfig(min_score=0.4))
    assert len(ids(tmp_path / "out")) == 12


def test_the_same_filter_is_not_applied_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, scores, levels = curated(tmp_path)
    settings: dict[str, Any] = {"scores": scores, "levels": levels, "min_level": 3, "exclude": ["mismatch:5"]}
    first = filter_pairs(source.path, tmp_path / "out.jsonl", **settings)
    monkeypatch.setattr(filtering, "_write_retained", None)
    assert filter_pairs(source.path, tmp_path / "out.jsonl", **settings) == first
    assert FilterResult.read(tmp_path / "out.jsonl.filter.json") == first and first.num_retained == 5


def test_a_filter_that_fails_leaves_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in FORMATS:
        source, scores, _ = curated(tmp_path / kind, kind)
        output = tmp_path / kind / OUTPUTS[kind]
        before = sorted(path.name for path in output.parent.iterdir())
        with monkeypatch.context() as patch:
            patch.setattr(filtering, "can_be_written", lambda source, record: 1 // (record.id != "p8"))
            with pytest.raises(ZeroDivisionError):
                filter_source(source, scores, output, FilterConfig())
        assert sorted(path.name for path in output.parent.iterdir()) == before


def test_ids_like_those_of_repeated_records_are_not_repeated(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", "json_lines", ["a", "a~2"])
    scores, levels = write_curated(tmp_path, source, [0.1, 0.1])
    output = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="id a~2 ends like that of a repeated record"):
        filter_source(source, scores, output, FilterConfig(level_weights={4: 2}), levels=levels)
    filter_source(source, scores, output, FilterConfig(level_weights={4: 1}), levels=levels)
    assert ids(output) == ["a", "a~2"]


def test_numeric_ids_cannot_be_repeated_in_a_table(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2], "image": ["1.png", "2.png"], "caption": ["One.", "Two."]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    source = open_source(tmp_path / "pairs.parquet")
    scores, levels = write_curated(tmp_path, source, [0.1, 0.2], num_levels=2)
    with pytest.raises(ValueError, match="column id has type int64, but a second copy needs a text id"):
        filter_source(source, scores, tmp_path / "out.parquet", FilterConfig(level_weights={2: 2}), levels=levels)
    filter_source(source, scores, tmp_path / "out.parquet", FilterConfig(min_level=2), levels=levels)
    assert ids(tmp_path / "out.parquet") == ["2"]


# ---------------------------------------------------------------------------------------------------------- bad records


def test_bad_records_are_retained_unless_lost_or_excluded(tmp_path: Path) -> None:
    lines = [json.dumps(llava("a")), "{broken", json.dumps({"id": "c"}), json.dumps(llava("a")), json.dumps(llava("e"))]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path / "pairs.jsonl")
    scores, levels = write_curated(tmp_path, source, [0.1, None, None, None, 0.2], num_levels=2)
    summary = filter_source(source, scores, tmp_path / "out.jsonl", FilterConfig())
    assert summary.skipped == {"lost in a damaged file": 1}
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == [llava("a"), {"id": "c"}, llava("a"), llava("e")]
    filter_source(source, scores, tmp_path / "good.jsonl", FilterConfig(min_level=1), levels=levels)
    assert ids(tmp_path / "good.jsonl") == ["a", "e"], "the second a has no level"


def test_missing_and_damaged_tars_lose_their_samples_alone(tmp_path: Path) -> None:
    samples = [(name, {"png": encoded(0), "txt": b"A cat."}) for name in ("a", "b", "c")]
    for name in ("00", "02"):
        write_tar(tmp_path / f"{name}.tar", samples)
    truncated = (tmp_path / "02.tar").read_bytes()
    with tarfile.open(tmp_path / "02.tar") as tar:
        end = tar.getmember("c.png").offset_data + 20
    (tmp_path / "02.tar").write_bytes(truncated[:end])
    source = open_source(f"{tmp_path}/{{00..02}}.tar")
    errors = [record.error for record in records(source)]
    scores = write_scores(tmp_path / "scores", source, {"clip_score": [None if error else 0.1 for error in errors]})
    summary = filter_source(source, scores, tmp_path / "out", FilterConfig())
    assert summary.num_retained == 5
    assert summary.skipped == {"lost in a damaged file": len(errors) - 5}
    assert ids(tmp_path / "out") == ["a", "b", "c", "a", "b"]


# -------------------------------------------------------------------------------------------------------- the command


def run(*arguments: object) -> Result:
    """Run `aligngpt filter`."""
    return CliRunner().invoke(cli, ["filter", *map(str, arguments)], prog_name="aligngpt")


def test_the_command_filters_and_prints_counts(tmp_path: Path) -> None:
    source, scores, levels = curated(tmp_path)
    output = tmp_path / "out.jsonl"
    common = ("--data", source.path, "--scores", scores, "--levels", levels, "--output", output)
    done = run(*common, "--min-level", 2, "--exclude", "error", "--exclude", "mismatch:50", "--level-weights", "4:2")
    assert done.exit_code == 0, done.output
    assert ids(output) == ["p0", "p0~2", "p1", "p1~2", "p2", "p8", "p9", "p10"]
    printed = [[part.strip() for part in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    for row in (["read", "12"], ["written, with repetitions", "8"], ["skipped: mismatch:50", "5"], ["4", "2", "4"]):
        assert row in printed, done.stdout
    assert f"Next: aligngpt pretrain --data {output}" in done.stdout
    other = (*common[:-1], tmp_path / "other.jsonl")
    result = json.loads(run(*other, "--keep-levels", "1,2", "--json").stdout)
    assert (result["num_retained"], result["written_by_level"]) == (6, [3, 3, 0, 0])
    assert read_levels(levels)["p0"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--min-level 2", "filters on levels and --write-levels require --levels"),
        ("--write-levels", "filters on levels and --write-levels require --levels"),
        ("--exclude boundary", "filters on levels and --write-levels require --levels"),
        ("--exclude blurred", "'blurred' is not a quality issue; choose from error"),
        ("--level-weights 1:0.5,1:2", "expected one weight per level, such as 1:0.2,8:2, got '1:0.5,1:2'"),
        ("--level-weights 1", "expected one weight per level"),
        ("--keep-levels 3,x", "expected levels such as 3,4, got '3,x'"),
        ("--min-score 0.5 --max-score 0.1", "no score is at least 0.5 and at most 0.1"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path: Path, arguments: str, message: str) -> None:
    common = ("--data", "pairs.json", "--scores", tmp_path, "--output", tmp_path / "out.json")
    done = run(*common, *arguments.split())
    assert done.exit_code == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
