"""Each backend alike: the same pixels, opened and freed, broken files refused in words."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from mirnet_edge.errors import (
    CheckpointError,
    EngineError,
    ImageError,
    MissingDependencyError,
    OptionError,
)
from mirnet_edge.manifest import ImageContract
from mirnet_edge.runtime import onnxruntime_runner, openvino_runner, torch_runner
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from mirnet_edge.runtime.openvino_runner import KEPT_SIZES, OpenVinoRunner
from mirnet_edge.runtime.torch_runner import TorchRunner

_GRAPH_RUNNERS = [OnnxRuntimeRunner, OpenVinoRunner]
_BACKEND_OF = {
    OnnxRuntimeRunner: "onnxruntime",
    OpenVinoRunner: "openvino",
    TorchRunner: "torch",
}
_any_runner = pytest.mark.parametrize(
    "kind", [*_GRAPH_RUNNERS, TorchRunner], ids=_BACKEND_OF.__getitem__
)
_any_graph_runner = pytest.mark.parametrize("kind", _GRAPH_RUNNERS, ids=_BACKEND_OF.__getitem__)


def _contract(io="uint8", size=None, multiple=16, scale=1):
    return ImageContract(io=io, multiple=multiple, size=size, scale=scale)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return the weights of a small network that changes its input."""
    import torch

    from mirnet_edge import checkpoints
    from mirnet_edge.checkpoints import ModelCard
    from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig

    torch.manual_seed(0)
    network = MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 8), blocks=1, exposure_channels=4))
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    checkpoints.save(network, path, ModelCard(task="low-light"))
    return path


@pytest.fixture
def make_runner(tmp_path, make_graph, weights):
    """Return a runner of a good file: make_runner(kind, io="uint8", size=None, **options).

    The scale is that of a graph; torch's weights have none.
    """

    def make(kind, *, io="uint8", size=None, scale=1, precision="fp32", **options):
        name = f"{_BACKEND_OF[kind]}:{precision}"
        image = _contract(io, size, scale=scale)
        path = weights
        if kind is not TorchRunner:
            path = make_graph(tmp_path / "graph.onnx", io=io, size=size, scale=scale)
        return kind(path, image, name=name, precision=precision, **options)

    return make


def _levels_apart(one, other):
    return np.abs(one.astype(int) - other).max()


@_any_graph_runner
@pytest.mark.parametrize("io", ["uint8", "float"])
def test_a_graph_gives_what_its_nodes_say(kind, io, make_runner, frames_of):
    frames = frames_of(21, 35, 3)
    with make_runner(kind, io=io) as runner:
        restored = runner.run(frames)
    assert restored.dtype == np.uint8
    # one level: half-way values round either way in floating point
    assert _levels_apart(restored, np.rint(np.minimum(frames * 1.5, 255))) <= 1


@_any_graph_runner
@pytest.mark.parametrize("io", ["uint8", "float"])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 32)], ids=str)
def test_a_graph_that_enlarges_gives_larger_frames(kind, io, size, make_runner, frames_of):
    frames = frames_of(*size, 2)
    with make_runner(kind, io=io, scale=2) as runner:
        restored = runner.run(frames)
    assert runner.scale == 2
    assert restored.shape == (2, 2 * size[0], 2 * size[1], 3)
    bright = np.rint(np.minimum(frames * 1.5, 255))
    assert _levels_apart(restored, bright.repeat(2, 1).repeat(2, 2)) <= 1


@pytest.mark.parametrize(
    ("kind", "told"),
    [(OnnxRuntimeRunner, "CPUExecutionProvider"), (OpenVinoRunner, "CPU")],
    ids=["onnxruntime", "openvino"],
)
def test_the_library_tells_that_the_processor_computed(kind, told, make_runner, frames_of):
    with make_runner(kind) as runner:
        runner.run(frames_of(16, 16))
        assert runner.placement == told


@_any_graph_runner
def test_a_fixed_size_is_that_of_what_goes_in(kind, make_runner, frames_of):
    with make_runner(kind, size=(16, 32), scale=3) as runner:
        assert runner.run(frames_of(9, 31)).shape == (1, 27, 93, 3)
        with pytest.raises(ImageError, match=r"\S+ was exported for 32x16"):
            runner.run(frames_of(48, 96))


