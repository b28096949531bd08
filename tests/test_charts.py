"""Charts: complete SVG whose markers are where their values belong, in pages and files."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirnet_edge.charts import (
    STYLESHEET,
    BarPanel,
    ChartAxis,
    ChartPoint,
    ChartSamples,
    ChartSeries,
    arrange_charts,
    bar_chart,
    distribution_chart,
    line_chart,
    round_ticks,
    scatter_chart,
)

_NAMES = st.text("ab<&: ", max_size=40)
_MS, _DB = st.floats(0.01, 1e5), st.floats(-5, 100)
_LINEAR, _LOG = ChartAxis(label="x <"), ChartAxis(label="ms", log=True)


def elements(chart, tag):
    """Return the elements of a chart by tag."""
    return list(ElementTree.fromstring(chart.to_inline()).iter(tag))


def markers(chart):
    """Return the positions of all circles."""
    return [(float(one.get("cx")), float(one.get("cy"))) for one in elements(chart, "circle")]


def labels(chart):
    """Return (text, x, y) of all names."""
    return [
        (one.text or "", float(one.get("x")), float(one.get("y")))
        for one in elements(chart, "text")
        if one.get("class") == "name"
    ]


@given(st.lists(st.tuples(_MS, _DB, _NAMES), min_size=1, max_size=20), st.integers(1, 5))
def test_any_values_give_markers_within_the_chart(rows, bins):
    points = [ChartPoint(name, ms, decibel) for ms, decibel, name in rows]
    samples = [ChartSamples(name, [ms, 2 * ms], "secondary") for ms, _, name in rows]
    series = [
        ChartSeries(name, [(float(x), decibel + x * ms) for x in range(bins)], "muted", "note")
        for ms, decibel, name in rows
    ]
    ticks = ChartAxis(label="bins", ticks=[(float(x), f"{x} <") for x in range(bins)])
    charts = [
        scatter_chart("t", points, axis, _LINEAR, size=(1040, 460), front=[0], numbered=numbered)
        for axis in (_LOG, _LINEAR)
        for numbered in (False, True)
    ]
    charts += [
        line_chart("t <", series, axis, _LINEAR, size=(1040, 400)) for axis in (ticks, _LINEAR)
    ]
    charts += [distribution_chart("t", samples, _LOG, width=360, narrow=True)]
    for chart in charts:
        assert markers(chart)
        for x, y in markers(chart):
            assert 0 <= x <= chart.width
            assert 0 <= y <= chart.height


def test_points_are_ordered_as_their_values_and_say_them():
    points = [ChartPoint("slow", 100.0, 20.0), ChartPoint("fast", 1.0, 30.0, tooltip="fast: 1 ms")]
    chart = scatter_chart("t", points, _LOG, _LINEAR, size=(400, 300), front=[1, 0])
    (slow_x, slow_y), (fast_x, fast_y) = markers(chart)
    assert (fast_x < slow_x, fast_y < slow_y) == (True, True)  # the y of SVG points down
    assert [one.text for one in elements(chart, "title")] == ["slow", "fast: 1 ms"]
    front = next(one for one in elements(chart, "path") if one.get("class") == "front")
    assert front.get("d") == f"M{fast_x:.1f} {fast_y:.1f}L{slow_x:.1f} {slow_y:.1f}"


def test_logarithmic_axes_give_equal_ratios_equal_distances():
    points = [ChartPoint("", 10.0**power, 1.0) for power in range(4)]
    places = [x for x, _ in markers(scatter_chart("t", points, _LOG, _LINEAR, size=(900, 300)))]
    first, *others = [after - before for before, after in pairwise(places)]
    assert others == pytest.approx([first, first], abs=0.2)


@pytest.mark.parametrize("count", [2, 6])
def test_labels_of_equal_points_do_not_cover_each_other(count):
    points = [ChartPoint(f"entry {one}", 5.0, 20.0) for one in range(count)]
    chart = scatter_chart("t", points, _LOG, _LINEAR, size=(800, 400))
    heights = sorted(y for _, _, y in labels(chart))
    assert all(after - before >= 12 for before, after in pairwise(heights))


def test_line_names_are_at_the_right_and_apart():
    series = [ChartSeries(f"line {one}", [(0.0, 1.0), (1.0, 2.0)]) for one in range(4)]
    chart = line_chart("t", series, _LINEAR, _LINEAR, size=(600, 200))
    found = labels(chart)
    assert [text for text, _, _ in found] == ["line 0", "line 1", "line 2", "line 3"]
    assert min(x for _, x, _ in found) > max(x for x, _ in markers(chart))
    heights = sorted(y for _, _, y in found)
    assert all(after - before >= 13.9 for before, after in pairwise(heights))


def test_long_lines_have_no_markers():
    def chart(count):
        points = [(float(step), step / count) for step in range(count)]
        return line_chart("t", [ChartSeries("loss", points)], _LINEAR, _LINEAR, size=(520, 320))

    assert (len(markers(chart(40))), len(markers(chart(41)))) == (40, 0)


def test_the_median_of_a_distribution_is_written_beside_it():
    rows = [ChartSamples("a", [1.0, 2.0, 9.0])]
    axis = ChartAxis(label="latency", log=True, format="{:g} ms".format)
    texts = [one.text for one in elements(distribution_chart("t", rows, axis, width=500), "text")]
    assert "2 ms" in texts


def test_bars_are_as_long_as_their_values_from_zero():
    panel = BarPanel("drop (dB)", [0.5, 1.0, None, -0.5], digits=1)
    chart = bar_chart("t", ["a", "b", "c", "d"], [panel], width=500)
    half, whole, negative = elements(chart, "rect")
    assert float(whole.get("width")) == pytest.approx(2 * float(half.get("width")), abs=0.2)
    assert float(negative.get("width")) == pytest.approx(float(half.get("width")), abs=0.2)
    assert half.get("x") == whole.get("x")
    end = float(negative.get("x")) + float(negative.get("width"))
    assert end == pytest.approx(float(half.get("x")), abs=0.2)
    texts = [one.text for one in elements(chart, "text")]
    assert texts == ["a", "b", "c", "d", "drop (dB)", "0.5", "1.0", "-0.5"]


def test_arranged_charts_lie_side_by_side():
    one = line_chart("t", [ChartSeries("", [(0.0, 1.0)])], _LINEAR, _LINEAR, size=(100, 150))
    chart = arrange_charts("all", [one] * 3, columns=2)
    assert (chart.width, chart.height) == (200, 300)
    moves = [group.get("transform") for group in elements(chart, "g")]
    assert moves == ["translate(0 0)", "translate(100 0)", "translate(0 150)"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (19.4, 23.2, [20, 21, 22, 23]),
        (-30, 5, [-30, -20, -10, 0]),
    ],
    ids=str,
)
def test_ticks_are_round(low, high, expected):
    assert round_ticks(low, high, 6) == expected


def test_a_file_has_its_own_size_and_both_themes_and_every_class_has_a_style():
    points = [
        ChartPoint(style, 1.0, 1.0, style) for style in ("primary", "secondary", "muted", "accent")
    ]
    chart = scatter_chart("a < b", points, _LOG, _LINEAR, size=(400, 300), front=[0])
    root = ElementTree.fromstring(chart.to_file())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("aria-label") == "a < b"
    assert "width:400px;height:300px" in root.get("style")
    text = chart.to_file().decode()
    assert "prefers-color-scheme: dark" in text
    used = {name for one in re.findall(r'class="(.*?)"', text) for name in one.split()}
    assert {"primary", "secondary", "muted", "accent", "front", "point", "grid"} <= used
    assert [name for name in used if f".{name} " not in STYLESHEET] == []
    light, dark = (set(re.findall(r"(--\w+):", one)) for one in STYLESHEET.split("@media", 1))
    assert light == dark == set(re.findall(r"var\((--\w+)\)", STYLESHEET)) | {
        "--paper", "--warning", "--shade"
    }  # fmt: skip
