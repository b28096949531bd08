"""Noise and compression: Gaussian, photon, JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from mirnet_edge.images import Frame


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
    jpeg_quality: int | None = None
    """From 1 to 100, as libjpeg counts; None for no compression."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if not 0.0 <= self.sigma <= 255.0:
            raise OptionError(f"sigma must lie in [0, 255] 8-bit levels, found {self.sigma}")
        if self.photons is not None and not self.photons > 0.0:
            raise OptionError(f"photons must be above 0, found {self.photons}")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise OptionError(f"jpeg_quality must lie in [1, 100], found {self.jpeg_quality}")


def noisy(frame: Frame, settings: Noise, generator: np.random.Generator) -> Frame:
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
        value = frame.astype(np.float32) / np.float32(255.0)
        if settings.photons is not None:
            value = generator.poisson(value * settings.photons) / settings.photons
        if settings.sigma:
            normal = generator.standard_normal(frame.shape, dtype=np.float32)
            value = value + np.float32(settings.sigma / 255.0) * normal
        frame = np.rint(np.clip(value, 0.0, 1.0) * 255.0).astype(np.uint8)
    return frame if settings.jpeg_quality is None else _compressed(frame, settings.jpeg_quality)


def _compressed(frame: Frame, quality: int) -> Frame:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream).convert("RGB"))
