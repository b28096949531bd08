"""What TensorRT would reject or misread is named, and what can be repaired keeps its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_files import constants_of
from mirnet_edge.quantization import legalizer
from mirnet_edge.quantization.legalizer import check_for_tensorrt, legalize_for_tensorrt

if TYPE_CHECKING:
    from collections.abc import Callable

_CHANNELS = 4
_SHAPE = [1, _CHANNELS, 6, 6]
_PER_CHANNEL = np.linspace(0.004, 0.01, _CHANNELS, dtype=np.float32)
_PADS = [1, 1, 1, 1]
_FIRST_RULE = "_weights_are_inside"  # held before the others, which look at values


def _random(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def _model(nodes, constants, opset=20):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, _SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model


def _pair(tensor, scale, zero, **attributes):
    """Return a quantizer and a dequantizer around a tensor: x.quantize and x.dequantize."""
    return [
        helper.make_node(
            f"{kind}Linear", [source, scale, zero], [f"{tensor}.{end}"],
            name=f"{tensor}.{kind.lower()}", **attributes,
        )
        for kind, source, end in (("Quantize", tensor, "q"), ("Dequantize", f"{tensor}.q", "dq"))
    ]  # fmt: skip


def _legal():
    """Return two convolutions as the quantization scheme for TensorRT leaves them.

    The first weight is float with a Q/DQ pair, the second is stored as int8: both are legal.
    """
    nodes = [
        *_pair("x", "x.scale", "x.zero"),
        *_pair("w1", "w1.scale", "w1.zero", axis=0),
        helper.make_node("Conv", ["x.dq", "w1.dq", "b1"], ["c"], name="first", pads=_PADS),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        *_pair("r", "r.scale", "r.zero"),
        helper.make_node(
            "DequantizeLinear", ["w2", "w2.scale", "w2.zero"], ["w2.dq"],
            name="w2.dequantize", axis=0,
        ),
        helper.make_node("Conv", ["r.dq", "w2.dq"], ["y"], name="second", pads=_PADS),
    ]  # fmt: skip
    constants = {
        "x.scale": np.float32(1 / 127), "x.zero": np.int8(0),
        "r.scale": np.float32(4 / 127), "r.zero": np.int8(0),
        "w1": _random(_CHANNELS, _CHANNELS, 3, 3), "w1.scale": _PER_CHANNEL,
        "w1.zero": np.zeros(_CHANNELS, np.int8), "b1": _random(_CHANNELS),
        "w2": (_random(_CHANNELS, _CHANNELS, 3, 3, seed=1) * 127).astype(np.int8),
        "w2.scale": _PER_CHANNEL, "w2.zero": np.zeros(_CHANNELS, np.int8),
    }  # fmt: skip
    return _model(nodes, constants)


def _node(model, name):
    return next(node for node in model.graph.node if node.name == name)


def _place(model, name):
    return next(at for at, node in enumerate(model.graph.node) if node.name == name)


def _set(model, name, value):
    """Give a constant another value, or make a new one."""
    for one in [one for one in model.graph.initializer if one.name == name]:
        model.graph.initializer.remove(one)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _run(model, x):
    """Return y as the graph says it: without the fusions that turn Q/DQ into other arithmetic."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(["y"], {"x": x})
    return y


def _setting(**values):
    """Return a damage that sets constants; `__` in a name stands for a dot."""

    def damage(model):
        for name, value in values.items():
            _set(model, name.replace("__", "."), value)

    return damage


def _without_zero_points(model):
    for name in ("r.quantize", "r.dequantize"):
        del _node(model, name).input[2:]


def _computed(input_place):
    def damage(model):
        quantizer = _node(model, "x.quantize")
        copy = helper.make_node("Identity", [quantizer.input[input_place]], ["computed"])
        quantizer.input[input_place] = "computed"
        model.graph.node.insert(0, copy)

    return damage


def _dequantized_bias(stored):
    def damage(model):
        _set(model, "bias", np.zeros(_CHANNELS, stored))
        _set(model, "bias.scale", _PER_CHANNEL)
        _set(model, "bias.zero", np.zeros(_CHANNELS, stored))
        inputs = ["bias", "bias.scale", "bias.zero"]
        node = helper.make_node("DequantizeLinear", inputs, ["bias.dq"], name="bias", axis=0)
        model.graph.node.insert(0, node)
        _node(model, "first").input[2] = "bias.dq"

    return damage


