"""A recorded report in every format: missing values say so, and no format needs a network."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from mirnet_edge.bench import charts, sheets
from mirnet_edge.bench.markdown_report import write_report
from mirnet_edge.bench.record import (
    ClipFacts,
    ClipFlicker,
    ImageCrop,
    ImageQuality,
    PairSetQuality,
    read_report,
    to_json,
)
from mirnet_edge.charts import STYLESHEET
from mirnet_edge.errors import DataError
from mirnet_edge.images.files import ImageFile, read_image, write_image


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


def test_the_json_report_round_trips(report, written):
    assert read_report(written / "report.json") == report
    cold = json.loads((written / "report.json").read_text())["rows"][0]["timings"][0]
    assert cold["cold_start_ms"] is None


def test_the_csv_has_no_empty_cell_but_notes(written):
    rows = list(csv.DictReader(io.StringIO((written / "report.csv").read_text())))
    assert [row["entry"] for row in rows][:2] == ["edge onnxruntime:fp32", "edge openvino:int8"]
    assert all(value for row in rows for key, value in row.items() if key != "note")
    missing = next(row for row in rows if row["entry"] == "edge tensorrt:fp32")
    assert missing["p50_ms"] == missing["psnr_db"] == "not measured"
    assert float(rows[1]["p50_ms"]) == pytest.approx(8.0, rel=0.02)
    assert float(rows[1]["drop_db"]) == pytest.approx(0.1)


def test_the_markdown_tables_are_complete_and_list_what_is_missing(written):
    text = (written / "report.md").read_text()
    assert "edge tensorrt:fp32: missing: not | here <yet>" in text
    assert "not measured" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1


def test_a_sheet_shows_an_image_as_each_method_restores_it(row_of, report_of, tmp_path):
    rows = [
        row_of("edge onnxruntime:fp32", median_ms=20.0, psnr_db=23.0),
        row_of("edge openvino:int8", median_ms=8.0, psnr_db=22.9),
        row_of("edge openvino:bf16", median_ms=4.0, psnr_db=9.0, accepted=False),
        row_of("median 3x3", kind="baseline", median_ms=2.0, psnr_db=21.0),
        row_of("gone", kind="baseline", median_ms=2.0, psnr_db=21.0),
    ]
    levels = {
        "before": 0, "edge onnxruntime:fp32": 50, "edge openvino:int8": 100,
        "edge openvino:bf16": 150, "median 3x3": 200, "reference": 250,
    }  # fmt: skip
    (tmp_path / "crops").mkdir()
    for level in levels.values():
        frame = np.full((270, 360, 3), level, np.uint8)
        write_image(tmp_path / f"crops/{level}.png", ImageFile(frame=frame))
    crops = [
        ImageCrop(pairs="night", image="p1", row=name, file=f"crops/{level}.png")
        for name, level in levels.items()
    ]
    crops.append(ImageCrop(pairs="night", image="p1", row="gone", file="crops/none.png"))
    report = report_of(rows, crops=crops)
    write_report(report, tmp_path)
    assert "![p1, by 4 methods](sheets/1-p1.webp)" in (tmp_path / "report.md").read_text()
    sheet = read_image(tmp_path / "sheets/1-p1.webp").frame
    middles = [int(sheet[40 + 135, 360 * place + 180].mean().round()) for place in range(4)]
    assert middles == pytest.approx([0, 200, 100, 250], abs=3)  # the fastest accepted of ours
    assert sheets._describe(report, crops[2], rows[1]).startswith("23.90 dB, 8.")
    assert sheets._describe(report, crops[0], None) == ""


def test_flicker_is_in_every_format(written):
    rows = list(csv.DictReader(io.StringIO((written / "report.csv").read_text())))
    assert [row["flicker_room"] for row in rows[:2]] == ["not measured", "1.234"]
    text = (written / "report.md").read_text()
    assert "| entry | room (6 of 64x48) |" in text
    assert "| edge openvino:int8 | 1.23 |" in text
    assert "CLAHE, room: takes longer than 1 s" in text
    page = (written / "report.html").read_text()
    assert re.search(r"<h2>Flicker</h2>.*?<td>edge openvino:int8</td><td>1.23</td>", page)


@pytest.fixture
def sustained(row_of, report_of, timing_of, samples_of, parts_of, tmp_path):
    """Return the folder of a report with sustained runs, energy and full MIRNet."""
    ours = timing_of(samples_of(20.0), sustained=parts_of([20.0, 20.0, 24.0], {"package": 150.0}))
    steady = timing_of(samples_of(10.0), sustained=parts_of([10.0, 10.1, 10.0], {"package": 90.0}))
    (short,) = parts_of([30.0], {"package": 300.0})
    rows = [
        row_of("edge onnxruntime:fp32", timings=[ours], macs_640x480=2_000_000_000),
        row_of("edge openvino:int8", timings=[steady]),
        row_of("CLAHE", kind="baseline", timings=[timing_of(samples_of(30.0), energy_run=short)]),
        row_of("full MIRNet", kind="random weights", median_ms=4000.0, macs_640x480=10**12,
               note="random weights: for latency only"),
    ]  # fmt: skip
    report = report_of(rows, meters={"package": "processor package (RAPL)"})
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    return tmp_path


def test_a_sustained_run_is_in_every_format(sustained):
    text = (sustained / "report.md").read_text()
    assert re.search(
        r"\| edge onnxruntime:fp32 \| 1.50 \| 20.0 \| 24.0 \| 1.200 \| 50.0 \| 41.7 \| "
        r"slows down by 20% after 1.0 minutes \|", text
    )  # fmt: skip
    assert "holds its rate" in text
    # the clock falls, the temperature has no sensor, and 150 J in 30 s are 5 W
    assert (
        "| edge onnxruntime:fp32 | 1.50 | 24.0 | 26.4 | 41.7 | 2800 | not measured | 5.0 |" in text
    )
    page = (sustained / "report.html").read_text()
    assert "slows down by 20% after 1.0 minutes" in page
    assert "<h2>Sustained latency, 640x480</h2>" in page
    rows = list(csv.DictReader(io.StringIO((sustained / "report.csv").read_text())))
    assert [row["sustained_last_to_first"] for row in rows] == [
        "1.2", "1.0", "not measured", "not measured"
    ]  # fmt: skip


def test_energy_is_over_the_sustained_run_else_over_the_energy_run(sustained):
    rows = list(csv.DictReader(io.StringIO((sustained / "report.csv").read_text())))
    found = [row["mj_per_frame_package"] for row in rows]
    # 450 J in 1500 + 1500 + 1250 frames, 270 J in 3000 + 2970 + 3000, 300 J in 1000
    assert list(map(float, found[:3])) == pytest.approx([450 / 4.25, 270 / 8.97, 300.0])
    assert found[3] == rows[0]["mj_per_frame_board"] == "not measured"
    text = (sustained / "report.md").read_text()
    assert "| energy per frame, CPU package (mJ) |" in text
    assert "idle power is not subtracted" in text
    assert "idle power is not subtracted" in (sustained / "report.html").read_text()


def test_without_a_meter_energy_is_not_measured(written):
    text = (written / "report.md").read_text()
    assert re.search(
        r"\| energy per frame \(mJ\) \|\n.*\n\| edge onnxruntime:fp32 .*\| not measured \|\n", text
    )
    assert "- energy: not measured" in text
    assert "Speedup" not in text


def test_speedups_are_ratios_to_the_full_network(sustained):
    text = (sustained / "report.md").read_text()
    assert "## Speedup at 640x480" in text
    assert "| entry | speedup (x) | fewer MACs (x) |" in text
    assert "weights, for latency only" in text
    (line,) = re.findall(r"\| edge onnxruntime:fp32 \| ([\d.]+) \| (\d+) \|\n", text)
    assert float(line[0]) == pytest.approx(200.0, rel=0.03)
    assert line[1] == "500"
    assert re.search(r"\| edge openvino:int8 \| [\d.]+ \| not measured \|", text)
    assert "<h2>Speedup, 640x480</h2>" in (sustained / "report.html").read_text()


def test_charts_are_files_beside_the_markdown(sustained, report, tmp_path):
    write_report(report, tmp_path / "other")
    for folder in (sustained, tmp_path / "other"):
        named = re.findall(r"!\[.*?\]\((.*?)\)", (folder / "report.md").read_text())
        assert len(named) == 1
        assert {folder / one for one in named} == set((folder / "charts").iterdir())
        for one in named:
            ElementTree.parse(folder / one)


def test_the_page_uses_colors_that_its_styles_define(written):
    page = (written / "report.html").read_text()
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert set(re.findall(r"var\((--[\w-]+)", style)) <= {
        *re.findall(r"(--[\w-]+):", STYLESHEET), "--cut"
    }  # fmt: skip
    legend = re.findall(r'<i class="(\w+)">', page)
    assert set(legend) == {"primary", "secondary", "muted"}
    markers = set(re.findall(r'<circle class="(.*?)"', page))
    assert markers == {*(f"dot {style}" for style in legend), "point primary", "point secondary"}


def test_entries_without_some_brightness_have_no_point_there(row_of, report_of):
    def quality(*levels):
        images = [
            ImageQuality(name=str(one), brightness=one, psnr_db=20.0, psnr_gtmean_db=20.0,
                         ssim=None, mae=0.1)
            for one in levels
        ]  # fmt: skip
        return [PairSetQuality(pairs="night", images=images)]

    report = report_of(
        [
            row_of("edge a:fp32", quality=quality(0.2)),
            row_of("edge b:fp32", quality=quality(0.01, 1.0)),
        ]
    )
    drawn = charts.darkness_chart(report, "night", narrow=True).to_inline()
    ticks = re.findall(r'text-anchor="middle">([\d-]+ %)<', drawn)
    assert ticks == ["0-3 %", "12-25 %", "25-100 %"]  # darkest first, whichever entry has them
    assert drawn.count("<circle") == 3


def _rename(document, names):
    """Rename keys at any depth of a JSON document."""
    if isinstance(document, list):
        return [_rename(one, names) for one in document]
    if isinstance(document, dict):
        return {names.get(key, key): _rename(one, names) for key, one in document.items()}
    return document


_FORMER_NAMES = {
    "accepted": "adopted", "preprocess_ms": "before_ms", "inference_ms": "network_ms",
    "postprocess_ms": "after_ms", "duration_s": "seconds", "conditions": "end",
    "energy_j": "joules", "energy_run": "loop", "conditions_before": "before",
    "conditions_after": "after", "versions": "tools",
}  # fmt: skip


def _former_document(report, version):
    """Return a report as mirnet-edge wrote it with schema version 1 or 2."""
    document = _rename(json.loads(to_json(report)), _FORMER_NAMES) | {"schema_version": version}
    for row in document["rows"]:
        row["kind"] = row["kind"].replace("competitor", "rival")
        for quality in row["quality"]:
            quality["pictures"] = quality.pop("images")
    for pairs in document["pair_sets"]:
        pairs["pictures"] = pairs.pop("images")
    for crop in document["crops"]:
        crop["picture"] = crop.pop("image")
    if version == 1:
        del document["meters"], document["sensor_notes"], document["settings"]["sustained_minutes"]
        for state in (document["before"], document["after"]):
            del state["gpu_clock_mhz"], state["gpu_celsius"]
        for row in document["rows"]:
            for timing in row["timings"]:
                del timing["sustained"], timing["loop"]
    return document


def test_a_report_of_the_first_schema_is_still_read(report, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(_former_document(report, 1)))
    assert read_report(path) == report


def test_a_report_of_the_second_schema_is_still_read(
    sustained, report, timing_of, row_of, tmp_path
):
    stages = {"preprocess_ms": 1.0, "inference_ms": 8.0, "postprocess_ms": 0.5}
    staged = row_of("edge torch:fp32", timings=[timing_of([9.5] * 5, stages=stages)])
    reports = [
        read_report(sustained / "report.json"),
        report.model_copy(update={"rows": [*report.rows, staged]}),
    ]
    for one in reports:
        path = tmp_path / "former.json"
        document = _former_document(one, 2)
        path.write_text(json.dumps(document))
        assert "rival" in path.read_text() or one is reports[0]
        assert read_report(path) == one


def test_the_page_needs_no_network_and_escapes_text(written):
    page = (written / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)|url\(|@import|https?://", page)
    assert "not | here &lt;yet&gt;" in page
    assert "<yet>" not in page
    assert "prefers-color-scheme: dark" in page
    assert page.count('<img id="') == 2  # the crop whose file is gone is left out
    for drawing in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(drawing)
    # quality against latency, every run, quality by brightness; each for desktops and phones
    assert len(re.findall(r"<svg", page)) == 6
    assert len(re.findall(r"<h2>Quality by input brightness, night</h2>", page)) == 1


def test_an_unstable_report_says_so_at_its_head(report, timing_of, tmp_path):
    write_report(report, tmp_path)
    assert "Unstable: " not in (tmp_path / "report.html").read_text()
    assert "**Unstable" not in (tmp_path / "report.md").read_text()
    rows = list(report.rows)
    rows[1] = rows[1].model_copy(update={"timings": [timing_of([8.0, 12.0] * 10)]})
    write_report(report.model_copy(update={"rows": rows}), tmp_path)
    what = "Unstable: 1 of 4 measurements (edge openvino:int8 at 640x480)"
    assert f"**{what}" in (tmp_path / "report.md").read_text().partition("## ")[0]
    page = (tmp_path / "report.html").read_text()
    assert f'<div class="card partial">{what}' in page
    assert "edge openvino:int8, p50 at 640x480, unstable</span>" in page


def test_a_partial_report_says_so_everywhere(report, tmp_path):
    write_report(report.model_copy(update={"partial": True}), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["partial"] is True
    assert "**Partial" in (tmp_path / "report.md").read_text()
    assert "Partial: the run was interrupted" in (tmp_path / "report.html").read_text()


def test_a_report_without_measurements_can_be_written(row_of, report_of, tmp_path):
    write_report(report_of([row_of("edge a:fp32", state="failed", note="x")]), tmp_path)
    assert "edge a:fp32: failed: x" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: b"{", "is not JSON"),
        (lambda text: b"[]", "has schema version None; expected 1 or 2 or 3"),
        (lambda text: text.replace(b'version": 3', b'version": 4'), "has schema version 4"),
        (lambda text: text.replace(b'version": 3', b'version": true'), "has schema version True"),
        (lambda text: text.replace(b'"rows"', b'"lines"'), "is not a report: rows: Field required"),
    ],
    ids=["broken", "list", "newer", "no number", "keys"],
)
def test_invalid_reports_are_refused_in_one_line(report, tmp_path, change, message):
    path = tmp_path / "report.json"
    path.write_bytes(change(to_json(report)))
    with pytest.raises(DataError, match=message) as raised:
        read_report(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_report(tmp_path / "none.json")
