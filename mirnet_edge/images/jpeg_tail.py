"""JPEG files whose end marker is missing: distinguished from those that lost pixels."""

from __future__ import annotations

import io
import random

from mirnet_edge.images.metadata import jpeg_segments

_END = b"\xff\xd9"
_COEFFICIENTS = 64
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)  # tables and an extension, among the markers of frames
_RESTARTS = range(0xD0, 0xD8)
_FILL_BYTES = 4096


def with_end_marker(payload: bytes) -> bytes | None:
    """Return a JPEG with the end marker that it lacks; None where pixels are missing too.

    A decoder reads whatever follows as pixels where some are missing, and ignores it where all are
    there. So different bytes are appended: equal pixels show that all are there.
    """
    content = payload.rstrip(b"\xff")  # half of the marker
    if not has_all_scans(content):
        return None
    noise = random.Random(0)
    fills = [b"", *(bytes(noise.choices(range(255), k=_FILL_BYTES)) for _ in range(2))]
    decoded = [_decode(content + fill + _END) for fill in fills]
    if decoded[0] is None or any(one != decoded[0] for one in decoded):
        return None
    return content + _END


def _decode(payload: bytes) -> bytes | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(payload), formats=("JPEG",)) as image:
            pixels: bytes = image.tobytes()
            return pixels
    except (OSError, ValueError, SyntaxError):
        return None


def has_all_scans(payload: bytes) -> bool:
    """Return whether every coefficient of every component is in some scan, to its last bit.

    A progressive JPEG that is cut off between two scans decodes without a fault, but blurred.
    """
    missing: dict[int, dict[int, int]] = {}  # by component and coefficient: bits still to come
    is_progressive = False
    for marker, content in _all_segments(payload):
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES and len(content) >= 6:
            is_progressive = marker in _PROGRESSIVE
            components = content[6 : 6 + 3 * content[5] : 3]
            missing = {one: dict.fromkeys(range(_COEFFICIENTS), 99) for one in components}
        if marker == 0xDA and content and len(content) >= 4 + 2 * content[0]:
            first, last, bits = content[1 + 2 * content[0] :][:3]
            covered = range(first, last + 1) if is_progressive else range(_COEFFICIENTS)
            for component in content[1 : 1 + 2 * content[0] : 2]:
                missing.setdefault(component, {}).update(
                    dict.fromkeys(covered, (bits & 15) if is_progressive else 0)
                )
    return bool(missing) and not any(
        bits for coefficients in missing.values() for bits in coefficients.values()
    )


def _all_segments(payload: bytes) -> list[tuple[int, bytes]]:
    """Return the marker and content of all segments, those between scans included."""
    segments = []
    start = 0
    while True:
        place = None
        for marker, at, content in jpeg_segments(payload[start:]):
            segments.append((marker, content))
            place = start + at + 4 + len(content) if marker == 0xDA else None
        if place is None:
            return segments
        following = _next_marker(payload, place)
        if following is None:
            return segments
        start = following - 2  # as if after the start marker


def _next_marker(payload: bytes, place: int) -> int | None:
    """Return where the marker lies that ends a scan's pixels; None where there is none."""
    while (place := payload.find(b"\xff", place)) >= 0 and place + 1 < len(payload):
        if payload[place + 1] not in (0x00, 0xFF, *_RESTARTS):
            return place
        place += 1
    return None
