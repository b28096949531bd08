"""The TensorRT runner on a fake TensorRT and a fake GPU that hold it to the rules of both."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from mirnet_edge.errors import EngineError, ImageError, MissingDependencyError
from mirnet_edge.manifest import BoundFile, ContextVector, EngineFacts, GraphFacts, ImageContract
from mirnet_edge.runtime.temporal_smoothing import smooth_over_time
from mirnet_edge.runtime.tensorrt.build import OptimizationProfile
from mirnet_edge.runtime.tensorrt.cuda import Cuda
from mirnet_edge.runtime.tensorrt.runner import TensorRtRunner
from mirnet_edge.testing.fake_tensorrt import FakeCudart, FakeTensorRT, fake_engine

_SHA = "a" * 64
_GRAPH = GraphFacts(
    name="fp16", precision="fp16", targets=["tensorrt"],
    onnx=BoundFile(file="fp16.onnx", sha256=_SHA, size_bytes=1), kept=True, against_fp32=None,
    against_truth=None, truth_drop_db=None,
)  # fmt: skip
_SMALL, _LARGE = ((1, side, 2 * side, 3) for side in (16, 32))
_STATIC = (OptimizationProfile(_SMALL, _SMALL, _SMALL), OptimizationProfile(_LARGE, _LARGE, _LARGE))
_DYNAMIC = (OptimizationProfile((1, 8, 8, 3), _SMALL, (1, 64, 64, 3)),)


@pytest.fixture
def cudart():
    return FakeCudart()


@pytest.fixture
def make(cudart, monkeypatch, tmp_path):
    """Return (runner, fake TensorRT): make(profiles, flavor="tensorrt", plan=None, ...)."""

    def made(
        profiles=_STATIC, *, flavor="tensorrt", version="10.3.0", plan=None, io="uint8", scale=1,
        gpu=None, vectors=0, **facts,
    ):  # fmt: skip
        gpu = gpu or cudart
        trt = FakeTensorRT(gpu, flavor=flavor)
        monkeypatch.setitem(sys.modules, flavor, trt)
        documents = [one.to_document() for one in profiles]
        path = tmp_path / "fp16.plan"
        if plan is None:
            plan = fake_engine(documents, io=io, scale=scale, vectors=vectors)
        path.write_bytes(plan)
        described = EngineFacts(**{
            "plan": BoundFile(file="fp16.plan", sha256=_SHA, size_bytes=1), "graph": "fp16",
            "flavor": flavor, "version": version, "profiles": documents, "onnx_sha256": _SHA,
            "device": "Fake GPU", "capabilities": [] if "rtx" in flavor else ["8.6"], **facts,
        })  # fmt: skip
        layout = (ContextVector(name="pool", size=vectors),) if vectors else ()
        image = ImageContract(io=io, multiple=4, size=None, scale=scale, vectors=layout)
        runner = TensorRtRunner(
            path, image, name="tensorrt:fp16", precision="fp16", engine=described, graph=_GRAPH,
            cuda=Cuda(gpu),
        )  # fmt: skip
        return runner, trt

    return made


@pytest.mark.parametrize("profiles", [_STATIC, _DYNAMIC], ids=["static", "dynamic"])
def test_frames_go_through_and_all_memory_comes_back(profiles, make, cudart, frames_of):
    runner, _ = make(profiles)
    frames = frames_of(16, 32, 3)
    for _ in range(2):  # it can be opened again
        with runner:
            assert np.array_equal(runner.run(frames), 255 - frames)
            assert cudart.held > 0
        assert cudart.held == 0


def test_static_shapes_are_launched_as_one_recording(make, cudart, frames_of):
    runner, _ = make(_STATIC)
    with runner:
        before = cudart.launches
        runner.run(frames_of(16, 32, 5))
        assert cudart.launches == before + 5


def test_dynamic_shapes_are_not_recorded_and_change_at_will(make, cudart, frames_of):
    runner, _ = make(_DYNAMIC)
    with runner:
        for height, width in ((16, 32), (63, 9), (16, 32)):
            frames = frames_of(height, width)
            assert np.array_equal(runner.run(frames), 255 - frames)
    assert cudart.launches == 0


def test_every_static_size_is_taken_by_its_own_profile(make, frames_of):
    runner, _ = make(_STATIC)
    with runner:
        for side in (16, 32, 16):
            frames = frames_of(side, 2 * side)
            assert np.array_equal(runner.run(frames), 255 - frames)


def test_it_is_warm_when_it_is_open(make):
    runner, trt = make(_STATIC)
    with runner:
        assert trt.runs >= 3 * len(_STATIC)


def test_what_enlarges_comes_out_larger(make, frames_of):
    runner, _ = make(_STATIC, scale=2)
    frames = frames_of(16, 32)
    with runner:
        given = runner.run(frames)
    assert np.array_equal(given, (255 - frames).repeat(2, axis=1).repeat(2, axis=2))


def test_floats_in_and_out(make, frames_of):
    shape = (1, 3, 16, 32)
    runner, _ = make((OptimizationProfile(shape, shape, shape),), io="float")
    frames = frames_of(16, 32)
    with runner:
        assert np.array_equal(runner.run(frames), 255 - frames)


@pytest.mark.parametrize("io", ["uint8", "float"])
def test_a_broken_frame_is_passed_through_counted_and_told_once(io, make, frames_of, caplog):
    shape = _SMALL if io == "uint8" else (1, 3, 16, 32)
    runner, trt = make((OptimizationProfile(shape, shape, shape),), io=io)
    frames = frames_of(16, 32, 2)
    with runner:
        trt.network = lambda batch: np.full_like(batch, 0 if io == "uint8" else np.nan)
        with caplog.at_level(logging.WARNING):
            assert np.array_equal(runner.run(frames), frames)
        trt.network = lambda batch: batch
        runner.run(frames)
    assert runner.broken.count == 2
    assert [record.getMessage().count("broken frame") for record in caplog.records] == [1]


def test_a_frame_of_one_color_may_stay_one(make):
    runner, _ = make(_STATIC)
    with runner:
        given = runner.run(np.full(_SMALL, 7, np.uint8))
    assert (given == 248).all()
    assert runner.broken.count == 0


def test_rtx_keeps_its_kernels_for_the_next_time(make, tmp_path, frames_of, caplog):
    runner, _ = make(_DYNAMIC, flavor="tensorrt_rtx", device=None)
    with caplog.at_level(logging.INFO, "mirnet_edge"), runner:
        runner.run(frames_of(16, 32))
    assert (tmp_path / "fp16.kernels").read_bytes() == b"kernels"
    assert "kernels compiled for this GPU" in caplog.text
    with caplog.at_level(logging.INFO, "mirnet_edge"), runner:
        pass
    assert "kernels from cache" in caplog.text


@dataclass(frozen=True)
class Refused:
    id: str
    options: dict
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Refused("cut in half", {"plan": fake_engine([])[:9]}, "cannot open the engine: the engine"),
        Refused("other version", {"version": "10.13.2"},
                r"TensorRT: tensorrt 10\.13\.2, here tensorrt 10\.3\.0"),
        Refused("other GPU", {"device": "Orin", "capabilities": ["8.7"]},
                r"compute capability: 8\.7, here 8\.6; GPU: Orin, here Fake GPU"),
        Refused("changed ONNX", {"onnx_sha256": "b" * 64}, "the graph's sha256: bbbb.*here aaaa"),
        Refused("unknown origin", {"onnx_sha256": None}, "the graph's sha256: unknown"),
        Refused("rtx for other cards", {"flavor": "tensorrt_rtx", "capabilities": ["12.0"]},
                r"compute capability: 12\.0, here 8\.6"),
        Refused("rtx on a datacenter GPU",
                {"flavor": "tensorrt_rtx", "gpu": FakeCudart(capability="9.0")},
                r"TensorRT-RTX does not run on compute capability 9\.0.*H100 and H200"),
    ],
    ids=lambda case: case.id,
)  # fmt: skip
def test_an_engine_that_does_not_fit_is_refused_with_what_differs(case, make, cudart):
    runner, _ = make(**case.options)
    with pytest.raises(EngineError, match=case.says) as caught, runner:
        pass
    assert "\n" not in str(caught.value)
    assert cudart.held == 0


def test_a_frame_outside_the_profiles_is_refused_and_the_next_one_goes_on(make, frames_of):
    runner, _ = make(_STATIC)
    with runner:
        with pytest.raises(ImageError, match=r"built for 32x16, 64x32.*--profiles 96x48"):
            runner.run(frames_of(48, 96))
        frames = frames_of(16, 32)
        assert np.array_equal(runner.run(frames), 255 - frames)


def test_no_gpu_is_one_line():
    with pytest.raises(EngineError, match=r"no CUDA-capable device.*another --backend"):
        Cuda(FakeCudart(status=100))


def test_cuda_python_that_is_missing_or_broken_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "mirnet-edge\[tensorrt\]"'):
        Cuda()


# --- anchored engines -----------------------------------------------------------------------------

_LENGTH = 5


def _painted(frames, vectors):
    return 255 - frames + np.rint(vectors[:, :1, None, None]).astype(np.uint8)


@pytest.mark.parametrize("memory", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("profiles", [_STATIC, _DYNAMIC], ids=["static", "dynamic"])
def test_an_context_anchored_engine_uses_vectors_between_its_own_and_those_given(
    profiles, memory, make, cudart, frames_of
):
    runner, _ = make(profiles, vectors=_LENGTH)
    frames = frames_of(16, 32, 3)
    own = np.repeat(frames.mean((1, 2, 3), dtype=np.float32)[:, None], _LENGTH, axis=1)
    given = np.arange(3 * _LENGTH, dtype=np.float32).reshape(3, _LENGTH)
    with runner:
        restored, used = runner.run_with_context(frames, given, memory)
    np.testing.assert_allclose(used, (1 - memory) * own + memory * given, rtol=1e-6)
    np.testing.assert_array_equal(restored, _painted(frames, used))
    assert cudart.held == 0


def test_an_context_anchored_engine_alone_uses_the_vectors_of_its_frame(make, frames_of):
    runner, _ = make(_STATIC, vectors=_LENGTH)
    frames = frames_of(16, 32)
    with runner:
        expected, own = runner.run_with_context(frames, None, 0.0)
        np.testing.assert_array_equal(runner.run(frames), expected)
        np.testing.assert_array_equal(runner.infer(frames), expected)
    np.testing.assert_allclose(own, frames.mean(), rtol=1e-6)


def test_a_video_on_an_context_anchored_engine_is_steadied_by_its_vectors(make):
    runner, _ = make(_STATIC, vectors=_LENGTH)
    dark, light = (np.full(_SMALL, level, np.uint8) for level in (100, 104))
    with smooth_over_time(runner, smoothing_weight=0.5) as video:
        found = [int(video.run(frame)[0, 0, 0, 0]) for frame in (dark, light, light)]
    assert found == [255, 253, 254]  # 255 - frame + 100, 102, 103


def test_broken_vectors_are_a_broken_frame_too(make, frames_of):
    runner, trt = make(_STATIC, vectors=_LENGTH)
    trt.network = lambda batch: batch
    frames = frames_of(16, 32)
    given = np.full((1, _LENGTH), np.float32(3e38))
    with runner, np.errstate(over="ignore", invalid="ignore"):
        runner._infer_with_context(frames, given, np.full(1, 2.0, np.float32))
        assert not runner._is_finite


@pytest.mark.parametrize(("plan", "bundle"), [(0, _LENGTH), (_LENGTH, 0)])
def test_an_engine_of_the_other_kind_is_refused_by_its_names(plan, bundle, make, cudart):
    documents = [one.to_document() for one in _STATIC]
    runner, _ = make(_STATIC, plan=fake_engine(documents, vectors=plan), vectors=bundle)
    with pytest.raises(EngineError, match=r"expected an engine with inputs frames.*found frames"):
        runner.__enter__()
    assert cudart.held == 0


# --- when nothing can be recorded ---------------------------------------------------------------


def _refusing(**refused):
    def arrange(trt):
        trt.cuda.refused.update(refused)

    return arrange


def _refuses_itself(trt):
    trt.can_be_captured = False


@pytest.mark.parametrize(
    "arrange",
    [
        pytest.param(_refusing(cudaStreamBeginCapture=900), id="begin"),
        pytest.param(_refusing(cudaStreamEndCapture=901), id="end"),
        pytest.param(_refusing(cudaGraphInstantiate=2), id="instantiate"),
        pytest.param(_refusing(cudaGraphLaunch=700), id="launch"),
        pytest.param(_refuses_itself, id="TensorRT"),
    ],
)
def test_what_cannot_be_captured_is_launched_kernel_by_kernel_after_one_warning(
    arrange, make, cudart, frames_of, caplog
):
    runner, trt = make(_STATIC)
    arrange(trt)
    with caplog.at_level(logging.WARNING), runner:
        for side in (16, 32, 16):
            frames = frames_of(side, 2 * side, 2)
            assert np.array_equal(runner.run(frames), 255 - frames)
    assert cudart.launches == 0
    assert cudart.held == 0
    (record,) = caplog.records
    assert "cannot be captured as a CUDA graph" in record.getMessage()


def test_a_frame_that_never_runs_is_an_error_all_the_same(make, frames_of):
    runner, trt = make(_DYNAMIC)
    with runner:
        trt.cuda.refused["cudaMemcpyAsync"] = 2
        with pytest.raises(EngineError, match="CUDA failed in cudaMemcpyAsync"):
            runner.run(frames_of(16, 32))
        trt.cuda.refused.clear()


@pytest.mark.parametrize("call", ["cudaHostAlloc", "cudaMalloc"])
def test_memory_that_is_not_to_be_had_leaves_none_behind(call, make, cudart):
    runner, _ = make(_STATIC)
    cudart.refused[call] = 2
    with pytest.raises(EngineError, match=f"CUDA failed in {call}"):
        runner.__enter__()
    assert cudart.held == 0


def test_after_memory_was_short_the_same_frame_can_be_tried_again(make, cudart, frames_of):
    runner, _ = make(_DYNAMIC)
    frames = frames_of(24, 40)
    with runner:
        cudart.refused["cudaMalloc"] = 2
        with pytest.raises(EngineError, match="CUDA failed in cudaMalloc"):
            runner.run(frames)
        cudart.refused.clear()
        assert np.array_equal(runner.run(frames), 255 - frames)
    assert cudart.held == 0


# --- frames that are on the GPU already ---------------------------------------------------------


class OnGpu:
    """What torch or CuPy would give: like an array, at an address in the GPU's memory."""

    def __init__(self, array, pointer, **described):
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (pointer, True),
            "version": 3, "strides": None, **described,
        }  # fmt: skip


