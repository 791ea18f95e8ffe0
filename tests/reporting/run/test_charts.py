"""Charts: well-formed markup that shares a page with other charts and follows the theme."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from aligngpt.experiments.artifacts import CaptionLevel, Estimate, LevelCaptions
from aligngpt.reporting.benchmarks import charts as benchmark_charts
from aligngpt.reporting.charts import CARD, INK, LINE, MUTED, Chart, get_level_color
from aligngpt.reporting.run import charts as run_charts
from tests.reporting.benchmark_folders import make_gate
from tests.reporting.conftest import make_training

TRAINING = make_training("pretrain", "adaptive", 0.5)
HALF = Estimate(value=0.5, ci95=(0.4, 0.6))
CAPTIONS = LevelCaptions(
    inputs={}, num_levels=2, by_level=[CaptionLevel(level=n, precision=HALF, recall=HALF) for n in (1, 2)], examples=[]
)
KINDS = Counter({(1, "whole"): 3, (1, "<b> $x_1$"): 1, (2, "whole"): 2})
GATES = {"count": make_gate([0.25, 0.75]), "existence": make_gate([0.5, 0.5], ci95=(0.6, 0.7))}
MAKERS = {
    "coverage": lambda: run_charts.draw_coverage_by_level([0.2, math.nan], [3, 0]),
    "loss_by_level": lambda: run_charts.draw_loss_by_level([0.9, 0.5]),
    "kinds": lambda: run_charts.draw_kinds_by_level(KINDS, 2),
    "curves": lambda: run_charts.draw_loss_curves({"adaptive": TRAINING, "none": TRAINING}, "pretrain"),
    "captions": lambda: run_charts.draw_captions_by_level(CAPTIONS),
    "gates": lambda: benchmark_charts.draw_gate_weights(GATES, "all", "Gate weights", 0.3),
    "entropy": lambda: benchmark_charts.draw_gate_entropy(GATES),
    "seconds": lambda: run_charts.draw_step_runtime({"score": 61.0, "level": 0.0}),
    "memory": lambda: run_charts.draw_step_memory({"score": 2048.0}),
}


@pytest.fixture(scope="module")
def charts() -> dict[str, Chart]:
    return {name: make() for name, make in MAKERS.items()}


def texts(chart: Chart) -> list[str]:
    root = ElementTree.fromstring(str(chart.svg))
    return ["".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("text")]


def test_each_chart_is_well_formed_and_described(charts: dict[str, Chart]) -> None:
    for name, chart in charts.items():
        root = ElementTree.fromstring(str(chart.svg))
        assert root.attrib["role"] == "img" and root.attrib["aria-label"] == chart.alt, name
        assert chart.title and re.search(r"\d", chart.alt), name
        assert "width" not in root.attrib and "viewBox" in root.attrib, name


def test_text_has_at_least_11_pixels_where_the_page_is_400_wide(charts: dict[str, Chart]) -> None:
    for name, chart in charts.items():
        width = float(re.findall(r'viewBox="0 0 (\S+)', str(chart.svg))[0])
        sizes = [float(size) for size in re.findall(r"(?:font: |font-size: )(?:\d+ )?([\d.]+)px", str(chart.svg))]
        assert sizes and min(sizes) * 350 / width >= 11, name


def test_charts_follow_the_theme(charts: dict[str, Chart]) -> None:
    for name, chart in charts.items():
        assert "var(--ink)" in chart.svg or "var(--muted)" in chart.svg, name
        for color in (INK, MUTED, LINE, CARD):
            assert color not in chart.svg, name


def test_no_two_charts_share_an_id(charts: dict[str, Chart]) -> None:
    ids = [id_ for chart in charts.values() for id_ in set(re.findall(r'\bid="([^"]+)"', str(chart.svg)))]
    assert len(ids) == len(set(ids)) > 0
    for chart in charts.values():
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', str(chart.svg))
        assert set(used) <= set(re.findall(r'\bid="([^"]+)"', str(chart.svg)))


def test_names_are_drawn_as_they_are(charts: dict[str, Chart]) -> None:
    assert "<b> $x_1$" in texts(charts["kinds"])


def test_values_are_labeled(charts: dict[str, Chart]) -> None:
    assert {"+0.25", "\N{MINUS SIGN}0.25", "±0.00"} <= set(texts(charts["gates"]))
    assert "1 min 1 s" in texts(charts["seconds"]) and "2.0 GB" in texts(charts["memory"])
    assert "\N{EN DASH}" in texts(charts["coverage"])
    assert f"which is {math.log(2):.2f} nats" in charts["entropy"].alt


def test_many_levels_have_no_labels_that_would_overlap() -> None:
    chart = run_charts.draw_loss_by_level([0.5] * 16)
    assert "0.50" not in texts(chart) and chart.table is not None and len(chart.table.rows) == 16


def test_the_same_numbers_give_the_same_markup(charts: dict[str, Chart]) -> None:
    assert MAKERS["curves"]().svg == charts["curves"].svg


def test_matplotlibs_settings_do_not_change() -> None:
    before = dict(mpl.rcParams)
    run_charts.draw_loss_by_level([1.0])
    assert dict(mpl.rcParams) == before


def test_pyplot_is_never_loaded() -> None:
    code = "import aligngpt.reporting as r, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_level_colors_are_distinct_and_stable() -> None:
    colors = [get_level_color(level, 8) for level in range(1, 9)]
    assert len(set(colors)) == 8 and all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)
    assert get_level_color(1, 1) == colors[0]
