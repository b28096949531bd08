"""What TensorRT accepts of Q/DQ, and does not misread: a graph is held to each rule.

The rules hold for TensorRT 10.3, 10.13, 11 and TensorRT-RTX alike. Some of them TensorRT states
by an error; the worst it does not: an unsigned zero point is read as signed, every value above
half of the range is clipped, and 48 dB become 13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_files import constants_of

if TYPE_CHECKING:
    import onnx

QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}
CONVOLUTIONS = {"Conv", "ConvTranspose"}
_STANDARD_DOMAINS = {"", "ai.onnx"}
_UINT8 = 2  # TensorProto.UINT8
_FP16_SCALE_OPSET = 19


@dataclass(frozen=True)
class GraphView:
    """A graph with what rules and repairs look up."""

    model: onnx.ModelProto
    constants: dict[str, np.ndarray]
    producers: dict[str, onnx.NodeProto]
    opset: int

    @classmethod
    def of(cls, model: onnx.ModelProto) -> GraphView:
        """Return the view of a graph as it is now."""
        return cls(
            model=model,
            constants=constants_of(model),
            producers={name: node for node in model.graph.node for name in node.output},
            opset=max(
                (one.version for one in model.opset_import if one.domain in _STANDARD_DOMAINS),
                default=0,
            ),
        )

    def is_dequantized(self, tensor: str) -> bool:
        """Say whether a DequantizeLinear gives this tensor."""
        node = self.producers.get(tensor)
        return node is not None and node.op_type == "DequantizeLinear"


Rule = Callable[["GraphView", "onnx.NodeProto"], "str | None"]


def check_for_tensorrt(model: onnx.ModelProto, name: str) -> None:
    """Refuse a graph that a TensorRT would reject or, worse, misread.

    Args:
        model: Any ONNX graph; one without Q/DQ passes.
        name: How the message calls it.

    Raises:
        GraphError: Names the first node that breaks a rule, and the rule.
    """
    for node, complaint in _complaints(model):
        raise GraphError(
            f"{name}: node {node.name or node.output[0]!r} ({node.op_type}): {complaint}; run "
            "legalize_for_tensorrt on it, or quantize again with mirnet-export --target tensorrt"
        )


def _complaints(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    # first, because values that are not in the file cannot be looked up
    for node in model.graph.node:
        complaint = _weights_are_inside(model, node)
        if complaint:
            yield node, complaint
    view = GraphView.of(model)
    for node in model.graph.node:
        for rule in _RULES:
            complaint = rule(view, node)
            if complaint:
                yield node, complaint


def _standard_domain(view: GraphView, node: onnx.NodeProto) -> str | None:
    del view
    if node.domain in _STANDARD_DOMAINS:
        return None
    return f"expected a standard ONNX operator, found the domain {node.domain}"


def _frames_are_cast(view: GraphView, node: onnx.NodeProto) -> str | None:
    """TensorRT takes and gives uint8, and does nothing with it but cast it."""
    frames = {
        value.name
        for value in (*view.model.graph.input, *view.model.graph.output)
        if value.type.tensor_type.elem_type == _UINT8
    }
    if node.op_type == "Cast" or not frames.intersection((*node.input, *node.output)):
        return None
    return "expected a Cast where the graph takes or gives uint8"


def _zero_point_is_signed_zero(view: GraphView, node: onnx.NodeProto) -> str | None:
    if node.op_type not in QUANTIZERS:
        return None
    if len(node.input) < 3 or not node.input[2]:
        return "expected an int8 zero point of 0, found none: ONNX then means uint8, TensorRT int8"
    zero_point = view.constants.get(node.input[2])
    if zero_point is None:
        return "expected a constant zero point, found a computed one"
    if zero_point.dtype == np.uint8:
        return "expected int8, found uint8: TensorRT reads it as int8 and clips at half range"
    if zero_point.dtype != np.int8:
        kind = " (a quantized bias)" if zero_point.dtype == np.int32 else ""
        return f"expected int8, found {zero_point.dtype}{kind}; biases stay in float"
    if zero_point.any():
        return f"expected the zero point 0, found {int(zero_point.reshape(-1)[0])}: not symmetric"
    return None


def _scale_is_constant_and_positive(view: GraphView, node: onnx.NodeProto) -> str | None:
    if node.op_type not in QUANTIZERS:
        return None
    scale = view.constants.get(node.input[1])
    if scale is None:
        return "expected a constant scale, found a computed one"
    if not (np.asarray(scale, np.float64) > 0.0).all():
        return f"expected scales above 0, found {float(scale.min()):g}"
    if scale.dtype == np.float16 and view.opset < _FP16_SCALE_OPSET:
        return f"float16 scales need opset {_FP16_SCALE_OPSET}, found {view.opset}"
    return None


def _activation_is_per_tensor(view: GraphView, node: onnx.NodeProto) -> str | None:
    if node.op_type not in QUANTIZERS:
        return None
    scale = view.constants.get(node.input[1])
    if scale is None or scale.size == 1 or _holds_weights(view, node.input[0]):
        return None
    return f"expected one scale for the whole activation, found {scale.size}"


def _holds_weights(view: GraphView, tensor: str) -> bool:
    if tensor in view.constants:
        return True
    node = view.producers.get(tensor)
    return node is not None and node.op_type in QUANTIZERS and _holds_weights(view, node.input[0])


def _convolution_is_whole(view: GraphView, node: onnx.NodeProto) -> str | None:
    if node.op_type not in CONVOLUTIONS:
        return None
    activation, weight = (view.is_dequantized(tensor) for tensor in node.input[:2])
    if activation != weight:
        found = "only the activation" if activation else "only the weight"
        return f"expected activation and weight both quantized or neither, found {found}"
    if weight and node.op_type == "ConvTranspose":
        return "expected a transposed convolution in float, found it quantized"
    return None


def _weight_axis_is_zero(view: GraphView, node: onnx.NodeProto) -> str | None:
    if node.op_type != "Conv" or not view.is_dequantized(node.input[1]):
        return None
    dequantizer = view.producers[node.input[1]]
    scale = view.constants.get(dequantizer.input[1])
    axis = next((one.i for one in dequantizer.attribute if one.name == "axis"), 1)
    if scale is None or scale.size == 1 or axis == 0:
        return None
    return f"expected the weight's scales along axis 0, found axis {axis}"


def _bias_is_float(view: GraphView, node: onnx.NodeProto) -> str | None:
    if node.op_type not in CONVOLUTIONS or len(node.input) < 3:
        return None
    if view.is_dequantized(node.input[2]):
        return "expected a float bias, found a quantized one"
    return None


def _weights_are_inside(model: onnx.ModelProto, node: onnx.NodeProto) -> str | None:
    outside = {one.name for one in model.graph.initializer if one.data_location == one.EXTERNAL}
    found = outside.intersection(node.input)
    return f"expected one file, found {found.pop()} in external data" if found else None


_RULES: tuple[Rule, ...] = (
    _standard_domain,
    _frames_are_cast,
    _zero_point_is_signed_zero,
    _scale_is_constant_and_positive,
    _activation_is_per_tensor,
    _bias_is_float,
    _convolution_is_whole,
    _weight_axis_is_zero,
)