class OnFakeGpu(OnGpu):
    def __init__(self, cudart, array, **described):
        self._array = np.ascontiguousarray(array)
        _, pointer = cudart.cudaMalloc(self._array.nbytes)
        self._memory = cudart.bytes_at(pointer, self._array.nbytes)
        super().__init__(array, pointer, **described)

    def write(self):
        self._memory[...] = self._array.view(np.uint8).reshape(-1)


@pytest.mark.parametrize("profiles", [_STATIC, _DYNAMIC], ids=["static", "dynamic"])
def test_a_frame_on_the_gpu_does_not_go_by_way_of_the_host(profiles, make, cudart, frames_of):
    runner, _ = make(profiles)
    frames = frames_of(16, 32)
    held = OnFakeGpu(cudart, frames, strides=frames.strides)
    held.write()
    with runner:
        assert np.array_equal(runner.infer(held), 255 - frames)
        other = frames_of(16, 32, 2)[1:]
        assert np.array_equal(runner.infer(other), 255 - other)


def test_what_still_makes_the_frame_is_waited_for(make, cudart, frames_of):
    runner, _ = make(_STATIC)
    frames = frames_of(16, 32)
    _, theirs = cudart.cudaStreamCreate()
    held = OnFakeGpu(cudart, frames, stream=int(theirs))
    theirs.put(held.write)
    with runner:
        assert np.array_equal(runner.infer(held), 255 - frames)


