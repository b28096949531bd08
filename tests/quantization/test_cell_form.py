"""The cell form of an INT8 graph: the same frames within rounding, and what it is made of."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from mirnet_edge.onnx_files import plain_feed
from mirnet_edge.onnx_wire import float_form
from mirnet_edge.quantization.cell_form import to_cell_form
from mirnet_edge.quantization.ptq import quantize_for_cpu


def _restored(path, frames):
    model = onnx.load(path)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, plain_feed(model, frames))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_it_gives_the_same_frames_within_rounding(light_graphs, light_frames, backend):
    frames = light_frames(7)
    expected = _restored(light_graphs["int8"], frames)[0].astype(int)
    if backend == "onnxruntime":
        found = _restored(light_graphs["cells"], frames)[0].astype(int)
    else:
        openvino = pytest.importorskip("openvino")
        precision = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(str(light_graphs["cells"]), "CPU", precision)
        found = compiled(plain_feed(onnx.load(light_graphs["cells"]), frames))[0].astype(int)
    assert expected.std() > 10.0
    error = np.abs(found - expected)
    assert error.max() <= 4
    assert error.mean() < 0.6


def test_context_vectors_stay_those_of_the_graph(light_graphs, light_frames):
    frames = light_frames(8)
    expected, found = (_restored(light_graphs[name], frames)[1] for name in ("int8", "cells"))
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_frames_of_a_batch_are_restored_apart(light_graphs, light_frames):
    session = onnxruntime.InferenceSession(light_graphs["cells"])
    model = onnx.load(light_graphs["cells"])
    frames = np.concatenate([light_frames(9), light_frames(10)])
    feed = {**plain_feed(model, frames[:1]), "frames": frames}
    feed["globals_in"] = np.repeat(feed["globals_in"], 2, 0)
    together = session.run(None, feed)[0]
    apart = [session.run(None, plain_feed(model, one[None]))[0][0] for one in frames]
    np.testing.assert_array_equal(together, np.stack(apart))


def test_bytes_are_rearranged_in_an_order_that_openvino_is_fast_in(light_graphs):
    model = onnx.shape_inference.infer_shapes(onnx.load(light_graphs["cells"]))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    makers = {name: node for node in model.graph.node for name in node.output}
    assert not {"DepthToSpace", "SpaceToDepth"} & {node.op_type for node in model.graph.node}
    for name in ("cells.columns", "cells.lines"):
        assert kinds[makers[name].input[0]] == onnx.TensorProto.UINT8
        assert list(makers[name].attribute[0].ints) == [0, 3, 1, 2]


def test_openvino_computes_its_stem_and_its_thumbnail_from_bytes(light_graphs):
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(light_graphs["cells"])
    model.reshape({0: [1, 64, 96, 3], 1: [1, model.input(1).partial_shape[1].get_length()]})
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    inputs = {}
    for one in compiled.get_runtime_model().get_ops():
        name = one.get_friendly_name().partition("/")[0]
        inputs[name] = one.get_rt_info()["runtimePrecision"].astype(str)
    makers = {
        name: node for node in onnx.load(light_graphs["cells"]).graph.node for name in node.output
    }
    names = [
        node.name
        for node in makers.values()
        if node.op_type == "Conv" and node.input[0] in ("cells.frame", "coarse.both")
    ]
    pools = [
        node.name
        for node in makers.values()
        if node.op_type == "AveragePool" and node.input[0] == "thumbnail.channels"
    ]
    assert len(names) == 2
    assert len(pools) == 1
    assert {inputs[name] for name in (*names, *pools)} == {"u8"}


def test_its_float_form_rounds_nothing_at_full_resolution(light_graphs):
    changed = onnx.load_from_string(float_form(light_graphs["cells"].read_bytes()))
    onnx.checker.check_model(changed, full_check=True)
    ramp = np.linspace(20.0, 24.0, 96, dtype=np.float32)
    frames = np.broadcast_to(ramp[:, None], (1, 64, 96, 3)).copy()
    session = onnxruntime.InferenceSession(changed.SerializeToString())
    restored = session.run(None, plain_feed(changed, frames))[0]
    assert restored.dtype == np.float32
    # 96 columns over 4 levels: 8 bits would give no more than a few values
    assert len(np.unique(restored[0, 30, :, 1].round(3))) > 60


def test_rounded_inside_its_float_form_gives_the_samelight_frames(
    light_graphs, light_frames, images
):
    cells = light_graphs["cells"].read_bytes()
    frames = images(6)[5]
    found = {}
    for name, model, given in (
        ("cells", cells, frames),
        ("rounded inside", float_form(cells, round_inside=True), frames.astype(np.float32)),
        ("not rounded", float_form(cells), frames.astype(np.float32)),
    ):
        session = onnxruntime.InferenceSession(model)
        loaded = onnx.load_from_string(model)
        found[name] = session.run(None, plain_feed(loaded, given))[0].astype(np.float64)
    difference = np.abs(found["rounded inside"] - found["cells"])
    assert np.quantile(difference, 0.99) < 0.51
    assert difference.mean() < np.abs(found["not rounded"] - found["cells"]).mean()


def _leave_weights_in_float(model):
    """Quantize weights in the graph, as ONNX Runtime's quantizer does."""
    values = {one.name: one for one in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            stored = onnx.numpy_helper.to_array(values[node.input[0]])
            scale = onnx.numpy_helper.to_array(values[node.input[1]])
            if stored.ndim == 4:
                sides = (-1, 1, 1, 1) if scale.ndim else ()
                name = f"{node.input[0]}.in_float"
                weights = (stored * scale.reshape(sides)).astype(np.float32)
                model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
                quantizer = onnx.helper.make_node(
                    "QuantizeLinear", [name, *node.input[1:]], [f"{name}.quantized"]
                )
                quantizer.attribute.extend(node.attribute)
                node.input[0] = quantizer.output[0]
                nodes.append(quantizer)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return len(nodes)


def test_weights_that_are_quantized_in_the_graph_give_the_same_cells(light_graphs, light_frames):
    model = onnx.load(light_graphs["int8"])
    before = len(model.graph.node)
    assert _leave_weights_in_float(model) > before
    frames = light_frames(7)
    cells = to_cell_form(model, light_graphs["fp32"], [light_frames(1)])
    found, expected = (
        onnxruntime.InferenceSession(one.SerializeToString()).run(None, plain_feed(one, frames))[0]
        for one in (
            cells,
            to_cell_form(onnx.load(light_graphs["int8"]), light_graphs["fp32"], [light_frames(1)]),
        )
    )
    np.testing.assert_array_equal(found, expected)


def test_graphs_of_other_forms_are_left_alone(graph_of, images, tmp_path):
    quantize_for_cpu(graph_of("edge"), tmp_path / "int8.onnx", images(5)[:2])
    model = onnx.load(tmp_path / "int8.onnx")
    assert to_cell_form(model, graph_of("edge"), images(5)[:2]) is None
