"""What a file holds beside its main image and is not restored: gain maps, stereo pairs, videos.

Only the main image is written. What shows or corrects its former pixels is left out, with a line,
and its metadata names it no longer: a viewer that finds the mark of a gain map looks for the map.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from mirnet_edge.images.metadata import jpeg_segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirnet_edge.images.kinds import Kind

_GAIN_MAP = "has a gain map for HDR screens; it fits the former pixels alone and is left out"
_VIDEO = "holds the video of a motion photo; it is left out"
_APP2 = 0xE2
_ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1"
_GAIN_MAP_MARKS = (b"hdrgm:Version", b"HDRGainMap:", _ISO_GAIN_MAP, b"aux:hdrgainmap")
_VIDEO_MARKS = (
    re.compile(rb"(?:MotionPhoto|MicroVideo)(?:=\"1\"|='1'|>1<)"),
    re.compile(rb"MotionPhoto_Data"),  # Samsung's, behind the image
)
# CIPA DC-007, multi-image files: the type in the attribute of an entry
_TYPES, _PRIMARY, _THUMBNAILS, _UNDEFINED = 0xFFFFFF, 0x030000, (0x010001, 0x010002), 0
_ENTRIES = 0xB002


def companions(payload: bytes, kind: Kind) -> Iterator[str]:
    """Yield a line for each companion of a file's main image. Reduced copies are none."""
    if kind not in ("JPEG", "HEIF", "AVIF"):
        return
    has_gain_map = _has_gain_map(payload, kind)
    if has_gain_map:
        yield _GAIN_MAP
    others = [one for one in _images_of_mpf(payload) if one != _PRIMARY and one not in _THUMBNAILS]
    # the gain map is one of these
    if has_gain_map and _UNDEFINED in others:
        others.remove(_UNDEFINED)
    if kind == "JPEG" and others:
        yield f"holds {1 + len(others)} images (MPO); the first is restored, the others left out"
    if any(mark.search(payload) for mark in _VIDEO_MARKS) or b"mpvd" in _boxes_of(payload):
        yield _VIDEO


def _boxes_of(payload: bytes) -> list[bytes]:
    """Return the names of the outer boxes of HEIC and AVIF; none of another file."""
    names: list[bytes] = []
    place = 0
    while payload[4:8] == b"ftyp" and place + 8 <= len(payload):
        size = int.from_bytes(payload[place : place + 4], "big")
        names.append(payload[place + 4 : place + 8])
        if size < 8:  # up to the end, or longer than 4 GB
            break
        place += size
    return names


def _has_gain_map(payload: bytes, kind: Kind) -> bool:
    if kind == "JPEG":
        return any(mark in payload for mark in _GAIN_MAP_MARKS)
    # of AVIF and HEIF, a tone-mapped item; or Apple's auxiliary image
    return b"infe" in payload and (b"tmap" in payload[:4096] or _GAIN_MAP_MARKS[-1] in payload)


def _images_of_mpf(payload: bytes) -> list[int]:
    """Return the type of each image of a JPEG's index of images; none where it has no index."""
    for marker, _, content in jpeg_segments(payload):
        if marker == _APP2 and content.startswith(b"MPF\0"):
            try:
                return _types_of(content[4:])
            except struct.error:
                return []
    return []


def _types_of(index: bytes) -> list[int]:
    """Return the types in an index, a TIFF block.

    Raises:
        struct.error: It is cut off.
    """
    order = ">" if index[:2] == b"MM" else "<"
    (place,) = struct.unpack_from(f"{order}I", index, 4)
    (count,) = struct.unpack_from(f"{order}H", index, place)
    for number in range(count):
        tag, _, size, value = struct.unpack_from(f"{order}HHII", index, place + 2 + 12 * number)
        if tag == _ENTRIES:
            size = min(size, len(index))
            attributes = (
                struct.unpack_from(f"{order}I", index, at)[0]
                for at in range(value, value + size - 15, 16)
            )
            return [attribute & _TYPES for attribute in attributes]
    return []
