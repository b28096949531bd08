"""Image quality metrics against references: PSNR, SSIM, MAE, flicker; colors, contrast.

All take (N, H, W, 3) RGB, uint8 or floating in [0, 1] (floats are clamped to it), cut nothing off
the borders, and sum in float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import ImageError
from mirnet_edge.images.contract import LUMA

if TYPE_CHECKING:
    from collections.abc import Callable

Images: TypeAlias = NDArray[np.uint8] | NDArray[np.floating]
"""(N, H, W, 3) RGB, uint8 or floating in [0, 1]."""
_Image: TypeAlias = NDArray[np.float64]
"""(H, W, 3) in [0, 1]."""

# Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", IEEE TIP 2004, section III
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
FLICKER_BLOCK = 16
"""Side in pixels of the blocks of `flicker`, whose means have little noise of single pixels."""
_LUMA_FLOOR = 1.0 / 255.0  # added to a block's mean, so that black blocks do not dominate


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

    Not comparable with `psnr`: it ignores a wrong exposure, and so measures noise and lost detail
    alone. Low-light papers report it as "GT mean", since KinD (Zhang et al., ACM MM 2019).

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


def colorfulness(images: Images) -> NDArray[np.float64]:
    """Return each image's colorfulness M3, on [0, 1]: 0 for gray, about 0.2 for a usual photo.

    After Hasler and Suesstrunk, SPIE 2003 (volume 5007), section 6: spread
    plus 0.3 times mean of the two color differences.

    Args:
        images: (N, H, W, 3).

    Returns:
        (N,).

    Raises:
        ImageError: As for `psnr`.
    """
    return _per_image(lambda one, _: _colorfulness(one), images, images)


def contrast(images: Images) -> NDArray[np.float64]:
    """Return each image's RMS contrast: the standard deviation of its luma, on [0, 1].

    Args:
        images: (N, H, W, 3).

    Returns:
        (N,).

    Raises:
        ImageError: As for `psnr`.
    """
    return _per_image(lambda one, _: float(np.std(one @ LUMA)), images, images)


def flicker(restored: Images, source: Images, *, still: float = 2.0 / 255.0) -> float:
    """Return the flicker of a restored video's still regions relative to its source's.

    The variance over time of each block's luma, relative to its squared mean luma, averaged over
    the blocks that stand still in the source: that of the restored video over that of the source.
    A constant gain gives 1, a gain that changes between frames more, denoising less.

    Args:
        restored: (N, scale H, scale W, 3), the frames of one video in order, at least 3.
        source: (N, H, W, 3), at least 16x16; may have the other type.
        still: A block stands still where its luma's standard deviation, on [0, 1], is at most
            this.

    Returns:
        A ratio of variances; infinite where the source does not change at all.

    Raises:
        ImageError: Not two videos of one length and shape, or nothing stands still.
    """
    scale = restored.shape[1] // max(1, source.shape[1]) if restored.ndim == source.ndim == 4 else 0
    expected = (len(source), scale * source.shape[1], scale * source.shape[2], 3) if scale else ()
    if restored.shape != expected or len(source) < 3 or min(source.shape[1:3]) < FLICKER_BLOCK:
        raise ImageError(
            f"expected two videos of at least 3 frames of {FLICKER_BLOCK}x{FLICKER_BLOCK}, the "
            f"restored as large or a whole number of times larger, found {restored.shape} and "
            f"{source.shape}"
        )
    after, before = _blocks(restored, scale * FLICKER_BLOCK), _blocks(source, FLICKER_BLOCK)
    is_still = before.std(0) <= still
    if not is_still.any():
        raise ImageError(
            f"no block of the source stands still within {255 * still:.1f} levels; give a clip "
            "of a camera that stands still, or a larger limit"
        )
    source_flicker, restored_flicker = (
        float(np.mean(blocks.var(0) / (blocks.mean(0) + _LUMA_FLOOR) ** 2))
        for blocks in (before[:, is_still], after[:, is_still])
    )
    if source_flicker == 0.0:
        return 1.0 if restored_flicker == 0.0 else np.inf
    return restored_flicker / source_flicker


def _colorfulness(image: _Image) -> float:
    red, green, blue = np.moveaxis(image, 2, 0)
    differences = red - green, (red + green) / 2.0 - blue
    spread = math.hypot(*(float(one.std()) for one in differences))
    mean = math.hypot(*(float(one.mean()) for one in differences))
    return spread + 0.3 * mean


def _blocks(frames: Images, side: int) -> NDArray[np.float64]:
    """Return (N, blocks): the mean luma of each square of that side, on [0, 1]."""
    found = []
    for frame in frames:
        height, width = (length // side * side for length in frame.shape[:2])
        luma = _unit(frame[:height, :width]) @ LUMA
        found.append(luma.reshape(height // side, side, width // side, side).mean((1, 3)).ravel())
    return np.stack(found)


def _psnr(restored: _Image, reference: _Image) -> float:
    error = float(np.mean(np.square(restored - reference)))
    return np.inf if error == 0.0 else -10.0 * float(np.log10(error))


def _psnr_gtmean(restored: _Image, reference: _Image) -> float:
    mean = float(np.mean(restored @ LUMA))
    if mean > 0.0:
        restored = np.clip(restored * (float(np.mean(reference @ LUMA)) / mean), 0.0, 1.0)
    return _psnr(restored, reference)


def _ssim(restored: _Image, reference: _Image) -> float:
    one, two = _blur(restored), _blur(reference)
    variance_one = _blur(restored * restored) - one * one
    variance_two = _blur(reference * reference) - two * two
    covariance = _blur(restored * reference) - one * two
    c1, c2 = SSIM_K1**2, SSIM_K2**2  # the range is 1
    similar = (2.0 * one * two + c1) * (2.0 * covariance + c2)
    possible = (one * one + two * two + c1) * (variance_one + variance_two + c2)
    return float(np.mean(similar / possible))


def _blur(image: _Image) -> _Image:
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


ASSUMED_TRUTH_DB = 30.0
"""Where no reference exists, the accuracy drop is what independent errors would cost an image that
fp32 restores at this PSNR."""


def estimate_drop_db(against_fp32_db: float) -> float:
    """Return the accuracy drop that a PSNR against fp32 stands for, where no reference exists.

    Independent errors add up in the mean square: 10 log10(1 + e_own / e_fp32), with e_fp32 that
    of `ASSUMED_TRUTH_DB`.
    """
    if math.isinf(against_fp32_db):
        return 0.0
    return 10.0 * math.log10(1.0 + 10.0 ** ((ASSUMED_TRUTH_DB - against_fp32_db) / 10.0))
