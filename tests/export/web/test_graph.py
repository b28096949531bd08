"""The graph that a browser runs: the bundle's values, with operators that WebGPU has."""

from __future__ import annotations

import re
import tarfile

import numpy as np
import pytest

from mirnet_edge.errors import GraphError
from mirnet_edge.export.web.graph import (
    WEBGPU_OPERATORS,
    graph_dimensions,
    unsupported_operators,
    web_graph,
)
from mirnet_edge.export.web.page import check_parity
from mirnet_edge.export.web.runtime import OPERATORS_TABLE
from mirnet_edge.manifest import ImageContract, read_manifest
from mirnet_edge.runtime.shipped import find_bundle, list_shipped_bundles

onnx = pytest.importorskip("onnx", reason='needs pip install "mirnet-edge[export]"')
FLOAT = ImageContract(io="float", multiple=1, size=None)


def model_of(nodes, constants, shape):
    """Return a graph of floats: `frames` in, `restored` out."""
    helper, tensor = onnx.helper, onnx.numpy_helper
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("frames", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("restored", onnx.TensorProto.FLOAT, None)],
        [tensor.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 20)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def run(model, frames):
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": frames})[0]


def operators_of(model):
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", list_shipped_bundles())
def test_shipped_networks_keep_their_values_and_webgpu_has_their_operators(name, precision):
    bundle = find_bundle(f"shipped:{name}")
    manifest = read_manifest(bundle)
    graph = next(one for one in manifest.graphs if one.precision == precision)
    before = (bundle / graph.onnx.file).read_bytes()
    after = web_graph(before, manifest.image)
    onnx.checker.check_model(onnx.load_from_string(after), full_check=True)
    assert check_parity(before, after, manifest.image) <= 0.51
    # WebGPU computes in floats: operators of INT8 are named, and such a page runs on WASM
    in_cells = {"Round"} if name == "low-light" else set()
    expected = set() if precision == "fp32" else {"QuantizeLinear", *in_cells}
    assert set(unsupported_operators(after)) == expected


@pytest.mark.parametrize("family", ["edge", "enlarging", "mirnet", "mirnet-v2", "keras-mirnet"])
def test_webgpu_has_the_operators_of_each_family(family, graph_of):
    pytest.importorskip("torch", reason='needs pip install "mirnet-edge[export]"')
    before = graph_of(family).read_bytes()
    image = ImageContract(
        io="uint8", multiple=1, size=(32, 48), scale=2 if family == "enlarging" else 1
    )
    after = web_graph(before, image)
    assert unsupported_operators(after) == []
    assert check_parity(before, after, image) <= 0.51


def test_the_table_is_the_package_s(runtime_archive):
    with tarfile.open(runtime_archive) as package:
        table = package.extractfile(OPERATORS_TABLE).read().decode()
    rows = re.findall(r"^\| (\w+) \| ai\.onnx", table, re.MULTILINE)
    assert set(rows) - {"MemcpyFromHost", "MemcpyToHost"} == WEBGPU_OPERATORS


def test_operators_that_webgpu_lacks_are_named():
    helper = onnx.helper
    nodes = [
        helper.make_node("Hardmax", ["frames"], ["a"]),
        helper.make_node("Round", ["a"], ["b"]),
        helper.make_node("Round", ["b"], ["restored"]),
    ]
    assert unsupported_operators(model_of(nodes, {}, [1, 3, 4, 4])) == ["Hardmax", "Round"]


def test_softplus_and_prelu_are_written_with_others_of_the_same_value():
    helper = onnx.helper
    nodes = [
        helper.make_node("Identity", ["frames"], ["same"]),
        helper.make_node("PRelu", ["same", "slope"], ["bent"]),
        helper.make_node("Softplus", ["bent"], ["soft"]),
        helper.make_node("Softplus", ["soft"], ["restored"]),
    ]
    slope = np.array([0.25, -0.5, 0.0], np.float32).reshape(3, 1, 1)
    before = model_of(nodes, {"slope": slope}, [1, 3, 8, 8])
    after = web_graph(before, FLOAT)
    assert not {"Identity", "PRelu", "Softplus"} & set(operators_of(after))
    frames = np.linspace(-200, 200, 192, dtype=np.float32).reshape(1, 3, 8, 8)
    np.testing.assert_allclose(run(after, frames), run(before, frames), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "side", "wanted"),
    [(3, 3, 3), (4, 3, 4), (6, 3, 8), (9, 3, 12), (18, 5, 20), (6, 1, 6), (10, 3, 10), (12, 3, 12)],
)
def test_convolutions_that_webgpu_computes_wrong_get_channels_of_zeros(channels, side, wanted):
    rng = np.random.default_rng(channels)
    kernel = rng.standard_normal((8, channels, side, side)).astype(np.float32)
    conv = onnx.helper.make_node("Conv", ["frames", "kernel"], ["restored"], strides=[2, 2])
    before = model_of([conv], {"kernel": kernel}, [1, channels, 9, 9])
    after = web_graph(before, FLOAT)
    (weights,) = [
        one for one in onnx.load_from_string(after).graph.initializer if len(one.dims) == 4
    ]
    assert weights.dims[1] == wanted
    frames = rng.standard_normal((1, channels, 9, 9)).astype(np.float32)
    np.testing.assert_allclose(run(after, frames), run(before, frames), rtol=1e-5, atol=1e-5)


def test_depthwise_convolutions_are_left_as_they_are():
    kernel = np.ones((6, 1, 3, 3), np.float32)
    conv = onnx.helper.make_node("Conv", ["frames", "kernel"], ["restored"], group=6)
    after = web_graph(model_of([conv], {"kernel": kernel}, [1, 6, 9, 9]), FLOAT)
    assert operators_of(after) == ["Conv"]


@pytest.mark.parametrize(
    ("io", "size", "wanted"),
    [
        ("uint8", None, ("n", "h", "w")),
        ("uint8", (32, 48), (1, 32, 48)),
        ("float", None, ("n", "h", "w")),
        ("float", (32, 48), (1, 32, 48)),
    ],
)
def test_the_names_of_free_sides_are_read(make_graph, tmp_path, io, size, wanted):
    model = make_graph(tmp_path / "a.onnx", io=io, size=size).read_bytes()
    image = ImageContract(io=io, multiple=1, size=size)
    after = web_graph(model, image)
    assert graph_dimensions(after, image) == wanted
    assert check_parity(model, after, image) <= 0.51


def test_a_graph_of_other_values_is_refused(make_graph, tmp_path):
    one, two = (make_graph(tmp_path / f"{gain}.onnx", gain=gain) for gain in (0.8, 0.9))
    image = ImageContract(io="uint8", multiple=1, size=None)
    with pytest.raises(GraphError, match="differs from the bundle's by"):
        check_parity(one.read_bytes(), web_graph(two.read_bytes(), image), image)
