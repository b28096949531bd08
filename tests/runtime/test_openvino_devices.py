"""OpenVINO's GPU, NPU and AUTO: the plugin of processors under their names, and its settings."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import openvino
import pytest

from mirnet_edge.errors import BundleError, EngineError
from mirnet_edge.manifest import ImageContract
from mirnet_edge.runtime import machine_latency, openvino_runner
from mirnet_edge.runtime.backends import find_backend
from mirnet_edge.runtime.bundle import open_bundle, read_manifest_here
from mirnet_edge.runtime.openvino_runner import DEVICE_BACKENDS, OpenVinoRunner

REAL = openvino.Core
# `Core().get_property(device, "OPTIMIZATION_CAPABILITIES")`, after OpenVINO's documentation of its
# plugins: an NPU has no fp32
CAPABILITIES = {
    "GPU": ["FP32", "BIN", "FP16", "INT8", "GPU_HW_MATMUL", "EXPORT_IMPORT"],
    "NPU": ["FP16", "INT8", "EXPORT_IMPORT"],
}
NAMES = {"GPU": "Intel(R) Arc(TM) B580 Graphics (dGPU)", "NPU": "Intel(R) AI Boost", "CPU": "a CPU"}


@pytest.fixture
def fake(monkeypatch):
    """Let OpenVINO find devices: fake(("CPU", "NPU")); returns what was compiled, for what, how.

    They compute on the processor. `runs_on` is what a compiled graph says of itself.
    """
    compiled = []

    def install(devices, runs_on=None, runs_in=None):
        class Core:
            def __init__(self):
                self._core = REAL()
                self.available_devices = list(devices)

            def read_model(self, model):
                return self._core.read_model(model)

            def get_property(self, device, property):
                kind = device.partition(".")[0]
                if property == "FULL_DEVICE_NAME":
                    return NAMES[kind]
                if kind == "CPU":
                    return self._core.get_property(device, property)
                return CAPABILITIES[kind]

            def compile_model(self, model, device, settings=None):
                settings = settings or {}
                compiled.append(
                    SimpleNamespace(device=device, settings=settings, dynamic=model.is_dynamic())
                )
                inner = self._core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
                hint = runs_in or settings.get("INFERENCE_PRECISION_HINT")
                says = {
                    "EXECUTION_DEVICES": runs_on or [device],
                    "INFERENCE_PRECISION_HINT": SimpleNamespace(to_string=lambda: hint),
                }
                return SimpleNamespace(
                    create_infer_request=inner.create_infer_request, get_property=says.__getitem__
                )

        monkeypatch.setattr(openvino, "Core", Core)
        monkeypatch.setattr(openvino_runner, "_has_device_file", lambda device: True)
        return compiled

    openvino_runner.find_device_obstacle.cache_clear()
    yield install
    openvino_runner.find_device_obstacle.cache_clear()


@pytest.fixture
def make_runner(make_graph, tmp_path):
    def make(device, precision="fp16", *, anchored=False):
        path = make_graph(tmp_path / "plain.onnx", io="uint8")
        image = ImageContract(io="uint8", size=None, multiple=16, scale=1)
        name = f"openvino-{device.lower()}:{precision}"
        return OpenVinoRunner(path, image, name=name, precision=precision, device=device)

    return make


def test_graphs_for_an_npu_are_of_static_size_in_halves_and_kept_compiled(
    fake, make_runner, frames_of
):
    compiled = fake(("CPU", "NPU"))
    with make_runner("NPU") as runner:
        for width in (32, 48):
            assert runner.run(frames_of(16, width)).shape == (1, 16, width, 3)
        assert runner.placement == "NPU (Intel(R) AI Boost), f16"
    for one in compiled:
        assert (one.device, one.dynamic) == ("NPU", False)
        assert one.settings["INFERENCE_PRECISION_HINT"] == "f16"
        assert "INFERENCE_NUM_THREADS" not in one.settings
        assert "provider-cache" in one.settings["CACHE_DIR"]


def test_a_graph_that_stays_dynamic_is_not_given_to_an_npu(fake, make_runner, frames_of):
    fake(("CPU", "NPU"))
    with make_runner("NPU") as runner:
        model = SimpleNamespace(
            is_dynamic=lambda: True, clone=lambda: model, inputs=[], input=lambda place: place,
            reshape=lambda sizes: None,
        )  # fmt: skip
        runner._model = model
        with pytest.raises(EngineError, match="the NPU needs every shape fixed"):
            runner.run(frames_of(16, 16))


def test_the_shipped_graphs_are_static_once_their_size_is_known(frames_of):
    """With context vectors as further inputs: what an NPU asks of them."""
    with open_bundle("shipped:low-light", "openvino", "fp32") as runner:
        runner.run(frames_of(16, 32))
        (request,) = runner._requests.values()
        assert not any(one.partial_shape.is_dynamic for one in request.get_compiled_model().outputs)


@pytest.mark.parametrize(("runs_on", "runs_in"), [(["CPU"], None), (None, "f32")])
def test_another_device_or_precision_than_asked_for_is_an_error(
    runs_on, runs_in, fake, make_runner, frames_of
):
    fake(("CPU", "GPU"), runs_on=runs_on, runs_in=runs_in)
    with (
        make_runner("GPU") as runner,
        pytest.raises(EngineError, match=r"expected (OpenVINO to compute it on the )?GPU"),
    ):
        runner.run(frames_of(16, 16))


def test_a_limit_of_instructions_takes_bf16_away(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not openvino_runner.supports("bf16")
    assert not openvino_runner.supports("int8+bf16")
    assert openvino_runner.supports("fp32")


def test_a_second_gpu_counts_as_one(fake, make_runner, frames_of):
    fake(("CPU", "GPU.0", "GPU.1"), runs_on=["GPU.0"])
    assert openvino_runner.find_device_obstacle("GPU") is None
    with make_runner("GPU", "fp32") as runner:
        runner.run(frames_of(16, 16))
        assert runner.placement == "GPU.0 (Intel(R) Arc(TM) B580 Graphics (dGPU)), f32"


def test_openvinos_own_choice_is_told_as_it_was_made(make_runner, frames_of):
    """With the real plugin AUTO, which has the processor alone here or another device too."""
    frames = frames_of(16, 32)
    with make_runner("CPU", "fp32") as plain, make_runner("AUTO", "fp32") as runner:
        difference = runner.run(frames).astype(int) - plain.run(frames)
        assert runner.placement
    assert np.abs(difference).max() <= 1


def test_its_own_choice_does_not_begin_on_the_processor(fake, make_runner, frames_of):
    compiled = fake(("CPU", "GPU"), runs_on=["GPU"])
    with make_runner("AUTO", "fp32") as runner:
        runner.run(frames_of(16, 16))
        assert runner.placement == "GPU (Intel(R) Arc(TM) B580 Graphics (dGPU))"
    assert compiled[-1].settings["ENABLE_STARTUP_FALLBACK"] is False


# The rows


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("openvino-gpu", {"fp16", "int8+fp16", "int8", "fp32"}),
        ("openvino-npu", {"fp16", "int8+fp16"}),
    ],
)
def test_the_precisions_of_a_row_are_those_of_the_device(name, here, fake):
    fake(("CPU", "GPU", "NPU"))
    backend = find_backend(name)
    assert backend.machine_obstacle() is None
    assert {one for one in backend.precisions if backend.supports(one)} == here
    assert backend.check().state == "ok"


@pytest.mark.parametrize("name", ["openvino-gpu", "openvino-npu"])
def test_a_device_that_openvino_does_not_find_is_told_with_those_it_finds(name, fake, make_bundle):
    fake(("CPU",))
    kind = name.rpartition("-")[2].upper()
    says = f"OpenVINO finds no {kind} on this machine, found CPU"
    assert find_backend(name).check().state == "note"
    assert says in find_backend(name).check().found
    with pytest.raises(BundleError, match=rf"{name}:fp32, {name}:fp16: {says}"):
        open_bundle(make_bundle(), name)


@pytest.mark.skipif(sys.platform != "linux", reason="drivers are files in Linux alone")
def test_without_a_driver_openvino_is_not_asked(fake, monkeypatch, tmp_path):
    is_there = openvino_runner._has_device_file
    fake(("CPU", "GPU"))
    monkeypatch.setattr(openvino_runner, "_has_device_file", is_there)
    monkeypatch.setattr(openvino_runner, "_DEVICE_FOLDER", tmp_path)
    monkeypatch.delattr(openvino, "Core")
    assert "found no driver of one" in openvino_runner.find_device_obstacle("GPU")
    assert not is_there("NPU")
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri/renderD128").touch()
    assert is_there("GPU")
    assert not is_there("NPU")
    assert is_there("CPU")


def test_a_gpu_that_computes_nothing_is_no_backend_here(fake, monkeypatch):
    fake(("CPU", "GPU"))

    def fail(*given):
        raise RuntimeError("[GPU] clBuildProgram\nfailed")

    monkeypatch.setattr(openvino.Core, "compile_model", fail)
    says = "OpenVINO finds the GPU and computes nothing on it: [GPU] clBuildProgram failed"
    assert openvino_runner.find_device_obstacle("GPU") == says


def test_auto_times_an_npu_that_is_here_beside_the_processor(
    fake, make_bundle, make_mode, tmp_path, monkeypatch
):
    monkeypatch.setattr(machine_latency, "user_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(machine_latency, "_measured", {})
    fake(("CPU", "NPU"))
    folder = make_bundle(modes=[make_mode("onnxruntime:fp32", p50_ms=1.0)])
    manifest = read_manifest_here(folder)
    npu = [one for one in manifest.configurations if one.backend == "openvino-npu"]
    assert [one.name for one in npu if one.latency] == ["openvino-npu:fp16"]
    assert npu[1].estimated_drop_db == pytest.approx(0.0, abs=0.01)


def test_its_own_choice_is_for_those_who_name_it(make_bundle):
    assert DEVICE_BACKENDS["openvino-auto"].added_here == "named"
    names = {one.backend for one in read_manifest_here(make_bundle()).configurations}
    assert "openvino-auto" not in names
