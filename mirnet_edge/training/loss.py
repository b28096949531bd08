"""Training losses: Charbonnier, L1, SSIM, MS-SSIM, edge (Laplacian), frequency (FFT), color."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from mirnet_edge.images.contract import LUMA
from mirnet_edge.metrics import FLICKER_BLOCK, SSIM_K1, SSIM_K2, SSIM_SIGMA, SSIM_WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from mirnet_edge.training.recipe import TrainingRecipe

# Wang et al., 2003, section 3.2: the weights of the scales, finest first
_SCALE_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_DARKEST = 0.02  # added to the luma of blocks, so that black ones do not dominate


def total_loss(restored: Tensor, target: Tensor, recipe: TrainingRecipe) -> Tensor:
    """Return the weighted sum of a recipe's losses, a scalar; both images (N, 3, H, W)."""
    measure_pixels = PIXEL_LOSSES[recipe.pixel_loss]
    value = measure_pixels(restored, target)
    if fraction := recipe.equal_brightness_fraction:
        restored = match_brightness(restored, target)
        value = value.lerp(measure_pixels(restored, target), fraction)
    for weight, measure in (
        (recipe.ssim_weight, ssim_loss),
        (recipe.ms_ssim_weight, ms_ssim_loss),
        (recipe.edge_weight, edge_loss),
        (recipe.frequency_weight, frequency_loss),
        (recipe.color_weight, partial(color_loss, region=recipe.color_region)),
    ):
        if weight:
            value = value + weight * measure(restored, target)
    return value


def charbonnier_loss(restored: Tensor, target: Tensor, *, epsilon: float = 1e-3) -> Tensor:
    """Return the mean Charbonnier loss, a smooth L1.

    sqrt((x - y)^2 + epsilon^2), as in Zamir et al., MIRNet (ECCV 2020), equation 4, and
    Charbonnier et al., ICIP 1994.

    Args:
        restored: (N, C, H, W), any range.
        target: The same shape.
        epsilon: Where the loss turns from quadratic to linear.

    Returns:
        A scalar.
    """
    return ((restored - target).square() + epsilon**2).sqrt().mean()


