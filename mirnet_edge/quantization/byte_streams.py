"""Keep the finest stream of a light graph in 8 bits between its convolutions: less memory is moved.

In the INT8 graph of `cell_form` convolutions take 8 bits and give floats, which are added, enlarged
and averaged at a quarter of the frame's resolution: 48 channels of them are 11 MB for 1280x720. As
no activation stands between the stem and what reads it, its convolution can be merged with others:

    before   stem ─┬► average pool ─► down            after   cells ─► down of the stem
                   └► + enlarged(up) ─► stream                cells, enlarged ─► stream

The sum of the stem and the enlarged coarse stream becomes one convolution of both, which gives 8
bits; the strided one is the stem, the pool and the convolution after it. The stream is read in 8
bits where it is added again, and so is what is added to it. What this rounds is far below what INT8
rounds anyway (docs/decisions/026-light-form.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mirnet_edge.quantization.graph_editor import attribute_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mirnet_edge.quantization.graph_editor import GraphEditor

Kernel: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64]]"
"""Of a convolution: weights, (outputs, inputs, height, width), and bias."""

# seven of eight bits, as in all graphs for processors: see ptq.quantize_for_cpu
_LARGEST_WEIGHT = 63
_LARGEST_VALUE = 127
# street lamps and daylight give larger values than the calibration images
_MARGIN = 1.5
_SMALLEST = 1e-6


@dataclass(frozen=True)
class FinestStream:
    """The nodes of a light graph's first block at the resolution of its cells."""

    stem: onnx.NodeProto
    pool: onnx.NodeProto
    down: onnx.NodeProto
    """The convolution after the pool."""
    up: onnx.NodeProto
    """The convolution of the coarse stream."""
    enlarged: onnx.NodeProto
    """The resize of what `up` gives."""
    stream: onnx.NodeProto
    """The sum of both."""
    read: str
    """The sum in 8 bits, as the next convolution reads it."""
    attended: onnx.NodeProto
    """The sum of the stream and what is added to it."""
    refined: str
    """What is weighted by attention and added."""

    @classmethod
    def find(cls, editor: GraphEditor, stem: onnx.NodeProto) -> FinestStream | None:
        """Return the nodes after a stem; None where one is another or not quantized."""
        makers = editor.makers
        pool = _one(editor, stem, "AveragePool")
        stream = _one(editor, stem, "Add")
        if pool is None or stream is None or len(editor.readers(stem.output[0])) != 2:
            return None
        down = _one(editor, _dequantized(editor, pool), "Conv")
        enlarged = next((makers.get(name) for name in stream.input if name != stem.output[0]), None)
        if enlarged is None or enlarged.op_type != "Resize":
            return None
        up = makers.get(enlarged.input[0])
        read, attended = _dequantized(editor, stream), _one(editor, stream, "Add")
        if read is None or attended is None or attended.input[0] != stream.output[0]:
            return None
        product = makers.get(attended.input[1])
        refined = None if product is None else makers.get(product.input[0])
        if refined is None or refined.op_type != "Conv" or down is None or up is None:
            return None
        dequantized = (up.input[0], *(conv.input[1] for conv in (stem, down, up)))
        kinds = {makers[name].op_type if name in makers else "" for name in dequantized}
        if up.op_type != "Conv" or kinds != {"DequantizeLinear"}:
            return None
        return cls(
            stem, pool, down, up, enlarged, stream, read.output[0], attended, refined.output[0]
        )

    def to_8_bits(
        self, editor: GraphEditor, cells: str, stem: Kernel, fp32: onnx.ModelProto, largest: float
    ) -> None:
        """Rewrite the nodes.

        Args:
            editor: Of the graph in its cell form.
            cells: The cells, dequantized by a cast, `cells.zero` and `cells.step`.
            stem: Its weights over a cell's values, (channels, values, 1, 1), and its bias.
            fp32: The graph in float, with the same names of nodes.
            largest: The largest magnitude of `refined`.
        """
        self._merge_down(editor, cells, stem, float_kernel(fp32, self.down))
        self._merge_up(editor, cells, stem, float_kernel(fp32, self.up))
        self.attended.input[0] = self.read
        readers = editor.readers(self.refined)
        step = np.float32(max(largest, _SMALLEST) * _MARGIN / _LARGEST_VALUE)
        stored = editor.in_8_bits(self.refined, step, np.int8(0))
        for reader in readers:
            reader.input[:] = [stored if name == self.refined else name for name in reader.input]

    def _merge_down(self, editor: GraphEditor, cells: str, stem: Kernel, down: Kernel) -> None:
        """Make stem, average pool and the convolution after it one strided convolution."""
        side = attribute_of(self.pool, "kernel_shape")[0]
        merged = down[0][:, :, 0, 0] @ stem[0][:, :, 0, 0] / side**2
        kernel = np.tile(merged[:, :, None, None], (side, side))
        bias = down[1] + down[0][:, :, 0, 0] @ stem[1]
        editor.remove(self.down)
        rounded = _round_weights(kernel, _colors_of_cells(kernel.shape[1]))
        _add_convolution(editor, cells, self.down.output[0], rounded, bias, side)

    def _merge_up(self, editor: GraphEditor, cells: str, stem: Kernel, up: Kernel) -> None:
        """Make the stem and the convolution of the coarse stream one, after the resize.

        The coarse stream is stored with a step and a zero of its own and read with those of the
        cells, as if it were cells: OpenVINO then concatenates bytes. The weights and the bias make
        up for it.
        """
        quantizer = editor.makers[self.up.input[0]]
        own_step = float(editor.value(quantizer.input[1]))
        zero = editor.value(quantizer.input[2])
        own_zero = int(zero) + (128 if zero.dtype == np.int8 else 0)
        cell_step, cell_zero = (float(editor.value(f"cells.{name}")) for name in ("step", "zero"))
        attributes = {one.name: helper.get_attribute_value(one) for one in self.enlarged.attribute}
        inputs = [self.up.input[0], *self.enlarged.input[1:]]
        editor.node("Resize", inputs, "coarse.enlarged", **attributes)
        editor.constant("coarse.zero", np.uint8(own_zero))
        editor.node(
            "QuantizeLinear", ["coarse.enlarged", quantizer.input[1], "coarse.zero"], "coarse.bytes"
        )
        editor.node("Cast", ["coarse.bytes"], "coarse.read", to=onnx.TensorProto.FLOAT)
        editor.node("Sub", ["coarse.read", "cells.zero"], "coarse.centered")
        editor.node("Mul", ["coarse.centered", "cells.step"], "coarse.frame")
        both = editor.node("Concat", [cells, "coarse.frame"], "coarse.both", axis=1)
        values = stem[0].shape[1]
        kernel = np.concatenate([stem[0], up[0] * (own_step / cell_step)], 1)
        colors = [*_colors_of_cells(values), *(None,) * up[0].shape[1]]
        rounded = _round_weights(kernel, colors)
        read = rounded.values()[:, values:].sum((1, 2, 3))
        bias = stem[1] + up[1] + read * ((cell_zero - own_zero) * cell_step)
        editor.remove(self.stream)
        _add_convolution(editor, both, self.stream.output[0], rounded, bias, 1)


