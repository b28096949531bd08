"""MIRNetEdge: its shape, its start, its size rules, and that its parts do what they are for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional

from mirnet_edge.compression.inference_form import to_inference_form
from mirnet_edge.errors import ImageError, OptionError
from mirnet_edge.models import edge
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig

_SMALL = MIRNetEdgeConfig(channels=(8, 12, 16), blocks=2, exposure_channels=4)


def _randomized(config: MIRNetEdgeConfig) -> MIRNetEdge:
    """Return a network none of whose weights is at its special first value."""
    torch.manual_seed(0)
    network = MIRNetEdge(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return network


@pytest.mark.parametrize("config", [_SMALL, MIRNetEdgeConfig(), MIRNetEdgeConfig(stem=2, blocks=1)])
def test_the_shape_is_told_from_the_tensors(config):
    assert edge.config_from_tensors(MIRNetEdge(config).state_dict()) == config


@dataclass(frozen=True)
class Refused:
    id: str
    arguments: dict
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Refused("two streams", {"channels": (8, 8)}, "three positive numbers"),
        Refused("no channel", {"channels": (8, 0, 8)}, "three positive numbers"),
        Refused("no block", {"blocks": 0}, "at least 1"),
        Refused("odd stem", {"stem": 3}, "2 or 4"),
    ],
    ids=lambda case: case.id,
)
def test_shapes_that_make_no_network_are_refused(case):
    with pytest.raises(OptionError, match=case.says):
        MIRNetEdgeConfig(**case.arguments)


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (16, 80)])
def test_output_has_the_size_of_the_input(size):
    batch = torch.rand(2, 3, *size)
    assert _randomized(_SMALL)(batch).shape == batch.shape


@pytest.mark.parametrize(("stem", "size"), [(4, (32, 40)), (4, (24, 32)), (2, (32, 36))])
def test_other_sizes_are_refused(stem, size):
    network = MIRNetEdge(MIRNetEdgeConfig(channels=(8, 8, 8), blocks=1, stem=stem))
    with pytest.raises(ImageError, match=f"{size[1]}x{size[0]}.*multiples of {network.multiple}"):
        network(torch.rand(1, 3, *size))


def test_an_untrained_network_starts_near_its_input():
    torch.manual_seed(0)
    batch = torch.rand(1, 3, 32, 32)
    difference = (MIRNetEdge(_SMALL).eval()(batch) - batch).abs().mean()
    assert difference < 0.15


def test_the_tone_curve_is_monotone_and_keeps_black_black():
    branch = _randomized(_SMALL).exposure
    with torch.no_grad():
        branch.decide[-1].bias[6:] = 0.0  # no colour mixing: each channel is its own curve
        branch.decide[-1].weight[6:] = 0.0
        ramp = torch.linspace(0, 1, 64).expand(1, 3, 8, 64)
        toned = branch(ramp, edge.thumbnail_of(ramp))
    assert toned[..., 0].abs().max() == 0
    assert (toned.diff(dim=-1) > 0).all()


def test_a_crop_with_its_frames_thumbnail_gets_the_exposure_of_the_frame():
    branch = _randomized(_SMALL).exposure
    frame = torch.rand(1, 3, 64, 64) * torch.linspace(0.05, 1, 64)
    with torch.no_grad():
        whole = branch(frame, edge.thumbnail_of(frame))
        crop = frame[..., :32, :32]
        anchored = branch(crop, edge.thumbnail_of(frame))
        alone = branch(crop, edge.thumbnail_of(crop))
    assert torch.equal(anchored, whole[..., :32, :32])
    assert not torch.allclose(alone, whole[..., :32, :32], atol=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (48, 32), (80, 112)])
@pytest.mark.parametrize("stem", [2, 4])
def test_the_inference_form_computes_the_same(size, stem):
    network = _randomized(MIRNetEdgeConfig(channels=(8, 12, 16), blocks=1, stem=stem))
    batch = torch.rand(1, 3, *size)
    with torch.no_grad():
        rewritten = to_inference_form(network)(batch)
        assert (rewritten - network(batch)).abs().max() < 1e-5


def test_the_inference_form_has_no_unshuffle_and_leaves_the_original_alone():
    network = MIRNetEdge(_SMALL)
    rewritten = to_inference_form(network)
    assert type(rewritten.stem) is torch.nn.Conv2d
    assert rewritten.stem.stride == (4, 4)
    assert isinstance(network.stem, edge.UnshuffledConv)
    assert network.training


def test_bilinear_and_1x1_commute():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 3, 1, bias=False)
    network = torch.nn.Sequential(
        torch.nn.Sequential(
            torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), conv
        )
    )
    rewritten = to_inference_form(network)
    assert isinstance(rewritten[0][0], torch.nn.Conv2d)
    features = torch.rand(1, 6, 5, 7)
    with torch.no_grad():
        expected = conv(functional.interpolate(features, scale_factor=2, mode="bilinear"))
        assert torch.allclose(rewritten(features), expected, atol=1e-6)
