"""The backend TensorRT: runs engines on a GPU through cuda-python, without torch.

Per frame, the inputs are copied to the GPU, the network runs, the outputs are copied back. Where
the shapes are static, running and copying back are captured once as a CUDA graph, which each frame
launches.
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
from mirnet_edge.runtime.tensorrt.build import OptimizationProfile, build_one_layer
from mirnet_edge.runtime.tensorrt.cuda import Cuda
from mirnet_edge.runtime.tensorrt.library import (
    FLAVORS,
    describe_host,
    find_tensorrt,
    first_error,
    is_jetson,
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
    from mirnet_edge.runtime.runner import ContextVectors, Runner
    from mirnet_edge.runtime.tensorrt.cuda import Pinned

logger = logging.getLogger(__name__)


class GpuArray(Protocol):
    """An array in the GPU's memory, of any library: torch, CuPy, Numba."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Return its address, shape and type: CUDA array interface of Numba, version 2 or 3."""


InputArray: TypeAlias = "NDArray[Any] | GpuArray"


@dataclass
class _TensorBuffer:
    """The buffers of one input or output: pinned host memory, and GPU memory."""

    host: Pinned
    device: int


@dataclass
class _Bindings:
    """The buffers of all inputs and outputs for certain shapes, and their CUDA graph."""

    shapes: dict[str, tuple[int, ...]]
    inputs: dict[str, _TensorBuffer] = field(default_factory=dict)
    outputs: dict[str, _TensorBuffer] = field(default_factory=dict)
    cuda_graph: Any = None


class EngineExecution:
    """Runs a deserialized engine. For one thread; call `close` at the end."""

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
        """Create a stream; buffers are allocated for the first frame.

        Args:
            trt: The TensorRT library.
            engine: The deserialized engine.
            context: Its execution context; released by `close`.
            cuda: The GPU.
            name: Of the engine, in messages.
            profiles: Of the first input, in their order in the engine.
            place_of: Returns the profile for a shape of the first input; raises where there is
                none.
        """
        self._trt, self._engine, self._context, self._cuda = trt, engine, context, cuda
        self._name, self._profiles, self._place_of = name, profiles, place_of
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        input_mode = trt.TensorIOMode.INPUT
        self.inputs = [one for one in names if engine.get_tensor_mode(one) == input_mode]
        self.outputs = [one for one in names if one not in self.inputs]
        self._stream = cuda.stream()
        self._active = 0
        self._can_capture = True
        self._bindings: _Bindings | None = None

    def run(self, inputs: Mapping[str, InputArray]) -> dict[str, NDArray[Any]]:
        """Run the engine once.

        Args:
            inputs: Every input by its name, in the engine's types; a `GpuArray` must be
                contiguous.

        Returns:
            Every output by its name; overwritten by the next run.

        Raises:
            EngineError: An input does not fit, or CUDA or TensorRT refused.
        """
        shapes = {name: _shape_of(array) for name, array in inputs.items()}
        bindings = self._bindings
        if bindings is None or bindings.shapes != shapes:
            bindings = self._bind(shapes)
        for name, array in inputs.items():
            self._copy_input(bindings.inputs[name], array)
        self._launch(bindings)
        self._cuda.synchronize(self._stream)
        return {name: one.host.array for name, one in bindings.outputs.items()}

    def close(self) -> None:
        """Free the buffers, the stream and the context; the engine must be freed after them."""
        self._free()
        self._cuda.free_stream(self._stream)
        self._context = None

    def _copy_input(self, tensor: _TensorBuffer, array: InputArray) -> None:
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
        if described.get("stream") is not None:  # its producer may not have finished
            self._cuda.synchronize(described["stream"])
        pointer = int(described["data"][0])
        self._cuda.within_device(tensor.device, pointer, expected.nbytes, self._stream)

    def _launch(self, bindings: _Bindings) -> None:
        if bindings.cuda_graph is not None:
            try:
                self._cuda.launch(bindings.cuda_graph, self._stream)
            except EngineError as error:
                self._stop_capturing(error)
                cuda_graph, bindings.cuda_graph = bindings.cuda_graph, None
                self._cuda.free_graph(cuda_graph)
            else:
                return
        self._enqueue(bindings)

    def _enqueue(self, bindings: _Bindings) -> None:
        """Enqueue one frame: running the network, and copying the outputs back."""
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError(
                f"{self._name}: TensorRT did not run a frame of shape {bindings.shapes}; "
                "use another --backend"
            )
        for one in bindings.outputs.values():
            self._cuda.to_host(one.host, one.device, self._stream)

    def _bind(self, shapes: dict[str, tuple[int, ...]]) -> _Bindings:
        """Set the input shapes and return buffers for them; the former buffers are freed."""
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
                "says so. Build the engine again with mirnet-engine BUNDLE"
            )
        # assigned before they are filled: after a failure `_free` frees what they hold by then
        self._bindings = bindings = _Bindings(shapes)
        try:
            for names, tensors in (
                (self.inputs, bindings.inputs),
                (self.outputs, bindings.outputs),
            ):
                for name in names:
                    tensors[name] = tensor = self._allocate(name)
                    context.set_tensor_address(name, tensor.device)
            if self._profiles[place].is_static and self._can_capture:
                self._warm_up_and_capture(bindings)
        except BaseException:
            self._free()
            raise
        return bindings

    def _allocate(self, name: str) -> _TensorBuffer:
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
            return _TensorBuffer(host, self._cuda.device(host.array.nbytes))
        except EngineError:
            self._cuda.free_pinned(host)
            raise

    def _warm_up_and_capture(self, bindings: _Bindings) -> None:
        # once without capturing: TensorRT allocates on the first run, which cannot be captured
        self._enqueue(bindings)
        self._cuda.synchronize(self._stream)
        try:
            bindings.cuda_graph = self._capture(bindings)
        except EngineError as error:
            self._stop_capturing(error)

    def _capture(self, bindings: _Bindings) -> Any:  # noqa: ANN401  # cuda-python's
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue(bindings)
        except EngineError:
            # a stream that captures takes no other work; the first error is the one to raise
            with contextlib.suppress(EngineError):
                self._cuda.free_graph(self._cuda.end_capture(self._stream))
            raise
        return self._cuda.end_capture(self._stream)

    def _stop_capturing(self, error: EngineError) -> None:
        self._can_capture = False
        logger.warning(
            "%s: cannot be captured as a CUDA graph; its kernels are launched one by one, which "
            "is slower for small frames: %s",
            self._name,
            error,
        )

    def _free(self) -> None:
        bindings, self._bindings = self._bindings, None
        if bindings is None:
            return
        if bindings.cuda_graph is not None:
            self._cuda.free_graph(bindings.cuda_graph)
        for one in (*bindings.inputs.values(), *bindings.outputs.values()):
            self._cuda.free_device(one.device)
            self._cuda.free_pinned(one.host)


