"""Interpolated weights: on the straight line between two sets of weights."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.checkpoints.store import interpolate_weights
from mirnet_edge.errors import CheckpointError, OptionError


def test_the_weights_are_linearly_interpolated(network_of):
    one, two = network_of("edge", 0), network_of("edge", 1)
    before = {name: weight.clone() for name, weight in one.state_dict().items()}
    for fraction in (0.0, 0.25, 1.0):
        interpolated = interpolate_weights(one, two, fraction).state_dict()
        for name, weight in two.state_dict().items():
            expected = before[name] + fraction * (weight - before[name])
            torch.testing.assert_close(interpolated[name], expected)
    assert all(torch.equal(before[name], weight) for name, weight in one.state_dict().items())


def test_other_configs_and_fractions_are_refused(network_of):
    one = network_of("edge")
    with pytest.raises(CheckpointError, match="two networks of one config, found MIRNetEdgeConfig"):
        interpolate_weights(one, network_of("mirnet"), 0.5)
    for fraction in (-0.1, 1.1, float("nan")):
        with pytest.raises(OptionError, match=r"fraction must lie in \[0, 1\]"):
            interpolate_weights(one, one, fraction)
