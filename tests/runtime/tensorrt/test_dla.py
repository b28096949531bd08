"""What the DLA could run: graphs by hand whose answer is known, and those of the family."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mirnet_edge.export.onnx_graph import to_fp16
from mirnet_edge.runtime.tensorrt.bundle_engines import dla_report

_HALF = TensorProto.FLOAT16


def _model(*nodes, side=16, kind=_HALF, **constants):
    """Return a graph from x to y in fp16; w is a weight of 3x3."""
    constants = {"w": np.ones((4, 4, 3, 3), np.float16), **constants}
    graph = helper.make_graph(
        [helper.make_node(op, inputs.split(), outputs.split(), **attributes)
         for op, inputs, outputs, attributes in nodes],
        "net",
        [helper.make_tensor_value_info("x", kind, [1, 4, side, side])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph)


def _conv(source, target, **attributes):
    return ("Conv", f"{source} w", target, {"kernel_shape": [3, 3], **attributes})


_MEAN = ("ReduceMean", "a", "m", {})


def test_convolutions_alone_go_there_and_back():
    report = dla_report(_model(_conv("x", "a"), ("Relu", "a", "b", {}), _conv("b", "y")), "fp16")
    assert (report.operations, report.fitting, report.transitions) == (3, 3, 2)
    assert report.on_gpu == {}
    assert report.is_suited
    assert report.text.startswith("predicted: DLA of Orin, fp16: worth a try")


def test_a_mean_in_the_midst_is_handed_over_twice_more():
    nodes = (_conv("x", "a"), _MEAN, ("Mul", "a m", "s", {}), _conv("s", "y"))
    report = dla_report(_model(*nodes), "fp16")
    assert (report.operations, report.fitting, report.transitions) == (4, 3, 4)
    assert (report.convolutions, report.fitting_convolutions) == (2, 2)
    assert report.on_gpu == {"no ReduceMean on the DLA": 1}
    assert not report.is_suited
    assert "1 x no ReduceMean" in report.text


def test_what_stands_side_by_side_does_not_add_up():
    branches = [("Abs", "x", "a", {})]
    for place in range(3):
        branches += [
            ("ReduceMean", "a", f"m{place}", {}), ("Mul", f"a m{place}", f"s{place}", {}),
        ]  # fmt: skip
    report = dla_report(_model(*branches, ("Sum", "s0 s1 s2", "y", {})), "fp16")
    assert report.on_gpu == {"no ReduceMean on the DLA": 3}
    assert report.transitions == 4


def test_casts_at_the_ends_cost_nothing_more():
    nodes = (("Cast", "x", "a", {"to": _HALF}), _conv("a", "b"), ("Cast", "b", "y", {"to": 2}))
    assert dla_report(_model(*nodes), "fp16").transitions == 2
    assert dla_report(_model(("Cast", "x", "y", {"to": 2})), "fp16").transitions == 0


def test_what_is_computed_while_building_is_no_work():
    nodes = (
        ("Shape", "x", "size", {}), ("Gather", "size zero", "n", {}),
        ("Concat", "n rest", "shape", {"axis": 0}), ("Reshape", "x shape", "y", {}),
    )  # fmt: skip
    model = _model(*nodes, zero=np.array([0]), rest=np.array([-1]))
    report = dla_report(model, "fp16")
    assert (report.operations, report.fitting) == (1, 1)


@dataclass(frozen=True)
class Limited:
    id: str
    node: tuple
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Limited("kernel", _conv("x", "y", kernel_shape=[33, 3]), "Conv with a kernel above 32"),
        Limited("stride", _conv("x", "y", strides=[9, 9]), "Conv with a stride above 8"),
        Limited("padded", ("ConvTranspose", "x w", "y", {"pads": [1, 1, 1, 1]}),
                "ConvTranspose with padding, groups or dilation"),
        Limited("grouped", ("ConvTranspose", "x w", "y", {"group": 2}),
                "ConvTranspose with padding, groups or dilation"),
        Limited("rows", ("Concat", "x x", "y", {"axis": 2}),
                "Concat along another axis than the channels"),
        Limited("computed", ("MatMul", "x x", "y", {}), "MatMul of two computed tensors"),
        Limited("by hand", ("DepthToSpace", "x", "y", {"blocksize": 2}),
                "DepthToSpace only rewritten by hand"),
        Limited("unknown", ("Softplus", "x", "y", {}), "no Softplus on the DLA"),
    ],
    ids=lambda case: case.id,
)  # fmt: skip
def test_a_limit_sends_an_operation_to_the_gpu(case):
    report = dla_report(_model(case.node), "fp16")
    assert report.on_gpu == {case.says: 1}
    assert (report.fitting, report.transitions, report.is_suited) == (0, 0, False)


@pytest.mark.parametrize(
    "node",
    [
        _conv("x", "y", kernel_shape=[32, 32], strides=[8, 8], group=4),
        ("ConvTranspose", "x w", "y", {"strides": [2, 2]}),
        ("Concat", "x x", "y", {"axis": 1}),
        ("MatMul", "x w", "y", {}),
    ],
    ids=lambda node: node[0],
)
def test_within_its_limits_it_stays(node):
    assert dla_report(_model(node), "fp16").fitting == 1


def test_an_open_size_is_an_obstacle():
    report = dla_report(_model(_conv("x", "y"), side="h"), "fp16")
    assert not report.is_suited
    assert "export with --size" in report.text


def test_float_and_quantized_graphs_are_sent_to_fp16():
    floats = _model(_conv("x", "y"), w=np.ones((4, 4, 3, 3), np.float32), kind=TensorProto.FLOAT)
    assert dla_report(floats, "fp32").obstacles[0].startswith("it computes in fp32")
    quantized = _model(("QuantizeLinear", "x s", "q", {}), ("DequantizeLinear", "q s", "a", {}),
                       _conv("a", "y"), s=np.float16(0.1))  # fmt: skip
    report = dla_report(quantized, "int8")
    assert report.obstacles[0].startswith("it has Q/DQ nodes")
    assert report.on_gpu == {"Q/DQ": 2}


@pytest.mark.parametrize("name", ["edge", "mirnet", "mirnet-v2"])
def test_the_family_pools_too_often_for_it(name, graph_of, tmp_path):
    to_fp16(graph_of(name), tmp_path / "fp16.onnx")
    report = dla_report(onnx.load(tmp_path / "fp16.onnx"), "fp16")
    assert report.obstacles == ()
    assert report.on_gpu["no ReduceMean on the DLA"] > 0
    assert report.transitions > 2
    assert not report.is_suited
    assert 0 < report.fitting_convolutions <= report.convolutions


def test_the_command_builds_nothing_and_says_predicted(make_bundle, make_mode, capsys):
    from mirnet_edge.cli.engine import main
    from mirnet_edge.manifest import FILE_NAME

    folder = make_bundle(modes=[make_mode("onnxruntime:fp32", p50_ms=1.0)])
    path = folder / FILE_NAME
    document = json.loads(path.read_text())
    document["graphs"][0]["targets"] = ["cpu", "tensorrt"]
    path.write_text(json.dumps(document))
    before = sorted(folder.iterdir())
    for arguments in ([], ["--json"]):
        with pytest.raises(SystemExit) as left:
            main([str(folder), "--dla-report", *arguments])
        assert left.value.code == 0
        out = capsys.readouterr().out
        if arguments:
            (report,) = json.loads(out)
            assert (report["predicted"], report["suited"], report["graph"]) == (True, False, "fp32")
        else:
            assert out.startswith("predicted: DLA of Orin, fp32: no")
    assert sorted(folder.iterdir()) == before
