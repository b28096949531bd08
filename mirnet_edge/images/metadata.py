"""What image files hold beside pixels: resolution, XMP, IPTC, comments, text chunks, EXIF blocks.

Everything is kept as bytes and moved as it is: chunks of PNG, segments of JPEG. What shows the
pixels as they were before, a thumbnail, is renewed or left out.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirnet_edge.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from PIL import Image

    from mirnet_edge.images.contract import Frame


logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a file holds beside its pixels, profile and EXIF block; each None where it has none."""

    dpi: tuple[float, float] | None = None
    """Horizontal and vertical resolution, in pixels per inch."""
    xmp: bytes | None = None
    """An XMP packet (XML)."""
    extended_xmp: tuple[bytes, ...] = ()
    """A JPEG's further segments of XMP."""
    resources: bytes | None = None
    """Photoshop's image resources, which hold the IPTC records of a JPEG."""
    iptc: bytes | None = None
    """A TIFF's IPTC records."""
    comments: tuple[bytes, ...] = ()
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    """A PNG's chunks of text, resolution, time and color: name and content."""


# PNG

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_KEPT = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"oFFs", b"tIME", *_TEXT)
_OF_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT", b"eXIf")
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_INCHES_PER_METER = 1 / 0.0254
_LONG_TEXT, _LONGEST_TEXT = 1 << 20, 8 << 20  # what Pillow and libpng read at most
_LARGEST_PROFILE = 16 << 20
# ImageMagick hides EXIF in text; it is read, and written as EXIF
_EXIF_KEYWORDS = (b"Raw profile type exif", b"Raw profile type APP1")
_LARGEST_HIDDEN_EXIF = 1 << 18


