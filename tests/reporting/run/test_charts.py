"""Charts: markup that can stand inside a page, next to others, in either mode."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from aligngpt.reporting.charts import CARD, INK, LINE, MUTED, Chart, level_color
from aligngpt.reporting.run import charts as figures
from aligngpt.reporting.run.load import Accuracy, CaptionLevel, GateKind, Pair, Training

PAIRS = [Pair(str(n), n / 100, 1 + n // 50, kind="whole" if n % 2 else "<b>", coverage=0.5) for n in range(100)]
TRAINING = Training("pretrain", "adaptive", 2, 2, 0, 1.0, 0.5, ((1, 2.0), (2, 1.0), (3, 0.5)), (), ())
ACCURACY = {"count": Accuracy(0.5, (0.4, 0.6), 10), "a<b $x_1$": Accuracy(0.7, (0.6, 0.8), 10)}
GATES = {"count": GateKind((0.25, 0.75), 0.56), "existence": GateKind((0.5, 0.5), 0.69)}
DRAWN = {
    "histogram": lambda: figures.score_histogram(PAIRS, (0.5,), 2),
    "coverage": lambda: figures.coverage_by_level([0.2, math.nan], [3, 0]),
    "loss_by_level": lambda: figures.loss_by_level([0.9, 0.5]),
    "kinds": lambda: figures.kinds_by_level(PAIRS, 2),
    "curves": lambda: figures.loss_curves({"adaptive": TRAINING, "none": TRAINING}, "pretrain"),
    "captions": lambda: figures.captions_by_level([CaptionLevel(n, 0.5, 0.5, (0.4, 0.6)) for n in (1, 2)]),
    "accuracy": lambda: figures.accuracy_by_kind({"adaptive": ACCURACY, "none": {"count": ACCURACY["count"]}}),
    "gates": lambda: figures.gate_weights(GATES),
    "entropy": lambda: figures.gate_entropy(GATES),
    "seconds": lambda: figures.step_seconds({"scores": 61.0, "levels": 0.0}),
    "memory": lambda: figures.step_memory({"scores": 2048.0}),
}


@pytest.fixture(scope="module")
def charts() -> dict[str, Chart]:
    return {name: draw() for name, draw in DRAWN.items()}


def texts(chart: Chart) -> list[str]:
    root = ElementTree.fromstring(str(chart.svg))
    return ["".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("text")]


def test_each_chart_is_well_formed_and_described(charts: dict[str, Chart]) -> None:
    for name, chart in charts.items():
        root = ElementTree.fromstring(str(chart.svg))
        assert root.attrib["role"] == "img" and root.attrib["aria-label"] == chart.alt, name
        assert chart.title and re.search(r"\d", chart.alt), name
        assert "width" not in root.attrib and "viewBox" in root.attrib, name


def test_charts_follow_the_theme(charts: dict[str, Chart]) -> None:
    for name, chart in charts.items():
        assert "var(--ink)" in chart.svg or "var(--muted)" in chart.svg, name
        for color in (INK, MUTED, LINE, CARD):
            assert color not in chart.svg, name


def test_no_two_charts_share_an_id(charts: dict[str, Chart]) -> None:
    ids = [one for chart in charts.values() for one in set(re.findall(r'\bid="([^"]+)"', str(chart.svg)))]
    assert len(ids) == len(set(ids)) > 0
    for chart in charts.values():
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', str(chart.svg))
        assert set(used) <= set(re.findall(r'\bid="([^"]+)"', str(chart.svg)))


def test_names_are_drawn_as_they_are(charts: dict[str, Chart]) -> None:
    assert "A<b $x 1$" in texts(charts["accuracy"])
    assert "<b>" in texts(charts["kinds"])


def test_values_stand_on_the_charts(charts: dict[str, Chart]) -> None:
    assert {"0.25", "0.75", "0.50"} <= set(texts(charts["gates"]))
    assert "1 min 1 s" in texts(charts["seconds"]) and "2.0 GB" in texts(charts["memory"])
    assert "\N{EN DASH}" in texts(charts["coverage"])
    assert f"even weights {math.log(2):.2f}" in texts(charts["entropy"])


def test_the_accuracy_table_leaves_unasked_kinds_open(charts: dict[str, Chart]) -> None:
    table = charts["accuracy"].table
    assert table is not None
    assert table.head == ("Kind", "Questions", "Adaptive alignment", "No alignment")
    assert table.rows[1][2:] == ("70.0\N{NO-BREAK SPACE}% (60.0 to 80.0\N{NO-BREAK SPACE}%)", "\N{EN DASH}")


def test_the_same_numbers_give_the_same_markup(charts: dict[str, Chart]) -> None:
    assert DRAWN["histogram"]().svg == charts["histogram"].svg


def test_one_score_alone_or_one_for_all_can_be_drawn() -> None:
    assert "1 CLIP scores from 0.30 to 0.30" in figures.score_histogram([Pair("a", 0.3, 1)], (), 1).alt
    same = [Pair(str(n), 0.3, 8) for n in range(5)] + [Pair("bad", math.nan, 0)]
    assert "5 CLIP scores" in figures.score_histogram(same, (0.3,) * 7, 8).alt


def test_matplotlibs_settings_are_left_alone() -> None:
    before = dict(mpl.rcParams)
    figures.loss_by_level([1.0])
    assert dict(mpl.rcParams) == before


def test_pyplot_is_never_loaded() -> None:
    code = "import aligngpt.reporting as r, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_level_colors_are_distinct_and_stable() -> None:
    colors = [level_color(level, 8) for level in range(1, 9)]
    assert len(set(colors)) == 8 and all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)
    assert level_color(1, 1) == colors[0]
