"""Losses of old-photo translation, by their definitions."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.training.loss import damage_loss
from mirnet_edge.training.translation.losses import (
    deception_loss,
    discriminator_loss,
    kl_divergence,
    weighted_l1_loss,
)


def test_kl_divergence_is_that_of_torchs_distributions():
    mean, log_variance = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mean, (0.5 * log_variance).exp()), normal(torch.zeros(()), torch.ones(()))
    ).mean()
    assert kl_divergence(mean, log_variance) == pytest.approx(float(expected), rel=1e-5)
    assert kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)) == 0.0


def test_encoder_and_discriminator_want_opposite_scores_of_synthetic_latents():
    ones, zeros = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    assert discriminator_loss(ones, zeros) == 0.0
    assert discriminator_loss(zeros, ones) == 1.0
    assert deception_loss(ones) == 0.0
    assert deception_loss(zeros) == 0.5


def test_damage_loss_falls_with_what_is_found():
    damage = torch.zeros(1, 1, 8, 8)
    damage[..., 3, :] = 1.0
    exact, nothing = 20.0 * (2.0 * damage - 1.0), torch.full_like(damage, -20.0)
    everything = -nothing
    assert damage_loss(exact, damage) < 1e-3
    # no damage found costs the whole Dice coefficient although most pixels are right
    assert damage_loss(nothing, damage) > 0.85
    assert damage_loss(everything, damage) > damage_loss(nothing, damage)


def test_damaged_pixels_weigh_more():
    target, damage = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    damage[..., 0, :] = 1.0
    on_damage, beside = target + damage, target + torch.roll(damage, 1, 2)
    assert weighted_l1_loss(on_damage, target, damage, 0.0) == pytest.approx(0.25)
    assert weighted_l1_loss(on_damage, target, damage, 4.0) == pytest.approx(5 * 0.25 / 2.0)
    assert weighted_l1_loss(beside, target, damage, 4.0) == pytest.approx(0.25 / 2.0)
