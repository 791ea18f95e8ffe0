"""The benchmark report: scores next to the paper's, missing results named, all text escaped, no external requests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.artifacts import TITLES, GroupScore
from aligngpt.reporting import report_eval
from aligngpt.reporting.benchmarks import charts, insights
from aligngpt.reporting.benchmarks.load import load_folder
from aligngpt.reporting.benchmarks.paper_results import ALIGNGPT_7B, LLAVA_13B, PAPER_MODELS, REFERENCE_MODELS
from aligngpt.reporting.formatting import format_difference
from tests.reporting.benchmark_folders import (
    edit,
    edit_row,
    make_comparison,
    make_gate,
    make_output,
    make_results,
    make_score,
)
from tests.reporting.html_pages import Page, check_self_contained, check_structure

SECTIONS = ["results", "overview", "categories", "gate", "predictions", "protocols", "settings"]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return make_output(tmp_path / "my-model")


def as_typed(words: str) -> str:
    """Return text with ASCII dashes, minus signs and quotation marks."""
    return words.translate({0x2013: "-", 0x2212: "-", 0x2019: "'"})


class Typed(Page):
    """A page with ASCII punctuation."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.text = {name: as_typed(words) for name, words in self.text.items()}


def section_ids(page: Page) -> list[str]:
    return [found["id"] for tag, found in page.tags if tag == "section" and "id" in found]


# The paper -----------------------------------------------------------------------------------------------------------


def test_the_papers_tables() -> None:
    assert [len(model.scores) for model in PAPER_MODELS] == [12, 12, 12, 12, 10, 9, 9]
    assert (ALIGNGPT_7B.scores["mme"], ALIGNGPT_7B.scores["mmvet"], LLAVA_13B.scores["seed"]) == (1527.4, 30.8, 68.2)
    mini, qwen, instruct = PAPER_MODELS[4:]
    assert (mini.language_model, mini.resolution, mini.scores["textvqa"]) == ("LLaMA2-7B", 448, 28.0)
    assert set(TITLES) - qwen.scores.keys() == {"pope", "llava_bench", "mmvet"}
    assert set(TITLES) - instruct.scores.keys() == {"vqav2", "pope", "mme"}
    # The paper: higher than LLaVA-1.5 on all twelve at 7B, by 0.1 to 5 points where the full score is 100.
    gains = {name: REFERENCE_MODELS[0].scores[name] - REFERENCE_MODELS[2].scores[name] for name in TITLES}
    del gains["mme"]
    assert min(gains.values()) == pytest.approx(0.1) and max(gains.values()) == pytest.approx(5.0)


# The page ------------------------------------------------------------------------------------------------------------


def test_the_page_is_complete_and_self_contained(output: Path, tmp_path: Path) -> None:
    assert report_eval(output) == output / "index.html"
    page = Typed(output / "index.html")
    check_self_contained(page)
    check_structure(page)
    assert section_ids(page) == SECTIONS
    assert [found["href"] for tag, found in page.tags if tag == "a"][1:] == [f"#{name}" for name in SECTIONS]
    again = report_eval(output, tmp_path / "new" / "page.html")
    assert again.read_bytes() == (output / "index.html").read_bytes()
    assert sorted(path.name for path in output.iterdir()) == [
        "gqa", "index.html", "pope", "results.json", "textvqa",
    ]  # fmt: skip


def test_scores_are_shown_next_to_the_papers_with_interval_and_difference(output: Path) -> None:
    text = Typed(report_eval(output)).text["results"]
    assert "GQA accuracy 66.7 50.0 to 83.3 62.9 +3.8 inconclusive 63.6 +3.1" in text
    # 20.7 minus 58.4, which is outside of the interval
    assert "58.4 -37.7 60.2 -39.5 58.2 -37.5 61.3 -40.6 30" in text
    assert "VQAv2 scored by a server 79.1 80.0 78.5 80.0" in text
    assert "the paper reports none" in text
    assert "my-model - 66.7 - - 20.7 " in text
    assert "MiniGPT-v2 LLaMA2-7B 448 74.6 60.3 32.9 60.9 28.0 85.1 1332.1 43.1 29.1 52.3 - -" in text


def test_questions_are_counted_as_in_the_terminal(tmp_path: Path) -> None:
    folder = make_results(
        tmp_path / "circular", [make_score("mmbench", 50.0, n_samples=8)], title="MMB", n_questions=12
    )
    page = Typed(report_eval(folder))
    assert " 12 Below each score of the paper" in page.text["results"]
    assert "Questions 12 all images could be read" in page.text["header"]
    assert "MMB 12 30 0 0 0 0" in page.text["predictions"]


