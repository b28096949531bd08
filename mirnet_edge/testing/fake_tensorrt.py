"""Fakes of TensorRT and CUDA, for tests without a GPU.

They check the rules that the real libraries answer with crashes or garbage: buffers large enough,
nothing freed twice or while it is used, no synchronization while a stream captures, shapes before
addresses, addresses before running. A violation is an `AssertionError`.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


def require(holds: object, rule: str) -> None:
    """Fail the test where a rule is violated."""
    if not holds:
        raise AssertionError(rule)


@dataclass
class _Stream:
    number: int
    capturing: list[Callable[[], None]] | None = None
    queued: list[Callable[[], None]] = field(default_factory=list)

    def __int__(self) -> int:
        return self.number

    def put(self, work: Callable[[], None]) -> None:
        (self.queued if self.capturing is None else self.capturing).append(work)


class FakeCudart(types.ModuleType):
    """A fake of `cuda.bindings.runtime`. Enqueued work is done when its stream is synchronized.

    `host` and `device` hold the allocated memory, `launches` counts launched CUDA graphs, `refused`
    holds the status of calls that fail, by name.
    """

    def __init__(
        self, *, name: str = "Fake GPU", capability: str = "8.6", status: int = 0,
        free_mib: int = 4096,
    ) -> None:  # fmt: skip
        """Set the GPU's properties.

        Args:
            name: Of the GPU.
            capability: Its compute capability.
            status: Of every call; 0 is success, 100 no device.
            free_mib: Free memory.
        """
        super().__init__("cuda.bindings.runtime")
        self._gpu = (name, *map(int, capability.split(".")))
        self.status, self._free_mib = status, free_mib
        self.host: dict[int, Any] = {}
        self.device: dict[int, Any] = {}
        self.streams: dict[int, _Stream] = {}
        self.graphs: list[list[Callable[[], None]]] = []
        self.launches = 0
        self.refused: dict[str, int] = {}
        self.cudaMemcpyKind = SimpleNamespace(
            cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
        )
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    @property
    def held(self) -> int:
        """Return how many allocations, streams and CUDA graphs are not freed."""
        return sum(map(len, (self.host, self.device, self.streams, self.graphs)))

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        call = object.__getattribute__(self, f"_{name}") if name.startswith("cuda") else None
        if call is None:
            raise AttributeError(name)

        def answered(*arguments: Any) -> tuple[Any, ...]:  # noqa: ANN401  # as CUDA's
            if self.status and name != "cudaGetErrorString":
                return (self.status, None)
            if name in self.refused:
                if name == "cudaStreamEndCapture":  # it ends the capture all the same
                    call(*arguments)
                return (self.refused[name], None)
            given = call(*arguments)
            return (0, *(given if isinstance(given, tuple) else (given,)))

        return answered

    def bytes_at(self, pointer: int, size: int) -> NDArray[np.uint8]:
        """Return device memory as an array, after checking its size."""
        require(pointer in self.device, "the GPU's memory was never allocated, or is freed")
        found: NDArray[np.uint8] = np.ctypeslib.as_array(self.device[pointer])
        require(size <= found.size, f"{size} bytes wanted of a buffer of {found.size}")
        return found[:size]

    def _cudaGetErrorString(self, status: int) -> bytes:  # noqa: N802  # CUDA's names
        return {100: b"no CUDA-capable device is detected"}.get(status, b"fake error")

    def _cudaGetDeviceCount(self) -> int:  # noqa: N802
        return 1

    def _cudaGetDeviceProperties(self, place: int) -> SimpleNamespace:  # noqa: N802
        del place
        name, major, minor = self._gpu
        return SimpleNamespace(name=str(name).encode(), major=major, minor=minor, integrated=0)

    def _cudaDriverGetVersion(self) -> int:  # noqa: N802
        return 12060

    def _cudaMemGetInfo(self) -> tuple[int, int]:  # noqa: N802
        return self._free_mib << 20, self._free_mib << 21

    def _cudaHostAlloc(self, size: int, flags: int) -> int:  # noqa: N802
        del flags
        return self._allocated(self.host, size)

    def _cudaMalloc(self, size: int) -> int:  # noqa: N802
        return self._allocated(self.device, size)

    def _allocated(self, kind: dict[int, Any], size: int) -> int:
        memory = (ctypes.c_uint8 * size)()
        pointer = ctypes.addressof(memory)
        kind[pointer] = memory
        return pointer

    def _cudaFreeHost(self, pointer: int) -> None:  # noqa: N802
        require(self.host.pop(pointer, None) is not None, "host memory freed that was not held")

    def _cudaFree(self, pointer: int) -> None:  # noqa: N802
        require(self.device.pop(pointer, None) is not None, "GPU memory freed that was not held")

    def _cudaStreamCreate(self) -> _Stream:  # noqa: N802
        stream = _Stream(len(self.streams) + 7)
        self.streams[stream.number] = stream
        return stream

    def _cudaStreamDestroy(self, stream: _Stream) -> None:  # noqa: N802
        require(not stream.queued, "a stream was freed with work in it")
        del self.streams[stream.number]

    def _cudaMemcpyAsync(  # noqa: N802
        self, target: int, source: int, size: int, kind: int, stream: _Stream
    ) -> None:
        for pointer, is_device in ((target, kind != 2), (source, kind != 1)):
            if is_device:
                self.bytes_at(pointer, size)
                continue
            require(pointer in self.host, "asynchronous copies need pinned memory")
            require(size <= len(self.host[pointer]), "a copy runs over the end of host memory")

        def copy() -> None:
            ctypes.memmove(target, source, size)

        stream.put(copy)

    def _cudaStreamSynchronize(self, stream: _Stream | int) -> None:  # noqa: N802
        if isinstance(stream, int):
            stream = self.streams[stream]
        require(stream.capturing is None, "a stream was synchronized while it captures")
        for work in stream.queued:
            work()
        stream.queued.clear()

    def _cudaStreamBeginCapture(self, stream: _Stream, mode: int) -> None:  # noqa: N802
        del mode
        require(not stream.queued, "a capture began with work in the stream")
        stream.capturing = []

    def _cudaStreamEndCapture(self, stream: _Stream) -> list[Callable[[], None]]:  # noqa: N802
        captured, stream.capturing = stream.capturing, None
        require(captured is not None, "a capture ended that had not begun")
        return captured or []

    def _cudaGraphInstantiate(self, graph: list[Any], flags: int) -> list[Any]:  # noqa: N802
        del flags
        executable = list(graph)
        self.graphs.append(executable)
        return executable

    def _cudaGraphDestroy(self, graph: list[Any]) -> None:  # noqa: N802
        graph.clear()

    def _cudaGraphLaunch(self, captured: list[Callable[[], None]], stream: _Stream) -> None:  # noqa: N802
        self.launches += 1
        for work in captured:
            stream.put(work)

    def _cudaGraphExecDestroy(self, captured: list[Any]) -> None:  # noqa: N802
        self.graphs = [one for one in self.graphs if one is not captured]


def fake_engine(
    profiles: Sequence[dict[str, list[int]]], *, scale: int = 1, io: str = "uint8",
    version: str = "10.3.0", vectors: int = 0,
) -> bytes:  # fmt: skip
    """Return an engine that `FakeTensorRT` opens; an anchored one where it has VECTORS."""
    plan = {
        "profiles": list(profiles), "scale": scale, "io": io, "version": version,
        "vectors": vectors,
    }  # fmt: skip
    return json.dumps(plan).encode()


class _TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class _DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 5


class FakeTensorRT(types.ModuleType):
    """A fake of `tensorrt` or `tensorrt_rtx` that runs engines of `fake_engine`.

    The network is a function of the batch, `network`; by default it inverts the image. A
    context-anchored engine then adds the first context vector used; a frame's own vectors are its
    mean. Where `can_be_captured` is False, it fails to run in a stream that captures.
    """

    def __init__(
        self, cuda: FakeCudart, *, flavor: str = "tensorrt", version: str = "10.3.0"
    ) -> None:
        """Run on this GPU."""
        super().__init__(flavor)
        self.__version__ = version
        self.cuda = cuda
        self.network: Callable[[NDArray[Any]], NDArray[Any]] = _inverted
        self.runs = 0
        self.can_be_captured = True
        self.TensorIOMode, self.DataType = _TensorIOMode, _DataType
        fake = self

        class ILogger:
            """As TensorRT's."""

        class Runtime:
            """As TensorRT's."""

            def __init__(self, logger: Any) -> None:  # noqa: ANN401  # TensorRT's
                self._logger = logger

            def deserialize_cuda_engine(self, plan: bytes) -> _FakeEngine | None:
                try:
                    document = json.loads(plan)
                except ValueError:
                    document = {"version": "no engine"}
                if document["version"] != fake.__version__:
                    self._logger.log(
                        "Severity.ERROR", "the engine is damaged or of another version"
                    )
                    return None
                return _FakeEngine(fake, document)

        self.ILogger, self.Runtime = ILogger, Runtime