def _per_channel_activation(model):
    _set(model, "r.scale", _PER_CHANNEL)
    _set(model, "r.zero", np.zeros(_CHANNELS, np.int8))


def _reading(name, input_place, tensor):
    def damage(model):
        _node(model, name).input[input_place] = tensor

    return damage


def _transposed(model):
    """The second convolution becomes a transposed one; its weight keeps its shape."""
    _node(model, "second").op_type = "ConvTranspose"


def _along_axis_one(model):
    _node(model, "w2.dequantize").attribute[0].i = 1


def _along_the_default_axis(model):
    del _node(model, "w2.dequantize").attribute[:]


def _foreign(model):
    _node(model, "x.quantize").domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _external(model):
    """As `onnx.load(..., load_external_data=False)` gives it: the values are elsewhere."""
    one = next(one for one in model.graph.initializer if one.name == "w1")
    onnx.external_data_helper.set_external_data(one, "weights.bin")
    one.ClearField("raw_data")


def _half_scales(opset):
    def damage(model):
        _set(model, "r.scale", np.float16(4 / 127))
        model.opset_import[0].version = opset

    return damage


def _uint8_frames(model):
    """Frames of 8 bits that go into a Transpose, and only then into a Cast."""
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    nodes = [
        helper.make_node("Transpose", ["x"], ["moved"], name="move", perm=[0, 1, 2, 3]),
        helper.make_node("Cast", ["moved"], ["levels"], name="cast", to=TensorProto.FLOAT),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    _node(model, "x.quantize").input[0] = "levels"


def _uint8_restored(model):
    _node(model, "second").output[0] = "wide"
    model.graph.node.append(
        helper.make_node("Cast", ["wide"], ["small"], name="cast", to=TensorProto.UINT8)
    )
    model.graph.node.append(
        helper.make_node("Transpose", ["small"], ["y"], name="move", perm=[0, 1, 2, 3])
    )
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8


@dataclass(frozen=True)
class Illegal:
    id: str
    rule: str
    damage: Callable
    node: str
    says: str


_ILLEGAL = [
    Illegal(
        "asymmetric zero point", "_zero_point_is_signed_zero", _setting(x__zero=np.int8(3)),
        "'x.quantize' (QuantizeLinear)", "expected the zero point 0, found 3: not symmetric",
    ),
    Illegal(
        "one asymmetric channel", "_zero_point_is_signed_zero",
        _setting(w2__zero=np.array([-5, 0, 0, 0], np.int8)),
        "'w2.dequantize' (DequantizeLinear)", "expected the zero point 0, found -5",
    ),
    Illegal(
        "uint8 zero point", "_zero_point_is_signed_zero", _setting(r__zero=np.uint8(0)),
        "'r.quantize' (QuantizeLinear)", "expected int8, found uint8: TensorRT reads it as int8",
    ),
    Illegal(
        "no zero point", "_zero_point_is_signed_zero", _without_zero_points,
        "'r.quantize' (QuantizeLinear)", "expected an int8 zero point of 0, found none",
    ),
    Illegal(
        "empty zero point", "_zero_point_is_signed_zero", _reading("r.quantize", 2, ""),
        "'r.quantize' (QuantizeLinear)", "expected an int8 zero point of 0, found none",
    ),
    Illegal(
        "computed zero point", "_zero_point_is_signed_zero", _computed(2),
        "'x.quantize' (QuantizeLinear)", "expected a constant zero point, found a computed one",
    ),
    Illegal(
        "int32 bias", "_zero_point_is_signed_zero", _dequantized_bias(np.int32),
        "'bias' (DequantizeLinear)", "expected int8, found int32 (a quantized bias)",
    ),
    Illegal(
        "int8 bias", "_bias_is_float", _dequantized_bias(np.int8),
        "'first' (Conv)", "expected a float bias, found a quantized one",
    ),
    Illegal(
        "scale 0", "_scale_is_constant_and_positive", _setting(r__scale=np.float32(0)),
        "'r.quantize' (QuantizeLinear)", "expected scales above 0, found 0",
    ),
    Illegal(
        "negative scale", "_scale_is_constant_and_positive",
        _setting(w2__scale=_PER_CHANNEL - np.float32(0.005)),
        "'w2.dequantize' (DequantizeLinear)", "expected scales above 0, found -0.001",
    ),
    Illegal(
        "scale not a number", "_scale_is_constant_and_positive",
        _setting(r__scale=np.float32(np.nan)),
        "'r.quantize' (QuantizeLinear)", "expected scales above 0, found nan",
    ),
    Illegal(
        "computed scale", "_scale_is_constant_and_positive", _computed(1),
        "'x.quantize' (QuantizeLinear)", "expected a constant scale, found a computed one",
    ),
    Illegal(
        "half scales before opset 19", "_scale_is_constant_and_positive", _half_scales(18),
        "'r.quantize' (QuantizeLinear)", "float16 scales need opset 19, found 18",
    ),
    Illegal(
        "activation per channel", "_activation_is_per_tensor", _per_channel_activation,
        "'r.quantize' (QuantizeLinear)", "expected one scale for the whole activation, found 4",
    ),
    Illegal(
        "only the weight", "_convolution_is_whole", _reading("second", 0, "r"),
        "'second' (Conv)", "both quantized or neither, found only the weight",
    ),
    Illegal(
        "only the activation", "_convolution_is_whole", _reading("first", 1, "w1"),
        "'first' (Conv)", "both quantized or neither, found only the activation",
    ),
    Illegal(
        "transposed convolution", "_convolution_is_whole", _transposed,
        "'second' (ConvTranspose)", "expected a transposed convolution in float",
    ),
    Illegal(
        "weight along axis 1", "_weight_axis_is_zero", _along_axis_one,
        "'second' (Conv)", "expected the weight's scales along axis 0, found axis 1",
    ),
    Illegal(
        "weight along the default axis", "_weight_axis_is_zero", _along_the_default_axis,
        "'second' (Conv)", "expected the weight's scales along axis 0, found axis 1",
    ),
    Illegal(
        "foreign domain", "_standard_domain", _foreign,
        "'x.quantize' (QuantizeLinear)", "found the domain com.microsoft",
    ),
    Illegal(
        "external data", "_weights_are_inside", _external,
        "'w1.quantize' (QuantizeLinear)", "expected one file, found w1 in external data",
    ),
    Illegal(
        "uint8 frames not cast", "_frames_are_cast", _uint8_frames,
        "'move' (Transpose)", "expected a Cast where the graph takes or gives uint8",
    ),
    Illegal(
        "uint8 result not cast", "_frames_are_cast", _uint8_restored,
        "'move' (Transpose)", "expected a Cast where the graph takes or gives uint8",
    ),
]  # fmt: skip


def _illegal(case):
    model = _legal()
    case.damage(model)
    return model


@pytest.mark.parametrize("case", _ILLEGAL, ids=lambda case: case.id)
def test_what_breaks_a_rule_is_refused_and_named(case):
    with pytest.raises(GraphError) as caught:
        check_for_tensorrt(_illegal(case), "int8.onnx")
    message = str(caught.value)
    assert message.startswith(f"int8.onnx: node {case.node}: ")
    assert case.says in message
    assert "legalize_for_tensorrt" in message


@pytest.mark.parametrize(
    "case", [case for case in _ILLEGAL if case.rule != _FIRST_RULE], ids=lambda case: case.id
)
def test_it_is_the_rule_itself_that_refuses(case, monkeypatch):
    others = tuple(rule for rule in legalizer._RULES if rule.__name__ != case.rule)
    assert len(others) == len(legalizer._RULES) - 1
    monkeypatch.setattr(legalizer, "_RULES", others)
    complaints = [complaint for _, complaint in legalizer._complaints(_illegal(case))]
    assert not any(case.says in complaint for complaint in complaints)


def test_every_rule_has_a_graph_that_breaks_it():
    rules = {rule.__name__ for rule in legalizer._RULES}
    assert {case.rule for case in _ILLEGAL} == {*rules, _FIRST_RULE}


def test_a_node_without_a_name_is_named_by_its_output():
    model = _illegal(_ILLEGAL[0])
    _node(model, "x.quantize").name = ""
    with pytest.raises(GraphError, match=r"node 'x\.q' \(QuantizeLinear\)"):
        check_for_tensorrt(model, "int8.onnx")


def _float_model():
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=_PADS)]
    return _model(nodes, {"w": _random(_CHANNELS, _CHANNELS, 3, 3)})


