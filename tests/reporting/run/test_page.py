"""The run report: composed of the other reports, self-contained, and explicit about steps that were not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from aligngpt.reporting import report_run
from aligngpt.reporting.run import page
from tests.reporting.benchmark_folders import edit, make_comparison
from tests.reporting.html_pages import Page, check_self_contained, check_structure

DATA = ["scores", "truth", "pairs", "lowest", "boundaries", "duplicates", "captions", "errors"]
BENCHMARK = ["results", "overview", "gate", "predictions", "protocols"]
SECTIONS = [*DATA, "training", "level-captions", *BENCHMARK, "kinds", "gate-examples", "costs", "configuration"]


@pytest.fixture(scope="module")
def whole(made_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(report_run(made_once, tmp_path_factory.mktemp("page") / "report.html"))


def section_ids(page: Page) -> list[str]:
    return [found["id"] for tag, found in page.tags if tag == "section" and "id" in found]


def test_the_page_is_reproducible(run_folder: Path, tmp_path: Path) -> None:
    assert report_run(run_folder) == run_folder / "report.html"
    wanted = tmp_path / "new" / "page.html"
    assert report_run(str(run_folder), str(wanted)) == wanted
    assert wanted.read_bytes() == (run_folder / "report.html").read_bytes()


def test_the_page_has_the_sections_of_all_reports(whole: Page) -> None:
    assert section_ids(whole) == SECTIONS
    assert [found["href"] for tag, found in whole.tags if tag == "a"][1:] == [f"#{name}" for name in SECTIONS]
    available = {name for name, text in whole.text.items() if "not run" in text}
    assert not available


def test_the_page_is_self_contained_and_accessible(whole: Page) -> None:
    check_self_contained(whole)
    check_structure(whole)
    assert len(whole.html.encode()) < 1_500_000


def test_the_key_metrics_are_at_the_top(whole: Page) -> None:
    head = whole.text["header"]
    assert "Synthetic, adaptive alignment 84.0 95% CI 82.0 to 86.0" in head
    assert "0.87 Spearman correlation" in head and "14% → 69%" in head
    assert "Note: Synthetic: Synthetic images." in head


def test_one_seed_is_never_presented_as_a_gain(whole: Page, made_once: Path, tmp_path: Path) -> None:
    assert "trained with one seed" in whole.text["header"]
    rows = [make_comparison("synthetic", 2.0, (-1.0, 5.0))]
    head = Page(report_run(made_once, tmp_path / "page.html", comparisons=rows)).text["header"]
    assert "is +2.0 points; its 95% CI over questions, \N{MINUS SIGN}1.0 to 5.0, includes zero" in head
    assert "trained with one seed" in head
    rows = [make_comparison("synthetic", 2.0, (1.0, 3.0))]
    written = Page(report_run(made_once, tmp_path / "page.html", comparisons=rows))
    assert (
        "excludes zero" in written.text["header"] and "does not show that a variant is better" in written.text["header"]
    )
    assert section_ids(written)[12:14] == ["comparison", "differing"]


def test_both_variants_are_shown_by_kind(whole: Page) -> None:
    assert "Kind Adaptive alignment No alignment Color count 84.0% 82.0%" in whole.text["kinds"]


def test_captions_are_shown_at_the_first_middle_and_last_level(whole: Page) -> None:
    selected = " ".join(f"{level} Level {level} Caption 0 at level {level}." for level in (1, 4, 8))
    assert f"Ground truth All 0 objects. {selected} All levels" in whole.text["level-captions"]


@pytest.mark.parametrize(
    ("number", "selected"),
    [(2, [0, 1]), (5, [0, 1, 2, 3, 4]), (14, [1, 4, 7, 9, 12]), (1000, [100, 300, 500, 700, 900])],
)
def test_examples_are_evenly_spread(number: int, selected: list[int]) -> None:
    assert list(page._compute_spread(range(number), 5)) == selected


def test_text_is_never_markup(run_folder: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"
    edit(run_folder / "captions" / "captions.json", examples=[{"image": "a", "truth": evil, "captions": [evil] * 8}])
    path = run_folder / "gate_examples.json"
    examples = json.loads(path.read_text())["examples"]
    edit(path, examples=[{**examples[0], "question": evil, "answer": evil, "prediction": evil + "!"}])
    changes: dict[str, Any] = {"config": {"note": evil}, "versions": {evil: evil}, "runtime_s": {evil: 1.0}}
    edit(run_folder / "metrics.json", **changes)
    moved = run_folder.rename(run_folder.with_name("<b>run"))
    written = Page(report_run(moved))
    check_self_contained(written)
    assert evil in written.text["level-captions"] and evil in written.text["gate-examples"]
    assert "<b>run" in written.text["header"]


@pytest.mark.parametrize(
    "removed",
    [
        {"eval-adaptive": [], "finetune-adaptive": ["training"], "gate_examples.json": ["gate-examples"]},
        {"eval-adaptive": ["results"], "eval-none": ["results"], "pretrain-none": ["training"]},
        {"captions": ["level-captions"], "metrics.json": ["truth", "costs", "configuration"]},
        {"scores": ["scores"]},
    ],
)
def test_steps_that_were_not_run_are_named_in_their_section(run_folder: Path, removed: dict[str, list[str]]) -> None:
    for name in removed:
        path = run_folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = Page(report_run(run_folder)).text
    named = {section for section in SECTIONS if "Not available." in text.get(section, "")}
    assert named - {"gate"} == {section for sections in removed.values() for section in sections}


def test_missing_key_metrics_are_marked(run_folder: Path) -> None:
    for name in ("eval-none", "captions"):
        shutil.rmtree(run_folder / name)
    (run_folder / "metrics.json").unlink()
    head = Page(report_run(run_folder)).text["header"]
    assert head.count("not run") == 3 and "one seed" not in head


def test_scores_alone_make_a_page(run_folder: Path) -> None:
    for entry in run_folder.iterdir():
        if entry.name != "scores":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    written = Page(report_run(run_folder))
    assert "All 240 pairs have a score" in written.text["scores"]
    assert "No predictions were scored" in written.text["header"]


def test_missing_and_foreign_images_leave_a_note(run_folder: Path) -> None:
    shutil.copy(run_folder / "data" / "images" / "0000.png", run_folder.parent / "outside.png")
    path = run_folder / "captions" / "captions.json"
    examples = json.loads(path.read_text())["examples"]
    examples[0]["image"], examples[1]["image"] = "../../../outside.png", "absent.png"
    edit(path, examples=examples)
    assert Page(report_run(run_folder)).text["level-captions"].count("image missing") == 2


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("eval-none/results.json", {"model": 3}, "model"),
        ("pretrain-adaptive/train_results.json", {"modules": None}, "modules"),
        ("captions/captions.json", {"examples": [{"image": "x.png"}]}, "truth"),
        ("gate_examples.json", {"examples": [{"grid": [3, 5]}]}, "examples"),
        ("metrics.json", {"schema_version": 0}, "schema_version"),
    ],
)
def test_a_damaged_file_is_named_and_the_old_page_stays(
    run_folder: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    (run_folder / "report.html").write_text("the old page")
    edit(run_folder / file, **fields)
    with pytest.raises(ValueError, match=message) as error:
        report_run(run_folder)
    assert str(run_folder / file) in str(error.value) and "\n" not in str(error.value)
    assert (run_folder / "report.html").read_text() == "the old page"
    assert not list(run_folder.glob("*.tmp*")) + list(run_folder.glob(".*"))


@pytest.mark.parametrize("state", ["absent", "empty"])
def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "run"
    if state == "empty":
        (folder / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match="not the folder of a run; pass the --output of `aligngpt run`"):
        report_run(folder)
    assert not (folder / "report.html").exists()