def _inverted(batch: NDArray[Any]) -> NDArray[Any]:
    inverted: NDArray[Any] = (255 if batch.dtype == np.uint8 else 1) - batch
    return inverted


class _FakeEngine:
    def __init__(self, trt: FakeTensorRT, plan: dict[str, Any]) -> None:
        self.trt, self.plan = trt, plan
        self.inputs: tuple[str, ...] = ("frames",)
        self.outputs: tuple[str, ...] = ("restored",)
        if plan.get("vectors"):
            self.inputs += ("globals_in", "memory")
            self.outputs += ("globals_out",)

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, place: int) -> str:
        return (*self.inputs, *self.outputs)[place]

    def get_tensor_mode(self, name: str) -> enum.Enum:
        return _TensorIOMode.INPUT if name in self.inputs else _TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> enum.Enum:
        is_image = name in ("frames", "restored")
        return _DataType.UINT8 if is_image and self.plan["io"] == "uint8" else _DataType.FLOAT

    def create_execution_context(self, config: object = None) -> _FakeContext:
        rtx = self.trt.__name__ == "tensorrt_rtx"
        require((config is not None) == rtx, "TensorRT-RTX alone takes a runtime configuration")
        return _FakeContext(self)

    def create_runtime_config(self) -> SimpleNamespace:
        require(self.trt.__name__ == "tensorrt_rtx", "TensorRT has no runtime configuration")
        cache = SimpleNamespace(
            deserialize=lambda kept: kept == b"kernels", serialize=lambda: b"kernels"
        )
        return SimpleNamespace(
            create_runtime_cache=lambda: cache, set_runtime_cache=lambda cache: None
        )


