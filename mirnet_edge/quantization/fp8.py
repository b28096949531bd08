"""Turn an INT8 graph for TensorRT into FP8 (E4M3): explicit Q/DQ of the same tensors.

The ranges of activations are those that INT8 was calibrated with; 448, the largest number of the
type, takes the place of 127. Weights are rounded anew, from the fp32 graph, with one scale for each
tensor: FP8 has an exponent, so that a channel of small weights loses nothing to a large one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_files import constants_of, copy_model
from mirnet_edge.quantization.legalizer import CONVOLUTIONS, QDQ_OPERATORS, drop_unused

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

LARGEST = 448.0
"""Of E4M3."""
_INT8_LEVELS = 127.0
_OPSET = 19
"""The first in which ONNX quantizes to FP8."""
_ZERO = "fp8_zero_point"


def to_fp8(int8: onnx.ModelProto, fp32: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a Q/DQ graph that quantizes to FP8 what it quantized to INT8.

    Args:
        int8: Symmetric, with explicit zero points: what `legalize_for_tensorrt` returns.
        fp32: The graph it was made of.

    Raises:
        GraphError: Nothing is quantized, or a quantized convolution is not in the fp32 graph.
    """
    model = copy_model(int8)
    opset = max((one.version for one in model.opset_import if not one.domain), default=0)
    if opset < _OPSET:
        raise GraphError(f"FP8 needs opset {_OPSET}, found {opset}; export the graph again")
    constants = constants_of(model)
    weights = _weights_of(fp32)
    _add(model, _ZERO, np.zeros((), _fp8()))
    dequantizers = {
        node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    found = 0
    for node in model.graph.node:
        if node.op_type in CONVOLUTIONS and node.input[1] in dequantizers:
            if node.name not in weights:
                raise GraphError(
                    f"expected the quantized convolution {node.name!r} in the fp32 graph too, "
                    "found none of that name; make both of one export"
                )
            _quantize_weight(model, dequantizers[node.input[1]], weights[node.name])
            found += 1
    if not found:
        raise GraphError("no convolution is quantized; expected an INT8 graph")
    scaled: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type not in QDQ_OPERATORS or node.input[2] == _ZERO:
            continue
        if node.input[1] not in scaled:
            scaled[node.input[1]] = f"{node.input[1]}_fp8"
            scale = np.asarray(constants[node.input[1]], np.float32) * (_INT8_LEVELS / LARGEST)
            _add(model, scaled[node.input[1]], scale.astype(np.float32))
        node.input[1], node.input[2] = scaled[node.input[1]], _ZERO
    drop_unused(model)
    return model


def _weights_of(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Return the constant weights of the convolutions, by the node's name."""
    constants = constants_of(model)
    return {
        node.name: np.asarray(constants[node.input[1]], np.float32)
        for node in model.graph.node
        if node.op_type in CONVOLUTIONS and node.input[1] in constants
    }


def _quantize_weight(
    model: onnx.ModelProto, dequantizer: onnx.NodeProto, weight: NDArray[np.float32]
) -> None:
    """Let a dequantizer read a weight in FP8, whatever it read before."""
    largest = float(np.abs(weight).max(initial=0.0))
    scale = np.float32(largest / LARGEST if largest > 0.0 else 1.0)
    name = dequantizer.output[0]
    rounded = np.clip(weight / scale, -LARGEST, LARGEST).astype(_fp8())
    _add(model, f"{name}_fp8_values", rounded)
    _add(model, f"{name}_fp8_scale", np.asarray(scale, np.float32))
    del dequantizer.input[:]
    dequantizer.input.extend([f"{name}_fp8_values", f"{name}_fp8_scale", _ZERO])
    del dequantizer.attribute[:]  # the axis: one scale has none


def _add(model: onnx.ModelProto, name: str, value: NDArray[np.generic]) -> None:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(value, name))


def _fp8() -> np.dtype[np.generic]:
    import ml_dtypes  # onnx brings it

    kind: np.dtype[np.generic] = np.dtype(ml_dtypes.float8_e4m3fn)
    return kind
