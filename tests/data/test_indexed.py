"""Random access gives the records that streaming gives, in every format, here and in worker processes."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aligngpt.data import indexed as module
from aligngpt.data import table_format
from aligngpt.data.duplicate_ids import hash_id
from aligngpt.data.indexed import IndexedSource, open_conversations, open_pairs
from aligngpt.data.schema import RecordError, Turn, images_of
from aligngpt.data.sources import Source, open_source
from tests.image_files import make_image
from tests.source_files import (
    COUNT,
    datasets_folder,
    every_format,
    llava,
    read,
    samples,
    turns,
    write_json,
    write_lines,
    write_parquet,
    write_tar,
)

FORMATS = ("llava_json", "json_lines", "parquet", "datasets", "webdataset")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    folder = tmp_path_factory.mktemp("formats")
    return {kind: replace(source, images=folder) for kind, source in every_format(folder).items()}


def png(seed: int) -> bytes:
    content = io.BytesIO()
    make_image(seed).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_records_are_those_of_streaming_in_any_order(sources: dict[str, Source], kind: str) -> None:
    pairs = open_pairs(sources[kind])
    expected = read(sources[kind])
    assert (len(pairs), pairs.bad) == (COUNT, [])
    assert pairs.ids.tolist() == [hash_id(record.id) for record in expected]
    for index in random.Random(0).sample(range(COUNT), COUNT):
        pair, record = pairs[index], expected[index]
        assert (pair.id, pair.image, pair.caption) == (record.id, record.image, record.caption)
        assert pair.encoded == record.data
    assert pairs[-1] == pairs[COUNT - 1]


@pytest.mark.parametrize("kind", FORMATS)
def test_workers_read_what_this_process_reads(sources: dict[str, Source], kind: str) -> None:
    pairs = open_pairs(sources[kind])
    expected = list(pairs)  # the files are open when the process forks
    assert [list(pickle.loads(pickle.dumps(pairs)))] == [expected]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(pairs.__getitem__, range(COUNT), chunksize=3) == expected


def test_the_index_is_small(sources: dict[str, Source]) -> None:
    assert len(pickle.dumps(open_pairs(sources["json_lines"]))) < 1500 + COUNT * module._ENTRY.itemsize
    assert module._ENTRY.itemsize <= 41


def image_columns(encoded: list[bytes | None], paths: list[str | None]) -> dict[str, pa.Array]:
    """A column of images in each of the forms in which tables hold them."""
    struct = [
        None if data is None and path is None else {"bytes": data, "path": path}
        for data, path in zip(encoded, paths, strict=True)
    ]
    return {
        "binary": pa.array(encoded, pa.binary()),
        "struct": pa.array(struct, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "large": pa.array(encoded, pa.large_binary()),
    }


@pytest.mark.parametrize("form", ["binary", "struct", "large"])
@pytest.mark.parametrize("kind", ["parquet", "datasets"])
def test_conversations_of_tables_with_and_without_images(tmp_path: Path, kind: str, form: str) -> None:
    encoded = [png(0), None, png(2)]
    greeting = [{"from": "human", "value": "Hi"}, *turns("Hello")[1:]]
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "image": image_columns(encoded, ["x.png", None, None])[form],
            "conversations": [turns("A cat."), greeting, turns("A dog.")],
            "alignment_level": [3, None, 1],
        }
    )
    location = datasets_folder(tmp_path / "set", table) if kind == "datasets" else tmp_path / "a.parquet"
    if kind == "parquet":
        write_parquet(location, table, row_group_size=2)
    conversations = open_conversations(open_source(location))
    assert conversations.bad == [] and conversations.levels.tolist() == [3, 0, 1]
    assert conversations.lengths.tolist() == [3, -2, 3]
    assert [[data for _, data in images_of(record)] for record in conversations] == [[png(0)], [], [png(2)]]
    assert conversations[1].turns == (Turn("user", "Hi"), Turn("assistant", "Hello"))
    pairs = open_pairs(open_source(location))
    assert [pair.encoded for pair in pairs] == [png(0), png(2)]
    (bad,) = pairs.bad  # whether a binary value is null is not read
    assert bad.reason.startswith("a pair has one image" if form == "struct" else "0 <image> in the questions")


@pytest.mark.parametrize("kind", ["parquet", "datasets"])
@pytest.mark.parametrize("of", ["struct", "binary", "path"])
def test_several_images_of_one_row(tmp_path: Path, kind: str, of: str) -> None:
    listed: dict[str, tuple[Any, Any]] = {
        "struct": ([{"bytes": png(0), "path": None}, {"bytes": png(1), "path": None}], None),
        "binary": ([png(0), png(1)], None),
        "path": (["0.png", "1.png"], None),
    }
    question = [{"from": "human", "value": "<image><image>\nSame?"}, {"from": "gpt", "value": "No."}]
    rows = [llava(0, conversations=turns("x")), llava(1, conversations=question)]
    table = pa.table(
        {
            "images": [listed[of][0][:1], listed[of][0]],
            "conversations": [row["conversations"] for row in rows],
        }
    )
    location = datasets_folder(tmp_path / "set", table, 1) if kind == "datasets" else tmp_path / "a.parquet"
    if kind == "parquet":
        write_parquet(location, table)
    conversations = open_conversations(open_source(location, tmp_path))
    assert conversations.bad == []
    contents = [[name if data is None else data for name, data in images_of(record)] for record in conversations]
    assert contents == ([["0.png"], ["0.png", "1.png"]] if of == "path" else [[png(0)], [png(0), png(1)]])


def test_a_sample_of_a_tar_with_two_images_and_a_level(tmp_path: Path) -> None:
    question = [{"from": "human", "value": "<image><image>\nSame?"}, {"from": "gpt", "value": "No."}]
    members = {
        "a.0.png": png(0),
        "a.1.png": png(1),
        "a.json": json.dumps({"conversations": question, "id": "A"}).encode(),
        "b.json": json.dumps({"conversations": turns("x")}).encode(),
        "b.jpg": png(2),
        "b.alignment_level.txt": b"5",
    }
    conversations = open_conversations(open_source(write_tar(tmp_path / "a.tar", members)))
    assert conversations.bad == [] and conversations.levels.tolist() == [0, 5]
    assert [record.id for record in conversations] == ["A", "b"]
    assert [[data for _, data in images_of(record)] for record in conversations] == [[png(0), png(1)], [png(2)]]


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz"])
def test_compressed_tars_are_decompressed_once(tmp_path: Path, suffix: str) -> None:
    write_tar(tmp_path / f"a{suffix}", samples(range(4)), "w:gz")
    write_tar(tmp_path / "b.tar", samples(range(4, 6)))
    pairs = open_pairs(open_source(f"{tmp_path}/*.*"))
    assert [pair.id for pair in pickle.loads(pickle.dumps(pairs))] == [f"p{number}" for number in range(6)]
    assert pairs._scratch is not None
    folder = Path(pairs._scratch.name)
    assert [file.name for file in folder.iterdir()] == ["0.tar"]
    del pairs
    assert not folder.exists()


def test_a_tar_that_is_cut_short_gives_what_it_has(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(range(3)))
    path.write_bytes(path.read_bytes()[:-9000])
    pairs = open_pairs(open_source(path))
    streamed = [record for record in read(open_source(path)) if record.error is None]
    assert [pair.id for pair in pairs] == [record.id for record in streamed]
    assert len(pairs.bad) == len(read(open_source(path))) - len(streamed) > 0


def test_a_gzip_that_is_damaged_gives_what_could_be_decompressed(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", samples(range(5))).read_bytes()
    packed = gzip.compress(whole)
    (tmp_path / "a.tar.gz").write_bytes(packed[: len(packed) * 3 // 4])
    source = open_source(tmp_path / "a.tar.gz")
    good = [record.id for record in read(source) if record.error is None]
    assert [pair.id for pair in open_pairs(source)] == good and 0 < len(good) < 5


def test_absolute_paths_are_made_relative_or_named(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    records = [llava(0, image=f"{images}/a/0.png"), llava(1, image="/elsewhere/1.png")]
    pairs = open_pairs(open_source(write_json(tmp_path, records), images))
    assert [pair.image for pair in pairs] == ["a/0.png"]
    assert [(bad.id, bad.reason) for bad in pairs.bad] == [("p1", "image path is absolute and not in the image folder")]


def test_paths_without_an_image_folder_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has image paths such as 0\.png; pass --images"):
        open_pairs(open_source(write_json(tmp_path, [llava(0)])))


def test_a_file_that_changed_is_noticed(tmp_path: Path) -> None:
    path = write_lines(tmp_path, [llava(number) for number in range(3)])
    pairs = open_pairs(open_source(path, tmp_path))
    path.write_text("x" * 40)
    with pytest.raises(RecordError, match="broken JSON"):
        pairs[1]
    path.unlink()
    with pytest.raises(RecordError, match="was removed"):
        pickle.loads(pickle.dumps(pairs))[1]


def test_row_groups_are_cached_within_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"id": [f"p{n}" for n in range(40)], "image": [b"1" * 1000] * 40, "caption": ["x"] * 40}
    write_parquet(tmp_path / "a.parquet", table, row_group_size=10)
    for budget, cached in ((1 << 20, 4), (0, 1), (25_000, 2)):
        monkeypatch.setattr(module, "_CACHE_BYTES", budget)
        pairs = open_pairs(open_source(tmp_path / "a.parquet"))
        assert [pairs[index].id for index in range(0, 40, 5)] == [f"p{n}" for n in range(0, 40, 5)]
        assert len(pairs._reader(0)._cache) == cached  # type: ignore[union-attr]


def test_indexing_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(self: Any, batch: Any, row: int, fields: Any) -> Any:
        assert fields != "text" or batch.nbytes < 5000
        return original(self, batch, row, fields)

    original = table_format._TableReader._rows
    monkeypatch.setattr(table_format._TableReader, "_rows", rows)
    image = image_columns([b"1" * 100_000] * 4, [f"{n}.png" for n in range(4)])
    for form, column in image.items():
        write_parquet(tmp_path / f"{form}.parquet", {"id": list("abcd"), "image": column, "caption": ["x"] * 4})
        pairs: IndexedSource[Any] = open_pairs(open_source(tmp_path / f"{form}.parquet"))
        assert len(pairs) == 4 and pairs[2].encoded == b"1" * 100_000
        folder = datasets_folder(tmp_path / form, pa.table({"image": column, "caption": ["x"] * 4}))
        assert open_pairs(open_source(folder))[3].encoded == b"1" * 100_000


def test_positions_beyond_two_gigabytes_fit_the_index() -> None:
    packed = module._PACK(2**32 - 1, 2**40, 2**50, 2**40, 2**64 - 1, 64, -(2**31))
    entry = np.frombuffer(packed, module._ENTRY)[0]
    assert entry.tolist() == (2**32 - 1, 2**40, 2**50, 2**40, 2**64 - 1, 64, -(2**31))
