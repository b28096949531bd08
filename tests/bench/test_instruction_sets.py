"""The benchmark of a processor by instruction set: limits, ratios, what is missing."""

from __future__ import annotations

import json
import subprocess

import onnx
import pytest

from mirnet_edge.bench import instruction_sets
from mirnet_edge.bench.convolution_peak import MACS, convolution_peak_graph
from mirnet_edge.bench.instruction_sets import (
    InstructionSetJob,
    InstructionSetTiming,
    describe_timing,
    timing_table,
)
from mirnet_edge.bench.job import BenchmarkRequest, BenchmarkSuite, read_suite
from mirnet_edge.bench.processor_timing import (
    PEAK,
    ProcessorRequest,
    ProcessorRow,
    time_processor,
)
from mirnet_edge.errors import EngineError, OptionError


def row(name, times, *, backend="openvino", precision="fp32", macs=None, note=""):
    return ProcessorRow(
        name=name, backend=backend, precision=precision, macs=macs, processor_ms=times,
        wall_ms=times, note=note,
    )  # fmt: skip


ROWS = [
    row(PEAK, [100.0, 100.0], macs=10_000_000_000),
    row(PEAK, [25.0, 25.0], precision="int8", macs=10_000_000_000),
    row("ours", [40.0, 40.0], macs=1_000_000_000),
    # the machine was slower in the second round: ratios are of rounds
    row("ours", [10.0, 20.0], precision="int8", macs=1_000_000_000),
    row("other", [300.0, 600.0], macs=24_000_000_000),
    row("other", [200.0, 400.0], backend="onnxruntime", macs=24_000_000_000),
    row("third", [], note="there is no third.onnx"),
]
REQUEST = ProcessorRequest(
    bundles=(), competitors=(), height=32, width=48, rounds=3, row_seconds=1.0, threads=1
)


@pytest.fixture
def timing():
    return InstructionSetTiming(instruction_set="AVX2", width=640, height=480, rows=ROWS)


@pytest.fixture
def request_of(make_bundle, tmp_path):
    """Return a request: request_of(["AVX2"], competitors=("a.onnx",))."""

    def make(sets, **changes):
        suite = BenchmarkSuite(
            bundles=(str(make_bundle()),), quality=(), instruction_sets=tuple(sets),
            **({"rounds": 3, "threads": 1} | changes),
        )  # fmt: skip
        return BenchmarkRequest(
            suite=suite, suite_name="cpu", sizes=((32, 48),), root=tmp_path, out=tmp_path / "out",
            command="mirnet bench",
        )  # fmt: skip

    return make


def test_ratios_are_to_the_fastest_row_of_the_first_bundle_round_by_round(timing):
    assert (timing.ours.name, timing.ours.precision) == ("ours", "int8")
    lines = {line[0]: line[1:] for line in timing_table(timing).lines}
    assert lines["other openvino:fp32"][:3] == ["450.0", "450.0", "30.00"]
    assert lines["ours openvino:int8"][2] == "1.00"
    assert "other onnxruntime:fp32 *" in lines
    assert not any("third" in name for name in lines)


def test_ours_keeps_to_the_instruction_set(timing):
    faster = row("ours", [1.0, 1.0], backend="onnxruntime")
    rows = [*ROWS, faster]
    assert timing.model_copy(update={"rows": rows}).ours.precision == "int8"
    assert timing.model_copy(update={"rows": [faster]}).ours == faster


def test_shares_are_of_the_peak_in_the_row_s_precision(timing):
    lines = {line[0]: line[-1] for line in timing_table(timing).lines}
    assert lines["peak openvino:int8"] == "100%"
    assert lines["ours openvino:fp32"] == "25%"  # 25 of 100 GMACs a second
    assert lines["ours openvino:int8"] == "17%"  # 66.7 of 400


def test_a_competitor_is_compared_in_its_best_runtime_and_what_is_missing_is_said(timing):
    said = "\n".join(describe_timing(timing))
    assert "other takes 20.0 times the time in its best runtime, onnxruntime:fp32" in said
    assert "third openvino:fp32 was not measured: there is no third.onnx" in said


def test_the_peak_graphs_are_valid_and_count_their_multiplications(tmp_path):
    for is_int8 in (False, True):
        path = tmp_path / f"{is_int8}.onnx"
        path.write_bytes(convolution_peak_graph(is_int8=is_int8))
        model = onnx.load(str(path))
        onnx.checker.check_model(model, full_check=True)
        assert any(one.op_type == "QuantizeLinear" for one in model.graph.node) == is_int8
        convolutions = [one for one in model.graph.node if one.op_type == "Conv"]
        assert len(convolutions) * 64 * 64 * 9 * 160 * 160 == MACS


