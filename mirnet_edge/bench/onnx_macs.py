"""Multiply-accumulates of an ONNX graph whose network we do not have."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from mirnet_edge.dependencies import available

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

logger = logging.getLogger(__name__)
_PICTURE_AXES = 4


def count_macs(path: Path, height: int, width: int) -> int | None:
    """Return the multiply-accumulates of a graph's convolutions for one frame of that size.

    What `models.macs` counts for our own networks; a transposed convolution is counted by its
    input. None where the package onnx is not installed, or shapes cannot be told from the graph:
    then the figure is not known, and not zero.

    Args:
        path: An ONNX file whose first input with four axes is the picture.
        height: Of the frame.
        width: The same.
    """
    if not available("onnx"):
        return None
    import onnx

    model = onnx.load(str(path))
    for one in model.graph.input:
        _fix(one, height, width)
    del model.graph.output[:], model.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        logger.info("%s: shapes are not known: %s", path.name, error)
        return None
    shapes = {
        one.name: [axis.dim_value for axis in one.type.tensor_type.shape.dim]
        for one in [*inferred.graph.value_info, *inferred.graph.input]
    }
    shapes |= {one.name: list(one.dims) for one in inferred.graph.initializer}
    counts: list[int | None] = [_macs_of(node, shapes) for node in inferred.graph.node]
    known = [count for count in counts if count is not None]
    total = sum(known)
    return total if len(known) == len(counts) and total > 0 else None


def _fix(value: onnx.ValueInfoProto, height: int, width: int) -> None:
    axes = value.type.tensor_type.shape.dim
    if len(axes) != _PICTURE_AXES:
        return
    channels_first = axes[1].dim_value == 3
    shape = (1, 3, height, width) if channels_first else (1, height, width, 3)
    for axis, side in zip(axes, shape, strict=True):
        axis.dim_value = side


def _macs_of(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int | None:
    """Return a node's count, 0 for what is not counted, None where its shapes are not known."""
    if node.op_type not in ("Conv", "ConvTranspose"):
        return 0
    weight = shapes.get(node.input[1])
    counted = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0])
    if not weight or not counted or not all(weight) or not all(counted):
        return None
    return math.prod(counted) * math.prod(weight[1:])
