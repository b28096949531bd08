"""The backend OpenVINO, on the processor: the fastest on most x86 and ARM."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.dependencies import EXTRAS
from mirnet_edge.errors import EngineError
from mirnet_edge.onnx_wire import float_form
from mirnet_edge.runtime.backends import Backend
from mirnet_edge.runtime.runner import GraphRunner

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mirnet_edge.images.contract import FloatFrames
    from mirnet_edge.manifest import ImageContract, Precision
    from mirnet_edge.runtime.runner import ContextVectors

_DEVICE = "CPU"
# How many sizes stay compiled. Each holds its own weights and activations: for MIRNetEdge at
# 640x480 about 200 MB.
KEPT_SIZES = 4
# The type of all that is not quantized. Set for every precision: by default OpenVINO takes bf16 on
# processors that have it, also for fp32.
_HINT_OF: dict[Precision, str] = {
    "fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32", "int8+fp16": "f16",
    "int8+bf16": "bf16",
}  # fmt: skip
_CAPABILITY_OF: dict[Precision, str] = {
    "fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8", "int8+fp16": "FP16",
    "int8+bf16": "BF16",
}  # fmt: skip


def supports(precision: Precision) -> bool:
    """Return whether OpenVINO computes in this precision on this processor.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    BACKEND.require()
    import openvino

    capabilities = openvino.Core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    return _CAPABILITY_OF[precision] in capabilities


class OpenVinoRunner(GraphRunner):
    """An ONNX file in OpenVINO's CPU plugin.

    A graph for any size is compiled for each size of frames, which takes a fraction of a second
    and makes every later frame of that size faster. The last `KEPT_SIZES` stay in memory.
    """

    def __init__(
        self,
        path: Path,
        image: ImageContract,
        *,
        name: str,
        precision: Precision,
        threads: int | None = None,
    ) -> None:
        """Remember what to open.

        Args:
            path: The ONNX file.
            image: The graph's inputs and outputs.
            name: Of this runner in messages and reports.
            precision: To compute in; bf16 runs the fp32 graph.
            threads: Of one run, at most; None leaves it to OpenVINO.

        Raises:
            OptionError: Less than one thread.
        """
        super().__init__(path, image, name=name, precision=precision, threads=threads)
        self._core: Any = None
        self._model: Any = None
        self._float_model: Any = None
        self._requests: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    takes_floats = True

    def _load(self) -> None:
        if not supports(self.precision):
            raise EngineError(
                f"{self.name}: this processor has no {self.precision} in OpenVINO; "
                "choose another --precision"
            )
        import openvino

        self._core = openvino.Core()
        self._model = self._core.read_model(str(self.path))
        if self.image.size is not None:  # it has one shape: compile it now
            self._request_for(tuple(self._model.input(0).shape))

    def _infer(self, inputs: NDArray[Any]) -> NDArray[Any]:
        request = self._request_for(inputs.shape)
        outputs = request.infer([inputs], share_inputs=True, share_outputs=True)
        return np.asarray(outputs[0])

    def _infer_with_context(
        self, inputs: NDArray[Any], context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> tuple[NDArray[Any], ContextVectors]:
        request = self._request_for(inputs.shape)
        outputs = request.infer([inputs, context_in, weight], share_inputs=True, share_outputs=True)
        return np.asarray(outputs[0]), outputs[1]

    def _infer_levels(
        self, levels: FloatFrames, context_in: ContextVectors, weight: NDArray[np.float32]
    ) -> FloatFrames:
        if self._float_model is None:
            self._float_model = self._core.read_model(float_form(self.path.read_bytes()))
        request = self._request_for(levels.shape, floats=True)
        inputs = [levels, context_in, weight] if self.context_length else [levels]
        outputs = request.infer(inputs, share_inputs=True, share_outputs=True)
        return np.asarray(outputs[0])

    def _close(self) -> None:
        self._requests.clear()
        self._model = self._float_model = self._core = None

    def _request_for(self, shape: tuple[int, ...], *, floats: bool = False) -> Any:  # noqa: ANN401  # OpenVINO has no types
        """Return the compiled graph of a shape, compiling it where it is not in memory.

        Args:
            shape: Of the frames.
            floats: Whether they are floats, for which the graph is another.
        """
        key = (*shape, "float") if floats else shape
        if key in self._requests:
            self._requests.move_to_end(key)
            return self._requests[key]
        model = self._float_model if floats else self._model
        if model.is_dynamic():
            # a graph of static size runs in 0.6 times the time: measured on MIRNetEdge,
            # 640x480, 2 cores, OpenVINO 2026.4: 178 ms dynamic, 110 ms static, 230 ms to compile
            model = model.clone()
            sides = {one: [shape[0], *one.partial_shape[1:]] for one in model.inputs[1:2]}
            model.reshape({model.input(0): list(shape), **sides})
        while len(self._requests) >= KEPT_SIZES:  # before compiling: both at once need more memory
            self._requests.popitem(last=False)
        compiled = self._core.compile_model(model, _DEVICE, self._settings())
        self._requests[key] = compiled.create_infer_request()
        return self._requests[key]

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINT_OF[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self.threads
        return settings


BACKEND = Backend(
    name="openvino",
    title="OpenVINO",
    packages=("openvino",),
    extra=EXTRAS["openvino"],
    device="cpu",
    provider=_DEVICE,
    precisions=tuple(_CAPABILITY_OF),
    auto_reason="where it is measured fastest: on most x86 and ARM processors",
    runner=OpenVinoRunner,
    # on processors with bf16 what is not quantized is also tried in it
    derived_precisions={"fp32": ("bf16",), "int8": ("int8+bf16",)},
    supports_here=supports,
)
