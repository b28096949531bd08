"""Write TIFF files: 8 or 16 bits, gray or RGB, alpha, profile, EXIF and other metadata.

Pillow writes no RGB of 16 bits, and OpenCV no metadata. An EXIF block is a TIFF without an image:
the file begins with it, so that every offset in it stays right, the pixels follow, and a new first
directory names both.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirnet_edge.errors import ImageError
from mirnet_edge.images.metadata import ExifBlock, iptc_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mirnet_edge.images.metadata import Metadata

# tags; TIFF 6.0, appendix A, and their registered companions
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _SAMPLES, _ROWS, _LENGTHS, _X_DPI, _Y_DPI = 273, 277, 278, 279, 282, 283
_PLANAR, _UNIT, _PREDICTOR, _EXTRA = 284, 296, 317, 338
_XMP, _IPTC, _PHOTOSHOP, _ICC = 700, 33723, 34377, 34675
_BYTE, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 1, 3, 4, 5, 7
_DEFLATE, _HORIZONTAL, _INCH, _UNASSOCIATED = 8, 2, 2, 2
# of the directory an EXIF block comes with, those that describe the image, and the directories
# EXIF and GPS: description, maker, model, orientation, resolution, software, date, artist, rights
KEPT_TAGS = (
    0x010E, 0x010F, 0x0110, 0x0112, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298,
    0x8769, 0x8825,
)  # fmt: skip
_STRIP_BYTES = 1 << 18
_FORMATS = {_SHORT: "H", _LONG: "I"}


@dataclass(frozen=True, kw_only=True)
class _Tag:
    tag: int
    type: int
    count: int
    content: bytes


def encode_tiff(
    pixels: NDArray[Any], *, exif: bytes | None, icc: bytes | None, metadata: Metadata
) -> bytes:
    """Return a TIFF file, losslessly compressed (Deflate).

    Args:
        pixels: (H, W, C), uint8 or uint16; gray, gray with alpha, RGB, RGB with alpha.
        exif: An EXIF block; one that is damaged is left out.
        icc: A color profile.
        metadata: Resolution, XMP, IPTC.
    """
    begin, order, kept = _begin(exif)
    offsets, lengths, content = [], [], bytearray(begin)
    rows = max(1, _STRIP_BYTES // max(1, pixels[0].nbytes))
    for top in range(0, pixels.shape[0], rows):
        strip = zlib.compress(_predicted(pixels[top : top + rows], order).tobytes(), 6)
        content += b"\0" * (len(content) % 2)
        offsets.append(len(content))
        lengths.append(len(strip))
        content += strip
    tags = _image_tags(pixels, order, offsets, lengths, rows)
    tags += _metadata_tags(metadata, icc, order, {one.tag for one in kept})
    directory = sorted([*kept, *tags], key=lambda one: one.tag)
    _append_directory(content, directory, order)
    return bytes(content)


def _begin(exif: bytes | None) -> tuple[bytes, str, list[_Tag]]:
    """Return what the file begins with, its byte order, and the kept entries of an EXIF block."""
    if exif:
        try:
            block = ExifBlock(exif)
        except ImageError:
            pass
        else:
            kept = [
                _Tag(
                    tag=one.tag, type=one.type, count=one.count,
                    content=exif[one.place + 8 : one.place + 12],
                )
                for one in block.entries
                if one.tag in KEPT_TAGS
            ]  # fmt: skip
            return exif, block.order, kept
    return b"II*\0\0\0\0\0", "<", []


def _predicted(strip: NDArray[Any], order: str) -> NDArray[Any]:
    """Return a strip as differences of neighbors, which compress better."""
    differences = strip.copy()
    differences[:, 1:] -= strip[:, :-1]  # modulo 2^8 or 2^16
    stored: NDArray[Any] = differences.astype(f"{order}{strip.dtype.char}")
    return stored


def _image_tags(
    pixels: NDArray[Any], order: str, offsets: list[int], lengths: list[int], rows: int
) -> list[_Tag]:
    height, width, channels = pixels.shape
    numbers = {
        _WIDTH: (_LONG, [width]),
        _HEIGHT: (_LONG, [height]),
        _BITS: (_SHORT, [8 * pixels.itemsize] * channels),
        _COMPRESSION: (_SHORT, [_DEFLATE]),
        _PHOTOMETRIC: (_SHORT, [1 if channels < 3 else 2]),
        _OFFSETS: (_LONG, offsets),
        _SAMPLES: (_SHORT, [channels]),
        _ROWS: (_LONG, [rows]),
        _LENGTHS: (_LONG, lengths),
        _PLANAR: (_SHORT, [1]),
        _PREDICTOR: (_SHORT, [_HORIZONTAL]),
    }
    if channels in (2, 4):
        numbers[_EXTRA] = (_SHORT, [_UNASSOCIATED])
    return [
        _Tag(
            tag=tag,
            type=kind,
            count=len(values),
            content=struct.pack(f"{order}{len(values)}{_FORMATS[kind]}", *values),
        )
        for tag, (kind, values) in numbers.items()
    ]


def _metadata_tags(
    metadata: Metadata, icc: bytes | None, order: str, present: set[int]
) -> list[_Tag]:
    """Return the tags of metadata that the EXIF block's directory does not have."""
    blocks = {
        _XMP: metadata.xmp, _IPTC: iptc_of(metadata), _PHOTOSHOP: metadata.resources, _ICC: icc,
    }  # fmt: skip
    tags = [
        _Tag(
            tag=tag, type=_BYTE if tag == _XMP else _UNDEFINED, count=len(content), content=content
        )
        for tag, content in blocks.items()
        if content
    ]
    if metadata.dpi and _X_DPI not in present:
        for tag, value in zip((_X_DPI, _Y_DPI), metadata.dpi, strict=True):
            ratio = struct.pack(f"{order}II", round(1000 * value), 1000)
            tags.append(_Tag(tag=tag, type=_RATIONAL, count=1, content=ratio))
        inch = struct.pack(f"{order}H", _INCH)
        tags.append(_Tag(tag=_UNIT, type=_SHORT, count=1, content=inch))
    return [one for one in tags if one.tag not in present]


def _append_directory(content: bytearray, tags: list[_Tag], order: str) -> None:
    """Append a directory and the values that do not fit into it, and let the header name it."""
    if len(content) >= 1 << 32:
        raise ImageError("TIFF holds at most 4 GiB, found more; write .png")
    content += b"\0" * (len(content) % 2)
    place = len(content)
    struct.pack_into(f"{order}I", content, 4, place)
    beside = bytearray()
    after = place + 2 + 12 * len(tags) + 4
    content += struct.pack(f"{order}H", len(tags))
    for one in tags:
        content += struct.pack(f"{order}HHI", one.tag, one.type, one.count)
        if len(one.content) <= 4:
            content += one.content.ljust(4, b"\0")
        else:
            content += struct.pack(f"{order}I", after + len(beside))
            beside += one.content + b"\0" * (len(one.content) % 2)
    content += bytes(4) + beside
