"""Activations are counted as torch allocates and frees them."""

from __future__ import annotations

import torch
from torch import nn

from mirnet_edge.models.memory import convolution_bytes, peak_activation_bytes


class _Branches(nn.Module):
    """Holds its input's double until the end, and frees what it computes between."""

    def forward(self, batch):
        kept = batch * 2.0
        passing = batch + 1.0
        passing = passing + 1.0
        view = passing.reshape(-1)
        return kept.reshape(-1) + view


def test_a_tensor_counts_until_its_last_view_is_gone():
    batch = torch.zeros(1, 3, 8, 16)
    size = 4 * batch.numel()
    # kept, and the sum before the one that replaces it: three at once, and so at the last sum
    assert peak_activation_bytes(_Branches(), batch) == 3 * size


def test_weights_do_not_count_and_the_network_stays_as_it_is():
    network = nn.Sequential(nn.Conv2d(3, 500, 3, padding=1), nn.ReLU(inplace=True)).eval()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    batch = torch.zeros(1, 3, 4, 4)
    assert peak_activation_bytes(network, batch) == 4 * 500 * 16
    assert all(torch.equal(before[name], one) for name, one in network.state_dict().items())
    assert network(batch).shape == (1, 500, 4, 4)


class _Shared(nn.Module):
    """Two convolutions take one tensor; the second has no bias."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 5, 1, bias=False)
        self.last = nn.Conv2d(13, 2, 3, stride=2, padding=1)

    def forward(self, batch):
        return self.last(torch.cat((self.first(batch), self.second(batch)), 1).relu())


def test_what_convolutions_take_and_give_with_a_bias_counts_once():
    inputs, given, joined, halved = 3 * 64, 8 * 64, 13 * 64, 2 * 16
    expected = 4 * (inputs + given + joined + halved)
    assert convolution_bytes(_Shared().eval(), torch.zeros(1, 3, 8, 8)) == expected
