"""A CUDA that needs no GPU, for tests of all that is done with it.

It holds its users to the rules that the real one punishes with crashes or garbage: buffers large
enough, nothing freed twice or while it is used, nothing waited for while a stream records. A breach
is an `AssertionError`.
"""

from __future__ import annotations

import ctypes
import types
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def require(holds: object, rule: str) -> None:
    """Fail the test in which a rule was broken."""
    if not holds:
        raise AssertionError(rule)


@dataclass
class _Stream:
    number: int
    recording: list[Callable[[], None]] | None = None
    queued: list[Callable[[], None]] = field(default_factory=list)

    def __int__(self) -> int:
        return self.number

    def put(self, work: Callable[[], None]) -> None:
        (self.queued if self.recording is None else self.recording).append(work)


class FakeCudart(types.ModuleType):
    """Stands for `cuda.bindings.runtime`. Work is done when its stream is waited for.

    `host` and `device` are what is allocated there, `launches` how often a recording ran, `refused`
    calls that answer with an error, by name.
    """

    def __init__(
        self, *, name: str = "Fake GPU", capability: str = "8.6", status: int = 0,
        free_mib: int = 4096,
    ) -> None:  # fmt: skip
        """Say which GPU it is.

        Args:
            name: Of the GPU.
            capability: Its compute capability.
            status: What every call answers; 0 is success, 100 no device.
            free_mib: Free memory.
        """
        super().__init__("cuda.bindings.runtime")
        self._gpu = (name, *map(int, capability.split(".")))
        self.status, self._free_mib = status, free_mib
        self.host: dict[int, Any] = {}
        self.device: dict[int, Any] = {}
        self.streams: dict[int, _Stream] = {}
        self.recordings: list[list[Callable[[], None]]] = []
        self.launches = 0
        self.refused: dict[str, int] = {}
        self.cudaMemcpyKind = SimpleNamespace(
            cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
        )
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    @property
    def held(self) -> int:
        """Return how many things were allocated and not freed."""
        return sum(map(len, (self.host, self.device, self.streams, self.recordings)))

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        call = object.__getattribute__(self, f"_{name}") if name.startswith("cuda") else None
        if call is None:
            raise AttributeError(name)

        def answered(*arguments: Any) -> tuple[Any, ...]:  # noqa: ANN401  # as CUDA's
            if self.status and name != "cudaGetErrorString":
                return (self.status, None)
            if name in self.refused:
                if name == "cudaStreamEndCapture":  # it ends the recording all the same
                    call(*arguments)
                return (self.refused[name], None)
            given = call(*arguments)
            return (0, *(given if isinstance(given, tuple) else (given,)))

        return answered

    def bytes_at(self, pointer: int, size: int) -> NDArray[np.uint8]:
        """Return device memory as an array, after checking that so much is there."""
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
            require(pointer in self.host, "copies that are not waited for need pinned memory")
            require(size <= len(self.host[pointer]), "a copy runs over the end of host memory")

        def copy() -> None:
            ctypes.memmove(target, source, size)

        stream.put(copy)

    def _cudaStreamSynchronize(self, stream: _Stream | int) -> None:  # noqa: N802
        if isinstance(stream, int):
            stream = self.streams[stream]
        require(stream.recording is None, "a stream was waited for while it records")
        for work in stream.queued:
            work()
        stream.queued.clear()

    def _cudaStreamBeginCapture(self, stream: _Stream, mode: int) -> None:  # noqa: N802
        del mode
        require(not stream.queued, "recording began with work in the stream")
        stream.recording = []

    def _cudaStreamEndCapture(self, stream: _Stream) -> list[Callable[[], None]]:  # noqa: N802
        recorded, stream.recording = stream.recording, None
        require(recorded is not None, "recording ended that had not begun")
        return recorded or []

    def _cudaGraphInstantiate(self, graph: list[Any], flags: int) -> list[Any]:  # noqa: N802
        del flags
        executable = list(graph)
        self.recordings.append(executable)
        return executable

    def _cudaGraphDestroy(self, graph: list[Any]) -> None:  # noqa: N802
        graph.clear()

    def _cudaGraphLaunch(self, recorded: list[Callable[[], None]], stream: _Stream) -> None:  # noqa: N802
        self.launches += 1
        for work in recorded:
            stream.put(work)

    def _cudaGraphExecDestroy(self, recorded: list[Any]) -> None:  # noqa: N802
        self.recordings = [one for one in self.recordings if one is not recorded]