@_any_graph_runner
@pytest.mark.parametrize("io", ["uint8", "float"])
def test_a_graph_of_another_scale_than_the_manifest_says_is_named(
    kind, io, tmp_path, make_graph, frames_of
):
    path = make_graph(tmp_path / "twice.onnx", io=io, scale=2)
    runner = kind(path, _contract(io, multiple=8), name="x:fp32", precision="fp32")
    given, expected = (1, 32, 48, 3), (1, 16, 24, 3)
    if io == "float":
        given, expected = (1, 3, 32, 48), (1, 3, 16, 24)
    says = f"twice.onnx gave an output of shape {given}, expected {expected}; export the bundle"
    with runner, pytest.raises(EngineError, match=re.escape(says)):
        runner.run(frames_of(15, 24))


@_any_runner
@pytest.mark.parametrize("io", ["uint8", "float"])
def test_frames_are_the_callers_before_and_after(kind, io, make_runner, frames_of):
    frames = frames_of(32, 48)
    frames.flags.writeable = False
    kept = frames.copy()
    with make_runner(kind, io=io) as runner:
        first = runner.run(frames)
        copied = first.copy()
        second = runner.run(255 - frames)
        again = runner.run(frames)
    assert _levels_apart(first, second) > 0
    np.testing.assert_array_equal(first, copied)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(frames, kept)
    first[:] = 0  # would fail on a view of the backend's memory that is read-only


@_any_runner
def test_frames_need_not_be_contiguous(kind, make_runner, frames_of):
    mirrored = frames_of(32, 48)[:, :, ::-1]
    with make_runner(kind) as runner:
        np.testing.assert_array_equal(runner.run(mirrored), runner.run(mirrored.copy()))


