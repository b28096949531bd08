"""The backend LiteRT (formerly TensorFlow Lite), on the processor: phones and ARM boards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge.dependencies import EXTRAS
from mirnet_edge.runtime.backends import Backend
from mirnet_edge.runtime.machine import usable_cores
from mirnet_edge.runtime.runner import GraphRunner

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of the delegate that LiteRT creates without being asked.
_PROVIDER = "XNNPACK"


class LiteRtRunner(GraphRunner):
    """A .tflite file in LiteRT's interpreter; it has one size."""

    _interpreter: Any = None
    _input = _output = 0

    def _load(self) -> None:
        BACKEND.require()
        from ai_edge_litert.interpreter import Interpreter

        # by default the interpreter takes one thread, whatever the machine
        threads = self.threads or usable_cores()
        interpreter = Interpreter(str(self.path), num_threads=threads)
        interpreter.allocate_tensors()
        (fed,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
        self._input, self._output = fed["index"], given["index"]
        self._interpreter = interpreter

    def _infer(self, inputs: NDArray[Any]) -> NDArray[Any]:
        self._interpreter.set_tensor(self._input, inputs)
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_tensor(self._output))

    def _close(self) -> None:
        self._interpreter = None


BACKEND = Backend(
    name="litert",
    title="LiteRT",
    packages=("ai_edge_litert",),
    extra=EXTRAS["ai_edge_litert"],
    device="cpu",
    provider=_PROVIDER,
    precisions=("fp32", "fp16", "int8"),
    auto_reason="where it is measured fastest, in bundles exported with `--size`",
    runner=LiteRtRunner,
    target="litert",
)
