"""FP8 graphs: legal, near INT8, built by a real compiler, refused where there is no FP8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from mirnet_edge.errors import EngineError, GraphError, OptionError
from mirnet_edge.export.onnx_graph import to_fp16
from mirnet_edge.onnx_files import constants_of, write_model
from mirnet_edge.quantization.fp8 import LARGEST, to_fp8
from mirnet_edge.quantization.legalizer import check_for_tensorrt
from mirnet_edge.quantization.ptq import quantize_for_tensorrt
from mirnet_edge.runtime.tensorrt import build as engine
from mirnet_edge.runtime.tensorrt.build import (
    BuildSettings,
    OptimizationProfile,
    build_engine,
    count_convolutions,
    require_precision,
)
from mirnet_edge.runtime.tensorrt.library import find_fp8_obstacle

_PROFILE = OptimizationProfile((1, 32, 48, 3), (1, 32, 48, 3), (1, 32, 48, 3))


@pytest.fixture(scope="module")
def int8(graph_of, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("fp8") / "int8.onnx"
    quantize_for_tensorrt(graph_of("edge"), path, images(3))
    return onnx.load(path)


@pytest.fixture(scope="module")
def fp32(graph_of):
    return onnx.load(graph_of("edge"))


@pytest.fixture(scope="module")
def fp8(int8, fp32):
    return to_fp8(int8, fp32)


@pytest.fixture(scope="module")
def file(fp8, tmp_path_factory):
    path = tmp_path_factory.mktemp("fp8") / "fp8.onnx"
    write_model(fp8, path)  # which checks it
    return path


def test_the_same_tensors_are_quantized_and_the_graph_is_legal(fp8, int8, tmp_path):
    def quantizers(model):
        return [one.name for one in model.graph.node if one.op_type == "QuantizeLinear"]

    assert quantizers(fp8) == [one for one in quantizers(int8) if one in quantizers(fp8)]
    onnx.checker.check_model(fp8, full_check=True)
    check_for_tensorrt(fp8, "fp8.onnx")
    kinds = {
        one.data_type
        for node in fp8.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for one in fp8.graph.initializer
        if one.name == node.input[2]
    }
    assert kinds == {onnx.TensorProto.FLOAT8E4M3FN}
    assert onnx.TensorProto.INT8 not in {one.data_type for one in fp8.graph.initializer}


def test_its_pixels_are_near_those_of_fp32(fp8, fp32, int8, run_graph, images, decibels):
    frame = images(1)[0]
    expected = run_graph(fp32, frame)
    found = decibels(run_graph(fp8, frame), expected, 255)
    # four significant bits in place of eight; a wrong scale gives less than 20 dB
    assert decibels(run_graph(int8, frame), expected, 255) > found > 30


def test_weights_are_those_of_fp32_rounded_to_four_significant_bits(fp8, fp32):
    constants, floats = constants_of(fp8), constants_of(fp32)
    weights = {one.name: floats[one.input[1]] for one in fp32.graph.node if one.op_type == "Conv"}
    dequantizers = {one.output[0]: one for one in fp8.graph.node}
    checked = 0
    for node in fp8.graph.node:
        source = dequantizers.get(node.input[1]) if node.op_type == "Conv" else None
        if source is None:
            continue
        values, scale = (np.asarray(constants[one], np.float64) for one in source.input[:2])
        expected = weights[node.name]
        assert np.abs(values).max() == LARGEST
        error = np.abs(values * scale - expected)
        assert (error <= np.abs(expected) / 16 + scale * 2**-10).all()
        checked += 1
    assert checked > 3


def test_an_fp32_graph_and_one_of_other_convolutions_are_refused(int8, fp32):
    with pytest.raises(GraphError, match="no convolution is quantized"):
        to_fp8(fp32, fp32)
    other = onnx.ModelProto()
    other.CopyFrom(fp32)
    for node in other.graph.node:
        node.name += "_other"
    with pytest.raises(GraphError, match="found none of that name"):
        to_fp8(int8, other)
    other.CopyFrom(int8)
    other.opset_import[0].version = 17
    with pytest.raises(GraphError, match="FP8 needs opset 19, found 17"):
        to_fp8(other, fp32)


# Builds: by a real compiler, which needs no GPU


@pytest.fixture
def _rtx():
    pytest.importorskip("tensorrt_rtx", reason="pip install mirnet-edge[tensorrt-rtx]")


@pytest.mark.usefixtures("_rtx")
def test_it_builds_for_gpus_that_have_fp8_and_for_those_by_default(file, tmp_path):
    halves = tmp_path / "halves.onnx"
    to_fp16(file, halves)
    for graph, precision in ((file, "fp8"), (halves, "fp8+fp16")):
        facts = build_engine(
            graph, tmp_path / "engine.plan", [_PROFILE], precision=precision,
            flavor="tensorrt_rtx",
        )  # fmt: skip
        assert facts.capabilities == ["8.9", "12.0", "12.1"]


@pytest.mark.usefixtures("_rtx")
def test_the_compiler_itself_refuses_it_for_others(file, tmp_path):
    """Why `FIRST_WITH_FP8` is what it is: without being told the precision, it is tried."""
    settings = BuildSettings(capabilities=("8.6",))
    with pytest.raises(EngineError, match=r"Cannot compile for target\(s\) sm86.*fp8_e4m3"):
        build_engine(file, tmp_path / "engine.plan", [_PROFILE], settings=settings)


@dataclass(frozen=True)
class Gpu:
    name: str
    capability: str
    has_fp8: bool


@pytest.mark.parametrize(
    "gpu",
    [
        Gpu("Xavier", "7.2", False), Gpu("T4", "7.5", False), Gpu("A100", "8.0", False),
        Gpu("RTX 3060", "8.6", False), Gpu("Orin", "8.7", False), Gpu("L4", "8.9", True),
        Gpu("H100", "9.0", True), Gpu("B200", "10.0", True), Gpu("Thor", "11.0", True),
        Gpu("RTX 5090", "12.0", True),
    ],
    ids=lambda gpu: gpu.name,
)  # fmt: skip
def test_which_gpus_have_fp8(gpu):
    assert (find_fp8_obstacle(gpu.capability) is None) is gpu.has_fp8


@pytest.mark.usefixtures("_rtx")
def test_an_engine_for_a_gpu_without_fp8_is_refused_with_a_sentence(file, tmp_path):
    settings = BuildSettings(capabilities=("8.9", "8.6"))
    says = r"fp8\.onnx: compute capability 8\.6 has no FP8, which begins with 8\.9 .*use INT8"
    with pytest.raises(EngineError, match=says):
        build_engine(file, tmp_path / "x.plan", [_PROFILE], precision="fp8", settings=settings)
    assert not (tmp_path / "x.plan").exists()


def test_an_engine_for_the_gpu_here_is_refused_where_that_has_no_fp8():
    class Orin:
        capability = "8.7"

    class TensorRt:
        __name__ = "tensorrt"

    with pytest.raises(EngineError, match=r"compute capability 8\.7 has no FP8.*not Jetson Orin"):
        engine._set_fp8_capabilities(TensorRt, BuildSettings(), Orin, "fp8.onnx")


def test_an_engine_that_was_built_in_fp32_in_silence_is_refused():
    """As TensorRT 10.13 did on Jetson Thor (TensorRT issue 4590)."""
    layer = '{"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "%s"}]}'
    for said, kind in (("Row major linear FP32", "fp32"), ("Row major FP8E4M3 format", "fp8")):
        told = '{"Layers": [' + ", ".join([layer % said] * 3) + "]}"
        delivered = count_convolutions(told, "fp8")
        assert delivered == {kind: 3}
        if kind == "fp8":
            assert require_precision(delivered, "fp8+fp16", "fp8.onnx") == delivered
            continue
        with pytest.raises(EngineError, match=r"expected fp8, TensorRT built .* as 3 in fp32"):
            require_precision(delivered, "fp8", "fp8.onnx")


# Commands


def test_a_preset_of_a_device_without_fp8_refuses_it_before_anything_is_exported(capsys, tmp_path):
    from mirnet_edge.cli.export import main

    with pytest.raises(SystemExit) as left:
        main(["--fp8", "--preset", "orin-nano", "--out", str(tmp_path / "bundle")])
    assert left.value.code == 2
    assert "--fp8: Orin Nano 8GB (15 W): compute capability 8.7 has no FP8" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert not (tmp_path / "bundle").exists()


def test_fp8_is_for_tensorrt_and_needs_images(tmp_path):
    from mirnet_edge.export.workspace import ExportOptions

    with pytest.raises(OptionError, match="--fp8 makes a graph for TensorRT, found --target cpu"):
        ExportOptions(weights="shipped:low-light", out=tmp_path, fp8=True, target="cpu")
    with pytest.raises(OptionError, match="--fp8 needs images to set its ranges on"):
        ExportOptions(weights="my.pth", out=tmp_path, fp8=True)


def test_an_export_has_fp8_alone_where_only_that_was_named(network_of, smooth_frames, tmp_path):
    from PIL import Image

    from mirnet_edge import checkpoints
    from mirnet_edge.checkpoints import ModelCard
    from mirnet_edge.export.graphs import make_graphs
    from mirnet_edge.export.workspace import ExportOptions, open_workspace

    weights, images = tmp_path / "small.safetensors", tmp_path / "images"
    images.mkdir()
    checkpoints.save(network_of("edge"), weights, ModelCard(task="low-light"))
    for place, frame in enumerate(smooth_frames(32, 48, 8)):
        Image.fromarray(frame).save(images / f"{place}.png")
    options = ExportOptions(
        weights=str(weights), out=tmp_path / "bundle", fp8=True, fp16=True, target="tensorrt",
        size=(32, 48), calibration=images,
    )  # fmt: skip
    folder = tmp_path / "work"
    folder.mkdir()
    files, _ = make_graphs(open_workspace(options, folder))
    names = [one.name for one in files]
    assert names == ["fp32", "fp16", "fp8-tensorrt", "fp8-fp16-tensorrt"]
    assert sorted(one.stem for one in folder.glob("*.onnx")) == sorted(names)