class _FakeContext:
    def __init__(self, engine: _FakeEngine) -> None:
        self._engine = engine
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, place: int, stream: int) -> bool:
        require(stream in self._engine.trt.cuda.streams, "no such stream")
        self._profile, self._shapes = place, {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        require(name in self._engine.inputs, "only inputs have their shapes set")
        self._shapes.pop(name, None)
        self._addresses = {}
        if self._fits(name, shape):
            self._shapes[name] = tuple(shape)
        return name in self._shapes

    def _fits(self, name: str, shape: tuple[int, ...]) -> bool:
        plan = self._engine.plan
        if name != "frames":
            return tuple(shape) == ((1, plan["vectors"]) if name == "globals_in" else (1,))
        profile = plan["profiles"][self._profile]
        ends = zip(profile["min"], shape, profile["max"], strict=True)
        return all(low <= side <= high for low, side, high in ends)

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine.inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        require(not self.infer_shapes(), "shapes are asked for before the inputs' are set")
        if name in self._shapes:
            return self._shapes[name]
        if name == "globals_out":
            return self._shapes["globals_in"]
        sides = (1, 2) if self._engine.plan["io"] == "uint8" else (2, 3)
        scale = self._engine.plan["scale"]
        shape = self._shapes["frames"]
        return tuple(scale * side if axis in sides else side for axis, side in enumerate(shape))

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        require(not self.infer_shapes(), "addresses are set after the shape, which forgets them")
        self._addresses[name] = pointer
        return True

    def execute_async_v3(self, number: int) -> bool:
        engine = self._engine
        trt, every = engine.trt, (*engine.inputs, *engine.outputs)
        require(set(self._addresses) == set(every), "run without every address")
        stream = trt.cuda.streams[number]
        if stream.capturing is not None and not trt.can_be_captured:
            return False
        views = {name: self._view(name) for name in every}

        def work() -> None:
            trt.runs += 1
            made = trt.network(views["frames"])
            if "memory" in views:
                memory, given = views["memory"][0], views["globals_in"]
                used = (1 - memory) * views["frames"].mean(dtype=np.float32) + memory * given
                views["globals_out"][...] = used
                made = made + np.rint(used[0, 0]).astype(made.dtype)
            restored = views["restored"]
            for axis, side in enumerate(restored.shape):
                made = made.repeat(side // made.shape[axis], axis=axis)
            restored[...] = made.astype(restored.dtype)

        stream.put(work)
        return True

    def _view(self, name: str) -> NDArray[Any]:
        kind = self._engine.get_tensor_dtype(name)
        dtype = np.dtype(np.uint8 if kind is _DataType.UINT8 else np.float32)
        shape = self.get_tensor_shape(name)
        size = int(np.prod(shape)) * dtype.itemsize
        view: NDArray[Any] = self._engine.trt.cuda.bytes_at(self._addresses[name], size)
        return view.view(dtype).reshape(shape)
