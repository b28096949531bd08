"""Run TensorRT engines on a GPU through cuda-python, without torch.

Per frame: what goes in is copied to the GPU, the network runs, what comes out is copied back. Where
the shapes are static the last two are recorded once as a CUDA graph, and each frame launches it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from mirnet_edge.errors import EngineError, ImageError, MirnetEdgeError
from mirnet_edge.images.contract import size_text
from mirnet_edge.onnx_files import CONTEXT_IN, CONTEXT_OUT, INPUT, OUTPUT, SMOOTHING_WEIGHT
from mirnet_edge.runtime.backends import Backend, BackendCheck
from mirnet_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from mirnet_edge.runtime.runner import BrokenFrames, GraphRunner
from mirnet_edge.runtime.tensorrt import rtx
from mirnet_edge.runtime.tensorrt.build import OptimizationProfile
from mirnet_edge.runtime.tensorrt.cuda import Cuda
from mirnet_edge.runtime.tensorrt.library import (
    FLAVORS,
    describe_host,
    find_tensorrt,
    first_error,
    is_device,
    is_rtx,
    recording_logger,
    require_fit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frames
    from mirnet_edge.manifest import (
        Configuration,
        EngineFacts,
        GraphFacts,
        ImageContract,
        Manifest,
        Precision,
    )
    from mirnet_edge.runtime.runner import Runner, Vectors
    from mirnet_edge.runtime.tensorrt.cuda import Pinned

logger = logging.getLogger(__name__)


class GpuNetwork(Protocol):
    """An array in the GPU's memory, of whatever library: torch, CuPy, Numba."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What and where it is, as Numba's documents define it, version 2 or 3."""


Given: TypeAlias = "NDArray[Any] | GpuNetwork"


@dataclass
class _BoundTensor:
    """One input or output: pinned on the host, plain on the GPU."""

    host: Pinned
    device: int


@dataclass
class _BoundMemory:
    """All of them for certain shapes, and the recorded frame."""

    shapes: dict[str, tuple[int, ...]]
    taken: dict[str, _BoundTensor] = field(default_factory=dict)
    made: dict[str, _BoundTensor] = field(default_factory=dict)
    recorded: Any = None


class EngineExecution:
    """Runs a plan. For one thread; to be closed."""

    def __init__(
        self,
        trt: ModuleType,
        engine: Any,  # noqa: ANN401  # untyped library
        context: Any,  # noqa: ANN401  # untyped library
        cuda: Cuda,
        *,
        name: str,
        profiles: Sequence[OptimizationProfile],
        place_of: Callable[[tuple[int, ...]], int],
    ) -> None:
        """Take what was opened and make a stream; memory is allocated for the first frame.

        Args:
            trt: Which TensorRT.
            engine: The plan, deserialized.
            context: Of the engine; let go of by `close`.
            cuda: The GPU.
            name: How messages call the plan.
            profiles: In their order in the plan, of the first input.
            place_of: The profile for a shape of the first input; raises where there is none.
        """
        self._trt, self._engine, self._context, self._cuda = trt, engine, context, cuda
        self._name, self._profiles, self._place_of = name, profiles, place_of
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        taken = trt.TensorIOMode.INPUT
        self.inputs = [one for one in names if engine.get_tensor_mode(one) == taken]
        self.outputs = [one for one in names if one not in self.inputs]
        self._stream = cuda.stream()
        self._active = 0
        self._records = True
        self._memory: _BoundMemory | None = None

    def run(self, given: Mapping[str, Given]) -> dict[str, NDArray[Any]]:
        """Run the plan once.

        Args:
            given: Every input by its name, in the type that the plan takes; on the GPU where it is
                an `GpuNetwork`, which must then be contiguous.

        Returns:
            Every output by its name; overwritten by the next run.

        Raises:
            EngineError: An input does not fit, or CUDA or TensorRT refused.
        """
        shapes = {name: _shape_of(array) for name, array in given.items()}
        memory = self._memory
        if memory is None or memory.shapes != shapes:
            memory = self._memory_for(shapes)
        for name, array in given.items():
            self._take(memory.taken[name], array)
        self._launch(memory)
        self._cuda.synchronize(self._stream)
        return {name: one.host.array for name, one in memory.made.items()}

    def close(self) -> None:
        """Free all memory and the stream, and let go of the context, before the engine goes."""
        self._free()
        self._cuda.free_stream(self._stream)
        self._context = None

    def _take(self, tensor: _BoundTensor, array: Given) -> None:
        if isinstance(array, np.ndarray):
            np.copyto(tensor.host.array, array)
            self._cuda.to_device(tensor.device, tensor.host, self._stream)
            return
        described = array.__cuda_array_interface__
        expected = tensor.host.array
        strides = described.get("strides")
        if described["typestr"] != expected.dtype.str or strides not in (None, expected.strides):
            raise EngineError(
                f"{self._name}: expected a contiguous array of {expected.dtype} on the GPU, found "
                f"{described['typestr']} with strides {strides}. Make it contiguous, or give it "
                "as a numpy array"
            )
        if described.get("stream") is not None:  # what it is made by may not be done yet
            self._cuda.synchronize(described["stream"])
        pointer = int(described["data"][0])
        self._cuda.within_device(tensor.device, pointer, expected.nbytes, self._stream)

    def _launch(self, memory: _BoundMemory) -> None:
        if memory.recorded is not None:
            try:
                self._cuda.launch(memory.recorded, self._stream)
            except EngineError as error:
                self._stop_recording(error)
                recorded, memory.recorded = memory.recorded, None
                self._cuda.free_recording(recorded)
            else:
                return
        self._queue(memory)

    def _queue(self, memory: _BoundMemory) -> None:
        """Queue one frame: through the network, and back."""
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError(
                f"{self._name}: TensorRT did not run a frame of shape {memory.shapes}; "
                "use another --backend"
            )
        for one in memory.made.values():
            self._cuda.to_host(one.host, one.device, self._stream)

    def _memory_for(self, shapes: dict[str, tuple[int, ...]]) -> _BoundMemory:
        """Return memory for shapes, after telling TensorRT of them; the former is freed."""
        self._free()
        place = self._place_of(shapes[self.inputs[0]])
        context = self._context
        if place != self._active:
            context.set_optimization_profile_async(place, int(self._stream))
            self._cuda.synchronize(self._stream)
            self._active = place
        fit = [context.set_input_shape(name, shape) for name, shape in shapes.items()]
        if not all(fit) or context.infer_shapes():
            raise EngineError(
                f"{self._name}: TensorRT takes no inputs of shapes {shapes}, though the manifest "
                "says so. Build the plan anew with mirnet-engine BUNDLE"
            )
        self._memory = memory = _BoundMemory(
            shapes
        )  # at once: a failure frees what it holds by then
        try:
            for names, tensors in ((self.inputs, memory.taken), (self.outputs, memory.made)):
                for name in names:
                    tensors[name] = tensor = self._tensor(name)
                    context.set_tensor_address(name, tensor.device)
            if self._profiles[place].is_static and self._records:
                self._record(memory)
        except BaseException:
            self._free()
            raise
        return memory

    def _tensor(self, name: str) -> _BoundTensor:
        dtypes = {self._trt.DataType.UINT8: np.uint8, self._trt.DataType.FLOAT: np.float32}
        kind = self._engine.get_tensor_dtype(name)
        if kind not in dtypes:
            raise EngineError(
                f"{self._name}: expected uint8 and float32 in and out, found {kind} for {name}. "
                "Export and build again"
            )
        shape = tuple(self._context.get_tensor_shape(name))
        host = self._cuda.pinned(shape, np.dtype(dtypes[kind]))
        try:
            return _BoundTensor(host, self._cuda.device(host.array.nbytes))
        except EngineError:
            self._cuda.free_pinned(host)
            raise

    def _record(self, memory: _BoundMemory) -> None:
        # once without recording: TensorRT allocates on the first run, which cannot be recorded
        self._queue(memory)
        self._cuda.synchronize(self._stream)
        try:
            memory.recorded = self._recorded(memory)
        except EngineError as error:
            self._stop_recording(error)

    def _recorded(self, memory: _BoundMemory) -> Any:  # noqa: ANN401  # cuda-python's
        self._cuda.begin_capture(self._stream)
        try:
            self._queue(memory)
        except EngineError:
            # a stream that records takes no other work; the first error is the one to tell
            with contextlib.suppress(EngineError):
                self._cuda.free_recording(self._cuda.end_capture(self._stream))
            raise
        return self._cuda.end_capture(self._stream)

    def _stop_recording(self, error: EngineError) -> None:
        self._records = False
        logger.warning(
            "%s: its work cannot be recorded as a CUDA graph and is queued piece by piece, which "
            "is slower for small frames: %s",
            self._name,
            error,
        )

    def _free(self) -> None:
        memory, self._memory = self._memory, None
        if memory is None:
            return
        if memory.recorded is not None:
            self._cuda.free_recording(memory.recorded)
        for one in (*memory.taken.values(), *memory.made.values()):
            self._cuda.free_device(one.device)
            self._cuda.free_pinned(one.host)


def _shape_of(array: Given) -> tuple[int, ...]:
    if isinstance(array, np.ndarray):
        return array.shape
    return tuple(array.__cuda_array_interface__["shape"])


_WARM_UP_RUNS = 3


def why_unavailable(mode: Configuration, manifest: Manifest) -> str | None:
    """Return in one line why a TensorRT mode does not run here, None where it does."""
    if not any(one.graph == mode.graph for one in manifest.engines):
        return f"the bundle has no plan of {mode.graph}; build one here: mirnet-engine BUNDLE"
    engine = manifest.engine(mode.graph)
    try:
        gpu = Cuda().gpu()
        require_fit(
            engine, manifest.graph(mode.graph), describe_host(find_tensorrt(engine.flavor), gpu)
        )
    except MirnetEdgeError as error:
        return str(error)
    return None


class TensorRtRunner(GraphRunner):
    """A plan of a bundle on the first GPU.

    A frame that comes back broken is given as it was taken, and counted in `broken`.
    """

    def __init__(
        self,
        path: Path,
        image: ImageContract,
        *,
        name: str,
        precision: Precision,
        engine: EngineFacts,
        graph: GraphFacts,
        cuda: Cuda | None = None,
    ) -> None:
        """Remember what to open; the GPU is not touched yet.

        Args:
            path: The plan.
            image: What the graph takes and gives.
            name: How messages and reports call this runner.
            precision: Of the graph.
            engine: What the manifest says of the plan.
            graph: What the manifest says of the graph it was built from.
            cuda: Stands for the GPU, for tests; None for the first one here.
        """
        super().__init__(path, image, name=name, precision=precision)
        self.broken = BrokenFrames(name, image.scale)
        self.opening_s = 0.0
        """How long opening took, TensorRT-RTX's compiling included."""
        self._facts, self._graph = engine, graph
        self._profiles = [OptimizationProfile.from_document(one) for one in engine.profiles]
        self._given_cuda = cuda
        self._runtime: Any = None
        self._kernels: rtx.CompiledKernels | None = None
        self._execution: EngineExecution | None = None
        self._is_finite = True

    def infer(self, fed: Given) -> NDArray[Any]:
        """Run the graph once on what it takes itself: nothing is checked, padded or converted.

        Args:
            fed: Contiguous, with a batch of one; from the GPU's memory where it has a
                `__cuda_array_interface__`. An anchored graph uses the frame's own vectors.

        Returns:
            What the graph gives, on the host; it may be overwritten by the next call.

        Raises:
            EngineError: Used outside `with`, or an array on the GPU does not fit.
            ImageError: The plan was not built for this size.
        """
        self._require_open(self.name)
        return self._infer(fed)

    def _load(self) -> None:
        started = time.perf_counter()
        trt = find_tensorrt(self._facts.flavor)
        cuda = self._given_cuda or Cuda()
        require_fit(self._facts, self._graph, describe_host(trt, cuda.gpu()))
        log = recording_logger(trt)
        self._runtime = runtime = trt.Runtime(log)
        engine = runtime.deserialize_cuda_engine(self.path.read_bytes())
        if engine is None:  # TensorRT raises nothing
            raise EngineError(
                f"{self.path.name}: TensorRT {trt.__version__} cannot open the plan: "
                f"{first_error(log)}. Build it here with mirnet-engine BUNDLE"
            )
        context = self._new_context(trt, engine)
        if context is None:
            raise EngineError(
                f"{self.path.name}: no memory on the GPU for running the plan: {first_error(log)}. "
                "Close other programs, or build it for smaller --profiles"
            )
        self._execution = EngineExecution(
            trt, engine, context, cuda,
            name=self.path.name, profiles=self._profiles, place_of=self._profile_for,
        )  # fmt: skip
        self._check_names(self._execution)
        self._warm_up()
        if self._kernels is not None:
            self._kernels.keep()
        self.opening_s = time.perf_counter() - started
        logger.info("%s opened in %.1f s%s", self.name, self.opening_s, self._compiling())

    def _new_context(self, trt: ModuleType, engine: Any) -> Any:  # noqa: ANN401  # untyped library
        if not is_rtx(trt):
            return engine.create_execution_context()
        cache = self.path.with_suffix(".kernels")
        self._kernels = rtx.CompiledKernels(engine, cache)
        return self._kernels.context(engine)

    def _compiling(self) -> str:
        if self._kernels is None:
            return ""
        return (
            ", kernels from cache" if self._kernels.was_kept else ", kernels compiled for this GPU"
        )

    def _check_names(self, execution: EngineExecution) -> None:
        found = (set(execution.inputs), set(execution.outputs))
        expected = ({INPUT}, {OUTPUT})
        if self.vector_length:
            expected = ({INPUT, CONTEXT_IN, SMOOTHING_WEIGHT}, {OUTPUT, CONTEXT_OUT})
        if found != expected:
            inputs, outputs = (", ".join(sorted(names)) for names in expected)
            raise EngineError(
                f"{self.path.name}: expected a plan that takes {inputs} and gives {outputs}, found "
                f"{', '.join((*execution.inputs, *execution.outputs))}. Build it anew with "
                "mirnet-engine BUNDLE"
            )

    def _warm_up(self) -> None:
        for profile in self._profiles:
            blank = np.zeros(profile.usual, np.uint8 if self.image.io == "uint8" else np.float32)
            for _ in range(_WARM_UP_RUNS):
                self._infer(blank)

    def _infer(self, fed: Given) -> NDArray[Any]:
        if self.vector_length:
            blank = np.zeros((1, self.vector_length), np.float32)
            return self._infer_with_context(fed, blank, np.zeros(1, np.float32))[0]
        return self._executed({INPUT: fed})[OUTPUT]

    def _infer_with_context(
        self, fed: Given, given: Vectors, memory: Vectors
    ) -> tuple[NDArray[Any], Vectors]:
        made = self._executed({INPUT: fed, CONTEXT_IN: given, SMOOTHING_WEIGHT: memory})
        return made[OUTPUT], made[CONTEXT_OUT]

    def _executed(self, given: dict[str, Given]) -> dict[str, NDArray[Any]]:
        if self._execution is None:
            raise AssertionError("the plan is open by now")
        made = self._execution.run(given)
        floats = [array for array in made.values() if array.dtype != np.uint8]
        self._is_finite = all(bool(np.isfinite(array).all()) for array in floats)
        restored = made[OUTPUT]
        if not self._is_finite and restored.dtype != np.uint8:
            restored[...] = 0.0  # NaN has no 8-bit value
        return made

    def _profile_for(self, shape: tuple[int, ...]) -> int:
        for place, profile in enumerate(self._profiles):
            if profile.holds(shape):
                return place
        axes = slice(1, 3) if self.image.io == "uint8" else slice(2, 4)
        built = ", ".join(
            size_text(*one.maximum[axes])
            if one.is_static
            else f"{size_text(*one.minimum[axes])} to {size_text(*one.maximum[axes])}"
            for one in self._profiles
        )
        found = size_text(*shape[axes])
        raise ImageError(
            f"frame is {found} with padding; the plan was built for {built}: build it anew with "
            f"mirnet-engine BUNDLE --profiles {found}, resize the source, or use another --backend"
        )

    def _restored(self, padded: Frames, vectors: Vectors, memory: float) -> tuple[Frames, Vectors]:
        self._profile_for(self._shape_of(padded))  # before TensorRT complains in its own words
        restored, used = super()._restored(padded, vectors, memory)
        return self.broken.replaced(padded, restored, is_finite=self._is_finite), used

    def _shape_of(self, padded: Frames) -> tuple[int, ...]:
        count, height, width, channels = padded.shape
        if self.image.io == "uint8":
            return count, height, width, channels
        return count, channels, height, width

    def _close(self) -> None:
        if self._execution is not None:
            self._execution.close()
        # contexts, which are gone by now, before engines before runtimes
        self._kernels = None
        self._execution = None
        self._runtime = None


