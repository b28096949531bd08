"""Legalize Q/DQ graphs for TensorRT: its rules, and repairs of what quantizers emit.

TensorRT only casts uint8. A network that needs its frame's size, as MIRNet-v2 does for its context
over all positions, makes torch write Shape nodes that read the graph's input. A cast has the same
shape, so they read the cast instead.

The rules hold for TensorRT 10.3, 10.13, 11 and TensorRT-RTX alike. TensorRT reports an error for
some of them; for the worst it does not: an unsigned zero point is read as signed, every value above
half of the range is clipped, and 48 dB become 13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_files import constants_of, copy_model

if TYPE_CHECKING:
    import onnx

_ALWAYS_REDUCE = {"GlobalAveragePool", "GlobalMaxPool", "MatMul", "Gemm"}
_REDUCE_BY_AXES = {"ReduceMean", "ReduceSum", "ReduceMax"}
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_CHANNEL_AXIS = 1
_FRAME_AXES = 4


def list_whole_frame_convs(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions that only feed, or are only fed by, a frame's means.

    Two kinds: those that see nothing but global context vectors (channel attention, stream fusion,
    the second half of the exposure branch), and those from which every path to the output goes
    through a pool (the first half of it, the mask of MIRNet-v2's context).
    """
    axes = _reduction_axes(model)
    both = _spatial_tensors(model, axes) & _pixelwise_tensors(model, axes)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in _CONVOLUTIONS and node.output[0] not in both
    ]


def _reduces_frame(node: onnx.NodeProto, axes: dict[str, tuple[int, ...]]) -> bool:
    if node.op_type in _ALWAYS_REDUCE:
        return True
    return node.op_type in _REDUCE_BY_AXES and axes.get(node.output[0]) != (_CHANNEL_AXIS,)


def _spatial_tensors(model: onnx.ModelProto, axes: dict[str, tuple[int, ...]]) -> set[str]:
    """Return the tensors that have a value per position: those a pool has not been through."""
    found = {value.name for value in model.graph.input if _holds_frames(value)}
    for node in model.graph.node:  # topological order: inputs come first
        if not _reduces_frame(node, axes) and found.intersection(node.input):
            found.update(node.output)
    return found


def _pixelwise_tensors(model: onnx.ModelProto, axes: dict[str, tuple[int, ...]]) -> set[str]:
    """Return the tensors from which some path reaches the output without a pool."""
    found = {value.name for value in model.graph.output if _holds_frames(value)}
    for node in reversed(model.graph.node):
        if not _reduces_frame(node, axes) and found.intersection(node.output):
            found.update(node.input)
    return found


def _holds_frames(value: onnx.ValueInfoProto) -> bool:
    """Say whether a value holds frames, not the context vectors of an anchored graph."""
    return len(value.type.tensor_type.shape.dim) == _FRAME_AXES


