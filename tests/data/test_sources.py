"""Every format gives the same records, in order and in shards that can be read alone."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligngpt.data import duplicate_ids, records
from aligngpt.data import json_format as json_records
from aligngpt.data import table_format as tables
from aligngpt.data.duplicate_ids import DuplicateIds
from aligngpt.data.indexed import open_pairs
from aligngpt.data.sources import open_source
from tests.source_files import (
    COUNT,
    datasets_folder,
    errors,
    every_format,
    facts,
    llava,
    read,
    samples,
    turns,
    write_json,
    write_lines,
    write_parquet,
    write_tar,
)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of ten records, so that a small input has several."""
    for module in (json_records, tables):
        monkeypatch.setattr(module, "SHARD_SIZE", 10)


# All formats --------------------------------------------------------------------------------------------------------


def test_all_formats_give_the_same_records_in_order(tmp_path: Path) -> None:
    expected = [(f"p{number}", f"cäption {number}") for number in range(COUNT)]
    for kind, source in every_format(tmp_path).items():
        assert source.kind == kind
        assert facts(source) == expected
        if kind not in ("llava_json", "json_lines"):
            assert [record.data for record in read(source)] == [bytes([number]) * 700 for number in range(COUNT)]


def test_images_are_named_by_their_location(tmp_path: Path) -> None:
    named = {kind: [record.image for record in read(source)] for kind, source in every_format(tmp_path).items()}
    assert named["llava_json"][:2] == named["json_lines"][:2] == ["0.png", "1.png"]
    assert (named["parquet"][0], named["parquet"][13]) == ("a.parquet#0", "b.parquet#0")
    assert named["datasets"][13:15] == ["data-00001-of-00002.arrow#0", "data-00001-of-00002.arrow#1"]
    assert (named["webdataset"][0], named["webdataset"][13]) == ("00.tar#p0.jpg", "01.tar#p13.jpg")


def test_each_shard_can_be_read_alone_in_another_process(tmp_path: Path) -> None:
    for kind, source in every_format(tmp_path).items():
        shards = source.shards()
        assert len(shards) == {"llava_json": 3, "json_lines": 3, "parquet": 2, "datasets": 4, "webdataset": 2}[kind]
        assert [shard.number for shard in shards] == list(range(len(shards)))
        last = pickle.loads(pickle.dumps(shards[-1]))
        assert list(last.read()) == read(source)[-len(list(last.read())) :]
        if kind != "webdataset":
            assert [shard.size for shard in shards] == [len(list(shard.read())) for shard in shards]
        again = open_source(source.path).shards()
        assert [shard.name for shard in again] == [shard.name for shard in shards]


def test_different_inputs_have_different_fingerprints(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    before = {kind: source.fingerprint for kind, source in every_format(tmp_path / "one").items()}
    (tmp_path / "two").mkdir()
    again = every_format(tmp_path / "two")
    assert {kind: source.fingerprint for kind, source in again.items()} == before  # in any folder
    write_json(tmp_path / "two", [llava(number) for number in range(24)])
    write_lines(tmp_path / "two", [llava(number) for number in range(24)])
    changed = {"id": ["z"], "image": [b"1"], "caption": ["c"]}
    write_parquet(tmp_path / "two" / "parquet" / "b.parquet", changed)
    write_tar(tmp_path / "two" / "tars" / "01.tar", samples(range(13, 24)))
    (tmp_path / "two" / "set" / "data-00001-of-00002.arrow").write_bytes(b"")
    after = {kind: open_source(source.path).fingerprint for kind, source in again.items()}
    assert all(after[kind] != before[kind] for kind in before)


def test_a_parquet_file_of_the_same_size_has_another_fingerprint(tmp_path: Path) -> None:
    columns = {"id": ["a", "b"], "image": ["0.png", "1.png"], "caption": ["x", "y"]}
    path = write_parquet(tmp_path / "a.parquet", columns)
    size, before = path.stat().st_size, open_source(path).fingerprint
    write_parquet(path, columns | {"caption": ["x", "z"]})
    assert path.stat().st_size == size and open_source(path).fingerprint != before


def test_raw_is_the_record_as_the_file_holds_it(tmp_path: Path) -> None:
    sources = every_format(tmp_path)
    assert read(sources["llava_json"])[3].raw == llava(3)
    row = {"id": "p3", "image": {"bytes": bytes([3]) * 700, "path": None}, "caption": "cäption 3"}
    assert read(sources["parquet"])[3].raw == read(sources["datasets"])[3].raw == row
    sample = {"__key__": "p3", "jpg": bytes([3]) * 700, "txt": "cäption 3".encode()}
    assert read(sources["webdataset"])[3].raw == sample


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.json", r"gone\.json: no such file"),
        ("pairs.csv", r"pairs\.csv: expected \.json, .* got \.csv"),
        ("none/{0..3}.tar", r"none of its 4 files exists"),
        ("empty", r"empty: expected a folder of `datasets`, of \.parquet or of \.tar files"),
        ("pairs.jsonl.gz", r"pairs\.jsonl\.gz: expected \.json, .* got \.jsonl\.gz: decompress it first"),
        ("splits", r"splits has several splits \(train, test\); pass the folder of one of them"),
    ],
)
def test_invalid_inputs_are_errors_of_one_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "pairs.csv").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="nowhere: no such image folder"):
        open_source(write_json(tmp_path, []), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a.json"], ["a.json"]),
        (["/x/ab/1.tar", "/x/ac/2.tar"], ["ab/1.tar", "ac/2.tar"]),
        (["1.tar", "b/2.tar"], ["1.tar", "b/2.tar"]),
        (["file:///x/a/1.tar", "file:///x/a/2.tar"], ["1.tar", "2.tar"]),
        (["memory://1.tar"], ["1.tar"]),
        (["s3://bucket/1.tar", "s3://bucket/b/2.tar"], ["1.tar", "b/2.tar"]),
        (["s3://one/1.tar", "s3://two/1.tar"], ["one/1.tar", "two/1.tar"]),
        (["simplecache::s3://bucket/a/1.tar"], ["1.tar"]),
        (["zip://in/1.tar::file:///x/a.zip", "zip://in/2.tar::file:///x/a.zip"], ["1.tar", "2.tar"]),
    ],
)
def test_short_names_have_no_protocol_and_no_common_folder(paths: list[str], names: list[str]) -> None:
    assert records.short_names(paths) == names


