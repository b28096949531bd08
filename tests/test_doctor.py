"""Findings on machines that lack this or that."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from importlib.metadata import metadata
from types import ModuleType

import pytest

from mirnet_edge import doctor
from mirnet_edge.dependencies import EXTRAS, UNLOCKS
from mirnet_edge.doctor import examine, gstreamer_finding, wheel_findings
from mirnet_edge.errors import EngineError
from mirnet_edge.runtime.tensorrt import cuda, library, runner
from mirnet_edge.runtime.tensorrt.build import build_one_layer
from mirnet_edge.testing.fake_tensorrt import FakeCudart


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a machine to take apart: a Jetson with all it needs."""
    board, memory, devices = tmp_path / "model", tmp_path / "meminfo", tmp_path / "dev"
    devices.mkdir()
    (devices / "video0").write_text("")
    board.write_text("NVIDIA Jetson Orin Nano Developer Kit")
    memory.write_text("MemTotal: 7802000 kB\nMemAvailable: 5000000 kB\nSwapTotal: 8000000 kB\n")
    monkeypatch.setattr(library, "_BOARD_FILE", board)
    monkeypatch.setattr(doctor, "_DEVICES", devices)
    monkeypatch.setattr(doctor, "_MEMORY", memory)
    monkeypatch.setattr(cuda, "_runtime", lambda: FakeCudart(capability="8.7"))
    monkeypatch.setattr(doctor, "_output", lambda command: "NV Power Mode: MAXN_SUPER\n2\n")
    trt = ModuleType("tensorrt")
    trt.__version__ = "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(runner, "build_one_layer", lambda flavor: None)
    monkeypatch.setattr(doctor, "gstreamer_finding", lambda version, build: iter(()))
    return tmp_path


def test_a_board_with_all_it_needs_is_well(machine):
    findings = {one.subject: one for one in examine()}
    for subject in ("CUDA", "TensorRT", "camera", "memory", "power mode"):
        assert findings[subject].state == "ok", findings[subject]


@dataclass(frozen=True)
class Lack:
    id: str
    take: object
    subject: str
    state: str
    says: str
    fix: str = field(default="")


def _no_gpu(machine, monkeypatch):
    monkeypatch.setattr(cuda, "_runtime", lambda: FakeCudart(status=100))


def _old(machine, monkeypatch):
    sys.modules["tensorrt"].__version__ = "8.5.2"


def _broken(machine, monkeypatch):
    site = machine / "site"
    site.mkdir()
    for name in ("tensorrt", "tensorrt_rtx"):
        (site / f"{name}.py").write_text("raise OSError('libnvdla_compiler.so: no such file')")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(site)


def _builds_nothing(machine, monkeypatch):
    def fail(flavor):
        raise EngineError("one-convolution.onnx: TensorRT 10.3.0 cannot build it: no CUDA driver")

    monkeypatch.setattr(runner, "build_one_layer", fail)


def _no_camera(machine, monkeypatch):
    (machine / "dev" / "video0").unlink()


def _no_swap(machine, monkeypatch):
    (machine / "meminfo").write_text("MemTotal: 7802000 kB\nSwapTotal: 0 kB\n")


def _slow(machine, monkeypatch):
    monkeypatch.setattr(doctor, "_output", lambda command: "NV Power Mode: 15W\n0\n")


@pytest.mark.parametrize(
    "lack",
    [
        Lack("gpu", _no_gpu, "CUDA", "missing", "no CUDA-capable device"),
        Lack("old TensorRT", _old, "TensorRT", "missing", "engines need 10.3", "JetPack 6.1"),
        Lack("broken TensorRT", _broken, "TensorRT", "missing", "JetPack 7.2 no longer has"),
        Lack("TensorRT builds nothing", _builds_nothing, "TensorRT", "missing", "no CUDA driver"),
        Lack("camera", _no_camera, "camera", "note", "no /dev/video", "jetson-io"),
        Lack("swap", _no_swap, "memory", "note", "swap 0 MiB", "mkswap"),
        Lack("power mode", _slow, "power mode", "note", "15W", "MAXN"),
    ],
    ids=lambda lack: lack.id,
)
def test_what_is_lacking_is_named_with_its_fix(lack, machine, monkeypatch):
    lack.take(machine, monkeypatch)
    (finding,) = [one for one in examine() if one.subject == lack.subject]
    assert finding.state == lack.state
    assert lack.says in finding.found
    assert lack.fix in finding.fix