@pytest.mark.parametrize("make", [_legal, _float_model], ids=["quantized", "float"])
def test_a_legal_graph_passes_and_comes_back_unchanged(make):
    model = make()
    check_for_tensorrt(model, "legal.onnx")
    assert legalize_for_tensorrt(model) == model


def test_half_scales_are_legal_from_opset_19_on():
    model = _legal()
    _half_scales(19)(model)
    check_for_tensorrt(model, "half.onnx")


@pytest.mark.parametrize(
    "case", [case for case in _ILLEGAL if case.rule != _FIRST_RULE], ids=lambda case: case.id
)
def test_the_given_model_is_not_modified(case):
    model = _illegal(case)
    before = model.SerializeToString(deterministic=True)
    legalize_for_tensorrt(model)
    assert model.SerializeToString(deterministic=True) == before


# --- repairs --------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(2**-12, 4.0, width=32), st.integers(0, 2**32 - 1))
def test_an_unsigned_activation_becomes_a_signed_one_of_the_same_range(scale, seed):
    nodes = [*_pair("x", "s", "z"), helper.make_node("Relu", ["x.dq"], ["y"], name="relu")]
    unsigned = _model(nodes, {"s": np.float32(scale), "z": np.uint8(0)})
    # from a tenth below the range to a tenth above it
    x = np.random.default_rng(seed).uniform(-25, 280, _SHAPE).astype(np.float32) * scale
    x.flat[0] = 255 * scale
    signed = legalize_for_tensorrt(unsigned)
    check_for_tensorrt(signed, "signed.onnx")
    onnx.checker.check_model(signed, full_check=True)
    step = float(constants_of(signed)[signed.graph.node[0].input[1]])
    assert step == pytest.approx(scale * 255 / 127, rel=1e-6)
    before, after = _run(unsigned, x), _run(signed, x)
    assert np.abs(after - before).max() <= step * 1.001
    assert after.flat[0] == pytest.approx(255 * scale, rel=1e-5)