def l1_loss(restored: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference, a scalar; both images (N, C, H, W)."""
    return (restored - target).abs().mean()


PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "charbonnier": charbonnier_loss,
    "l1": l1_loss,
}


def match_brightness(restored: Tensor, target: Tensor) -> Tensor:
    """Return the restored images, each at its target's mean luma, as `metrics.psnr_gtmean` does.

    A loss of the result does not see a wrong exposure, which pulls at every pixel alike where the
    right one cannot be known, and leaves color, contrast and detail (Liao et al., "GT-Mean Loss",
    ICCV 2025, without their weighting).

    Args:
        restored: (N, 3, H, W) RGB.
        target: The same shape.

    Returns:
        The same shape. Gains are limited to 1/4 to 4.
    """
    brightness, wanted = (
        _luma(batch).mean((1, 2, 3), keepdim=True) for batch in (restored, target)
    )
    gain = wanted / brightness.clamp_min(1e-3)
    return restored * gain.clamp(0.25, 4.0)


def color_loss(restored: Tensor, target: Tensor, *, region: int = 0) -> Tensor:
    """Return how far contrast and colors of images, or of their regions, are from the targets'.

    The mean absolute difference of five statistics of each: the standard deviation of the luma
    (contrast), and mean and standard deviation of red - green and of yellow - blue, of which
    colorfulness is made (Hasler and Suesstrunk, SPIE 2003). A pixel loss alone prefers dull colors
    where it is not certain.

    Args:
        restored: (N, 3, H, W) RGB.
        target: The same shape.
        region: Side of the square regions, in pixels, at most H and W; 0 for whole images.

    Returns:
        A scalar.
    """
    height, width = restored.shape[-2:]
    size = (region, region) if region else (height, width)
    one, two = (_color_statistics(batch, size) for batch in (restored, target))
    return (one - two).abs().mean()


def _color_statistics(batch: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (N, 5, h, w) of regions: deviation of luma, deviations and means of the colors."""
    red, green, blue = batch.unbind(1)
    rows = torch.stack([_luma(batch).squeeze(1), red - green, (red + green) / 2.0 - blue], 1)
    means = functional.avg_pool2d(rows, size)
    variances = functional.avg_pool2d(rows.square(), size) - means.square()
    # a variance has a slope at zero, a deviation none; rounding leaves some below zero
    return torch.cat([(variances.clamp_min(0.0) + 1e-6).sqrt(), means[:, 1:]], 1)


def _luma(batch: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, dtype=batch.dtype, device=batch.device)
    return (batch * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)


def residual_penalty(residual: Tensor, limit: float) -> Tensor:
    """Return the mean of how far the magnitudes of a residual are above a limit, a scalar.

    Args:
        residual: (N, 3, H, W), 1 is the range of an image.
        limit: Above 0.
    """
    return functional.relu(residual.abs() - limit).mean()


def flicker_penalty(restored: Tensor) -> Tensor:
    """Return how much the results of two noisy images of one scene differ, a scalar.

    The mean absolute difference of the colors of blocks of 16x16 pixels, relative to their luma:
    what `metrics.flicker` sees of a video, and a color that changes with the noise.

    Args:
        restored: (2 N, 3, H, W) in [0, 1], H and W at least 16; the second half shows the scenes
            of the first.
    """
    one, two = functional.avg_pool2d(restored, FLICKER_BLOCK).chunk(2)
    brightness = _luma((one + two).detach() / 2.0).clamp_min(0.0) + _DARKEST
    return ((one - two).abs() / brightness).mean()


def edge_loss(restored: Tensor, target: Tensor) -> Tensor:
    """Return the Charbonnier loss of the two images' Laplacians.

    As in Jiang et al., "Multi-Scale Progressive Fusion Network for Single Image Deraining", CVPR
    2020, equation 6, with the 3x3 Laplacian.

    Args:
        restored: (N, C, H, W), H and W at least 3.
        target: The same shape.

    Returns:
        A scalar.
    """
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    channels = restored.shape[1]
    weight = kernel.to(restored).expand(channels, 1, 3, 3)
    difference = functional.conv2d(restored - target, weight, groups=channels)
    return (difference.square() + 1e-6).sqrt().mean()


def frequency_loss(restored: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference of the two images' Fourier transforms.

    As in Cho et al., "Rethinking Coarse-to-Fine Approach in Single Image Deblurring", ICCV 2021,
    section 3.4, with the orthonormal transform, so that the image's size does not matter.

    Args:
        restored: (N, C, H, W).
        target: The same shape.

    Returns:
        A scalar.
    """
    spectrum = torch.fft.rfft2(restored - target, norm="ortho")
    return torch.view_as_real(spectrum).abs().mean()


def ssim_loss(restored: Tensor, target: Tensor) -> Tensor:
    """Return one minus the mean structural similarity, as `metrics.ssim` defines it.

    It keeps structure where a pixel loss alone prefers a blur; to be
    added to one, as in Zhao et al., "Loss Functions for Image Restoration With Neural Networks",
    IEEE TCI 2017.

    Args:
        restored: (N, C, H, W) in [0, 1], H and W at least 11.
        target: The same shape.

    Returns:
        A scalar in [0, 2].
    """
    luminance, structure = _similarities(restored, target)
    return 1.0 - (luminance * structure).mean()


def ms_ssim_loss(restored: Tensor, target: Tensor) -> Tensor:
    """Return one minus the multi-scale structural similarity (MS-SSIM).

    Wang et al., "Multiscale Structural Similarity for Image Quality Assessment", Asilomar 2003,
    equation 7, with their five exponents, per image and channel. Images under 176 pixels do
    not fill the window at the fifth scale: they are compared at the scales they have, with
    exponents scaled to add up to one. Structure of opposite sign counts as none.

    Args:
        restored: (N, C, H, W) in [0, 1], H and W at least 11.
        target: The same shape.

    Returns:
        A scalar in [0, 1].
    """
    scales = 1 + int(math.log2(min(restored.shape[-2:]) / SSIM_WINDOW))
    exponents = _SCALE_EXPONENTS[:scales]
    similarity = torch.ones(restored.shape[:2], device=restored.device)
    for scale, exponent in enumerate(exponents, start=1):
        luminance, structure = _similarities(restored, target)
        last = scale == len(exponents)
        value = (luminance * structure if last else structure).mean((2, 3))
        # a power below one has no finite slope at zero
        similarity = similarity * value.clamp_min(1e-4) ** (exponent / sum(exponents))
        restored, target = (
            functional.avg_pool2d(restored, 2),
            functional.avg_pool2d(target, 2),
        )
    return 1.0 - similarity.mean()


def _similarities(restored: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the luminance and the structure term of SSIM, for each window."""
    window = _gaussian(restored.shape[1]).to(restored)
    mean_r, mean_t = _blurred(restored, window), _blurred(target, window)
    variance_r = _blurred(restored.square(), window) - mean_r.square()
    variance_t = _blurred(target.square(), window) - mean_t.square()
    covariance = _blurred(restored * target, window) - mean_r * mean_t
    c1, c2 = SSIM_K1**2, SSIM_K2**2  # the range is 1
    luminance = (2.0 * mean_r * mean_t + c1) / (mean_r.square() + mean_t.square() + c1)
    structure = (2.0 * covariance + c2) / (variance_r + variance_t + c2)
    return luminance, structure


def _gaussian(channels: int) -> Tensor:
    place = torch.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = torch.exp(-place.square() / (2.0 * SSIM_SIGMA**2))
    return (weights / weights.sum()).expand(channels, 1, 1, SSIM_WINDOW)


def _blurred(batch: Tensor, window: Tensor) -> Tensor:
    """Return the windowed means, without padding: rows first, then columns."""
    channels = batch.shape[1]
    rows = functional.conv2d(batch, window, groups=channels)
    return functional.conv2d(rows, window.transpose(2, 3), groups=channels)


def damage_loss(logits: Tensor, damage: Tensor) -> Tensor:
    """Return the loss of found damage: cross-entropy, and one minus the Dice coefficient.

    Damage covers few pixels: the second part does not see the others. Milletari et al., "V-Net",
    3DV 2016, equation 1.

    Args:
        logits: (N, 1, H, W).
        damage: The same shape, 0 or 1.

    Returns:
        A scalar.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, damage)
    found = logits.sigmoid()
    both = (found * damage).sum()
    dice = (2.0 * both + 1.0) / (found.square().sum() + damage.square().sum() + 1.0)
    return entropy + 1.0 - dice
