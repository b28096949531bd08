"""Old-photo degradation: fading, color loss, sepia, blur, grain, scratches, damage overlays.

The order is that of a print's life: the lens blurs, the print fades and loses its colors, then
its surface is damaged; grain lies under the damage.

What formulas draw (`film`) is regular; damage is not. An image with transparency holds some, and
as it may lie on a print any way round, one of them stands for many.
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
    """How old and how damaged; everything at zero leaves the photo as it is.

    Raises:
        OptionError: A value lies outside its range.
    """

    blur: float = 0.0
    """Standard deviation of the blur, in pixels."""
    fading: float = 0.0
    """From 0 to 1: how far black and white have come together."""
    color_loss: float = 0.0
    """From 0 to 1: how far the colors have gone gray."""
    sepia: float = 0.0
    """From 0 to 1: how far the print has turned brown."""
    grain: float = 0.0
    """Standard deviation of the film's grain, in 8-bit levels; the same in all channels."""
    dust: float = 0.0
    """Specks for 10,000 pixels."""
    scratches: int = 0
    """Thin lines from edge to edge, nearly vertical, as transport through a projector makes."""
    creases: int = 0
    """Folds: straight lines in any direction, a bright edge beside a dark one."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        for name in ("fading", "color_loss", "sepia"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise OptionError(f"{name} must lie in [0, 1], found {getattr(self, name)}")
        for name in ("blur", "grain", "dust", "scratches", "creases"):
            if not 0.0 <= getattr(self, name) < 1e4:
                raise OptionError(f"{name} must not be negative, found {getattr(self, name)}")


def age_photo(frame: Frame, settings: OldPhoto, generator: np.random.Generator) -> Frame:
    """Return FRAME as an old print of it.

    Args:
        frame: (H, W, 3) uint8 RGB.
        settings: How old; the default changes nothing.
        generator: The only source of chance.

    Returns:
        The same shape and type; the frame itself where nothing was asked for.
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
    """Lay dust, scratches and creases over the print, in place."""
    height, width = pixels.shape[:2]
    specks = round(settings.dust * height * width / 1e4)
    for _ in range(specks):
        window, cover = _speck(height, width, generator)
        _lay(pixels[window], cover, generator.uniform(0.75, 1.0))
    for _ in range(settings.scratches):
        top, bottom = generator.uniform(0, width), generator.normal(0.0, 0.01 * width)
        cover = _line(height, width, (top, 0.0), (top + bottom, float(height)), 0.7)
        _lay(pixels, 0.8 * cover, generator.uniform(0.8, 1.0))
    for _ in range(settings.creases):
        one, two = generator.uniform(0, 1, (2, 2)) * (width, height)
        cover = _line(height, width, tuple(one), tuple(two), 1.2)
        shade = _line(height, width, tuple(one + 2.0), tuple(two + 2.0), 1.2)
        _lay(pixels, 0.5 * shade, 0.15)
        _lay(pixels, 0.8 * cover, 0.95)


def _lay(pixels: Pixels, cover: Pixels, level: float) -> None:
    """Hide PIXELS under a gray LEVEL as far as COVER says, in place: damage hides few of them."""
    hidden = np.nonzero(cover)
    under = pixels[hidden]
    pixels[hidden] = under + cover[hidden][:, None] * (np.float32(level) - under)


def _speck(
    height: int, width: int, generator: np.random.Generator
) -> tuple[tuple[slice, slice], Pixels]:
    """Return where a speck of dust lies and its cover there, in [0, 1]: a soft, turned ellipse."""
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
    cover: Pixels = np.clip(2.0 - along**2 - across**2, 0.0, 1.0).astype(np.float32)
    return (rows, columns), cover


def _line(
    height: int, width: int, start: tuple[float, ...], end: tuple[float, ...], thickness: float
) -> Pixels:
    """Return the cover of the straight line through two points (x, y), (H, W) in [0, 1]."""
    rows, columns = np.ogrid[:height, :width]
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = max(float(np.hypot(dx, dy)), 1e-6)
    distance = np.abs(dy * (columns - start[0]) - dx * (rows - start[1])) / np.float32(length)
    cover: Pixels = np.clip(np.float32(thickness) + 0.5 - distance, 0.0, 1.0)
    return cover


_LARGEST_ZOOM = 1.5


@dataclass(frozen=True)
class Overlay:
    """Damage, as an image with transparency holds it."""

    colors: Frame
    """(H, W, 3) uint8 RGB."""
    cover: NDArray[np.uint8]
    """(H, W): 255 where nothing of the photo shows."""


def overlay_damage(
    frame: Frame, overlay: Overlay, generator: np.random.Generator, *, strength: float = 1.0
) -> Frame:
    """Return FRAME under the overlay, which is turned, enlarged to cover it, and placed by chance.

    Args:
        frame: (H, W, 3) uint8 RGB.
        overlay: Of any size.
        generator: The only source of chance.
        strength: From 0, which leaves the frame as it is, to 1, which hides as much as the
            overlay does.

    Returns:
        The same shape and type.

    Raises:
        OptionError: The strength lies outside its range.
    """
    import cv2

    if not 0.0 <= strength <= 1.0:
        raise OptionError(f"strength must lie in [0, 1], found {strength}")
    cover = overlay.cover[..., None].astype(np.float32) / np.float32(255.0)
    # colors count as far as they cover: where they do not, files hold any, mostly black
    laid = np.dstack([overlay.colors * cover, cover])
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
    colors, cover = laid[hidden][:, :3], laid[hidden][:, 3:]
    damaged: Frame = frame.copy()
    under = frame[hidden] * (1.0 - np.float32(strength) * cover)
    damaged[hidden] = np.rint(under + np.float32(strength) * colors).astype(np.uint8)
    return damaged
