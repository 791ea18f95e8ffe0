"""The page of benchmark results: figures beside the paper's, honest about what is missing, safe, self-contained."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from aligngpt.reporting.benchmarks import charts as figures
from aligngpt.reporting.benchmarks import insights as findings
from aligngpt.reporting.benchmarks.load import Gate, load_folder
from aligngpt.reporting.benchmarks.page import write_page
from aligngpt.reporting.benchmarks.paper_results import ALIGNGPT_7B, LLAVA_13B, PAPER_MODELS, RIVALS, TITLES
from tests.reporting.benchmark_folders import edit, make_data, make_output
from tests.reporting.html_pages import Page, check_self_contained, check_structure

SECTIONS = ["results", "radar", "parts", "gate", "answers", "notes", "settings"]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return make_output(tmp_path / "my-model", make_data(tmp_path / "data"))


def as_typed(words: str) -> str:
    """Dashes, minus signs and quotation marks as they are on a keyboard."""
    return words.translate({0x2013: "-", 0x2212: "-", 0x2019: "'"})


class Typed(Page):
    """A page whose text is as typed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.text = {name: as_typed(words) for name, words in self.text.items()}


def section_ids(page: Page) -> list[str]:
    return [found["id"] for tag, found in page.tags if tag == "section" and "id" in found]


# ---------------------------------------------------------------------------------------------------------- the paper


def test_the_papers_tables() -> None:
    assert [len(model.scores) for model in PAPER_MODELS] == [12, 12, 12, 12, 10, 9, 9]
    assert (ALIGNGPT_7B.scores["mme"], ALIGNGPT_7B.scores["mmvet"], LLAVA_13B.scores["seed"]) == (1527.4, 30.8, 68.2)
    mini, qwen, instruct = PAPER_MODELS[4:]
    assert (mini.language_model, mini.resolution, mini.scores["textvqa"]) == ("LLaMA2-7B", 448, 28.0)
    assert set(TITLES) - qwen.scores.keys() == {"pope", "llava_bench", "mmvet"}
    assert set(TITLES) - instruct.scores.keys() == {"vqav2", "pope", "mme"}
    # The paper: ahead of LLaVA-1.5 on all twelve at 7B, by 0.1 to 5 points where 100 is full.
    ahead = {name: RIVALS[0].scores[name] - RIVALS[2].scores[name] for name in TITLES if name != "mme"}
    assert min(ahead.values()) == pytest.approx(0.1) and max(ahead.values()) == pytest.approx(5.0)


# ----------------------------------------------------------------------------------------------------------- the page


def test_the_page_is_whole_and_asks_nothing_of_anyone(output: Path, tmp_path: Path) -> None:
    assert write_page(output) == output / "index.html"
    page = Typed(output / "index.html")
    check_self_contained(page)
    check_structure(page)
    assert section_ids(page) == SECTIONS
    assert [found["href"] for tag, found in page.tags if tag == "a"][1:] == [f"#{name}" for name in SECTIONS]
    again = write_page(output, tmp_path / "new" / "page.html")
    assert again.read_bytes() == (output / "index.html").read_bytes()
    assert sorted(path.name for path in output.iterdir()) == [
        "gqa", "index.html", "pope", "results.json", "textvqa",
    ]  # fmt: skip


def test_scores_stand_beside_the_papers_with_interval_and_difference(output: Path) -> None:
    page = Typed(write_page(output))
    stored = json.loads((output / "gqa" / "score.json").read_text())
    low, high = (f"{bound:.1f}" for bound in stored["interval"])
    assert f"GQA accuracy 66.7 {low} to {high} 62.9 +3.8 may be chance 63.6 +3.1" in page.text["results"]
    # 6 of 29 answers are right: 20.7 minus 58.4, which the interval does not reach.
    assert "58.4 -37.7 60.2 -39.5 58.2 -37.5 61.3 -40.6 29" in page.text["results"]
    assert "VQAv2 scored by a server 79.1 80.0 78.5 80.0" in page.text["results"]
    assert "the paper gives none" in page.text["results"]
    assert "my-model - 66.7 - - 20.7 " in page.text["results"]
    assert "MiniGPT-v2 LLaMA2-7B 448 74.6 60.3 32.9 60.9 28.0 85.1 1332.1 43.1 29.1 52.3 - -" in page.text["results"]


