"""Execution providers: recorded lists of ONNX Runtime's wheels, and what is refused of them."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from mirnet_edge.errors import EngineError
from mirnet_edge.manifest import ImageContract
from mirnet_edge.onnx_sessions import DeviceBuffers
from mirnet_edge.onnx_wire import convolution_model
from mirnet_edge.runtime import device_caches, execution_providers
from mirnet_edge.runtime.backends import find_backend
from mirnet_edge.runtime.device_caches import cache_folder
from mirnet_edge.runtime.execution_providers import (
    CUDA,
    EXECUTION_PROVIDERS,
    OPENVINO,
    TENSORRT,
    WEBGPU,
    count_nodes,
    describe_placement,
    listed_providers,
)
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from mirnet_edge.runtime.runner import placement_of
from mirnet_edge.runtime.shipped import find_bundle
from mirnet_edge.runtime.temporal_smoothing import smooth_over_time

CPU = "CPUExecutionProvider"
# `onnxruntime.get_available_providers()` of wheels from the package index, 2026-11, on this
# project's machine: onnxruntime 1.32.0, -gpu 1.31.1, -openvino 1.24.1, -webgpu 1.27.0
RECORDED = {
    "onnxruntime": ["AzureExecutionProvider", CPU],
    "onnxruntime-gpu": ["TensorrtExecutionProvider", "CUDAExecutionProvider", CPU],
    "onnxruntime-openvino": ["OpenVINOExecutionProvider", CPU],
    "onnxruntime-webgpu": ["WebGpuExecutionProvider", CPU],
}


@pytest.fixture
def forget():
    """Forget which providers computed something in this process, before and after."""
    execution_providers._trial.cache_clear()
    execution_providers._register.cache_clear()
    yield
    execution_providers._trial.cache_clear()
    execution_providers._register.cache_clear()


@pytest.fixture
def fake(monkeypatch, forget):
    """Let ONNX Runtime have providers: fake(listed, nodes={name: count}, opened=None).

    Its sessions compute on the processor; they say that `nodes` are computed by each provider, and
    that `opened` were opened, by default those asked for. Returns what sessions were asked for.
    """
    real = onnxruntime.InferenceSession
    asked = []

    def install(listed, nodes=None, opened=None):
        class Session(real):
            def __init__(self, model, options, providers=(), **rest):
                asked.append(SimpleNamespace(providers=providers, rest=rest, fallback=True))
                self.names = [one if isinstance(one, str) else one[0] for one in providers]
                super().__init__(model, options, providers=[CPU], **rest)

            def disable_fallback(self):
                asked[-1].fallback = False
                super().disable_fallback()

            def get_providers(self):
                return list(opened or self.names or [CPU])

            def get_provider_graph_assignment_info(self):
                counts = {self.get_providers()[0]: 5} if nodes is None else nodes
                return [
                    SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [None] * count)
                    for name, count in counts.items()
                ]

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(listed))
        return asked

    return install


@pytest.fixture
def make_runner(make_graph, tmp_path):
    path = make_graph(tmp_path / "plain.onnx", io="uint8")
    image = ImageContract(io="uint8", size=None, multiple=16, scale=1)

    def make(provider, **options):
        return OnnxRuntimeRunner(
            path, image, name=f"{provider.backend}:fp32", precision="fp32", provider=provider,
            **options,
        )  # fmt: skip

    return make


def unbound(provider):
    """Return a provider whose frames ONNX Runtime copies: no such device is here."""
    return replace(provider, buffers=None, systems=("Linux", "Windows", "Darwin"))


@pytest.mark.parametrize("provider", EXECUTION_PROVIDERS, ids=lambda one: one.backend)
def test_a_session_is_asked_for_the_provider_without_any_fallback(
    provider, fake, make_runner, frames_of, monkeypatch
):
    asked = fake([provider.name, CPU])
    frames = frames_of(16, 32)
    with OnnxRuntimeRunner(
        make_runner(provider).path, make_runner(provider).image, name="x", precision="fp32"
    ) as plain:
        expected = plain.run(frames)
    with make_runner(unbound(provider)) as runner:
        np.testing.assert_array_equal(runner.run(frames), expected)
        assert runner.placement == f"5 of 5 nodes on {provider.name}"
    (name, options), *others = asked[-1].providers
    assert (name, others) == (provider.name, [CPU])
    assert all(isinstance(value, str) for value in options.values())
    assert asked[-1].rest == {"enable_fallback": 0}
    assert asked[-1].fallback is False


def test_a_provider_that_did_not_open_is_an_error(fake, make_runner):
    fake(RECORDED["onnxruntime-gpu"], opened=[CPU])
    says = (
        r"plain\.onnx: expected CUDAExecutionProvider to compute it, found all of it on "
        r"CPUExecutionProvider: .*--backend onnxruntime-cuda,onnxruntime"
    )
    with pytest.raises(EngineError, match=says), make_runner(unbound(CUDA)):
        pass


def test_a_provider_that_is_listed_first_and_computes_no_node_is_an_error(fake, make_runner):
    fake(RECORDED["onnxruntime-gpu"], nodes={CPU: 5})
    with (
        pytest.raises(EngineError, match="found all of it on CUDAExecutionProvider and CPU"),
        make_runner(unbound(CUDA)),
    ):
        pass


def test_single_nodes_on_the_processor_are_told_with_their_count(
    fake, make_runner, caplog, frames_of
):
    fake(RECORDED["onnxruntime-webgpu"], nodes={WEBGPU.name: 34, CPU: 7})
    with caplog.at_level(logging.INFO, logger="mirnet_edge"), make_runner(WEBGPU) as runner:
        assert runner.placement == f"34 of 41 nodes on {WEBGPU.name}, 7 of 41 nodes on {CPU}"
        assert placement_of(smooth_over_time(runner)) == runner.placement  # as wrapped for video
    assert runner.placement in caplog.text


def test_an_onnx_runtime_that_does_not_count_nodes_is_told_apart():
    old = SimpleNamespace(get_providers=lambda: ["ROCMExecutionProvider", CPU])
    assert count_nodes(old) == Counter()
    assert "nodes not counted" in describe_placement(old)


# What a machine has


@dataclass(frozen=True)
class Wheel:
    name: str
    has: tuple[str, ...]


@pytest.mark.skipif(sys.platform != "linux", reason="the lists are of Linux's wheels")
@pytest.mark.parametrize(
    "wheel",
    [
        Wheel("onnxruntime", ()),
        Wheel("onnxruntime-gpu", ("onnxruntime-cuda", "onnxruntime-tensorrt")),
        Wheel("onnxruntime-openvino", ("onnxruntime-openvino",)),
        Wheel("onnxruntime-webgpu", ("onnxruntime-webgpu",)),
    ],
    ids=lambda wheel: wheel.name,
)
def test_the_backends_of_a_wheel_are_those_of_its_providers(wheel, fake, monkeypatch):
    monkeypatch.setattr(execution_providers, "available", lambda module: False)
    fake(RECORDED[wheel.name])
    here = [one.backend for one in EXECUTION_PROVIDERS if one.obstacle() is None]
    assert set(here) == set(wheel.has)


@pytest.mark.parametrize("provider", EXECUTION_PROVIDERS, ids=lambda one: one.backend)
def test_what_is_missing_is_told_with_how_it_is_installed(provider, fake, monkeypatch):
    monkeypatch.setattr(execution_providers, "available", lambda module: False)
    monkeypatch.setattr(execution_providers.platform, "system", lambda: provider.systems[0])
    fake(RECORDED["onnxruntime"])
    check = find_backend(provider.backend).check()
    assert check.state == "note"
    assert f"has no {provider.name}: {provider.install}" in check.found
    monkeypatch.setattr(execution_providers.platform, "system", lambda: "Plan 9")
    assert "found Plan 9" in provider.obstacle()


def test_a_provider_that_opens_and_computes_nothing_is_no_backend_here(fake):
    fake(RECORDED["onnxruntime-gpu"], opened=[CPU])
    assert "CUDAExecutionProvider is installed and computes nothing here" in CUDA.obstacle()


def test_a_wheel_that_adds_a_provider_is_registered_once_and_asked_for_its_devices(
    monkeypatch, forget
):
    """As onnxruntime-ep-webgpu 0.4.0 beside onnxruntime 1.32.0 behaves without a GPU."""
    registered, devices = [], []
    plugin = ModuleType(WEBGPU.plugin)
    plugin.get_library_path = lambda: "libonnxruntime_providers_webgpu.so"
    monkeypatch.setitem(sys.modules, WEBGPU.plugin, plugin)
    monkeypatch.setattr(execution_providers, "available", lambda module: True)
    monkeypatch.setattr(
        onnxruntime, "register_execution_provider_library",
        lambda *given: registered.append(given), raising=False,
    )  # fmt: skip
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices, raising=False)
    assert "finds no device for WebGpuExecutionProvider" in WEBGPU.obstacle()
    assert registered == [(WEBGPU.name, "libonnxruntime_providers_webgpu.so")]

    execution_providers._trial.cache_clear()
    devices.append(SimpleNamespace(ep_name=WEBGPU.name))
    given = []

    class Options:
        graph_optimization_level = 99
        has_providers = staticmethod(lambda: bool(given))

        def add_session_config_entry(self, *pair):
            pass

        def add_provider_for_devices(self, *pair):
            given.append(pair)

    class Session:
        def __init__(self, model, options, providers, enable_fallback):
            assert (providers, enable_fallback) == ([], 0)

        disable_fallback = staticmethod(lambda: None)
        get_providers = staticmethod(lambda: [WEBGPU.name, CPU])
        run = staticmethod(lambda outputs, feed: [])
        get_provider_graph_assignment_info = staticmethod(
            lambda: [SimpleNamespace(ep_name=WEBGPU.name, get_nodes=lambda: [None])]
        )

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    assert WEBGPU.obstacle() is None
    assert given == [(devices, {})]
    assert len(registered) == 1


# Caches of engines


def test_tensorrt_keeps_engines_and_timings_in_the_bundle_apart_for_each_graph(tmp_path):
    graph = tmp_path / "int8.onnx"
    graph.write_bytes(b"one")
    options = TENSORRT.make_options(graph, "int8+fp16")
    first = options["trt_engine_cache_path"]
    assert options["trt_timing_cache_path"] == first
    assert (tmp_path / "provider-cache").samefile(f"{first}/..")
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_fp16_enable"] == options["trt_int8_enable"] == "1"
    graph.write_bytes(b"another")
    options = TENSORRT.make_options(graph, "fp32")
    assert options["trt_engine_cache_path"] != first
    assert options["trt_fp16_enable"] == options["trt_int8_enable"] == "0"


def test_engines_of_a_bundle_that_nobody_may_write_are_kept_in_the_users_cache(
    tmp_path, monkeypatch
):
    graph = tmp_path / "bundle" / "fp32.onnx"
    graph.parent.mkdir()
    graph.write_bytes(b"")
    (graph.parent / "provider-cache").write_text("a file, where a folder would be")
    monkeypatch.setattr(device_caches, "user_cache", lambda: tmp_path / "user")
    assert cache_folder(graph, "tensorrt").parent == tmp_path / "user" / "providers"


def test_nothing_is_added_to_the_bundles_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(device_caches, "user_cache", lambda: tmp_path / "user")
    graph = find_bundle("shipped:low-light") / "fp32.onnx"
    assert cache_folder(graph, "openvino").parent == tmp_path / "user" / "providers"
    assert not (graph.parent / "provider-cache").exists()


# Frames in a device's memory


def test_buffers_are_allocated_once_for_a_size_and_give_what_a_run_gives():
    session = onnxruntime.InferenceSession(convolution_model(), providers=[CPU])
    buffers = DeviceBuffers(session, "cpu")
    generator = np.random.default_rng(0)
    places = set()
    for _ in range(3):
        frame = generator.random((1, 3, 8, 8), np.float32)
        (output,) = buffers.run({"input": frame})
        np.testing.assert_array_equal(output, session.run(None, {"input": frame})[0])
        places.add(buffers._inputs["input"].data_ptr())
    assert len(places) == 1


def test_buffers_follow_frames_of_another_size(make_runner, frames_of, fake):
    fake([CUDA.name, CPU])
    bound = replace(CUDA, buffers="cpu")
    with make_runner(bound) as runner, make_runner(unbound(CUDA)) as plain:
        for size in ((16, 32), (32, 16), (16, 32)):
            frames = frames_of(*size)
            np.testing.assert_array_equal(runner.run(frames), plain.run(frames))


# The providers of the installed ONNX Runtime, whichever it is


def test_a_provider_that_is_here_restores_as_the_processor_does(make_runner, frames_of, forget):
    here = [
        one
        for one in EXECUTION_PROVIDERS
        if one.name in listed_providers() and one.obstacle() is None
    ]
    if not here:
        pytest.skip("this ONNX Runtime has the processor's provider alone")
    frames = frames_of(16, 32)
    plain = make_runner(here[0])
    with OnnxRuntimeRunner(plain.path, plain.image, name="x", precision="fp32") as processor:
        expected = processor.run(frames)
    for provider in here:
        with make_runner(provider) as runner:
            assert np.abs(runner.run(frames).astype(int) - expected).max() <= 1
            assert f"nodes on {provider.name}" in runner.placement


def test_openvino_is_asked_for_the_processor_where_it_is_built_in(fake, tmp_path):
    fake(RECORDED["onnxruntime-openvino"])
    options = OPENVINO.make_options(tmp_path / "fp32.onnx", "fp32")
    assert options == {"device_type": "CPU", "precision": "FP32"}
