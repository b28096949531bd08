"""TensorRT plans on a GPU, through cuda-python. No torch.

Per frame: copy to the GPU, run, copy back, on one stream. Where the shapes are static these three
are recorded once as a CUDA graph, and each frame is one launch.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.engines import rtx
from mirnet_edge.engines.cuda import Cuda
from mirnet_edge.engines.identity import host_of, require_fit
from mirnet_edge.engines.library import find_tensorrt, first_error, is_rtx, kept_logger
from mirnet_edge.engines.profiles import Profile
from mirnet_edge.errors import EngineError, ImageError, MirnetEdgeError
from mirnet_edge.images import size_text
from mirnet_edge.runtime.broken_frames import BrokenFrames
from mirnet_edge.runtime.runner import GraphRunner

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from mirnet_edge.engines.cuda import Pinned
    from mirnet_edge.images import Frames
    from mirnet_edge.manifest import EngineFacts, Graph, ImageContract, Manifest, Mode, Precision

logger = logging.getLogger(__name__)

_WARM_UP_RUNS = 3


def obstacle(mode: Mode, manifest: Manifest) -> str | None:
    """Return in one line why a TensorRT mode does not run here, None where it does."""
    if not any(one.graph == mode.graph for one in manifest.engines):
        return f"the bundle has no plan of {mode.graph}; build one here: mirnet-engine BUNDLE"
    engine = manifest.engine(mode.graph)
    try:
        gpu = Cuda().gpu()
        require_fit(engine, manifest.graph(mode.graph), host_of(find_tensorrt(engine.flavour), gpu))
    except MirnetEdgeError as error:
        return str(error)
    return None


@dataclass
class _Buffers:
    """Memory for one shape: pinned on the host, plain on the GPU, and the recorded frame."""

    shape: tuple[int, ...]
    fed: Pinned
    given: Pinned
    fed_device: int
    given_device: int
    recorded: Any = None


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
        graph: Graph,
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
        self._profiles = [Profile.from_document(one) for one in engine.profiles]
        self._given_cuda = cuda
        self._trt: Any = None
        self._cuda: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._kernels: rtx.CompiledKernels | None = None
        self._buffers: _Buffers | None = None
        self._active = 0
        self._is_finite = True

    def _load(self) -> None:
        started = time.perf_counter()
        self._trt = trt = find_tensorrt(self._facts.flavour)
        self._cuda = self._given_cuda or Cuda()
        require_fit(self._facts, self._graph, host_of(trt, self._cuda.gpu()))
        log = kept_logger(trt)
        self._runtime = runtime = trt.Runtime(log)
        self._engine = engine = runtime.deserialize_cuda_engine(self.path.read_bytes())
        if engine is None:  # TensorRT raises nothing
            raise EngineError(
                f"{self.path.name}: TensorRT {trt.__version__} cannot open the plan: "
                f"{first_error(log)}. Build it here with mirnet-engine BUNDLE"
            )
        self._context = self._new_context(trt, engine)
        if self._context is None:
            raise EngineError(
                f"{self.path.name}: no memory on the GPU for running the plan: {first_error(log)}. "
                "Close other programs, or build it for smaller --profiles"
            )
        self._stream = self._cuda.stream()
        self._active = 0
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

    def _warm_up(self) -> None:
        for profile in self._profiles:
            blank = np.zeros(profile.usual, np.uint8 if self.image.io == "uint8" else np.float32)
            for _ in range(_WARM_UP_RUNS):
                self._infer(blank)

    def _infer(self, fed: NDArray[Any]) -> NDArray[Any]:
        cuda, stream = self._cuda, self._stream
        buffers = self._buffers
        if buffers is None or buffers.shape != fed.shape:
            buffers = self._buffers_for(fed.shape)
        np.copyto(buffers.fed.array, fed)
        if buffers.recorded is not None:
            cuda.launch(buffers.recorded, stream)
        else:
            self._queue(buffers)
        cuda.synchronize(stream)
        given = buffers.given.array
        if given.dtype != np.uint8:
            self._is_finite = bool(np.isfinite(given).all())
            if not self._is_finite:
                given[...] = 0.0  # NaN has no 8-bit value
        return given

    def _queue(self, buffers: _Buffers) -> None:
        """Queue one frame: to the GPU, through the network, and back."""
        context = self._context
        self._cuda.to_device(buffers.fed_device, buffers.fed, self._stream)
        if not context.execute_async_v3(int(self._stream)):
            raise EngineError(
                f"{self.path.name}: TensorRT did not run a frame of shape {buffers.shape}; "
                "use another --backend"
            )
        self._cuda.to_host(buffers.given, buffers.given_device, self._stream)

    def _buffers_for(self, shape: tuple[int, ...]) -> _Buffers:
        """Return memory for a shape, after telling TensorRT of it; the former shape's is freed."""
        self._free_buffers()
        place = self._profile_for(shape)
        engine, context = self._engine, self._context
        if place != self._active:
            context.set_optimization_profile_async(place, int(self._stream))
            self._cuda.synchronize(self._stream)
            self._active = place
        taken, made = self._names(engine)
        if not context.set_input_shape(taken, shape) or context.infer_shapes():
            raise EngineError(
                f"{self.path.name}: TensorRT takes no input of shape {shape}, though the manifest "
                "says so. Build the plan anew with mirnet-engine BUNDLE"
            )
        dtype = np.dtype(np.uint8 if self.image.io == "uint8" else np.float32)
        fed = self._cuda.pinned(shape, dtype)
        given = self._cuda.pinned(tuple(context.get_tensor_shape(made)), dtype)
        self._buffers = buffers = _Buffers(
            shape, fed, given,
            self._cuda.device(fed.array.nbytes), self._cuda.device(given.array.nbytes),
        )  # fmt: skip
        context.set_tensor_address(taken, buffers.fed_device)
        context.set_tensor_address(made, buffers.given_device)
        if self._profiles[place].is_static:
            self._record(buffers)
        return buffers

    def _names(self, engine: Any) -> tuple[str, str]:  # noqa: ANN401  # untyped library
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        inputs = self._trt.TensorIOMode.INPUT
        taken = [name for name in names if engine.get_tensor_mode(name) == inputs]
        made = [name for name in names if name not in taken]
        if len(taken) != 1 or len(made) != 1:
            raise EngineError(
                f"{self.path.name}: expected a plan of one input and one output, found "
                f"{', '.join(names)}; this runner takes graphs without anchors only"
            )
        return taken[0], made[0]

    def _record(self, buffers: _Buffers) -> None:
        # once without recording: TensorRT allocates on the first run, which cannot be recorded
        self._queue(buffers)
        self._cuda.synchronize(self._stream)
        self._cuda.begin_capture(self._stream)
        try:
            self._queue(buffers)
        finally:  # a stream that records takes no other work
            recorded = self._cuda.end_capture(self._stream)
        buffers.recorded = recorded

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

    def _restored(self, padded: Frames) -> Frames:
        self._profile_for(self._shape_of(padded))  # before TensorRT complains in its own words
        restored = super()._restored(padded)
        return self.broken.replaced(padded, restored, is_finite=self._is_finite)

    def _shape_of(self, padded: Frames) -> tuple[int, ...]:
        count, height, width, channels = padded.shape
        if self.image.io == "uint8":
            return count, height, width, channels
        return count, channels, height, width

    def _close(self) -> None:
        if self._cuda is not None:
            self._free_buffers()
            if self._stream is not None:
                self._cuda.free_stream(self._stream)
        # contexts before engines before runtimes
        self._context = self._kernels = None
        self._engine = None
        self._runtime = None
        self._stream = self._cuda = self._trt = None

    def _free_buffers(self) -> None:
        buffers, self._buffers = self._buffers, None
        if buffers is None:
            return
        if buffers.recorded is not None:
            self._cuda.free_recording(buffers.recorded)
        for pointer in (buffers.fed_device, buffers.given_device):
            self._cuda.free_device(pointer)
        for memory in (buffers.fed, buffers.given):
            self._cuda.free_pinned(memory)