@dataclass(frozen=True)
class Repaired:
    id: str
    damage: Callable
    steps: float
    """How far y may move, in steps of what the second convolution reads times its weights."""
    floats: tuple[str, ...] = ()
    """The convolutions that are float afterwards."""


def _unsigned(model):
    _set(model, "r.zero", np.uint8(0))
    _set(model, "r.scale", np.float32(4 / 255))


def _weight_without_zero_point(model):
    del _node(model, "w2.dequantize").input[2:]


def _unsigned_without_zero_point(model):
    _unsigned(model)
    _without_zero_points(model)


def _pooled_second(model):
    """The second convolution sees a mean over the frame only."""
    at = _place(model, "r.quantize")
    _set(model, "axes", np.array([2, 3]))
    pool = helper.make_node("ReduceMean", ["r", "axes"], ["p"], name="pool", keepdims=1)
    model.graph.node.insert(at, pool)
    _node(model, "r.quantize").input[0] = "p"


_REPAIRED = [
    Repaired("unsigned activation", _unsigned, steps=1),
    Repaired("no zero points", _unsigned_without_zero_point, steps=1),
    Repaired("int8 weight without zero point", _weight_without_zero_point, steps=0),
    Repaired("weight quantized alone", _reading("second", 0, "r"), 0, ("second",)),
    Repaired("activation quantized alone", _reading("second", 1, "w1"), 1, ("second",)),
    Repaired("transposed convolution", _transposed, 1, ("second",)),
    Repaired("whole-frame convolution", _pooled_second, 1, ("first", "second")),
]


@pytest.mark.parametrize("case", _REPAIRED, ids=lambda case: case.id)
def test_a_repair_is_legal_and_moves_no_value_by_more_than_a_step(case):
    illegal = _illegal(case)
    onnx.checker.check_model(illegal, full_check=True)
    repaired = legalize_for_tensorrt(illegal)
    check_for_tensorrt(repaired, "repaired.onnx")
    onnx.checker.check_model(repaired, full_check=True)
    assert legalize_for_tensorrt(repaired) == repaired
    x = _random(*_SHAPE, seed=3)
    before, after = _run(illegal, x), _run(repaired, x)
    weight = np.abs(_random(_CHANNELS, _CHANNELS, 3, 3, seed=1)).max() * 127 * _PER_CHANNEL.max()
    largest = max(float(weight), 1.0) * _CHANNELS * 9  # if every product erred the same way
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=case.steps * 4 / 127 * largest + 1e-5)
    # and what does move, moves as independent errors do: far less than the bound
    deviation = float(np.sqrt(np.mean((after - before) ** 2)))
    assert deviation <= case.steps * 4 / 127 * np.sqrt(_CHANNELS * 9) + 1e-5
    quantized = {one.output[0] for one in repaired.graph.node if one.op_type == "DequantizeLinear"}
    for name in ("first", "second"):
        dequantized = set(_node(repaired, name).input[:2]) & quantized
        assert len(dequantized) == (0 if name in case.floats else 2)


