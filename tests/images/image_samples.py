"""Gray color profiles, and JPEG files with a gain map, a second image or a video, for tests."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_GAIN_MAP_XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>
<rdf:Description rdf:about="" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
 hdrgm:Version="1.0" xmp:Rating="4">
<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item
 Item:Semantic="Primary"/></rdf:li><rdf:li><Container:Item Item:Semantic="GainMap"
 Item:Length="99"/></rdf:li></rdf:Seq></Container:Directory>
</rdf:Description></rdf:RDF></x:xmpmeta>"""
_MOTION_XMP = (
    b'<x:xmpmeta><rdf:Description GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"'
    b' xmp:Rating="4"/></x:xmpmeta>'
)


def jpeg(level):
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), level, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def with_segments(payload, *segments):
    added = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        for marker, content in segments
    )
    return payload[:2] + added + payload[2:]


def index_of(kinds):
    """Return an index of images, a segment of the MPF."""
    entries = b"".join(struct.pack("<IIIHH", kind, 900, 900, 0, 0) for kind in kinds)
    rows = (
        struct.pack("<HHI4s", 0xB000, 7, 4, b"0100"),
        struct.pack("<HHII", 0xB001, 4, 1, len(kinds)),
        struct.pack("<HHII", 0xB002, 7, len(entries), 8 + 2 + 36 + 4),
    )
    return b"MPF\0II*\0\x08\0\0\0" + struct.pack("<H", 3) + b"".join(rows) + bytes(4) + entries


PRIMARY, THUMBNAIL, STEREO, UNDEFINED = 0x030000, 0x010001, 0x020002, 0


def ultra_hdr():
    main = with_segments(
        jpeg(100), (0xE1, _HEADER + _GAIN_MAP_XMP), (0xE2, index_of([PRIMARY, UNDEFINED]))
    )
    return main + jpeg(200)


def stereo_pair():
    return with_segments(jpeg(100), (0xE2, index_of([PRIMARY, STEREO]))) + jpeg(90)


def motion_photo():
    return with_segments(jpeg(100), (0xE1, _HEADER + _MOTION_XMP)) + bytes(500)


def gray_profile(curve):
    """Return a gray profile of one curve, written by hand; ICC.1:2022, 7.2, 7.3."""
    white = struct.pack(">3i", 63190, 65536, 54061)  # D50, in 16.16
    elements = [(b"wtpt", b"XYZ " + bytes(4) + white), (b"kTRC", curve)]
    place = 128 + 4 + 12 * len(elements)
    table, content = struct.pack(">I", len(elements)), b""
    for name, element in elements:
        table += name + struct.pack(">II", place + len(content), len(element))
        content += element + bytes(-len(element) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s28s12s48x",
        place + len(content), b"", 0x02400000, b"mntr", b"GRAY", b"XYZ ",
        struct.pack(">6H", 2026, 1, 1, 0, 0, 0), b"acsp", b"", white,
    )  # fmt: skip
    return header + table + content


def gamma(value):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def points(values):
    return b"curv" + bytes(4) + struct.pack(f">I{len(values)}H", len(values), *values)


def parametric(kind, *numbers):
    fixed = [round(65536 * one) for one in numbers]
    return b"para" + bytes(4) + struct.pack(f">HH{len(fixed)}i", kind, 0, *fixed)
