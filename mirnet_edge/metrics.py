"""How close restored pictures are to their references: functions, one value per image.

All take (N, H, W, 3) RGB, uint8 or floating in [0, 1] (floats are clamped to it), cut nothing off
the borders, and sum in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

Images: TypeAlias = NDArray[np.uint8] | NDArray[np.floating]
"""(N, H, W, 3) RGB, uint8 or floating in [0, 1]."""
_Image: TypeAlias = NDArray[np.float64]
"""(H, W, 3) in [0, 1]."""

# Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", IEEE TIP 2004, section III
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, what OpenCV's RGB to gray uses


def psnr(restored: Images, reference: Images) -> NDArray[np.float64]:
    """Return each image's peak signal-to-noise ratio in dB, on [0, 1], over all of RGB.

    Args:
        restored: (N, H, W, 3).
        reference: The same shape; may have the other type.

    Returns:
        (N,). Infinite where the two images are equal.

    Raises:
        ImageError: The shapes differ or are not those of images, or the type is another.
    """
    return _per_image(_psnr, restored, reference)


def psnr_gtmean(restored: Images, reference: Images) -> NDArray[np.float64]:
    """Return `psnr` after giving the restored image the reference's mean gray.

    A different figure from `psnr`, and never to be compared with it: it forgives a wrong
    exposure, and so tells that error from noise and lost detail. Low-light papers report it as
    "GT mean" (Zhang et al., KinD, ACM MM 2019, began it).

    Args:
        restored: (N, H, W, 3); multiplied by the ratio of the mean grays, then clamped. An image
            that is all black stays so.
        reference: The same shape; may have the other type.

    Returns:
        (N,). Infinite where the two images are equal.

    Raises:
        ImageError: As for `psnr`.
    """
    return _per_image(_psnr_gtmean, restored, reference)


def ssim(restored: Images, reference: Images) -> NDArray[np.float64]:
    """Return each image's structural similarity, the mean over RGB.

    Wang et al. 2004: a Gaussian window of 11x11 with sigma 1.5, K1 0.01, K2 0.03, at the places
    where the window lies inside the image.

    Args:
        restored: (N, H, W, 3), both sides at least 11.
        reference: The same shape; may have the other type.

    Returns:
        (N,), at most 1, which is reached where the two images are equal.

    Raises:
        ImageError: As for `psnr`, or the images are smaller than the window.
    """
    if restored.ndim == 4 and min(restored.shape[1:3]) < SSIM_WINDOW:
        raise ImageError(
            f"images are {restored.shape[2]}x{restored.shape[1]}; SSIM needs at least "
            f"{SSIM_WINDOW}x{SSIM_WINDOW}. Measure larger ones, or use psnr"
        )
    return _per_image(_ssim, restored, reference)


def mae(restored: Images, reference: Images) -> NDArray[np.float64]:
    """Return each image's mean absolute error, on [0, 1].

    Args:
        restored: (N, H, W, 3).
        reference: The same shape; may have the other type.

    Returns:
        (N,), from 0 to 1.

    Raises:
        ImageError: As for `psnr`.
    """
    return _per_image(lambda one, two: float(np.mean(np.abs(one - two))), restored, reference)


def _psnr(restored: _Image, reference: _Image) -> float:
    error = float(np.mean(np.square(restored - reference)))
    return np.inf if error == 0.0 else -10.0 * float(np.log10(error))


def _psnr_gtmean(restored: _Image, reference: _Image) -> float:
    mean = float(np.mean(restored @ _LUMA))
    if mean > 0.0:
        restored = np.clip(restored * (float(np.mean(reference @ _LUMA)) / mean), 0.0, 1.0)
    return _psnr(restored, reference)


def _ssim(restored: _Image, reference: _Image) -> float:
    one, two = _blurred(restored), _blurred(reference)
    variance_one = _blurred(restored * restored) - one * one
    variance_two = _blurred(reference * reference) - two * two
    covariance = _blurred(restored * reference) - one * two
    c1, c2 = SSIM_K1**2, SSIM_K2**2  # the range is 1
    similar = (2.0 * one * two + c1) * (2.0 * covariance + c2)
    possible = (one * one + two * two + c1) * (variance_one + variance_two + c2)
    return float(np.mean(similar / possible))


def _blurred(image: _Image) -> _Image:
    import cv2

    border = SSIM_WINDOW // 2
    blurred = np.asarray(
        cv2.GaussianBlur(image, (SSIM_WINDOW, SSIM_WINDOW), SSIM_SIGMA), np.float64
    )
    return blurred[border:-border, border:-border]


def _per_image(
    figure: Callable[[_Image, _Image], float], restored: Images, reference: Images
) -> NDArray[np.float64]:
    """Return (N,): the figure of each pair. One image at a time, which bounds the memory."""
    if restored.shape != reference.shape or restored.ndim != 4 or restored.size == 0:
        raise ImageError(
            f"expected two sets of images of one shape (N, H, W, 3), found {restored.shape} and "
            f"{reference.shape}; bring them to one size, or give image[None]"
        )
    pairs = zip(restored, reference, strict=True)
    return np.array([figure(_unit(one), _unit(two)) for one, two in pairs])


def _unit(image: Images) -> _Image:
    if image.dtype == np.uint8:
        return np.asarray(image, np.float64) / 255.0
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(
            f"images must be uint8, or floating in [0, 1], found {image.dtype}; convert them"
        )
    return np.clip(np.asarray(image, np.float64), 0.0, 1.0)
