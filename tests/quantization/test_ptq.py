"""Both quantization schemes: convolutions in INT8, those left in float, the accuracy drop."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mirnet_edge.errors import CalibrationError, GraphError, MissingDependencyError
from mirnet_edge.onnx_files import constants_of
from mirnet_edge.quantization import ptq
from mirnet_edge.quantization.legalizer import check_for_tensorrt, list_whole_frame_convs
from mirnet_edge.quantization.mixed_precision import list_blocks, module_of
from mirnet_edge.quantization.ptq import (
    QuantizationScheme,
    correct_output_bias,
    list_color_convs,
    quantize_for_cpu,
    quantize_for_tensorrt,
)
from mirnet_edge.quantization.ranges import RangeEstimator

if TYPE_CHECKING:
    from collections.abc import Callable

_SCHEMES = [
    pytest.param(quantize_for_tensorrt, id="tensorrt"),
    pytest.param(quantize_for_cpu, id="cpu"),
]
_SHAPE = (1, 3, 16, 16)


def _quantized_convs(model):
    """Return the convolutions whose weight and image are both integers."""
    dequantized = {one.output[0] for one in model.graph.node if one.op_type == "DequantizeLinear"}
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and dequantized.issuperset(node.input[:2])
    }


def _convs(model):
    return {node.name for node in model.graph.node if node.op_type == "Conv"}


# --- a network --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantized_of(graph_of, images, tmp_path_factory):
    """Return a small network after a scheme, once for all tests: quantized_of(scheme, "edge")."""
    folder, done = tmp_path_factory.mktemp("quantized"), {}

    def make(scheme, name="edge"):
        if (scheme, name) not in done:
            done[scheme, name] = folder / f"{name}-{scheme.__name__}.onnx"
            scheme(graph_of(name), done[scheme, name], images(5)[:4])
        return done[scheme, name]

    return make


@dataclass(frozen=True)
class Loss:
    id: str
    scheme: Callable
    network: str
    at_least_db: float
    """Measured 2026-11 with onnxruntime 1.32 and nncf 3.4: 45.0, 42.5,
    47.8 and 47.3 dB."""


@pytest.mark.parametrize(
    "case",
    [
        Loss("tensorrt", quantize_for_tensorrt, "edge", 43),
        Loss("cpu", quantize_for_cpu, "edge", 39),
        Loss("tensorrt, enlarging", quantize_for_tensorrt, "enlarging", 44),
        Loss("cpu, enlarging", quantize_for_cpu, "enlarging", 44),
    ],
    ids=lambda case: case.id,
)
def test_a_image_it_has_not_seen_stays_close(
    case, quantized_of, graph_of, images, run_graph, decibels
):
    unseen = images(5)[4]
    expected = run_graph(onnx.load(graph_of(case.network)), unseen)
    assert expected.std() > 10, "the image is too flat to see anything"
    found = run_graph(onnx.load(quantized_of(case.scheme, case.network)), unseen)
    assert found.dtype == np.uint8
    times = 2 if case.network == "enlarging" else 1
    assert found.shape == (1, times * unseen.shape[1], times * unseen.shape[2], 3)
    assert case.at_least_db < decibels(found, expected, 255) < 70


@pytest.mark.parametrize("name", ["edge", "enlarging"])
@pytest.mark.parametrize("scheme", _SCHEMES)
def test_every_convolution_over_pixels_is_quantized_and_no_other(
    scheme, name, quantized_of, graph_of
):
    before, after = onnx.load(graph_of(name)), onnx.load(quantized_of(scheme, name))
    assert _convs(after) == _convs(before)
    whole_frame = set(list_whole_frame_convs(before))
    assert len(whole_frame) > 5
    assert len(_convs(before) - whole_frame) > 10
    assert _quantized_convs(after) == _convs(before) - whole_frame


def test_a_network_without_exposure_has_no_decision_about_it(graph_of):
    """What quantizing leaves alone in it are the attentions; the branch would add five.

    Three look at a thumbnail, which has one size whatever the frame's, and two decide.
    """
    with_branch, without = (
        list_whole_frame_convs(onnx.load(graph_of(name))) for name in ("edge", "enlarging")
    )
    assert len(with_branch) == len(without) + 5


def test_on_cpus_nothing_but_convolutions_reads_quantized_values(quantized_of):
    model = onnx.load(quantized_of(quantize_for_cpu))
    dequantized = {one.output[0] for one in model.graph.node if one.op_type == "DequantizeLinear"}
    readers = {node.op_type for node in model.graph.node if dequantized.intersection(node.input)}
    assert readers == {"Conv"}


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_biases_stay_in_float(scheme, quantized_of):
    model = onnx.load(quantized_of(scheme))
    constants = constants_of(model)
    biases = [constants[node.input[2]] for node in model.graph.node if len(node.input) > 2
              and node.op_type == "Conv"]  # fmt: skip
    assert biases
    assert {bias.dtype for bias in biases} == {np.dtype(np.float32)}


def test_the_graph_for_tensorrt_is_legal_and_its_weights_per_channel(quantized_of):
    model = onnx.load(quantized_of(quantize_for_tensorrt))
    check_for_tensorrt(model, "int8.onnx")
    constants = constants_of(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    quantized = [node for node in model.graph.node if node.name in _quantized_convs(model)]
    assert len(quantized) > 10
    for node in quantized:
        dequantizer = producers[node.input[1]]
        quantizer = producers[dequantizer.input[0]]  # a pair: the weight itself is float
        weight, scale = constants[quantizer.input[0]], constants[dequantizer.input[1]]
        assert weight.dtype == np.float32
        largest = np.abs(weight).max(axis=(1, 2, 3))
        np.testing.assert_allclose(scale, largest / 127, rtol=0.02)


def test_weights_for_cpus_use_seven_bits(quantized_of):
    """Pairs of products are added in 16 bits: 2 * 255 * 127 would not fit, 2 * 255 * 64 does."""
    constants = constants_of(onnx.load(quantized_of(quantize_for_cpu)))
    stored = [value for value in constants.values() if value.dtype == np.int8 and value.ndim == 4]
    assert len(stored) > 5
    assert max(int(np.abs(value.astype(int)).max()) for value in stored) == 64


@pytest.mark.parametrize("name", ["edge", "enlarging"])
@pytest.mark.parametrize("scheme", _SCHEMES)
def test_what_goes_in_and_out_stays_as_it_was(scheme, name, quantized_of, graph_of):
    before, after = onnx.load(graph_of(name)), onnx.load(quantized_of(scheme, name))
    onnx.checker.check_model(after, full_check=True)
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert {(one.domain, one.version) for one in after.opset_import if not one.domain} == {("", 20)}


# --- a few nodes ------------------------------------------------------------------------------


def _weights(outputs, inputs, side, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.3, 0.3, (outputs, inputs, side, side)).astype(np.float32)


def _write(path, nodes, constants):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, _SHAPE)],
        [value("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(one, name) for name, one in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def tiny(tmp_path):
    """Write two convolutions, and between them one that decides about the whole frame."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], name="mean", keepdims=1),
        helper.make_node("Conv", ["m", "w2"], ["a"], name="attend"),
        helper.make_node("Mul", ["r", "a"], ["s"], name="weigh"),
        helper.make_node("Conv", ["s", "w3"], ["y"], name="last", pads=[1, 1, 1, 1]),
    ]
    constants = {
        "w1": _weights(8, 3, 3, 1), "w2": _weights(8, 8, 1, 2), "w3": _weights(3, 8, 3, 3),
        "axes": np.array([2, 3]),
    }  # fmt: skip
    return _write(tmp_path / "tiny.onnx", nodes, constants)


