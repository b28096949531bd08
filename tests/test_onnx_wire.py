"""ONNX files read by their wire format: other files they load, and their form with float frames."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mirnet_edge.errors import GraphError
from mirnet_edge.onnx_wire import external_files, float_form, read_fields, write_fields


def _tensor(*, file=None):
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    if file is not None:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("float_data")
        for key, value in (("location", file), ("offset", "0")):
            tensor.external_data.add(key=key, value=value)
    return tensor


def _model(tensor, place="initializer"):
    """Return a model's bytes with a tensor at some place where ONNX allows one."""
    inner = helper.make_graph([], "inner", [], [], [tensor])
    nodes, initializers, functions, training = [], [], [], []
    if place == "initializer":
        initializers = [tensor]
    elif place == "constant":
        nodes = [helper.make_node("Constant", [], ["c"], value=tensor)]
    elif place == "branch":
        nodes = [helper.make_node("If", ["x"], ["c"], then_branch=inner, else_branch=inner)]
    elif place == "function":
        body = [helper.make_node("Constant", [], ["c"], value=tensor)]
        functions = [
            helper.make_function("own", "F", [], ["c"], body, [helper.make_opsetid("", 20)])
        ]
    elif place == "training":
        training = [onnx.TrainingInfoProto(algorithm=inner)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [], [], initializers), functions=functions
    )
    model.training_info.extend(training)
    if place == "sparse":
        model.graph.sparse_initializer.add(values=tensor, indices=_tensor(), dims=[4])
    return model.SerializeToString()


@pytest.mark.parametrize(
    "place", ["initializer", "constant", "branch", "function", "training", "sparse"]
)
def test_files_of_external_data_are_named_wherever_the_tensor_lies(place):
    assert external_files(_model(_tensor(), place)) == []
    assert external_files(_model(_tensor(file="w.bin"), place)) == ["w.bin"]


def test_external_data_without_a_name_is_found():
    tensor = _tensor()
    tensor.data_location = TensorProto.EXTERNAL
    assert external_files(_model(tensor)) == [""]


def test_graphs_nested_too_deeply_are_refused():
    graph = b""
    for _ in range(100_000):  # in the graph of an attribute of a node of a graph, and so on
        for number in (6, 5, 1):
            graph = write_fields([(number, 2, memoryview(graph))]) if len(graph) < 50_000 else graph
    with pytest.raises(GraphError, match="nested deeper than 64"):
        external_files(write_fields([(7, 2, memoryview(graph))]))


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_or_hold_nothing(content):
    try:
        fields = list(read_fields(memoryview(content)))
        assert write_fields(fields) or not content
        external_files(content)
    except GraphError:
        pass
    with pytest.raises(GraphError):
        float_form(content)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_models_raise_nothing_else(data):
    content = bytearray(_model(_tensor(file="w.bin")))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    for read in (external_files, float_form):
        try:
            read(cut)
        except GraphError as error:
            assert "\n" not in str(error)  # noqa: PT017  # one of two outcomes


def test_fields_come_back_as_they_were(tmp_path, make_graph):
    content = make_graph(tmp_path / "a.onnx").read_bytes()
    assert write_fields(read_fields(memoryview(content))) == content


def test_the_float_form_is_the_same_graph_but_for_types_and_rounding(tmp_path, make_graph):
    path = make_graph(tmp_path / "a.onnx")
    changed = onnx.load_from_string(float_form(path.read_bytes()))
    onnx.checker.check_model(changed, full_check=True)
    assert changed.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert changed.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    before = [node.op_type for node in onnx.load(path).graph.node]
    after = [node.op_type for node in changed.graph.node]
    assert after == ["Identity" if kind == "Round" else kind for kind in before]
    kernel = next(one for one in changed.graph.initializer if one.name == "kernel")
    assert np.isclose(onnx.numpy_helper.to_array(kernel)[0, 0, 1, 1], 1.5)


def test_graphs_of_other_frames_have_no_float_form(tmp_path, make_graph):
    with pytest.raises(GraphError, match="expected a graph of uint8 frames"):
        float_form(make_graph(tmp_path / "a.onnx", io="float").read_bytes())
    with pytest.raises(GraphError, match="0 graphs"):
        float_form(b"")