@pytest.mark.parametrize(
    ("described", "found"),
    [({"typestr": "<f4"}, "found <f4"), ({"strides": (1, 2, 3, 4)}, r"strides \(1, 2, 3, 4\)")],
    ids=["type", "strides"],
)
def test_an_array_that_does_not_fit_is_refused(described, found, make, cudart, frames_of):
    runner, _ = make(_STATIC)
    held = OnFakeGpu(cudart, frames_of(16, 32), **described)
    with runner, pytest.raises(EngineError, match=f"contiguous array of uint8 on the GPU.*{found}"):
        runner.infer(held)


# --- the fakes punish what the real ones do -----------------------------------------------------


def _context(cudart):
    trt = FakeTensorRT(cudart)
    plan = fake_engine([_STATIC[0].to_document()])
    engine = trt.Runtime(None).deserialize_cuda_engine(plan)
    return engine.create_execution_context()


def test_running_without_addresses_is_punished(cudart):
    context = _context(cudart)
    context.set_input_shape("frames", _SMALL)
    _, stream = cudart.cudaStreamCreate()
    with pytest.raises(AssertionError, match="without every address"):
        context.execute_async_v3(int(stream))


def test_a_buffer_that_is_too_small_is_punished(cudart):
    context = _context(cudart)
    context.set_input_shape("frames", _SMALL)
    _, stream = cudart.cudaStreamCreate()
    for name in ("frames", "restored"):
        context.set_tensor_address(name, cudart.cudaMalloc(100)[1])
    with pytest.raises(AssertionError, match="1536 bytes wanted of a buffer of 100"):
        context.execute_async_v3(int(stream))


