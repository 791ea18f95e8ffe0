"""A sheet is read back as it was written."""

from __future__ import annotations

import zipfile
from pathlib import Path
from xml.etree import ElementTree

from aligngpt.evaluation.spreadsheet import Cell, write_sheet

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def cells(path: Path) -> list[list[str | None]]:
    """The rows of a workbook's first sheet, everything as text."""
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        for name in file.namelist():
            ElementTree.fromstring(file.read(name))
        sheet = ElementTree.fromstring(file.read("xl/worksheets/sheet1.xml"))
    return [
        [cell.findtext(f"{_MAIN}is/{_MAIN}t", cell.findtext(f"{_MAIN}v")) for cell in row.iter(f"{_MAIN}c")]
        for row in sheet.iter(f"{_MAIN}row")
    ]


def test_text_numbers_and_empty_cells(tmp_path: Path) -> None:
    rows: list[list[Cell]] = [
        ["index", "text"],
        [7, ' <a> & "b"\n\tcaf\u00e9 \U0001f600 '],
        [1_000_007, None],
        [-1, ""],
    ]
    write_sheet(tmp_path / "new" / "x.xlsx", rows)
    assert cells(tmp_path / "new" / "x.xlsx") == [
        ["index", "text"],
        ["7", ' <a> & "b"\n\tcaf\u00e9 \U0001f600 '],
        ["1000007", None],
        ["-1", ""],
    ]


def test_what_xml_cannot_hold(tmp_path: Path) -> None:
    write_sheet(tmp_path / "x.xlsx", [["a\x00b\x1bc\ud800\uffff"]])
    assert cells(tmp_path / "x.xlsx") == [["a\ufffdb\ufffdc\ufffd\ufffd"]]


def test_the_same_rows_make_the_same_file(tmp_path: Path) -> None:
    write_sheet(tmp_path / "a.xlsx", [["x"]])
    write_sheet(tmp_path / "b.xlsx", [["x"]])
    assert (tmp_path / "a.xlsx").read_bytes() == (tmp_path / "b.xlsx").read_bytes()
