"""Which convolutions of a graph decide about the whole frame rather than about its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.onnx_files import constants_of

if TYPE_CHECKING:
    import onnx

_ALWAYS_REDUCE = {"GlobalAveragePool", "GlobalMaxPool", "MatMul", "Gemm"}
_REDUCE_BY_AXES = {"ReduceMean", "ReduceSum", "ReduceMax"}
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_CHANNEL_AXIS = 1
_FRAME_AXES = 4


def whole_frame_convs(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions that only feed, or are only fed by, a frame's means.

    Two kinds: those that see nothing but pooled vectors (channel attention, stream fusion, the
    second half of the exposure branch), and those from which every path to the output goes
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
    """Tell frames from the vectors that an anchored graph takes and gives beside them."""
    return len(value.type.tensor_type.shape.dim) == _FRAME_AXES


def _reduction_axes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the axes of each reduction, by the name of its output."""
    constants = constants_of(model)
    return {
        node.output[0]: tuple(int(axis) for axis in constants[node.input[1]].reshape(-1))
        for node in model.graph.node
        if node.op_type in _REDUCE_BY_AXES and len(node.input) > 1 and node.input[1] in constants
    }