def _shape_of(array: InputArray) -> tuple[int, ...]:
    if isinstance(array, np.ndarray):
        return array.shape
    return tuple(array.__cuda_array_interface__["shape"])


_WARM_UP_RUNS = 3


def find_obstacle(configuration: Configuration, manifest: Manifest) -> str | None:
    """Return in one line why a TensorRT configuration does not run here, None where it does."""
    graph = configuration.graph
    if not any(one.graph == graph for one in manifest.engines):
        return f"the bundle has no engine of {graph}; build one here: mirnet-engine BUNDLE"
    engine = manifest.engine(graph)
    try:
        gpu = Cuda().gpu()
        require_fit(engine, manifest.graph(graph), describe_host(find_tensorrt(engine.flavor), gpu))
    except MirnetEdgeError as error:
        return str(error)
    return None


class TensorRtRunner(GraphRunner):
    """An engine of a bundle on the first GPU.

    A broken frame is replaced by its source, and counted in `broken`.
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
            path: The engine file.
            image: The graph's inputs and outputs.
            name: Of this runner in messages and reports.
            precision: Of the graph.
            engine: The manifest's entry of the engine.
            graph: The manifest's entry of the graph it was built from.
            cuda: The GPU, for tests; None for the first one here.
        """
        super().__init__(path, image, name=name, precision=precision)
        self.broken = BrokenFrames(name, image.scale)
        self.opening_s = 0.0
        """Seconds that opening took, with the compilation of TensorRT-RTX."""
        self._facts, self._graph = engine, graph
        self._profiles = [OptimizationProfile.from_document(one) for one in engine.profiles]
        self._given_cuda = cuda
        self._runtime: Any = None
        self._kernels: rtx.CompiledKernels | None = None
        self._execution: EngineExecution | None = None
        self._is_finite = True

    def infer(self, inputs: InputArray) -> NDArray[Any]:
        """Run the graph once on its own input: nothing is checked, padded or converted.

        Args:
            inputs: Contiguous, with a batch of one; from the GPU's memory where it has a
                `__cuda_array_interface__`. A context-anchored graph uses the frame's own context
                vectors.

        Returns:
            The graph's output, on the host; it may be overwritten by the next call.

        Raises:
            EngineError: Used outside `with`, or an array on the GPU does not fit.
            ImageError: The engine was not built for this size.
        """
        self._require_open(self.name)
        return self._infer(inputs)

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
                f"{self.path.name}: TensorRT {trt.__version__} cannot open the engine: "
                f"{first_error(log)}. Build it here with mirnet-engine BUNDLE"
            )
        context = self._new_context(trt, engine)
        if context is None:
            raise EngineError(
                f"{self.path.name}: the GPU has no memory to run the engine: {first_error(log)}. "
                "Close other programs, or build it for smaller --profiles"
            )
        self._execution = EngineExecution(
            trt, engine, context, cuda,
            name=self.path.name, profiles=self._profiles, place_of=self._profile_for,
        )  # fmt: skip
        self._check_names(self._execution)
        self._warm_up()
        if self._kernels is not None:
            self._kernels.save()
        self.opening_s = time.perf_counter() - started
        logger.info("%s opened in %.1f s%s", self.name, self.opening_s, self._kernels_text())

    def _new_context(self, trt: ModuleType, engine: Any) -> Any:  # noqa: ANN401  # untyped library
        if not is_rtx(trt):
            return engine.create_execution_context()
        cache = self.path.with_suffix(".kernels")
        self._kernels = rtx.CompiledKernels(engine, cache)
        return self._kernels.context(engine)

    def _kernels_text(self) -> str:
        if self._kernels is None:
            return ""
        return (
            ", kernels from cache" if self._kernels.is_loaded else ", kernels compiled for this GPU"
        )

    def _check_names(self, execution: EngineExecution) -> None:
        found = (set(execution.inputs), set(execution.outputs))
        expected = ({INPUT}, {OUTPUT})
        if self.context_length:
            expected = ({INPUT, CONTEXT_IN, SMOOTHING_WEIGHT}, {OUTPUT, CONTEXT_OUT})
        if found != expected:
            inputs, outputs = (", ".join(sorted(names)) for names in expected)
            raise EngineError(
                f"{self.path.name}: expected an engine with inputs {inputs} and outputs {outputs}, "
                f"found {', '.join((*execution.inputs, *execution.outputs))}. Build it again with "
                "mirnet-engine BUNDLE"
            )

    def _warm_up(self) -> None:
        for profile in self._profiles:
            blank = np.zeros(profile.usual, np.uint8 if self.image.io == "uint8" else np.float32)
            for _ in range(_WARM_UP_RUNS):
                self._infer(blank)

    def _infer(self, inputs: InputArray) -> NDArray[Any]:
        if self.context_length:
            blank = np.zeros((1, self.context_length), np.float32)
            return self._infer_with_context(inputs, blank, np.zeros(1, np.float32))[0]
        return self._execute({INPUT: inputs})[OUTPUT]

    def _infer_with_context(
        self, inputs: InputArray, context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> tuple[NDArray[Any], ContextVectors]:
        outputs = self._execute({INPUT: inputs, CONTEXT_IN: context_in, SMOOTHING_WEIGHT: weight})
        return outputs[OUTPUT], outputs[CONTEXT_OUT]

    def _execute(self, inputs: dict[str, InputArray]) -> dict[str, NDArray[Any]]:
        if self._execution is None:
            raise AssertionError("the engine is open by now")
        outputs = self._execution.run(inputs)
        floats = [array for array in outputs.values() if array.dtype != np.uint8]
        self._is_finite = all(bool(np.isfinite(array).all()) for array in floats)
        restored = outputs[OUTPUT]
        if not self._is_finite and restored.dtype != np.uint8:
            restored[...] = 0.0  # NaN has no 8-bit value
        return outputs

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
            f"frame is {found} with padding; the engine was built for {built}: build it again with "
            f"mirnet-engine BUNDLE --profiles {found}, resize the source, or use another --backend"
        )

    def _restore(
        self, padded: Frames, context: ContextVectors, smoothing_weight: float
    ) -> tuple[Frames, ContextVectors]:
        self._profile_for(self._shape_of(padded))  # raises a clearer message than TensorRT's
        restored, used = super()._restore(padded, context, smoothing_weight)
        return self.broken.replace(padded, restored, is_finite=self._is_finite), used

    def _shape_of(self, padded: Frames) -> tuple[int, ...]:
        count, height, width, channels = padded.shape
        if self.image.io == "uint8":
            return count, height, width, channels
        return count, channels, height, width

    def _close(self) -> None:
        if self._execution is not None:
            self._execution.close()
        # free contexts, which is done by now, before engines before runtimes
        self._kernels = None
        self._execution = None
        self._runtime = None