def _samples(count=3, scale=1.0):
    rng = np.random.default_rng(0)
    return [rng.uniform(0, scale, _SHAPE).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_without_images_nothing_is_written(scheme, tiny, tmp_path):
    with pytest.raises(CalibrationError, match="no image to calibrate INT8 on"):
        scheme(tiny, tmp_path / "int8.onnx", [])
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_the_same_input_gives_the_same_bytes_and_is_left_alone(scheme, tiny, tmp_path):
    before = tiny.read_bytes()
    for name in ("a.onnx", "b.onnx"):
        scheme(tiny, tmp_path / name, _samples())
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert tiny.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.onnx", "a.onnx", "b.onnx"}


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_nothing_is_printed_and_no_path_is_kept(scheme, tiny, tmp_path, capfd):
    scheme(tiny, tmp_path / "int8.onnx", _samples())
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""
    model = onnx.load(tmp_path / "int8.onnx")
    assert not model.metadata_props
    assert not any(node.doc_string for node in model.graph.node)
    assert str(tmp_path).encode() not in (tmp_path / "int8.onnx").read_bytes()


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_excluded_nodes_stay_in_float(scheme, tiny, tmp_path):
    scheme(tiny, tmp_path / "all.onnx", _samples())
    scheme(tiny, tmp_path / "some.onnx", _samples(), QuantizationScheme(exclude=("first",)))
    assert _quantized_convs(onnx.load(tmp_path / "all.onnx")) == {"first", "last"}
    assert _quantized_convs(onnx.load(tmp_path / "some.onnx")) == {"last"}


@pytest.mark.parametrize("scheme", _SCHEMES)
def test_a_graph_without_convolutions_over_pixels_is_an_error(scheme, tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], name="mean", keepdims=1),
        helper.make_node("Conv", ["m", "w"], ["a"], name="attend"),
        helper.make_node("Mul", ["r", "a"], ["y"], name="weigh"),
    ]
    constants = {"w": _weights(3, 3, 1, 0), "axes": np.array([2, 3])}
    source = _write(tmp_path / "none.onnx", nodes, constants)
    with pytest.raises(GraphError, match=r"int8\.onnx: no convolution could be quantized"):
        scheme(source, tmp_path / "int8.onnx", _samples())
    assert not (tmp_path / "int8.onnx").exists()


