"""Losses of old-photo translation: KL divergence, least-squares adversarial loss, mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the mean divergence, in nats per number, of a Gaussian from the standard normal one.

    Args:
        mean: Any shape.
        log_variance: The same shape.

    Returns:
        A scalar, 0 where the mean is 0 and the variance 1.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()


def discriminator_loss(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return the least-squares loss of a discriminator: 1 for real latents, 0 for synthetic ones.

    Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017.

    Args:
        real: Its scores of latents of real old photos.
        synthetic: Those of synthetic ones.

    Returns:
        A scalar, 0 where it tells all of them apart.
    """
    return 0.5 * ((real - 1.0).square().mean() + synthetic.square().mean())


def deception_loss(synthetic: Tensor) -> Tensor:
    """Return what an encoder pays for synthetic latents that look synthetic, a scalar."""
    return 0.5 * (synthetic - 1.0).square().mean()


def weighted_l1_loss(restored: Tensor, target: Tensor, damage: Tensor, weight: float) -> Tensor:
    """Return the mean absolute difference, where damaged pixels count (1 + WEIGHT) times.

    Args:
        restored: (N, 3, H, W).
        target: The same shape.
        damage: (N, 1, H, W), 0 or 1.
        weight: From 0.

    Returns:
        A scalar, relative to an undamaged photo's.
    """
    share = 1.0 + weight * damage
    return (share * (restored - target).abs()).mean() / share.mean()
