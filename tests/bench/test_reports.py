"""A recorded report in every format: what is not known is said, and nothing needs a network."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirnet_edge.bench.charts import (
    ChartAxes,
    ChartLine,
    LatencySpread,
    ParetoPoint,
    line_chart,
    pareto_chart,
    spread_chart,
)
from mirnet_edge.bench.markdown_report import write_report
from mirnet_edge.bench.record import ClipFacts, ClipFlicker, ImageCrop, read_report, to_json
from mirnet_edge.errors import DataError
from mirnet_edge.images.files import ImageFile, write_image


@pytest.fixture
def report(row_of, report_of):
    return report_of(
        [
            row_of("edge onnxruntime:fp32", median_ms=20.0, psnr_db=23.0),
            row_of(
                "edge openvino:int8",
                median_ms=8.0,
                psnr_db=22.9,
                flicker=[ClipFlicker(clip="room", ratio=1.234)],
            ),
            row_of("edge tensorrt:fp32", state="missing", note="not | here <yet>"),
            row_of("zero_dce", kind="competitor", median_ms=200.0, psnr_db=15.0),
            row_of(
                "CLAHE",
                kind="baseline",
                median_ms=2.0,
                flicker=[ClipFlicker(clip="room", ratio=None, note="takes longer than 1 s")],
            ),
        ],
        clips=[
            ClipFacts(name="room", frames=6, width=64, height=48, note="", sha256="c"),
        ],
        crops=[
            ImageCrop(pairs="night", image="p0", row=one, file=f"crops/{place}.jpg")
            for place, one in enumerate(("before", "edge openvino:int8", "gone"))
        ],
    )


@pytest.fixture
def written(report, tmp_path, frames_of):
    (tmp_path / "crops").mkdir()
    for place in range(2):
        write_image(tmp_path / f"crops/{place}.jpg", ImageFile(frame=frames_of(30, 40)[0]))
    write_report(report, tmp_path)
    return tmp_path


def test_the_json_is_read_back_as_it_was(report, written):
    assert read_report(written / "report.json") == report
    cold = json.loads((written / "report.json").read_text())["rows"][0]["timings"][0]
    assert cold["cold_start_ms"] is None


def test_the_csv_leaves_no_cell_blank_but_notes(written):
    rows = list(csv.DictReader(io.StringIO((written / "report.csv").read_text())))
    assert [row["row"] for row in rows][:2] == ["edge onnxruntime:fp32", "edge openvino:int8"]
    assert all(value for row in rows for key, value in row.items() if key != "note")
    missing = next(row for row in rows if row["row"] == "edge tensorrt:fp32")
    assert missing["p50_ms"] == missing["psnr_db"] == "not measured"
    assert float(rows[1]["p50_ms"]) == pytest.approx(8.0, rel=0.02)
    assert float(rows[1]["drop_db"]) == pytest.approx(0.1)


def test_the_markdown_has_whole_tables_and_says_what_is_missing(written):
    text = (written / "report.md").read_text()
    assert "edge tensorrt:fp32: missing: not | here <yet>" in text
    assert "not measured" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1


def test_flicker_is_in_every_format(written):
    rows = list(csv.DictReader(io.StringIO((written / "report.csv").read_text())))
    assert [row["flicker_room"] for row in rows[:2]] == ["not measured", "1.234"]
    text = (written / "report.md").read_text()
    assert "| row | room (6 of 64x48) |" in text
    assert "| edge openvino:int8 | 1.23 |" in text
    assert "CLAHE, room: takes longer than 1 s" in text
    page = (written / "report.html").read_text()
    assert re.search(r"<h2>Flicker</h2>.*<td>edge openvino:int8</td><td>1.23</td>", page)


@pytest.fixture
def lasting(row_of, report_of, timing_of, samples_of, parts_of, tmp_path):
    """Return the folder of a report with sustained runs, energy and the full network."""
    ours = timing_of(samples_of(20.0), sustained=parts_of([20.0, 20.0, 24.0], {"package": 150.0}))
    steady = timing_of(samples_of(10.0), sustained=parts_of([10.0, 10.1, 10.0], {"package": 90.0}))
    (loop,) = parts_of([30.0], {"package": 300.0})
    rows = [
        row_of("edge onnxruntime:fp32", timings=[ours], macs_640x480=2_000_000_000),
        row_of("edge openvino:int8", timings=[steady]),
        row_of("CLAHE", kind="baseline", timings=[timing_of(samples_of(30.0), loop=loop)]),
        row_of("full MIRNet", kind="random weights", median_ms=4000.0, macs_640x480=10**12,
               note="random weights: for latency only"),
    ]  # fmt: skip
    report = report_of(rows, meters={"package": "processor package (RAPL)"})
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    return tmp_path


def test_a_sustained_run_is_in_every_format(lasting):
    text = (lasting / "report.md").read_text()
    assert re.search(
        r"\| edge onnxruntime:fp32 \| 1.50 \| 20.0 \| 24.0 \| 1.200 \| 50.0 \| 41.7 \| "
        r"slows down by 20% after 1.0 minutes \|", text
    )  # fmt: skip
    assert "holds its rate" in text
    # the clock falls, the temperature has no sensor, 150 J in 30 s are 5 W
    assert (
        "| edge onnxruntime:fp32 | 1.50 | 24.0 | 26.4 | 41.7 | 2800 | not measured | 5.0 |" in text
    )
    page = (lasting / "report.html").read_text()
    assert "slows down by 20% after 1.0 minutes" in page
    assert "<h2>Without pause, 640x480</h2>" in page
    rows = list(csv.DictReader(io.StringIO((lasting / "report.csv").read_text())))
    assert [row["sustained_last_to_first"] for row in rows] == [
        "1.2", "1.0", "not measured", "not measured"
    ]  # fmt: skip


def test_energy_is_over_the_sustained_run_else_over_the_loop(lasting):
    rows = list(csv.DictReader(io.StringIO((lasting / "report.csv").read_text())))
    found = [row["mj_per_frame_package"] for row in rows]
    # 450 J in 1500 + 1500 + 1250 frames, 270 J in 3000 + 2970 + 3000, 300 J in 1000
    assert list(map(float, found[:3])) == pytest.approx([450 / 4.25, 270 / 8.97, 300.0])
    assert found[3] == rows[0]["mj_per_frame_board"] == "not measured"
    text = (lasting / "report.md").read_text()
    assert "| mJ per frame, processor package |" in text
    assert "idle is not subtracted" in text
    assert "idle is not subtracted" in (lasting / "report.html").read_text()


def test_without_a_meter_energy_is_not_measured(written):
    text = (written / "report.md").read_text()
    assert re.search(
        r"\| mJ per frame \|\n.*\n\| edge onnxruntime:fp32 .*\| not measured \|\n", text
    )
    assert "- energy: not measured" in text
    assert "What was saved" not in text


def test_what_was_saved_is_said_in_ratios(lasting):
    text = (lasting / "report.md").read_text()
    assert "## What was saved at 640x480" in text
    assert "random weights, for latency only" in text
    (line,) = re.findall(r"\| edge onnxruntime:fp32 \| ([\d.]+) \| (\d+) \|\n", text)
    assert float(line[0]) == pytest.approx(200.0, rel=0.03)
    assert line[1] == "500"
    assert re.search(r"\| edge openvino:int8 \| [\d.]+ \| not measured \|", text)
    assert "What was saved, 640x480" in (lasting / "report.html").read_text()


def test_drawings_lie_beside_the_markdown_and_stand_alone(lasting, report, tmp_path):
    write_report(report, tmp_path / "other")
    for folder, count in ((lasting, 1), (tmp_path / "other", 1)):
        named = re.findall(r"!\[.*?\]\((.*?)\)", (folder / "report.md").read_text())
        assert len(named) == count
        assert {folder / one for one in named} == set((folder / "charts").iterdir())
        for one in named:
            text = (folder / one).read_text()
            assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
            assert "prefers-color-scheme: dark" in text


def test_a_report_of_the_first_schema_is_still_read(report, tmp_path):
    document = json.loads(to_json(report))
    new = {"meters", "sensor_notes"}
    old = {key: value for key, value in document.items() if key not in new}
    old["schema_version"] = 1
    for state in (old["before"], old["after"]):
        del state["gpu_clock_mhz"], state["gpu_celsius"]
    del old["settings"]["sustained_minutes"]
    for row in old["rows"]:
        for timing in row["timings"]:
            del timing["sustained"], timing["loop"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    assert read_report(path) == report


def test_the_page_is_whole_without_a_network_and_escapes(written):
    page = (written / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)|url\(|@import|https?://", page)
    assert "not | here &lt;yet&gt;" in page
    assert "<yet>" not in page
    assert "prefers-color-scheme: dark" in page
    assert page.count('<img id="') == 2  # the crop whose file is gone is left out
    for drawing in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(drawing)
    # dB against ms, every run and darkness, each for desktops and phones
    assert len(re.findall(r"<svg", page)) == 6
    assert len(re.findall(r"<h2>Quality by darkness, night</h2>", page)) == 1


def test_a_partial_report_says_so_everywhere(report, tmp_path):
    write_report(report.model_copy(update={"partial": True}), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["partial"] is True
    assert "**Partial" in (tmp_path / "report.md").read_text()
    assert "Partial: the run was interrupted" in (tmp_path / "report.html").read_text()


def test_a_report_of_nothing_can_be_written(row_of, report_of, tmp_path):
    write_report(report_of([row_of("edge a:fp32", state="failed", note="x")]), tmp_path)
    assert "edge a:fp32: failed: x" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("version", [1, 2])
def test_a_report_of_an_older_schema_is_read_as_one_of_today(report, tmp_path, version):
    document = json.loads(to_json(report))
    document["schema_version"] = version
    for row in document["rows"]:
        row["adopted"] = row.pop("accepted")
        for quality in row["quality"]:
            quality["pictures"] = quality.pop("images")
    for pairs in document["pair_sets"]:
        pairs["pictures"] = pairs.pop("images")
    for crop in document["crops"]:
        crop["picture"] = crop.pop("image")
    path = tmp_path / "report.json"
    path.write_text(json.dumps(document))
    assert any(row.quality for row in report.rows)
    assert report.pair_sets
    assert report.crops
    assert read_report(path) == report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: b"{", "is not JSON"),
        (lambda text: b"[]", "has schema version None; this program reads 1 and 2 and 3"),
        (lambda text: text.replace(b'version": 3', b'version": 4'), "has schema version 4"),
        (lambda text: text.replace(b'version": 3', b'version": true'), "has schema version True"),
        (lambda text: text.replace(b'"rows"', b'"lines"'), "rows: Field required"),
    ],
    ids=["broken", "list", "newer", "no number", "keys"],
)
def test_what_is_no_report_is_refused_in_one_line(report, tmp_path, change, message):
    path = tmp_path / "report.json"
    path.write_bytes(change(to_json(report)))
    with pytest.raises(DataError, match=message) as raised:
        read_report(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_report(tmp_path / "none.json")


@given(
    st.lists(
        st.tuples(st.floats(0.01, 1e5), st.floats(-5, 100), st.text("ab<&: ", max_size=40)),
        min_size=1, max_size=20,
    ),
    st.integers(1, 5),
)  # fmt: skip
def test_any_figures_give_a_drawing_within_its_frame(rows, bins):
    points = [ParetoPoint(name, "bundle", ms, decibel) for ms, decibel, name in rows]
    spreads = [LatencySpread(name, "competitor", [ms, 2 * ms]) for ms, _, name in rows]
    drawings = [pareto_chart(points, 1040, 460, numbered=one) for one in (False, True)]
    lines = [
        ChartLine(name, "bundle", [(float(x), decibel + x * ms) for x in range(bins)], "note")
        for ms, decibel, name in rows
    ]
    axes = ChartAxes("t <", "c &", [(float(x), f"{x} <") for x in range(bins)], "x", "dB", 2, 0.5)
    drawings += [line_chart(lines, axes, 1040, 400, numbered=one) for one in (False, True)]
    drawings += [spread_chart(spreads, 360, narrow=True)]
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        for dot in root.iter("circle"):
            assert 0 <= float(dot.attrib["cx"]) <= width
            assert 0 <= float(dot.attrib["cy"]) <= height
