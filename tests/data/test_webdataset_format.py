"""WebDataset: samples of tars, and missing, truncated and damaged tars."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from aligngpt.data.sources import open_source
from tests.source_files import (
    errors,
    facts,
    read,
    samples,
    turns,
    write_parquet,
    write_tar,
)


def test_a_brace_pattern_keeps_its_order_and_names_what_is_missing(tmp_path: Path) -> None:
    for number in (8, 9, 11):
        write_tar(tmp_path / f"x-{number:03d}.tar", samples(range(number, number + 1)))
    result = read(open_source(str(tmp_path / "x-{008..011}.tar")))
    assert [record.id for record in result] == ["p8", "p9", "x-010.tar#0", "p11"]
    assert [record.error for record in result] == [None, None, "shard cannot be read: no such file", None]
    assert result[2].image == "x-010.tar"
    assert len(read(open_source(str(tmp_path / "x-0{08,11}.tar")))) == 2
    columns = {"image": ["a.png"], "caption": ["c"]}
    write_parquet(tmp_path / "a0.parquet", columns)
    write_parquet(tmp_path / "a2.parquet", columns)
    assert errors(open_source(str(tmp_path / "a{0..2}.parquet"))) == [None, "shard cannot be read: no such file", None]


def test_samples_in_folders_and_compressed_tars_are_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar.gz", samples(range(3), "some/folder/"), "w:gz")
    assert facts(open_source(tmp_path / "a.tar.gz")) == [(f"some/folder/p{n}", f"cäption {n}") for n in range(3)]


def test_tars_are_read_through_fsspec(tmp_path: Path) -> None:
    import fsspec  # type: ignore[import-untyped]

    path = write_tar(tmp_path / "a.tar", samples(range(3)))
    memory = fsspec.filesystem("memory")
    memory.pipe("/shards/a.tar", path.read_bytes())
    for location in ("memory://shards/a.tar", "memory://shards", "memory://shards/{a,b}.tar"):
        assert [record.id for record in read(open_source(location))][:3] == ["p0", "p1", "p2"]


def test_captions_and_ids_in_a_json_member(tmp_path: Path) -> None:
    members = {
        "a.jpg": b"1",
        "a.json": json.dumps({"id": "own", "caption": "x"}).encode(),
        "b.PNG": b"2",
        "b.json": json.dumps({"conversations": turns("y")}).encode(),
        "c.seg.png": b"3",
        "c.txt": b"\xef\xbb\xbfz",
        "c.json": b'{"caption": "not this", "uid": 3}',
        "__meta__.json": b"{}",
    }
    path = write_tar(tmp_path / "a.tar", members)
    result = read(open_source(path))
    assert [(record.id, record.image, record.caption, record.data) for record in result] == [
        ("own", "a.tar#a.jpg", "x", b"1"),
        ("b", "a.tar#b.png", "y", b"2"),
        ("c", "a.tar#c.seg.png", "z", b"3"),
    ]
    last = read(open_source(path, caption_column="caption", id_column="uid", image_column="seg.png"))[2]
    assert (last.id, last.caption) == ("3", "not this")


def test_bad_samples_are_named(tmp_path: Path) -> None:
    members = {
        "a.jpg": b"1",
        "b.txt": b"x",
        "c.jpg": b"1",
        "c.txt": b"\xff",
        "d.jpg": b"1",
        "d.json": b"{",
        "e.jpg": b"1",
        "e.json": b'{"caption": null}',
        "f.jpg": b"1",
        "f.txt": b"x",
        "g.txt": b"x",
        "f.png": b"1",
        "f.TXT": b"x",
    }
    result = read(open_source(write_tar(tmp_path / "a.tar", members)))
    reasons = [
        "caption is missing: expected a txt member, or conversations or caption or text in a json member",
        "image is missing",
        "the txt member is not UTF-8 text",
        "broken json member: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        "caption is missing (null)",
        None,
        "image is missing",
        "duplicate id, also that of record 5",
    ]
    assert [record.error for record in result] == reasons
    assert [record.image for record in result[:2]] == ["a.tar#a.jpg", "a.tar#b"]


def test_a_truncated_tar_is_read_up_to_the_damage(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", samples(range(5))).read_bytes()
    for length in range(0, 5 * 2560 + 1024, 256):
        (tmp_path / "a.tar").write_bytes(whole[:length])
        result = read(open_source(tmp_path / "a.tar"))
        good = [record for record in result if record.error is None]
        # A sample takes 512 + 1024 bytes for its image and 512 + 512 for its text, whose last content may be missing.
        assert [record.id for record in good] == [f"p{n}" for n in range(len(good))]
        assert len(good) in (length // 2560, (length + 512) // 2560)
        reason = result[-1].error if result else None
        within = length % 2560
        if length > 5 * 2560 or (length and (within == 0 or within >= 2060)):  # the text of 10 bytes begins at 2048
            assert reason is None, length
        elif 1212 <= within <= 1536:  # between the image, which ends at 1212, and its text: no byte is missing
            assert reason is not None and "caption is missing" in reason, length
        else:
            assert reason is not None and ("cut short" in reason or "not a readable tar" in reason), length


def test_a_tar_without_its_end_marker_is_complete(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", samples(range(3))).read_bytes()
    for length in (3 * 2560, 3 * 2560 - 500):  # without the end marker, and without the padding of the last block
        (tmp_path / "a.tar").write_bytes(whole[:length])
        assert errors(open_source(tmp_path / "a.tar")) == [None] * 3


class OnlyForward:
    """A remote file that can only be read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.passed = 0

    def seekable(self) -> bool:
        return False

    def read(self, size: int) -> bytes:
        block = self._file.read(min(size, 1000))  # fewer bytes than requested
        self.passed += len(block)
        return block


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_read_once_and_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    opened: list[OnlyForward] = []

    @contextmanager
    def forward(location: str) -> Iterator[OnlyForward]:
        with open(location, "rb") as file:
            opened.append(OnlyForward(file))
            yield opened[-1]

    members = samples(range(4)) | {"p4.jpg": b"1" * 1024, "p4.txt": b"x", "__meta__.txt": b"-" * 5000}
    path = write_tar(tmp_path / "a.tar", members | samples(range(5, 7)), mode)
    monkeypatch.setattr("aligngpt.data.webdataset_format.open_binary", forward)
    result = read(open_source(path))
    assert [(record.id, record.error) for record in result] == [(f"p{n}", None) for n in range(7)]
    assert [record.passed for record in opened] == [path.stat().st_size]


