"""Parquet files and folders of `datasets`: rows, images, and invalid tables."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligngpt.data import json_format as json_records
from aligngpt.data import table_format as tables
from aligngpt.data.sources import open_source
from tests.source_files import (
    datasets_folder,
    facts,
    read,
    turns,
    write_parquet,
)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of ten records, so that a small input has several."""
    for module in (json_records, tables):
        monkeypatch.setattr(module, "SHARD_SIZE", 10)


def test_parquet_shards_are_row_groups_of_a_file(tmp_path: Path) -> None:
    columns = {"id": list(range(40)), "image": ["a.png"] * 40, "caption": ["c"] * 40}
    path = write_parquet(tmp_path / "a.parquet", columns, row_group_size=7)
    assert [shard.name for shard in open_source(path).shards()] == [
        "a.parquet[0:14]",
        "a.parquet[14:28]",
        "a.parquet[28:40]",
    ]
    write_parquet(path, columns)
    assert [shard.size for shard in open_source(path).shards()] == [40]  # a row group is not divided


def test_tables_have_images_as_bytes_paths_or_both(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": b"1", "path": "x.png"}, {"bytes": None, "path": "x.png"}, None]
    table = {"image": pa.array(cells, kind), "text": ["a", "b", "c"]}
    result = read(open_source(write_parquet(tmp_path / "a.parquet", table)))
    assert [(record.image, record.data) for record in result] == [("a.parquet#0", b"1"), ("x.png", None), (None, None)]
    assert [record.id for record in result] == ["#0", "#1", "#2"] and result[2].error == "image is missing"
    binary = read(open_source(write_parquet(tmp_path / "b.parquet", {"image": [b"1"], "text": ["a"], "key": [5]})))
    assert [(record.id, record.image, record.data) for record in binary] == [("5", "b.parquet#0", b"1")]
    turned = {"id": ["a"], "image": ["x.png"], "conversations": [turns("y")]}
    assert facts(open_source(write_parquet(tmp_path / "c.parquet", turned))) == [("a", "y")]


@pytest.mark.parametrize("format", ["parquet", "datasets"])
def test_a_table_without_the_columns_is_an_error_of_one_line(tmp_path: Path, format: str) -> None:
    table = pa.table({"url": ["x"], "alt": ["y"]})
    location = tmp_path / "a.parquet" if format == "parquet" else tmp_path / "set"
    pq.write_table(table, location) if format == "parquet" else datasets_folder(location, table, 1)
    with pytest.raises(ValueError) as caught:
        open_source(location).shards()
    message = str(caught.value)
    assert message.endswith(
        ": expected a column of images (image or image_path or file_name) and a column of captions (conversations or "
        "caption or text), got the columns url, alt: name it with --image-column and --caption-column"
    )
    result = open_source(location, image_column="url", caption_column="alt")
    assert [(record.image, record.caption) for record in read(result)] == [("x", "y")]
    with pytest.raises(ValueError, match=r"a column of ids \(n\), got .* --id-column"):
        open_source(location, image_column="url", caption_column="alt", id_column="n").shards()


def test_a_file_that_is_not_parquet_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"/a\.parquet: not a readable Parquet file"):
        open_source(tmp_path / "a.parquet").shards()


COLUMNS = {"id": list("abcdefghij"), "image": ["a.png"] * 10, "caption": [f"caption {n}" for n in range(10)]}


def test_one_bad_file_of_several_is_one_bad_record(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path / "in" / "0.parquet", COLUMNS).read_bytes()
    (tmp_path / "in" / "1.parquet").write_bytes(whole[:-100])
    (tmp_path / "in" / "2.parquet").touch()
    write_parquet(tmp_path / "in" / "3.parquet", {"url": ["x"], "alt": ["y"]})
    write_parquet(tmp_path / "in" / "4.parquet", COLUMNS | {"id": [*"klmnopqrs", "c"]})
    result = read(open_source(tmp_path / "in"))
    assert [record.id for record in result if record.error is None] == [*"abcdefghij", *"klmnopqrs"]
    bad = {record.image: record.error or "" for record in result if record.error is not None}
    assert list(bad) == ["1.parquet", "2.parquet", "3.parquet", "a.png"]
    assert bad["1.parquet"].startswith("shard cannot be read: not a readable Parquet file: ")
    assert bad["2.parquet"].startswith("shard cannot be read: not a readable Parquet file: ")
    assert bad["3.parquet"].startswith("shard cannot be read: expected a column of images")
    assert bad["a.png"] == "duplicate id, also that of record 2"
    assert [shard.size for shard in open_source(tmp_path / "in").shards()] == [10, 1, 1, 1, 10]
    for name in ("0.parquet", "4.parquet"):
        (tmp_path / "in" / name).unlink()
    with pytest.raises(ValueError, match=r"in/1\.parquet: not a readable Parquet file") as caught:
        open_source(tmp_path / "in").shards()
    assert "\n" not in str(caught.value)