def test_the_findings_stand_on_top(output: Path) -> None:
    head = Typed(write_page(output)).text["header"]
    assert head.startswith("AlignGPT · benchmarks my-model 3 of 4 benchmarks have a score.")
    assert "Against the paper's AlignGPT-7B the score is higher on 1 of 3 benchmarks; on 2 the difference may" in head
    assert "tiny, alignment adaptive" in head and "1 image could not be read" in head


def test_everything_from_outside_is_escaped(output: Path) -> None:
    edit(
        output / "results.json",
        benchmarks=[{"benchmark": "gqa", "reasons": []}, {"benchmark": "x<i>", "reasons": ["<u>"]}],
    )
    edit(output / "gqa" / "score.json", metric="<s>", notes=["<q>"])
    page = Typed(write_page(output))
    assert not {"i", "u", "s", "q"} & {tag for tag, _ in page.tags}
    assert all(word in page.text["results"] for word in ("<s>", "x<i>", "<u>")) and "<q>" in page.text["notes"]


def test_unreadable_images_are_named_and_counts_told(output: Path) -> None:
    text = Typed(write_page(output)).text["answers"]
    assert "Answers: 89. Questions without one: 1; answers to no question: 0; answers that came again: 0." in text
    assert "POPE 30 0 0 0 1 1 min 1 s" in text and "TextVQA 29 1 0 0 0 1 min 1 s" in text
    assert "POPE 1 could not be read Image Reason <3>.jpg truncated image" in text
    many = [{"question_id": i, "image": None, "reason": f"reason {i}"} for i in range(25)]
    edit(output / "gqa" / "run.json", unreadable_images=many)
    text = Typed(write_page(output)).text["answers"]
    assert "GQA 25 could not be read, the first 20 of them" in text
    assert "image of question 19 reason 19" in text and "reason 20" not in text


def test_the_protocols_and_their_notes(output: Path) -> None:
    text = Typed(write_page(output)).text["notes"]
    assert "TextVQA official 20.7 20.0" in text
    assert "official 20.69, strict 20.00: the official score is the mean over the lines of the answers" in text


def test_sub_scores_are_drawn_or_tabled(output: Path) -> None:
    page = Typed(write_page(output))
    assert "GQA by form" in page.text["parts"] and "GQA by structural type, 2 parts" in page.text["parts"]
    parts = {str(i): {"score": float(i), "interval": [None, None], "count": i} for i in range(100)}
    edit(output / "gqa" / "score.json", groups={"words": parts})
    text = Typed(write_page(output)).text["parts"]
    assert "GQA by words, 100 parts, the 80 largest" in text
    assert "20 20.0 - 20" in text and "19 19.0 - 19" not in text


# ------------------------------------------------------------------------------------------------- what cannot be said


def test_drawn_data_are_never_set_against_the_paper(output: Path) -> None:
    for name in ("gqa", "pope", "textvqa"):
        edit(output / name / "run.json", data_note="Drawn miniatures.")
    page = Typed(write_page(output))
    assert "Not the benchmarks' own data. Drawn miniatures." in page.text["header"]
    assert "Against the paper" not in page.text["header"] and "Above" not in page.text["header"]
    assert "GQA not its own data accuracy 66.7" in page.text["results"]
    assert "GQA not" in page.text["results"] and " 62.9 63.6 " not in page.text["results"]
    assert "my-model" not in page.text["results"] and "minus it" not in page.text["results"]
    assert "The paper's lines: data, questions or judge are not the paper's." in page.text["radar"]
    assert "AlignGPT-7B" not in page.text["radar"]


