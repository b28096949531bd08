"""MIRNetEdge: its shape, its start, its size rules, and that its parts do what they are for."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional

from mirnet_edge.checkpoints.families import edge_config_from_tensors
from mirnet_edge.errors import ImageError, OptionError
from mirnet_edge.models import edge
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.inference_form import to_inference_form

_SMALL = MIRNetEdgeConfig(channels=(8, 12, 16), blocks=2, exposure_channels=4)


def _randomized(config: MIRNetEdgeConfig, seed: int = 0) -> MIRNetEdge:
    """Return a network none of whose weights is at its special first value."""
    torch.manual_seed(seed)
    network = MIRNetEdge(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return network


_THREE = (8, 12, 16)
SHAPES = [
    _SMALL,
    MIRNetEdgeConfig(),
    *(
        MIRNetEdgeConfig(channels=_THREE, stem=stem, scale=scale, exposure_channels=exposure)
        for stem in (1, 2, 4)
        for scale in (1, 2, 3)
        for exposure in (0, 4)
    ),
    *(
        MIRNetEdgeConfig(channels=_THREE, stem=stem, scale=scale, exposure_channels=4, light=True)
        for stem in (1, 2, 4)
        for scale in (1, 2, 3)
    ),
    *(
        MIRNetEdgeConfig(channels=_THREE, stem=stem, light=True, damage_channels=5)
        for stem in (1, 2, 4)
    ),
    *(
        MIRNetEdgeConfig(
            channels=(8, 0, 0), depth=depth, blocks=blocks, stem=stem, scale=3, light=True
        )
        for depth, blocks, stem in ((2, 1, 1), (5, 1, 2), (3, 2, 1))
    ),
    MIRNetEdgeConfig(channels=_THREE, depth=4, stem=1, scale=2, light=True),
    *(
        MIRNetEdgeConfig(
            channels=channels, depth=depth, stem=stem, light=True, full_convolutions=True
        )
        for channels in (_THREE, (8, 0, 0))
        for depth in (2, 4)
        for stem in (1, 2, 4)
    ),
    MIRNetEdgeConfig(channels=_THREE, exposure_channels=4, exposure_members=3),
    MIRNetEdgeConfig(channels=_THREE, exposure_channels=4, exposure_members=2, light=True),
]


@pytest.mark.parametrize(
    "config",
    SHAPES,
    ids=lambda c: (
        f"{'light-' * c.light}stem{c.stem}x{c.scale}-{c.exposure_channels}-{c.blocks}"
        f"-{c.damage_channels}-{c.depth}-{c.exposure_members}-{c.channels[1]}"
        f"{'-full' * c.full_convolutions}"
    ),
)
def test_the_shape_is_told_from_the_tensors(config):
    assert edge_config_from_tensors(MIRNetEdge(config).state_dict()) == config


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
        Refused(
            "one stream in the standard form",
            {"channels": (8, 0, 0), "scale": 2},
            "a light network of full convolutions can have one stream alone",
        ),
        Refused(
            "one stream at the same size",
            {"channels": (8, 0, 0), "light": True},
            "a light network of full convolutions can have one stream alone",
        ),
        Refused("deep in the standard form", {"depth": 3}, "depth must be 2, or more in a light"),
        Refused("deep at the same size", {"depth": 3, "light": True}, "depth must be 2, or more"),
        Refused(
            "shallow",
            {"channels": (8, 0, 0), "light": True, "scale": 2, "depth": 1},
            "depth must be 2, or more",
        ),
        Refused("no block", {"blocks": 0}, "at least 1"),
        Refused("odd stem", {"stem": 3}, "stem must be 1, 2 or 4, found 3"),
        Refused("negative exposure", {"exposure_channels": -1}, "exposure_channels at least 0"),
        Refused("no member", {"exposure_members": 0}, "exposure_members must be at least 1"),
        Refused("no scale", {"scale": 0}, "scale must"),
        Refused("great scale", {"scale": 5}, "scale must"),
        Refused("full in the standard form", {"full_convolutions": True}, "is of light networks"),
        Refused(
            "damage with full convolutions",
            {"damage_channels": 8, "light": True, "full_convolutions": True},
            "separable convolutions, found 8",
        ),
        Refused("damage in the standard form", {"damage_channels": 8}, "light network of scale 1"),
        Refused(
            "damage in an enlarging network",
            {"damage_channels": 8, "light": True, "scale": 2},
            "light network of scale 1",
        ),
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


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("exposure", [0, 4])
@pytest.mark.parametrize(("stem", "multiple"), [(1, 4), (2, 8), (4, 16)])
def test_output_is_so_many_times_as_large_at_the_smallest_size(stem, multiple, exposure, scale):
    network = _randomized(
        MIRNetEdgeConfig(channels=_THREE, stem=stem, scale=scale, exposure_channels=exposure)
    )
    # the thumbnail of a network that has an exposure branch needs eight
    assert network.multiple == (max(multiple, 8) if exposure else multiple)
    side = network.multiple
    with torch.no_grad():
        enlarged = network(torch.rand(2, 3, side, 3 * side))
    assert enlarged.shape == (2, 3, scale * side, 3 * scale * side)


@pytest.mark.parametrize("scale", [2, 3])
def test_an_untrained_enlarger_starts_near_bilinear(scale):
    torch.manual_seed(0)
    batch = torch.rand(1, 3, 16, 24)
    network = MIRNetEdge(
        MIRNetEdgeConfig(channels=_THREE, stem=2, scale=scale, exposure_channels=0)
    ).eval()
    expected = functional.interpolate(batch, scale_factor=scale, mode="bilinear")
    with torch.no_grad():
        assert (network(batch) - expected).abs().mean() < 0.15


@pytest.mark.parametrize("stem", [1, 2])
@pytest.mark.parametrize("scale", [2, 3])
def test_an_untrained_light_enlarger_starts_as_nearest_neighbor(stem, scale):
    torch.manual_seed(0)
    batch = torch.rand(1, 3, 16, 24)
    network = MIRNetEdge(
        MIRNetEdgeConfig(channels=_THREE, stem=stem, scale=scale, exposure_channels=0, light=True)
    ).eval()
    torch.nn.init.zeros_(network.head.weight)
    with torch.no_grad():
        expected = functional.interpolate(batch, scale_factor=scale, mode="nearest")
        assert torch.equal(network(batch), expected)


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_an_untrained_network_of_full_convolutions_starts_as_the_identity(stem):
    torch.manual_seed(0)
    batch = torch.rand(1, 3, 16, 32)
    network = MIRNetEdge(
        MIRNetEdgeConfig(channels=_THREE, stem=stem, light=True, full_convolutions=True)
    ).eval()
    torch.nn.init.zeros_(network.head.weight)
    with torch.no_grad():
        assert torch.equal(network(batch), network.expose(batch))


def test_light_networks_that_enlarge_have_full_convolutions():
    assert MIRNetEdgeConfig(light=True, scale=2).full_convolutions
    assert not MIRNetEdgeConfig(light=True).full_convolutions


def test_where_there_is_no_exposure_branch_it_has_one_member():
    assert MIRNetEdgeConfig(exposure_channels=0, exposure_members=3).exposure_members == 1


def test_without_exposure_channels_there_is_no_branch():
    network = MIRNetEdge(MIRNetEdgeConfig(channels=_THREE, exposure_channels=0))
    assert network.exposure is None
    assert not [key for key in network.state_dict() if key.startswith("exposure")]
    batch, other = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 24, 36)
    with torch.no_grad():
        assert torch.equal(network(batch), network(batch, other))


@pytest.mark.parametrize("size", [(8, 8), (64, 96), (96, 64), (480, 640)])
def test_the_thumbnail_has_one_size_for_all_frames_and_their_brightness(size):
    frames = torch.rand(2, 3, *size) * torch.tensor([0.2, 1.0]).view(2, 1, 1, 1)
    thumbnail = edge.thumbnail_of(frames)
    assert thumbnail.shape == (2, 3, 24, 36)
    flat = edge.thumbnail_of(torch.full((1, 3, *size), 0.25))
    assert torch.allclose(flat, torch.tensor(0.25))
    assert 3.0 < thumbnail[1].mean() / thumbnail[0].mean() < 7.0


def test_a_missing_part_of_the_exposure_branch_is_not_taken_for_none():
    tensors = dict(MIRNetEdge(_SMALL).state_dict())
    del tensors["exposure.features.0.weight"]
    with pytest.raises(KeyError, match=r"exposure\.features\.0\.weight"):
        edge_config_from_tensors(tensors)


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
        branch.decide[-1].bias[6:] = 0.0  # no color mixing: each channel is its own curve
        branch.decide[-1].weight[6:] = 0.0
        ramp = torch.linspace(0, 1, 64).expand(1, 3, 8, 64)
        toned = branch(ramp, edge.thumbnail_of(ramp))
    assert toned[..., 0].abs().max() == 0
    assert (toned.diff(dim=-1) > 0).all()


def test_a_crop_with_its_frames_thumbnail_gets_the_exposure_of_the_frame():
    branch = _randomized(_SMALL, seed=4).exposure  # with 0 its first layer gives zeros
    frame = torch.rand(1, 3, 64, 64) * torch.linspace(0.05, 1, 64)
    with torch.no_grad():
        whole = branch(frame, edge.thumbnail_of(frame))
        crop = frame[..., :32, :32]
        anchored = branch(crop, edge.thumbnail_of(frame))
        alone = branch(crop, edge.thumbnail_of(crop))
    assert torch.equal(anchored, whole[..., :32, :32])
    assert not torch.allclose(alone, whole[..., :32, :32], atol=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (48, 32), (80, 112)])
@pytest.mark.parametrize("stem", [1, 2, 4])
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
