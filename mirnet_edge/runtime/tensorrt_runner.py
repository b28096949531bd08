"""TensorRT plans on a GPU, through cuda-python. No torch.

How a frame goes there and back stands in `engines.execution`; here are opening, refusing what does
not fit, and the guard against broken frames.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.engines import rtx
from mirnet_edge.engines.cuda import Cuda
from mirnet_edge.engines.execution import Execution
from mirnet_edge.engines.identity import host_of, require_fit
from mirnet_edge.engines.library import find_tensorrt, first_error, is_rtx, kept_logger
from mirnet_edge.engines.profiles import Profile
from mirnet_edge.errors import EngineError, ImageError, MirnetEdgeError
from mirnet_edge.images import size_text
from mirnet_edge.onnx_files import GIVEN_VECTORS, INPUT, MEMORY, OUTPUT, USED_VECTORS
from mirnet_edge.runtime.broken_frames import BrokenFrames
from mirnet_edge.runtime.graph_runner import GraphRunner

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from mirnet_edge.engines.execution import Given
    from mirnet_edge.images import Frames
    from mirnet_edge.manifest import EngineFacts, Graph, ImageContract, Manifest, Mode, Precision
    from mirnet_edge.runtime.runner import Vectors

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
        self._runtime: Any = None
        self._kernels: rtx.CompiledKernels | None = None
        self._execution: Execution | None = None
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
        trt = find_tensorrt(self._facts.flavour)
        cuda = self._given_cuda or Cuda()
        require_fit(self._facts, self._graph, host_of(trt, cuda.gpu()))
        log = kept_logger(trt)
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
        self._execution = Execution(
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

    def _check_names(self, execution: Execution) -> None:
        found = (set(execution.inputs), set(execution.outputs))
        expected = ({INPUT}, {OUTPUT})
        if self.vector_length:
            expected = ({INPUT, GIVEN_VECTORS, MEMORY}, {OUTPUT, USED_VECTORS})
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
            return self._infer_anchored(fed, blank, np.zeros(1, np.float32))[0]
        return self._executed({INPUT: fed})[OUTPUT]

    def _infer_anchored(
        self, fed: Given, given: Vectors, memory: Vectors
    ) -> tuple[NDArray[Any], Vectors]:
        made = self._executed({INPUT: fed, GIVEN_VECTORS: given, MEMORY: memory})
        return made[OUTPUT], made[USED_VECTORS]

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