@_any_runner
def test_each_frame_of_several_is_restored_as_if_alone(kind, make_runner, frames_of):
    frames = frames_of(20, 30, 3)
    with make_runner(kind) as runner:
        together = runner.run(frames)
        alone = [runner.run(frames[place : place + 1]) for place in range(3)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@_any_runner
def test_a_runner_can_be_opened_again_and_is_shut_between(kind, make_runner, frames_of):
    frames = frames_of(16, 16)
    runner = make_runner(kind)
    with runner:
        first = runner.run(frames)
    with pytest.raises(EngineError, match="is not open: expected `with runner:`"):
        runner.run(frames)
    with runner, runner:
        np.testing.assert_array_equal(runner.run(frames), first)


@dataclass(frozen=True)
class Held:
    kind: type
    by: str


@pytest.mark.parametrize(
    "case",
    [
        Held(OnnxRuntimeRunner, "_session"),
        Held(OpenVinoRunner, "_model"),
        Held(TorchRunner, "_network"),
    ],
    ids=lambda case: _BACKEND_OF[case.kind],
)
def test_what_the_backend_holds_is_let_go_at_the_end(case, make_runner, frames_of):
    with make_runner(case.kind) as runner:
        runner.run(frames_of(16, 16))
        assert getattr(runner, case.by) is not None
    assert getattr(runner, case.by) is None


@_any_runner
def test_building_a_runner_reads_nothing(kind, tmp_path):
    kind(tmp_path / "nowhere", _contract(), name="x:fp32", precision="fp32")


@_any_runner
def test_no_thread_is_refused(kind, tmp_path):
    with pytest.raises(OptionError, match="--threads must be at least 1, found -2; leave it out"):
        kind(tmp_path / "x", _contract(), name="x:fp32", precision="fp32", threads=-2)


@_any_graph_runner
@pytest.mark.parametrize("content", [b"", b"not a graph", None], ids=["empty", "text", "missing"])
def test_a_graph_that_is_none_is_named(kind, content, tmp_path):
    path = tmp_path / "fp32.onnx"
    if content is not None:
        path.write_bytes(content)
    name = f"{_BACKEND_OF[kind]}:fp32"
    runner = kind(path, _contract(), name=name, precision="fp32")
    says = rf"fp32\.onnx: {name} could not open it: .*Try another --backend, or export"
    with pytest.raises(EngineError, match=says) as raised, runner:
        pass
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500
    with pytest.raises(EngineError, match="is not open"):
        runner.run(np.zeros((1, 4, 4, 3), np.uint8))


@_any_graph_runner
def test_a_graph_of_another_size_than_the_manifest_says_is_named(
    kind, tmp_path, make_graph, frames_of
):
    path = make_graph(tmp_path / "fixed.onnx", size=(16, 32))
    runner = kind(path, _contract(), name="x:fp32", precision="fp32")
    with (
        runner,
        pytest.raises(EngineError, match=r"fixed\.onnx: x:fp32 could not run it on a 16x16"),
    ):
        runner.run(frames_of(16, 16))


@_any_runner
def test_a_backend_that_is_not_installed_says_how_to_get_it(kind, make_runner, monkeypatch):
    runner = make_runner(kind)
    name = _BACKEND_OF[kind]
    monkeypatch.setitem(sys.modules, name, None)
    says = rf"the backend {name} needs the package {name}, which is not installed: pip install"
    with pytest.raises(MissingDependencyError, match=says), runner:
        pass


@_any_runner
def test_a_fixed_size_refuses_others_in_the_users_words(kind, make_runner, frames_of):
    says = r"frame is 33x16; \S+ was exported for 32x16: export again with --size 33x16, or with"
    with make_runner(kind, size=(16, 32)) as runner:
        assert runner.run(frames_of(9, 31)).shape == (1, 9, 31, 3)
        with pytest.raises(ImageError, match=says):
            runner.run(frames_of(16, 33))


@dataclass(frozen=True)
class Supports:
    id: str
    module: object
    runs: set[str]
    lacks: set[str]


@pytest.mark.parametrize(
    "case",
    [
        Supports("torch", torch_runner, {"fp32", "bf16", "fp16"}, {"int8", "int8+fp16"}),
        Supports(
            "onnxruntime", onnxruntime_runner, {"fp32", "fp16", "int8", "int8+fp16"}, {"bf16"}
        ),
        Supports("openvino", openvino_runner, {"fp32"}, set()),
    ],
    ids=lambda case: case.id,
)
def test_precisions_that_run_here(case):
    backend = case.module.BACKEND
    assert {precision for precision in case.runs if backend.supports(precision)} == case.runs
    assert not any(backend.supports(precision) for precision in case.lacks)


# ONNX Runtime


@pytest.mark.parametrize("threads", [1, 2])
def test_onnxruntime_uses_the_threads_asked_for(threads, make_runner):
    with make_runner(OnnxRuntimeRunner, threads=threads) as runner:
        assert runner._session.get_session_options().intra_op_num_threads == threads


def test_onnxruntime_starts_no_more_threads_than_it_may_use(make_runner, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(onnxruntime_runner, "usable_cores", lambda: 2)
    with make_runner(OnnxRuntimeRunner) as runner:
        assert runner._session.get_session_options().intra_op_num_threads == 2
    monkeypatch.setattr(onnxruntime_runner, "usable_cores", lambda: 64)
    with make_runner(OnnxRuntimeRunner) as runner:
        assert runner._session.get_session_options().intra_op_num_threads == 0  # its own choice


@pytest.mark.parametrize("optimize", [True, False])
def test_onnxruntime_runs_a_graph_as_written_where_asked(optimize, make_runner, frames_of):
    import onnxruntime

    with make_runner(OnnxRuntimeRunner, optimize=optimize) as runner:
        level = runner._session.get_session_options().graph_optimization_level
        assert (level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL) is not optimize
        frames = frames_of(16, 16)
        assert _levels_apart(runner.run(frames), np.rint(np.minimum(frames * 1.5, 255))) <= 1


# OpenVINO


def _hint(runner, frames):
    runner.run(frames)
    (request,) = runner._requests.values()
    return request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT")


def test_openvino_computes_in_the_precision_of_its_mode(make_runner, frames_of):
    # without the hint a processor that has bf16 would take it for fp32
    for precision, type_name in (("fp32", "f32"), ("bf16", "bf16")):
        if not openvino_runner.supports(precision):
            continue
        with make_runner(OpenVinoRunner, precision=precision) as runner:
            assert _hint(runner, frames_of(16, 16)).to_string() == type_name


def test_openvino_uses_the_threads_asked_for(make_runner, frames_of):
    with make_runner(OpenVinoRunner, threads=1) as runner:
        runner.run(frames_of(16, 16))
        (request,) = runner._requests.values()
        assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


def test_openvino_refuses_a_precision_the_processor_lacks(make_runner, monkeypatch):
    monkeypatch.setattr(openvino_runner, "supports", lambda precision, device: False)
    says = "openvino:bf16: this processor has no bf16 in OpenVINO; choose another --precision"
    with pytest.raises(EngineError, match=says), make_runner(OpenVinoRunner, precision="bf16"):
        pass


def test_openvino_keeps_the_sizes_it_met_last(make_runner, frames_of):
    sides = [16 * (place + 1) for place in range(KEPT_SIZES + 1)]
    with make_runner(OpenVinoRunner) as runner:
        for side in sides[:-1]:
            runner.run(frames_of(16, side))
        first = runner._requests[1, 16, 16, 3]
        runner.run(frames_of(16, 16))  # met again: now the second is the oldest
        runner.run(frames_of(16, sides[-1]))
        assert [shape[2] for shape in runner._requests] == [*sides[2:-1], 16, sides[-1]]
        assert runner._requests[1, 16, 16, 3] is first
    assert not runner._requests


def test_openvino_compiles_a_fixed_size_when_it_is_opened(make_runner):
    with make_runner(OpenVinoRunner, size=(16, 32)) as runner:
        assert list(runner._requests) == [(1, 16, 32, 3)]


# torch


@pytest.mark.parametrize("io", ["uint8", "float"])
def test_torch_gives_what_the_network_gives(io, make_runner, weights, frames_of):
    import torch

    from mirnet_edge import checkpoints

    frames = frames_of(32, 48)
    batch = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255.0
    with torch.inference_mode():
        expected = checkpoints.load(weights).model(batch).clamp(0, 1).permute(0, 2, 3, 1) * 255
    with make_runner(TorchRunner, io=io) as runner:
        restored = runner.run(frames)
    assert _levels_apart(restored, expected.round().numpy()) <= 1
    assert _levels_apart(restored, frames) > 1


@pytest.mark.parametrize("io", ["uint8", "float"])
def test_torch_enlarges_what_a_network_for_it_takes(io, tmp_path, network_of, frames_of):
    import torch

    from mirnet_edge import checkpoints

    network = network_of("enlarging")
    path = tmp_path / "twice.safetensors"
    checkpoints.save(network, path, checkpoints.ModelCard(task="super-resolution"))
    frames = frames_of(16, 24)
    batch = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255.0
    with torch.inference_mode():
        expected = network(batch).clamp(0, 1).permute(0, 2, 3, 1) * 255
    image = _contract(io, multiple=network.multiple, scale=2)
    with TorchRunner(path, image, name="torch:fp32", precision="fp32") as runner:
        restored = runner.run(frames)
        assert runner.run(frames[:, :5, :7]).shape == (1, 10, 14, 3)
    assert restored.shape == (1, 32, 48, 3)
    assert _levels_apart(restored, expected.round().numpy()) <= 1


def test_torch_in_bf16_is_close_to_fp32_and_not_equal(make_runner, frames_of):
    frames = frames_of(32, 48)
    with make_runner(TorchRunner) as exact, make_runner(TorchRunner, precision="bf16") as coarse:
        difference = _levels_apart(exact.run(frames), coarse.run(frames))
    assert 0 < difference <= 8


def test_torch_refuses_int8_before_it_is_opened(weights):
    says = "torch:int8: torch runs fp32, bf16, fp16, not int8; choose another --backend"
    with pytest.raises(EngineError, match=says):
        TorchRunner(weights, _contract(), name="torch:int8", precision="int8")


def test_torch_gets_its_threads_back_afterwards(make_runner):
    import torch

    former = torch.get_num_threads()
    other = former + 1
    with make_runner(TorchRunner, threads=other):
        assert torch.get_num_threads() == other
    assert torch.get_num_threads() == former


def test_torch_says_what_is_wrong_with_weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    runner = TorchRunner(path, _contract(), name="torch:fp32", precision="fp32")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"), runner:
        pass
