"""The blocks of a network, told from its graph: what is quantized, or left in float, as one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.compression.whole_frame import whole_frame_convs
from mirnet_edge.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx

# `network.` is the deployed wrapper's; then lists and their places, then the block's own name.
_BLOCK = re.compile(r"(?:network\.)?((?:\w+\.\d+\.)*\w+)\.(?:.*\.)?(?:weight|filt)")


@dataclass(frozen=True)
class Block:
    """Some convolutions of a graph."""

    name: str
    """As the module tree has it: stem, blocks.0.top, head."""
    convolutions: tuple[str, ...]
    """The names of its nodes: those that see pixels, or, where it has none, all."""
    decides_frame: bool
    """Whether all of them decide about the whole frame, and so stay in float in every bundle."""


def blocks_of(fp32: onnx.ModelProto) -> tuple[Block, ...]:
    """Return a graph's blocks, in the order of the graph.

    A module that serves in many places is one block: its weights are stored once.

    Args:
        fp32: As `export_onnx` writes it, its weights named by the module tree.

    Raises:
        GraphError: A convolution's weight has another name.
    """
    whole_frame = set(whole_frame_convs(fp32))
    found: dict[str, list[str]] = {}
    for node in fp32.graph.node:
        if node.op_type == "Conv":
            found.setdefault(_block_name(node), []).append(node.name)
    blocks = []
    for name, nodes in found.items():
        pixelwise = tuple(node for node in nodes if node not in whole_frame)
        blocks.append(Block(name, pixelwise or tuple(nodes), not pixelwise))
    return tuple(blocks)


def quantizable(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """Return the blocks that a bundle may hold in INT8."""
    return tuple(block for block in blocks if not block.decides_frame)


def convolutions_of(blocks: Iterable[Block]) -> frozenset[str]:
    """Return the names of the nodes of all these blocks."""
    return frozenset(node for block in blocks for node in block.convolutions)


def _block_name(node: onnx.NodeProto) -> str:
    found = _BLOCK.fullmatch(node.input[1])
    if not found:
        raise GraphError(
            f"node {node.name!r} has the weight {node.input[1]!r}; expected one named by the "
            "module tree, as blocks.0.top.body.0.weight. Give a graph that mirnet-export wrote"
        )
    return found[1]
