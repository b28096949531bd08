"""The channels-last form computes what the network computes."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.models.channels_last import ChannelsLastEdge, to_channels_last_form
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.inference_form import FrameInterface, to_inference_form
from mirnet_edge.models.keras_mirnet import KerasMIRNet, KerasMIRNetConfig

CONFIGS = {
    "low light": MIRNetEdgeConfig(channels=(8, 12, 16), exposure_channels=4),
    "light": MIRNetEdgeConfig(channels=(8, 12, 16), exposure_channels=4, light=True),
    "no exposure branch": MIRNetEdgeConfig(channels=(8, 12, 16), exposure_channels=0, stem=2),
    "enlarging": MIRNetEdgeConfig(channels=(8, 12, 16), exposure_channels=0, stem=2, scale=2),
}


def _deployed(config):
    torch.manual_seed(0)
    network = MIRNetEdge(config)
    for name, parameter in network.named_parameters():
        if name.startswith(("exposure.decide", "head")):  # they begin as the identity
            torch.nn.init.normal_(parameter, std=0.1)
    return to_inference_form(network)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_it_gives_the_same_frames(config):
    deployed = _deployed(config)
    frames = torch.randint(0, 120, (1, 64, 96, 3), dtype=torch.uint8)
    form = to_channels_last_form(deployed)
    assert isinstance(form, ChannelsLastEdge)
    with torch.inference_mode():
        found, expected = form(frames), FrameInterface(deployed, "uint8")(frames)
    assert found.shape == expected.shape
    assert found.dtype == torch.uint8
    assert expected.float().std() > 5.0, "the network does nothing"
    furthest = (found.int() - expected.int()).abs()
    assert furthest.max() <= 1
    assert (furthest > 0).float().mean() < 1e-3


@pytest.mark.parametrize(
    "network",
    [
        KerasMIRNet(KerasMIRNetConfig(channels=8)),
        MIRNetEdge(MIRNetEdgeConfig(channels=(8, 12, 16), light=True, damage_channels=4)),
    ],
    ids=["Keras", "damage branch"],
)
def test_other_networks_keep_their_form(network):
    assert isinstance(to_channels_last_form(to_inference_form(network)), FrameInterface)
