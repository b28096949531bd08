"""Convert what Pillow decodes to RGB: gray, palettes, CMYK and L*a*b*, with their profiles."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image


def rgb_pixels(
    image: Image.Image, icc: bytes | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, bytes | None]:
    """Return (H, W, 3) RGB, (H, W) alpha or None, and their ICC profile."""
    alpha = None
    # not has_transparency_data, which Pillow has only since 10.1
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    if image.mode == "LAB":
        image, icc = _from_lab(image), None
    elif icc is not None and color_space(icc) != b"RGB ":
        image, icc = _in_srgb(image, icc), None
    return np.asarray(image.convert("RGB")), alpha, icc


def _in_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Return an image with a CMYK or gray profile in sRGB; unchanged where that fails."""
    from PIL import ImageCms

    if image.mode not in ("CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if converted is None else converted


def has_gray_palette(image: Image.Image) -> bool:
    """Return whether an image has a palette, of gray alone."""
    if image.mode not in ("P", "PA"):
        return False
    colors = np.reshape(image.getpalette("RGB") or [], (-1, 3))
    return bool(len(colors) and (colors == colors[:, :1]).all())


def _from_lab(image: Image.Image) -> Image.Image:
    """Return an image of CIE L*a*b* in sRGB."""
    from PIL import ImageCms

    source, target = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    if converted is None:
        raise OSError("its L*a*b* colors cannot be converted")
    return converted


def color_space(icc: bytes) -> bytes:
    """Return the color space that an ICC profile describes: b"RGB ", b"CMYK", b"GRAY"."""
    return icc[16:20]  # ICC.1:2022, table 17
