"""Training that knows of INT8: gradients, and that what is exported is what was trained."""

from __future__ import annotations

import copy
import math

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mirnet_edge.dependencies import available
from mirnet_edge.errors import OptionError
from mirnet_edge.export.onnx_graph import write_int8
from mirnet_edge.images import contract
from mirnet_edge.models.edge import PixelHead
from mirnet_edge.quantization.legalizer import check_for_tensorrt
from mirnet_edge.quantization.mixed_precision import list_quantized_convolutions
from mirnet_edge.quantization.qat import (
    FakeQuantizer,
    fake_quantize,
    learned_ranges_of,
    list_pixelwise_convolutions,
    prepare_qat,
    remove_quantizers,
)


def _batch(images, count=1):
    return torch.cat([torch.from_numpy(contract.batch_from_frames(one)) for one in images(count)])


@pytest.fixture(scope="module", params=["edge", "light", "light-enlarging", "one-stream"])
def faked(request, network_of, images):
    """Two networks: in float, and fake-quantized."""
    fp32 = copy.deepcopy(network_of(request.param))
    network = copy.deepcopy(fp32).requires_grad_()
    prepare_qat(network, [_batch(images, 3)])
    return fp32, network


@pytest.fixture(scope="module")
def exported(faked, tmp_path_factory):
    return write_int8(faked[1], tmp_path_factory.mktemp("qat") / "int8.onnx", size=(32, 48))


def test_rounding_lets_gradients_through_and_the_edges_do_not():
    value = torch.tensor([-300.0, -1.3, 0.2, 0.9, 300.0], requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    given = fake_quantize(value, scale)
    assert given.tolist() == [-128.0, -1.0, 0.0, 1.0, 127.0]
    given.sum().backward()
    assert value.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    # the rounding error inside, the edge itself outside
    inside = (-1.0 + 1.3) + (0.0 - 0.2) + (1.0 - 0.9)
    assert float(scale.grad) == pytest.approx(-128.0 + 127.0 + inside, abs=1e-4)


def test_learning_a_scale_brings_it_to_the_values():
    torch.manual_seed(0)
    quantizer, values = FakeQuantizer(), torch.randn(4, 8, 8, 8)
    weight = torch.randn(8, 8, 1, 1)
    with torch.no_grad():
        quantizer.log_scale.fill_(math.log(0.5))  # a step of half a standard deviation
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.1)
    errors = []
    for _ in range(60):
        error = (quantizer(values, weight)[0] - values).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.05 * errors[0]


def test_what_decides_about_the_frame_stays_in_float(faked, exported):
    _, network = faked
    chosen = {
        name.removesuffix(".quantizer")
        for name, module in network.named_modules()
        if isinstance(module, FakeQuantizer)
    }
    assert "stem" in chosen
    assert {"blocks.0.middle.body.0", "blocks.0.top.body.6"} & chosen
    assert not [name for name in chosen if "exposure" in name or "channel" in name]
    # a head with a gate is two convolutions once it is exported
    added = isinstance(network.head, PixelHead)
    assert len(list_quantized_convolutions(onnx.load(exported))) == len(chosen) + added


@pytest.fixture(scope="module")
def faked_for_cpu(network_of, images):
    """Two networks: in float, and fake-quantized as graphs for processors are."""
    fp32 = copy.deepcopy(network_of("light"))
    network = copy.deepcopy(fp32)
    prepare_qat(network, [_batch(images, 3)], "cpu")
    return fp32, network


@torch.no_grad()
def test_for_processors_weights_have_seven_bits_and_what_a_relu_gave_eight(faked_for_cpu):
    _, network = faked_for_cpu
    ends = {}
    for name, conv in network.named_modules():
        if not isinstance(getattr(conv, "quantizer", None), FakeQuantizer):
            continue
        scale = float(conv.quantizer.scale)
        batch, weight = conv.quantizer(1000 * scale * torch.tensor([-1.0, 1.0]), conv.weight)
        steps = weight / (conv.weight.abs().amax((1, 2, 3), keepdim=True) / 63)
        assert float(steps.abs().max()) == pytest.approx(63, abs=1e-3), name
        assert float((steps - steps.round()).abs().max()) < 1e-3
        ends[name] = tuple((batch / scale).round().int().tolist())
    assert ends["stem"] == (0, 255), "of an image"
    assert set(ends.values()) == {(-128, 127), (0, 255)}


@torch.no_grad()
def test_learned_ranges_are_those_of_all_inputs_but_the_frame(faked_for_cpu):
    _, network = faked_for_cpu
    found = learned_ranges_of(network)
    modules = dict(network.named_modules())
    chosen = {name.removesuffix(".quantizer") for name in modules if name.endswith("quantizer")}
    assert found.keys() == chosen - {"stem"}
    for name, magnitude in found.items():
        quantizer = modules[name].quantizer
        batch, _ = quantizer(torch.tensor([1e6]), modules[name].weight)
        assert magnitude == pytest.approx(float(batch), rel=1e-5)
    assert not network.stem.quantizer.log_scale.requires_grad