def _reduction_axes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the axes of each reduction, by the name of its output."""
    constants = constants_of(model)
    return {
        node.output[0]: tuple(int(axis) for axis in constants[node.input[1]].reshape(-1))
        for node in model.graph.node
        if node.op_type in _REDUCE_BY_AXES and len(node.input) > 1 and node.input[1] in constants
    }


_UINT8 = 2  # TensorProto.UINT8


def read_shapes_after_cast(model: onnx.ModelProto) -> None:
    """Make Shape nodes of uint8 inputs read the Cast of the same input, in place.

    The graph computes what it did, bit for bit. An input that nothing casts stays as it is.
    """
    graph = model.graph
    frames = {one.name for one in graph.input if one.type.tensor_type.elem_type == _UINT8}
    casts: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in frames:
            casts.setdefault(node.input[0], node)
    shapes = [node for node in graph.node if node.op_type == "Shape" and node.input[0] in casts]
    if not shapes:
        return
    moved = {node.input[0] for node in shapes}
    first = [node for name, node in casts.items() if name in moved]
    for node in shapes:
        node.input[0] = casts[node.input[0]].output[0]
    # they read the graph's inputs alone, and what reads them comes later in every order
    rest = [node for node in graph.node if not any(node is one for one in first)]
    nodes = [type(node).FromString(node.SerializeToString()) for node in (*first, *rest)]
    del graph.node[:]
    graph.node.extend(nodes)


QDQ_OPERATORS = {"QuantizeLinear", "DequantizeLinear"}
CONVOLUTIONS = {"Conv", "ConvTranspose"}
_STANDARD_DOMAINS = {"", "ai.onnx"}
_FP16_SCALE_OPSET = 19


@dataclass(frozen=True)
class GraphView:
    """A graph with its constants and producers by name, for rules and repairs."""

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
        name: The graph's name in messages.

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
    if node.op_type not in QDQ_OPERATORS:
        return None
    if len(node.input) < 3 or not node.input[2]:
        return "expected an int8 zero point of 0, found none: ONNX then means uint8, TensorRT int8"
    zero_point = view.constants.get(node.input[2])
    if zero_point is None:
        return "expected a constant zero point, found a computed one"
    if zero_point.dtype == np.uint8:
        return "expected int8, found uint8: TensorRT reads it as int8 and clips at half range"
    if zero_point.dtype.name == "float8_e4m3fn":  # which has no zero point but 0
        return None
    if zero_point.dtype != np.int8:
        kind = " (a quantized bias)" if zero_point.dtype == np.int32 else ""
        return f"expected int8, found {zero_point.dtype}{kind}; biases stay in float"
    if zero_point.any():
        return f"expected the zero point 0, found {int(zero_point.reshape(-1)[0])}: not symmetric"
    return None


def _scale_is_constant_and_positive(view: GraphView, node: onnx.NodeProto) -> str | None:
    if node.op_type not in QDQ_OPERATORS:
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
    if node.op_type not in QDQ_OPERATORS:
        return None
    scale = view.constants.get(node.input[1])
    if scale is None or scale.size == 1 or _holds_weights(view, node.input[0]):
        return None
    return f"expected one scale for the whole activation, found {scale.size}"


def _holds_weights(view: GraphView, tensor: str) -> bool:
    if tensor in view.constants:
        return True
    node = view.producers.get(tensor)
    return (
        node is not None and node.op_type in QDQ_OPERATORS and _holds_weights(view, node.input[0])
    )


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


_UNSIGNED = np.dtype(np.uint8)
# an unsigned range [0, 255] s becomes the positive half of a signed one, [-127, 127] s'
_SIGNED_SCALE = 255.0 / 127.0


def legalize_for_tensorrt(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a Q/DQ graph, repaired where its meaning allows it.

    Unsigned symmetric activations become signed ones of the same range (at one bit less);
    missing zero points are written out; frame sizes are read after the cast; clips that clip
    nothing are removed; transposed, whole-frame and half-quantized convolutions return to float;
    unused quantizers are dropped. `check_for_tensorrt` refuses the rest.
    """
    repaired = copy_model(model)
    read_shapes_after_cast(repaired)
    _drop_idle_clips(repaired)
    _write_zero_points(repaired)
    _make_signed(repaired)
    _return_to_float(repaired)
    drop_unused(repaired)
    return repaired


def _drop_idle_clips(model: onnx.ModelProto) -> None:
    """Remove the Clip to all of int8 that torch writes between Q and DQ of a weight."""
    constants = constants_of(model)
    quantizers = {
        node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"
    }
    full = np.iinfo(np.int8)
    idle: dict[str, str] = {}
    for node in model.graph.node:
        ends = [constants.get(name) for name in node.input[1:3]]
        if node.op_type != "Clip" or node.input[0] not in quantizers:
            continue
        if [None if end is None else int(end) for end in ends] == [full.min, full.max]:
            idle[node.output[0]] = node.input[0]
    nodes = [node for node in model.graph.node if node.output[0] not in idle]
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = idle.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _write_zero_points(model: onnx.ModelProto) -> None:
    """Write out the zero points that are left to their default: 0 in the type of what is stored."""
    from onnx import numpy_helper

    constants = constants_of(model)
    stored = {name: value.dtype for name, value in constants.items()}
    for number, node in enumerate(model.graph.node):
        if node.op_type not in QDQ_OPERATORS:
            continue
        if len(node.input) < 3 or not node.input[2]:
            name = f"zero_point_{number}"
            kind = _UNSIGNED if node.op_type == "QuantizeLinear" else stored.get(node.input[0])
            shape = np.shape(constants.get(node.input[1], 0))
            constants[name] = np.zeros(shape, kind or _UNSIGNED)
            model.graph.initializer.append(numpy_helper.from_array(constants[name], name))
            del node.input[2:]
            node.input.append(name)
        if node.op_type == "QuantizeLinear" and node.input[2] in constants:
            stored[node.output[0]] = constants[node.input[2]].dtype


