"""A graph whose time is its multiplications: the peak that networks' speed is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np

_CHANNELS, _SIDE, _LAYERS = 64, 160, 8
INPUT_SHAPE = (1, _CHANNELS, _SIDE, _SIDE)
"""Of the graph's float32 input."""
MACS = _LAYERS * _CHANNELS**2 * 9 * _SIDE**2
"""Multiply-accumulates of one run."""
_WEIGHT_SCALE = 0.002


def convolution_peak_graph(*, is_int8: bool) -> bytes:
    """Return an ONNX file of eight 3x3 convolutions of 64 channels at 160x160.

    Eight in a row, so that converting the input does not count; all activations fit into a second-
    level cache or nearly, so that memory does not either.

    Args:
        is_int8: Whether weights and activations are quantized, as in a bundle's INT8 graph.
    """
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    weights = generator.normal(0.0, 0.05, (_CHANNELS, _CHANNELS, 3, 3)).astype(np.float32)
    nodes: list[Any] = []
    constants: dict[str, Any] = {"weights": weights}
    fed, kernel = "x", "weights"
    if is_int8:
        levels = np.clip(np.rint(weights / _WEIGHT_SCALE), -63, 63).astype(np.int8)
        constants = {
            "levels": levels,
            "weight_scale": np.full(_CHANNELS, _WEIGHT_SCALE, np.float32),
            "weight_zero": np.zeros(_CHANNELS, np.int8),
            "scale": np.float32(1 / 255),
            "zero": np.uint8(0),
        }
        nodes += _quantized(fed, "input")
        nodes.append(
            helper.make_node(
                "DequantizeLinear", ["levels", "weight_scale", "weight_zero"], ["kernel"], axis=0
            )
        )
        fed, kernel = "input", "kernel"
    for layer in range(_LAYERS):
        output = f"y{layer}"
        nodes.append(helper.make_node("Conv", [fed, kernel], [output], pads=[1, 1, 1, 1]))
        fed = output
        if is_int8 and layer < _LAYERS - 1:
            fed = f"{output}_levels"
            nodes += _quantized(output, fed)
    first, last = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(INPUT_SHAPE))
        for name in ("x", f"y{_LAYERS - 1}")
    )
    tensors = [numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items()]
    graph = helper.make_graph(nodes, "peak", [first], [last], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def _quantized(name: str, output: str) -> list[Any]:
    """Return the nodes that round a tensor to 8 bits."""
    from onnx import helper

    return [
        helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{output}_q"]),
        helper.make_node("DequantizeLinear", [f"{output}_q", "scale", "zero"], [output]),
    ]
