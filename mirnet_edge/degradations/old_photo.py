"""Old-photo degradation: fading, dyes, toning, blur, grain, scratches, cracks, damage overlays.

The order is that in which a print ages: the lens blurs, dyes fade or the silver is toned, the print
darkens and fades, then its surface is damaged; grain lies under the damage.

`age_photo` draws damage by formulas. `overlay_damage` lays scanned damage over the photo: an image
with transparency, in random orientation, scale and position.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
_COUNTS = ("blur", "grain", "dust", "scratches", "creases", "cracks", "hairs", "patches")
_SUBPIXEL_BITS = 4  # of OpenCV's coordinates
# of cracks: a part of a large print has cracks as wide as the whole; emulsion breaks raggedly
_LEAST_CRACK_SCALE = 0.75
_SMOOTH_CRACK = 2.0  # pixels
_EDGE_DETAIL, _EDGE_NOISE = 1.2, 0.3


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
    """From 0 to 1: brown toning, as image editors do it: in proportion to the light."""
    toning: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """How far middle tones move, in 8-bit levels of (red, green, blue); black and white stay. Real
    toned prints are like this, and more so than `sepia`."""
    toning_gamma: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Exponents of the tones of (red, green, blue), above 0: brown prints whose shadows have next
    to no blue; black and white stay."""
    dye_fading: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """From 0 to 1: loss of the cyan, magenta and yellow dyes of a color print, which lightens red,
    green and blue."""
    paper: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Color of the paper and of the light it was scanned in: factors of (red, green, blue)."""
    gamma: float = 1.0
    """Exponent of the tones, above 0: above 1 the print is too dark, below it too light."""
    grain: float = 0.0
    """Standard deviation of the film's grain, in 8-bit levels; the same in all channels."""
    dust: float = 0.0
    """Specks per 10,000 pixels."""
    scratches: int = 0
    """Number of thin, nearly vertical lines from edge to edge, as a projector makes them."""
    creases: int = 0
    """Number of folds: straight lines in any direction, a bright edge beside a dark one."""
    cracks: int = 0
    """Number of cracks of the emulsion: ragged lines that branch, of changing width, mostly bright,
    some with a shadow."""
    hairs: int = 0
    """Number of thin curved lines, bright or dark: hairs, fibers, scratches of a fingernail."""
    patches: int = 0
    """Number of places where the emulsion is gone, or stained: irregular, bright or dark."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        for name in ("fading", "color_loss", "sepia"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise OptionError(f"{name} must lie in [0, 1], found {getattr(self, name)}")
        for name in _COUNTS:
            if not 0.0 <= getattr(self, name) < 1e4:
                raise OptionError(f"{name} must not be negative, found {getattr(self, name)}")
        for name, low, high in (
            ("toning", -255.0, 255.0), ("dye_fading", 0.0, 1.0), ("paper", 0.0, 1.0),
        ):  # fmt: skip
            if not all(low <= value <= high for value in getattr(self, name)):
                raise OptionError(
                    f"{name} must be three values in [{low:g}, {high:g}], "
                    f"found {getattr(self, name)}"
                )
        for name, values in (("gamma", (self.gamma,)), ("toning_gamma", self.toning_gamma)):
            if not all(0.1 <= value <= 10.0 for value in values):
                raise OptionError(f"{name} must lie in [0.1, 10], found {getattr(self, name)}")

    def without_damage(self) -> OldPhoto:
        """Return the aging alone, without what lies on the surface."""
        return replace(self, dust=0.0, scratches=0, creases=0, cracks=0, hairs=0, patches=0)

    def damage_alone(self) -> OldPhoto:
        """Return the damage of the surface alone."""
        return OldPhoto(
            dust=self.dust,
            scratches=self.scratches,
            creases=self.creases,
            cracks=self.cracks,
            hairs=self.hairs,
            patches=self.patches,
        )


def age_photo(frame: Frame, settings: OldPhoto, generator: np.random.Generator) -> Frame:
    """Return FRAME aged and damaged like an old print.

    Args:
        frame: (H, W, 3) uint8 RGB.
        settings: The strengths; the default changes nothing.
        generator: The only source of randomness.

    Returns:
        The same shape and type; the frame itself where all strengths are zero.
    """
    if settings == OldPhoto():
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
    if any(settings.dye_fading):
        lost = np.array(settings.dye_fading)
        pixels = _scaled(pixels, 1.0 - lost, lost)
    if settings.gamma != 1.0:
        pixels = np.asarray(cv2.pow(np.clip(pixels, 0.0, 1.0), settings.gamma), np.float32)
    for color, exponent in enumerate(settings.toning_gamma):
        if exponent != 1.0:
            pixels[..., color] = cv2.pow(np.clip(pixels[..., color], 0.0, 1.0), exponent)
    if any(settings.toning):
        light = cv2.transform(pixels, LUMA.astype(np.float32)[None])
        middle = np.clip(4.0 * light * (1.0 - light), 0.0, 1.0)
        for color, shift in enumerate(settings.toning):
            pixels[..., color] += middle * np.float32(shift / 255.0)
    kept = 1.0 - settings.fading * (1.0 - _FADED_WHITE + _FADED_BLACK)
    black = settings.fading * _FADED_BLACK
    return _scaled(pixels, kept * np.array(settings.paper), np.array([black, black, black]))


def _scaled(pixels: Pixels, factors: NDArray[np.float64], offsets: NDArray[np.float64]) -> Pixels:
    """Return each color times its factor plus its offset."""
    import cv2

    matrix = np.column_stack([np.diag(factors), offsets]).astype(np.float32)
    return np.asarray(cv2.transform(pixels, matrix), np.float32)


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
    for _ in range(settings.patches):
        opacity = _patch(height, width, generator)
        _blend(pixels, opacity, _surface_level(generator), generator)
    for _ in range(settings.cracks):
        opacity = _crack(height, width, generator)
        if generator.random() < 0.4:  # a raised edge throws a shadow
            shadow = np.roll(opacity, tuple(generator.integers(-3, 4, 2)), (0, 1))
            _blend(pixels, generator.uniform(0.2, 0.7) * shadow, 0.05)
        _blend(pixels, opacity, _surface_level(generator), generator)
    for _ in range(settings.hairs):
        opacity = generator.uniform(0.4, 1.0) * _hair(height, width, generator)
        _blend(pixels, opacity, _surface_level(generator))


def _surface_level(generator: np.random.Generator) -> float:
    """Return the gray level of bare paper, mostly, or of dirt."""
    if generator.random() < 0.8:
        return generator.uniform(0.7, 1.0)
    return generator.uniform(0.0, 0.25)


def _blend(
    pixels: Pixels, opacity: Pixels, level: float, generator: np.random.Generator | None = None
) -> None:
    """Blend PIXELS with a gray LEVEL at an OPACITY, in place; most of it is zero.

    With a generator the level is uneven, as paper is.
    """
    import cv2

    x, y, wide, tall = cv2.boundingRect((opacity > 0.0).astype(np.uint8))
    window = slice(y, y + tall), slice(x, x + wide)
    opacity = opacity[window][..., None]
    over = np.float32(level)
    if generator is not None:
        over = over + np.float32(0.03) * generator.standard_normal(opacity.shape, np.float32)
    under = pixels[window]
    under += opacity * (over - under)


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


def _crack(height: int, width: int, generator: np.random.Generator) -> Pixels:
    """Return the opacity of a crack with its branches, (H, W) in [0, 1]."""
    canvas = np.zeros((height, width), np.uint8)
    side = min(height, width)
    # a print of 400 pixels has cracks of 1 to 10; wider ones are few
    widest = 1.0 + generator.exponential(3.0) * max(side / 400.0, _LEAST_CRACK_SCALE)
    start = generator.uniform(0, 1, 2) * (width, height)
    if generator.random() < 0.5:  # from an edge
        start[int(generator.integers(2))] = 0.0
        if generator.integers(2):
            start = np.array([width, height]) - start
    ends = [(start, generator.uniform(0, 2 * np.pi), widest)]
    wander, segments = generator.uniform(0.1, 0.6), int(generator.integers(8, 50))
    for _ in range(segments):
        place = int(generator.integers(len(ends)))
        point, angle, thick = ends[place]
        angle += generator.normal(0.0, wander)
        length = generator.uniform(0.01, 0.05) * side
        following = point + length * np.array([np.cos(angle), np.sin(angle)])
        _draw_line(canvas, point, following, max(1.0, thick * generator.uniform(0.5, 1.3)))
        ends[place] = (following, angle, thick)
        if len(ends) < 6 and generator.random() < 0.12:
            ends.append((following, angle + generator.choice((-1.0, 1.0)), 0.7 * thick))
    if widest > _SMOOTH_CRACK:
        canvas = _ragged(canvas, widest / 3.0, generator)
    return _softened(canvas, generator.uniform(0.3, 1.0))


def _ragged(
    canvas: NDArray[np.uint8], sigma: float, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Return drawn lines with edges that noise moves by about SIGMA pixels."""
    import cv2

    soft = np.float32(1 / 255) * cv2.GaussianBlur(canvas, (0, 0), sigma)
    noise = cv2.GaussianBlur(
        generator.standard_normal(canvas.shape, np.float32), (0, 0), _EDGE_DETAIL
    )
    noise *= np.float32(_EDGE_NOISE) / max(float(noise.std()), 1e-6)
    torn: NDArray[np.uint8] = np.where((soft > 0.0) & (soft + noise > 0.5), 255, 0).astype(np.uint8)
    return torn