def _scale_of(path, tensor):
    model = onnx.load(path)
    node = next(
        node
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == tensor
    )
    return float(constants_of(model)[node.input[1]])


@pytest.mark.parametrize("scale", [1.0, 0.1, 30.0])
def test_minmax_takes_the_largest_value_of_all_images(tiny, tmp_path, scale):
    samples = _samples(scale=scale)
    samples[1][0, 1, 2, 3] = -3 * scale
    quantize_for_tensorrt(tiny, tmp_path / "int8.onnx", samples)
    assert _scale_of(tmp_path / "int8.onnx", "x") == pytest.approx(3 * scale / 127, rel=0.01)


def test_percentiles_leave_out_what_is_rare(tiny, tmp_path):
    samples = _samples(count=20)
    samples[7][0, 1, 2, 3] = 40.0
    quantize_for_tensorrt(
        tiny, tmp_path / "int8.onnx", samples, QuantizationScheme(estimator="percentile")
    )
    assert _scale_of(tmp_path / "int8.onnx", "x") < 20.0 / 127


@pytest.mark.parametrize("method", get_args(RangeEstimator))
def test_every_method_gives_a_legal_graph(tiny, tmp_path, method):
    quantize_for_tensorrt(
        tiny, tmp_path / "int8.onnx", _samples(), QuantizationScheme(estimator=method)
    )
    check_for_tensorrt(onnx.load(tmp_path / "int8.onnx"), "int8.onnx")
    assert 0 < _scale_of(tmp_path / "int8.onnx", "x") <= 1.001 / 127


def test_a_result_that_tensorrt_would_misread_is_not_written(tiny, tmp_path, monkeypatch):
    def careless(model):
        for one in model.graph.initializer:
            if one.data_type == TensorProto.INT8 and one.name.endswith("zero_point"):
                one.CopyFrom(
                    numpy_helper.from_array(numpy_helper.to_array(one) + np.int8(1), one.name)
                )
        return model

    monkeypatch.setattr(ptq, "legalize_for_tensorrt", careless)
    with pytest.raises(GraphError, match=r"int8\.onnx: node .*not symmetric"):
        quantize_for_tensorrt(tiny, tmp_path / "int8.onnx", _samples())
    assert not (tmp_path / "int8.onnx").exists()


# --- NNCF -------------------------------------------------------------------------------------


def test_nncf_is_told_to_report_nothing_before_it_is_imported(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("NNCF_CI", raising=False)
    seen = []

    def absent(name, purpose):
        seen.append((name, os.environ.get("NNCF_CI")))
        raise MissingDependencyError(f"{purpose} needs {name}")

    monkeypatch.setattr(ptq, "require", absent)
    with pytest.raises(MissingDependencyError, match="quantizing for CPUs needs nncf"):
        quantize_for_cpu(tiny, tmp_path / "int8.onnx", _samples())
    assert seen == [("nncf", "1")]


@pytest.mark.parametrize(
    ("name", "expected"), [("light-enlarging", ["stem"]), ("one-stream", ["stem"]), ("edge", [])]
)
def test_convolutions_of_colors_are_those_that_keep_the_resolution(name, expected, graph_of):
    model = onnx.load(graph_of(name))
    found = set(list_color_convs(model))
    blocks = [one.name for one in list_blocks(model) if found.intersection(one.convolutions)]
    assert blocks == expected


# --- mean colors ------------------------------------------------------------------------------


def _colors(model, frames):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: frames})[0].mean((0, 1, 2))


