"""Scanned or drawn damage, laid over a photo: dirt, hair, lint, scratches, stains.

What formulas draw (`film`) is regular; damage is not. A picture with transparency holds some, and
as it may lie on a print any way round, one of them stands for many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mirnet_edge.images import Frame

_LARGEST_ZOOM = 1.5


@dataclass(frozen=True)
class Overlay:
    """Damage, as a picture with transparency holds it."""

    colours: Frame
    """(H, W, 3) uint8 RGB."""
    cover: NDArray[np.uint8]
    """(H, W): 255 where nothing of the photo shows."""


def overlaid(
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
    # colours count as far as they cover: where they do not, files hold any, mostly black
    laid = np.dstack([overlay.colours * cover, cover])
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
    colours, cover = laid[hidden][:, :3], laid[hidden][:, 3:]
    damaged: Frame = frame.copy()
    under = frame[hidden] * (1.0 - np.float32(strength) * cover)
    damaged[hidden] = np.rint(under + np.float32(strength) * colours).astype(np.uint8)
    return damaged
