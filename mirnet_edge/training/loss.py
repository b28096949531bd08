"""What training minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from mirnet_edge.metrics import SSIM_K1, SSIM_K2, SSIM_SIGMA, SSIM_WINDOW

if TYPE_CHECKING:
    from torch import Tensor


def charbonnier(restored: Tensor, reference: Tensor, *, epsilon: float = 1e-3) -> Tensor:
    """Return the mean Charbonnier distance, a smooth L1.

    sqrt((x - y)^2 + epsilon^2), as in Zamir et al., MIRNet (ECCV 2020), equation 4, and
    Charbonnier et al., ICIP 1994.

    Args:
        restored: (N, C, H, W), any range.
        reference: The same shape.
        epsilon: Where the distance turns from quadratic to linear.

    Returns:
        A scalar.
    """
    return ((restored - reference).square() + epsilon**2).sqrt().mean()


def structural_dissimilarity(restored: Tensor, reference: Tensor) -> Tensor:
    """Return one minus the mean structural similarity, as `metrics.ssim` defines it.

    It sees the structure that noise hides where a distance per pixel is content with a blur; used
    beside one, as in Zhao et al., "Loss Functions for Image Restoration With Neural Networks",
    IEEE TCI 2017.

    Args:
        restored: (N, C, H, W) in [0, 1], H and W at least 11.
        reference: The same shape.

    Returns:
        A scalar in [0, 2].
    """
    window = _gaussian(restored.shape[1]).to(restored)
    mean_r, mean_t = _blurred(restored, window), _blurred(reference, window)
    variance_r = _blurred(restored.square(), window) - mean_r.square()
    variance_t = _blurred(reference.square(), window) - mean_t.square()
    covariance = _blurred(restored * reference, window) - mean_r * mean_t
    c1, c2 = SSIM_K1**2, SSIM_K2**2  # the range is 1
    luminance = (2.0 * mean_r * mean_t + c1) / (mean_r.square() + mean_t.square() + c1)
    structure = (2.0 * covariance + c2) / (variance_r + variance_t + c2)
    return 1.0 - (luminance * structure).mean()


def _gaussian(channels: int) -> Tensor:
    place = torch.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = torch.exp(-place.square() / (2.0 * SSIM_SIGMA**2))
    return (weights / weights.sum()).expand(channels, 1, 1, SSIM_WINDOW)


def _blurred(batch: Tensor, window: Tensor) -> Tensor:
    """Return the means under the window where it lies inside: rows first, then columns."""
    channels = batch.shape[1]
    rows = functional.conv2d(batch, window, groups=channels)
    return functional.conv2d(rows, window.transpose(2, 3), groups=channels)
