"""Low light through a camera's pipeline: from a clean image back to the sensor, and out again.

Clean image -> linear light -> the camera's colors -> less light, unevenly -> Bayer sensor with
noise -> demosaicing -> the phone's denoising -> white balance and display colors with errors ->
tone -> 8 bits -> JPEG.

After Brooks et al., "Unprocessing Images for Learned Raw Denoising", CVPR 2019 (the
way back, the tone curve), Foi et al., IEEE TIP 2008 (Poisson-Gaussian noise) and Wei et al., "A
Physics-based Noise Formation Model for Extreme Low-light Raw Denoising", CVPR 2020 (row noise).

`low_light.reduce_light` is the short way, without sensor, colors and tone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.degradations.low_light import linear_from_srgb, srgb_from_linear
from mirnet_edge.degradations.noise import Noise, add_noise
from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame

    Light = NDArray[np.float32]
    """(H, W, 3) linear RGB; 1 is full scale."""

_GAINS = "white_balance", "white_balance_error"


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Strengths of a camera's low-light pipeline.

    Raises:
        OptionError: A value lies outside its range.
    """

    exposure: float = 1.0
    """Factor of the light, in (0, 1]."""
    vignetting: float = 0.0
    """Fraction of the light that the corners lose, 0 to below 1."""
    lamps: int = 0
    """Local lights. Each keeps its surroundings brighter than `exposure`, up to the clean image."""
    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Gains that turn the sensor's gray to white, R, G, B: the noise of a channel grows with it."""
    white_balance_error: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Gains that remain in the result: a color cast."""
    crosstalk: float = 0.0
    """Part of each channel of the sensor that comes from the others, 0 to 0.3."""
    color_error: float = 0.0
    """Part of the crosstalk that the color matrix leaves in, 0 to 1: duller colors; below 0, to
    -1, more vivid ones."""
    shot_noise: float = 0.0
    """Noise variance per unit of linear signal, in units of full scale."""
    read_noise: float = 0.0
    """Standard deviation of the signal-independent noise, in linear units of full scale."""
    row_noise: float = 0.0
    """Standard deviation of an offset that each row has, in linear units of full scale."""
    is_mosaic: bool = False
    """Whether the sensor sees one color per pixel (Bayer pattern), interpolated afterwards."""
    denoise: float = 0.0
    """How far the camera smooths its noise away, 0 to 1, detail included."""
    contrast: float = 0.0
    """Of the tone curve: the part of an S-curve, -1 (of its inverse) to 1."""
    black: float = 0.0
    """What the display's black is lifted to, -0.1 to 0.3; below 0 shadows are cut off."""
    jpeg_quality: int | None = None
    """JPEG quality from 1 to 100, as in libjpeg; None for no compression."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        for name, low, high in (
            ("vignetting", 0.0, 0.99),
            ("crosstalk", 0.0, 0.3),
            ("color_error", -1.0, 1.0),
            ("denoise", 0.0, 1.0),
            ("contrast", -1.0, 1.0),
            ("black", -0.1, 0.3),
            ("shot_noise", 0.0, 1.0),
            ("read_noise", 0.0, 1.0),
            ("row_noise", 0.0, 1.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise OptionError(
                    f"{name} must lie in [{low:g}, {high:g}], found {getattr(self, name)}"
                )
        if not 0.0 < self.exposure <= 1.0 or self.lamps < 0:
            raise OptionError(
                "exposure must lie in (0, 1] and lamps must not be negative, found "
                f"{self.exposure} and {self.lamps}"
            )
        for name in _GAINS:
            if not min(getattr(self, name)) > 0.0:
                raise OptionError(f"{name} must be positive, found {getattr(self, name)}")


def photograph(frame: Frame, settings: Camera, generator: np.random.Generator) -> Frame:
    """Return FRAME as a camera would have taken it in low light.

    Args:
        frame: (H, W, 3) uint8 RGB, the clean image.
        settings: The strengths; the default changes nothing.
        generator: The only source of randomness.

    Returns:
        The same shape and type.
    """
    light = linear_from_srgb(_apply_contrast(frame, -settings.contrast))
    gains = np.asarray(settings.white_balance, np.float32)
    sensor = _mix(light, settings.crosstalk) / gains
    falloff = _draw_falloff(frame.shape[:2], settings, generator)
    # full scale is where the darkest exposure would clip: lamps may clip, as they do
    sensor = _read_sensor(sensor * falloff, settings, generator)
    sensor = _smooth(sensor, settings, float(np.mean(sensor)))
    remaining = 1.0 - settings.color_error
    displayed = _mix(sensor * gains, settings.crosstalk, power=-remaining)
    displayed = displayed * np.asarray(settings.white_balance_error, np.float32)
    shown = _apply_contrast(srgb_from_linear(displayed), settings.contrast)
    if settings.black:
        lifted = settings.black * 255.0 + shown.astype(np.float32) * (1.0 - settings.black)
        shown = np.rint(np.clip(lifted, 0.0, 255.0)).astype(np.uint8)
    return add_noise(shown, Noise(jpeg_quality=settings.jpeg_quality), generator)


def _apply_contrast(frame: Frame, amount: float) -> Frame:
    """Return the frame with a part of the S-curve 3x^2 - 2x^3; negative: of its inverse."""
    if not amount:
        return frame
    value = np.arange(256) / 255.0
    curve = 3.0 * value**2 - 2.0 * value**3
    if amount < 0.0:
        curve = 0.5 - np.sin(np.arcsin(1.0 - 2.0 * value) / 3.0)
    mixed = value + abs(amount) * (curve - value)
    shown: Frame = np.rint(255.0 * mixed).astype(np.uint8)[frame]
    return shown


def _mix(light: Light, crosstalk: float, power: float = 1.0) -> Light:
    """Return the light times the crosstalk matrix to the given power; white stays white."""
    if not crosstalk:
        return light
    # I (1 - c) + J c / 3 has the eigenvalues 1 (gray) and 1 - c (colors)
    kept = np.float32((1.0 - crosstalk) ** power)
    gray = light.mean(2, keepdims=True, dtype=np.float32)
    mixed: Light = gray + kept * (light - gray)
    return mixed


def _draw_falloff(
    size: tuple[int, int], settings: Camera, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Return how much of the light reaches each pixel, (H, W, 1), in (0, 1]."""
    y, x = np.meshgrid(*(np.linspace(-1.0, 1.0, side, dtype=np.float32) for side in size),
                       indexing="ij")  # fmt: skip
    falloff = np.full(size, settings.exposure, np.float32)
    for _ in range(settings.lamps):
        at_y, at_x = generator.uniform(-1.1, 1.1, 2)
        reach = generator.uniform(0.15, 0.8)
        brightest = settings.exposure ** generator.uniform(0.0, 0.7)
        distance = ((y - at_y) ** 2 + (x - at_x) ** 2) / reach**2
        falloff += np.float32(brightest - settings.exposure) / (1.0 + distance) ** 2
    falloff *= 1.0 - np.float32(settings.vignetting / 2.0) * (y**2 + x**2)
    reaching: NDArray[np.float32] = np.minimum(falloff, np.float32(1.0))[..., None]
    return reaching