def test_bundles_competitors_and_the_peak_are_timed_together(make_bundle, make_graph, tmp_path):
    # without a limit of instructions, which OpenVINO would keep for the tests that follow
    make_graph(tmp_path / "other.onnx", io="float", size=(20, 20))  # is timed at the frame's size
    request = ProcessorRequest(
        bundles=(str(make_bundle()),), height=32, width=48, rounds=3, row_seconds=1.0, threads=1,
        competitors=tuple(str(tmp_path / name) for name in ("other.onnx", "absent.onnx")),
    )  # fmt: skip
    rows = {(one.name, one.configuration): one for one in time_processor(request)}
    measured = {key for key, one in rows.items() if one.processor_ms}
    assert {
        (PEAK, "openvino:fp32"), (PEAK, "openvino:int8"), ("bundle", "onnxruntime:fp32"),
        ("other", "openvino:fp32"), ("other", "onnxruntime:fp32"),
    } <= measured  # fmt: skip
    assert all(len(rows[key].processor_ms) == len(rows[key].wall_ms) == 3 for key in measured)
    absent = rows["absent", "openvino:fp32"]
    assert not absent.processor_ms
    assert "absent.onnx is not there" in absent.note


def test_each_size_is_timed_under_each_instruction_set(request_of, monkeypatch):
    started = []

    def time_in_process(request, instruction_set):
        started.append((instruction_set, request.height, request.width, request.threads))
        return ROWS

    monkeypatch.setattr(instruction_sets, "time_in_process", time_in_process)
    stages = []
    job = InstructionSetJob(request_of(["SSE41", "ALL"]), stages.append)
    timings = job.run()
    next(timings)
    assert [one.instruction_set for one in job.report().timings] == ["SSE41"]  # if it ended here
    assert len(list(timings)) == 1
    report = job.report()
    assert started == [("SSE41", 32, 48, 1), ("ALL", 32, 48, 1)]
    assert stages == ["48x32: SSE41", "48x32: ALL"]
    assert [one.instruction_set for one in report.timings] == ["SSE41", "ALL"]
    assert report.timings[0].rows == ROWS


@pytest.mark.parametrize(("name", "limit"), [("AVX2", "AVX2"), ("ALL", None)])
def test_the_process_has_the_limit_of_its_instruction_set(monkeypatch, name, limit):
    environments = []

    def run(command, *, env, **others):
        environments.append(env)
        rows = [one.model_dump() for one in ROWS]
        return subprocess.CompletedProcess(command, 0, stdout=f"noise\n{json.dumps(rows)}\n")

    monkeypatch.setattr(instruction_sets.subprocess, "run", run)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert instruction_sets.time_in_process(REQUEST, name) == ROWS
    (environment,) = environments
    assert environment.get("ONEDNN_MAX_CPU_ISA") == limit
    assert "PATH" in environment


def test_a_process_that_fails_is_reported_with_its_message(monkeypatch):
    monkeypatch.setattr(
        instruction_sets.subprocess, "run",
        lambda command, **others: subprocess.CompletedProcess(command, 1, "", "out of\nmemory"),
    )  # fmt: skip
    with pytest.raises(EngineError, match="exit code 1: out of memory"):
        instruction_sets.time_in_process(REQUEST, "ALL")


def test_sets_that_the_processor_lacks_are_named_and_not_run(request_of, monkeypatch):
    facts = instruction_sets.machine.describe().model_copy(update={"instructions": ["avx2"]})
    monkeypatch.setattr(instruction_sets.machine, "describe", lambda: facts)
    monkeypatch.setattr(instruction_sets, "time_in_process", lambda request, name: ROWS)
    job = InstructionSetJob(request_of(["AVX2", "AVX512_CORE_VNNI"]), print)
    assert len(list(job.run())) == 1
    report = job.report()
    assert [one.instruction_set for one in report.timings] == ["AVX2"]
    assert "does not have AVX512_CORE_VNNI" in instruction_sets.to_markdown(report)


@pytest.mark.parametrize(
    ("sets", "changes", "said"),
    [
        (["AVX3"], {}, "found 'AVX3'"),
        (["ALL"], {"sustained": 1.0}, "measures time alone"),
        (["ALL"], {"full_mirnet": True}, "measures time alone"),
    ],
)
def test_other_suites_options_are_refused(request_of, sets, changes, said):
    with pytest.raises(OptionError, match=said):
        InstructionSetJob(request_of(sets, **changes), print)


def test_the_suite_of_the_package_measures_time_alone():
    suite = read_suite("cpu")
    assert suite.instruction_sets == ("AVX2", "AVX512_CORE_VNNI")
    assert not suite.quality
    assert len(suite.competitors) == 3
