"""Repairs that bring what quantizers emit to what TensorRT accepts (`tensorrt_rules`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.compression.frame_shapes import read_shapes_after_cast
from mirnet_edge.compression.tensorrt_rules import CONVOLUTIONS, QUANTIZERS, GraphView
from mirnet_edge.compression.whole_frame import whole_frame_convs
from mirnet_edge.onnx_files import constants_of, copied

if TYPE_CHECKING:
    import onnx

_UINT8 = 2  # TensorProto.UINT8
_UNSIGNED = np.dtype(np.uint8)
# an unsigned range [0, 255] s becomes the positive half of a signed one, [-127, 127] s'
_SIGNED_SCALE = 255.0 / 127.0


def legalize_for_tensorrt(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which what can be repaired without loss of meaning is repaired.

    Unsigned symmetric activations become signed ones of the same range (at one bit less);
    missing zero points are written out; the size of a frame is asked of its floats; clips that
    clip nothing go; transposed convolutions, whole-frame convolutions and half-quantized ones go
    back to float; quantizers that nothing needs any more are dropped.
    What remains wrong is for `tensorrt_rules` to refuse.
    """
    repaired = copied(model)
    read_shapes_after_cast(repaired)
    _drop_idle_clips(repaired)
    _write_zero_points(repaired)
    _make_signed(repaired)
    _return_to_float(repaired)
    _drop_unused(repaired)
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
        if node.op_type not in QUANTIZERS:
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
        if node.op_type not in QUANTIZERS or node.input[1] not in constants:
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
    whole_frame = set(whole_frame_convs(model))
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
        value = _dequantized(node, view)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def _dequantized(node: onnx.NodeProto, view: GraphView) -> np.ndarray:
    stored, scale = view.constants[node.input[0]], view.constants[node.input[1]]
    zero = view.constants[node.input[2]].astype(np.int64) if len(node.input) > 2 else np.int64(0)
    if scale.size > 1:
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        shape = [1] * stored.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), np.asarray(zero).reshape(shape)
    value: np.ndarray = ((stored.astype(np.int64) - zero) * scale).astype(scale.dtype)
    return value


def _drop_unused(model: onnx.ModelProto) -> None:
    """Remove quantizers and initializers whose output nobody reads."""
    wanted = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if node.op_type in QUANTIZERS and not wanted.intersection(node.output):
            continue
        wanted.update(node.input)
        kept.append(node)
    nodes = list(reversed(kept))
    initializers = [one for one in model.graph.initializer if one.name in wanted]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(initializers)
