"""Branches: added to a convolution without changing it, folded exactly, loaded in both forms."""

from __future__ import annotations

import copy

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints import ModelCard
from mirnet_edge.errors import CheckpointError
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.inference_form import to_inference_form
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.models.mirnet_v2 import MIRNetV2, MIRNetV2Config
from mirnet_edge.models.reparameterization import (
    fold_convolutions,
    fold_tensors,
    is_widened,
    widen_convolutions,
)

TOLERANCE = 1e-5
NETWORKS = {
    "edge": lambda: MIRNetEdge(MIRNetEdgeConfig(channels=(8, 12, 16), exposure_channels=4)),
    "enlarging edge": lambda: MIRNetEdge(
        MIRNetEdgeConfig(channels=(8, 12, 16), exposure_channels=0, stem=2, scale=2)
    ),
    "mirnet": lambda: MIRNet(MIRNetConfig(channels=8, groups=1, blocks=1, streams=2, columns=1)),
    "mirnet-v2": lambda: MIRNetV2(
        MIRNetV2Config(channels=8, groups=2, blocks=1, conv_groups=(1, 2))
    ),
}


@pytest.fixture(params=NETWORKS, ids=str)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval()


@pytest.fixture
def batch():
    return torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))


def disturb(network):
    """Move every weight a little, as training does, branches included."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return network


def convolve_each_branch(conv, features):
    """Return the sum of the branches, each run as convolutions of its own."""
    kernel, branches = conv.parametrizations.weight.original, conv.parametrizations.weight[0]
    size = kernel.shape[-1]
    half = size // 2
    row, column, bottleneck = (scale.view(1, -1, 1, 1) for scale in branches.scale)
    total = functional.conv2d(features, kernel, conv.bias, padding=half)
    total = total + row * functional.conv2d(features, branches.row, padding=(0, half))
    total = total + column * functional.conv2d(features, branches.column, padding=(half, 0))
    wide = functional.conv2d(features, branches.expand[:, :, None, None])
    wide = functional.conv2d(wide, branches.middle, padding=half)
    total = total + bottleneck * functional.conv2d(wide, branches.project[:, :, None, None])
    if branches.identity is not None:
        total = total + branches.identity.view(1, -1, 1, 1) * features
    return total


@pytest.mark.parametrize(("inputs", "outputs", "size"), [(6, 6, 3), (4, 10, 3), (5, 3, 5)])
def test_one_convolution_equals_the_sum_of_its_branches(inputs, outputs, size):
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    assert widen_convolutions(conv) == 1
    disturb(conv)
    features = torch.randn(2, inputs, 11, 13)  # zero padding counts at the borders
    expected = convolve_each_branch(conv, features)
    assert torch.allclose(conv(features), expected, atol=TOLERANCE)
    folded = fold_convolutions(copy.deepcopy(conv))
    assert set(folded.state_dict()) == {"weight", "bias"}
    assert torch.allclose(folded(features), expected, atol=TOLERANCE)


def test_widening_changes_no_output_and_folding_gives_the_network_back(network, batch):
    before, keys = network(batch).detach(), set(network.state_dict())
    assert widen_convolutions(network) > 0
    assert is_widened(network)
    assert widen_convolutions(network) == 0
    assert torch.allclose(network(batch), before, atol=TOLERANCE)
    trained = disturb(network)(batch).detach()
    assert not torch.allclose(trained, before, atol=1e-3)
    fold_convolutions(network)
    assert not is_widened(network)
    assert set(network.state_dict()) == keys
    assert torch.allclose(network(batch), trained, atol=TOLERANCE)


def test_every_branch_learns():
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, padding=1)
    widen_convolutions(conv)
    conv(torch.randn(2, 6, 8, 8)).square().sum().backward()
    assert all(float(one.grad.abs().max()) > 0.0 for one in conv.parameters())


def test_pointwise_and_grouped_convolutions_stay():
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 2))
    assert widen_convolutions(network) == 0


def test_checkpoints_of_both_forms_load_alike(network, batch, tmp_path):
    widen_convolutions(network)
    disturb(network)
    checkpoints.save(network, tmp_path / "wide.safetensors", ModelCard())
    fold_convolutions(network)
    checkpoints.save(network, tmp_path / "folded.safetensors", ModelCard())
    wide, folded = (
        checkpoints.load(tmp_path / f"{name}.safetensors").model for name in ("wide", "folded")
    )
    assert not is_widened(wide)
    assert torch.allclose(wide(batch), folded(batch), atol=TOLERANCE)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("wide", "folded")]
    assert sizes[0] > 2 * sizes[1]


def test_the_inference_form_has_no_branches_and_leaves_the_network_widened(network, batch):
    widen_convolutions(network)
    expected = disturb(network)(batch)
    rewritten = to_inference_form(network)
    assert not is_widened(rewritten)
    assert is_widened(network)
    assert torch.allclose(rewritten(batch), expected, atol=TOLERANCE)


def test_branches_that_do_not_fit_are_refused(tmp_path):
    network = NETWORKS["edge"]()
    widen_convolutions(network)
    tensors = network.state_dict()
    key = next(key for key in tensors if key.endswith(".0.row"))
    for name, changed in (
        ("missing", {other: value for other, value in tensors.items() if other != key}),
        ("misshapen", {**tensors, key: tensors[key][:1]}),
    ):
        path = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file({k: v.clone() for k, v in changed.items()}, path)
        with pytest.raises(CheckpointError, match="branches"):
            checkpoints.load(path)


def test_tensors_without_branches_stay():
    tensors = NETWORKS["edge"]().state_dict()
    folded = fold_tensors(tensors)
    assert list(folded) == list(tensors)
    assert all(folded[key] is tensors[key] for key in tensors)
