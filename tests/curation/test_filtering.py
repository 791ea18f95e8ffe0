"""Selection by level, score, defect and weight, in every format, against a slow reading of the rules."""

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
from aligngpt.curation import filtering as select
from aligngpt.curation.filtering import select_pairs, selection_file
from aligngpt.curation.filters import Defect, SelectionRules
from aligngpt.curation.levels import read_levels
from aligngpt.data.sources import Source, open_source
from tests.curation.score_files import FORMATS, NAMES, encoded, grade, llava, make_source, write_scores, write_tar

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
    """All records of a source, in order."""
    return [record for shard in source.shards() for record in shard.read(whole=True)]


def graded(folder: Path, kind: str = "json_lines", scores: Any = SCORES, **columns: Any) -> tuple[Source, Path, Path]:
    """A source of a format with its scores and levels."""
    source = make_source(folder / "source", kind, [f"p{number}" for number in range(len(scores))])
    return source, *grade(folder, source, scores, **columns)


def ids(path: Path) -> list[str]:
    """The ids an output holds."""
    return [record.id for record in records(open_source(path))]


# ------------------------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_kept_is_as_it_was(tmp_path: Path, kind: str) -> None:
    source, scores, levels = graded(tmp_path, kind)
    output = tmp_path / OUTPUTS[kind]
    summary = select_pairs(source, scores, output, SelectionRules(keep_levels=(4, 2)), levels=levels)
    kept = [record for record in records(source) if record.id in ("p0", "p1", "p6", "p7", "p8")]
    selected = open_source(output)
    assert selected.kind == kind
    found = records(selected)
    assert [record.raw for record in found] == [record.raw for record in kept]
    assert [(record.id, record.caption, record.data) for record in found] == [
        (record.id, record.caption, record.data) for record in kept
    ]
    assert (summary.read, summary.kept, summary.written) == (12, 5, 5)
    assert summary.dropped == {"level not 4 or 2": 6, "no level": 1}
    assert (summary.read_by_level, summary.written_by_level) == ((3, 3, 3, 2), (0, 3, 0, 2))
    content = json.loads(selection_file(output).read_text())
    assert content["format"] == kind and content["pairs_hash"] == source.fingerprint
    assert content["rules"]["keep_levels"] == [4, 2] and content["scorer"]["name"] == "tiny"
    assert content["dropped"] == summary.dropped
    assert content["examples_of_dropped"] == {"level not 4 or 2": ["p2", "p3", "p4"], "no level": ["p11"]}


@pytest.mark.parametrize("kind", FORMATS)
def test_copies_have_ids_of_their_own_and_stand_together(tmp_path: Path, kind: str) -> None:
    source, scores, levels = graded(tmp_path, kind)
    output = tmp_path / OUTPUTS[kind]
    rules = SelectionRules(weights={1: 0, 2: 0, 3: 3, 4: 1})
    summary = select_pairs(source, scores, output, rules, levels=levels, write_levels=True)
    assert ids(output) == ["p0", "p1", *(f"{name}{copy}" for name in ("p2", "p9", "p10") for copy in ("", "~2", "~3"))]
    assert (summary.kept, summary.written) == (5, 11)
    assert summary.dropped == {
        "not drawn (level 1, weight 0)": 3,
        "not drawn (level 2, weight 0)": 3,
        "no level": 1,
    }
    for record in records(open_source(output)):
        assert record.error is None
        level = record.raw["alignment_level.txt"] if kind == "webdataset" else record.raw["alignment_level"]
        assert int(level) == (4 if record.id in ("p0", "p1") else 3)


