"""Which convolutions decide about the whole frame: told from the graph alone."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mirnet_edge.quantization.legalizer import list_whole_frame_convs


def _node(kind, inputs, output, name="", **attributes):
    return helper.make_node(kind, inputs.split(), [output], name=name or output, **attributes)


def _conv(source, target, name, kind="Conv"):
    return helper.make_node(kind, [source, "w"], [target], name=name)


def _model(*nodes, **constants):
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in {"w": np.zeros((4, 4, 1, 1), np.float32), **constants}.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _attention(reduction, **constants):
    """Return convolutions before, beside, inside and after an attention by this reduction."""
    return _model(
        _conv("x", "c", "before"),
        reduction,
        _conv("pooled", "a", "inside"),
        _node("Sigmoid", "a", "s"),
        _node("Mul", "c s", "m"),
        _conv("m", "y", "after"),
        **constants,
    )


@dataclass(frozen=True)
class Reduction:
    id: str
    node: onnx.NodeProto
    axes: tuple | None
    whole: bool


@pytest.mark.parametrize(
    "case",
    [
        Reduction("GlobalAveragePool", _node("GlobalAveragePool", "c", "pooled"), None, True),
        Reduction("GlobalMaxPool", _node("GlobalMaxPool", "c", "pooled"), None, True),
        Reduction("MatMul", _node("MatMul", "c c", "pooled"), None, True),
        Reduction("Gemm", _node("Gemm", "c c", "pooled"), None, True),
        *(
            Reduction(f"{kind} over {axes}", _node(kind, "c axes", "pooled"), axes, axes != (1,))
            for kind in ("ReduceMean", "ReduceSum", "ReduceMax")
            for axes in ((2, 3), (1, 2, 3), (2,), (1,))
        ),
        Reduction("ReduceMean over all", _node("ReduceMean", "c", "pooled"), None, True),
        Reduction("AveragePool", _node("AveragePool", "c", "pooled"), None, False),
        Reduction("Relu", _node("Relu", "c", "pooled"), None, False),
    ],
    ids=lambda case: case.id,
)
def test_a_reduction_over_the_frame_makes_it_a_decision_about_the_frame(case):
    constants = {} if case.axes is None else {"axes": np.array(case.axes)}
    found = list_whole_frame_convs(_attention(case.node, **constants))
    assert found == (["inside"] if case.whole else [])


def test_axes_may_stand_in_a_constant_node():
    for axes, expected in (([2, 3], ["inside"]), ([1], [])):
        constant = helper.make_node(
            "Constant", [], ["axes"], value=numpy_helper.from_array(np.array(axes))
        )
        model = _attention(_node("ReduceMean", "c axes", "pooled"))
        model.graph.node.insert(0, constant)
        assert list_whole_frame_convs(model) == expected


def test_what_only_feeds_a_mean_is_whole_frame_too():
    """The first half of the exposure branch: its every way to the output is a pool."""
    model = _model(
        _conv("x", "f", "features"),
        _node("Relu", "f", "r"),
        _conv("r", "g", "more features"),
        _node("GlobalAveragePool", "g", "p"),
        _conv("p", "d", "decide"),
        _node("Mul", "x d", "e"),
        _conv("e", "y", "pixels"),
    )
    assert list_whole_frame_convs(model) == ["features", "more features", "decide"]


def test_one_way_around_the_pool_is_enough_to_be_about_pixels():
    model = _model(
        _conv("x", "f", "features"),
        _node("GlobalAveragePool", "f", "p"),
        _conv("p", "d", "decide"),
        _node("Add", "f d", "y"),
    )
    assert list_whole_frame_convs(model) == ["decide"]


def test_one_input_from_the_pixels_is_enough_to_be_about_pixels():
    model = _model(
        _node("GlobalAveragePool", "x", "p"),
        _node("Add", "x p", "s"),
        _conv("s", "y", "after"),
    )
    assert list_whole_frame_convs(model) == []


def test_the_mask_of_a_context_is_about_the_frame():
    """MIRNet-v2: a map of weights that is used up in a product over all positions."""
    model = _model(
        _conv("x", "c", "before"),
        _conv("c", "k", "mask"),
        _node("Softmax", "k", "s"),
        _node("MatMul", "c s", "context"),
        _conv("context", "a", "add"),
        _node("Add", "c a", "m"),
        _conv("m", "y", "after"),
    )
    assert list_whole_frame_convs(model) == ["mask", "add"]


def test_transposed_convolutions_count():
    model = _model(
        _node("GlobalAveragePool", "x", "p"),
        _conv("p", "d", "up", "ConvTranspose"),
        _node("Mul", "x d", "y"),
    )
    assert list_whole_frame_convs(model) == ["up"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_plain_chain_has_none(count):
    names = ["x", *(f"t{place}" for place in range(count)), "y"]
    nodes = [_conv(*pair, pair[1]) for pair in itertools.pairwise(names)]
    assert list_whole_frame_convs(_model(*nodes)) == []


@dataclass(frozen=True)
class Network:
    id: str
    whole: str
    """The weights whose convolutions decide about the frame; all others see pixels."""


@pytest.mark.parametrize(
    "case",
    [
        Network("edge", r"\.exposure\.|\.channel\.|\.conv_du\.|\.fcs\."),
        Network("light", r"\.exposure\.|\.channel\."),
        Network("mirnet", r"\.CA\.|\.selective_kernel\..*(conv_du|fcs)"),
        Network("mirnet-v2", r"\.gcnet\.|\.skff_"),
    ],
    ids=lambda case: case.id,
)
def test_the_networks_decide_where_their_papers_say(case, graph_of):
    model = onnx.load(graph_of(case.id))
    before = model.SerializeToString(deterministic=True)
    found = set(list_whole_frame_convs(model))
    assert model.SerializeToString(deterministic=True) == before
    convs = [one for one in model.graph.node if one.op_type in ("Conv", "ConvTranspose")]
    expected = {node.name for node in convs if re.search(case.whole, node.input[1])}
    assert found == expected
    assert 0 < len(found) < len(convs)
