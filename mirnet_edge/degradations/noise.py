"""Noise and compression: Gaussian, photon, JPEG."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame

    Pixels = NDArray[np.float32]
    """(H, W, 3) RGB in [0, 1], or what is added to it."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Strengths of noise and JPEG compression.

    Raises:
        OptionError: A value lies outside its range.
    """

    sigma: float = 0.0
    """Standard deviation of Gaussian noise, in 8-bit levels, as papers on denoising state it."""
    photons: float | None = None
    """Photons that a white pixel collects; fewer are noisier. None for no photon (shot) noise."""
    blur_sigma: float = 0.0
    """Standard deviation, in pixels, of a Gaussian blur of the noise, as demosaicing makes it. The
    noise level stays; neighboring pixels become correlated."""
    channel_correlation: float = 0.0
    """From 0 to 1: the fraction of the Gaussian noise's variance that the three channels share, as
    a camera's color conversion makes it."""
    jpeg_quality: int | None = None
    """JPEG quality from 1 to 100, as in libjpeg; None for no compression."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if not 0.0 <= self.sigma <= 255.0:
            raise OptionError(f"sigma must lie in [0, 255] 8-bit levels, found {self.sigma}")
        if self.photons is not None and not self.photons > 0.0:
            raise OptionError(f"photons must be above 0, found {self.photons}")
        if not 0.0 <= self.blur_sigma <= 10.0 or not 0.0 <= self.channel_correlation <= 1.0:
            raise OptionError(
                "blur_sigma must lie in [0, 10] pixels and channel_correlation in [0, 1], "
                f"found {self.blur_sigma} and {self.channel_correlation}"
            )
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise OptionError(f"jpeg_quality must lie in [1, 100], found {self.jpeg_quality}")


def add_noise(frame: Frame, settings: Noise, generator: np.random.Generator) -> Frame:
    """Return FRAME with noise added, then JPEG-compressed.

    Before clipping and rounding, a value v in [0, 1] has the variance v / photons (Poisson) plus
    (sigma / 255)^2, as in Foi et al., "Practical Poissonian-Gaussian Noise Modeling and Fitting
    for Single-Image Raw-Data", IEEE TIP 2008.

    Args:
        frame: (H, W, 3) uint8 RGB.
        settings: The strengths; the default changes nothing.
        generator: The only source of randomness.

    Returns:
        The same shape and type; the frame itself where all strengths are zero.
    """
    if settings.photons is not None or settings.sigma:
        clean = frame.astype(np.float32) / np.float32(255.0)
        value = clean + _correlate(_noise(clean, settings, generator), settings.blur_sigma)
        frame = np.rint(np.clip(value, 0.0, 1.0) * 255.0).astype(np.uint8)
    return frame if settings.jpeg_quality is None else _compress(frame, settings.jpeg_quality)


def _compress(frame: Frame, quality: int) -> Frame:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream).convert("RGB"))


def _noise(clean: Pixels, settings: Noise, generator: np.random.Generator) -> Pixels:
    """Return noise to add to CLEAN, independent from pixel to pixel."""
    noise = np.zeros_like(clean)
    if settings.photons is not None:
        noise += generator.poisson(clean * settings.photons) / np.float32(settings.photons) - clean
    if settings.sigma:
        own = generator.standard_normal(clean.shape, dtype=np.float32)
        if settings.channel_correlation:
            common = generator.standard_normal((*clean.shape[:2], 1), dtype=np.float32)
            own = (
                np.sqrt(settings.channel_correlation) * common
                + np.sqrt(1.0 - settings.channel_correlation) * own
            )
        noise += np.float32(settings.sigma / 255.0) * own.astype(np.float32)
    return noise


def _correlate(noise: Pixels, sigma: float) -> Pixels:
    """Return the noise blurred, at the level it had before."""
    if not sigma:
        return noise
    import cv2

    kernel = cv2.getGaussianKernel(2 * math.ceil(3.0 * sigma) + 1, sigma)
    # the variance of a weighted sum of independent values: once for rows, once for columns
    remaining = np.float32((kernel**2).sum())
    blurred = cv2.sepFilter2D(noise, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    correlated: Pixels = np.asarray(blurred, np.float32)
    correlated /= remaining
    return correlated
