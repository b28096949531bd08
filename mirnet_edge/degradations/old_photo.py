"""Old-photo degradation: fading, color loss, sepia, blur, grain, scratches, damage overlays.

The order is that in which a print ages: the lens blurs, the print fades and loses its colors, then
its surface is damaged; grain lies under the damage.

`age_photo` draws damage by formulas, which is regular. `overlay_damage` lays scanned damage over
the photo: an image with transparency, in random orientation, scale and position.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError
from mirnet_edge.images.contract import LUMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mirnet_edge.images.contract import Frame

    Pixels = NDArray[np.float32]
    """(H, W, 3) RGB, or (H, W), in [0, 1]."""

# A print toned with sulphide, as the matrix that image editors use for it: rows R, G, B.
_SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], np.float32)
_FADED_BLACK, _FADED_WHITE = 0.25, 0.80
_LARGEST_SPECK = 3.0  # pixels


@dataclass(frozen=True, kw_only=True)
class OldPhoto:
    """Strengths of aging and damage; at zero each leaves the photo unchanged.

    Raises:
        OptionError: A value lies outside its range.
    """

    blur: float = 0.0
    """Standard deviation of the blur, in pixels."""
    fading: float = 0.0
    """From 0 to 1: loss of contrast; black gets lighter, white darker."""
    color_loss: float = 0.0
    """From 0 to 1: loss of saturation; 1 is gray."""
    sepia: float = 0.0
    """From 0 to 1: brown toning."""
    grain: float = 0.0
    """Standard deviation of the film's grain, in 8-bit levels; the same in all channels."""
    dust: float = 0.0
    """Specks per 10,000 pixels."""
    scratches: int = 0
    """Number of thin, nearly vertical lines from edge to edge, as a projector makes them."""
    creases: int = 0
    """Number of folds: straight lines in any direction, a bright edge beside a dark one."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        for name in ("fading", "color_loss", "sepia"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise OptionError(f"{name} must lie in [0, 1], found {getattr(self, name)}")
        for name in ("blur", "grain", "dust", "scratches", "creases"):
            if not 0.0 <= getattr(self, name) < 1e4:
                raise OptionError(f"{name} must not be negative, found {getattr(self, name)}")


def age_photo(frame: Frame, settings: OldPhoto, generator: np.random.Generator) -> Frame:
    """Return FRAME aged and damaged like an old print.

    Args:
        frame: (H, W, 3) uint8 RGB.
        settings: The strengths; the default changes nothing.
        generator: The only source of randomness.

    Returns:
        The same shape and type; the frame itself where all strengths are zero.
    """
    if all(not getattr(settings, field.name) for field in fields(settings)):
        return frame
    pixels = frame.astype(np.float32) / np.float32(255.0)
    pixels = _fade(pixels, settings)
    if settings.grain:
        grain = generator.standard_normal((*frame.shape[:2], 1), dtype=np.float32)
        pixels += np.float32(settings.grain / 255.0) * grain
    _damage(pixels, settings, generator)
    np.clip(pixels, 0.0, 1.0, out=pixels)
    pixels *= np.float32(255.0)
    aged: Frame = np.rint(pixels, out=pixels).astype(np.uint8)
    return aged


def _fade(pixels: Pixels, settings: OldPhoto) -> Pixels:
    import cv2

    if settings.blur:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), settings.blur), np.float32)
    if settings.color_loss:
        kept = np.float32(1.0 - settings.color_loss) * np.eye(3, dtype=np.float32)
        grayer = kept + np.float32(settings.color_loss) * LUMA.astype(np.float32)
        pixels = np.asarray(cv2.transform(pixels, grayer), np.float32)
    if settings.sepia:
        brown = np.minimum(cv2.transform(pixels, _SEPIA), 1.0)
        pixels = pixels + np.float32(settings.sepia) * (brown - pixels)
    faded = 1.0 - settings.fading * (1.0 - _FADED_WHITE + _FADED_BLACK)
    aged: Pixels = np.float32(faded) * pixels + np.float32(settings.fading * _FADED_BLACK)
    return aged


def _damage(pixels: Pixels, settings: OldPhoto, generator: np.random.Generator) -> None:
    """Add dust, scratches and creases to the print, in place."""
    height, width = pixels.shape[:2]
    specks = round(settings.dust * height * width / 1e4)
    for _ in range(specks):
        window, opacity = _speck(height, width, generator)
        _blend(pixels[window], opacity, generator.uniform(0.75, 1.0))
    for _ in range(settings.scratches):
        top, bottom = generator.uniform(0, width), generator.normal(0.0, 0.01 * width)
        opacity = _line(height, width, (top, 0.0), (top + bottom, float(height)), 0.7)
        _blend(pixels, 0.8 * opacity, generator.uniform(0.8, 1.0))
    for _ in range(settings.creases):
        one, two = generator.uniform(0, 1, (2, 2)) * (width, height)
        opacity = _line(height, width, tuple(one), tuple(two), 1.2)
        shade = _line(height, width, tuple(one + 2.0), tuple(two + 2.0), 1.2)
        _blend(pixels, 0.5 * shade, 0.15)
        _blend(pixels, 0.8 * opacity, 0.95)


def _blend(pixels: Pixels, opacity: Pixels, level: float) -> None:
    """Blend PIXELS with a gray LEVEL at an OPACITY, in place; most of it is zero."""
    hidden = np.nonzero(opacity)
    under = pixels[hidden]
    pixels[hidden] = under + opacity[hidden][:, None] * (np.float32(level) - under)


def _speck(
    height: int, width: int, generator: np.random.Generator
) -> tuple[tuple[slice, slice], Pixels]:
    """Return the window of a speck of dust and its opacity there: a soft, rotated ellipse."""
    y, x = generator.uniform(0, height), generator.uniform(0, width)
    long, flat = generator.uniform(0.7, _LARGEST_SPECK), generator.uniform(0.3, 1.0)
    angle = generator.uniform(0, np.pi)
    reach = int(np.ceil(2 * _LARGEST_SPECK))
    rows = slice(max(0, int(y) - reach), min(height, int(y) + reach + 1))
    columns = slice(max(0, int(x) - reach), min(width, int(x) + reach + 1))
    dy, dx = np.mgrid[rows, columns].astype(np.float32)
    dy, dx = dy - y, dx - x
    along = (np.cos(angle) * dx + np.sin(angle) * dy) / long
    across = (np.cos(angle) * dy - np.sin(angle) * dx) / (long * flat)
    opacity: Pixels = np.clip(2.0 - along**2 - across**2, 0.0, 1.0).astype(np.float32)
    return (rows, columns), opacity


def _line(
    height: int, width: int, start: tuple[float, ...], end: tuple[float, ...], thickness: float
) -> Pixels:
    """Return the opacity of the straight line through two points (x, y), (H, W) in [0, 1]."""
    rows, columns = np.ogrid[:height, :width]
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = max(float(np.hypot(dx, dy)), 1e-6)
    distance = np.abs(dy * (columns - start[0]) - dx * (rows - start[1])) / np.float32(length)
    opacity: Pixels = np.clip(np.float32(thickness) + 0.5 - distance, 0.0, 1.0)
    return opacity


_LARGEST_ZOOM = 1.5


@dataclass(frozen=True)
class Overlay:
    """Damage as an image with transparency (RGBA): dirt, hair, stains."""

    colors: Frame
    """(H, W, 3) uint8 RGB."""
    alpha: NDArray[np.uint8]
    """Opacity, (H, W): 255 hides the photo."""


def overlay_damage(
    frame: Frame, overlay: Overlay, generator: np.random.Generator, *, strength: float = 1.0
) -> Frame:
    """Return FRAME under the overlay: randomly rotated, flipped, enlarged to cover it, shifted.

    Args:
        frame: (H, W, 3) uint8 RGB.
        overlay: Of any size.
        generator: The only source of randomness.
        strength: Factor of the opacity, from 0 (the frame unchanged) to 1.

    Returns:
        The same shape and type.

    Raises:
        OptionError: The strength lies outside its range.
    """
    import cv2

    if not 0.0 <= strength <= 1.0:
        raise OptionError(f"strength must lie in [0, 1], found {strength}")
    opacity = overlay.alpha[..., None].astype(np.float32) / np.float32(255.0)
    # premultiplied: under full transparency files hold any color, mostly black
    laid = np.dstack([overlay.colors * opacity, opacity])
    laid = np.rot90(laid, int(generator.integers(4)))
    if generator.integers(2):
        laid = laid[:, ::-1]
    height, width = frame.shape[:2]
    least = max(height / laid.shape[0], width / laid.shape[1])
    zoom = least * generator.uniform(1.0, _LARGEST_ZOOM)
    tall, wide = (
        max(a, round(zoom * b)) for a, b in zip((height, width), laid.shape, strict=False)
    )
    laid = cv2.resize(np.ascontiguousarray(laid), (wide, tall), interpolation=cv2.INTER_AREA)
    y, x = generator.integers(tall - height + 1), generator.integers(wide - width + 1)
    laid = laid[y : y + height, x : x + width]
    hidden = np.nonzero(laid[..., 3])
    colors, opacity = laid[hidden][:, :3], laid[hidden][:, 3:]
    damaged: Frame = frame.copy()
    under = frame[hidden] * (1.0 - np.float32(strength) * opacity)
    damaged[hidden] = np.rint(under + np.float32(strength) * colors).astype(np.uint8)
    return damaged
