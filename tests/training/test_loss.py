"""The loss is what its formula says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mirnet_edge.metrics import ssim
from mirnet_edge.training.loss import charbonnier, structural_dissimilarity


def test_charbonnier_is_the_formula():
    one, two = torch.tensor([[0.5, 0.2]]), torch.tensor([[0.1, 0.2]])
    expected = ((0.4**2 + 0.01**2) ** 0.5 + 0.01) / 2
    assert torch.isclose(charbonnier(one, two, epsilon=0.01), torch.tensor(expected))


def test_charbonnier_is_symmetric_and_grows_with_distance():
    one, near, far = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4) * 0.01, torch.ones(2, 3, 4, 4)
    assert charbonnier(one, one + near) == charbonnier(one + near, one)
    assert charbonnier(one, one + near) < charbonnier(one, one + far)


def test_structural_dissimilarity_is_one_minus_the_metric():
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(2, 3, 24, 40, generator=generator)
    restored = (reference + 0.1 * torch.randn(reference.shape, generator=generator)).clamp(0, 1)
    measured = ssim(*(one.permute(0, 2, 3, 1).numpy() for one in (restored, reference)))
    found = structural_dissimilarity(restored, reference)
    assert float(found) == pytest.approx(1.0 - np.mean(measured), abs=1e-5)


def test_structural_dissimilarity_of_equals_is_zero_and_has_a_gradient():
    picture = torch.rand(1, 3, 16, 16)
    assert float(structural_dissimilarity(picture, picture)) == pytest.approx(0.0, abs=1e-5)
    noisy = (picture + 0.05 * torch.randn(picture.shape)).requires_grad_()
    structural_dissimilarity(noisy, picture).backward()
    assert torch.isfinite(noisy.grad).all()
    assert noisy.grad.abs().max() > 0.0
