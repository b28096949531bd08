"""The finest stream of a light graph in 8 bits: what is merged, and what is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from mirnet_edge.onnx_files import plain_feed
from mirnet_edge.quantization.byte_streams import _round_weights, float_kernel
from mirnet_edge.quantization.cell_form import to_cell_form
from mirnet_edge.quantization.mixed_precision import list_quantized_convolutions, quantize_partly


def _weights(model, conv):
    """Return a quantized convolution's weights, and the step of each output channel."""
    values = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    (dequantizer,) = (node for node in model.graph.node if conv.input[1] in node.output)
    rounded, steps = (values[name] for name in dequantizer.input[:2])
    return rounded.astype(np.float64) * steps[:, None, None, None], steps


def _node(model, name):
    """Return the node that has a weight of that name."""
    return next(node for node in model.graph.node if node.input[1:2] and name in node.input[1])


@pytest.fixture(scope="module")
def models(light_graphs):
    return {name: onnx.load(path) for name, path in light_graphs.items()}


def test_stem_pool_and_the_convolution_after_it_are_one(models):
    down = _node(models["fp32"], "down_middle.weight")
    stem = _node(models["fp32"], "stem.weight")
    kernel, _ = float_kernel(models["fp32"], stem)
    inner, _ = float_kernel(models["fp32"], down)
    merged = next(one for one in models["cells"].graph.node if down.output[0] in one.output)
    weights, steps = _weights(models["cells"], merged)
    # of a cell by column, color and row
    cells = kernel.transpose(0, 3, 1, 2).reshape(len(kernel), -1)
    expected = inner[:, :, 0, 0] @ cells / 4
    assert weights.shape == (*expected.shape, 2, 2)
    np.testing.assert_allclose(
        weights, np.tile(expected[:, :, None, None], (2, 2)), atol=float(steps.max()) * 1.01
    )
    assert np.abs(weights / steps[:, None, None, None]).max() <= 63.01


def test_the_finest_stream_is_read_in_8_bits_alone(models):
    nodes = models["cells"].graph.node
    (merged,) = (node for node in nodes if "coarse.both" in node.input)
    readers = {node.op_type for node in nodes if merged.output[0] in node.input}
    assert merged.op_type == "Conv"
    assert readers == {"QuantizeLinear"}
    before = _node(models["fp32"], "stem.weight").output[0]
    assert before not in {name for node in nodes for name in node.output}


def test_bright_frames_do_not_exceed_what_8_bits_hold(light_graphs):
    """Frames brighter than all calibration images: the streams' ranges have a margin."""
    frames = np.random.default_rng(3).integers(60, 256, (1, 64, 96, 3)).astype(np.uint8)
    found = {}
    for name, path in light_graphs.items():
        model = onnx.load(path)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        found[name] = session.run(None, plain_feed(model, frames))[0].astype(float)
    errors = {name: np.abs(found[name] - found["fp32"]).mean() for name in ("int8", "cells")}
    assert errors["cells"] < 1.2 * errors["int8"] + 0.3


def test_a_stream_with_a_convolution_in_float_is_left_alone(models, light_graphs, light_frames):
    stem = _node(models["fp32"], "stem.weight").name
    kept = set(list_quantized_convolutions(models["int8"])) - {stem}
    partial = quantize_partly(models["int8"], models["fp32"], kept)
    rewritten = to_cell_form(partial, light_graphs["fp32"], [light_frames(0)])
    assert rewritten is not None
    assert "coarse.both" not in {name for node in rewritten.graph.node for name in node.output}
    onnx.checker.check_model(rewritten, full_check=True)


def test_rounded_weights_keep_the_sum_over_the_pixels_of_a_color():
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(8, 48 + 4, 1, 1))
    colors = [*(place // 4 % 3 for place in range(48)), *(None,) * 4]
    found = _round_weights(kernel, colors)
    levels = kernel / found.steps[:, None, None, None]
    assert np.abs(found.levels).max() <= 63
    assert np.abs(found.levels - levels).max() <= 1.0  # up or down
    np.testing.assert_array_equal(found.levels[:, 48:], np.round(levels[:, 48:]))
    for color in range(3):
        own = [place for place, one in enumerate(colors) if one == color]
        error = (found.levels[:, own] - levels[:, own]).sum(1)
        assert np.abs(error).max() <= 0.5 + 1e-6
        plain = (np.round(levels[:, own]) - levels[:, own]).sum(1)
        assert np.abs(plain).max() > 0.5  # what each by itself gives
    np.testing.assert_allclose(found.values(), kernel, atol=float(found.steps.max()))