def test_some_drawn_data_leave_the_others_comparable(output: Path) -> None:
    edit(output / "gqa" / "run.json", data_note="Drawn miniatures.")
    edit(output / "pope" / "run.json", limit=30)
    folder = load_folder(output)
    assert set(folder.comparable) == {"textvqa"}  # neither drawn data nor the first questions alone
    page = Typed(write_page(output))
    assert "POPE first 30 questions F1" in page.text["results"] and " - - - - 30" in page.text["results"]
    assert "higher on 0 of 1 benchmark;" in page.text["header"]


@pytest.mark.parametrize(
    ("judge", "mark", "comparable"),
    [
        ({"model": "llama", "answered_by": {}}, "judge: llama, the paper's is GPT-4", False),
        ({"model": "gpt-4", "answered_by": {"llama": 3, "not named": 1}}, "judge: llama, the paper's is GPT-4", False),
        ({"model": "gpt-4", "answered_by": {"gpt-4-0613": 3}}, "judge: gpt-4-0613 accuracy", True),
        (None, "GQA accuracy", True),
    ],
)
def test_a_judge_is_named_and_only_the_papers_compared(
    judge: object, mark: str, comparable: bool, output: Path
) -> None:
    edit(output / "results.json", benchmarks=[{"benchmark": "gqa", "reasons": [], "judge": judge}])
    page = Typed(write_page(output))
    assert mark in page.text["results"] and ("62.9" in page.text["results"].split("Tables 1 and 2")[1]) == comparable
    assert ("Against the paper" in page.text["header"]) == comparable


def test_nothing_scored_is_a_page_too(tmp_path: Path) -> None:
    rows = [{"benchmark": name, "score": None, "reasons": [f"no {name} here"]} for name in ("pope", "gqa", "extra")]
    (tmp_path / "results.json").write_text(json.dumps({"model": "m", "benchmarks": rows}))
    page = Typed(write_page(tmp_path))
    check_structure(page)
    assert "0 of 3 benchmarks have a score." in page.text["header"]
    assert section_ids(page) == ["results", "gate", "answers", "settings"]
    assert page.text["results"].index("no gqa here") < page.text["results"].index("no pope here")
    assert "extra no extra here - - - -" in page.text["results"]
    assert "Gate weights: a model without a gate" in page.text["gate"]


def test_a_thirteenth_benchmark_has_its_title_and_no_figures_of_the_paper(output: Path) -> None:
    rows = [{"benchmark": "probes", "title": "Probes", "reasons": []}, {"benchmark": "gqa", "reasons": []}]
    edit(output / "results.json", benchmarks=rows)
    (output / "pope").rename(output / "probes")
    page = Typed(write_page(output))
    assert "Probes F1 of yes, mean of the subsets" in page.text["results"]
    assert "Probes official" in page.text["notes"] and "Probes" not in page.text["radar"]
    edit(output / "results.json", benchmarks=rows[:1])
    page = Typed(write_page(output))
    assert "1 of 1 benchmark has a score." in page.text["header"] and "AlignGPT-7B" not in page.text["results"]


def test_answers_without_a_score_are_answers(output: Path) -> None:
    edit(output / "results.json", benchmarks=[{"benchmark": "gqa", "reasons": ["scored by a server"]}])
    (output / "gqa" / "score.json").unlink()
    assert Typed(write_page(output)).text["header"].endswith("tiny, alignment adaptive Answers 0")
    edit(output / "gqa" / "run.json", counts={"questions": 30}, complete=True)
    assert Typed(write_page(output)).text["header"].endswith("Answers 30 30 not scored; every image was read")


