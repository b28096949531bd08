"""The MIRNet of the Keras examples computes what Keras computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mirnet_edge.errors import ImageError, OptionError
from mirnet_edge.models.keras_mirnet import (
    VARIANTS,
    ChannelSoftmaxFusion,
    KerasMIRNet,
    KerasMIRNetConfig,
)

# Pixels (5, 7), (5, 20), (11, 7) of one channel's rows and so on: a network of 8 channels, 2 groups
# and 1 block, every weight a sine of its place. From a torch network that was checked against
# Keras 3.15.1 (jax) at 1.2e-4 on outputs up to 38; torch 2.9, 2026-11-29.
_GOLDEN = {
    "2021": [-4.09641, 0.58019, -3.52449, 0.63471, -3.21421, 0.34401],
    "2023": [-3.17352, 1.6305, -2.86891, 1.33628, -2.83665, 0.6853],
}


def _waves(count, phase=0.0):
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.7 + phase)


def _filled(variant):
    network = KerasMIRNet(KerasMIRNetConfig(variant=variant, channels=8, groups=2, blocks=1)).eval()
    convolutions = [one for one in network.modules() if isinstance(one, nn.Conv2d)]
    with torch.no_grad():
        for index, one in enumerate(convolutions):
            inputs = one.in_channels * one.kernel_size[0] ** 2
            for weight, scale in ((one.weight, 0.8 * inputs**-0.5), (one.bias, 0.3)):
                weight.copy_((scale * _waves(weight.numel(), index)).reshape(weight.shape))
    return network


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_are_those_of_the_checked_network(variant):
    frame = torch.sin(torch.arange(3 * 16 * 24, dtype=torch.float64)).reshape(1, 3, 16, 24)
    with torch.no_grad():
        found = _filled(variant)(((frame + 1) / 2).float())[0, :, (5, 11), (7, 20)].flatten()
    torch.testing.assert_close(found, torch.tensor(_GOLDEN[variant]), rtol=0, atol=1e-4)


def test_the_weights_of_a_stream_sum_to_one_over_its_channels():
    torch.manual_seed(0)
    fusion, stream = ChannelSoftmaxFusion(16), torch.ones(1, 16, 4, 4)
    nothing = torch.zeros_like(stream)
    for place in range(3):
        streams = [stream if place == one else nothing for one in range(3)]
        torch.testing.assert_close(fusion(streams).sum(1), torch.ones(1, 4, 4))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"variant": "2022"}, "2021 or 2023"),
        ({"channels": 7}, "at least 8"),
        ({"groups": 0}, "groups must be"),
        ({"blocks": 0}, "blocks must be"),
        ({"unit_widths": (8, 8)}, "3 positive numbers"),
    ],
)
def test_shapes_without_a_network_are_refused(changes, says):
    with pytest.raises(OptionError, match=says):
        KerasMIRNetConfig(**changes)


def test_a_frame_of_another_size_is_refused():
    with pytest.raises(ImageError, match="multiples of 4"):
        KerasMIRNet(KerasMIRNetConfig(channels=8, groups=1, blocks=1))(torch.zeros(1, 3, 16, 18))