def _hair(height: int, width: int, generator: np.random.Generator) -> Pixels:
    """Return the opacity of a thin line that bends slowly, (H, W) in [0, 1]."""
    canvas = np.zeros((height, width), np.uint8)
    point = generator.uniform(0, 1, 2) * (width, height)
    angle, bend = generator.uniform(0, 2 * np.pi), generator.normal(0.0, 0.06)
    thick = 1.0 if generator.random() < 0.7 else 2.0
    for _ in range(int(generator.integers(5, 60))):
        bend += generator.normal(0.0, 0.02)
        angle += bend
        following = point + 0.01 * min(height, width) * np.array([np.cos(angle), np.sin(angle)])
        _draw_line(canvas, point, following, thick)
        point = following
    return _softened(canvas, generator.uniform(0.3, 0.8))


def _patch(height: int, width: int, generator: np.random.Generator) -> Pixels:
    """Return the opacity of an irregular spot, (H, W) in [0, 1]; often at an edge."""
    import cv2

    canvas = np.zeros((height, width), np.uint8)
    side = min(height, width)
    center = generator.uniform(0, 1, 2) * (width, height)
    if generator.random() < 0.4:
        axis = int(generator.integers(2))
        center[axis] = generator.choice((0.0, (width, height)[axis]))
    radius = side * (0.004 + 0.03 * generator.exponential(0.5))
    angles = np.linspace(0.0, 2 * np.pi, 16, endpoint=False)
    radii = radius * np.exp(generator.normal(0.0, 0.45, 16))
    ring = center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    scaled = np.rint(ring * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(canvas, [scaled], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return _softened(canvas, generator.uniform(0.3, 1.2))


def _draw_line(
    canvas: NDArray[np.uint8], one: NDArray[np.float64], two: NDArray[np.float64], thick: float
) -> None:
    import cv2

    ends = [tuple(np.rint(end * 2**_SUBPIXEL_BITS).astype(int).tolist()) for end in (one, two)]
    cv2.line(canvas, ends[0], ends[1], 255, round(thick), cv2.LINE_AA, _SUBPIXEL_BITS)


def _softened(canvas: NDArray[np.uint8], sigma: float) -> Pixels:
    import cv2

    soft: Pixels = np.float32(1 / 255) * cv2.GaussianBlur(canvas, (0, 0), sigma)
    return soft


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