@pytest.mark.parametrize("case", _REPAIRED, ids=lambda case: case.id)
def test_what_is_no_longer_read_is_dropped(case):
    repaired = legalize_for_tensorrt(_illegal(case))
    read = {name for node in repaired.graph.node for name in node.input}
    read.update(value.name for value in repaired.graph.output)
    for node in repaired.graph.node:
        assert read.intersection(node.output), node.name
    assert {one.name for one in repaired.graph.initializer} <= read


def test_a_weight_stored_as_int8_goes_back_to_the_same_float():
    model = _legal()
    _reading("second", 0, "r")(model)
    before = constants_of(model)
    repaired = legalize_for_tensorrt(model)
    weight = constants_of(repaired)[_node(repaired, "second").input[1]]
    expected = before["w2"].astype(np.float32) * before["w2.scale"].reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(weight, expected)


def test_a_bias_goes_back_to_float_with_its_convolution():
    model = _legal()
    _dequantized_bias(np.int32)(model)
    _reading("first", 0, "x")(model)
    repaired = legalize_for_tensorrt(model)
    check_for_tensorrt(repaired, "repaired.onnx")
    assert constants_of(repaired)[_node(repaired, "first").input[2]].dtype == np.float32


@pytest.mark.parametrize(
    "id_",
    ["asymmetric zero point", "int32 bias", "scale 0", "activation per channel", "foreign domain"],
)
def test_what_cannot_be_repaired_is_still_refused(id_):
    case = next(case for case in _ILLEGAL if case.id == id_)
    with pytest.raises(GraphError, match=case.says.split(",")[0]):
        check_for_tensorrt(legalize_for_tensorrt(_illegal(case)), "int8.onnx")


def test_unsigned_stored_weights_are_refused_not_broken():
    model = _legal()
    _set(model, "w2", constants_of(model)["w2"].view(np.uint8))
    _set(model, "w2.zero", np.zeros(_CHANNELS, np.uint8))
    onnx.checker.check_model(model, full_check=True)
    repaired = legalize_for_tensorrt(model)
    onnx.checker.check_model(repaired, full_check=True)
    with pytest.raises(GraphError, match=r"'w2\.dequantize'.*found uint8"):
        check_for_tensorrt(repaired, "int8.onnx")


@dataclass(frozen=True)
class Stored:
    id: str
    shape: tuple[int, ...]
    scale: object
    zero: object | None = None
    attributes: tuple[tuple[str, int], ...] = ()


@pytest.mark.parametrize(
    "case",
    [
        Stored("one scale", (2, 3, 1, 1), np.float32(0.3)),
        Stored("one scale and zero point", (2, 3, 1, 1), np.float32(0.3), np.int8(7)),
        Stored("one scale of a bias", (5,), np.float32(0.3), np.int8(-4)),
        Stored(
            "output channels", (2, 3, 1, 1), np.float32([0.3, 0.7]), np.int8([7, -2]),
            (("block_size", 0), ("axis", 0)),
        ),
        Stored(
            "the default axis, input channels", (2, 3, 4, 1), np.float32([0.3, 0.7, 1.1]),
            np.int8([7, -2, 0]),
        ),
    ],
    ids=lambda case: case.id,
)  # fmt: skip
def test_a_stored_weight_is_dequantized_as_onnx_runtime_does(case):
    stored = np.random.default_rng(0).integers(-128, 128, case.shape, np.int8)
    constants = {"w": stored, "s": case.scale} | ({} if case.zero is None else {"z": case.zero})
    node = helper.make_node("DequantizeLinear", list(constants), ["y"], **dict(case.attributes))
    model = _model([node], constants, opset=21)
    value = legalizer._dequantize(node, legalizer.GraphView.of(model))
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, _run(model, np.zeros(_SHAPE, np.float32)))


