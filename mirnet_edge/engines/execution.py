"""A plan at work: its memory on both sides, one stream, and a recording where shapes stand still.

Per frame: what goes in is copied to the GPU, the network runs, what comes out is copied back. Where
the shapes are static the last two are recorded once as a CUDA graph, and each frame launches it.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from mirnet_edge.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from mirnet_edge.engines.cuda import Cuda, Pinned
    from mirnet_edge.engines.profiles import Profile

logger = logging.getLogger(__name__)


class OnGpu(Protocol):
    """An array in the GPU's memory, of whatever library: torch, CuPy, Numba."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What and where it is, as Numba's documents define it, version 2 or 3."""


Given: TypeAlias = "NDArray[Any] | OnGpu"


@dataclass
class _Tensor:
    """One input or output: pinned on the host, plain on the GPU."""

    host: Pinned
    device: int


@dataclass
class _Memory:
    """All of them for certain shapes, and the recorded frame."""

    shapes: dict[str, tuple[int, ...]]
    taken: dict[str, _Tensor] = field(default_factory=dict)
    made: dict[str, _Tensor] = field(default_factory=dict)
    recorded: Any = None


class Execution:
    """Runs a plan. For one thread; to be closed."""

    def __init__(
        self,
        trt: ModuleType,
        engine: Any,  # noqa: ANN401  # untyped library
        context: Any,  # noqa: ANN401  # untyped library
        cuda: Cuda,
        *,
        name: str,
        profiles: Sequence[Profile],
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
        self._memory: _Memory | None = None

    def run(self, given: Mapping[str, Given]) -> dict[str, NDArray[Any]]:
        """Run the plan once.

        Args:
            given: Every input by its name, in the type that the plan takes; on the GPU where it is
                an `OnGpu`, which must then be contiguous.

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

    def _take(self, tensor: _Tensor, array: Given) -> None:
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

    def _launch(self, memory: _Memory) -> None:
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

    def _queue(self, memory: _Memory) -> None:
        """Queue one frame: through the network, and back."""
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError(
                f"{self._name}: TensorRT did not run a frame of shape {memory.shapes}; "
                "use another --backend"
            )
        for one in memory.made.values():
            self._cuda.to_host(one.host, one.device, self._stream)

    def _memory_for(self, shapes: dict[str, tuple[int, ...]]) -> _Memory:
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
        self._memory = memory = _Memory(shapes)  # at once: a failure frees what it holds by then
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

    def _tensor(self, name: str) -> _Tensor:
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
            return _Tensor(host, self._cuda.device(host.array.nbytes))
        except EngineError:
            self._cuda.free_pinned(host)
            raise

    def _record(self, memory: _Memory) -> None:
        # once without recording: TensorRT allocates on the first run, which cannot be recorded
        self._queue(memory)
        self._cuda.synchronize(self._stream)
        try:
            memory.recorded = self._recorded(memory)
        except EngineError as error:
            self._stop_recording(error)

    def _recorded(self, memory: _Memory) -> Any:  # noqa: ANN401  # cuda-python's
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