def test_the_same_files_have_the_same_names_by_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, source in every_format(tmp_path).items():
        named = [source, open_source(f"file://{source.path}")]
        monkeypatch.chdir(tmp_path)
        named.append(open_source(Path(source.path).relative_to(tmp_path)))
        assert len({opened.fingerprint for opened in named}) == 1, kind
        assert [shard.name for shard in named[1].shards()] == [shard.name for shard in source.shards()]
        assert read(named[1]) == read(named[2]) == read(source)


def test_the_format_of_a_folder_follows_from_suffixes_in_any_case(tmp_path: Path) -> None:
    columns = {"image": ["a.png"], "caption": ["c"]}
    write_parquet(tmp_path / "p" / "A.PARQUET", columns)
    assert open_source(tmp_path / "p").kind == "parquet" and len(read(open_source(tmp_path / "p"))) == 1
    for number, (name, mode) in enumerate({"a.TAR": "w", "b.tar.gz": "w:gz", "c.tgz": "w:gz", "d.tar": "w"}.items()):
        write_tar(tmp_path / "t" / name, samples(range(number, number + 1)), mode)
    assert [record.image for record in read(open_source(tmp_path / "t"))] == [
        "a.TAR#p0.jpg",
        "b.tar.gz#p1.jpg",
        "c.tgz#p2.jpg",
        "d.tar#p3.jpg",
    ]
    write_parquet(tmp_path / "t" / "a.parquet", columns)
    with pytest.raises(ValueError, match=r"t has 1 Parquet files and 4 tars; pass a pattern for one kind"):
        open_source(tmp_path / "t")
    assert [record.id for record in read(open_source(f"{tmp_path}/t/*.tar*"))] == ["p1", "p3"]


