"""Blending: a straight line between two sets of weights."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints import Card
from mirnet_edge.checkpoints.blend import blended
from mirnet_edge.errors import CheckpointError, OptionError


@pytest.fixture
def saved(tmp_path, network_of):
    def save(name, seed=0):
        path = tmp_path / f"{name}{seed}.safetensors"
        checkpoints.save(network_of(name, seed), path, Card(task="low-light"))
        return checkpoints.load(path)

    return save


def test_the_ends_are_the_two_and_a_quarter_lies_a_quarter_of_the_way(saved):
    one, two = saved("edge", 0), saved("edge", 1)
    before = {name: weight.clone() for name, weight in one.model.state_dict().items()}
    for share in (0.0, 0.25, 1.0):
        blend = blended(one, two, share).state_dict()
        for name, weight in two.model.state_dict().items():
            expected = before[name] + share * (weight - before[name])
            torch.testing.assert_close(blend[name], expected)
    assert all(torch.equal(before[name], weight) for name, weight in one.model.state_dict().items())


def test_other_shapes_and_shares_are_refused(saved):
    one = saved("edge")
    with pytest.raises(CheckpointError, match="two networks of one shape, found edge"):
        blended(one, saved("mirnet"), 0.5)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(OptionError, match=r"share must lie in \[0, 1\]"):
            blended(one, one, share)