def test_folders_keep_the_names_of_their_files_and_leave_out_empty_ones(tmp_path: Path) -> None:
    for kind, suffix in (("parquet", "parquet"), ("webdataset", "tar")):
        source, scores, levels = graded(tmp_path / kind, kind)
        output = tmp_path / kind / "out"
        select_pairs(source, scores, output, SelectionRules(keep_levels=(2, 4)), levels=levels)
        assert sorted(path.name for path in output.iterdir()) == [f"0.{suffix}", f"1.{suffix}", "selection.json"]
        select_pairs(source, scores, output, SelectionRules(keep_levels=(2,)), levels=levels)
        assert sorted(path.name for path in output.iterdir()) == [f"1.{suffix}", "selection.json"]
        one = tmp_path / kind / f"one.{suffix}"
        select_pairs(source, scores, one, SelectionRules(keep_levels=(2, 4)), levels=levels)
        assert ids(one) == ["p0", "p1", "p6", "p7", "p8"]
        assert selection_file(one).name == f"one.{suffix}.selection.json"


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_folder_may_have_a_dot_in_its_name(tmp_path: Path, kind: str) -> None:
    source, scores, _ = graded(tmp_path, kind)
    for name in ("good.v2", "0.5"):
        select_pairs(source, scores, tmp_path / name, SelectionRules(min_score=0.4))
        assert ids(tmp_path / name) == ["p0", "p1"] and (tmp_path / name / "selection.json").is_file()


@pytest.mark.parametrize("first", ["missing", "cut", "without the columns"])
def test_a_table_is_made_like_the_first_file_that_can_be_read(tmp_path: Path, first: str) -> None:
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
    summary = select_pairs(source, scores, tmp_path / "out.parquet", SelectionRules())
    assert ids(tmp_path / "out.parquet") == [f"p{number}" for number in range(6, 12)]
    assert summary.dropped == {"lost in a damaged file": 1}
    assert pq.read_schema(tmp_path / "out.parquet") == pq.read_schema(source.files[1])


