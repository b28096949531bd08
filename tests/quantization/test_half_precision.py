"""Half precision stands where it should, float32 where it must, and the numbers stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_files import constants_of
from mirnet_edge.quantization import half_precision
from mirnet_edge.quantization.half_precision import to_half_precision

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_SHAPE = [1, 4, 8, 8]


def _random(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def _conv(source, target, name):
    return helper.make_node("Conv", [source, "w"], [target], name=name, pads=[1, 1, 1, 1])


def _model(nodes, constants=None, *, kind=_FLOAT, outputs=("y",), name="net"):
    values = {"w": _random(4, 4, 3, 3), "axes": np.array([2, 3]), **(constants or {})}
    read = {one for node in nodes for one in node.input}
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", kind, _SHAPE)],
        [helper.make_tensor_value_info(one, _FLOAT, ["n", "c", "h", "w"]) for one in outputs],
        [numpy_helper.from_array(value, key) for key, value in values.items() if key in read],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _between(*inner, constants=None):
    """Return a graph with nodes between two convolutions: from c to d."""
    nodes = [_conv("x", "c", "first"), *inner, _conv("d", "y", "last")]
    return _model(nodes, constants)


def _types(model):
    """Return every tensor's element type."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True).graph
    found = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return found | {one.name: one.data_type for one in graph.initializer}


def _node(model, name):
    return next(node for node in model.graph.node if node.name == name)


def _halved(model):
    before = model.SerializeToString(deterministic=True)
    halved = to_half_precision(model)
    assert model.SerializeToString(deterministic=True) == before, "the given model was modified"
    onnx.checker.check_model(halved, full_check=True)
    return halved


# --- what is half -----------------------------------------------------------------------------