def float_kernel(fp32: onnx.ModelProto, conv: onnx.NodeProto) -> Kernel:
    """Return the weights and the bias of a convolution before they were rounded."""
    constants = {one.name: one for one in fp32.graph.initializer}
    before = next(node for node in fp32.graph.node if node.name == conv.name)
    weights, *bias = (
        numpy_helper.to_array(constants[name]).astype(np.float64) for name in before.input[1:]
    )
    return weights, bias[0] if bias else np.zeros(len(weights))


def _one(editor: GraphEditor, node: onnx.NodeProto | None, kind: str) -> onnx.NodeProto | None:
    """Return the only reader of that type; None where there is not one."""
    found = [] if node is None else editor.readers(node.output[0])
    found = [one for one in found if one.op_type == kind]
    return found[0] if len(found) == 1 else None


def _dequantized(editor: GraphEditor, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return what dequantizes what a node gives, for other nodes to read."""
    return _one(editor, _one(editor, node, "QuantizeLinear"), "DequantizeLinear")


@dataclass(frozen=True)
class _RoundedWeights:
    """Weights of a convolution in seven bits."""

    levels: NDArray[np.int8]
    """(outputs, inputs, height, width)."""
    steps: NDArray[np.float32]
    """(outputs,)."""

    def values(self) -> NDArray[np.float64]:
        """Return the dequantized weights, levels times steps."""
        return self.levels.astype(np.float64) * self.steps[:, None, None, None].astype(np.float64)


def _colors_of_cells(values: int) -> list[int]:
    """Return the color of each of a cell's values, in the order column, color, row."""
    side = round((values / 3) ** 0.5)
    return [place // side % 3 for place in range(values)]


def _round_weights(kernel: NDArray[np.float64], colors: Sequence[int | None]) -> _RoundedWeights:
    """Return weights rounded for each output channel, whose sums over a color's values are kept.

    Where the frame is flat, all values of a color are equal, and the errors of their weights add
    up: rounded each by itself, a cell's pixels came out with a grid of 1.5 levels
    (docs/decisions/002-int8-recipes.md).

    Args:
        kernel: (outputs, inputs, height, width).
        colors: Of each input, the color whose value it is; None for another feature.
    """
    steps = np.abs(kernel).reshape(len(kernel), -1).max(1) / _LARGEST_WEIGHT
    steps = np.maximum(steps, _SMALLEST).astype(np.float32)
    scaled = kernel / steps[:, None, None, None]
    levels = np.round(scaled)
    for color in set(colors) - {None}:
        inputs = [place for place, one in enumerate(colors) if one == color]
        own = scaled[:, inputs].reshape(len(kernel), -1)
        lower = np.floor(own)
        # as many are rounded up as the sum asks for: those of the largest remainders
        count = np.round(own.sum(1)) - lower.sum(1)
        rank = np.argsort(np.argsort(lower - own, axis=1, kind="stable"), axis=1)
        kept = lower + (rank < count[:, None])
        levels[:, inputs] = kept.reshape(len(kernel), len(inputs), *kernel.shape[2:])
    return _RoundedWeights(levels.astype(np.int8), steps)


def _add_convolution(
    editor: GraphEditor,
    inputs: str,
    output: str,
    rounded: _RoundedWeights,
    bias: NDArray[np.float64],
    stride: int,
) -> None:
    """Add a convolution of rounded weights."""
    parts: dict[str, NDArray[Any]] = {
        "weight": rounded.levels,
        "steps": rounded.steps,
        "zeros": np.zeros(len(rounded.steps), np.int8),
    }
    names = [editor.constant(f"{output}.{name}", value) for name, value in parts.items()]
    weight = editor.node("DequantizeLinear", names, f"{output}.dequantized", axis=0)
    added = editor.constant(f"{output}.bias", bias.astype(np.float32))
    sides = list(rounded.levels.shape[2:])
    editor.node("Conv", [inputs, weight, added], output, kernel_shape=sides, strides=[stride] * 2)