def test_a_datasets_folder_loads_with_its_features(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source, scores, levels = graded(tmp_path, "datasets")
    select_pairs(source, scores, tmp_path / "plain", SelectionRules(min_level=3), levels=levels)
    before, after = datasets.load_from_disk(source.path), datasets.load_from_disk(str(tmp_path / "plain"))
    assert after.features == before.features
    assert [row["image"].tobytes() for row in after] == [before[place]["image"].tobytes() for place in (0, 1, 2, 9, 10)]
    select_pairs(source, scores, tmp_path / "leveled", SelectionRules(), levels=levels, write_levels=True)
    leveled = datasets.load_from_disk(str(tmp_path / "leveled"))
    assert leveled["alignment_level"][:] == [4, 4, 3, 1, 1, 1, 2, 2, 2, 3, 3, None]
    assert leveled._fingerprint not in (before._fingerprint, after._fingerprint)


def test_a_parquet_file_keeps_its_columns_types_and_notes(tmp_path: Path) -> None:
    source, scores, levels = graded(tmp_path, "parquet")
    output = tmp_path / "out.parquet"
    select_pairs(source, scores, output, SelectionRules(min_level=3), levels=levels)
    assert pq.read_schema(output) == pq.read_schema(source.files[0])
    select_pairs(source, scores, output, SelectionRules(min_level=3), levels=levels, write_levels=True)
    assert str(pq.read_schema(output).field("alignment_level").type) == "int8"


def test_the_level_in_official_files_is_written_anew_with_ours(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(json.dumps([llava("a", similarity=6), llava("b", alignment_level=1)]))
    source = open_source(tmp_path / "pairs.json")
    scores, levels = grade(tmp_path, source, [0.1, 0.2], num_levels=2)
    select_pairs(source, scores, tmp_path / "out.json", SelectionRules(), levels=levels, write_levels=True)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found == [llava("a", similarity=0, alignment_level=1), llava("b", alignment_level=2)]


def test_ids_in_the_json_of_a_sample_are_changed_with_its_name(tmp_path: Path) -> None:
    fields = json.dumps({"id": "x", "caption": "A cat.", "more": [1]}).encode()
    write_tar(tmp_path / "a.tar", [("0001", {"png": encoded(0), "json": fields})])
    source = open_source(tmp_path / "a.tar")
    scores, levels = grade(tmp_path, source, [0.1], num_levels=2)
    rules = SelectionRules(weights={2: 2})
    select_pairs(source, scores, tmp_path / "out.tar.gz", rules, levels=levels)
    found = records(open_source(tmp_path / "out.tar.gz"))
    assert [(record.id, record.raw["__key__"]) for record in found] == [("x", "0001"), ("x~2", "0001~2")]
    assert json.loads(found[1].raw["json"]) == {"id": "x~2", "caption": "A cat.", "more": [1]}
    first = (tmp_path / "out.tar.gz").read_bytes()
    select_pairs(source, scores, tmp_path / "out.tar.gz", rules, levels=levels)
    assert (tmp_path / "out.tar.gz").read_bytes() == first


# -------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (SelectionRules(), range(12)),
        (SelectionRules(min_level=3), [0, 1, 2, 9, 10]),
        (SelectionRules(max_level=2), range(3, 9)),
        (SelectionRules(min_level=2, max_level=3), [2, *range(6, 11)]),
        (SelectionRules(min_score=0.13), [0, 1, 2, *range(5, 11)]),
        (SelectionRules(max_score=0.21), [3, 4, 5, 6]),
        (SelectionRules(min_score=0.13, max_score=0.41, min_level=2), [0, 2, *range(6, 11)]),
        (SelectionRules(drop_defects=(Defect("error"),)), range(11)),
        (SelectionRules(drop_defects=(Defect("truncated_caption"), Defect("mismatch", 20))), [0, 1, 2, *range(5, 10)]),
        (SelectionRules(only_defects=(Defect("truncated_caption"), Defect("mismatch", 20))), [3, 4, 10, 11]),
        (SelectionRules(only_defects=(Defect("mismatch", 20),), drop_defects=(Defect("boundary", 0.095),)), [3]),
    ],
)
def test_a_record_is_kept_if_it_passes_every_rule(tmp_path: Path, rules: SelectionRules, kept: Any) -> None:
    source, scores, levels = graded(tmp_path, text_truncated=[False] * 10 + [True] * 2)
    summary = select_pairs(source, scores, tmp_path / "out.jsonl", rules, levels=levels)
    assert ids(tmp_path / "out.jsonl") == [f"p{place}" for place in kept]
    assert summary.kept + sum(summary.dropped.values()) == summary.read == 12


def test_every_dropped_record_counts_for_the_first_rule_it_fails(tmp_path: Path) -> None:
    source, scores, levels = graded(tmp_path)
    rules = SelectionRules(drop_defects=(Defect("mismatch", 10),), min_level=2, min_score=0.22)
    summary = select_pairs(source, scores, tmp_path / "out.jsonl", rules, levels=levels)
    assert summary.dropped == {"level below 2": 2, "mismatch:10": 1, "no level": 1, "score below 0.22": 1}


def test_a_score_is_not_below_the_number_it_was_printed_as(tmp_path: Path) -> None:
    source, scores, _ = graded(tmp_path, scores=[0.7, 0.1, 0.69999])
    select_pairs(source, scores, tmp_path / "out.jsonl", SelectionRules(min_score=0.7))
    assert ids(tmp_path / "out.jsonl") == ["p0"], "0.7 as float32 is less than 0.7"


def drawn(folder: Path, names: list[str], weight: float, seed: int = 0) -> list[str]:
    """The ids that are left of pairs of one level at a weight."""
    source = make_source(folder / "source", "json_lines", names)
    scores, levels = grade(folder, source, [0.1] * len(names))
    select_pairs(source, scores, folder / "o.jsonl", SelectionRules(weights={4: weight}, seed=seed), levels=levels)
    return ids(folder / "o.jsonl")