def test_the_insights_are_at_the_top(output: Path) -> None:
    head = Typed(report_eval(output)).text["header"]
    assert head.startswith("AlignGPT · benchmark report my-model 3 of 4 benchmarks have a score.")
    assert "Compared with AlignGPT-7B of the paper, the score is higher on 1 of 3 benchmarks; on 2 the paper's" in head
    assert "tiny, alignment adaptive" in head and "1 image could not be read" in head


def test_everything_from_outside_is_escaped(output: Path) -> None:
    edit(output / "gqa" / "score.json", metric="<s>", notes=["<q>"])
    edit_row(output, "vqav2", title="x<i>", reasons=["<u>"])
    page = Typed(report_eval(output))
    assert not {"i", "u", "s", "q"} & {tag for tag, _ in page.tags}
    assert all(word in page.text["results"] for word in ("<s>", "x<i>", "<u>")) and "<q>" in page.text["protocols"]


def test_unreadable_images_are_named_and_predictions_counted(output: Path) -> None:
    text = Typed(report_eval(output)).text["predictions"]
    assert "89 predictions; 1 missing, 0 extra, 0 repeated." in text
    assert "POPE 30 30 0 0 0 1 1 min 1 s" in text and "TextVQA 30 29 1 0 0 0 1 min 1 s" in text
    assert "POPE 1 could not be read Image Reason <3>.jpg truncated image" in text
    many = [{"question_id": i, "image": None, "reason": f"reason {i}"} for i in range(25)]
    edit_row(output, "gqa", unreadable_images=many, n_unreadable_images=25)
    text = Typed(report_eval(output)).text["predictions"]
    assert "GQA 25 could not be read, showing 20" in text
    assert "image of question 19 reason 19" in text and "reason 20" not in text


def test_the_protocols_and_their_notes(output: Path) -> None:
    text = Typed(report_eval(output)).text["protocols"]
    assert "TextVQA official 20.7 20.0" in text
    assert "official 20.69, strict 20.00: the official score is the mean over the lines of the predictions" in text


def test_categories_are_charted_or_tabulated(output: Path) -> None:
    page = Typed(report_eval(output))
    assert "GQA by form" in page.text["categories"] and "GQA by structural type (2)" in page.text["categories"]
    parts = {str(i): {"score": float(i), "ci95": None, "n_samples": i} for i in range(100)}
    edit(output / "gqa" / "score.json", groups={"words": parts})
    text = Typed(report_eval(output)).text["categories"]
    assert "GQA by words (100), the 80 largest" in text
    assert "20 20.0 - 20" in text and "19 19.0 - 19" not in text


# Limits of the results -----------------------------------------------------------------------------------------------


def test_other_data_are_never_compared_with_the_paper(output: Path) -> None:
    for name in ("gqa", "pope", "textvqa", "vqav2"):
        edit_row(output, name, data_note="Mock questions.")
    page = Typed(report_eval(output))
    assert "Note: VQAv2, GQA, TextVQA, POPE: Mock questions." in page.text["header"]
    assert "of the paper" not in page.text["header"] and "Above" not in page.text["header"]
    assert "GQA not the benchmark's own data accuracy 66.7" in page.text["results"]
    assert " 62.9 " not in page.text["results"] and "minus it" not in page.text["results"]
    assert "Results of the paper: data, questions or judge are not those of the paper." in page.text["overview"]
    assert "AlignGPT-7B" not in page.text["overview"]


def test_some_other_data_leave_the_rest_comparable(output: Path) -> None:
    edit_row(output, "gqa", data_note="Mock questions.")
    edit_row(output, "pope", limit=30)
    folder = load_folder(output)
    assert set(folder.comparable) == {"textvqa"}  # neither other data nor the first questions only
    page = Typed(report_eval(output))
    assert "POPE first 30 questions F1" in page.text["results"] and " - - - - 30" in page.text["results"]
    assert "higher on 0 of 1 benchmark;" in page.text["header"]


@pytest.mark.parametrize(
    ("judge", "caveat", "comparable"),
    [
        ({"model": "llama", "answered_by": {}}, "judge: llama, the paper's is GPT-4", False),
        ({"model": "gpt-4", "answered_by": {"llama": 3, "not named": 1}}, "judge: llama, the paper's is GPT-4", False),
        ({"model": "gpt-4", "answered_by": {"gpt-4-0613": 3}}, "judge: gpt-4-0613 accuracy", True),
        (None, "GQA accuracy", True),
    ],
)
def test_a_judge_is_named_and_only_the_papers_is_comparable(
    judge: dict[str, Any] | None, caveat: str, comparable: bool, output: Path
) -> None:
    edit_row(output, "gqa", judge=judge and judge | {"cost": None, "n_unreadable": 0})
    assert caveat in Typed(report_eval(output)).text["results"]
    assert ("gqa" in load_folder(output).comparable) is comparable


