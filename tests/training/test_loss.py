"""The loss is what its formula says."""

from __future__ import annotations

import torch

from mirnet_edge.training.loss import charbonnier


def test_charbonnier_is_the_formula():
    one, two = torch.tensor([[0.5, 0.2]]), torch.tensor([[0.1, 0.2]])
    expected = ((0.4**2 + 0.01**2) ** 0.5 + 0.01) / 2
    assert torch.isclose(charbonnier(one, two, epsilon=0.01), torch.tensor(expected))


def test_charbonnier_is_symmetric_and_grows_with_distance():
    one, near, far = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4) * 0.01, torch.ones(2, 3, 4, 4)
    assert charbonnier(one, one + near) == charbonnier(one + near, one)
    assert charbonnier(one, one + near) < charbonnier(one, one + far)