def _camera_graph():
    """Return what an export looks like, in small: uint8, scaled, network, scaled, uint8."""
    nodes = [
        helper.make_node("Cast", ["x"], ["levels"], name="in", to=_FLOAT),
        helper.make_node("Mul", ["levels", "scale"], ["unit"], name="scale"),
        _conv("unit", "c", "first"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("ReduceMean", ["r", "axes"], ["mean"], name="mean", keepdims=1),
        _conv("mean", "attention", "attend"),
        helper.make_node("Sigmoid", ["attention"], ["s"], name="sigmoid"),
        helper.make_node("Mul", ["r", "s"], ["m"], name="weigh"),
        helper.make_node("Resize", ["m", "", "twice"], ["d"], name="resize", mode="linear"),
        _conv("d", "e", "last"),
        helper.make_node("Clip", ["e", "zero", "one"], ["clipped"], name="clip"),
        helper.make_node("Mul", ["clipped", "full"], ["scaled"], name="unscale"),
        helper.make_node("Round", ["scaled"], ["rounded"], name="round"),
        helper.make_node("Cast", ["rounded"], ["y"], name="out", to=TensorProto.UINT8),
    ]
    constants = {
        "scale": np.float32(1 / 255), "full": np.float32(255), "zero": np.float32(0),
        "one": np.float32(1), "twice": np.array([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "camera",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, _SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["n", "c", "h", "w"])],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in {
                **constants, "axes": np.array([2, 3]), "w": _random(4, 4, 3, 3),
            }.items()
        ],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_half_lies_between_the_convolutions_and_nowhere_else():
    halved = _halved(_camera_graph())
    types = _types(halved)
    half = {
        node.name
        for node in halved.graph.node
        if node.op_type != "Cast" and all(types[name] == _HALF for name in node.output)
    }
    assert half == {"first", "relu", "attend", "sigmoid", "weigh", "resize", "last"}
    for name in ("scale", "mean", "clip", "unscale", "round"):
        assert {types[one] for one in _node(halved, name).input if one} <= {
            _FLOAT,
            TensorProto.INT64,
        }, name


def test_what_goes_in_and_out_keeps_its_type():
    model = _camera_graph()
    halved = _halved(model)
    assert halved.graph.input == model.graph.input
    assert halved.graph.output == model.graph.output


def test_types_that_were_written_down_before_are_not_kept():
    halved = _halved(onnx.shape_inference.infer_shapes(_camera_graph()))
    assert not halved.graph.value_info


def test_weights_are_stored_once_and_in_half():
    halved = _halved(_camera_graph())
    stored = {one.name: one.data_type for one in halved.graph.initializer}
    assert stored.pop("axes") == TensorProto.INT64
    assert {name for name, kind in stored.items() if kind == _HALF} == {"w.half"}
    assert set(stored) == {"w.half", "scale", "full", "zero", "one", "twice"}
    np.testing.assert_array_equal(
        constants_of(halved)["w.half"], _random(4, 4, 3, 3).astype(np.float16)
    )


def test_the_scales_of_a_resize_stay_float():
    halved = _halved(_camera_graph())
    resize = _node(halved, "resize")
    assert _types(halved)[resize.input[2]] == _FLOAT
    assert _types(halved)[resize.input[0]] == _HALF


def test_a_tensor_is_cast_once_for_all_its_readers():
    inner = [
        helper.make_node("ReduceMean", ["c", "axes"], ["p"], name="mean", keepdims=1),
        helper.make_node("ReduceMax", ["c", "axes"], ["q"], name="max", keepdims=1),
        helper.make_node("Add", ["p", "q"], ["d"], name="add"),
    ]
    halved = _halved(_between(*inner))
    casts = [node for node in halved.graph.node if node.op_type == "Cast"]
    # x, c for both reductions, p, q, and y
    assert sorted(node.input[0] for node in casts) == ["c", "p", "q", "x", "y.inner"]


@dataclass(frozen=True)
class Kept:
    id: str
    """The operator that stays float32."""
    nodes: tuple


def _one(kind, inputs=("c",), **attributes):
    return helper.make_node(kind, list(inputs), ["k"], name="kept", **attributes)


_SPREAD = helper.make_node("Add", ["c", "k"], ["d"], name="spread")
_KEPT = [
    Kept("GlobalAveragePool", (_one("GlobalAveragePool"), _SPREAD)),
    Kept("ReduceMean", (_one("ReduceMean", ("c", "axes")), _SPREAD)),
    Kept("ReduceSum", (_one("ReduceSum", ("c", "axes")), _SPREAD)),
    Kept("ReduceMax", (_one("ReduceMax", ("c", "axes")), _SPREAD)),
    Kept("Softmax", (_one("Softmax", axis=1), _SPREAD)),
    Kept("Round", (_one("Round"), _SPREAD)),
    Kept("MatMul", (_one("MatMul", ("c", "square")), _SPREAD)),
    Kept(
        "Gemm",
        (
            helper.make_node("Reshape", ["c", "flat"], ["f"], name="flatten"),
            _one("Gemm", ("f", "square")),
            helper.make_node("Reshape", ["k", "deep"], ["d"], name="deepen"),
        ),
    ),
]


def _kept(case):
    constants = {
        "square": _random(8, 8), "flat": np.array([32, 8]), "deep": np.array(_SHAPE),
    }  # fmt: skip
    return _between(*case.nodes, constants=constants)


@pytest.mark.parametrize("case", _KEPT, ids=lambda case: case.id)
def test_what_sums_over_a_frame_stays_float(case, run_graph, decibels):
    model = _kept(case)
    halved = _halved(model)
    types, node = _types(halved), _node(halved, "kept")
    assert types[node.output[0]] == _FLOAT
    assert all(types[name] in (_FLOAT, TensorProto.INT64) for name in node.input)
    assert types[_node(halved, "last").input[0]] == _HALF
    x = _random(*_SHAPE, seed=1)
    if case.id != "Round":  # a half may be rounded to the other side
        assert decibels(run_graph(halved, x), run_graph(model, x), 1.0) > 55


def test_every_operator_that_stays_float_is_tried():
    assert {case.id for case in _KEPT} == half_precision._KEPT_FLOAT


def test_a_sum_that_half_cannot_hold_is_right(run_graph):
    """64 values of 2048 are 131072; half precision ends at 65504."""
    nodes = [
        _conv("x", "c", "first"),
        helper.make_node("Add", ["c", "offset"], ["o"], name="offset"),
        helper.make_node("ReduceSum", ["o", "axes"], ["k"], name="sum", keepdims=1),
        _conv("k", "y", "last"),
    ]
    model = _model(nodes, {"offset": np.array(2048, np.float32)}, outputs=("k", "y"))
    found = run_graph(_halved(model), np.zeros(_SHAPE, np.float32))
    np.testing.assert_array_equal(found, np.full((1, 4, 1, 1), 131072, np.float32))


# --- constants and casts ----------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(-(2.0**20), 2.0**20, width=32))
def test_a_constant_that_half_cannot_hold_keeps_its_node_float(value):
    add = helper.make_node("Add", ["c", "big"], ["d"], name="add")
    halved = _halved(_between(add, constants={"big": np.array(value, np.float32)}))
    expected = _FLOAT if abs(value) > 65504 else _HALF
    types = _types(halved)
    assert {types[name] for name in _node(halved, "add").input} == {expected}
    assert all(np.isfinite(one).all() for one in constants_of(halved).values())


def test_a_constant_is_kept_in_both_types_where_both_are_read():
    inner = [
        helper.make_node("Add", ["c", "k"], ["a"], name="add"),
        helper.make_node("MatMul", ["a", "k"], ["d"], name="product"),
    ]
    halved = _halved(_between(*inner, constants={"k": _random(8, 8)}))
    stored = {one.name: one.data_type for one in halved.graph.initializer}
    assert stored["k"] == _FLOAT
    assert stored["k.half"] == _HALF


def test_a_constant_node_is_read_in_half():
    value = numpy_helper.from_array(np.array(0.25, np.float32))
    inner = [
        helper.make_node("Constant", [], ["k"], name="constant", value=value),
        helper.make_node("Mul", ["c", "k"], ["d"], name="scale"),
    ]
    halved = _halved(_between(*inner))
    assert {_types(halved)[name] for name in _node(halved, "scale").input} == {_HALF}


@dataclass(frozen=True)
class Casting:
    id: str
    nodes: tuple
    cast: str
    kind: int
    """What the cast gives afterwards."""


def _cast(source, target, to, name):
    return helper.make_node("Cast", [source], [target], name=name, to=to)


@pytest.mark.parametrize(
    "case",
    [
        Casting("to float, inside", (_cast("c", "d", _FLOAT, "cast"),), "cast", _HALF),
        Casting(
            "to a whole number, inside",
            (
                _cast("c", "i", TensorProto.INT32, "cast"),
                _cast("i", "d", _FLOAT, "back"),
            ),
            "cast",
            TensorProto.INT32,
        ),
        Casting(
            "from a whole number, inside",
            (
                _cast("c", "i", TensorProto.INT32, "there"),
                _cast("i", "d", _FLOAT, "cast"),
            ),
            "cast",
            _HALF,
        ),
    ],
    ids=lambda case: case.id,
)
def test_casts_that_are_there_already_follow(case, run_graph):
    model = _between(*case.nodes)
    halved = _halved(model)
    assert _types(halved)[_node(halved, case.cast).output[0]] == case.kind
    x = _random(*_SHAPE, seed=1)
    np.testing.assert_allclose(run_graph(halved, x), run_graph(model, x), atol=2e-2)


def test_an_output_that_is_also_read_inside_stays_float(run_graph):
    nodes = [_conv("x", "y", "first"), _conv("y", "z", "last")]
    model = _model(nodes, outputs=("z", "y"))
    halved = _halved(model)
    assert halved.graph.output == model.graph.output
    x = _random(*_SHAPE, seed=1)
    np.testing.assert_allclose(run_graph(halved, x), run_graph(model, x), atol=1e-2)


def test_a_graph_without_a_convolution_is_refused_by_name():
    model = _model([helper.make_node("Relu", ["x"], ["y"], name="relu")], name="filter")
    with pytest.raises(GraphError, match="no convolution in 'filter'"):
        to_half_precision(model)


# --- quantized graphs -------------------------------------------------------------------------


def _quantized(scale=1 / 127, weight_scale=0.5 / 127):
    def pair(tensor, step):
        return [
            helper.make_node(
                f"{kind}Linear", [source, step, "zero"], [f"{tensor}.{end}"],
                name=f"{tensor}.{kind.lower()}",
            )
            for kind, source, end in (("Quantize", tensor, "q"), ("Dequantize", f"{tensor}.q", "d"))
        ]  # fmt: skip

    nodes = [
        *pair("x", "scale"), *pair("w", "w.scale"),
        helper.make_node("Conv", ["x.d", "w.d"], ["c"], name="first", pads=[1, 1, 1, 1]),
        *pair("c", "scale"),
        helper.make_node("Conv", ["c.d", "w.d"], ["y"], name="last", pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    constants = {"scale": np.array(scale, np.float32), "zero": np.array(0, np.int8)}
    return _model(nodes, constants | {"w.scale": np.array(weight_scale, np.float32)})


def test_quantizers_get_half_scales_and_keep_their_integers(run_graph, decibels):
    model = _quantized()
    halved = _halved(model)
    types = _types(halved)
    for node in halved.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            floats = node.input[:2] if node.op_type == "QuantizeLinear" else node.input[1:2]
            assert {types[name] for name in floats} == {_HALF}, node.name
            assert types[node.input[2]] == TensorProto.INT8
    assert {types[name] for name in _node(halved, "last").input} == {_HALF}
    x = _random(*_SHAPE, seed=1)
    # a value on the edge of a step may fall to its other side: a step here and there
    assert decibels(run_graph(halved, x), run_graph(model, x), 1.0) > 40


@settings(max_examples=60, deadline=None)
@given(st.floats(-10.0, 0.0))
def test_a_scale_becomes_half_or_is_refused_but_never_zero(exponent):
    model = _quantized(scale=10.0**exponent)
    smallest = 2.0**-25  # half of the smallest that half precision has; ties go to zero
    if np.float32(10.0**exponent) > smallest:
        assert (constants_of(to_half_precision(model))["scale.half"] > 0).all()
    else:
        with pytest.raises(GraphError, match=r"the scale 'scale' is .* too small .* in float"):
            to_half_precision(model)


def test_a_scale_of_one_channel_that_is_too_small_is_refused():
    model = _quantized()
    for one in [one for one in model.graph.initializer if one.name == "w.scale"]:
        one.CopyFrom(numpy_helper.from_array(np.array([1, 1e-9, 1, 1], np.float32), "w.scale"))
    with pytest.raises(GraphError, match=r"the scale 'w\.scale' is 1e-09"):
        to_half_precision(model)


# --- whole networks ---------------------------------------------------------------------------


def _resizes_of_the_frame(model):
    """Return the names of the nodes that resize what no convolution has seen."""
    seen, found = set(), set()
    for node in model.graph.node:
        if node.op_type == "Conv" or seen.intersection(node.input):
            seen.update(node.output)
        elif node.op_type == "Resize":
            found.add(node.name)
    return found


@dataclass(frozen=True)
class Whole:
    name: str
    resizes_of_the_frame: int
    """The thumbnail of the exposure; what is added to where the image grows."""


@pytest.mark.parametrize(
    "case",
    [Whole("edge", 1), Whole("enlarging", 1), Whole("mirnet", 0), Whole("mirnet-v2", 0)],
    ids=lambda case: case.name,
)
def test_a_network_stays_within_60_db(case, graph_of, run_graph, decibels, images):
    model = onnx.load(graph_of(case.name))
    halved = _halved(model)
    types = _types(halved)
    outside = _resizes_of_the_frame(halved)
    assert len(outside) == case.resizes_of_the_frame
    for node in halved.graph.node:
        if node.op_type in half_precision._KEPT_FLOAT or node.name in outside:
            assert types[node.output[0]] == _FLOAT, node.name
        elif node.op_type in ("Conv", "ConvTranspose", "PRelu", "Resize"):
            assert types[node.output[0]] == _HALF, node.name
    assert halved.ByteSize() < 0.75 * model.ByteSize()
    (image,) = images(1)
    found, expected = run_graph(halved, image), run_graph(model, image)
    assert expected.std() > 10, "the image is too flat to see anything"
    assert decibels(found, expected, 255) > 60
