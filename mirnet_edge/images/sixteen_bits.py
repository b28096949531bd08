"""Images of 16 bits per channel and of floats: Pillow decodes RGB of 16 bits to 8."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mirnet_edge.errors import ImageError
from mirnet_edge.images.metadata import PNG_SIGNATURE, png_chunk
from mirnet_edge.images.tiff_samples import (
    EXTRA_SAMPLES,
    FLOATING,
    PHOTOMETRIC,
    SIGNED,
    decode_samples,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from mirnet_edge.images.contract import FloatFrames, Frame
    from mirnet_edge.images.tiff_samples import TiffPage

_GRAY_TYPES = (0, 4)  # color types of a PNG
# values of a TIFF's color type and extra samples; TIFF 6.0, pages 37 and 31
_WHITE_IS_ZERO, CMYK = 0, 5
_CHANNELS_OF = {_WHITE_IS_ZERO: 1, 1: 1, 2: 3, CMYK: 4}
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_TOLERANCE = 0.002  # floats that rounding brought a little below 0 or above 1


def png_bits(payload: bytes) -> Literal[8, 16]:
    """Return the bits per channel of a PNG, which Pillow hides: it decodes RGB of 16 bits to 8."""
    return 16 if payload[24] == 16 else 8  # the header is the first chunk; specification, 11.2.2


def decode_png(
    image: Image.Image, payload: bytes
) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None, bool]:
    """Return (H, W, 3) RGB, (H, W) alpha or None, and whether the file is gray.

    Raises:
        OSError: OpenCV does not decode it.
    """
    import cv2

    decoded = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise OSError("its 16-bit pixels cannot be decoded")
    levels: NDArray[Any] = np.asarray(decoded).reshape(*decoded.shape[:2], -1)
    channels = levels.shape[2]
    alpha = levels[..., -1] if channels in (2, 4) else None
    colors = levels[..., 2::-1] if channels > 2 else levels[..., :1].repeat(3, axis=2)  # BGR
    if channels == 1 and "transparency" in image.info:  # one transparent level
        alpha = np.where(
            levels[..., 0] == image.info["transparency"], np.uint16(0), np.uint16(65535)
        )
    # OpenCV decodes gray with alpha to four channels
    return np.ascontiguousarray(colors), alpha, payload[25] in _GRAY_TYPES


@dataclass(frozen=True, kw_only=True)
class TiffPixels:
    """The pixels of a TIFF that Pillow does not read."""

    colors: NDArray[np.uint16]
    """(H, W, 1), (H, W, 3) or, of CMYK, (H, W, 4)."""
    alpha: NDArray[np.uint16] | None
    """(H, W)."""
    loss: str
    """What the levels of 16 bits lack of the file's, in words; empty where it is nothing."""


def decode_tiff(payload: bytes, page: TiffPage) -> TiffPixels:
    """Return the pixels of a page of a TIFF as they are stored, not turned.

    Raises:
        ImageError: They are stored in a way that is not read, or no gray, RGB or CMYK.
        OSError: Some are missing, or cannot be decompressed.
    """
    kind = page.value(PHOTOMETRIC)
    count = _CHANNELS_OF.get(kind, page.channels + 1)
    if count > page.channels:
        raise ImageError(
            f"expected gray, RGB or CMYK in {page.channels} channels of {page.bits} bits, found "
            f"the color type {kind}. Convert it"
        )
    levels, loss = _levels_of(decode_samples(payload, page), page)
    colors, extra = levels[..., :count], levels[..., count:]
    if kind == _WHITE_IS_ZERO:
        colors = 65535 - colors
    alpha = None
    meanings = page.values(EXTRA_SAMPLES)
    if not meanings and extra.shape[2] == 1:
        meanings = (_UNASSOCIATED_ALPHA,)  # some programs, OpenCV among them, leave the tag out
    for place, meaning in enumerate(meanings[: extra.shape[2]]):
        if meaning in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA):
            alpha = extra[..., place]
            if meaning == _ASSOCIATED_ALPHA:
                wide = colors.astype(np.uint32) * 65535 + (alpha // 2)[..., None]
                colors = np.minimum(wide // np.maximum(alpha, 1)[..., None], 65535)
            break
    return TiffPixels(colors=np.ascontiguousarray(colors, np.uint16), alpha=alpha, loss=loss)


def _levels_of(samples: NDArray[Any], page: TiffPage) -> tuple[NDArray[np.uint16], str]:
    """Return samples as levels of 16 bits, and what they lack in words.

    Raises:
        ImageError: They have a sign, or are floats outside 0 to 1.
    """
    bits, form = page.bits, page.sample_format
    if form == SIGNED:
        raise ImageError(
            f"expected whole numbers without a sign, or floats from 0 to 1, found signed ones of "
            f"{bits} bits. Convert it"
        )
    if form == FLOATING:
        least, most = (float(one) for one in (np.min(samples), np.max(samples)))
        if not -_TOLERANCE <= least <= most <= 1 + _TOLERANCE:
            raise ImageError(
                f"expected floats from 0 to 1, found {least:g} to {most:g}. Divide them by their "
                "white level"
            )
        levels = np.rint(np.clip(samples, 0, 1).astype(np.float64) * 65535)
        return levels.astype(np.uint16), f"has floats of {bits} bits; 16-bit levels are read"
    if bits <= 16:
        levels = samples.astype(np.uint32) * 65535 // ((1 << bits) - 1)
        return levels.astype(np.uint16), ""
    levels = (samples >> (bits - 16)).astype(np.uint16)
    return levels, f"has {bits} bits per channel; 16 of them are read"


def to_8_bits(levels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Return levels of 16 bits rounded to 8."""
    # x / 257 takes 65535 to 255 and rounds to nearest; a tie cannot happen, 257 being odd
    return np.ascontiguousarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))


def to_float_frame(levels: NDArray[np.uint16]) -> FloatFrames:
    """Return (1, H, W, 3) float32 in [0, 1] of (H, W, 3) levels of 16 bits."""
    frames: FloatFrames = (levels[None] * np.float32(1 / 65535)).astype(np.float32)
    return frames


def from_float_frame(frames: FloatFrames) -> NDArray[np.uint16]:
    """Return (H, W, 3) levels of 16 bits of (1, H, W, 3) float32 in [0, 1]."""
    levels: NDArray[np.uint16] = np.rint(frames[0] * np.float32(65535)).astype(np.uint16)
    return levels


def widen(frame: Frame) -> NDArray[np.uint16]:
    """Return levels of 8 bits as levels of 16: 255 becomes 65535."""
    levels: NDArray[np.uint16] = frame.astype(np.uint16) * np.uint16(257)
    return levels


_UP = 2  # the PNG filter that stores differences to the pixel above
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def encode_png(pixels: NDArray[Any], *, icc: bytes | None, exif: bytes | None) -> bytes:
    """Return a PNG of (H, W, C) levels of 16 bits: gray, gray with alpha, RGB or RGB with alpha."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = _UP
    filtered[:, 1:] = rows
    filtered[1:, 1:] -= rows[:-1]  # modulo 256
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOR_TYPES[channels], 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if icc:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if exif:
        chunks.append((b"eXIf", exif))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(png_chunk(*one) for one in chunks)
