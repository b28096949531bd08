"""What lies beside a main image: gain maps, stereo pairs and videos are left out with a line."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.images.companions import companions
from mirnet_edge.images.files import read_image, write_image

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


_PRIMARY, _THUMBNAIL, _STEREO, _UNDEFINED = 0x030000, 0x010001, 0x020002, 0


def ultra_hdr():
    main = with_segments(
        jpeg(100), (0xE1, _HEADER + _GAIN_MAP_XMP), (0xE2, index_of([_PRIMARY, _UNDEFINED]))
    )
    return main + jpeg(200)


def stereo_pair():
    return with_segments(jpeg(100), (0xE2, index_of([_PRIMARY, _STEREO]))) + jpeg(90)


def with_preview():
    return with_segments(jpeg(100), (0xE2, index_of([_PRIMARY, _THUMBNAIL]))) + jpeg(100)


def motion_photo():
    return with_segments(jpeg(100), (0xE1, _HEADER + _MOTION_XMP)) + bytes(500)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (ultra_hdr, "has a gain map for HDR screens; it fits the former pixels alone"),
        (stereo_pair, "holds 2 images (MPO); the first is restored, the others left out"),
        (motion_photo, "holds the video of a motion photo; it is left out"),
        (with_preview, ""),
        (lambda: jpeg(100), ""),
    ],
    ids=["gain map", "stereo", "motion", "preview", "plain"],
)
def test_what_is_left_out_is_said_and_named_no_longer(make, line, tmp_path, caplog):
    (tmp_path / "a.jpg").write_bytes(make())
    read = read_image(tmp_path / "a.jpg")
    assert np.abs(read.frame.astype(int) - 100).max() <= 2
    assert [one.getMessage() for one in caplog.records if line and line in one.getMessage()] or (
        not line and not caplog.records
    )
    assert len(caplog.records) == bool(line)
    write_image(tmp_path / "out.jpg", read)
    written = (tmp_path / "out.jpg").read_bytes()
    for mark in (b"hdrgm:Version", b"Container:Item", b"MotionPhoto", b"MPF\0"):
        assert mark not in written
    if read.metadata.xmp:
        assert b'xmp:Rating="4"' in written


@pytest.mark.parametrize("cut", range(4, 70, 3))
def test_a_damaged_index_of_images_is_none(cut, tmp_path, caplog):
    index = index_of([_PRIMARY, _STEREO])[:cut]
    (tmp_path / "a.jpg").write_bytes(with_segments(jpeg(100), (0xE2, index)))
    assert read_image(tmp_path / "a.jpg").frame.shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0\0\0\x10mpvdmoov", ["holds the video of a motion photo; it is left out"]),
        (b"\0\0\0\x14metainfetmap....", ["has a gain map for HDR screens"]),
        (b"\0\0\0\x14metainfeav01mpvd", []),  # within a box it is data
    ],
)
def test_companions_in_boxes_of_heic_and_avif_are_found(content, said):
    lines = list(companions(b"\0\0\0\x10ftypheic\0\0\0\0" + content, "HEIF"))
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))
