"""Change an ONNX graph in place: add nodes and constants, remove nodes, put all in order again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray


class GraphEditor:
    """Changes a graph in place; `finish` makes it valid again."""

    def __init__(self, model: onnx.ModelProto, prefix: str) -> None:
        """Edit MODEL; the names of new nodes begin with PREFIX."""
        self.model = model
        self._prefix = prefix
        self._added: list[onnx.NodeProto] = []
        self._removed: set[str] = set()

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes that were not removed."""
        return [
            node
            for node in (*self.model.graph.node, *self._added)
            if node.name not in self._removed
        ]

    @property
    def makers(self) -> dict[str, onnx.NodeProto]:
        """Return the nodes by what they give."""
        return {name: node for node in self.nodes for name in node.output}

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a tensor."""
        return [node for node in self.nodes if name in node.input]

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:  # noqa: ANN401  # of any type
        """Add a node and return the name of its output."""
        self.nodes_of(kind, inputs, [output], **attributes)
        return output

    def nodes_of(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:  # noqa: ANN401  # of any type
        """Add a node of several outputs."""
        name = f"{self._prefix}_{outputs[0]}"
        self._added.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))

    def constant(self, name: str, value: np.generic | NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def value(self, name: str) -> NDArray[Any]:
        """Return a constant."""
        one = next(one for one in self.model.graph.initializer if one.name == name)
        return numpy_helper.to_array(one)

    def replace_constant(self, name: str, value: NDArray[Any]) -> None:
        """Give a constant another value."""
        one = next(one for one in self.model.graph.initializer if one.name == name)
        one.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))

    def reshape(self, name: str, output: str, *sides: int) -> str:
        """Add a reshape; 0 keeps a side, -1 takes what is left."""
        shape = self.constant(f"{output}.shape", np.array(sides, np.int64))
        return self.node("Reshape", [name, shape], output)

    def in_8_bits(self, name: str, step: np.float32, zero: np.generic) -> str:
        """Store a tensor in 8 bits and return the name of what is read again."""
        step_name = self.constant(f"{name}.step", step)
        zero_name = self.constant(f"{name}.zero", zero)
        self.node("QuantizeLinear", [name, step_name, zero_name], f"{name}.in_8_bits")
        inputs = [f"{name}.in_8_bits", step_name, zero_name]
        return self.node("DequantizeLinear", inputs, f"{name}.read")

    def remove(self, *nodes: onnx.NodeProto) -> None:
        """Remove nodes; what they give may be given by an added one."""
        self._removed.update(node.name for node in nodes)

    def finish(self) -> None:
        """Put the nodes in an order in which each follows its inputs; drop what nothing reads."""
        graph = self.model.graph
        nodes = self.nodes
        known = {one.name for one in (*graph.initializer, *graph.input)} | {""}
        ordered: list[onnx.NodeProto] = []
        while nodes:
            ready = [node for node in nodes if known.issuperset(node.input)]
            ordered += ready
            known.update(name for node in ready for name in node.output)
            nodes = [node for node in nodes if not known.issuperset(node.output)]
        wanted = {one.name for one in graph.output}
        kept: list[onnx.NodeProto] = []
        for node in reversed(ordered):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(type(node).FromString(node.SerializeToString()))
        constants = [
            type(one).FromString(one.SerializeToString())
            for one in graph.initializer
            if one.name in wanted
        ]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(constants)


def attribute_of(node: onnx.NodeProto, name: str) -> Any:  # noqa: ANN401  # of any type
    """Return an attribute of a node; None where it has none of that name."""
    for one in node.attribute:
        if one.name == name:
            return helper.get_attribute_value(one)
    return None


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    """Give a node an attribute, in place of one of that name."""
    kept = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