def _make_signed(model: onnx.ModelProto) -> None:
    from onnx import numpy_helper

    constants = constants_of(model)
    for node in model.graph.node:
        if node.op_type not in QDQ_OPERATORS or node.input[1] not in constants:
            continue
        zero_point = constants.get(node.input[2])
        if zero_point is None or zero_point.dtype != np.uint8 or zero_point.any():
            continue
        if node.input[0] in constants and node.op_type == "DequantizeLinear":
            continue  # stored as uint8: the values would have to change, too
        scale = constants[node.input[1]]
        if f"{node.input[1]}.signed" not in constants:
            made = (
                (f"{node.input[1]}.signed", (scale * _SIGNED_SCALE).astype(scale.dtype)),
                (f"{node.input[1]}.zero", np.zeros(zero_point.shape, np.int8)),
            )
            for name, value in made:
                constants[name] = value
                model.graph.initializer.append(numpy_helper.from_array(value, name))
        node.input[2] = f"{node.input[1]}.zero"
        node.input[1] = f"{node.input[1]}.signed"
        for attribute in [one for one in node.attribute if one.name == "output_dtype"]:
            node.attribute.remove(attribute)
    stale = [one for one in model.graph.value_info if one.type.tensor_type.elem_type == _UINT8]
    for one in stale:
        model.graph.value_info.remove(one)


def _return_to_float(model: onnx.ModelProto) -> None:
    view = GraphView.of(model)
    whole_frame = set(list_whole_frame_convs(model))
    for node in model.graph.node:
        if node.op_type not in CONVOLUTIONS:
            continue
        dequantized = [view.is_dequantized(tensor) for tensor in node.input[:2]]
        if (
            node.op_type == "ConvTranspose"
            or node.name in whole_frame
            or dequantized[0] != dequantized[1]
        ):
            for place in range(len(node.input)):
                node.input[place] = _float_source(model, view, node.input[place])


def _float_source(model: onnx.ModelProto, view: GraphView, tensor: str) -> str:
    """Return the float tensor that a Q/DQ pair stands on; a weight kept as int8 is made float."""
    from onnx import numpy_helper

    node = view.producers.get(tensor)
    if node is None or node.op_type != "DequantizeLinear":
        return tensor
    quantizer = view.producers.get(node.input[0])
    if quantizer is not None and quantizer.op_type == "QuantizeLinear":
        return str(quantizer.input[0])
    if node.input[0] not in view.constants or node.input[1] not in view.constants:
        return tensor
    name = f"{tensor}.float"
    if all(one.name != name for one in model.graph.initializer):
        value = _dequantize(node, view)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def _dequantize(node: onnx.NodeProto, view: GraphView) -> np.ndarray:
    stored, scale = view.constants[node.input[0]], view.constants[node.input[1]]
    zero = view.constants[node.input[2]].astype(np.int64) if len(node.input) > 2 else np.int64(0)
    if scale.size > 1:
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        shape = [1] * stored.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), np.asarray(zero).reshape(shape)
    value: np.ndarray = ((stored.astype(np.int64) - zero) * scale).astype(scale.dtype)
    return value


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove unused quantizers and initializers."""
    wanted = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if node.op_type in QDQ_OPERATORS and not wanted.intersection(node.output):
            continue
        wanted.update(node.input)
        kept.append(node)
    nodes = list(reversed(kept))
    initializers = [one for one in model.graph.initializer if one.name in wanted]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(initializers)
