"""The page of two models: differences, and the questions behind them with images and both answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.compare import compare_outputs  # type: ignore[attr-defined]
from aligngpt.reporting.benchmarks.comparison import write_comparison
from aligngpt.reporting.benchmarks.page import write_page
from tests.reporting.benchmark_folders import edit, make_data, make_output
from tests.reporting.html_pages import Page, check_self_contained, check_structure

NAMES = ("first <b>", "second")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The data, and the outputs of two models that differ on six questions of each benchmark."""
    folder = tmp_path_factory.mktemp("two")
    data = make_data(folder / "data")
    return data, make_output(folder / "first", data), make_output(folder / "second", data, shift=3)


def compared(folders: tuple[Path, Path, Path], with_data: bool = True, at_most: int = 12) -> list[dict[str, Any]]:
    data, first, second = folders
    return compare_outputs(first, second, data if with_data else None, at_most)


def test_the_page_shows_what_was_asked_and_what_was_said(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    page = Page(write_comparison(tmp_path / "new" / "page.html", compared(folders), NAMES))
    check_self_contained(page)
    check_structure(page)
    assert page.text["header"].startswith("AlignGPT · two models second against first <b>")
    assert (
        "On GQA, TextVQA and POPE the interval of the difference does not tell which is better." in page.text["header"]
    )
    text = page.text["differing"]
    assert "GQA 6 of 6 questions that differ" in text
    # The second model is right on 20 to 22 instead of 0 to 2.
    assert "What is <1>? right thing 1 first <b> ✓ Thing 1. second ✗ Hat" in text
    assert "What is <21>? right thing 21 first <b> ✗ Hat second ✓ Thing 21." in text
    assert "Word 1? right w first <b> ✓ w second ✗ <b>x</b>" in text
    images = [found["alt"] for tag, found in page.tags if tag == "img"]
    assert len(images) == 6 and "Image of the question: What is <1>?" in images
    assert "image missing" not in text  # POPE has not one image here: no room is left for them


def test_the_table_has_both_scores_and_the_test(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    page = Page(write_comparison(tmp_path / "page.html", compared(folders), NAMES))
    text = page.text["compared"]
    assert "GQA 66.7 66.7 ±0.0" in text and "1.000 McNemar 30 3 3 0" in text


def test_without_the_data_answers_stand_alone(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    page = Page(write_comparison(tmp_path / "page.html", compared(folders, with_data=False), NAMES))
    assert "What was asked in GQA, TextVQA and POPE: add --data with the folder" in page.text["differing"]
    assert "Question 21 right thing 21 first <b> ✗ Hat" in page.text["differing"]
    assert not any(tag == "img" for tag, _ in page.tags) and "image missing" not in page.text["differing"]


def test_as_a_part_of_the_page_of_results(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    page = Page(write_page(folders[2], tmp_path / "page.html", compared(folders), ("first", "second")))
    check_structure(page)
    sections = [found["id"] for tag, found in page.tags if tag == "section" and "id" in found]
    assert sections[:4] == ["results", "radar", "compared", "differing"]
    assert "does not tell" in page.text["compared"]


def test_a_single_benchmark_has_its_figures_on_top(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    head = Page(write_comparison(tmp_path / "page.html", compared(folders)[:1], NAMES)).text["header"]
    assert "Difference ±0.0 95 % interval" in head and "3 against 3 p = 1.000, McNemar's exact test" in head


def test_who_is_better_is_said(tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "differing": [],
        "metric": "accuracy",
        "scores": [1, 2],
        "p_value": 0.0001,
        "test": "sign test",
    }
    common |= {"count": 9, "first_better": 0, "second_better": 9, "left_out": 0}
    rows: list[dict[str, Any]] = [
        common | {"benchmark": "gqa", "difference": 5.0, "interval": [1.0, 9.0]},
        common | {"benchmark": "mme", "difference": -100.0, "interval": [-140.0, -60.0]},
        common | {"benchmark": "seed", "difference": 50.0, "interval": [50.0, 50.0]},
        {"benchmark": "pope", "reason": "first and second have no question in common"},
    ]
    page = Page(write_comparison(tmp_path / "page.html", rows, ("A", "B")))
    assert "B is better on GQA, with an interval that leaves out zero." in page.text["header"]
    assert "A is better on MME" in page.text["header"] and "On SEED-I the interval" in page.text["header"]
    assert "differing" not in page.text
    assert "POPE: first and second have no question in common." in page.text["compared"]
    assert "under 0.001 sign 9 0 9 0" in page.text["compared"]
    assert "SEED-I 1.0 2.0 +50.0 \N{EN DASH} under" in page.text["compared"]  # no interval is shown without width
    rows[0] |= {"benchmark": "probes", "title": "Probes", "notes": ["marked by different judges"]}
    page = Page(write_comparison(tmp_path / "page.html", rows, ("A", "B")))
    assert "B is better on Probes, " in page.text["header"] and ">probes<" not in page.html
    assert "Probes: marked by different judges." in page.text["header"]
    nothing = Page(write_comparison(tmp_path / "page.html", rows[3:], ("A", "B")))
    assert "No benchmark could be compared." in nothing.text["header"]


def test_pages_stay_small(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    page = write_page(folders[2], tmp_path / "page.html", compared(folders, at_most=24), ("first", "second"))
    assert page.stat().st_size < 1_000_000


def test_scores_by_different_protocols_are_not_compared(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, first, _ = folders
    other = make_output(tmp_path / "other", data)
    edit(other / "gqa" / "score.json", protocol="strict")
    rows = compare_outputs(first, other, data, 4)
    assert [row.get("reason", "")[-16:] for row in rows] == ["score both alike", "", ""]
