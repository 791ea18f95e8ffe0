"""MMBench: hand-computed cases of the table, circular accuracy, prompts and the server's spreadsheet."""

from __future__ import annotations

import base64
import csv
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from aligngpt.data.schema import UnreadableImage
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.benchmarks.mmbench import Cell, write_sheet
from aligngpt.evaluation.readers import read_predictions
from tests.evaluation.benchmark_files import counts, scored, verdicts, write_lines

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_cells(path: Path) -> list[list[str | None]]:
    """Return the rows of a workbook's first sheet as text, None for empty cells."""
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        sheet = ElementTree.fromstring(file.read("xl/worksheets/sheet1.xml"))
    rows = []
    for row in sheet.iter(f"{_MAIN}row"):
        cells = {str(cell.get("r")).rstrip("0123456789"): cell for cell in row.iter(f"{_MAIN}c")}
        texts = {name: cell.findtext(f"{_MAIN}is/{_MAIN}t", cell.findtext(f"{_MAIN}v")) for name, cell in cells.items()}
        last = max(map(ord, texts))
        rows.append([texts.get(chr(letter)) for letter in range(ord("A"), last + 1)])
    return rows


COLUMNS = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "split"]
L = "Answer with the option's letter from the given choices directly."


def table(path: Path, rows: list[dict[str, Any]], columns: list[str] = COLUMNS, newline: str = "\n") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator=newline, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(index: int, answer: str, **more: str) -> dict[str, Any]:
    return {"index": index, "question": "Which?", "A": "cat", "B": "dog", "answer": answer, "split": "dev"} | more