def _clip(model, source, reader, low, high):
    """Put a Clip of a tensor before the node that reads it first."""
    bounds = {"low": low, "high": high}
    for name, value in bounds.items():
        if value is not None:
            _set(model, name, value)
    inputs = [source, *(name if value is not None else "" for name, value in bounds.items())]
    node = helper.make_node("Clip", inputs, ["clipped"], name="clip")
    model.graph.node.insert(_place(model, reader), node)
    _node(model, reader).input[0] = "clipped"


def test_a_clip_of_quantized_weights_to_all_of_int8_is_removed():
    model = _legal()
    _clip(model, "w1.q", "w1.dequantize", np.int8(-128), np.int8(127))
    onnx.checker.check_model(model, full_check=True)
    assert legalize_for_tensorrt(model) == _legal()


@pytest.mark.parametrize(
    ("source", "reader", "low", "high"),
    [
        ("w1.q", "w1.dequantize", np.int8(-127), np.int8(127)),
        ("w1.q", "w1.dequantize", np.int8(-128), np.int8(126)),
        ("w1.q", "w1.dequantize", np.int8(-128), None),
        ("w1.q", "w1.dequantize", None, np.int8(127)),
        ("c", "relu", np.float32(-128), np.float32(127)),
    ],
    ids=["low", "high", "no high", "no low", "float"],
)
def test_a_clip_that_clips_stays(source, reader, low, high):
    model = _legal()
    _clip(model, source, reader, low, high)
    onnx.checker.check_model(model, full_check=True)
    assert legalize_for_tensorrt(model) == model


@pytest.mark.parametrize("empty", [False, True])
def test_missing_zero_points_are_written_in_the_default_type(empty):
    model = _legal()
    quantizers = [node for node in model.graph.node if node.op_type in legalizer.QDQ_OPERATORS]
    for node in quantizers:
        del node.input[2:]
        if empty:
            node.input.append("")
    legalizer._write_zero_points(model)
    constants = constants_of(model)
    assert {len(node.input) for node in quantizers} == {3}
    for node in quantizers:
        zero, scale = (constants[node.input[place]] for place in (2, 1))
        # what is quantized becomes uint8, and the second weight is stored as int8
        assert zero.dtype == (np.int8 if node.name == "w2.dequantize" else np.uint8)
        assert zero.shape == scale.shape
        assert not zero.any()


def test_an_activation_after_unsigned_stored_weights_becomes_signed():
    model = _legal()
    _unsigned(model)
    _set(model, "w2", constants_of(model)["w2"].view(np.uint8))
    _set(model, "w2.zero", np.zeros(_CHANNELS, np.uint8))
    first = onnx.NodeProto.FromString(_node(model, "w2.dequantize").SerializeToString())
    del model.graph.node[_place(model, "w2.dequantize")]
    model.graph.node.insert(0, first)
    repaired = legalize_for_tensorrt(model)
    constants = constants_of(repaired)
    assert constants[_node(repaired, "w2.dequantize").input[2]].dtype == np.uint8
    assert constants[_node(repaired, "r.quantize").input[2]].dtype == np.int8


def test_an_unsigned_activation_of_computed_scale_is_refused_not_broken():
    model = _legal()
    _set(model, "x.zero", np.uint8(0))
    _computed(1)(model)
    repaired = legalize_for_tensorrt(model)
    _node(repaired, "x.quantize").input[2] = "r.zero"  # what else is wrong with it
    with pytest.raises(GraphError, match="constant scale, found a computed one"):
        check_for_tensorrt(repaired, "int8.onnx")


@pytest.mark.parametrize("place", [0, 1], ids=["values", "scale"])
def test_a_weight_that_is_computed_stays_quantized(place):
    model = _legal()
    _reading("second", 0, "r")(model)
    dequantizer = _node(model, "w2.dequantize")
    copy = helper.make_node("Identity", [dequantizer.input[place]], ["computed"])
    dequantizer.input[place] = "computed"
    model.graph.node.insert(0, copy)
    assert _node(legalize_for_tensorrt(model), "second").input[1] == "w2.dq"


def test_a_missing_zero_point_of_a_dequantizer_has_the_type_of_its_quantizer():
    model = _legal()
    del _node(model, "r.dequantize").input[2:]
    legalizer._write_zero_points(model)
    assert constants_of(model)[_node(model, "r.dequantize").input[2]].dtype == np.int8
