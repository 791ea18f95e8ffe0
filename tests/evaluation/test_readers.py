"""Reading benchmark files: accepted forms, and errors in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation import readers as files

LINES = [{"question_id": 1, "text": "a\u2028b"}, {"question_id": 2, "text": "caf\u00e9"}]


def plain(newline: str = "\n") -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + newline for line in LINES).encode()


@pytest.mark.parametrize(
    "content",
    [
        plain(),
        plain("\r\n"),
        plain("\n\n \n"),
        plain().rstrip(b"\n"),
        b"\xef\xbb\xbf" + plain(),
        gzip.compress(plain()),
        gzip.compress(b"\xef\xbb\xbf" + plain("\r\n")),
        json.dumps(LINES, indent=2).encode(),
        b"\xef\xbb\xbf\n" + json.dumps(LINES).encode(),
    ],
    ids=[
        "lines",
        "windows",
        "blank lines",
        "no last newline",
        "byte order mark",
        "gzip",
        "gzip and mark",
        "array",
        "array and mark",
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a"])
def test_accepted_forms_of_records(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert [record for _, record in files.load_records(tmp_path / name)] == LINES
    answers = files.read_predictions(tmp_path / name)
    assert [(row.id, row.text) for row in answers.rows] == [(1, "a\u2028b"), (2, "caf\u00e9")]
    assert not answers.submission


def test_line_numbers_include_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"question_id": 1, "text": "x"}\n\n{"question_id": "v2", "text": "y"}\n')
    assert [row.line for row in files.read_predictions(tmp_path / "a.jsonl").rows] == [2, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.jsonl: no records; check that this is the right file and complete"),
        (b"\n \n", "a.jsonl: no records"),
        (b"[]", "a.jsonl: no records"),
        (
            b'{"a": 1}\n{"a": 2',
            "a.jsonl:2: broken JSON: Expecting ',' delimiter at column 8; the last line is truncated",
        ),
        (b'{"a": 1}\n{"a": "x', "a.jsonl:2: broken JSON: Unterminated string starting at column 7; the last line is"),
        (b'{"a": 1}\n{"a" 2}\n{"a": 3}\n', "a.jsonl:2: broken JSON: Expecting ':' delimiter at column 6"),
        (b'{"a": 1}\n\xff\xfe\n', "a.jsonl:2: not UTF-8 text"),
        (b"PK\x03\x04\n", "a.jsonl:1: broken JSON"),
        (b'{"a": 1}\n[2]\n', "a.jsonl:2: expected an object, got a list"),
        (b'{"a": 1}\n3\n', "a.jsonl:2: expected an object, got a number"),
        (b'{\n  "a": 1\n}\n', "a.jsonl: expected one JSON object per line or an array of them, got one object"),
        (b'[{"a": 1},', "a.jsonl:1:11: broken JSON"),
        (b"[1]", "a.jsonl:1: expected an object, got a number"),
        (gzip.compress(b'{"a": 1}', mtime=0)[:-9], "a.jsonl: damaged gzip file"),
        (b"\x1f\x8bnothing", "a.jsonl: damaged gzip file"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_records(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError) as error:
        files.load_records(tmp_path / "a.jsonl")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        files.load_records(tmp_path / "a.jsonl")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        files.collect_files([tmp_path / "nowhere"], ("*.json",))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question_id": 1}, "a.jsonl:1: text is missing; expected the text of a prediction"),
        ({"question_id": 1, "text": None}, "a.jsonl:1: text is null"),
        ({"question_id": 1, "text": 5}, "a.jsonl:1: text is a number"),
        ({"text": "x"}, "a.jsonl:1: question_id is missing"),
        ({"question_id": 1.5, "text": "x"}, "a.jsonl:1: question_id is a number"),
        ({"question_id": True, "text": "x"}, "a.jsonl:1: question_id is a boolean"),
        ({"question_id": 1, "image": "x", "text": "x?", "category": "c"}, "holds questions; pass predictions"),
    ],
)
def test_invalid_predictions(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        files.read_predictions(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("record", "answer", "submission"),
    [
        ({"question_id": "v1", "prompt": "What?", "text": ""}, ("v1", "", "What?"), False),
        ({"question_id": 1, "text": "x", "image": "i.jpg", "prompt": "?"}, (1, "x", "?"), False),
        ({"question_id": 1, "answer": "x"}, (1, "x", ""), True),
        ({"image": "i.jpg", "answer": "x"}, ("i.jpg", "x", ""), True),
        ({"questionId": "1", "prediction": "x"}, ("1", "x", ""), True),
    ],
)
def test_accepted_forms_of_predictions(
    record: dict[str, Any], answer: tuple[Any, str, str], submission: bool, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(json.dumps([record]))
    read = files.read_predictions(tmp_path / "a.json")
    (row,) = read.rows
    assert ((row.id, row.text, row.prompt), read.submission) == (answer, submission)


def test_questions(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question_id": 1, "image": "a/b.jpg", "text": "What?\\nBriefly.", "category": "count"}\n')
    (one,) = files.read_questions(path)
    assert (one.id, one.prompt, one.image, one.kind, one.stored_prompt) == (
        1,
        "What?\nBriefly.",
        "a/b.jpg",
        "count",
        None,
    )
    path.write_text('{"question_id": 1, "prompt": "What?", "text": "Red"}\n')
    with pytest.raises(ValueError, match="image is missing; check that this is the question file"):
        files.read_questions(path)


# Tables -------------------------------------------------------------------------------------------------------------


def test_table(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbfa\tb\r\n1\t"x\ty\nz ""q"""\r\n\r\n2\tu"v\r\n', mtime=0))
    assert files.load_table(path, ("a",)) == [{"a": "1", "b": 'x\ty\nz "q"'}, {"a": "2", "b": 'u"v'}]