def answers(path: Path, texts: list[tuple[int, str | None]]) -> Path:
    return write_lines(path, [{"question_id": name, "round_id": 0, "text": text} for name, text in texts])


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Return two questions with two options, rotated once, and one without a rotation."""
    rows = [row(1, "A", category="one"), row(2, "B", category="two"), row(3, "A", category="two")]
    rows += [row(1_000_001, "B", category="one", A="dog", B="cat"), row(1_000_002, "A", category="two")]
    return table(tmp_path / "labels.tsv", rows)


def test_every_rotation_must_be_correct(labels: Path, tmp_path: Path) -> None:
    given = answers(
        tmp_path / "a.jsonl", [(1, "A"), (2, "B"), (3, "cat"), (1_000_001, "It is a cat"), (1_000_002, "B")]
    )
    result = scored("mmbench", labels, given)
    assert verdicts(result) == {1: 1, 2: 0, 3: 1}
    assert result["score"] == pytest.approx(200 / 3) and result["formatted"] == "66.67"
    details = result["details"]
    assert (details["questions"], details["rows"], details["circular_hits"], details["row_hits"]) == (3, 5, 2, 4)
    assert (details["first_round_hits"], details["first_round_accuracy"]) == (3, 100)
    assert details["plain_letter_equality"]["circular_hits"] == 0
    assert {name: part["score"] for name, part in result["groups"]["category"].items()} == {"one": 100, "two": 50}
    assert "l2_category" not in result["groups"]


def test_missing_predictions(labels: Path, tmp_path: Path) -> None:
    # 1 lacks its rotation, 2 its first: officially 1 is correct and 2 does not count.
    given = answers(tmp_path / "a.jsonl", [(1, "A"), (1_000_002, "A"), (3, "B"), (4, "A"), (3, "A")])
    official, strict = scored("mmbench", labels, given), scored("mmbench", labels, given, "strict")
    assert (official["score"], official["n_samples"]) == (100, 2)
    assert (strict["score"], strict["n_samples"]) == (pytest.approx(100 / 3), 3)
    assert official["counts"] == strict["counts"] == counts(5, 2, 1, 1)
    assert official["notes"][1].startswith(
        "rotations without a prediction, not checked: 2; questions without a prediction for"
    )
    assert official["notes"][2].startswith("official 100.00, strict 33.33: the official toolkit skips")
    with pytest.raises(ValueError, match="no prediction for an unrotated question"):
        scored("mmbench", labels, answers(tmp_path / "b.jsonl", [(1_000_001, "A")]))


@pytest.mark.parametrize(
    "missing", ["", "NA", "None", "nan", "N/A", "null", "NULL", "#N/A", "<NA>", "NaN", "n/a", "-nan"]
)
def test_missing_options(missing: str, tmp_path: Path) -> None:
    labels = table(tmp_path / "labels.tsv", [row(1, "B", B=missing, C="none", D=" NA")])
    (one,) = BENCHMARKS["mmbench"].read_labels([labels])
    assert one.options == {"A": "cat", "C": "none", "D": " NA"}
    result = scored("mmbench", labels, answers(tmp_path / "a.jsonl", [(1, "B")]))
    assert verdicts(result) == {1: 0}  # the correct option is missing in the official toolkit, too


def test_missing_text_becomes_nan(tmp_path: Path) -> None:
    labels = table(tmp_path / "labels.tsv", [row(1, "A", A="an", B="x")])
    result = scored("mmbench", labels, answers(tmp_path / "a.jsonl", [(1, None)]))
    (part,) = result["samples"][0]["parts"]
    assert (part["text"], part["prediction"]) == ("nan", "A")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_cells_with_quotes_tabs_and_lines(newline: str, tmp_path: Path) -> None:
    labels = table(tmp_path / "labels.tsv", [row(1, "A", question='Say "a\tb"\nnow', A='"x"')], newline=newline)
    labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes())
    (one,) = BENCHMARKS["mmbench"].read_questions(labels)
    assert one.stored_prompt == 'Say "a\tb"\nnow\nA. "x"\nB. dog'


def test_questions_become_prompts(tmp_path: Path) -> None:
    image = base64.b64encode(b"\x89PNG image").decode()
    rows = [
        row(1, "A", hint="A hint.", C="fox", D="owl", image=image, category="animals"),
        row(2, "A", hint="NA", C="None", D="owl", image=image),  # options end at the first missing one
        row(3, "A", C="NONE", D="owl", image=image),
    ]
    path = table(tmp_path / "q.tsv", rows, [*COLUMNS, "image"])
    one, two, three = BENCHMARKS["mmbench"].read_questions(path)
    assert one.stored_prompt == "A hint.\nWhich?\nA. cat\nB. dog\nC. fox\nD. owl"
    assert one.prompt == f"{one.stored_prompt}\n{L}"
    assert (one.id, one.kind, one.image) == (1, "animals", b"\x89PNG image")
    assert one.extra == {"round_id": 0, "options": ["cat", "dog", "fox", "owl"], "option_char": list("ABCD")}
    assert two.stored_prompt == three.stored_prompt == "Which?\nA. cat\nB. dog"
    assert two.kind == "default"


def test_submission(tmp_path: Path) -> None:
    rows = [
        row(1, "A", hint="h", category="c", image="aGk=", source="s", comment="x", C="None", **{"l2-category": "l"}),
        row(1_000_001, "B", image="aGk="),
    ]
    path = table(tmp_path / "q.tsv", rows, [*COLUMNS, "image", "source", "comment"])
    write = BENCHMARKS["mmbench"].write_submission
    assert write is not None
    given = answers(tmp_path / "a.jsonl", [(1, "x"), (1, 'A <b> & "c"\n')])
    write(path, read_predictions(given, null_text=""), tmp_path / "up" / "m.xlsx")
    assert read_cells(tmp_path / "up" / "m.xlsx") == [
        ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"],
        ["1", "Which?", "cat", "dog", None, None, 'A <b> & "c"\n', "A", "dev"],
        ["1000001", "Which?", "cat", "dog", None, None, None, "B", "dev"],
    ]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("not base64!", "index 7: image is broken base64"),
        ("aGk", "index 7: image is broken base64"),
        ("aG k=", "broken base64"),
    ],
)
def test_broken_images_are_reported(image: str, message: str, tmp_path: Path) -> None:
    path = table(tmp_path / "q.tsv", [row(7, "A", image=image)], [*COLUMNS, "image"])
    with pytest.raises(ValueError, match=message) as error:
        BENCHMARKS["mmbench"].read_labels([path])
    assert "\n" not in str(error.value)
    (asked,) = BENCHMARKS["mmbench"].read_questions(path)
    assert isinstance(asked.image, UnreadableImage) and "broken base64" in asked.image.reason


def test_row_without_image(tmp_path: Path) -> None:
    path = table(tmp_path / "q.tsv", [row(7, "A", image="")], [*COLUMNS, "image"])
    (asked,) = BENCHMARKS["mmbench"].read_questions(path)
    assert asked.image == UnreadableImage("no image in the table")
    assert len(BENCHMARKS["mmbench"].read_labels([path])) == 1


def test_wrong_files(tmp_path: Path) -> None:
    read = BENCHMARKS["mmbench"].read_labels
    with pytest.raises(ValueError, match="no answers; this split is scored by the server"):
        read([table(tmp_path / "q.tsv", [row(1, "")])])
    with pytest.raises(ValueError, match="no questions; check"):
        read([table(tmp_path / "q.tsv", [])])
    with pytest.raises(ValueError, match="index 'x' is not an integer"):
        read([table(tmp_path / "q.tsv", [row(1, "A") | {"index": "x"}])])
    with pytest.raises(ValueError, match="columns index, question, A, B are missing"):
        read([write_lines(tmp_path / "q.tsv", [{"question_id": 1}])])


def test_spreadsheet_has_text_numbers_and_empty_cells(tmp_path: Path) -> None:
    text = ' <a> & "b"\n\tcaf\u00e9 \U0001f600 '
    rows: list[list[Cell]] = [["index", "text"], [7, text], [1_000_007, None, "=1+1"], [-1, "https://a.b"]]
    write_sheet(tmp_path / "new" / "x.xlsx", rows)
    assert read_cells(tmp_path / "new" / "x.xlsx") == [
        ["index", "text"],
        ["7", text],
        ["1000007", None, "=1+1"],
        ["-1", "https://a.b"],
    ]
    write_sheet(tmp_path / "again.xlsx", rows)
    assert (tmp_path / "new" / "x.xlsx").read_bytes() == (tmp_path / "again.xlsx").read_bytes()


def test_characters_that_xml_forbids_are_replaced(tmp_path: Path) -> None:
    write_sheet(tmp_path / "x.xlsx", [["a\x00b\x1bc\ud800\uffff"]])
    assert read_cells(tmp_path / "x.xlsx") == [["a\ufffdb\ufffdc\ufffd\ufffd"]]
