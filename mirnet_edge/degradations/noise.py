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
    """How noisy and how compressed.

    Raises:
        OptionError: A value lies outside its range.
    """

    sigma: float = 0.0
    """Standard deviation of Gaussian noise, in 8-bit levels, as papers on denoising state it."""
    photons: float | None = None
    """Photons that a white pixel collects; the fewer, the noisier. None for no photon noise."""
    spread: float = 0.0
    """Standard deviation, in pixels, of the blur that a camera's demosaicing gives its noise.
    What a pixel's noise measures stays; neighbors come to share it."""
    alike: float = 0.0
    """From 0 to 1: the share of the Gaussian noise's variance that the three channels have in
    common; a camera's color conversion mixes them."""
    jpeg_quality: int | None = None
    """From 1 to 100, as libjpeg counts; None for no compression."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if not 0.0 <= self.sigma <= 255.0:
            raise OptionError(f"sigma must lie in [0, 255] 8-bit levels, found {self.sigma}")
        if self.photons is not None and not self.photons > 0.0:
            raise OptionError(f"photons must be above 0, found {self.photons}")
        if not 0.0 <= self.spread <= 10.0 or not 0.0 <= self.alike <= 1.0:
            raise OptionError(
                "spread must lie in [0, 10] pixels and alike in [0, 1], "
                f"found {self.spread} and {self.alike}"
            )
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise OptionError(f"jpeg_quality must lie in [1, 100], found {self.jpeg_quality}")


def add_noise(frame: Frame, settings: Noise, generator: np.random.Generator) -> Frame:
    """Return FRAME with noise, then compressed.

    Before clipping and rounding, a value v in [0, 1] has the variance v / photons (Poisson) plus
    (sigma / 255)^2, as in Foi et al., "Practical Poissonian-Gaussian Noise Modeling and Fitting
    for Single-Image Raw-Data", IEEE TIP 2008.

    Args:
        frame: (H, W, 3) uint8 RGB.
        settings: How strong; the default changes nothing.
        generator: The only source of chance.

    Returns:
        The same shape and type; the frame itself where nothing was asked for.
    """
    if settings.photons is not None or settings.sigma:
        clean = frame.astype(np.float32) / np.float32(255.0)
        value = clean + _spread(_noise(clean, settings, generator), settings.spread)
        frame = np.rint(np.clip(value, 0.0, 1.0) * 255.0).astype(np.uint8)
    return frame if settings.jpeg_quality is None else _compress(frame, settings.jpeg_quality)


def _compress(frame: Frame, quality: int) -> Frame:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream).convert("RGB"))


def _noise(clean: Pixels, settings: Noise, generator: np.random.Generator) -> Pixels:
    """Return what is to be added to CLEAN, independent from pixel to pixel."""
    noise = np.zeros_like(clean)
    if settings.photons is not None:
        noise += generator.poisson(clean * settings.photons) / np.float32(settings.photons) - clean
    if settings.sigma:
        own = generator.standard_normal(clean.shape, dtype=np.float32)
        if settings.alike:
            common = generator.standard_normal((*clean.shape[:2], 1), dtype=np.float32)
            own = np.sqrt(settings.alike) * common + np.sqrt(1.0 - settings.alike) * own
        noise += np.float32(settings.sigma / 255.0) * own.astype(np.float32)
    return noise


def _spread(noise: Pixels, radius: float) -> Pixels:
    """Return the noise blurred, then as strong as it was."""
    if not radius:
        return noise
    import cv2

    kernel = cv2.getGaussianKernel(2 * math.ceil(3.0 * radius) + 1, radius)
    # the variance of a weighted sum of independent values: once for rows, once for columns
    kept = np.float32((kernel**2).sum())
    blurred = cv2.sepFilter2D(noise, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    kept_level: Pixels = np.asarray(blurred, np.float32)
    kept_level /= kept
    return kept_level