def test_the_radar_has_the_other_model_too(output: Path) -> None:
    other = {
        "benchmark": "gqa",
        "scores": [50.0, 66.7],
        "difference": 16.7,
        "interval": [1.0, 30.0],
        "metric": "accuracy",
    }
    other |= {"p_value": 0.1, "test": "sign test", "count": 30, "left_out": 0, "first_better": 0, "second_better": 5}
    cut = other | {"benchmark": "pope", "left_out": 3, "scores": [1.0, 2.0]}  # of other questions than the paper's
    page = Typed(write_page(output, comparisons=[other, cut], names=("other", "ours")))
    assert "Benchmark ours other AlignGPT-7B LLaVA-1.5-7B GQA 66.7 50.0 62.9 62.0" in page.text["radar"]
    assert "POPE 80.0 - 86.0" in page.text["radar"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("results.json", "[]", "results.json: expected the results of aligngpt eval run"),
        ("results.json", '{"accuracy": 1}', "results.json: expected the results of aligngpt eval run"),
        ("results.json", "{", "results.json:1:2: broken JSON"),
        ("gqa/gates.json", "[]", "gates.json: expected an object; run aligngpt eval run again"),
        ("gqa/gates.json", "{}", "gqa: a file of another form"),
        ("gqa/score.json", '{"score": 1}', "gqa: a file of another form"),
    ],
)
def test_a_broken_file_is_named(output: Path, file: str, content: str, message: str) -> None:
    if file == "gqa/gates.json" and content == "{}":
        content = '{"count": 1}'
    (output / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        write_page(output)
    assert not (output / "index.html").exists()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"results\.json: no such file"):
        write_page(tmp_path)


# ------------------------------------------------------------------------------------------------- figures, sentences


def test_the_radar_and_its_bars() -> None:
    three = {"gqa": 60.0, "pope": 80.0, "mme": 1400.0}
    chart = figures.radar({"ours": three, ALIGNGPT_7B.name: ALIGNGPT_7B.scores})
    assert chart.table and chart.table.rows[2] == ("MME", "1400.0", "1527.4")
    assert ">45 to 65<" in chart.svg and ">80 to 90<" in chart.svg and ">1300 to 1600<" in chart.svg
    alone = figures.radar({"ours": three})
    assert alone.svg.count(">0 to 100<") == 2 and ">0 to 2000<" in alone.svg
    bars = figures.radar({"ours": {"gqa": 60.0, "mme": 1400.0}, "<paper>": {"gqa": 62.9}})
    assert ">0 to 100<" not in bars.svg and "% of the full score" in bars.svg
    assert bars.table and bars.table.rows == (("GQA", "60.0", "62.9"), ("MME", "1400.0", "\N{EN DASH}"))
    assert "GQA: ours 60.0, <paper> 62.9." in bars.alt


def test_differences_from_the_paper_are_in_percent_of_the_full_score(output: Path) -> None:
    folder = load_folder(output)
    score = replace(folder.scores["gqa"], value=1427.4, interval=(1327.4, 1627.4))
    chart = figures.from_paper({"mme": score}, ALIGNGPT_7B)
    assert as_typed(chart.alt) == "Score minus the paper's AlignGPT-7B: MME -100.0 (-200.0 to 100.0)."
    assert findings.is_within(score, 1527.4) and not findings.is_within(score, 1700.0)
    assert findings.is_within(replace(score, interval=(2000.0, 2000.0)), 1527.4)  # all of few questions are right


@pytest.mark.parametrize(("value", "written"), [(0.04, "±0.0"), (-0.04, "±0.0"), (-0.06, "-0.1"), (3, "+3.0")])
def test_signs(value: float, written: str) -> None:
    assert as_typed(figures.signed(value)) == written


