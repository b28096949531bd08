"""Which configuration of a shipped bundle is the fastest here: measured once, then remembered."""

from __future__ import annotations

import json
import logging

import pytest

from mirnet_edge.manifest import Rejection, RejectionReason, read_manifest
from mirnet_edge.runtime import machine_latency
from mirnet_edge.runtime.machine_latency import time_here
from mirnet_edge.testing.null_runner import NullRunner

FAST, SLOW = "onnxruntime:int8", "onnxruntime:fp32"


class Clock:
    """A clock that moves by what the runners are said to take."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def bundle(make_bundle, make_mode):
    """Return a bundle whose INT8 was too slow where it was made, and its second one too inexact."""
    slow = make_mode(FAST, p50_ms=9.0, accepted=False)
    inexact = make_mode("onnxruntime:fp16", p50_ms=0.1, accepted=False)
    modes = [
        make_mode(SLOW, p50_ms=5.0),
        slow.model_copy(update={"rejection": Rejection(reason=RejectionReason.SPEED)}),
        inexact.model_copy(update={"rejection": Rejection(reason=RejectionReason.QUALITY)}),
    ]
    return make_bundle(modes=modes)


@pytest.fixture
def time(bundle, tmp_path, monkeypatch):
    """Time the bundle as a process of its own would: time() -> (manifest, names of the runs)."""
    clock = Clock()
    measure = machine_latency.measure_within
    monkeypatch.setattr(
        machine_latency,
        "measure_within",
        lambda *given, **more: measure(*given, **more, clock=clock),
    )

    def run(durations_s=((FAST, 0.01), (SLOW, 0.03)), cache=tmp_path / "cache", threads=None):
        monkeypatch.setattr(machine_latency, "_measured", {})
        durations, runs = dict(durations_s), []

        class Timed(NullRunner):
            def run(self, frames):
                runs.append(self.name)
                duration = durations[self.name]
                clock.now_s += duration.pop() if isinstance(duration, list) else duration
                return super().run(frames)

        manifest = read_manifest(bundle)
        timed = time_here(
            manifest, bundle, manifest.configurations, lambda one: Timed(one.name),
            threads=threads, cache=cache,
        )  # fmt: skip
        return timed, runs

    return run


def test_the_fastest_here_becomes_the_default_though_it_was_slow_elsewhere(time):
    manifest, runs = time()
    assert manifest.default_configuration == FAST
    fast = manifest.configuration(FAST)
    assert (fast.accepted, fast.rejection) == (True, None)
    assert fast.latency.p50_ms == pytest.approx(10.0)
    assert fast.latency.ratio_to_fp32 == pytest.approx(1 / 3)
    # about half a second, in turn: A B A B
    assert sum(0.01 if name == FAST else 0.03 for name in runs) < 0.6
    assert runs[2:6] == [SLOW, FAST, SLOW, FAST]


def test_what_was_too_inexact_is_neither_timed_nor_accepted(time):
    manifest, runs = time()
    assert "onnxruntime:fp16" not in runs
    assert not manifest.configuration("onnxruntime:fp16").accepted


def test_it_is_remembered_for_the_next_run(time, tmp_path):
    time()
    manifest, runs = time(durations_s=((FAST, 9.0), (SLOW, 0.001)))
    assert runs == []
    assert manifest.default_configuration == FAST
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1


@pytest.mark.parametrize("change", ["threads", "version", "processor", "limit", "bundle"])
def test_it_is_measured_again_for_other_conditions(change, time, bundle, monkeypatch):
    time()
    threads = None
    if change == "threads":
        threads = 1 if machine_latency.machine.usable_cores() != 1 else 2
    elif change == "version":
        monkeypatch.setattr(machine_latency, "version", lambda name: "0.0")
    elif change == "processor":
        facts = machine_latency.machine.describe().model_copy(update={"processor": "another"})
        monkeypatch.setattr(machine_latency.machine, "describe", lambda: facts)
    elif change == "limit":
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    else:
        path = bundle / "manifest.json"
        document = json.loads(path.read_text()) | {"notice": "another"}
        path.write_text(json.dumps(document))
    assert time(threads=threads)[1]


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"a": []}', '{"a": ["x"]}', '{"a": 1}'])
def test_a_damaged_file_is_measured_again(text, time, tmp_path):
    time()
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text(text)
    assert time()[1]
    assert time()[1] == []


def test_a_cache_that_cannot_be_written_is_no_error(time, tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, "mirnet_edge"):
        manifest, runs = time(cache=tmp_path / "file" / "cache")
    assert runs
    assert manifest.default_configuration == FAST
    assert not caplog.records


def test_a_busy_machine_is_not_remembered(time, tmp_path):
    times = [0.2, 0.01, 0.3, 0.3][::-1]
    manifest, _ = time(durations_s=((FAST, [0.2] * 9), (SLOW, times)))
    assert manifest.default_configuration
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_a_slow_opening_leaves_out_the_slowest_but_one_of_each_backend(
    make_bundle, make_mode, tmp_path
):
    names = ["openvino:int8", "openvino:fp32", "onnxruntime:fp32", "onnxruntime:int8"]
    modes = [make_mode(name, p50_ms=place) for place, name in enumerate(names, 1)]
    clock, opened = Clock(), []

    class Compiling(NullRunner):
        def run(self, frames):
            clock.now_s += 0.01 if self.name in opened else 0.7
            opened.append(self.name)
            return super().run(frames)

    folder = make_bundle(name="four", modes=modes)
    manifest = read_manifest(folder)
    with pytest.MonkeyPatch.context() as patched:
        measure = machine_latency.measure_within
        patched.setattr(
            machine_latency,
            "measure_within",
            lambda *given, **more: measure(*given, **more, clock=clock),
        )
        timed = time_here(
            manifest, folder, manifest.configurations, lambda one: Compiling(one.name),
            cache=tmp_path / "cache",
        )  # fmt: skip
    assert set(opened) == {"openvino:int8", "onnxruntime:fp32"}
    assert timed.configuration("openvino:fp32").latency is None


def test_a_single_configuration_is_not_timed(make_bundle, tmp_path):
    folder = make_bundle(name="single")
    manifest = read_manifest(folder)

    def refuse(configuration):
        raise AssertionError(configuration)

    assert time_here(manifest, folder, manifest.configurations, refuse, cache=tmp_path) is manifest