def test_the_draw_depends_on_seed_and_id_alone(tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(2000)]
    few = drawn(tmp_path / "a", names, 0.2)
    assert abs(len(few) - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8)
    assert set(drawn(tmp_path / "b", names[::-1], 0.2)) == set(few)
    assert drawn(tmp_path / "c", names[:700], 0.2) == few[: sum(int(name[1:]) < 700 for name in few)]
    assert set(few) < set(drawn(tmp_path / "d", names, 0.5))
    other = drawn(tmp_path / "e", names, 0.2, seed=1)
    assert 0 < len(set(few) & set(other)) < 150
    repeated = drawn(tmp_path / "f", names, 2.2)
    assert {name.removesuffix("~3") for name in repeated if name.endswith("~3")} == set(few)
    assert len(repeated) == len(set(repeated)) == 4000 + len(few)


def test_samples_of_one_name_in_several_tars_are_told_apart(tmp_path: Path) -> None:
    names = [f"{number:03d}" for number in range(300)]
    for tar in ("0.tar", "1.tar"):
        (tmp_path / "in").mkdir(exist_ok=True)
        write_tar(tmp_path / "in" / tar, [(name, {"png": encoded(0), "txt": b"A cat."}) for name in names])
    source = open_source(tmp_path / "in")
    scores, levels = grade(tmp_path, source, [0.1] * 600)
    rules = SelectionRules(weights={4: 0.5})
    select_pairs(source, scores, tmp_path / "out", rules, levels=levels)
    drawn = [set(ids(tmp_path / "out" / tar)) for tar in ("0.tar", "1.tar")]
    assert all(100 < len(names) < 200 for names in drawn) and 40 < len(drawn[0] & drawn[1]) < 110
    with pytest.raises(ValueError, match=r"sample 000 is in several of the tars, .*: name a folder as output"):
        select_pairs(source, scores, tmp_path / "out.tar", SelectionRules())
    assert not (tmp_path / "out.tar").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_level": 0}, "levels count from 1, got 0"),
        ({"keep_levels": (3, -1)}, "got -1"),
        ({"weights": {0: 1.0}}, "levels count from 1, got 0"),
        ({"weights": {1: -0.5}}, "the weight of level 1 must be a number from 0, got -0.5"),
        ({"weights": {1: float("inf")}}, "must be a number from 0"),
        ({"min_level": 3, "max_level": 2}, "no level is at least 3 and at most 2"),
        ({"min_score": 0.3, "max_score": 0.2}, "no score is at least 0.3 and at most 0.2"),
        ({"min_score": float("nan")}, "min_score must be a number, got nan"),
    ],
)
def test_impossible_rules_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionRules(**fields)


# ------------------------------------------------------------------------------------------------- what is not accepted


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    source, scores, levels = graded(tmp_path)
    output = tmp_path / "out.jsonl"
    other = make_source(tmp_path / "other", "json_lines", NAMES[::-1])
    with pytest.raises(ValueError, match=r"other/pairs\.jsonl does not hold the pairs that .*scores holds scores of"):
        select_pairs(other, scores, output, SelectionRules())
    again, _ = grade(tmp_path / "again", source, [0.5] * 12)
    with pytest.raises(ValueError, match="levels holds levels of other scores than those in"):
        select_pairs(source, again, output, SelectionRules(), levels=levels)
    with pytest.raises(ValueError, match="need the folder of levels"):
        select_pairs(source, scores, output, SelectionRules(min_level=2))
    with pytest.raises(ValueError, match="there are 4 levels, got a rule on level 5"):
        select_pairs(source, scores, output, SelectionRules(weights={5: 1}), levels=levels)
    with pytest.raises(ValueError, match=r"expected a \.jsonl file or a \.ndjson file, for .* is json_lines"):
        select_pairs(source, scores, tmp_path / "out.json", SelectionRules())
    with pytest.raises(ValueError, match=r"none of its 12 records is left \(score below 0\.9: 11; no score: 1\)"):
        select_pairs(source, scores, output, SelectionRules(min_score=0.9))
    assert not output.exists()


