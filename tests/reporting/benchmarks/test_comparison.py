"""The comparison of two models: differences, and the samples on which they differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from aligngpt.evaluation.artifacts import ComparedModel, DifferingSample, SkippedComparison
from aligngpt.reporting import report_eval, write_comparison
from aligngpt.reporting.benchmarks import insights
from tests.reporting.benchmark_folders import make_comparison, make_output
from tests.reporting.html_pages import Page, check_self_contained, check_structure

TIE = make_comparison("gqa", 0.0, (-9.0, 9.0))


def test_the_page_shows_question_label_and_both_predictions(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "1.png")
    sample = TIE.examples[0].model_copy(update={"image": tmp_path / "1.png"})
    comparison = TIE.model_copy(update={"examples": [sample, sample.model_copy(update={"id": 2, "image": None})]})
    page = Page(write_comparison(tmp_path / "new" / "page.html", [comparison]))
    check_self_contained(page)
    check_structure(page)
    assert page.text["header"].startswith("AlignGPT · comparison ours against other <b>")
    assert "On GQA the results show no difference: the 95% CI includes zero." in page.text["header"]
    text = page.text["differing"]
    assert "GQA 2 of 5 samples with different scores" in text
    assert "What is <1>? label thing ours ✓ Thing. other <b> ✗ <i>Hat</i>" in text
    assert [found["alt"] for tag, found in page.tags if tag == "img"] == ["Image of the question: What is <1>?"]
    assert text.count("image missing") == 1


def test_columns_have_the_order_of_the_title_and_the_names_of_the_models(tmp_path: Path) -> None:
    text = Page(write_comparison(tmp_path / "page.html", [TIE])).text["comparison"]
    assert text.startswith("ours against other <b> Both models")
    head = "Benchmark ours other <b> Difference 95% CI p Test Samples ours better other <b> better Skipped"
    assert f"{head} GQA 60.0 60.0 ±0.0 \N{MINUS SIGN}9.0 to 9.0 0.625 McNemar 30 3 2 0" in text
    assert "one pair of models says nothing about other seeds" in text


def test_examples_without_data_show_the_id(tmp_path: Path) -> None:
    sample = TIE.examples[0].model_copy(update={"question": None})
    note = "pass --data with the folder of the benchmark files"
    comparison = TIE.model_copy(update={"examples": [sample], "examples_note": note})
    text = Page(write_comparison(tmp_path / "page.html", [comparison])).text["differing"]
    assert f"Questions of GQA: {note}." in text and "Question 1 label thing ours ✓ Thing." in text
    assert "image missing" not in text  # without any image, no space is reserved


def test_a_single_benchmark_has_its_metrics_at_the_top(tmp_path: Path) -> None:
    head = Page(write_comparison(tmp_path / "page.html", [TIE])).text["header"]
    assert "Difference ±0.0 95% CI" in head and "3 : 2 p 0.625, McNemar test" in head


def test_the_better_model_is_named(tmp_path: Path) -> None:
    won = {
        "model": ComparedModel(name="ours", source="a", score=2.0, n_better=9, judge=None),
        "baseline": ComparedModel(name="other", source="b", score=1.0, n_better=0, judge=None),
        "p_value": 0.0001,
        "test": "sign",
        "n_samples": 9,
        "examples": [],
    }
    rows = [
        make_comparison("gqa", 5.0, (1.0, 9.0), **won, notes=["scored by different judges"]),
        make_comparison("mme", -100.0, (-140.0, -60.0), **won, title="MME"),
        make_comparison("seed", 50.0, (50.0, 50.0), **won, title="SEED-I"),
    ]
    skipped = SkippedComparison(benchmark="pope", title="POPE", reason="no sample in common")
    page = Page(write_comparison(tmp_path / "page.html", [*rows, skipped]))
    head, text = page.text["header"], page.text["comparison"]
    assert "ours scores higher on GQA: the 95% CI of the difference excludes zero." in head
    assert "other scores higher on MME" in head and "On SEED-I the results show no difference" in head
    assert "GQA: scored by different judges." in head and "differing" not in page.text
    assert "Not available. POPE: no sample in common." in text
    assert "< 0.001 sign 9 9 0 0" in text
    assert "SEED-I 2.0 1.0 +50.0 \N{EN DASH} < 0.001" in text  # an interval of zero width is not shown
    nothing = Page(write_comparison(tmp_path / "page.html", [skipped]))
    assert "No benchmark could be compared." in nothing.text["header"]


@pytest.mark.parametrize(("ci95", "sign"), [((1.0, 2.0), 1), ((-2.0, -1.0), -1), ((-1.0, 1.0), 0), ((1.0, 1.0), 0)])
def test_an_interval_of_zero_width_decides_nothing(ci95: tuple[float, float], sign: int) -> None:
    assert insights.get_sign(ci95) == sign


def test_a_comparison_does_not_replace_the_report_of_the_model(tmp_path: Path) -> None:
    output = make_output(tmp_path / "my-model")
    own = report_eval(output).read_bytes()
    written = report_eval(output, comparisons=[TIE])
    assert written == output / "comparison-other-b.html"
    assert (output / "index.html").read_bytes() == own
    page = Page(written)
    check_structure(page)
    sections = [found["id"] for tag, found in page.tags if tag == "section" and "id" in found]
    assert sections[:4] == ["results", "overview", "comparison", "differing"]
    assert "show no difference" in page.text["comparison"]
    assert written.stat().st_size < 1_000_000


def test_several_texts_of_a_sample_are_joined(tmp_path: Path) -> None:
    sample = DifferingSample(id=1, label=["a", "b"], scores=(0.5, 0.0), texts=(["A", None], ""), question="Q")
    page = Page(write_comparison(tmp_path / "p.html", [TIE.model_copy(update={"examples": [sample]})]))
    assert "Q label a · b ours 0.50 A · no prediction other <b> ✗ empty prediction" in page.text["differing"]