def test_only_a_jetson_is_told_where_it_enables_its_cameras(machine, monkeypatch):
    (machine / "model").unlink()
    _no_camera(machine, monkeypatch)
    (finding,) = [one for one in examine() if one.subject == "camera"]
    assert finding.fix == "plug one in, or give mirnet live --source a stream or a file"


@pytest.mark.parametrize(("built", "state"), [("YES (1.20.3)", "ok"), ("NO", "note")])
def test_opencv_is_asked_for_gstreamer(built, state, machine):
    (finding,) = gstreamer_finding(
        "4.11", f"  Video I/O:\n    GStreamer:                   {built}"
    )
    assert finding.state == state


def test_the_command_exits_with_2_where_something_is_missing(machine, monkeypatch, capsys):
    from mirnet_edge.cli.doctor import main

    with pytest.raises(SystemExit) as left:
        main(["--json"])
    assert left.value.code == 0
    assert {one["subject"] for one in json.loads(capsys.readouterr().out)} >= {"CUDA", "camera"}
    _no_gpu(machine, monkeypatch)
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert "FIX  CUDA" in capsys.readouterr().out


def test_every_extra_is_listed_with_what_it_adds(machine, monkeypatch):
    monkeypatch.setattr(doctor, "available", lambda name: name not in ("aiortc", "torch"))
    findings = {one.subject: one for one in examine()}
    web, video, export = (findings[f"extra {name}"] for name in ("web", "video", "export"))
    assert (web.state, video.state, export.state) == ("note", "ok", "note")
    assert web.found == f"not installed (aiortc); adds {UNLOCKS['web']}"
    assert web.fix == 'pip install "mirnet-edge[web]"'
    assert "mirnet export" in export.found


def test_the_extras_of_the_package_are_those_that_are_described():
    # train is export under the name of its purpose; dev is for this package's developers
    extras = set(metadata("mirnet-edge").get_all("Provides-Extra")) - {"train", "dev"}
    assert extras == set(UNLOCKS)
    assert set(EXTRAS.values()) <= extras


def test_two_builds_of_onnx_runtime_are_found_and_explained():
    assert list(wheel_findings({"onnxruntime": "1.32.0"})) == []
    assert list(wheel_findings({"onnxruntime-gpu": "1.31.1"})) == []
    (finding,) = wheel_findings({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"})
    assert finding.state == "missing"
    assert finding.found.startswith("onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are different")
    assert finding.fix == (
        "keep one: pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu; "
        "it replaces onnxruntime, whose processor's provider it has too"
    )


def test_the_wheels_are_read_from_what_is_installed(machine, monkeypatch):
    wheels = {"onnxruntime": ["onnxruntime", "onnxruntime-directml", "onnxruntime"]}
    monkeypatch.setattr(doctor.importlib.metadata, "packages_distributions", lambda: wheels)
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: f"1 of {name}")
    (finding,) = [one for one in examine() if one.subject == "ONNX Runtime's wheels"]
    assert "onnxruntime-directml 1 of onnxruntime-directml" in finding.found


@pytest.mark.skipif(sys.platform != "linux", reason="names what Linux lacks")
def test_backends_of_other_systems_are_not_listed(machine):
    subjects = {one.subject for one in examine()}
    assert "ONNX Runtime on CUDA" in subjects
    assert not {"ONNX Runtime on DirectML", "ONNX Runtime on Core ML"} & subjects


def test_the_tensorrt_that_is_here_builds_one_convolution():
    pytest.importorskip("tensorrt_rtx", reason="pip install mirnet-edge[tensorrt-rtx]")
    build_one_layer("tensorrt_rtx")
    check = runner.check_installation()
    assert "built one convolution" in check.found


def test_a_gpu_is_told_with_whether_it_has_fp8(machine, monkeypatch):
    for capability, says in (("8.7", "8.7 (without FP8)"), ("11.0", "11.0 (with FP8)")):
        fake = FakeCudart(capability=capability)
        monkeypatch.setattr(cuda, "_runtime", lambda fake=fake: fake)
        (finding,) = [one for one in examine() if one.subject == "CUDA"]
        assert says in finding.found