def test_patterns_of_stars_and_letters(tmp_path: Path) -> None:
    import fsspec  # type: ignore[import-untyped]

    for number, name in enumerate("abc"):
        path = write_tar(tmp_path / f"{name}.tar", samples(range(number, number + 1)))
        fsspec.filesystem("memory").pipe(f"/stars/{name}.tar", path.read_bytes())
    for location in (
        f"{tmp_path}/{{a..c}}.tar",
        f"{tmp_path}/*.tar",
        "memory://stars/*.tar",
        "memory://stars/{a..c}.tar",
    ):
        result = read(open_source(location))
        assert [(record.id, record.image) for record in result] == [
            ("p0", "a.tar#p0.jpg"),
            ("p1", "b.tar#p1.jpg"),
            ("p2", "c.tar#p2.jpg"),
        ], location
    for pattern, message in (
        ("*.parquet", r"\*\.parquet: no file matches"),
        ("{a.tar,b.json}", r"expected .*, got \.json"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            open_source(f"{tmp_path}/{pattern}")


def test_a_file_on_the_web_is_not_fetched_to_determine_its_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec over HTTP: `isdir` reads the whole file to search it for links, `isfile` begins to."""

    class Web:
        protocol = ("http", "https")

        def size(self, location: str) -> int:
            if "gone" in location:
                raise FileNotFoundError(location)
            return 7

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda location: (Web(), location))
    source = open_source("https://some.where/a.tar")
    assert (source.kind, len(source.fingerprint)) == ("webdataset", 64)
    with pytest.raises(FileNotFoundError, match=r"gone\.tar: no such file"):
        open_source("https://some.where/gone.tar")


def test_absolute_paths_are_accepted_inside_the_image_folder(tmp_path: Path) -> None:
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    values = [
        {"image": f"{tmp_path}/link/in/a.png", "caption": "x"},
        llava(1, image=f"{tmp_path}/real/b.png"),
        {"image": f"{tmp_path}/real/../c.png", "caption": "x"},
        llava(3, image=f"{tmp_path}/real2/d.png"),
    ]
    path = write_lines(tmp_path, values)
    outside = "image path is absolute and not in the image folder"
    result = read(open_source(path, tmp_path / "link"))
    assert [record.image for record in result[:2]] == ["in/a.png", "b.png"]
    assert [record.error for record in result] == [None, None, outside, outside]
    reasons = "image path is absolute; it must be relative to the image folder"
    assert errors(open_source(path)) == [reasons] * 4


# JSON ---------------------------------------------------------------------------------------------------------------

DOCUMENTS: list[Any] = [
    [],
    [1, 23, -4.5e10, True, None, 'a,b]\\"\n', [], {}, [[1], {"a": "]"}]],
    [{"id": str(number), "text": "\U0001f408ä\u2028" * (number % 7)} for number in range(60)],
]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 1 << 22])
@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_streamed_array_equals_the_parsed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: Any, indent: int | None, block: int
) -> None:
    monkeypatch.setattr(json_records, "_BLOCK", block)
    for ascii_only, bom in ((True, b""), (False, b"\xef\xbb\xbf")):
        text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
        path = tmp_path / "a.json"
        path.write_bytes(bom + b" \n" + text.encode() + b"\n ")
        result = list(json_records.array_rows(str(path)))
        assert [value.value for value in result] == document
        for index in range(0, len(result), 7):  # reading can begin at any value
            rest = json_records.array_rows(str(path), result[index])
            assert [value.value for value in rest] == document[index:]


@pytest.mark.parametrize("block", [5, 1 << 22])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[\n{"id": "a"},\n{"id": "b",}\n]', r"a\.json:3:1[12]: broken JSON"),
        (b'[\n{"id": "a"}', r"a\.json:2:12: broken JSON: Expecting ',' delimiter"),
        (b'[{"id": "a"} {"id": "b"}]', r"a\.json:1:14: broken JSON: Expecting ',' delimiter"),
        (b"[1,]", r"a\.json:1:4: broken JSON: Expecting value"),
        (b"[1] 2", r"a\.json:1:5: broken JSON: Extra data"),
        (b"", r"a\.json:1:1: expected a JSON array of records"),
        (b'["\n\xff"]', r"a\.json:2:1: not UTF-8"),
        (b'\xef\xbb\xbf["\xc3\xa4", x]', r"a\.json:1:7: broken JSON"),
        (b'{"id": "a"}', r"a\.json:1:1: expected a JSON array of records"),
        (b'["a",\n' + b"1" * 5000 + b"]", r"a\.json:2:1: a number has too many digits"),
        (b"[" * 100_000, r"a\.json:1:\d+: (JSON is nested too deeply|broken JSON)"),
    ],
)
def test_a_broken_array_is_an_error_that_names_line_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str, block: int
) -> None:
    monkeypatch.setattr(json_records, "_BLOCK", block)
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "a.json").shards()


def test_a_broken_file_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "_BLOCK", 16)
    monkeypatch.setattr(json_records, "_MAX_RECORD", 1000)
    (tmp_path / "a.json").write_text('[{"a": 1}, {"b": "' + "x" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json:1:12: broken JSON, or a record of over"):
        open_source(tmp_path / "a.json").shards()


def test_bad_records_of_json_keep_their_positions(tmp_path: Path) -> None:
    values = [
        llava(0),
        llava(1, id=""),
        "text",
        llava(3, image="/3.png"),
        llava(0),
        llava(5, conversations=turns(None)),
    ]
    for path in (write_json(tmp_path, values), write_lines(tmp_path, values)):
        result = read(open_source(path))
        assert [record.error for record in result] == [
            None,
            "id is missing",
            "expected an object, got a string",
            "image path is absolute; it must be relative to the image folder",
            "duplicate id, also that of record 0",
            "turn 2 has no value",
        ]
        assert [record.id for record in result] == ["p0", "#1", "#2", "p3", "p0", "p5"]
        assert [record.index for record in result] == list(range(6))
    with (tmp_path / "pairs.jsonl").open("ab") as file:
        file.write(b'{"id": \n\n\xff\n' + json.dumps(llava(9)).encode() + b'\n{"id": ' + b"1" * 5000 + b"}")
    result = read(open_source(tmp_path / "pairs.jsonl"))
    assert [record.index for record in result[6:]] == [6, 7, 8, 9]
    assert result[9].error == "a number has too many digits"
    assert result[6].error is not None and result[6].error.startswith("broken JSON")
    assert (result[7].error, result[8].id) == ("not UTF-8 text", "p9")


def test_plain_fields_are_read_like_conversations(tmp_path: Path) -> None:
    values = [
        {"id": 7, "image": "a.png", "caption": "x"},
        {"file_name": "b.png", "text": "y"},
        {"id": "c", "image": "c.png", "caption": None},
        {"id": "d", "image": "d.png", "caption": " "},
        {"id": "e", "image": "e.png", "caption": 3},
        {"id": "f", "image": None, "caption": "x"},
        {"id": "g", "image": "../g.png", "caption": "x"},
        {"id": "h", "image": "h.png", "caption": "\ud83d"},
        {"id": True, "image": "i.png", "caption": "x"},
        {"id": "j", "image": "j.png"},
    ]
    result = read(open_source(write_lines(tmp_path, values)))
    assert [(record.id, record.image, record.caption) for record in result[:2]] == [
        ("7", "a.png", "x"),
        ("#1", "b.png", "y"),
    ]
    assert [record.error for record in result[2:]] == [
        "caption is missing (null)",
        "empty caption",
        "caption must be a string, got int",
        "image is missing",
        "image path leaves the image folder",
        "the caption holds an unpaired surrogate, which is not a character",
        "id must be a string or an integer, got a boolean",
        "conversations is missing",
    ]


def test_fields_can_be_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path, [{"n": 1, "pic": "a.png", "alt": "x", "caption": "not this", "id": "nor this"}])
    source = open_source(path, image_column="pic", caption_column="alt", id_column="n")
    assert [(record.id, record.image, record.caption) for record in read(source)] == [("1", "a.png", "x")]


# Ids ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [1 << 20, 7])
def test_duplicate_ids_are_found_in_memory_and_on_disk(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(duplicate_ids, "_IDS_IN_MEMORY", in_memory)
    rng = random.Random(0)
    names = [str(rng.randrange(150)) for _ in range(300)]
    ids, expected = DuplicateIds(), []
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        ids.add(name, 3 * index)
        if name in seen:
            expected.append((3 * index, seen[name]))
        seen.setdefault(name, 3 * index)
    later, first = ids.find()
    assert list(zip(later.tolist(), first.tolist(), strict=True)) == expected
    assert [array.tolist() for array in DuplicateIds().find()] == [[], []]


def test_duplicates_are_found_across_shards_and_files(tmp_path: Path) -> None:
    numbers = [*range(22), 4, 21]
    columns = {"id": [f"p{n}" for n in numbers], "image": ["a.png"] * 24, "caption": ["c"] * 24}
    write_parquet(tmp_path / "many" / "a.parquet", {name: column[:12] for name, column in columns.items()})
    write_parquet(tmp_path / "many" / "b.parquet", {name: column[12:] for name, column in columns.items()})
    paths = [
        write_json(tmp_path, [llava(n) for n in numbers]),
        write_lines(tmp_path, [llava(n) for n in numbers]),
        write_parquet(tmp_path / "one.parquet", columns, row_group_size=5),
        tmp_path / "many",
        datasets_folder(tmp_path / "set", pa.table(columns), 3),
    ]
    reasons = ["duplicate id, also that of record 4", "duplicate id, also that of record 21"]
    for location in paths:
        assert errors(open_source(location)) == [None] * 22 + reasons, location


def test_the_first_record_with_an_id_keeps_it_in_every_format(tmp_path: Path) -> None:
    """Also if that record is bad, which in a table only reading all columns can determine."""
    rows = [
        {"id": "a", "image": "a.png", "caption": None},
        {"id": "a", "image": "a.png", "caption": "x"},
        {"id": None, "image": "a.png", "caption": "x"},
        {"id": None, "image": "a.png", "caption": "x"},
        {"id": "", "image": "a.png", "caption": "x"},
        {"id": "", "image": "a.png", "caption": "x"},
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet")
    json_places = (write_json(tmp_path, rows), write_lines(tmp_path, rows))
    for location in (*json_places, tmp_path / "a.parquet", datasets_folder(tmp_path / "set", table)):
        result = read(open_source(location))
        reasons = [
            "caption is missing (null)",
            "duplicate id, also that of record 0",
            None,
            None,
            "id is missing",
            "id is missing",
        ]
        assert [record.error for record in result] == reasons, location
        assert [record.id for record in result] == ["a", "a", "#2", "#3", "#4", "#5"]
    members = {"a.jpg": b"1", "b.jpg": b"1", "b.txt": b"x", "c/a.jpg": b"1"} | {"a.txt": b"x", "a.png": b"1"}
    reasons = errors(open_source(write_tar(tmp_path / "a.tar", members)))
    assert reasons[3] == "duplicate id, also that of record 0" and (reasons[0] or "").startswith("caption is missing")


def test_a_record_without_an_id_is_named_by_its_index(tmp_path: Path) -> None:
    values = [llava(0, id=None), {"image": "1.png", "caption": "x"}, {"image": "2.png", "conversations": turns("y")}]
    path = write_lines(tmp_path, values)
    assert [pair.id for pair in open_pairs(open_source(path, tmp_path))] == ["#0", "#1", "#2"]
    assert [(record.id, record.error) for record in read(open_source(path))] == [(f"#{n}", None) for n in range(3)]


def test_streaming_and_the_index_read_the_same_photos(photos: Path) -> None:
    result = read(open_source(photos / "pairs.json", photos / "images"))
    expected = open_pairs(open_source(photos / "pairs.json", photos / "images"))
    assert [(record.id, record.image, record.caption) for record in result] == [
        (record.id, record.image, record.caption) for record in expected
    ]


def test_the_fingerprint_covers_small_files_and_pieces_of_large_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 40

    def fingerprint(index: int | None) -> str:
        changed = bytearray(content)
        if index is not None:
            changed[index] ^= 1
        (tmp_path / "a.tar").write_bytes(changed)
        return open_source(tmp_path / "a.tar").fingerprint

    whole = fingerprint(None)
    assert whole not in {fingerprint(index) for index in (0, 5_000, len(content) - 1)}
    monkeypatch.setattr("aligngpt.data.sources._WHOLE", 100)
    monkeypatch.setattr("aligngpt.data.sources._PIECE", 16)
    pieces = fingerprint(None)
    assert pieces not in {fingerprint(0), fingerprint(len(content) - 1), fingerprint((len(content) - 16) // 7 + 3)}
    assert pieces == fingerprint(100)


@pytest.mark.parametrize("name", ["{a}", "*", "x{1..3}", "[x]*{a,b}"])
def test_an_existing_file_is_not_a_pattern(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / f"{name}.tar", samples(range(2)))
    write_tar(tmp_path / "other.tar", samples(range(5)))
    source = open_source(tmp_path / f"{name}.tar")
    assert facts(source) == [("p0", "cäption 0"), ("p1", "cäption 1")]
    assert [pair.id for pair in open_pairs(source)] == ["p0", "p1"]
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps([llava(0)]))
    assert [pair.id for pair in open_pairs(open_source(path, tmp_path))] == ["p0"]
    write_parquet(tmp_path / f"{name}.parquet", {"image": [b"x"], "caption": ["y"]})
    assert open_pairs(open_source(tmp_path / f"{name}.parquet"))[0].caption == "y"
    assert open_source(tmp_path / f"{name}.parquet").fingerprint


@pytest.mark.parametrize("option", ["image_column", "caption_column", "id_column"])
def test_a_column_that_no_record_has_is_an_error_in_every_format(tmp_path: Path, option: str) -> None:
    plain = {"id": "a", "image": "0.png", "caption": "x"}
    table = pa.table({name: [value] for name, value in plain.items()})
    paths = [
        write_json(tmp_path, [plain]),
        write_lines(tmp_path, [plain]),
        write_parquet(tmp_path / "a.parquet", table),
        datasets_folder(tmp_path / "set", table, 1),
    ]
    name = option.removesuffix("_column")
    for path in paths:
        message = rf"expected a column of {name}s \(wrong\), got the columns id, image, caption: .* --{name}-column"
        with pytest.raises(ValueError, match=message):
            open_source(path, tmp_path, **{option: "wrong"}).shards()
    mixed = write_lines(tmp_path, [plain, plain | {"id": "b", "wrong": "z"}])  # some record has it
    assert len(read(open_source(mixed, tmp_path, **{option: "wrong"}))) == 2
