"""Put some convolutions of an INT8 graph back into float: one calibration, many graphs.

Ranges are taken from the fp32 graph, so those of one convolution do not depend on whether another
is quantized. A graph with fewer quantized convolutions is therefore made from the one with all of
them, in milliseconds, and is the one that the quantizer would have made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_files import copied

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx

_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}


def partly_quantized(
    int8: onnx.ModelProto, fp32: onnx.ModelProto, convolutions: Collection[str]
) -> onnx.ModelProto:
    """Return a copy in which only the named convolutions are quantized.

    The others get their own weights and biases back, not the rounded ones, and read what stands
    before the quantizer; so does whatever else read through it, unless a named one still does.

    Args:
        int8: What a quantizer made of `fp32`, with the same names.
        fp32: The graph in float.
        convolutions: Names of nodes that stay as they are in `int8`.

    Raises:
        GraphError: A name is not that of a quantized convolution.
    """
    partial = copied(int8)
    producers = {name: node for node in partial.graph.node for name in node.output}
    before = {node.name: node for node in fp32.graph.node if node.op_type == "Conv"}
    own = _own_constants(partial, fp32)
    kept_inputs: set[str] = set()
    quantized = set()
    for node in partial.graph.node:
        if node.op_type != "Conv" or not _is_dequantized(node.input[1], producers):
            continue
        quantized.add(node.name)
        if node.name in convolutions:
            kept_inputs.update(node.input[:1])
            continue
        for place in range(1, len(node.input)):
            name = before[node.name].input[place]
            node.input[place] = own.get(name, name)
    unknown = sorted(set(convolutions) - quantized)
    if unknown:
        raise GraphError(
            f"{unknown[0]!r} is not quantized in this graph; expected one of "
            f"{', '.join(sorted(quantized)) or 'none'}"
        )
    _read_float(partial, producers, kept_inputs)
    _complete(partial, fp32)
    return partial


def _own_constants(partial: onnx.ModelProto, fp32: onnx.ModelProto) -> dict[str, str]:
    """Add the constants that quantizing changed under new names; return those by the old ones.

    NNCF corrects biases for what rounding shifts, and keeps their names.
    """
    changed = {one.name: one.SerializeToString() for one in partial.graph.initializer}
    own = {}
    for one in fp32.graph.initializer:
        if changed.get(one.name, one.SerializeToString()) != one.SerializeToString():
            own[one.name] = f"{one.name}.float"
            partial.graph.initializer.append(one)
            partial.graph.initializer[-1].name = own[one.name]
    return own


def quantized_convolutions(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the convolutions whose weight is dequantized."""
    producers = {name: node for node in model.graph.node for name in node.output}
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and _is_dequantized(node.input[1], producers)
    )


def _is_dequantized(tensor: str, producers: dict[str, onnx.NodeProto]) -> bool:
    node = producers.get(tensor)
    return node is not None and node.op_type == "DequantizeLinear"


def _read_float(
    model: onnx.ModelProto, producers: dict[str, onnx.NodeProto], kept_inputs: set[str]
) -> None:
    """Make readers of a dequantized activation that no quantized convolution needs read float."""
    weights = {one.name for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _QUANTIZERS:
            continue
        for place, name in enumerate(node.input):
            if name in kept_inputs or not _is_dequantized(name, producers):
                continue
            quantizer = producers.get(producers[name].input[0])
            if quantizer is not None and quantizer.input[0] not in weights:
                node.input[place] = quantizer.input[0]


def _complete(partial: onnx.ModelProto, fp32: onnx.ModelProto) -> None:
    """Drop quantizers and constants that nobody reads, and bring back float ones that are read."""
    wanted = {value.name for value in partial.graph.output}
    nodes = []
    for node in reversed(partial.graph.node):
        if node.op_type in _QUANTIZERS and not wanted.intersection(node.output):
            continue
        wanted.update(node.input)
        nodes.append(node)
    initializers = {one.name: one for one in fp32.graph.initializer}
    initializers |= {one.name: one for one in partial.graph.initializer}
    kept = [one for name, one in initializers.items() if name in wanted]
    # copies: clearing the lists below frees what they hold
    nodes = [type(node).FromString(node.SerializeToString()) for node in reversed(nodes)]
    kept = [type(one).FromString(one.SerializeToString()) for one in kept]
    del partial.graph.node[:]
    partial.graph.node.extend(nodes)
    del partial.graph.initializer[:]
    partial.graph.initializer.extend(kept)
    del partial.graph.value_info[:]  # it holds tensors that are gone