@pytest.mark.parametrize("name", ["edge", "light", "one-stream", "mirnet"])
def test_wrong_mean_colors_are_corrected_in_the_last_convolution(name, graph_of, smooth_frames):
    frames = [frame[None] for frame in smooth_frames(32, 48, count=4)]
    fp32, wrong = onnx.load(graph_of(name)), onnx.load(graph_of(name))
    last = [node for node in wrong.graph.node if node.op_type == "Conv" and len(node.input) > 2]
    biases = {one.name: one for one in wrong.graph.initializer}
    colors = [node for node in last if biases[node.input[2]].dims[0] % 3 == 0][-1:]
    for node in colors:
        values = numpy_helper.to_array(biases[node.input[2]]).copy().reshape(3, -1)
        values += np.float32([[0.03], [-0.02], [0.05]])
        biases[node.input[2]].CopyFrom(numpy_helper.from_array(values.ravel(), node.input[2]))
    before = copy.deepcopy(wrong)
    correct_output_bias(wrong, graph_of(name), frames)
    if name == "mirnet":  # its last convolution has no bias
        assert wrong == before
        return
    for frame in frames:  # a part of the pixels clips
        expected = _colors(fp32, frame)
        errors = [np.abs(_colors(model, frame) - expected).max() for model in (before, wrong)]
        assert errors[0] > 4.0
        assert errors[1] < 0.4 * errors[0]


def test_mean_colors_are_those_of_the_delivered_form(graph_of, smooth_frames):
    frames = [frame[None] for frame in smooth_frames(32, 48, count=4)]

    def brighter(model):
        delivered = copy.deepcopy(model)
        for one in delivered.graph.initializer:
            if one.name.endswith("head.added.bias"):
                values = numpy_helper.to_array(one) + np.float32(0.04)
                one.CopyFrom(numpy_helper.from_array(values, one.name))
        return delivered

    model = onnx.load(graph_of("light"))
    expected = _colors(model, frames[0])
    error = np.abs(_colors(brighter(model), frames[0]) - expected).max()
    assert error > 5.0
    correct_output_bias(model, graph_of("light"), frames, brighter)
    assert np.abs(_colors(brighter(model), frames[0]) - expected).max() < 0.4 * error


def _steps_of_activations(path):
    """Return the step of each quantized activation, in the order of the graph."""
    model = onnx.load(path)
    constants = constants_of(model)
    found = [
        constants[node.input[1]] for node in model.graph.node if node.op_type == "QuantizeLinear"
    ]
    return np.array([float(step) for step in found if step.size == 1])


def test_ranges_leave_outliers_out(graph_of, images, tmp_path):
    all_of_them, most = tmp_path / "all.onnx", tmp_path / "most.onnx"
    samples = images(5)[:2]
    quantize_for_cpu(graph_of("enlarging"), all_of_them, samples)
    quantize_for_cpu(graph_of("enlarging"), most, samples, QuantizationScheme(outliers=0.01))
    steps = _steps_of_activations(most) / _steps_of_activations(all_of_them)
    assert steps.max() <= 1.001
    assert np.median(steps) < 0.99


def _input_steps(path):
    """Return the step of each convolution's 8-bit input, by the name of its node."""
    model = onnx.load(path)
    constants, makers = constants_of(model), {node.output[0]: node for node in model.graph.node}
    reads = {
        node.name: makers.get(node.input[0]) for node in model.graph.node if node.op_type == "Conv"
    }
    steps = {
        name: constants[read.input[1]]
        for name, read in reads.items()
        if read is not None and read.op_type == "DequantizeLinear"
    }
    return {name: step.item() for name, step in steps.items() if step.size == 1}


def test_learned_ranges_replace_estimated_ones_by_module(graph_of, images, tmp_path):
    samples, fp32 = images(5)[:2], graph_of("light")
    plain, path = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    # after a ReLU, where 255 steps are above 0, and of both signs; the last one is not in the graph
    ranges = {"blocks.0.middle.body.2": 2.55, "blocks.0.down_middle": 1.27, "absent": 9.0}
    quantize_for_cpu(fp32, plain, samples)
    quantize_for_cpu(fp32, path, samples, QuantizationScheme(learned_ranges=ranges))
    modules = {
        node.name: module_of(node) for node in onnx.load(fp32).graph.node if node.op_type == "Conv"
    }
    before, after = _input_steps(plain), _input_steps(path)
    assert before.keys() == after.keys()
    changed = {modules[name]: step for name, step in after.items() if step != before[name]}
    assert changed == pytest.approx({"blocks.0.middle.body.2": 0.01, "blocks.0.down_middle": 0.01})