def _read_sensor(light: Light, settings: Camera, generator: np.random.Generator) -> Light:
    """Return what the sensor reads of the light: noise, mosaic and its interpolation, clipping."""
    raw = light
    deviation = np.sqrt(settings.shot_noise * np.maximum(light, 0.0) + settings.read_noise**2)
    if settings.shot_noise or settings.read_noise:
        noise = generator.standard_normal(light.shape, dtype=np.float32)
        raw = raw + deviation.astype(np.float32) * noise
    if settings.row_noise:
        rows = generator.standard_normal((light.shape[0], 1, 1), dtype=np.float32)
        raw = raw + np.float32(settings.row_noise) * rows
    if settings.is_mosaic:
        raw = _demosaic(raw)
    # clipped at full scale, not at black: cameras subtract a black level
    read: Light = np.minimum(raw, np.float32(1.0))
    return read


def _demosaic(light: Light) -> Light:
    """Return the light as a Bayer sensor (RGGB) sees it, missing colors interpolated.

    Green and then the differences to it are interpolated linearly.
    """
    import cv2

    height, width = light.shape[:2]
    masks = np.zeros((height, width, 3), np.float32)
    masks[0::2, 0::2, 0] = masks[0::2, 1::2, 1] = masks[1::2, 0::2, 1] = masks[1::2, 1::2, 2] = 1.0
    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32) / 4.0
    square = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 4.0

    def interpolate(plane: Light, kernel: Light) -> Light:
        filtered = cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        return np.asarray(filtered, np.float32)

    green = interpolate(light[..., 1] * masks[..., 1], cross)
    channels = [
        green + interpolate((light[..., place] - green) * masks[..., place], square)
        for place in (0, 2)
    ]
    return np.stack((channels[0], green, channels[1]), 2)


def _smooth(sensor: Light, settings: Camera, level: float) -> Light:
    """Return the sensor's values smoothed as a phone does: edges above the noise stay."""
    if not settings.denoise:
        return sensor
    import cv2

    noise = math.sqrt(settings.shot_noise * max(level, 0.0) + settings.read_noise**2)
    spread = max(3.0 * noise, 1e-4)
    filtered = cv2.bilateralFilter(np.ascontiguousarray(sensor), 5, spread, 1.5)
    smoothed: Light = sensor + np.float32(settings.denoise) * (filtered - sensor)
    return smoothed
