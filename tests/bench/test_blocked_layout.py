"""Networks saved with blocked operators compute the same with standard ones."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mirnet_edge.bench.blocked_layout import (
    DOMAIN,
    reorder_blocked_weights,
    replace_blocked_operators,
)

WEIGHTS = {
    "first": (16, 3, 3, 3),
    "each": (16, 1, 3, 3),
    "third": (16, 16, 1, 1),
    "twelve": (24, 12, 3, 3),
}


def blocked(weights):
    """Return weights in the order of blocked kernels."""
    outs, ins, height, width = weights.shape
    block = 8 if ins % 8 == 0 else 1
    read = [
        weights[o + eighth, i + place, y, x]
        for o in range(0, outs, 8)
        for i in range(0, ins, block)
        for y in range(height)
        for x in range(width)
        for place in range(block)
        for eighth in range(8)
    ]
    return np.array(read, np.float32).reshape(weights.shape)


def model_of(nodes, weights):
    graph = helper.make_graph(
        nodes,
        "competitor",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, (1, 3, "h", "w"))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, 20, "h2", "w2"))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def output_of(model, value):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"in": value})[0]


def conv(inputs, out, *, domain="", **attributes):
    size = [3, 3] if inputs[1] != "third" else [1, 1]
    pads = [side // 2 for side in size] * 2
    return helper.make_node(
        "Conv", inputs, [out], domain=domain, kernel_shape=size, pads=pads, **attributes
    )


@pytest.fixture
def weights():
    generator = np.random.default_rng(0)
    made = {name: generator.normal(0, 0.2, size) for name, size in WEIGHTS.items()}
    made["bias"] = generator.normal(0, 0.2, 16)
    return {name: value.astype(np.float32) for name, value in made.items()}


@pytest.fixture
def plain(weights):
    scales = np.array([1, 1, 2, 2], np.float32)
    bounds = {"start": [0], "twelve_end": [12], "twenty_end": [20], "axis": [1]}
    cut = {name: np.array(value) for name, value in bounds.items()}
    nodes = [
        conv(["in", "first", "bias"], "a0"),
        helper.make_node("LeakyRelu", ["a0"], ["a"], alpha=0.2),
        conv(["a", "each"], "b0", group=16),
        helper.make_node("Sigmoid", ["b0"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["c", "", "scales"], ["d"], mode="linear",
                         coordinate_transformation_mode="align_corners"),
        conv(["d", "third", "bias"], "e0"),
        helper.make_node("Add", ["e0", "b"], ["e1"]),
        helper.make_node("Relu", ["e1"], ["e"]),
        helper.make_node("Slice", ["e", "start", "twelve_end", "axis"], ["f"]),
        helper.make_node("Resize", ["f", "", "scales"], ["g"], mode="nearest",
                         nearest_mode="floor", coordinate_transformation_mode="asymmetric"),
        conv(["g", "twelve"], "h"),
        helper.make_node("Slice", ["h", "start", "twenty_end", "axis"], ["out"]),
    ]  # fmt: skip
    return model_of(nodes, {**weights, **cut, "scales": scales})


@pytest.fixture
def saved(weights):
    """Return the same network as ONNX Runtime saves it where blocks are of 8 channels."""
    filled = np.zeros((24, 16, 3, 3), np.float32)
    filled[:, :12] = weights["twelve"]
    held = {name: blocked(value) for name, value in {**weights, "twelve": filled}.items()
            if name != "bias"}  # fmt: skip
    own = {"domain": DOMAIN}
    nodes = [
        conv(["in", "first", "bias"], "a", activation="LeakyRelu", activation_params=[0.2], **own),
        conv(["a", "each"], "b", group=16, activation="Sigmoid", **own),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2], **own),
        helper.make_node("Upsample", ["c"], ["d"], scales=[1, 1, 2, 2], mode="linear",
                         coordinate_transformation_mode="align_corners", **own),
        conv(["d", "third", "bias", "b"], "e", activation="Relu", **own),
        helper.make_node("ReorderOutput", ["e"], ["f"], channels=12, **own),
        helper.make_node("ReorderInput", ["f"], ["f8"], **own),
        helper.make_node("Upsample", ["f8"], ["g"], scales=[1, 1, 2, 2], **own),
        conv(["g", "twelve"], "h", **own),
        helper.make_node("ReorderOutput", ["h"], ["out"], channels=20, **own),
    ]  # fmt: skip
    return model_of(nodes, {**held, "bias": weights["bias"]})


def test_standard_operators_compute_the_same(plain, saved):
    value = np.random.default_rng(1).random((1, 3, 16, 24), np.float32)
    assert replace_blocked_operators(saved)
    assert {node.domain for node in saved.graph.node} == {""}
    np.testing.assert_allclose(output_of(saved, value), output_of(plain, value), atol=1e-5)


@pytest.mark.parametrize("name", WEIGHTS)
def test_blocked_weights_are_reordered(name, weights):
    if name == "twelve":  # blocks are complete: 12 channels take 16
        weights[name] = np.pad(weights[name], ((0, 0), (0, 4), (0, 0), (0, 0)))
    np.testing.assert_array_equal(reorder_blocked_weights(blocked(weights[name])), weights[name])


def test_models_without_blocked_or_with_unknown_operators_are_not_changed(plain, saved):
    assert not replace_blocked_operators(plain)
    saved.graph.node[2].op_type = "SomethingNew"
    before = saved.SerializeToString()
    assert not replace_blocked_operators(saved)
    assert saved.SerializeToString() == before


def test_models_whose_blocks_may_be_of_16_channels_are_not_changed(saved):
    del saved.graph.node[5:]  # the last convolution has 24 channels, the others 16
    assert not replace_blocked_operators(saved)
