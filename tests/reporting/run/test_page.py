"""The page: whole, self-contained, safe, accessible, and honest about what was not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aligngpt.reporting import report
from aligngpt.reporting.run import page
from tests.reporting.html_pages import Page, check_self_contained, check_structure

SECTIONS = ["scores", "pairs", "training", "captions", "answers", "gate", "heatmaps", "costs", "recipe"]


@pytest.fixture(scope="module")
def whole(made_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(report(made_once, tmp_path_factory.mktemp("page") / "report.html"))


def test_the_page_lies_where_it_is_wanted_and_is_the_same_each_time(run_folder: Path, tmp_path: Path) -> None:
    assert report(run_folder) == run_folder / "report.html"
    wanted = tmp_path / "new" / "page.html"
    assert report(str(run_folder), str(wanted)) == wanted
    assert wanted.read_bytes() == (run_folder / "report.html").read_bytes()


def test_the_page_has_all_sections_and_nothing_missing(whole: Page) -> None:
    assert [found["id"] for tag, found in whole.tags if tag == "section" and "id" in found] == SECTIONS
    assert [found["href"] for tag, found in whole.tags if tag == "a"][1:] == [f"#{name}" for name in SECTIONS]
    assert all("Not run." not in text for text in whole.text.values())
    assert "not run" not in whole.text["header"]


def test_the_headline_carries_the_key_figures(whole: Page, made_once: Path) -> None:
    results = json.loads((made_once / "eval-adaptive" / "results.json").read_text())
    head = whole.text["header"]
    assert f"{100 * results['accuracy']:.1f} %" in head
    assert f"{100 * results['interval'][0]:.1f} to {100 * results['interval'][1]:.1f} %" in head
    assert "0.87" in head and "14 → 69 %" in head


def test_the_page_asks_nothing_of_anyone(whole: Page) -> None:
    check_self_contained(whole)
    assert len(whole.html.encode()) < 1_000_000


def test_ids_are_unique_and_headings_in_order(whole: Page) -> None:
    check_structure(whole)


def test_images_have_alternative_texts(whole: Page) -> None:
    images = [found for tag, found in whole.tags if tag == "img"]
    assert len(images) == 8 * 5 + 5 + 7 * 2
    assert all(found["alt"].strip() for found in images)
    charts = [found for tag, found in whole.tags if tag == "svg"]
    assert len(charts) == 12 and all(found["aria-label"] for found in charts)


def test_pairs_are_shown_with_caption_score_and_truth(whole: Page, made_once: Path) -> None:
    run = page.load_run(made_once)
    level = sorted((pair for pair in run.pairs if pair.level == 3), key=lambda pair: (pair.score, pair.id))
    middle = level[len(level) // 2]
    assert middle.caption is not None and middle.coverage is not None
    shown = f"score {middle.score:.3f} {middle.caption} {middle.kind} tells {100 * middle.coverage:.0f} %"
    assert shown in whole.text["pairs"]


def test_captions_stand_at_first_middle_and_last_level(whole: Page, made_once: Path) -> None:
    example = json.loads((made_once / "captions" / "captions.json").read_text())["examples"][0]
    few = " ".join(f"{level} Level {level} {example['captions'][level - 1]}" for level in (1, 4, 8))
    assert f"Truth {example['truth']} {few} All levels" in whole.text["captions"]


@pytest.mark.parametrize(
    ("number", "chosen"), [(2, [0, 1]), (5, [0, 1, 2, 3, 4]), (14, [1, 4, 7, 9, 12]), (1000, [100, 300, 500, 700, 900])]
)
def test_examples_are_evenly_spread(number: int, chosen: list[int]) -> None:
    assert list(page._spread(range(number), 5)) == chosen


def test_what_people_wrote_is_never_markup(run_folder: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"
    records = json.loads((run_folder / "data" / "pretrain.json").read_text())
    for record in records:
        record["conversations"][1]["value"] = evil
    (run_folder / "data" / "pretrain.json").write_text(json.dumps(records))
    captions = json.loads((run_folder / "captions" / "captions.json").read_text())
    captions["examples"] = [{"image": "0000.png", "truth": evil, "captions": [evil] * 8}]
    (run_folder / "captions" / "captions.json").write_text(json.dumps(captions))
    gates = json.loads((run_folder / "eval-adaptive" / "gates.json").read_text())
    gates["by_kind"][evil] = gates["by_kind"].pop("count")
    gates["examples"][0].update(question=evil, answer=evil, prediction=evil + "!")
    (run_folder / "eval-adaptive" / "gates.json").write_text(json.dumps(gates))
    summary = json.loads((run_folder / "metrics.json").read_text())
    summary["config"], summary["versions"] = {"note": evil}, {evil: evil}
    summary["runtime_s"] = {evil: 1.0}
    (run_folder / "metrics.json").write_text(json.dumps(summary))
    moved = run_folder.rename(run_folder.with_name("<b>run"))
    written = Page(report(moved))
    check_self_contained(written)
    assert evil in written.text["pairs"] and evil in written.text["captions"] and evil in written.text["heatmaps"]
    assert "<b>run" in written.text["header"]


@pytest.mark.parametrize(
    "gone",
    [
        {"levels": ["scores", "pairs"], "eval-adaptive": ["answers", "gate", "heatmaps"]},
        {"data/pretrain.json": ["pairs"], "finetune-adaptive": ["training"], "eval-none": ["answers"]},
        {
            "data/truth.json": ["scores"],
            "captions": ["captions"],
            "pretrain-none": ["training"],
            "eval-adaptive/gates.json": ["gate", "heatmaps"],
            "metrics.json": ["costs"],
        },
    ],
)
def test_what_was_not_run_is_said_where_it_belongs(run_folder: Path, gone: dict[str, list[str]]) -> None:
    for name in gone:
        path = run_folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = Page(report(run_folder)).text
    told = {section for section in SECTIONS if "Not run." in text[section]}
    assert told == {section for sections in gone.values() for section in sections}


def test_key_figures_that_are_missing_say_so(run_folder: Path) -> None:
    for gone in ("eval-none", "captions"):
        shutil.rmtree(run_folder / gone)
    (run_folder / "metrics.json").unlink()
    head = Page(report(run_folder)).text["header"]
    assert head.count("not run") == 3 and "nothing to compare it with" in head


def test_levels_alone_make_a_page(run_folder: Path) -> None:
    for entry in run_folder.iterdir():
        if entry.name != "levels":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    written = Page(report(run_folder))
    assert "The 240 scores range" in written.text["scores"]
    assert "No answers were scored" in written.text["header"]
    assert all("Not run." in written.text[section] for section in SECTIONS)


def test_missing_and_foreign_images_leave_a_note(run_folder: Path, tmp_path: Path) -> None:
    shutil.copy(run_folder / "data" / "images" / "0000.png", tmp_path / "outside.png")
    captions = json.loads((run_folder / "captions" / "captions.json").read_text())
    captions["examples"][0]["image"] = "../../../outside.png"
    captions["examples"][1]["image"] = "absent.png"
    (run_folder / "captions" / "captions.json").write_text(json.dumps(captions))
    assert Page(report(run_folder)).text["captions"].count("image missing") == 2


def test_a_failed_page_leaves_the_old_one(run_folder: Path) -> None:
    (run_folder / "report.html").write_text("the old page")
    (run_folder / "levels" / "levels.json").write_text("{")
    with pytest.raises(ValueError, match=r"levels\.json"):
        report(run_folder)
    assert (run_folder / "report.html").read_text() == "the old page"
    assert not list(run_folder.glob("*.tmp*")) + list(run_folder.glob(".*"))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="aligngpt run synthetic --output"):
        report(tmp_path)
    assert not list(tmp_path.iterdir())