_OLDEST = (10, 3)


def check_installation() -> BackendCheck:
    """Return whether TensorRT is here, new enough, builds an engine, and runs on this GPU.

    A file that is there tells little: libraries are found and do not load, or load and build
    nothing. So one convolution is built.
    """
    try:
        trt = find_tensorrt()
    except MirnetEdgeError as error:
        return BackendCheck("missing" if is_jetson() else "note", str(error))
    version = tuple(int(part) for part in re.findall(r"\d+", trt.__version__)[:2])
    what = f"{trt.__name__} {trt.__version__}"
    if not is_rtx(trt) and version < _OLDEST:
        return BackendCheck(
            "missing",
            f"{what}; engines need 10.3",
            "update to JetPack 6.1 or later, or use a CPU backend",
        )
    try:
        build_one_layer(trt.__name__)
    except MirnetEdgeError as error:
        return BackendCheck(
            "missing" if is_jetson() else "note",
            f"{what} is installed and builds nothing here: {error}",
        )
    what += ", built one convolution"
    try:
        if is_rtx(trt):
            rtx.require_support(Cuda().gpu().capability)
    except MirnetEdgeError as error:
        return BackendCheck("note", f"{what} and cannot run it here: {error}")
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
    precisions=("fp16", "int8+fp16", "fp8+fp16", "int8", "fp8", "fp32"),
    auto_rank=1,
    auto_reason="before all others, where a GPU and an engine that fits it are there: a GPU is "
    "faster than the processor beside it",
    runner=_simulate,
    target="tensorrt",
    engine_runner=TensorRtRunner,
    find_obstacle=find_obstacle,
    check_installation=check_installation,
)
