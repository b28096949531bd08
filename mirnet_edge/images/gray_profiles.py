"""Gray ICC profiles: their curve to the levels of sRGB, which networks know, and back.

A gray profile with a tone curve (`kTRC`) is kept: the levels are converted for the network, and the
result back to the profile's, so that a viewer shows what was restored.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST, _STEPS = 65535, 65536
_PARAMETERS = (1, 3, 4, 5, 7)  # of the types of parametric curves; ICC.1:2022, 10.18
_MOST_POINTS, _MOST_GAMMA = 1 << 16, 100.0


class GrayCurve:
    """The levels of sRGB, in [0, 1], of the levels of a gray profile."""

    def __init__(self, profile: bytes) -> None:
        """Read the curve.

        Raises:
            ValueError: The profile has none that rises, or it cannot be read.
        """
        levels = np.linspace(0.0, 1.0, _STEPS)
        try:
            light = _light(_curve_of(profile), levels)
        except struct.error as error:
            raise ValueError("the profile is cut off") from error
        light = np.clip(light, 0.0, 1.0)
        if not (np.diff(light) >= 0).all() or light[-1] - light[0] < 0.5:
            raise ValueError("the profile's curve does not rise")
        self._levels, self._srgb = levels, _srgb_of_light(light)

    def to_srgb(self, pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return pixels of any shape in sRGB, of those in the profile's levels.

        16 bits: with 8, the darkest levels of usual profiles would become one.
        """
        return _converted(pixels, self._levels, self._srgb)

    def from_srgb(self, pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return pixels of any shape in the profile's levels, of those in sRGB."""
        return _converted(pixels, self._srgb, self._levels)


def _converted(
    pixels: NDArray[np.uint16], before: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.uint16]:
    table = _MOST * np.interp(np.arange(_MOST + 1) / _MOST, before, after)
    converted: NDArray[np.uint16] = np.rint(table).astype(np.uint16)[pixels]
    return converted


def gray_curve(profile: bytes | None) -> GrayCurve | None:
    """Return the curve of a gray profile, None where that has none or is no gray one."""
    try:
        return GrayCurve(profile or b"")
    except ValueError:
        return None


def _srgb_of_light(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the signal of IEC 61966-2-1."""
    bright = 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, 12.92 * light, bright)


def _curve_of(profile: bytes) -> bytes:
    """Return the tag of a gray profile's curve.

    Raises:
        ValueError: There is none.
        struct.error: The profile is cut off.
    """
    if profile[16:20] != b"GRAY":
        raise ValueError("the profile is no gray one")
    (count,) = struct.unpack_from(">I", profile, 128)
    for number in range(min(count, 100)):
        name, place, size = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if name == b"kTRC":
            return profile[place : place + size]
    raise ValueError("the profile has no curve")


def _light(curve: bytes, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the light of levels in [0, 1] by a curve; ICC.1:2022, 10.6 and 10.18.

    Raises:
        ValueError: It is of an unknown kind.
        struct.error: It is cut off.
    """
    if curve[:4] == b"para":
        return _parametric(curve, levels)
    if curve[:4] != b"curv":
        raise ValueError("the profile's curve is of an unknown kind")
    (count,) = struct.unpack_from(">I", curve, 8)
    if count == 0:
        return levels
    if count == 1:
        gamma: float = struct.unpack_from(">H", curve, 12)[0] / 256
        return np.asarray(levels**gamma)
    if count > _MOST_POINTS:
        raise ValueError("the profile's curve has too many points")
    points = np.array(struct.unpack_from(f">{count}H", curve, 12)) / 65535
    return np.interp(levels, np.linspace(0.0, 1.0, count), points)


def _parametric(curve: bytes, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    (kind,) = struct.unpack_from(">H", curve, 8)
    if kind >= len(_PARAMETERS):
        raise ValueError("the profile's curve is of an unknown kind")
    gamma, *others = (
        one / 65536 for one in struct.unpack_from(f">{_PARAMETERS[kind]}i", curve, 12)
    )
    if gamma <= 0.0:
        raise ValueError("the profile's curve has no positive exponent")
    a, b, *more = others or (1.0, 0.0)
    bright: NDArray[np.float64] = np.clip(a * levels + b, 0.0, 2.0) ** min(gamma, _MOST_GAMMA)
    if kind < 3:  # a flat part below -b / a
        return bright + (more[0] if more else 0.0)
    c, d, *offsets = more
    e, f = offsets or (0.0, 0.0)
    return np.where(levels >= d, bright + e, c * levels + f)