def png_chunks(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and content of each chunk of a PNG, up to where it ends or is cut off."""
    place = len(PNG_SIGNATURE)
    while place + 12 <= len(payload):
        (length,) = struct.unpack_from(">I", payload, place)
        end = place + 12 + length
        if end > len(payload):
            return
        yield payload[place + 4 : place + 8], payload[place + 8 : end - 4]
        place = end


def has_png_end(payload: bytes) -> bool:
    """Return whether a PNG has the chunk that ends it."""
    return any(name == b"IEND" for name, _ in png_chunks(payload))


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return (
        struct.pack(">I", len(content)) + name + content
        + struct.pack(">I", zlib.crc32(name + content))
    )  # fmt: skip


def essential_png(payload: bytes) -> bytes:
    """Return a PNG of the chunks that its pixels need; decoders refuse the file for others.

    They limit text and profiles, and refuse wrong checksums. Text that hides an EXIF block stays.
    """
    parts = [PNG_SIGNATURE]
    place = len(PNG_SIGNATURE)
    for name, content in png_chunks(payload):
        end = place + 12 + len(content)
        is_whole = zlib.crc32(name + content) == int.from_bytes(payload[end - 4 : end], "big")
        hidden = content.startswith(_EXIF_KEYWORDS) and len(content) < _LARGEST_HIDDEN_EXIF
        is_pixels = name[:1].isupper() or (name in _OF_PIXELS and is_whole)
        if is_pixels or (name in _TEXT and hidden and is_whole):
            parts.append(payload[place:end])
        place = end
    return b"".join([*parts, payload[place:]])


def png_profile(payload: bytes) -> bytes | None:
    """Return the ICC profile of a PNG; None where it has none, or one that is damaged or huge."""
    for name, content in png_chunks(payload):
        if name == b"iCCP":
            _, _, packed = content.partition(b"\0")
            inflate = zlib.decompressobj()
            try:
                profile = inflate.decompress(packed[1:], _LARGEST_PROFILE)
            except zlib.error:
                return None
            return profile if inflate.eof else None
    return None


def with_png_chunks(payload: bytes, metadata: Metadata) -> bytes:
    """Return a PNG with the metadata as chunks after its header."""
    header = len(PNG_SIGNATURE) + 25
    chunks = metadata.chunks or tuple(_png_chunks_of(metadata))
    added = b"".join(png_chunk(name, content) for name, content in chunks)
    return payload[:header] + added + payload[header:]


def _png_chunks_of(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of metadata that another format had."""
    if metadata.dpi:
        across, down = (round(one * _INCHES_PER_METER) for one in metadata.dpi)
        yield b"pHYs", struct.pack(">IIB", across, down, 1)
    if metadata.xmp:
        yield b"iTXt", _XMP_KEYWORD + b"\0\0\0\0\0" + metadata.xmp
    for comment in metadata.comments:
        text = comment.decode("utf-8", errors="replace").encode("latin-1", errors="replace")
        yield b"tEXt", b"Comment\0" + text.replace(b"\0", b"")


def _png_metadata(payload: bytes) -> Metadata:
    chunks = [
        (name, content)
        for name, content in png_chunks(payload)
        if name in _KEPT and not content.startswith(_EXIF_KEYWORDS)
    ]
    xmp = dpi = None
    for name, content in chunks:
        if name == b"iTXt" and content.startswith(_XMP_KEYWORD + b"\0\0"):
            xmp = content.split(b"\0", 5)[-1]
        if name == b"pHYs" and len(content) == 9 and content[8] == 1:
            dpi = tuple(one / _INCHES_PER_METER for one in struct.unpack(">II", content[:8]))
    legible = (_legible_text(name, _of_main_image(content)) for name, content in chunks)
    kept = tuple(one for one in legible if one is not None)
    return Metadata(dpi=dpi, xmp=xmp and _of_main_image(xmp), chunks=kept)


def _legible_text(name: bytes, content: bytes) -> tuple[bytes, bytes] | None:
    """Return a chunk that other programs read: long compressed text is stored as it is.

    Pillow refuses a file with more than 1 MiB in a compressed text. None for more than
    `_LONGEST_TEXT`, which is left out and logged.
    """
    keyword, _, rest = content.partition(b"\0")
    if name == b"zTXt":
        head, packed, plain = b"", rest[1:], b"tEXt"
    elif name == b"iTXt" and rest[:1] == b"\1":
        language, _, translated = rest[2:].partition(b"\0")
        title, _, packed = translated.partition(b"\0")
        head, plain = b"\0\0" + language + b"\0" + title + b"\0", b"iTXt"
    else:
        return name, content
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(packed, _LONGEST_TEXT)
    except zlib.error:
        return None  # damaged, and for no reader
    if inflate.unconsumed_tail:
        logger.warning(
            "the text %r of a PNG is longer than %d MiB and left out",
            keyword[:79].decode("latin-1"), _LONGEST_TEXT >> 20,
        )  # fmt: skip
        return None
    return (name, content) if len(text) < _LONG_TEXT else (plain, keyword + b"\0" + head + text)


# JPEG

_XMP, _MORE_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_APP0, _APP1, _APP13, _APP15, _COMMENT, _SCAN = 0xE0, 0xE1, 0xED, 0xEF, 0xFE, 0xDA
_LARGEST_SEGMENT = 65533
_CENTIMETERS_PER_INCH = 2.54


def jpeg_segments(payload: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (marker, place of the marker, content) of a JPEG's segments before its first scan."""
    place = 2
    while place + 4 <= len(payload) and payload[place] == 0xFF:
        marker = payload[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        (length,) = struct.unpack_from(">H", payload, place + 2)
        if length < 2 or place + 2 + length > len(payload):
            return
        yield marker, place, payload[place + 4 : place + 2 + length]
        if marker == _SCAN:
            return
        place += 2 + length


def _jpeg_metadata(payload: bytes) -> Metadata:
    found: dict[str, Any] = {}
    more, comments, resources = [], [], b""
    for marker, _, content in jpeg_segments(payload):
        if marker == _APP0 and content.startswith(b"JFIF\0") and len(content) >= 12:
            found["dpi"] = _jfif_resolution(content)
        elif marker == _APP1 and content.startswith(_XMP):
            found["xmp"] = _of_main_image(content[len(_XMP) :])
        elif marker == _APP1 and content.startswith(_MORE_XMP):
            more.append(content)
        elif marker == _APP13 and content.startswith(_PHOTOSHOP):
            resources += content[len(_PHOTOSHOP) :]
        elif marker == _COMMENT:
            comments.append(content)
    return Metadata(
        extended_xmp=tuple(more),
        comments=tuple(comments),
        resources=_without_thumbnail_resources(resources) or None,
        **found,
    )


def _jfif_resolution(content: bytes) -> tuple[float, float] | None:
    unit, across, down = struct.unpack_from(">BHH", content, 7)
    if unit not in (1, 2) or not across or not down:
        return None
    factor = 1.0 if unit == 1 else _CENTIMETERS_PER_INCH
    return factor * across, factor * down


def with_jpeg_segments(payload: bytes, metadata: Metadata) -> bytes:
    """Return a JPEG with the metadata as segments before its tables.

    What does not fit a segment is left out, Photoshop's resources are split over several.
    """
    segments = []
    if metadata.xmp:
        segments.append((_APP1, _XMP + metadata.xmp))
    segments += [(_APP1, one) for one in metadata.extended_xmp]
    resources = metadata.resources
    if resources is None and metadata.iptc:
        resources = _resource(_IPTC_RESOURCE, metadata.iptc)
    if resources:
        step = _LARGEST_SEGMENT - len(_PHOTOSHOP)
        parts = [resources[at : at + step] for at in range(0, len(resources), step)]
        segments += [(_APP13, _PHOTOSHOP + part) for part in parts]
    segments += [(_COMMENT, one) for one in metadata.comments]
    added = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        for marker, content in segments
        if len(content) <= _LARGEST_SEGMENT
    )
    after = 2
    for marker, place, content in jpeg_segments(payload):
        if not _APP0 <= marker <= _APP15:
            break
        after = place + 4 + len(content)
    return payload[:after] + added + payload[after:]


# Photoshop's resources: 8BIM, number, name of even length, size, content of even length
_IPTC_RESOURCE = 0x0404
_THUMBNAIL_RESOURCES = (0x0409, 0x040C)


def _resources(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes, heading included, of each resource; stop where damaged."""
    place = 0
    while content[place : place + 4] == b"8BIM" and place + 12 <= len(content):
        (number,) = struct.unpack_from(">H", content, place + 4)
        name = (content[place + 6] + 2) // 2 * 2
        start = place + 6 + name
        if start + 4 > len(content):
            return
        (size,) = struct.unpack_from(">I", content, start)
        end = start + 4 + (size + 1) // 2 * 2
        if end > len(content) + 1:
            return
        yield number, content[place:end]
        place = end


def _resource(number: int, content: bytes) -> bytes:
    padding = b"\0" * (len(content) % 2)
    return b"8BIM" + struct.pack(">HHI", number, 0, len(content)) + content + padding


def _without_thumbnail_resources(content: bytes) -> bytes:
    return b"".join(
        whole for number, whole in _resources(content) if number not in _THUMBNAIL_RESOURCES
    )


def iptc_of(metadata: Metadata) -> bytes | None:
    """Return the IPTC records, wherever the file had them."""
    if metadata.iptc or not metadata.resources:
        return metadata.iptc
    for number, whole in _resources(metadata.resources):
        if number == _IPTC_RESOURCE:
            start = 6 + (whole[6] + 2) // 2 * 2
            (size,) = struct.unpack_from(">I", whole, start)
            return whole[start + 4 : start + 4 + size]
    return None


_XMP_THUMBNAILS = re.compile(rb"<(\w+:Thumbnails)\b[^>]*>.*?</\1>", re.DOTALL)
# of gain maps and motion photos: see `companions`
_XMP_COMPANIONS = re.compile(
    rb"""\s(?:hdrgm|HDRGainMap):\w+\s*=\s*(?:"[^"]*"|'[^']*')"""
    rb"""|\s\w*Camera:(?:MotionPhoto|MicroVideo)\w*\s*=\s*(?:"[^"]*"|'[^']*')"""
    rb"|<((?:hdrgm|HDRGainMap):\w+|\w*Camera:(?:MotionPhoto|MicroVideo)\w*|\w*Container:Directory)"
    rb"\b[^>]*?(?:/>|>.*?</\1>)",
    re.DOTALL,
)


def _of_main_image(xmp: bytes) -> bytes:
    """Return an XMP packet without the image's small copies, and marks of what is beside it.

    A viewer that finds the mark of a gain map looks for the map, which is not written.
    """
    if b":Thumbnails" in xmp:
        xmp = _XMP_THUMBNAILS.sub(b"", xmp)
    return _XMP_COMPANIONS.sub(b"", xmp)


# TIFF, WebP, AVIF, HEIF: what Pillow gives


def is_lossless_webp(payload: bytes) -> bool:
    """Return whether the pixels of a WebP are stored losslessly."""
    place = 12
    while place + 8 <= len(payload):
        name = payload[place : place + 4]
        if name in (b"VP8L", b"VP8 "):
            return name == b"VP8L"
        if name == b"ANMF":  # a frame of an animation, and its chunks
            place += 24
            continue
        place += 8 + (int.from_bytes(payload[place + 4 : place + 8], "little") + 1) // 2 * 2
    return False


def heif_bits(payload: bytes) -> int:
    """Return the bits per channel of an AVIF or HEIF file, by its decoder's configuration."""
    av1, hevc = payload.find(b"av1C"), payload.find(b"hvcC")
    if 0 <= av1 < len(payload) - 7:
        flags = payload[av1 + 6]  # AV1 ISO media file format, 2.3.3
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    if 0 <= hevc < len(payload) - 22:
        return 8 + (payload[hevc + 21] & 7)  # ISO/IEC 14496-15, 8.3.3
    return 8


_XMP_TAG, _IPTC_TAG, _PHOTOSHOP_TAG = 700, 33723, 34377


def metadata_of(image: Image.Image, payload: bytes) -> Metadata:
    """Return what a file holds beside pixels, profile and EXIF block."""
    if image.format == "PNG":
        return _png_metadata(payload)
    if image.format in ("JPEG", "MPO"):
        return _jpeg_metadata(payload)
    # only a TIFF has tags
    return tiff_metadata(getattr(image, "tag_v2", {}), image.info)


def tiff_metadata(tags: Any, info: Mapping[Any, Any] | None = None) -> Metadata:  # noqa: ANN401
    """Return what the tags of a TIFF, or Pillow's INFO, hold beside pixels and EXIF block."""
    known = info or {}
    xmp = _bytes(tags.get(_XMP_TAG) or known.get("xmp"))
    resources = _bytes(tags.get(_PHOTOSHOP_TAG))
    return Metadata(
        dpi=_resolution(known.get("dpi")),
        xmp=xmp and _of_main_image(xmp),
        resources=resources and _without_thumbnail_resources(resources),
        iptc=_bytes(tags.get(_IPTC_TAG)),
    )


def _bytes(value: object) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], bytes):
        value = value[0]
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        # IPTC is stored as 32-bit numbers by some programs
        return b"".join(struct.pack("<I", one & 0xFFFFFFFF) for one in value)
    return value if isinstance(value, bytes) and value else None