def test_without_scores_and_gates_the_page_says_so(tmp_path: Path) -> None:
    folder = make_output(tmp_path / "none")
    for name in ("gqa", "pope", "textvqa"):
        for file in (folder / name).iterdir():
            file.unlink()
    page = Typed(report_eval(folder))
    check_structure(page)
    assert section_ids(page) == ["results", "gate", "predictions", "settings"]
    assert "0 of 4 benchmarks have a score." in page.text["header"]
    assert "Gate weights: the model has no gate" in page.text["gate"]
    assert "no benchmark has a run_config.json" in page.text["settings"]


def test_an_undefined_score_is_no_score(output: Path) -> None:
    edit(output / "gqa" / "score.json", score=None)
    edit_row(output, "gqa", score=None)
    assert "2 of 4 benchmarks have a score" in Typed(report_eval(output)).text["header"]


def test_the_overview_has_the_baseline_too(output: Path) -> None:
    cut = make_comparison("pope", 30.0, (1.0, 30.0), n_unpaired=3)  # of other questions than the paper's
    page = Typed(report_eval(output, comparisons=[make_comparison("gqa", 10.0, (1.0, 30.0)), cut]))
    assert "Benchmark ours other <b> AlignGPT-7B LLaVA-1.5-7B GQA 66.7 50.0 62.9 62.0" in page.text["overview"]
    assert "POPE 80.0 - 86.0" in page.text["overview"]


