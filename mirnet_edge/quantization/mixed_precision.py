"""Mixed precision: which convolutions of a graph are quantized, and graphs with fewer of them.

Ranges are estimated on the fp32 graph, so those of one convolution do not depend on whether another
is quantized. A graph with fewer quantized convolutions is therefore made from the one with all of
them, in milliseconds, and equals that of the quantizer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_files import copy_model
from mirnet_edge.quantization.legalizer import QDQ_OPERATORS, list_whole_frame_convs

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx

# `network.` is a deployed wrapper's; then lists and their places, then the block's own name.
_BLOCK = re.compile(r"(?:network\.)*((?:\w+\.\d+\.)*\w+)\.(?:.*\.)?(?:weight|filt)")
_MODULE = re.compile(r"(?:network\.)*(.+)\.(?:weight|filt)")


@dataclass(frozen=True)
class GraphBlock:
    """The convolutions of a graph that belong to one module: the unit of mixed precision."""

    name: str
    """In the module tree: stem, blocks.0.top, head."""
    convolutions: tuple[str, ...]
    """The names of its nodes: those over pixels, or, where it has none, all."""
    decides_frame: bool
    """Whether all of them compute global context, and so stay in float in every bundle."""


def list_blocks(fp32: onnx.ModelProto) -> tuple[GraphBlock, ...]:
    """Return a graph's blocks, in the order of the graph.

    A module that is used in many places is one block: its weights are stored once.

    Args:
        fp32: As `export_onnx` writes it, its weights named by the module tree.

    Raises:
        GraphError: A convolution's weight has another name.
    """
    whole_frame = set(list_whole_frame_convs(fp32))
    found: dict[str, list[str]] = {}
    for node in fp32.graph.node:
        if node.op_type == "Conv":
            found.setdefault(_block_name(node), []).append(node.name)
    blocks = []
    for name, nodes in found.items():
        pixelwise = tuple(node for node in nodes if node not in whole_frame)
        blocks.append(GraphBlock(name, pixelwise or tuple(nodes), not pixelwise))
    return tuple(blocks)


def module_of(node: onnx.NodeProto) -> str | None:
    """Return the module that a convolution of an fp32 graph computes, as blocks.0.top.body.0."""
    found = _MODULE.fullmatch(node.input[1])
    return found[1] if found else None


def _block_name(node: onnx.NodeProto) -> str:
    found = _BLOCK.fullmatch(node.input[1])
    if not found:
        raise GraphError(
            f"node {node.name!r} has the weight {node.input[1]!r}; expected one named by the "
            "module tree, as blocks.0.top.body.0.weight. Give a graph that mirnet-export wrote"
        )
    return found[1]


def quantize_partly(
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
    partial = copy_model(int8)
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


def list_quantized_convolutions(model: onnx.ModelProto) -> tuple[str, ...]:
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
        if node.op_type in QDQ_OPERATORS:
            continue
        for place, name in enumerate(node.input):
            if name in kept_inputs or not _is_dequantized(name, producers):
                continue
            quantizer = producers.get(producers[name].input[0])
            if quantizer is not None and quantizer.input[0] not in weights:
                node.input[place] = quantizer.input[0]


def _complete(partial: onnx.ModelProto, fp32: onnx.ModelProto) -> None:
    """Drop unused quantizers and constants, and bring back float constants that are used."""
    wanted = {value.name for value in partial.graph.output}
    nodes = []
    for node in reversed(partial.graph.node):
        if node.op_type in QDQ_OPERATORS and not wanted.intersection(node.output):
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