def test_long_cells(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("a\tb\n1\t" + "x" * 300_000 + "\n")
    assert len(files.load_table(tmp_path / "t.tsv", ("b",))[0]["b"]) == 300_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tc\n1\t2\n", r"t\.tsv: columns b are missing"),
        ("", r"t\.tsv: columns a, b are missing"),
        ("a\tb\n1\t2\t3\n", r"t\.tsv:2: 3 cells in a table of 2 columns"),
        ('a\tb\n1\t2\n3\t"4\n5\t6', None),
        ("a\tb\n1\t2\n3", r"t\.tsv:3: 1 cells in a table of 2 columns; check that the file is complete"),
        ('a\tb\n1\t2\n"3\t4\n', r"t\.tsv:3: 1 cells in a table of 2 columns; check that the file is complete"),
    ],
)
def test_broken_tables(text: str, message: str | None, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(text)
    if message is None:  # an unclosed quote in the last column cannot be distinguished from a long cell
        assert files.load_table(tmp_path / "t.tsv", ("a", "b"))[1] == {"a": "3", "b": "4\n5\t6"}
        return
    with pytest.raises(ValueError, match=message):
        files.load_table(tmp_path / "t.tsv", ("a", "b"))


# Finding files ------------------------------------------------------------------------------------------------------


def test_collect_files_and_locate_file(tmp_path: Path) -> None:
    for name in ("b.json", "a.json.gz", "c.txt", "sub/d.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = files.collect_files([tmp_path, tmp_path / "c.txt", tmp_path / "b.json"], ("*.json", "sub/*.json"))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.json.gz", "b.json", "sub/d.json", "c.txt"]
    assert files.locate_file([tmp_path], ("x.json", "b.json"), "x") == tmp_path / "b.json"
    with pytest.raises(ValueError, match=r"no labels in this folder; expected x\.json or y\.json"):
        files.locate_file([tmp_path], ("x.json", "y.json"), "labels")
    with pytest.raises(ValueError, match="the labels are missing; pass --labels"):
        files.locate_file([], ("x.json",), "labels")
    assert files.list_folders([tmp_path, tmp_path / "c.txt"]) == [tmp_path, tmp_path]
