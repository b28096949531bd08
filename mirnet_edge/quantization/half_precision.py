"""Convert a graph to half precision (fp16): strongly typed, with explicit casts.

The nodes between the first and the last convolution are converted. Outside, an image is scaled,
rounded and added to, and half precision has coarser steps near 1 than 8 bits need; inside, sums
over a frame stay in float32, where half precision overflows or drops small terms.

A pass of our own, because the known converters leave existing casts as they are, stop at Resize, or
do not terminate on these graphs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_files import constants_of, copy_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

# TensorProto's numbers, so that reading this module needs no onnx
_FLOAT, _HALF = 1, 10
_FLOATS = (_FLOAT, _HALF)
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
# A NaN in one of these blackens the whole image.
_KEPT_FLOAT = {
    "GlobalAveragePool", "Gemm", "MatMul", "ReduceMean", "ReduceSum", "ReduceMax", "Softmax",
    "Round",
}  # fmt: skip
# Inputs whose type the standard fixes at float32, whatever the data are.
_FIXED_FLOAT = {"Resize": (1, 2)}
_LARGEST_HALF = 65504.0


def to_half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that computes in float16; inputs and outputs keep their types.

    Args:
        model: A float32 graph, quantized or not, in topological order. Q/DQ between
            convolutions gets float16 scales, which need opset 19.

    Raises:
        GraphError: The graph has no convolution, or a scale is too small for half precision.
    """
    halved = copy_model(model)
    inside = _between_convolutions(halved)
    if not inside:
        raise GraphError(f"no convolution in {model.graph.name!r}; expected a network's graph")
    _HalfPrecisionPass(halved, inside).run()
    return halved


def _between_convolutions(model: onnx.ModelProto) -> set[int]:
    """Return the places of the nodes that a convolution feeds and that feed one, inclusive."""
    nodes = model.graph.node
    fed: set[int] = set()
    reached: set[str] = set()
    for place, node in enumerate(nodes):
        if node.op_type in _CONVOLUTIONS or reached.intersection(node.input):
            fed.add(place)
            reached.update(node.output)
    feeding: set[int] = set()
    needed: set[str] = set()
    for place in reversed(range(len(nodes))):
        node = nodes[place]
        if node.op_type in _CONVOLUTIONS or needed.intersection(node.output):
            feeding.add(place)
            needed.update(node.input)
    # what feeds convolutions without being fed by one: quantizers of weights and of the image
    quantizers = {place for place in feeding - fed if nodes[place].op_type in _QUANTIZERS}
    return (fed & feeding) | quantizers


@dataclass
class _HalfPrecisionPass:
    """One walk through the nodes, in which every float tensor gets its type."""

    model: onnx.ModelProto
    inside: set[int]
    types: dict[str, int] = field(default_factory=dict)
    """Element types of the tensors met so far, by name; only the two floats matter."""
    made: dict[tuple[str, int], str] = field(default_factory=dict)
    """Names of the copies of a tensor in the other type."""
    new_initializers: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inferred: dict[str, int] = field(default_factory=dict)
    """Element types before the walk, by name."""
    scales: set[str] = field(default_factory=set)

    def run(self) -> None:
        from onnx import numpy_helper

        graph = self.model.graph
        self.constants = constants_of(self.model)
        self.inferred = _element_types(self.model)
        self.types = {value.name: self.inferred[value.name] for value in graph.input}
        self.types.update({name: _type_of(value) for name, value in self.constants.items()})
        self.scales = {node.input[1] for node in graph.node if node.op_type in _QUANTIZERS}
        nodes: list[onnx.NodeProto] = []
        for place, node in enumerate(graph.node):
            half = place in self.inside and self._can_be_half(node)
            nodes += self._retyped(node, _HALF if half else _FLOAT)
        del graph.node[:]
        graph.node.extend(nodes)
        self._give_outputs_as_before()
        del graph.value_info[:]  # it holds the former types
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.new_initializers.items()
        )
        _drop_unread(self.model)

    def _can_be_half(self, node: onnx.NodeProto) -> bool:
        if node.op_type in _KEPT_FLOAT:
            return False
        values = (self.constants[name] for name in node.input if name in self.constants)
        return all(
            np.abs(value).max(initial=0.0) <= _LARGEST_HALF
            for value in values
            if value.dtype == np.float32
        )

    def _retyped(self, node: onnx.NodeProto, wanted: int) -> Iterator[onnx.NodeProto]:
        """Yield the casts a node needs, and the node."""
        fixed = _FIXED_FLOAT.get(node.op_type, ())
        takes_float = False
        for place, name in enumerate(node.input):
            kind = self.types.get(name)
            if kind not in _FLOATS or node.op_type == "Cast":
                continue
            takes_float = True
            target = _FLOAT if place in fixed else wanted
            if kind != target:
                yield from self._converted(name, target)
                node.input[place] = self.made[name, target]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = wanted
                takes_float = True
        for name in node.output:
            kind = self.inferred.get(name, wanted)
            self.types[name] = wanted if kind in _FLOATS and takes_float else kind
        yield node

    def _converted(self, name: str, target: int) -> Iterator[onnx.NodeProto]:
        from onnx import helper

        if (name, target) in self.made:
            return
        copy = f"{name}.{'half' if target == _HALF else 'float'}"
        self.made[name, target] = copy
        self.types[copy] = target
        if name in self.constants:
            self.new_initializers[copy] = self._as_half(name)
        else:
            yield helper.make_node("Cast", [name], [copy], name=f"{copy}.cast", to=target)

    def _as_half(self, name: str) -> np.ndarray:
        value = self.constants[name]
        halved: np.ndarray = value.astype(np.float16)
        if name in self.scales and not halved.all():
            raise GraphError(
                f"the scale {name!r} is {float(value.min()):.3g}, too small for half precision; "
                "leave its convolution in float"
            )
        return halved

    def _give_outputs_as_before(self) -> None:
        from onnx import helper

        graph = self.model.graph
        for output in graph.output:
            if output.type.tensor_type.elem_type != _FLOAT or self.types[output.name] != _HALF:
                continue
            inner = f"{output.name}.inner"
            for node in graph.node:
                for names in (node.input, node.output):
                    for place in [at for at, name in enumerate(names) if name == output.name]:
                        names[place] = inner
            graph.node.append(
                helper.make_node("Cast", [inner], [output.name], name=f"{inner}.cast", to=_FLOAT)
            )


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _type_of(value: np.ndarray) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(value.dtype))


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove float constants of which only the half-precision copies are used."""
    read = {name for node in model.graph.node for name in node.input}
    kept = [one for one in model.graph.initializer if one.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
