"""Activations are counted as torch allocates and frees them."""

from __future__ import annotations

import torch
from torch import nn

from mirnet_edge.models.memory import peak_activation_bytes


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