def test_rows_that_are_not_those_of_the_pairs_are_noticed(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", "json_lines")
    for name, cut in (("short", 11), ("renamed", 12)):
        scores = write_scores(tmp_path / name, source, {"clip_score": SCORES})
        table = pq.read_table(scores / "part-00000.parquet").slice(0, cut)
        table = table.set_column(0, "id", [[*table["id"].to_pylist()[:-1], "p10" if cut == 11 else "x"]])
        pq.write_table(table, scores / "part-00000.parquet")
        with pytest.raises(ValueError, match="does not hold the pairs"):
            select_pairs(source, scores, tmp_path / "out.jsonl", SelectionRules())
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
        select_pairs(changed, scores, tmp_path / "out", SelectionRules())


def test_nothing_but_an_earlier_selection_is_replaced(tmp_path: Path) -> None:
    source, scores, levels = graded(tmp_path, "webdataset")
    with pytest.raises(ValueError, match="holds the pairs that are read"):
        select_pairs(source, scores, Path(source.path), SelectionRules())
    with pytest.raises(ValueError, match="holds the pairs that are read"):
        select_pairs(source, scores, tmp_path, SelectionRules())
    for name in ("new", "new.tar"):
        with pytest.raises(ValueError, match="lies in the folder that is read, of which it would become a part"):
            select_pairs(source, scores, Path(source.path) / name, SelectionRules())
    with pytest.raises(ValueError, match="exists and is no selection"):
        select_pairs(source, scores, levels, SelectionRules())
    (tmp_path / "out").mkdir()
    select_pairs(source, scores, tmp_path / "out", SelectionRules())
    select_pairs(source, scores, tmp_path / "out", SelectionRules(min_score=0.4))
    assert ids(tmp_path / "out") == ["p0", "p1"]


def test_a_selection_that_fails_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in FORMATS:
        source, scores, _ = graded(tmp_path / kind, kind)
        output = tmp_path / kind / OUTPUTS[kind]
        select_pairs(source, scores, output, SelectionRules(min_score=0.4))
        before = sorted(path.name for path in output.parent.iterdir())
        with monkeypatch.context() as patch:
            patch.setattr(select, "can_be_written", lambda source, record: 1 // (record.id != "p8"))
            with pytest.raises(ZeroDivisionError):
                select_pairs(source, scores, output, SelectionRules())
        assert ids(output) == ["p0", "p1"]
        assert sorted(path.name for path in output.parent.iterdir()) == before


def test_ids_like_those_of_copies_are_not_copied_again(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", "json_lines", ["a", "a~2"])
    scores, levels = grade(tmp_path, source, [0.1, 0.1])
    output = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="id a~2 ends as that of a copy does"):
        select_pairs(source, scores, output, SelectionRules(weights={4: 2}), levels=levels)
    select_pairs(source, scores, output, SelectionRules(weights={4: 1}), levels=levels)
    assert ids(output) == ["a", "a~2"]


def test_ids_that_are_numbers_cannot_be_copied_in_a_table(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2], "image": ["1.png", "2.png"], "caption": ["One.", "Two."]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    source = open_source(tmp_path / "pairs.parquet")
    scores, levels = grade(tmp_path, source, [0.1, 0.2], num_levels=2)
    with pytest.raises(ValueError, match="column id holds int64, and a second copy needs an id of text"):
        select_pairs(source, scores, tmp_path / "out.parquet", SelectionRules(weights={2: 2}), levels=levels)
    select_pairs(source, scores, tmp_path / "out.parquet", SelectionRules(min_level=2), levels=levels)
    assert ids(tmp_path / "out.parquet") == ["2"]


# ---------------------------------------------------------------------------------------------------------- bad records


def test_bad_records_stay_unless_they_are_lost_or_dropped(tmp_path: Path) -> None:
    lines = [json.dumps(llava("a")), "{broken", json.dumps({"id": "c"}), json.dumps(llava("a")), json.dumps(llava("e"))]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path / "pairs.jsonl")
    scores, levels = grade(tmp_path, source, [0.1, None, None, None, 0.2], num_levels=2)
    summary = select_pairs(source, scores, tmp_path / "out.jsonl", SelectionRules())
    assert summary.dropped == {"lost in a damaged file": 1}
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == [llava("a"), {"id": "c"}, llava("a"), llava("e")]
    select_pairs(source, scores, tmp_path / "good.jsonl", SelectionRules(min_level=1), levels=levels)
    assert ids(tmp_path / "good.jsonl") == ["a", "e"], "the second a has no level"


def test_missing_and_damaged_tars_lose_their_samples_alone(tmp_path: Path) -> None:
    samples = [(name, {"png": encoded(0), "txt": b"A cat."}) for name in ("a", "b", "c")]
    for name in ("00", "02"):
        write_tar(tmp_path / f"{name}.tar", samples)
    cut = (tmp_path / "02.tar").read_bytes()
    with tarfile.open(tmp_path / "02.tar") as tar:
        end = tar.getmember("c.png").offset_data + 20
    (tmp_path / "02.tar").write_bytes(cut[:end])
    source = open_source(f"{tmp_path}/{{00..02}}.tar")
    errors = [record.error for record in records(source)]
    scores = write_scores(tmp_path / "scores", source, {"clip_score": [None if error else 0.1 for error in errors]})
    summary = select_pairs(source, scores, tmp_path / "out", SelectionRules())
    assert summary.kept == 5
    assert summary.dropped == {"lost in a damaged file": len(errors) - 5}
    assert ids(tmp_path / "out") == ["a", "b", "c", "a", "b"]


# -------------------------------------------------------------------------------------------------------- the command


def run(*arguments: object) -> Result:
    """Run `aligngpt select`."""
    return CliRunner().invoke(cli, ["select", *map(str, arguments)], prog_name="aligngpt")


def test_the_command_selects_and_says_what_it_did(tmp_path: Path) -> None:
    source, scores, levels = graded(tmp_path)
    output = tmp_path / "out.jsonl"
    common = ("--pairs", source.path, "--scores", scores, "--levels", levels, "--output", output)
    done = run(*common, "--min-level", 2, "--drop-defect", "error", "--drop-defect", "mismatch:50", "--weights", "4:2")
    assert done.exit_code == 0, done.output
    assert ids(output) == ["p0", "p0~2", "p1", "p1~2", "p2", "p8", "p9", "p10"]
    printed = [[part.strip() for part in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    for row in (["read", "12"], ["written, with copies", "8"], ["dropped: mismatch:50", "5"], ["4", "2", "4"]):
        assert row in printed, done.stdout
    result = json.loads(run(*common, "--keep-levels", "1,2", "--json").stdout)
    assert (result["kept"], result["written_by_level"]) == (6, [3, 3, 0, 0])
    assert read_levels(levels)["p0"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--min-level 2", "What concerns levels needs the folder of --levels"),
        ("--write-levels", "What concerns levels needs the folder of --levels"),
        ("--drop-defect boundary", "What concerns levels needs the folder of --levels"),
        ("--drop-defect blurred", "no defect 'blurred': expected one of error"),
        ("--weights 1:0.5,1:2", "expected one weight for a level, such as 1:0.2,8:2, got '1:0.5,1:2'"),
        ("--weights 1", "expected one weight for a level"),
        ("--keep-levels 3,x", "expected levels such as 3,4, got '3,x'"),
        ("--min-score 0.5 --max-score 0.1", "no score is at least 0.5 and at most 0.1"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path: Path, arguments: str, message: str) -> None:
    common = ("--pairs", "pairs.json", "--scores", tmp_path, "--output", tmp_path / "out.json")
    done = run(*common, *arguments.split())
    assert done.exit_code == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
