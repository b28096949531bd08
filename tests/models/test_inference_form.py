"""The deployed form computes the same, costs no more, and leaves the network as it was."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig, PixelHead, UnshuffledConv
from mirnet_edge.models.inference_form import SplitHead, strided_from_unshuffled, to_inference_form
from mirnet_edge.models.macs import count_macs

_NETWORKS = [
    "edge",
    "light",
    "enlarging",
    "light-enlarging",
    "one-stream",
    "mirnet",
    "mirnet-v2",
    "keras-mirnet",
]


def _image(height, width, channels=3, count=1):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", _NETWORKS)
@pytest.mark.parametrize("size", [(16, 16), (32, 48), (64, 16)], ids=str)
def test_the_rewritten_network_gives_the_same_image(name, size, network_of):
    network, batch = network_of(name), _image(*size, count=2)
    expected = network(batch)
    assert expected.std() > 0.05, "the image is too flat to see anything"
    torch.testing.assert_close(to_inference_form(network)(batch), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("exposure", [0, 4], ids=["no exposure", "exposure"])
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("stem", [1, 2, 4])
def test_every_shape_of_the_edge_network_is_rewritten(stem, scale, exposure):
    torch.manual_seed(0)
    config = MIRNetEdgeConfig(
        channels=(8, 8, 8), blocks=1, exposure_channels=exposure, stem=stem, scale=scale
    )
    network = MIRNetEdge(config).eval()
    with torch.no_grad():  # it starts at the identity, which hides mistakes
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    deployed = to_inference_form(network)
    assert type(deployed.stem) is nn.Conv2d
    assert deployed.stem.stride == (stem, stem)
    assert isinstance(deployed.head, SplitHead)
    assert deployed.head.factor == stem * scale
    batch = _image(32, 48)
    found = deployed(batch)
    assert found.shape == (1, 3, 32 * scale, 48 * scale)
    assert found.std() > 0.05, "the image is too flat to see anything"
    torch.testing.assert_close(found, network(batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", _NETWORKS)
def test_no_activation_with_one_slope_is_left_wherever_it_is_shared(name, network_of):
    network = copy.deepcopy(network_of(name))
    slopes = [one.weight for one in network.modules() if isinstance(one, nn.PReLU)]
    for place, slope in enumerate(slopes):  # not all alike, and some of them negative
        nn.init.constant_(slope, 0.3 - 0.1 * (place % 5))
    deployed = to_inference_form(network)
    assert not any(isinstance(one, nn.PReLU) for one in deployed.modules())
    leaky = [one for one in deployed.modules() if isinstance(one, nn.LeakyReLU)]
    assert bool(leaky) == bool(slopes) or name == "mirnet-v2"  # which has LeakyReLU from the start
    batch = _image(32, 48)
    expected = network(batch)
    # of the output's range: with these slopes that of the Keras MIRNet is thousands wide
    tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(deployed(batch), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "name", ["mirnet", "mirnet-v2", "keras-mirnet"]
)  # those that mirnet-plan makes itself
def test_a_network_without_values_is_rewritten_too(name, network_of):
    deployed = to_inference_form(copy.deepcopy(network_of(name)).to("meta"))
    shape = deployed(torch.empty(1, 3, 32, 48, device="meta")).shape
    assert shape == network_of(name)(_image(32, 48)).shape


def test_an_activation_with_a_slope_for_each_channel_stays():
    several = nn.Sequential(nn.PReLU(3))
    assert isinstance(to_inference_form(several)[0], nn.PReLU)


@pytest.mark.parametrize("light", [False, True], ids=["standard", "light"])
def test_the_head_is_cut_into_two_convolutions_that_give_the_same(light):
    torch.manual_seed(0)
    head = PixelHead(4, 8, light=light)
    torch.nn.init.normal_(head.weight)
    frame, features = torch.rand(2, 3, 20, 28), torch.rand(2, 8, 5, 7)
    split = SplitHead(head)
    assert (split.added.out_channels, split.kept.out_channels) == (48, 16)
    expected = head.restore(frame, features)
    torch.testing.assert_close(split.restore(frame, features), expected, rtol=0, atol=1e-5)
    deployed = to_inference_form(MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 8), light=light)))
    assert isinstance(deployed.head, SplitHead)


@pytest.mark.parametrize("name", _NETWORKS)
def test_the_given_network_is_left_as_it_is(name, network_of):
    network = copy.deepcopy(network_of(name)).train().requires_grad_(True)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    shape = str(network)
    deployed = to_inference_form(network)
    with torch.no_grad():
        for weight in deployed.parameters():
            weight.zero_()
    assert network.training
    assert all(weight.requires_grad for weight in network.parameters())
    assert str(network) == shape
    assert network.state_dict().keys() == before.keys()
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", _NETWORKS)
def test_what_comes_back_is_ready_to_run(name, network_of):
    network = copy.deepcopy(network_of(name)).train().requires_grad_(True)
    deployed = to_inference_form(network)
    assert not any(module.training for module in deployed.modules())
    assert not any(weight.requires_grad for weight in deployed.parameters())


@pytest.mark.parametrize("name", _NETWORKS)
def test_a_second_rewrite_changes_nothing(name, network_of):
    once = to_inference_form(network_of(name))
    twice = to_inference_form(once)
    assert str(twice) == str(once)
    for key, value in twice.state_dict().items():
        assert torch.equal(value, once.state_dict()[key])


def test_mixing_on_the_small_side_costs_less(network_of):
    network = network_of("mirnet")
    assert count_macs(to_inference_form(network), 32, 48) < count_macs(network, 32, 48)


# --- the two rewrites -------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.booleans()
)  # fmt: skip
def test_one_strided_convolution_equals_unshuffling(factor, channels, rows, columns, bias):
    torch.manual_seed(factor * 100 + channels)
    conv = UnshuffledConv(factor, channels)
    if not bias:
        conv.bias = None
    batch = _image(rows * factor, columns * factor)
    strided = strided_from_unshuffled(conv)
    assert not strided.weight.requires_grad
    torch.testing.assert_close(strided(batch), conv(batch), rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([0.25, 0.5, 2.0, 4.0]), st.booleans(), st.integers(1, 5), st.integers(1, 5)
)  # fmt: skip
def test_resizing_and_mixing_commute(factor, align, inputs, outputs):
    torch.manual_seed(inputs * 10 + outputs)
    resize = nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=align)
    network = nn.ModuleDict(
        {"up": nn.Sequential(resize, nn.Conv2d(inputs, outputs, 1, bias=False))}
    )
    deployed = to_inference_form(network)
    assert isinstance(deployed["up"][0], nn.Conv2d)
    batch = _image(8, 12, inputs)
    torch.testing.assert_close(deployed["up"](batch), network["up"](batch), rtol=0, atol=1e-5)


def _twice(mode="bilinear"):
    return nn.Upsample(scale_factor=2, mode=mode)


@dataclass(frozen=True)
class Kept:
    id: str
    layers: tuple


@pytest.mark.parametrize(
    "case",
    [
        Kept("nearest", (_twice("nearest"), nn.Conv2d(3, 4, 1))),
        Kept("a wider kernel", (_twice(), nn.Conv2d(3, 4, 3, padding=1))),
        Kept("the other order", (nn.Conv2d(3, 4, 1), _twice())),
        Kept("something between", (_twice(), nn.ReLU(), nn.Conv2d(3, 4, 1))),
        Kept("something after", (_twice(), nn.Conv2d(3, 4, 1), nn.ReLU())),
        Kept("no convolution", (_twice(), nn.ReLU())),
    ],
    ids=lambda case: case.id,
)
def test_other_sequences_stay_in_order(case):
    network = nn.ModuleDict({"up": nn.Sequential(*case.layers)})
    deployed = to_inference_form(network)
    assert str(deployed) == str(network)
    batch = _image(8, 12)
    assert torch.equal(deployed["up"](batch), network["up"](batch))
