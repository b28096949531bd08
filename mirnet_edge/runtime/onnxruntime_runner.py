"""The backends of ONNX Runtime: the processor, which is always there, and its other providers."""

from __future__ import annotations

import functools
import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.onnx_sessions import PROVIDER, OnnxSession
from mirnet_edge.onnx_wire import float_form
from mirnet_edge.runtime.backends import Backend
from mirnet_edge.runtime.execution_providers import (
    EXECUTION_PROVIDERS,
    ExecutionProvider,
    describe_placement,
    open_session,
)
from mirnet_edge.runtime.machine import usable_cores
from mirnet_edge.runtime.runner import GraphRunner

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import FloatFrames
    from mirnet_edge.manifest import ImageContract, Precision
    from mirnet_edge.runtime.runner import ContextVectors


logger = logging.getLogger(__name__)


class OnnxRuntimeRunner(GraphRunner):
    """An ONNX file in ONNX Runtime, on the processor or another execution provider."""

    def __init__(
        self,
        path: Path,
        image: ImageContract,
        *,
        name: str,
        precision: Precision,
        threads: int | None = None,
        optimize: bool = True,
        provider: ExecutionProvider | None = None,
    ) -> None:
        """Remember what to open.

        Args:
            path: The ONNX file; it decides the precision.
            image: The graph's inputs and outputs.
            name: Of this runner in messages and reports.
            precision: Of the graph.
            threads: Of one run, at most; None for all that this process may use.
            optimize: False runs the graph node by node as it is written, to simulate other
                backends: while fusing, ONNX Runtime computes scales in half precision, which costs
                an int8+fp16 graph 17 dB that it does not lose elsewhere.
            provider: The execution provider; None for the processor.

        Raises:
            OptionError: Less than one thread.
        """
        super().__init__(path, image, name=name, precision=precision, threads=threads)
        self._optimize = optimize
        self._provider = provider
        self._session: Any = None
        self._float_session: Any = None
        self._input = ""

    takes_floats = True

    def _load(self) -> None:
        BACKEND.require()
        self._session = self._open_session(self._model())
        self._input = self._session.get_inputs()[0].name
        if self._provider is None:
            self.placement = self._session.native.get_providers()[0]
        else:
            self.placement = describe_placement(self._session.native)
            logger.info("%s computes %s", self.name, self.placement)

    def _open_session(self, model: str | bytes) -> OnnxSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads or _default_threads()
        options.inter_op_num_threads = 1
        if not self._optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self._provider is None:
            return OnnxSession(model, options, name=self.path.name)
        opener = functools.partial(
            open_session, provider=self._provider, path=self.path, precision=self.precision
        )
        return OnnxSession(
            model, options, name=self.path.name, opener=opener, buffers=self._provider.buffers
        )

    def _model(self) -> str | bytes:
        """Return the model to open: the file's name, or its content."""
        return str(self.path)

    def _infer(self, inputs: NDArray[Any]) -> NDArray[Any]:
        (output,) = self._session.run(None, {self._input: inputs})
        return np.asarray(output)

    def _infer_levels(
        self, levels: FloatFrames, context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> FloatFrames:
        if self._float_session is None:
            model = self._model()
            content = self.path.read_bytes() if isinstance(model, str) else model
            self._float_session = self._open_session(float_form(content))
        names = [one.name for one in self._float_session.get_inputs()]
        feed = dict(zip(names, (levels, context_in, weight), strict=False))
        return np.asarray(self._float_session.run(None, feed)[0])

    def _infer_with_context(
        self, inputs: NDArray[Any], context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> tuple[NDArray[Any], ContextVectors]:
        names = [one.name for one in self._session.get_inputs()]
        output, used = self._session.run(
            None, dict(zip(names, (inputs, context_in, weight), strict=True))
        )
        return np.asarray(output), used

    def _close(self) -> None:
        self._session = self._float_session = None


def _default_threads() -> int:
    """Return 0, which is one per physical core, unless this process may use only some cores.

    ONNX Runtime ignores the process's affinity: it would start a thread for each core of the whole
    machine and fail to pin it.
    """
    allowed = usable_cores()
    return allowed if allowed < (os.cpu_count() or 1) else 0


BACKEND = Backend(
    name="onnxruntime",
    title="ONNX Runtime",
    packages=("onnxruntime",),
    extra=None,
    device="cpu",
    provider=PROVIDER,
    precisions=("fp32", "fp16", "int8", "int8+fp16"),
    auto_reason="where it is measured fastest; the reference of the quality gate, for it runs "
    "everywhere",
    runner=OnnxRuntimeRunner,
)


def _row_of(provider: ExecutionProvider) -> Backend:
    return Backend(
        name=provider.backend,
        title=provider.title,
        packages=("onnxruntime",),
        extra=provider.extra,
        device=provider.device,
        provider=provider.name,
        precisions=provider.precisions,
        auto_reason="where it is measured fastest",
        runner=functools.partial(OnnxRuntimeRunner, provider=provider),
        target=provider.target,
        find_machine_obstacle=provider.obstacle,
        systems=provider.systems,
        added_here="always",
    )


PROVIDER_BACKENDS = {one.backend: _row_of(one) for one in EXECUTION_PROVIDERS}
"""The rows of the execution providers other than the processor's, by name."""