def test_a_synthetic_benchmark_alone_has_bars(tmp_path: Path) -> None:
    page = Typed(report_eval(make_results(tmp_path / "demo", [make_score("synthetic", 81.0, (79.0, 83.0))])))
    check_structure(page)
    assert "Benchmark demo Synthetic 81.0" in page.text["overview"] and "of the paper:" not in page.text["overview"]
    assert "Tables 1 and 2" not in page.text["results"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("results.json", "[]", r"results\.json: no schema_version"),
        ("results.json", '{"schema_version": 1}', r"results\.json: versions: Field required"),
        ("results.json", "{", "results.json:1:2: broken JSON"),
        ("gqa/gate_stats.json", '{"schema_version": 1, "overall": 3}', r"gate_stats\.json: overall"),
        ("gqa/score.json", '{"score": 1}', r"score\.json: no schema_version"),
    ],
)
def test_a_damaged_file_is_named(output: Path, file: str, content: str, message: str) -> None:
    (output / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        report_eval(output)
    assert not (output / "index.html").exists()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.json: no such file"):
        report_eval(tmp_path)


# Charts and insights -------------------------------------------------------------------------------------------------


def test_the_radar_and_its_bars() -> None:
    titles = {"gqa": "GQA", "pope": "POPE", "mme": "MME"}
    three = {"gqa": 60.0, "pope": 80.0, "mme": 1400.0}
    chart = charts.draw_overview(titles, {"ours": three, ALIGNGPT_7B.name: ALIGNGPT_7B.scores})
    assert chart.table and chart.table.rows[2] == ("MME", "1400.0", "1527.4")
    assert ">45 to 65<" in chart.svg and ">80 to 90<" in chart.svg and ">1300 to 1600<" in chart.svg
    alone = charts.draw_overview(titles, {"ours": three})
    assert alone.svg.count(">0 to 100<") == 2 and ">0 to 2000<" in alone.svg
    two = {"gqa": "GQA", "mme": "MME"}
    bars = charts.draw_overview(two, {"ours": {"gqa": 60.0, "mme": 1400.0}, "<paper>": {"gqa": 62.9}})
    assert ">0 to 100<" not in bars.svg and "% of the full score" in bars.svg
    assert bars.table and bars.table.rows == (("GQA", "60.0", "62.9"), ("MME", "1400.0", "\N{EN DASH}"))
    assert "GQA: ours 60.0, <paper> 62.9." in bars.alt


def test_differences_from_the_paper_are_in_percent_of_the_full_score() -> None:
    score = make_score("mme", 1427.4, (1327.4, 1627.4))
    chart = charts.draw_paper_differences({"mme": score}, ALIGNGPT_7B)
    assert as_typed(chart.alt) == "Score minus AlignGPT-7B of the paper: MME -100.0 (-200.0 to 100.0)."
    assert insights.is_inconclusive(score, 1527.4) and not insights.is_inconclusive(score, 1700.0)
    assert insights.is_inconclusive(make_score("mme", 2000.0), 1527.4)  # all of few questions are right


@pytest.mark.parametrize(("value", "formatted"), [(0.04, "±0.0"), (-0.04, "±0.0"), (-0.06, "-0.1"), (3, "+3.0")])
def test_signs(value: float, formatted: str) -> None:
    assert as_typed(format_difference(value)) == formatted


def test_the_gate_by_hand(output: Path) -> None:
    left = make_gate([0.5, 0.3, 0.2], 15, (0.99, 1.01)).model_copy(update={"entropy": 1.0})
    right = make_gate([0.2, 0.3, 0.5], 15, (1.04, 1.06)).model_copy(update={"entropy": 1.05})
    assert insights.compute_moved_weight(left, right) == pytest.approx(0.3)
    sentences = insights.describe_gate_entropy({"A": left, "B": right})
    assert sentences[0] == (
        "The entropy of the gate weights is 0.049 (B) to 0.099 (A) nats below the entropy of uniform weights "
        "(1.099 nats)."
    )
    assert "separate 1 of 1 pair of benchmarks" in sentences[1] and "A and B, with 30.0%" in sentences[1]
    assert len(insights.describe_gate_entropy({"A": left})) == 1
    text = Typed(report_eval(output)).text["gate"]
    assert "GQA: gate weights by kind of question" in text and "GQA 30 0.500 0.300 0.200 1.030" in text


@pytest.mark.parametrize("interval", [(0.9, 1.045), None])
def test_an_inconclusive_difference_is_not_stated(interval: tuple[float, float] | None) -> None:
    left = make_gate([0.5, 0.3, 0.2], 15, interval).model_copy(update={"entropy": 1.0})
    right = make_gate([0.2, 0.3, 0.5], 15, (1.04, 1.06)).model_copy(update={"entropy": 1.05})
    assert "separate no two benchmarks" in insights.describe_gate_entropy({"A": left, "B": right})[1]
    assert insights.describe_categories("A", {"a": left, "b": right}, "parts by kind") is None
    near = left.model_copy(update={"entropy_ci95": (1.0, 1.0)})
    equal = near.model_copy(update={"entropy": 1.0004, "entropy_ci95": (1.0004, 1.0004)})
    assert not insights.are_different(near, equal)  # both are written 1.000
    few = near.model_copy(update={"n_samples": 2})
    assert not insights.are_different(few, right)


def test_all_charts_of_the_gate_share_a_scale() -> None:
    near, far = make_gate([0.34, 0.33, 0.33], 15), make_gate([0.6, 0.2, 0.2], 15)
    reach = charts.find_largest_deviation([near, far])
    assert reach == pytest.approx(0.6 - 1 / 3) and charts.find_largest_deviation([near]) == 0.05
    alone = charts.draw_gate_weights({"near": near}, "a", "A", reach)
    both = charts.draw_gate_weights({"near": near, "far": far}, "b", "B", reach)
    colors = [re.findall(r"fill: (#\w{6})", chart.svg) for chart in (alone, both)]
    assert set(colors[0]) < set(colors[1])
    assert as_typed(alone.alt) == "A, minus uniform weights. near: +0.01, \u00b10.00, \u00b10.00."


def test_categories_of_the_score_divide_the_gate_too(output: Path) -> None:
    part = {"n_samples": 15, "weights": [0.5, 0.3, 0.2], "entropy": 1.0, "entropy_ci95": [0.98, 1.02]}
    parts = {"query": part, "verify": part | {"entropy": 1.09, "entropy_ci95": [1.085, 1.095]}}
    again = {"attr": part, "rel": part}
    gqa, pope = output / "gqa" / "gate_stats.json", output / "pope" / "gate_stats.json"
    edit(gqa, by_kind={"default": part}, by_group={"structural_type": parts, "other": again})
    edit(pope, by_kind=again, by_group={"once_more": again})
    text = Typed(report_eval(output)).text["gate"]
    assert "GQA: gate weights by structural type" in text and "query 15 0.500 0.300 0.200 1.000 0.980 to 1.020" in text
    assert "GQA: the 95% CIs of the entropy separate 1 of 1 pair of parts by structural type" in text
    assert "GQA: gate weights by other" in text and "once more" not in text and "Within no benchmark" not in text


def test_axes_without_values_have_a_range() -> None:
    nothing = {task: GroupScore(score=0.0, ci95=None, n_samples=2) for task in ("count", "color")}
    chart = charts.draw_sub_scores("mme", "MME", "task", nothing)
    assert ">200<" in chart.svg and "count 0.0 (\N{EN DASH})" in chart.alt
    same = charts.draw_differences([make_comparison("gqa", 0.0, (0.0, 0.0))])
    assert re.search(r">\N{MINUS SIGN}1\.0+<", same.svg) and "0.04" not in same.svg