def test_unreadable_ids_affect_only_their_row_group(tmp_path: Path) -> None:
    columns = {"id": [f"name {n}" for n in range(40)], "image": ["a.png"] * 40, "caption": ["c"] * 40}
    columns["id"][35] = "name 5"
    path = write_parquet(tmp_path / "a.parquet", columns, row_group_size=10, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    offset = content.index(b"name 10")
    content[offset - 4 : offset] = b"\xff\xff\xff\x7f"  # the length of that text
    path.write_bytes(content)
    result = read(open_source(path))
    assert len([record for record in result if record.error is None]) == 29
    assert [record.error for record in result if record.error is not None and "damaged" not in record.error] == [
        "duplicate id, also that of record 5"
    ]
    assert sum("cannot be read: damaged" in (record.error or "") for record in result) == 1


def test_bad_files_of_a_datasets_folder_are_bad_records(tmp_path: Path) -> None:
    many = {name: column * 4 for name, column in COLUMNS.items()}
    many["id"] = [str(number) for number in range(40)]
    folder = datasets_folder(tmp_path / "set", pa.table(many), 4)
    first, second, third, _ = sorted(folder.glob("*.arrow"))
    first.write_bytes(first.read_bytes()[:-200])
    second.write_bytes(b"")
    third.unlink()
    result = read(open_source(folder))
    good = [record.id for record in result if record.error is None]
    assert good[-10:] == [str(number) for number in range(30, 40)] and 0 < len(good) - 10 < 10
    assert [(record.image or "").partition("-of")[0] for record in result if record.error is not None] == [
        "data-00000",
        "data-00001",
        "data-00002",
    ]
    assert all("cannot be read: " in record.error for record in result if record.error is not None)


def test_a_remote_datasets_folder_is_an_error_of_one_line(tmp_path: Path) -> None:
    import fsspec  # type: ignore[import-untyped]

    folder = datasets_folder(tmp_path / "set", pa.table(COLUMNS), 1)
    for path in folder.iterdir():
        fsspec.filesystem("memory").pipe(f"/set/{path.name}", path.read_bytes())
    with pytest.raises(ValueError, match=r"memory://set: a `datasets` folder has to be on this machine"):
        open_source("memory://set")
    assert len(read(open_source(f"file://{folder}"))) == 10


@pytest.mark.parametrize("format", ["parquet", "datasets"])
def test_scoring_reads_needed_columns_and_filtering_all(tmp_path: Path, format: str) -> None:
    table = pa.table(COLUMNS | {"alignment_level": [1] * 10, "vector": [[0.5] * 8] * 10})
    location = tmp_path / "a.parquet" if format == "parquet" else tmp_path / "set"
    pq.write_table(table, location) if format == "parquet" else datasets_folder(location, table, 1)
    (shard,) = open_source(location).shards()
    assert [list(record.raw) for record in shard.read()] == [["id", "image", "caption", "alignment_level"]] * 10
    assert [record.raw for record in shard.read(whole=True)] == table.to_pylist()
    turned = pa.table({"image": ["a.png"], "similarity": [99], "n": [1], "conversations": [turns("x")]})
    pq.write_table(turned, tmp_path / "b.parquet")
    (record,) = read(open_source(tmp_path / "b.parquet"))
    assert list(record.raw) == ["image", "similarity", "conversations"]
    assert record.error == "similarity must be from 0 to 63, got 99"


def test_a_damaged_row_group_ends_only_its_shard(tmp_path: Path) -> None:
    columns = {
        "id": [str(n) for n in range(40)],
        "image": ["a.png"] * 40,
        "caption": [f"caption {n}" for n in range(40)],
    }
    path = write_parquet(tmp_path / "a.parquet", columns, row_group_size=10, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    offset = content.index(b"caption 10")
    content[offset - 4 : offset] = b"\xff\xff\xff\x7f"  # the length of that text
    path.write_bytes(content)
    shards = open_source(path).shards()
    assert [len(list(shard.read())) for shard in shards if shard.number != 1] == [10, 10, 10]
    last = list(shards[1].read())[-1]
    assert last.error is not None and "cannot be read: damaged" in last.error and last.image == "a.parquet[10:20]"


def test_a_folder_that_datasets_wrote_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    image = {"bytes": b"z", "path": "a.png"}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    made = datasets.Dataset.from_dict({"image": [image] * 5, "text": list("abcde")}, features=features)
    made.save_to_disk(tmp_path / "set", num_shards=2)
    result = read(open_source(tmp_path / "set"))
    assert [(record.caption, record.data) for record in result] == [(text, b"z") for text in "abcde"]
