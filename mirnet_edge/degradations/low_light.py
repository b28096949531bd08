"""Low-light degradation: less exposure, sensor noise, white balance.

It follows a camera's image pipeline (Brooks et al., "Unprocessing
Images for Learned Raw Denoising", CVPR 2019; Foi et al., "Practical Poissonian-Gaussian Noise
Modeling and Fitting for Single-Image Raw-Data", IEEE TIP 2008): linear light, less of it, shot
and read noise, white balance, the display curve, 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from mirnet_edge.images.contract import Frame


@dataclass(frozen=True, kw_only=True)
class LowLight:
    """Strengths of darkening and sensor noise.

    Raises:
        OptionError: A value lies outside its range.
    """

    exposure: float = 1.0
    """Factor of the light, in (0, 1]; 1 leaves the image unchanged."""
    shot_noise: float = 0.0
    """Variance per unit of linear signal (photon noise), in units of full scale; real cameras have
    1e-4 to 1e-2."""
    read_noise: float = 0.0
    """Standard deviation of the signal-independent noise, in linear units of full scale."""
    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Gain of each linear channel, R, G, B."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if not 0.0 < self.exposure <= 1.0:
            raise OptionError(f"exposure must lie in (0, 1], found {self.exposure}")
        if self.shot_noise < 0.0 or self.read_noise < 0.0 or min(self.white_balance) <= 0.0:
            raise OptionError(
                "noise must not be negative and white balance gains must be positive, found "
                f"{self.shot_noise}, {self.read_noise}, {self.white_balance}"
            )


def reduce_light(frame: Frame, settings: LowLight, generator: np.random.Generator) -> Frame:
    """Return FRAME as a camera would have taken it with less light.

    The noise has variance `shot_noise * signal + read_noise**2` in linear light, before the
    display curve and before clipping.

    Args:
        frame: (H, W, 3) uint8 RGB.
        settings: The strengths. With exposure 1, no noise and white balance 1 the image is
            returned unchanged.
        generator: The only source of randomness.

    Returns:
        The same shape and type.
    """
    light = linear_from_srgb(frame) * np.float32(settings.exposure)
    light = light * np.asarray(settings.white_balance, np.float32)
    if settings.shot_noise or settings.read_noise:
        deviation = np.sqrt(settings.shot_noise * light + settings.read_noise**2)
        noise = generator.standard_normal(frame.shape, dtype=np.float32)
        light = light + deviation.astype(np.float32) * noise
    return srgb_from_linear(light)


def linear_from_srgb(frame: Frame) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return linear light, float32 in [0, 1], of an 8-bit sRGB frame (IEC 61966-2-1)."""
    value = np.arange(256, dtype=np.float64) / 255.0
    curve = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return curve.astype(np.float32)[frame]


def srgb_from_linear(light: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Frame:
    """Return the 8-bit sRGB frame of linear light, clipped to [0, 1] and rounded."""
    light = np.clip(light, 0.0, 1.0)
    value = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(value * 255.0).astype(np.uint8)