def test_the_gate_by_hand(output: Path) -> None:
    one, other = Gate((0.5, 0.3, 0.2), 1.0, 15, (0.99, 1.01)), Gate((0.2, 0.3, 0.5), 1.05, 15, (1.04, 1.06))
    assert findings.shift(one, other) == pytest.approx(0.3)
    said = findings.gates({"A": one, "B": other})
    assert said[0] == (
        "The entropy of the gate's weights is between 0.049 (B) and 0.099 (A) below 1.099 nats, the entropy of even "
        "weights."
    )
    assert "1 of 1 pair of benchmarks apart" in said[1] and "A and B: 30.0" in said[1]
    assert len(findings.gates({"A": one})) == 1
    page = Typed(write_page(output))
    assert "GQA: gate weights by kind of question" in page.text["gate"]
    assert "One Questions" not in page.text["gate"] and "GQA 30 0.500 0.300 0.200 1.030" in page.text["gate"]


@pytest.mark.parametrize("interval", [(0.9, 1.045), (math.nan, math.nan)])
def test_a_difference_that_may_be_chance_is_not_stated(interval: tuple[float, float]) -> None:
    one, other = Gate((0.5, 0.3, 0.2), 1.0, 15, interval), Gate((0.2, 0.3, 0.5), 1.05, 15, (1.04, 1.06))
    assert "No two benchmarks are told apart" in findings.gates({"A": one, "B": other})[1]
    assert findings.kinds("A", {"a": one, "b": other}, "parts by kind") is None
    alike = replace(one, interval=(1.0, 1.0)), replace(one, entropy=1.0004, interval=(1.0004, 1.0004))
    assert not findings.told_apart(*alike)  # both are written 1.000
    few = replace(one, count=2, interval=(1.0, 1.0)), replace(other, interval=(1.04, 1.06))
    assert not findings.told_apart(*few)


def test_every_map_of_the_gate_has_the_same_scale() -> None:
    near, far = Gate((0.34, 0.33, 0.33), 1.0986, 15), Gate((0.6, 0.2, 0.2), 0.95, 15)
    reach = figures.widest_deviation([near, far])
    assert reach == pytest.approx(0.6 - 1 / 3) and figures.widest_deviation([near]) == 0.05
    alone = figures.gate_weights({"near": near}, "a", "A", reach)
    both = figures.gate_weights({"near": near, "far": far}, "b", "B", reach)
    colors = [re.findall(r"fill: (#\w{6})", chart.svg) for chart in (alone, both)]
    assert set(colors[0]) < set(colors[1])
    assert as_typed(alone.alt) == "A, minus even ones. near: +0.01, \u00b10.00, \u00b10.00."


def test_divisions_of_the_score_divide_the_gate_too(output: Path) -> None:
    part = {"count": 15, "weights": [0.5, 0.3, 0.2], "entropy": 1.0, "entropy_interval": [0.98, 1.02]}
    parts = {"query": part, "verify": part | {"entropy": 1.09, "entropy_interval": [1.085, 1.095]}}
    again = {"attr": part, "rel": part}
    edit(output / "gqa" / "gates.json", by_kind={"default": part}, by_group={"structural_type": parts, "other": again})
    edit(output / "pope" / "gates.json", by_kind=again, by_group={"once_more": again})
    text = Typed(write_page(output)).text["gate"]
    assert "GQA: gate weights by structural type" in text and "query 15 0.500 0.300 0.200 1.000 0.980 to 1.020" in text
    assert "GQA: entropy tells 1 of 1 pair of parts by structural type apart" in text
    assert "GQA: gate weights by other" in text and "once more" not in text and "Within no benchmark" not in text


def test_axes_of_nothing_have_a_span(output: Path) -> None:
    result = replace(load_folder(output).results[0], name="mme", title="MME")
    nothing = {task: {"score": 0.0, "interval": [0.0, 0.0], "count": 2} for task in ("count", "color")}
    chart = figures.sub_scores(result, "task", nothing)
    assert ">200<" in chart.svg and "count 0.0 (\N{EN DASH})" in chart.alt
    same = figures.differences([{"benchmark": "gqa", "difference": 0.0, "interval": [0.0, 0.0]}], "A", "B")
    assert re.search(r">\N{MINUS SIGN}1\.0+<", same.svg) and "0.04" not in same.svg