def test_a_damaged_header_after_a_long_name_loses_its_member(tmp_path: Path) -> None:
    members = samples(range(1)) | {f"{'long' * 40}.txt": b"x"} | samples(range(2, 4))
    content = bytearray(write_tar(tmp_path / "a.tar", members).read_bytes())
    offset = content.index(
        b"longlong", content.index(b"longlong") + 160
    )  # the member's own header, after that of its name
    content[offset : offset + 40] = b"?" * 40
    (tmp_path / "a.tar").write_bytes(content)
    result = read(open_source(tmp_path / "a.tar"))
    assert [record.id for record in result if record.error is None] == ["p0", "p2", "p3"]
    assert "damaged" in next(record.error or "" for record in result if record.error is not None)


def test_only_names_between_double_underscores_are_metadata(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"__a.jpg": b"1", "__a.txt": b"x", "__meta__.txt": b"y"})
    assert facts(open_source(path)) == [("__a", "x")]


def test_a_damaged_header_loses_one_member(tmp_path: Path) -> None:
    content = bytearray(write_tar(tmp_path / "a.tar", samples(range(5))).read_bytes())
    content[2560:2600] = b"?" * 40  # the header of p1.jpg
    (tmp_path / "a.tar").write_bytes(content)
    result = read(open_source(tmp_path / "a.tar"))
    assert [record.id for record in result] == ["p0", "byte 2560", "p1", "p2", "p3", "p4"]
    assert [record.error for record in result] == [
        None,
        "tar damaged from byte 2560 to byte 4096: its content is lost",
        "image is missing",
        None,
        None,
        None,
    ]


def test_a_damaged_gzip_is_read_up_to_the_damage(tmp_path: Path) -> None:
    noise = {f"p{n}.jpg": random.Random(n).randbytes(50_000) for n in range(6)}
    members = {
        name: content for key, data in noise.items() for name, content in ((key, data), (key[:2] + ".txt", b"x"))
    }
    packed = gzip.compress(write_tar(tmp_path / "a.tar", members).read_bytes())
    (tmp_path / "a.tar.gz").write_bytes(packed[: len(packed) // 2])
    result = read(open_source(tmp_path / "a.tar.gz"))
    assert [record.id for record in result][:2] == ["p0", "p1"] and len(result) < 6
    assert result[-1].error is not None and "damaged" in result[-1].error


def test_a_huge_member_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aligngpt.data.webdataset_format._MAX_MEMBER", 500)
    result = read(open_source(write_tar(tmp_path / "a.tar", samples(range(1)))))
    assert result[0].error == "member p0.jpg holds 700 bytes, more than 500"
