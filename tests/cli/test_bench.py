"""mirnet-bench on a tiny bundle: formats, bad input, exit codes; and compare."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.bench import instruction_sets, job
from mirnet_edge.bench.classical import baseline_named
from mirnet_edge.bench.job import BenchmarkRequest, BenchmarkSuite, read_suite
from mirnet_edge.bench.processor_timing import ProcessorRow
from mirnet_edge.bench.record import read_report
from mirnet_edge.bench.statistics import energy_per_frame_mj
from mirnet_edge.bench.telemetry import MachineSensors
from mirnet_edge.cli.arguments import parse_size
from mirnet_edge.cli.bench import main

SUITES = Path(__file__).parents[2] / "benchmarks" / "suites"

_FAST = ("--rounds", 5, "--row-seconds", 0.5, "--size", "48x32")


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    """A process per row takes seconds; one test below starts real ones."""
    monkeypatch.setattr(job, "measure_cold_start", lambda entry, height, width: None)


@pytest.fixture
def pairs(tmp_path, frames_of):
    """Return a LOW:HIGH of four images, which the bundle of make_bundle restores."""
    for number, frame in enumerate(frames_of(24, 40, 4)):
        low = frame // 2
        for kind, image in (("low", low), ("high", np.rint(low * 1.5).astype(np.uint8))):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / kind / f"{number}.png")
    return f"{tmp_path / 'low'}:{tmp_path / 'high'}"


def test_a_bundle_gives_all_four_formats(ran, make_bundle, make_mode, pairs, tmp_path):
    modes = [make_mode("onnxruntime:fp32", p50_ms=1.0), make_mode("tensorrt:fp32")]
    out = tmp_path / "out"
    done = ran(
        main, "--bundle", make_bundle(modes=modes), "--pairs", pairs, "--out", out, *_FAST, "--json"
    )
    assert done.code == 0
    assert {path.name for path in out.iterdir()} == {
        "report.json", "report.csv", "report.md", "report.html", "crops", "charts", "sheets"
    }  # fmt: skip
    rows = {row["name"]: row for row in json.loads(done.out)["rows"]}
    ours = rows["bundle onnxruntime:fp32"]
    assert len(ours["timings"][0]["samples_ms"]) == 5
    assert ours["timings"][0]["stages"]["inference_ms"] > 0
    assert min(one["psnr_db"] or 100 for one in ours["quality"][0]["images"]) > 45
    assert rows["bundle tensorrt:fp32"]["state"] == "missing"
    assert "tensorrt" in rows["bundle tensorrt:fp32"]["note"].lower()
    assert {"gamma", "CLAHE"} < set(rows)
    assert rows["gamma"]["quality"][0]["images"][0]["psnr_db"] < 45


def test_flicker_is_measured_on_a_still_clip_and_on_a_video(
    ran, make_bundle, write_video, frames_of, tmp_path
):
    room = np.repeat(frames_of(48, 64)[:1] // 2, 24, 0)
    room[::2] += 1
    done = ran(
        main, "--bundle", make_bundle(), "--pairs", "none", "--baseline", "none", *_FAST,
        "--row-seconds", 60, "--out", tmp_path / "out", "--frames", "still", "--frames",
        write_video("room.mkv", room), "--json",
    )  # fmt: skip
    assert done.code == 0
    report = json.loads(done.out)
    assert [(one["name"], one["frames"]) for one in report["clips"]] == [
        ("still", 24),
        ("room", 24),
    ]
    ours = next(row for row in report["rows"] if row["kind"] == "bundle")
    assert [one["clip"] for one in ours["flicker"]] == ["still", "room"]
    # a constant gain flickers as the source does, but for rounding and the floor of luma
    assert all(0.5 < one["ratio"] < 2.0 for one in ours["flicker"])


def test_the_cpu_suite_writes_and_prints_a_table_by_instruction_set(ran, monkeypatch, tmp_path):
    rows = [
        {"name": name, "backend": "openvino", "precision": "int8", "macs": 10**9,
         "processor_ms": [ms, ms], "wall_ms": [ms, ms]}
        for name, ms in (("peak", 5.0), ("low-light", 10.0), ("other", 200.0))
    ]  # fmt: skip
    timed = [ProcessorRow(**one) for one in rows]
    monkeypatch.setattr(instruction_sets, "time_in_process", lambda request, name: timed)
    out = tmp_path / "out"
    done = ran(main, "--suite", "cpu", "--size", "640x480", "--out", out)
    assert done.code == 0
    assert "other takes 20.0 times the time in its best runtime" in done.out
    written = (out / "report.md").read_text(encoding="utf-8")
    assert "| other openvino:int8 | 200.0 | 200.0 | 20.00 | 1.00 | 5.0 | 2% |" in written
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["threads"] == 1


def test_the_cpu_suite_refuses_quality(ran, tmp_path):
    done = ran(main, "--suite", "cpu", "--pairs", "built-in", "--out", tmp_path / "out")
    assert done.code == 2
    assert "measures time alone; leave out --pairs" in done.line


def test_one_unreadable_image_is_named_and_the_rest_measured(ran, make_bundle, pairs, tmp_path):
    (tmp_path / "low/2.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "low/3.png")
    done = ran(
        main, "--bundle", make_bundle(), "--pairs", pairs, "--out", tmp_path / "out",
        "--baseline", "none", *_FAST,
    )  # fmt: skip
    assert done.code == 3
    assert "2.png is damaged" in done.err
    assert "3.png is 8x8" in done.err
    assert "2 images could not be measured; the rest was" in done.err
    (pair_set,) = read_report(tmp_path / "out/report.json").pair_sets
    assert (pair_set.images, len(pair_set.unreadable)) == (2, 2)


def test_pairs_that_do_not_match_are_refused_before_measuring(ran, make_bundle, pairs, tmp_path):
    (tmp_path / "high/1.png").unlink()
    done = ran(main, "--bundle", make_bundle(), "--pairs", pairs, "--out", tmp_path / "out", *_FAST)
    assert done.code == 2
    assert "1 images without a partner" in done.line
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_keeps_what_was_measured(ran, make_bundle, pairs, tmp_path, monkeypatch):
    def interrupted(*anything):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "measure_quality", interrupted)
    out = tmp_path / "out"
    done = ran(main, "--bundle", make_bundle(), "--pairs", pairs, "--out", out, *_FAST)
    assert done.code == 130
    report = read_report(out / "report.json")
    assert report.partial
    assert report.rows[0].timings[0].samples_ms
    assert not report.rows[0].quality


def test_a_backend_that_the_bundle_lacks_is_a_row_that_says_so(ran, make_bundle, tmp_path):
    done = ran(
        main, "--bundle", make_bundle(), "--backend", "openvino", "--baseline", "gamma",
        "--pairs", "none", "--out", tmp_path / "out", "--json", *_FAST,
    )  # fmt: skip
    (missing, gamma) = json.loads(done.out)["rows"]
    assert (done.code, missing["state"], gamma["state"]) == (0, "missing", "measured")
    assert "has no configuration for openvino" in missing["note"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --suite FILE or --bundle DIR"),
        (("--suite", "none"), "there is no suite none"),
        (("--bundle", "none"), "none is not a bundle"),
        (("--competitor", "none.onnx"), "none.onnx does not exist"),
        (("--baseline", "magic"), "no baseline 'magic'"),
        (("--baseline", "gamma", "--size", "0x4"), "--size must be positive"),
        (
            ("--baseline", "gamma", "--suffixes", "x", "--pairs", "y"),
            "--suffixes must be DEGRADED,CLEAN",
        ),
    ],
    ids=["nothing", "suite", "bundle", "competitor", "baseline", "size", "suffixes"],
)
def test_what_makes_no_sense_is_refused_in_one_line(ran, tmp_path, arguments, message):
    done = ran(main, *arguments, "--out", tmp_path / "out")
    assert done.code == 2
    assert message in done.line


def test_a_suite_is_read_and_unknown_keys_are_named(ran, tmp_path):
    suite = tmp_path / "mine.toml"
    text = 'sizes = ["16x12"]\nrounds = 5\nbaselines = ["gamma", "CLAHE"]\nquality = []\n'
    suite.write_text(text)
    done = ran(main, "--suite", suite, "--out", tmp_path / "out", "--json")
    report = json.loads(done.out)
    assert [row["name"] for row in report["rows"]] == ["gamma", "CLAHE"]
    assert [one["width"] for row in report["rows"] for one in row["timings"]] == [16, 16]
    suite.write_text(text + "speed = 1\n")
    assert "mine.toml: speed: Extra inputs" in ran(main, "--suite", suite).line


def test_a_suite_of_parts_writes_a_report_for_each(ran, tmp_path, monkeypatch):
    """The parts are suites of the package, here shortened to one baseline without images."""

    def shortened(name):
        suite = read_suite(name)
        if suite.parts:
            return suite
        changes = {"bundles": (), "baselines": ("median 3x3",), "quality": ()}
        return suite.model_copy(update=changes)

    monkeypatch.setattr(job, "read_suite", shortened)
    out = tmp_path / "out"
    done = ran(
        main, "--suite", "review", "--size", "32x32", "--rounds", "2", "--out", out, "--json"
    )
    parts = read_suite("review").parts
    assert len(parts) == 4
    assert [one["settings"]["suite"] for one in json.loads(done.out)] == list(parts)
    assert [(out / part / "report.html").is_file() for part in parts] == [True] * 4
    assert not (out / "report.html").exists()
    line = ran(main, "--suite", "review", "--baseline", "gamma", "--out", out).line
    assert "options for baselines fit one of them. Choose a part: --suite review-low-light" in line


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_our_suites_are_suites_and_name_methods_that_exist(path):
    suite = read_suite(str(path))
    for name in suite.baselines or ():
        baseline_named(name)
    assert all(parse_size(size, "sizes") for size in suite.sizes)


def test_cold_start_and_memory_come_from_a_process_of_its_own():
    from mirnet_edge.bench.entries import BenchmarkEntry
    from mirnet_edge.bench.measure import measure_cold_start

    kept = np.ones(2**26, np.uint8)  # 64 MiB here are not the other's
    found = measure_cold_start(BenchmarkEntry(source="baseline", path="gamma"), 32, 48)
    assert found is not None
    assert found.start_ms > 0
    assert found.peak_memory_mib is None or 10 < found.peak_memory_mib < 400
    assert kept.sum() == 2**26
    assert measure_cold_start(BenchmarkEntry(source="baseline", path="magic"), 32, 48) is None


def test_compare_tells_a_slowdown_by_its_exit_code(ran, tmp_path):
    out = tmp_path / "out"
    ran(main, "--baseline", "CLAHE", "--pairs", "none", "--out", out, *_FAST)
    report = json.loads((out / "report.json").read_text())
    timing = report["rows"][0]["timings"][0]
    for name, factor in (("old", 1.0), ("noise", 1.02), ("slow", 1.2)):
        timing["samples_ms"] = [factor * (10 + 0.1 * (turn % 5)) for turn in range(30)]
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    old, noise, slow = (tmp_path / f"{name}.json" for name in ("old", "noise", "slow"))
    assert ran(main, "compare", old, noise).code == 0
    done = ran(main, "compare", old, slow)
    assert done.code == 1
    assert "mirnet-bench compare: CLAHE 48x32: latency x1.20" in done.err
    found = json.loads(ran(main, "compare", old, slow, "--json").out)
    assert found["changes"][0]["outcome"] == "slower"
    report["machine"]["processor"] = "another"
    slow.write_text(json.dumps(report))
    done = ran(main, "compare", old, slow)
    assert done.code == 2
    assert "different machines" in done.line


def test_a_sustained_run_follows_the_rounds_for_bundles_and_the_named(
    ran, make_bundle, make_mode, tmp_path
):
    suite = tmp_path / "long.toml"
    suite.write_text('sustained_rows = ["gamma"]\nbaselines = ["gamma", "CLAHE"]\nquality = []\n')
    modes = [make_mode("onnxruntime:fp32", p50_ms=1.0)]
    done = ran(
        main, "--suite", suite, "--bundle", make_bundle(modes=modes), "--out", tmp_path / "out",
        *_FAST, "--sustained", 0.01, "--json",
    )  # fmt: skip
    assert done.code == 0
    report = json.loads(done.out)
    assert report["settings"]["sustained_minutes"] == 0.01
    parts = {row["name"]: row["timings"][0]["sustained"] for row in report["rows"]}
    assert list(parts) == ["bundle onnxruntime:fp32", "gamma", "CLAHE"]
    # eight parts of a second; fewer where the machine stood still for longer than one
    assert [0 < len(one) <= 8 for one in parts.values()] == [True, True, False]
    assert all(one[-1]["end_s"] >= 0.6 for one in list(parts.values())[:2])
    text = (tmp_path / "out/report.md").read_text()
    assert "## Sustained latency at 48x32" in text
    suite.write_text('sustained_rows = ["magic"]\nbaselines = ["gamma"]\nquality = []\n')
    assert "sustained_rows names 'magic'; expected entries of this run: gamma" in ran(
        main, "--suite", suite, "--sustained", 1
    ).line  # fmt: skip
    done = ran(main, "--baseline", "gamma", "--sustained", 0)
    assert (done.code, "--sustained must be more than 0 minutes" in done.line) == (2, True)


def test_where_there_is_a_meter_a_short_loop_counts_energy(tmp_path):
    class Meter:
        covers = "one joule a question"
        asked = 0

        def joules(self):
            self.asked += 1
            return float(self.asked)

        def watching(self):
            return contextlib.nullcontext()

    suite = BenchmarkSuite(baselines=("gamma",), quality=(), rounds=5, row_seconds=0.05, cold=False)
    order = BenchmarkRequest(
        suite=suite, suite_name=None, sizes=((32, 48),), root=tmp_path, out=tmp_path, command="",
    )  # fmt: skip
    bench = job.BenchmarkJob(order, lambda what: None, MachineSensors(meters={"package": Meter()}))
    bench.run()
    report = bench.report(partial=False)
    (timing,) = report.rows[0].timings
    assert report.meters == {"package": "one joule a question"}
    assert timing.energy_run.energy_j == {"package": 1.0}
    assert timing.energy_run.duration_s >= 0.05
    assert energy_per_frame_mj(timing, "package") == pytest.approx(1000.0 / timing.energy_run.runs)
