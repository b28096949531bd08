"""MIRNet-v2 for any size asks for its frame's size: after the cast, and the same to the bit."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from mirnet_edge.errors import GraphError
from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.quantization.legalizer import (
    check_for_tensorrt,
    legalize_for_tensorrt,
    read_shapes_after_cast,
)
from mirnet_edge.quantization.ptq import quantize_for_tensorrt


@pytest.fixture(scope="session")
def any_size(tmp_path_factory, network_of):
    """Return the file of a small MIRNet-v2 for frames of any size, as it is exported."""
    path = tmp_path_factory.mktemp("shapes") / "any.onnx"
    export_onnx(network_of("mirnet-v2"), path, io="uint8", size=None, multiple=4)
    return path


@pytest.fixture(scope="session")
def exported(any_size):
    return onnx.load(any_size)


@pytest.fixture(scope="session")
def as_torch_writes_it(exported):
    """Return the graph with its Shape nodes on the uint8 input."""
    model = onnx.ModelProto.FromString(exported.SerializeToString())
    for node in _shapes(model):
        node.input[0] = "frames"
    return model


def _shapes(model):
    return [node for node in model.graph.node if node.op_type == "Shape"]


def _restored(model, frames):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"frames": frames})[0]


def test_an_exported_graph_of_any_size_is_legal(exported):
    assert _shapes(exported)
    assert "frames" not in {name for node in _shapes(exported) for name in node.input}
    check_for_tensorrt(exported, "fp32.onnx")


def test_a_graph_that_asks_the_input_is_refused_and_repaired_to_the_bit(
    as_torch_writes_it, smooth_frames
):
    with pytest.raises(GraphError, match=r"\(Shape\): expected a Cast"):
        check_for_tensorrt(as_torch_writes_it, "old.onnx")
    repaired = legalize_for_tensorrt(as_torch_writes_it)
    onnx.checker.check_model(repaired, full_check=True)
    check_for_tensorrt(repaired, "new.onnx")
    for height, width, count in ((32, 48, 1), (48, 32, 2), (4, 4, 1)):
        frames = smooth_frames(height, width, count)
        before, after = (_restored(one, frames) for one in (as_torch_writes_it, repaired))
        np.testing.assert_array_equal(before, after)
    assert len(np.unique(after)) > 1


def test_int8_of_any_size_is_the_int8_of_one_size(any_size, graph_of, smooth_frames, tmp_path):
    samples = [frame[None] for frame in smooth_frames(32, 48, 3)]
    quantize_for_tensorrt(any_size, tmp_path / "any-int8.onnx", samples)
    quantize_for_tensorrt(graph_of("mirnet-v2"), tmp_path / "one-int8.onnx", samples)
    anywhere, here = (onnx.load(tmp_path / f"{name}-int8.onnx") for name in ("any", "one"))
    frames = smooth_frames(32, 48)
    given = _restored(anywhere, frames).astype(int)
    # not to the bit: at one size torch writes other nodes for the same arithmetic
    assert np.abs(given - _restored(here, frames)).max() <= 1
    assert _restored(anywhere, smooth_frames(64, 40)).shape == (1, 64, 40, 3)


def test_what_asks_nothing_or_is_cast_nowhere_stays_as_it_is(graph_of, as_torch_writes_it):
    asking_nothing = onnx.load(graph_of("mirnet-v2"))
    never_cast = onnx.ModelProto.FromString(as_torch_writes_it.SerializeToString())
    for node in never_cast.graph.node:
        if node.op_type == "Cast" and node.input[0] == "frames":
            node.op_type = "Identity"
    for model in (asking_nothing, never_cast):
        before = model.SerializeToString(deterministic=True)
        read_shapes_after_cast(model)
        assert model.SerializeToString(deterministic=True) == before