def _resolution(value: object) -> tuple[float, float] | None:
    try:
        across, down = (float(one) for one in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


# EXIF blocks: a TIFF without an image; TIFF 6.0, section 2

_THUMBNAIL_SIDE = 160
_JPEG_OFFSET, _JPEG_LENGTH = 0x0201, 0x0202
_EXIF_DIRECTORY = 0x8769
_SIDES = {0xA002: 1, 0xA003: 0}  # the image's width and height, and the axes of a frame
_LARGEST_BLOCK = 65533 - 6


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of a directory: its tag, type and number of values, and where it lies."""

    tag: int
    type: int
    count: int
    place: int
    """Of the entry in the block; the value, or its offset, lies 8 bytes further."""


class ExifBlock:
    """The directories of an EXIF block, read where they lie."""

    def __init__(self, block: bytes) -> None:
        """Read the header and the first directory.

        Raises:
            ImageError: It is damaged.
        """
        self.order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4], "")
        if not self.order or len(block) < 8:
            raise ImageError("the EXIF block is damaged; expected a TIFF header")
        self.block = block
        self.first = self.number("I", 4)
        self.entries, self.next_place = self.directory(self.first)

    def directory(self, place: int) -> tuple[list[Entry], int]:
        """Return a directory's entries, and where the offset of the next directory lies.

        Raises:
            ImageError: It is cut off.
        """
        count = self.number("H", place)
        after = place + 2 + 12 * count
        if after + 4 > len(self.block):
            raise ImageError("the EXIF block is cut off; expected a whole directory")
        entries = []
        for at in range(place + 2, after, 12):
            tag, kind, values = struct.unpack_from(f"{self.order}HHI", self.block, at)
            entries.append(Entry(tag=tag, type=kind, count=values, place=at))
        return entries, after

    def value(self, entry: Entry) -> int:
        """Return the number in an entry of one short or long value."""
        return self.number("H" if entry.type == 3 else "I", entry.place + 8)

    def number(self, kind: str, place: int) -> int:
        """Return the number of a struct's kind at a place of the block.

        Raises:
            ImageError: It is cut off.
        """
        try:
            (number,) = struct.unpack_from(f"{self.order}{kind}", self.block, place)
        except struct.error as error:
            raise ImageError("the EXIF block is cut off; expected a whole directory") from error
        return int(number)


def renew_exif(block: bytes, frame: Frame) -> bytes:
    """Return an EXIF block for other pixels: a new thumbnail in place of the old, the new size.

    Args:
        block: As read. Returned unchanged where it has no thumbnail and states no other size, or
            is damaged.
        frame: The pixels it will lie beside.
    """
    try:
        return _with_new_thumbnail(_with_size(block, frame), frame)
    except ImageError:
        return block


def _with_size(block: bytes, frame: Frame) -> bytes:
    """Return a block whose EXIF directory states the size of the frame, where it states one."""
    exif = ExifBlock(block)
    changed = bytearray(block)
    for pointer in exif.entries:
        if pointer.tag == _EXIF_DIRECTORY:
            for entry in exif.directory(exif.value(pointer))[0]:
                if entry.tag in _SIDES and entry.type in (3, 4) and entry.count == 1:
                    side = frame.shape[_SIDES[entry.tag]]
                    kind = "H" if entry.type == 3 else "I"
                    if side < 1 << 16 or kind == "I":
                        struct.pack_into(exif.order + kind, changed, entry.place + 8, side)
    return bytes(changed)


def _with_new_thumbnail(block: bytes, frame: Frame) -> bytes:
    exif = ExifBlock(block)
    second = exif.number("I", exif.next_place)
    if not second:
        return block
    changed = bytearray(block)
    struct.pack_into(f"{exif.order}I", changed, exif.next_place, 0)
    try:
        places = {entry.tag: exif.value(entry) for entry in exif.directory(second)[0]}
    except ImageError:
        return bytes(changed)  # a second directory that cannot be read is left out
    start, length = places.get(_JPEG_OFFSET, 0), places.get(_JPEG_LENGTH, 0)
    if start:
        # what it shows must be gone, and what lies behind it must stay where it is
        end = min(start + length, len(changed))
        changed[start:end] = b"" if end == len(changed) else bytes(max(0, end - start))
    thumbnail = _thumbnail(frame)
    place = len(changed) + len(changed) % 2
    directory = struct.pack(
        f"{exif.order}HHHIHH" + 2 * "HHII" + "I",
        3, 0x0103, 3, 1, 6, 0,
        _JPEG_OFFSET, 4, 1, place + 42, _JPEG_LENGTH, 4, 1, len(thumbnail), 0,
    )  # fmt: skip
    if place + len(directory) + len(thumbnail) > _LARGEST_BLOCK:
        return bytes(changed)
    struct.pack_into(f"{exif.order}I", changed, exif.next_place, place)
    return bytes(changed.ljust(place, b"\0")) + directory + thumbnail


def _thumbnail(frame: Frame) -> bytes:
    from PIL import Image

    small = Image.fromarray(frame)
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
