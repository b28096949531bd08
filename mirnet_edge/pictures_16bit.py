"""Sixteen bits per channel, which Pillow cannot read whole: told and decoded, down to eight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from mirnet_edge.errors import ImageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

_BITS_PER_SAMPLE, _PHOTOMETRIC, _EXTRA_SAMPLES = 0x0102, 0x0106, 0x0152
_WHITE_IS_ZERO, _ASSOCIATED_ALPHA = 0, 1  # values of the last two; TIFF 6.0, pages 37 and 31


def bits_of(image: Image.Image, payload: bytes, path: Path) -> Literal[8, 16]:
    """Return the depth of a channel. Pillow does not tell: it gives 16-bit RGB files as 8 bits."""
    bits = 8
    if image.format == "PNG":
        bits = payload[24]  # the header is always the first chunk; PNG specification, 11.2.2
    elif image.format == "TIFF":
        bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))  # type: ignore[attr-defined]
    if bits == 16:
        return 16
    if bits > 8 or image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ImageError(
            f"{path} has {bits} bits per channel, mode {image.mode}; expected whole numbers of "
            "8 or 16 bits. Convert it"
        )
    return 8


def pixels_of_16_bits(
    image: Image.Image, payload: bytes, path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Decode 16 bits per channel to (H, W, 3) RGB and (H, W) alpha or None, both of 8 bits."""
    import cv2

    if image.mode == "CMYK":
        raise ImageError(f"{path} is CMYK with 16 bits; expected gray or RGB there. Convert it")
    decoded = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        found = "nothing" if decoded is None else str(decoded.dtype)
        raise ImageError(
            f"{path}: its 16-bit pixels decode to {found}, expected uint16. Convert it to PNG"
        )
    levels = decoded.reshape(*decoded.shape[:2], -1).astype(np.uint32)
    channels = levels.shape[2]
    alpha = levels[..., -1:] if channels in (2, 4) else None
    colours = levels[..., 2::-1] if channels > 2 else levels[..., :1].repeat(3, axis=2)  # BGR
    # what OpenCV leaves as the file has it
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        colours = 65535 - colours
    if alpha is not None and tags.get(_EXTRA_SAMPLES, (0,))[0] == _ASSOCIATED_ALPHA:
        # at most 65535 * 65535 + 32767, which 32 bits hold
        colours = np.minimum((colours * 65535 + alpha // 2) // np.maximum(alpha, 1), 65535)
    if channels == 1 and "transparency" in image.info:  # a PNG's one transparent level
        alpha = np.where(levels == image.info["transparency"], np.uint32(0), np.uint32(65535))
    return _eight_bits(colours), None if alpha is None else _eight_bits(alpha[..., 0])


def _eight_bits(levels: NDArray[np.uint32]) -> NDArray[np.uint8]:
    # x / 257 takes 65535 to 255 and rounds to nearest; a tie cannot happen, 257 being odd
    return np.ascontiguousarray(((levels + 128) // 257).astype(np.uint8))
