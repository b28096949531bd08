"""CUDA through cuda-python: memory, streams and CUDA graphs, without torch."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.dependencies import advice
from mirnet_edge.errors import EngineError, MissingDependencyError

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

_MODULE = "cuda.bindings.runtime"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The properties of a GPU that decide whether an engine fits it."""

    name: str
    capability: str
    """Compute capability, `8.7`."""
    cuda: str
    """The driver's version of CUDA, `12.6`."""
    integrated: bool = False
    """Whether it shares its memory with the processor, as on a Jetson."""


@dataclass(frozen=True)
class Pinned:
    """Pinned (page-locked) host memory, as a numpy array."""

    pointer: int
    array: NDArray[Any]


class Cuda:
    """The calls of the CUDA runtime that a runner makes; each raises where CUDA fails.

    Raises:
        MissingDependencyError: cuda-python is not installed.
        EngineError: There is no GPU, or no driver for it; says which.
    """

    def __init__(self, runtime: ModuleType | None = None) -> None:
        """Find the first GPU.

        Args:
            runtime: Used in place of `cuda.bindings.runtime`, for tests.
        """
        self._rt: Any = runtime or _runtime()
        if self._call("cudaGetDeviceCount") < 1:
            raise EngineError("CUDA finds no GPU here; use another --backend")

    def gpu(self) -> Gpu:
        """Return the properties of the GPU."""
        seen = self._call("cudaGetDeviceProperties", 0)
        name = seen.name.decode() if isinstance(seen.name, bytes) else str(seen.name)
        version = self._call("cudaDriverGetVersion")
        return Gpu(
            name=name.rstrip("\0"),
            capability=f"{seen.major}.{seen.minor}",
            cuda=f"{version // 1000}.{version % 1000 // 10}",
            integrated=bool(seen.integrated),
        )

    def free_bytes(self) -> int:
        """Return how much of the GPU's memory is free; on a Jetson, of the shared memory."""
        free, _ = self._call("cudaMemGetInfo")
        return int(free)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Pinned:
        """Allocate pinned host memory, which is copied asynchronously to and from the GPU."""
        size = max(1, int(np.prod(shape)) * dtype.itemsize)
        pointer = int(self._call("cudaHostAlloc", size, 0))
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))
        return Pinned(pointer, memory.view(dtype).reshape(shape))

    def free_pinned(self, memory: Pinned) -> None:
        """Free pinned memory; its array must no longer be used."""
        self._call("cudaFreeHost", memory.pointer)

    def device(self, size: int) -> int:
        """Allocate that many bytes on the GPU and return their address."""
        return int(self._call("cudaMalloc", max(1, size)))

    def free_device(self, pointer: int) -> None:
        """Free memory that `device` allocated."""
        self._call("cudaFree", pointer)

    def stream(self) -> Any:  # noqa: ANN401  # cuda-python's
        """Return a new CUDA stream."""
        return self._call("cudaStreamCreate")

    def free_stream(self, stream: Any) -> None:  # noqa: ANN401  # cuda-python's
        """Free a stream."""
        self._call("cudaStreamDestroy", stream)

    def to_device(self, pointer: int, source: Pinned, stream: Any) -> None:  # noqa: ANN401  # cuda-python's
        """Enqueue the copy of host memory to the GPU."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", pointer, source.pointer, source.array.nbytes, kind, stream)

    def to_host(self, target: Pinned, pointer: int, stream: Any) -> None:  # noqa: ANN401  # cuda-python's
        """Enqueue the copy from the GPU to host memory."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.pointer, pointer, target.array.nbytes, kind, stream)

    def within_device(self, target: int, source: int, size: int, stream: Any) -> None:  # noqa: ANN401  # cuda-python's
        """Enqueue the copy of SIZE bytes from one address on the GPU to another."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def synchronize(self, stream: Any) -> None:  # noqa: ANN401  # cuda-python's
        """Wait until a stream has finished all enqueued work."""
        self._call("cudaStreamSynchronize", stream)

    def begin_capture(self, stream: Any) -> None:  # noqa: ANN401  # cuda-python's
        """Begin to capture a CUDA graph: enqueued work is captured and not executed."""
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:  # noqa: ANN401  # cuda-python's
        """End the capture and return an executable CUDA graph."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, cuda_graph: Any, stream: Any) -> None:  # noqa: ANN401  # cuda-python's
        """Launch a CUDA graph."""
        self._call("cudaGraphLaunch", cuda_graph, stream)

    def free_graph(self, cuda_graph: Any) -> None:  # noqa: ANN401  # cuda-python's
        """Free a CUDA graph."""
        self._call("cudaGraphExecDestroy", cuda_graph)

    def _call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401  # cuda-python's
        status, *given = getattr(self._rt, name)(*arguments)
        if int(status) != 0:
            _, text = self._rt.cudaGetErrorString(status)
            reason = text.decode() if isinstance(text, bytes) else str(text)
            raise EngineError(
                f"CUDA failed in {name}: {reason} (error {int(status)}). Check the GPU's driver "
                "with nvidia-smi, or use another --backend"
            )
        return given[0] if len(given) == 1 else tuple(given)


def _runtime() -> ModuleType:
    try:
        return importlib.import_module(_MODULE)
    except (ImportError, OSError) as error:  # OSError: a library of the driver is missing
        raise MissingDependencyError(
            f"running TensorRT engines needs cuda-python, which cannot be loaded ({error}): "
            f"{advice('cuda')}"
        ) from error
