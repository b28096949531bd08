"""A graph that asks a frame for its size asks the floats made of it, not the 8-bit input.

TensorRT does one thing with uint8, it casts it. A network that needs its frame's size, as
MIRNet-v2 does for its context over all positions, makes torch write Shape nodes that read the
graph's input. A cast keeps the shape: the same numbers stand behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_UINT8 = 2  # TensorProto.UINT8


def read_shapes_after_cast(model: onnx.ModelProto) -> None:
    """Have Shape nodes of uint8 inputs read the Cast of the same input, in place.

    The graph computes what it did, bit for bit. An input that nothing casts stays as it is.
    """
    graph = model.graph
    frames = {one.name for one in graph.input if one.type.tensor_type.elem_type == _UINT8}
    casts: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in frames:
            casts.setdefault(node.input[0], node)
    asked = [node for node in graph.node if node.op_type == "Shape" and node.input[0] in casts]
    if not asked:
        return
    moved = {node.input[0] for node in asked}
    first = [node for name, node in casts.items() if name in moved]
    for node in asked:
        node.input[0] = casts[node.input[0]].output[0]
    # they read the graph's inputs alone, and what reads them comes later in every order
    rest = [node for node in graph.node if not any(node is one for one in first)]
    nodes = [type(node).FromString(node.SerializeToString()) for node in (*first, *rest)]
    del graph.node[:]
    graph.node.extend(nodes)
