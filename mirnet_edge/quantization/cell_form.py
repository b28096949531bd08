"""Rewrite an INT8 graph of the light form so that it works on 8-bit cells: faster on CPUs.

At full resolution a convolution costs little and moving floats costs much: in the graph as it is
exported, half of the time goes to tensors of the frame's size. In the rewritten graph the corrected
exposure is rounded to 8 bits and rearranged once, from pixels to cells of stem x stem pixels. The
stem is then a 1x1 convolution; gate, residual and sum stay cells, all in 8 bits between the
operations; the restored frame is rearranged last, in 8 bits too. The rounding error is 0.3 levels
(docs/decisions/026-light-form.md).

    exposure ─ clip ─► 8 bits ─► cells ─┬► stem ─► blocks ─► gate, residual
                                        └► x gate + residual ─► clip ─► 8 bits ─► pixels

A cell's values are in the order column, color, row. In that order a transpose of two dimensions
makes cells from s rows of each color, and another one the restored frame from cells:

    (3 colors, s rows) x width    ─►   width x (3 colors, s rows)  =  cells
    (width, 3 colors) x s rows    ─►   s rows x (width, 3 colors)  =  s rows of a frame

For OpenVINO both are written as a transpose by (0, 3, 1, 2), for which it has a kernel: a pixel
shuffle takes 2.5 times as long, and other orders of four dimensions 6 times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx

from mirnet_edge.onnx_files import constants_of, copy_model
from mirnet_edge.quantization.byte_streams import FinestStream, float_kernel
from mirnet_edge.quantization.graph_editor import GraphEditor, attribute_of, set_attribute
from mirnet_edge.quantization.ranges import collect_magnitudes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_LEVELS = 255
_STEP = 1.0 / _LEVELS
_LARGEST_RESIDUAL = 127
_COLORS = 3
_LAST_FIRST = (0, 3, 1, 2)
_LAST_AGAIN = (0, 2, 3, 1)


class MeasureMagnitudes(Protocol):
    """As `ranges.collect_magnitudes`."""

    def __call__(  # noqa: D102  # above
        self, fp32: Path, samples: Sequence[np.ndarray], tensors: Sequence[str]
    ) -> Mapping[str, float]: ...


def to_cell_form(
    int8: onnx.ModelProto,
    fp32: Path,
    samples: Sequence[np.ndarray],
    measure: MeasureMagnitudes = collect_magnitudes,
) -> onnx.ModelProto | None:
    """Return a copy of an INT8 graph that works on 8-bit cells; None where it is of another form.

    Args:
        int8: What `quantize_for_cpu` made of `fp32`, or a part of it (mixed precision).
        fp32: The graph's file, in which the range of the residual is measured.
        samples: Its inputs: uint8 (1, H, W, 3).
        measure: Returns the largest magnitudes of tensors; who rewrites many graphs keeps them.

    Raises:
        CalibrationError: There are no samples.
    """
    model = copy_model(int8)
    found = _LightGraph.find(model)
    if found is None:
        return None
    editor = _CellEditor(model, "cell")
    stream = FinestStream.find(editor, found.stem)
    residual = found.residual.input[0]
    stored = [residual] if stream is None else [residual, stream.refined]
    largest = measure(fp32, samples, stored)
    if found.thumbnail is not None:
        editor.pool_rows_first(found.thumbnail)
    cells = editor.store_cells(found)
    editor.work_on_cells(found, cells, max(largest[residual] / _LARGEST_RESIDUAL, _STEP))
    if stream is not None:
        before = onnx.load(fp32)
        kernel, bias = float_kernel(before, found.stem)
        stem = (_as_pointwise(kernel), bias)
        stream.to_8_bits(editor, cells, stem, before, largest[stream.refined])
    editor.finish()
    return model


@dataclass(frozen=True)
class _LightGraph:
    """The nodes of a light graph that work at full resolution."""

    clip: onnx.NodeProto
    """Of the corrected exposure."""
    low: float
    high: float
    stem: onnx.NodeProto
    gate: onnx.NodeProto
    """The pixel shuffle of the gate; so for the residual."""
    opening: onnx.NodeProto
    """The clip of the gate."""
    residual: onnx.NodeProto
    rounded: onnx.NodeProto
    cast: onnx.NodeProto
    """To the restored frames, after a transpose."""
    side: int
    """Of a cell, in pixels."""
    thumbnail: onnx.NodeProto | None
    """The `Abs` after the average pool of the frames; None without an exposure branch."""

    @classmethod
    def find(cls, model: onnx.ModelProto) -> _LightGraph | None:
        """Return the nodes of a graph; None where one of them is not as in the light form."""
        makers = {name: node for node in model.graph.node for name in node.output}
        values = constants_of(model)

        def maker(node: onnx.NodeProto | None, place: int, kind: str) -> onnx.NodeProto | None:
            made = None if node is None else makers.get(node.input[place])
            return made if made is not None and made.op_type == kind else None

        cast = makers.get(model.graph.output[0].name)
        if cast is None or cast.op_type != "Cast":
            return None
        rounded = maker(maker(cast, 0, "Transpose"), 0, "Round")
        total = maker(maker(maker(rounded, 0, "Mul"), 0, "Clip"), 0, "Add")
        product, residual = maker(total, 0, "Mul"), maker(total, 1, "DepthToSpace")
        clip, opening = maker(product, 0, "Clip"), maker(product, 1, "Clip")
        gate = maker(opening, 0, "DepthToSpace")
        if rounded is None or clip is None or opening is None or gate is None or residual is None:
            return None
        side = attribute_of(residual, "blocksize")
        stems = [
            node
            for node in model.graph.node
            if node.op_type == "Conv" and list(attribute_of(node, "strides") or ()) == [side, side]
            and _source(makers, node.input[0]) == clip.output[0]
        ]  # fmt: skip
        bounds = [values.get(name) for name in clip.input[1:3]]
        if len(stems) != 1 or attribute_of(stems[0], "kernel_shape") != [side, side]:
            return None
        if len(bounds) != 2 or bounds[0] is None or bounds[1] is None:
            return None
        frames = model.graph.input[0].name
        thumbnails = [
            node
            for node in model.graph.node
            if node.op_type == "Abs" and (pool := maker(node, 0, "AveragePool")) is not None
            and _pixels(makers, pool.input[0]) == frames
        ]  # fmt: skip
        return cls(
            clip, float(bounds[0]), float(bounds[1]), stems[0], gate, opening, residual, rounded,
            cast, side, thumbnails[0] if len(thumbnails) == 1 else None,
        )  # fmt: skip


def _pixels(makers: dict[str, onnx.NodeProto], name: str) -> str:
    """Return the tensor before cast, scale and transpose."""
    while name in makers and makers[name].op_type in ("Cast", "Mul", "Transpose"):
        name = makers[name].input[0]
    return name


def _source(makers: dict[str, onnx.NodeProto], name: str) -> str:
    """Return the tensor before a quantizer and a dequantizer."""
    for _ in range(2):
        made = makers.get(name)
        if made is not None and made.op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = made.input[0]
    return name


class _CellEditor(GraphEditor):
    """Rewrites a light graph's nodes at full resolution."""

    def pool_rows_first(self, thumbnail: onnx.NodeProto) -> None:
        """Average the thumbnail's squares over rows first, then, a few numbers, over columns.

        Rows are averaged with all columns and colors as channels: OpenVINO's pool works on many
        channels at once, and has three otherwise, for which it copies the frame too.
        """
        makers = self.makers
        pool = makers[thumbnail.input[0]]
        factor = attribute_of(pool, "kernel_shape")[0]
        frames = self.model.graph.input[0].name
        self.reshape(frames, "thumbnail.rows", 0, 0, 1, -1)
        self.node("Cast", ["thumbnail.rows"], "thumbnail.floats", to=onnx.TensorProto.FLOAT)
        self.constant("thumbnail.level", np.float32(_STEP))
        self.node("Mul", ["thumbnail.floats", "thumbnail.level"], "thumbnail.scaled")
        self.node("Transpose", ["thumbnail.scaled"], "thumbnail.channels", perm=_LAST_FIRST)
        pool.input[0] = "thumbnail.channels"
        for name in ("kernel_shape", "strides"):
            set_attribute(pool, name, [factor, 1])
        readers = self.readers(thumbnail.output[0])
        self.node("Transpose", [thumbnail.output[0]], "thumbnail.means", perm=_LAST_AGAIN)
        self.reshape("thumbnail.means", "thumbnail.squares", 0, 0, -1, factor, _COLORS)
        axis = self.constant("thumbnail.axis", np.array([3], np.int64))
        self.node("ReduceMean", ["thumbnail.squares", axis], "thumbnail.colors", keepdims=0)
        self.node("Transpose", ["thumbnail.colors"], "thumbnail", perm=_LAST_FIRST)
        for reader in readers:
            reader.input[:] = [
                "thumbnail" if name == thumbnail.output[0] else name for name in reader.input
            ]

    def store_cells(self, found: _LightGraph) -> str:
        """Round the exposure to 8 bits, rearrange it to cells; return their name.

        Rounded and cast by nodes of their own: OpenVINO merges a `QuantizeLinear` with what
        dequantizes it and writes floats for the second reader. Dequantized before the last
        transpose, which moves nothing: else OpenVINO casts before it, and the convolution takes
        floats.
        """
        side = found.side
        step = (found.high - found.low) / _LEVELS
        zero = round(-found.low / step)
        self.constant("cells.steps", np.float32(1.0 / step))
        self.constant("cells.zero", np.float32(zero))
        self.constant("cells.step", np.float32(step))
        self.node("Mul", [found.clip.output[0], "cells.steps"], "cells.scaled")
        self.node("Add", ["cells.scaled", "cells.zero"], "cells.levels")
        self.node("Round", ["cells.levels"], "cells.rounded")
        self.node("Cast", ["cells.rounded"], "cells.pixels", to=onnx.TensorProto.UINT8)
        planes = [f"cells.color_{color}" for color in range(_COLORS)]
        ones = self.constant("cells.ones", np.ones(_COLORS, np.int64))
        self.nodes_of("Split", ["cells.pixels", ones], planes, axis=1)
        rows = [self.reshape(plane, f"{plane}.rows", 0, -1, side, 0) for plane in planes]
        self.node("Concat", rows, "cells.rows", axis=2)
        self.node("Shape", ["cells.rows"], "cells.counts", start=0, end=2)
        self.reshape("cells.rows", "cells.flat", -1, _COLORS * side, 1, 0)
        self.node("Transpose", ["cells.flat"], "cells.columns", perm=_LAST_FIRST)
        inner = self.constant("cells.inner", np.array([-1, _COLORS * side**2], np.int64))
        self.node("Concat", ["cells.counts", inner], "cells.shape", axis=0)
        self.node("Reshape", ["cells.columns", "cells.shape"], "cells")
        # no DequantizeLinear, which takes integers alone: see onnx_wire.float_form
        self.node("Cast", ["cells"], "cells.read", to=onnx.TensorProto.FLOAT)
        self.node("Sub", ["cells.read", "cells.zero"], "cells.centered")
        self.node("Mul", ["cells.centered", "cells.step"], "cells.exposed")
        return self.node("Transpose", ["cells.exposed"], "cells.frame", perm=_LAST_FIRST)

    def work_on_cells(self, found: _LightGraph, cells: str, step: float) -> None:
        """Make stem, gate, residual and sum work on cells; rearrange the restored frame last."""
        side = found.side
        makers = self.makers
        # a pixel shuffle's values are by color, row and column
        order = np.arange(_COLORS * side**2).reshape(_COLORS, side, side).transpose(2, 0, 1).ravel()
        stem = found.stem
        self._change_weights(stem, _as_pointwise)
        for name, value in (("kernel_shape", [1, 1]), ("strides", [1, 1])):
            set_attribute(stem, name, value)
        stem.input[0] = cells
        gate, residual = makers[found.gate.input[0]], makers[found.residual.input[0]]
        self._change_outputs(gate, order % side**2)
        self._change_outputs(residual, order)
        opened = self.in_8_bits(gate.output[0], np.float32(_STEP), np.uint8(0))
        added = self.in_8_bits(residual.output[0], np.float32(step), np.int8(0))
        found.opening.input[0] = opened
        (product,) = self.readers(found.opening.output[0])
        (total,) = self.readers(product.output[0])
        product.input[:] = [cells, found.opening.output[0]]
        total.input[:] = [product.output[0], added]
        restored = found.cast.output[0]
        (transpose,) = self.readers(found.rounded.output[0])
        self.node("Cast", [found.rounded.output[0]], "cells.restored", to=onnx.TensorProto.UINT8)
        self.node("Transpose", ["cells.restored"], "cells.last", perm=_LAST_AGAIN)
        self.reshape("cells.last", "cells.widths", 0, 0, -1, side)
        self.reshape("cells.widths", "cells.spread", -1, 1, 0, side)
        self.node("Transpose", ["cells.spread"], "cells.lines", perm=_LAST_FIRST)
        self.node("Shape", [self.model.graph.input[0].name], "cells.frames")
        self.node("Reshape", ["cells.lines", "cells.frames"], restored)
        self.remove(found.gate, found.residual, transpose, found.cast)

    def _change_outputs(self, conv: onnx.NodeProto, order: NDArray[np.int64]) -> None:
        """Give a convolution the output channels ORDER of its own."""
        self._change_weights(conv, lambda kernel: kernel[order], lambda each: each[order])

    def _change_weights(
        self,
        conv: onnx.NodeProto,
        kernel: Callable[[NDArray[Any]], NDArray[Any]],
        each: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: values,
    ) -> None:
        """Change a convolution's kernel, and what there is one of for each output channel."""
        makers = self.makers
        dequantizer = makers.get(conv.input[1])
        names = [conv.input[1]] if dequantizer is None else list(dequantizer.input)
        quantizer = makers.get(names[0])
        if quantizer is not None:  # ONNX Runtime's quantizer leaves weights in float
            names[0] = quantizer.input[0]
        changes = [kernel, *(each for _ in names[1:])]
        if len(conv.input) > 2:
            names.append(conv.input[2])
            changes.append(each)
        for name, change in zip(names, changes, strict=True):
            values = self.value(name)
            if values.ndim:
                self.replace_constant(name, change(values))


def _as_pointwise(kernel: NDArray[Any]) -> NDArray[Any]:
    """Return a kernel over one cell's pixels as one over its values: (out, 3 side², 1, 1)."""
    pointwise: NDArray[Any] = kernel.transpose(0, 3, 1, 2).reshape(len(kernel), -1, 1, 1)
    return pointwise