_OLDEST = (10, 3)


def check_installation() -> BackendCheck:
    """Return whether TensorRT is here, new enough, and runs on this GPU."""
    try:
        trt = find_tensorrt()
    except MirnetEdgeError as error:
        return BackendCheck("missing" if is_device() else "note", str(error))
    version = tuple(int(part) for part in re.findall(r"\d+", trt.__version__)[:2])
    what = f"{trt.__name__} {trt.__version__}"
    if not is_rtx(trt) and version < _OLDEST:
        return BackendCheck(
            "missing",
            f"{what}; engines need 10.3",
            "update to JetPack 6.1 or later, or use a CPU backend",
        )
    try:
        if is_rtx(trt):
            rtx.require_support(Cuda().gpu().capability)
    except MirnetEdgeError as error:
        return BackendCheck("note", f"{what} builds engines and cannot run them here: {error}")
    return BackendCheck("ok", what)


def _simulate(
    path: Path,
    image: ImageContract,
    *,
    name: str,
    precision: Precision,
    threads: int | None = None,
) -> Runner:
    """Return a runner of ONNX Runtime that computes what TensorRT computes of a graph.

    Unoptimized: while fusing, ONNX Runtime multiplies fp16 scales and loses 17 dB that the graph
    does not lose.
    """
    return OnnxRuntimeRunner(
        path, image, name=name, precision=precision, threads=threads, optimize=False
    )


BACKEND = Backend(
    name="tensorrt",
    title="TensorRT",
    packages=FLAVORS,
    extra="tensorrt",
    device="gpu",
    provider="cuda:0",
    # INT8 is often slower than fp16 on a GPU, and riskier
    precisions=("fp16", "int8+fp16", "int8", "fp32"),
    auto_rank=1,
    auto_reason="before all others, where a GPU and an engine that fits it are there: a GPU is "
    "faster than the processor beside it",
    runner=_simulate,
    target="tensorrt",
    engine_runner=TensorRtRunner,
    find_obstacle=why_unavailable,
    check_installation=check_installation,
)