def test_a_graph_for_processors_is_the_network_that_was_trained(
    faked_for_cpu, images, run_graph, decibels, tmp_path
):
    fp32, network = faked_for_cpu
    graph = onnx.load(write_int8(network, tmp_path / "int8.onnx", size=(32, 48)))
    kinds = {
        onnx.numpy_helper.to_array(one).dtype.name
        for one in graph.graph.initializer
        if one.name in {node.input[2] for node in graph.graph.node if node.op_type[0] == "Q"}
    }
    assert "uint8" in kinds
    image = images(5)[4]
    batch = torch.from_numpy(contract.batch_from_frames(image))
    with torch.no_grad():
        expected = contract.frames_from_batch(network(batch).numpy())
        plain = contract.frames_from_batch(fp32(batch).numpy())
    found = run_graph(graph, image)
    assert np.abs(found.astype(int) - expected).max() <= 4
    assert decibels(found, expected, 255) > 3 + decibels(found, plain, 255)


@torch.no_grad()
def test_outliers_of_residual_networks_lie_outside_of_the_first_ranges():
    one, all_of_them = FakeQuantizer("cpu"), FakeQuantizer("cpu")
    values = torch.rand(1, 4, 100, 100, generator=torch.manual_seed(0))
    values[0, 0, 0, 0] = 50.0
    for quantizer, outliers in ((one, 1e-4), (all_of_them, 0.0)):
        quantizer.start_observing(outliers)
        quantizer(values, torch.ones(1, 4, 1, 1))
        quantizer.stop_observing()
    assert float(one.scale) == pytest.approx(1 / 255, rel=1e-3)
    assert float(all_of_them.scale) == pytest.approx(50 / 255)


def test_the_mask_of_a_context_is_no_pixelwise_convolution(network_of):
    names = list_pixelwise_convolutions(network_of("mirnet-v2"), torch.rand(1, 3, 32, 32))
    assert names
    assert not [name for name in names if "mask" in name]


def test_it_differs_from_fp32_as_little_as_int8_does(faked, images, decibels):
    fp32, network = faked
    batch = _batch(images, 4)[3:]
    with torch.no_grad():
        found = decibels(network(batch).numpy(), fp32(batch).numpy(), 1)
    assert 38 < found < 70


def test_the_exported_graph_is_the_network_that_was_trained(
    faked, exported, images, run_graph, decibels
):
    image = images(5)[4]
    with torch.no_grad():
        trained = faked[1](torch.from_numpy(contract.batch_from_frames(image)))
    expected = contract.frames_from_batch(trained.numpy())
    found = run_graph(onnx.load(exported), image)
    # a value on the border between two steps may fall to either side
    assert np.abs(found.astype(int) - expected).max() <= 4
    assert np.mean(found != expected) < 0.1
    # and further from fp32 than from it
    with torch.no_grad():
        fp32 = faked[0](torch.from_numpy(contract.batch_from_frames(image)))
    assert decibels(found, expected, 255) > 3 + decibels(
        found, contract.frames_from_batch(fp32.numpy()), 255
    )


def test_the_exported_graph_is_legal_for_tensorrt(exported):
    model = onnx.load(exported)
    check_for_tensorrt(model, "int8.onnx")
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.skipif(not available("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_tensorrt_builds_a_plan_of_it(exported, tmp_path):
    from mirnet_edge.runtime.tensorrt.build import OptimizationProfile, build_engine

    shape = (1, 32, 48, 3)
    build_engine(exported, tmp_path / "int8.plan", [OptimizationProfile(shape, shape, shape)])
    assert (tmp_path / "int8.plan").stat().st_size > 1000


def test_without_quantizers_the_network_is_the_one_it_was(faked, images):
    fp32, network = faked
    plain, batch = remove_quantizers(network), _batch(images)
    assert plain.state_dict().keys() == fp32.state_dict().keys()
    assert [type(one) for one in plain.modules()] == [type(one) for one in fp32.modules()]
    with torch.no_grad():
        assert torch.equal(plain(batch), fp32(batch))
    assert any(isinstance(one, FakeQuantizer) for one in network.modules()), "a copy was asked for"


def test_a_network_or_a_start_that_cannot_be_quantized_is_refused(network_of):
    with pytest.raises(OptionError, match="at least one image"):
        prepare_qat(copy.deepcopy(network_of("edge")), [])
    with pytest.raises(OptionError, match="no convolution"):
        prepare_qat(nn.Sequential(nn.ReLU()), [torch.rand(1, 3, 4, 4)])