def test_addresses_before_shapes_are_punished(cudart):
    with pytest.raises(AssertionError, match="after the shape"):
        _context(cudart).set_tensor_address("frames", cudart.cudaMalloc(100)[1])


def test_freeing_twice_is_punished(cudart):
    _, pointer = cudart.cudaMalloc(100)
    cudart.cudaFree(pointer)
    with pytest.raises(AssertionError, match="not held"):
        cudart.cudaFree(pointer)


# --- on a real GPU ------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_real_plan_gives_what_onnx_runtime_gives(make_graph, tmp_path, frames_of):
    from mirnet_edge.errors import MirnetEdgeError
    from mirnet_edge.manifest import bind
    from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
    from mirnet_edge.runtime.tensorrt.build import build_engine
    from mirnet_edge.runtime.tensorrt.library import describe_host, find_tensorrt

    try:
        cuda, trt = Cuda(), find_tensorrt()
        gpu = describe_host(trt, cuda.gpu()).gpu
        onnx = make_graph(tmp_path / "fp32.onnx")
        facts = build_engine(onnx, tmp_path / "fp32.plan", _STATIC, precision="fp32")
    except MirnetEdgeError as error:
        pytest.skip(f"no GPU that runs a TensorRT here: {error}")
    image = ImageContract(io="uint8", multiple=4, size=None)
    graph = _GRAPH.model_copy(update={"name": "fp32", "onnx": bind(onnx)})
    runner = TensorRtRunner(
        tmp_path / "fp32.plan", image, name="tensorrt:fp32", precision="fp32", engine=facts,
        graph=graph, cuda=cuda,
    )  # fmt: skip
    reference = OnnxRuntimeRunner(onnx, image, name="onnxruntime:fp32", precision="fp32")
    frames = frames_of(16, 32, 2)
    with runner, reference:
        given, expected = runner.run(frames).astype(int), reference.run(frames).astype(int)
        assert np.abs(given - expected).max() <= 1, gpu.name
        stream, host = cuda.stream(), cuda.pinned(frames[:1].shape, frames.dtype)
        host.array[...] = frames[:1]
        pointer = cuda.device(host.array.nbytes)
        cuda.to_device(pointer, host, stream)
        there = OnGpu(frames[:1], pointer, stream=int(stream))
        assert np.array_equal(runner.infer(there), given[:1]), gpu.name
        cuda.free_device(pointer)
        cuda.free_pinned(host)
        cuda.free_stream(stream)
