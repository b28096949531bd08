"""A TensorRT that needs no GPU, for tests of all that is done with it; its CUDA is `fake_cuda`.

It holds its users to the rules that the real one punishes with crashes or garbage: shapes before
addresses, addresses before running, buffers large enough. A breach is an `AssertionError`.
"""

from __future__ import annotations

import enum
import json
import types
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.engines.fake_cuda import require

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mirnet_edge.engines.fake_cuda import FakeCudart


def fake_plan(
    profiles: Sequence[dict[str, list[int]]], *, scale: int = 1, io: str = "uint8",
    version: str = "10.3.0", vectors: int = 0,
) -> bytes:  # fmt: skip
    """Return a plan that `FakeTensorRT` opens; an anchored one where it has VECTORS."""
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
    """Stands for `tensorrt` or `tensorrt_rtx` where plans of `fake_plan` are run.

    The network is a function of the batch, `network`; by default it inverts the picture. An
    anchored plan then adds the first vector that it uses; a frame's own are all its mean. Where it
    is not `can_be_recorded`, it refuses to be queued in a stream that records.
    """

    def __init__(
        self, cuda: FakeCudart, *, flavour: str = "tensorrt", version: str = "10.3.0"
    ) -> None:
        """Take the GPU it runs on."""
        super().__init__(flavour)
        self.__version__ = version
        self.cuda = cuda
        self.network: Callable[[NDArray[Any]], NDArray[Any]] = _inverted
        self.runs = 0
        self.can_be_recorded = True
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
                    document = {"version": "no plan"}
                if document["version"] != fake.__version__:
                    self._logger.log("Severity.ERROR", "the plan is damaged or of another version")
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
        is_picture = name in ("frames", "restored")
        return _DataType.UINT8 if is_picture and self.plan["io"] == "uint8" else _DataType.FLOAT

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
        if stream.recording is not None and not trt.can_be_recorded:
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
