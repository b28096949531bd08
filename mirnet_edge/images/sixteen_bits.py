"""Images of 16 bits per channel: Pillow decodes RGB of 16 bits to 8, and writes none."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mirnet_edge.errors import ImageError
from mirnet_edge.images.metadata import PNG_SIGNATURE, png_chunk

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from mirnet_edge.images.contract import FloatFrames, Frame

_BITS_PER_SAMPLE, _PHOTOMETRIC, _EXTRA_SAMPLES = 0x0102, 0x0106, 0x0152
_GRAY_TYPES = (0, 4)  # color types of a PNG
_WHITE_IS_ZERO, _ASSOCIATED_ALPHA = 0, 1  # values of the last two; TIFF 6.0, pages 37 and 31


def bits_of(image: Image.Image, payload: bytes, path: Path) -> Literal[8, 16]:
    """Return the bits per channel, which Pillow hides: it decodes 16-bit RGB files to 8 bits."""
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


def decode_16_bits(
    image: Image.Image, payload: bytes, path: Path
) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None, bool]:
    """Return (H, W, 3) RGB, (H, W) alpha or None, and whether the file is gray."""
    if image.mode == "CMYK":
        raise ImageError(f"{path} is CMYK with 16 bits; expected gray or RGB there. Convert it")
    levels = _decoded(image, payload, path).astype(np.uint32)
    channels = levels.shape[2]
    alpha = levels[..., -1:] if channels in (2, 4) else None
    colors = levels[..., 2::-1] if channels > 2 else levels[..., :1].repeat(3, axis=2)  # BGR
    # what OpenCV leaves as the file has it
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        colors = 65535 - colors
    if alpha is not None and tags.get(_EXTRA_SAMPLES, (0,))[0] == _ASSOCIATED_ALPHA:
        # at most 65535 * 65535 + 32767, which 32 bits hold
        colors = np.minimum((colors * 65535 + alpha // 2) // np.maximum(alpha, 1), 65535)
    if channels == 1 and "transparency" in image.info:  # a PNG's one transparent level
        alpha = np.where(levels == image.info["transparency"], np.uint32(0), np.uint32(65535))
    deep = np.ascontiguousarray(colors.astype(np.uint16))
    # OpenCV decodes gray with alpha to four channels
    gray = payload[25] in _GRAY_TYPES if image.format == "PNG" else channels < 3
    return deep, None if alpha is None else alpha[..., 0].astype(np.uint16), gray


def _decoded(image: Image.Image, payload: bytes, path: Path) -> NDArray[np.uint16]:
    """Return (H, W, C), BGR where there are colors, of the file's page that IMAGE is at."""
    import cv2

    content = np.frombuffer(payload, np.uint8)
    page = image.tell() if image.format == "TIFF" else 0
    if page:
        _, pages = cv2.imdecodemulti(content, cv2.IMREAD_UNCHANGED, range=(page, page + 1))
        decoded = pages[0] if pages else None
    else:
        decoded = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        found = "nothing" if decoded is None else str(decoded.dtype)
        raise ImageError(
            f"{path}: its 16-bit pixels decode to {found}, expected uint16. Convert it to PNG"
        )
    levels: NDArray[Any] = decoded.reshape(*decoded.shape[:2], -1)
    return levels


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
