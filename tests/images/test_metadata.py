"""What files hold beside pixels comes out as it went in; thumbnails show the new pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mirnet_edge.images.files import ImageFile, read_image, write_image
from mirnet_edge.images.metadata import (
    ExifBlock,
    Metadata,
    iptc_of,
    jpeg_segments,
    png_chunks,
    renew_exif,
)

_XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:Description xmp:Rating="4"/></x:xmpmeta><?xpacket end="w"?>'
)
_RECORDS = b"\x1c\x02\x78\x00\x11Grandmother, 1931"


def _resource(number, content):
    padded = content + b"\0" * (len(content) % 2)
    return b"8BIM" + struct.pack(">HHI", number, 0, len(content)) + padded


_RESOURCES = _resource(0x0404, _RECORDS) + _resource(0x03ED, bytes(16))
_FULL = Metadata(
    dpi=(600.0, 300.0), xmp=_XMP, resources=_RESOURCES, comments=(b"scanned 2003", b"twice")
)


def _frame(height=40, width=60, level=None):
    if level is not None:
        return np.full((height, width, 3), level, np.uint8)
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize("gray", [False, True])
def test_resolution_xmp_iptc_and_comments_survive(suffix, gray, tmp_path):
    path, again = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    write_image(path, ImageFile(frame=_frame(), metadata=_FULL, gray=gray))
    write_image(again, read_image(path))
    found = read_image(again).metadata
    assert found.dpi == pytest.approx(_FULL.dpi)
    assert found.xmp == _XMP
    assert iptc_of(found) == _RECORDS
    if suffix == "jpg":
        assert found.comments == _FULL.comments
        assert found.resources == _RESOURCES
        with Image.open(again) as image:  # as others see it
            assert image.info["dpi"] == (600, 300)
            assert image.info["xmp"] == _XMP
            assert image.info["photoshop"][0x0404] == _RECORDS
    else:
        with Image.open(again) as image:
            assert image.info["dpi"] == (600, 300)
            assert image.tag_v2[700] == _XMP


@pytest.mark.parametrize("suffix", ["png", "webp", "avif"])
def test_metadata_of_another_format_is_written_where_there_is_room(suffix, tmp_path):
    write_image(tmp_path / f"a.{suffix}", ImageFile(frame=_frame(), metadata=_FULL))
    found = read_image(tmp_path / f"a.{suffix}").metadata
    assert found.xmp == _XMP
    if suffix == "png":
        assert found.dpi == pytest.approx(_FULL.dpi, abs=0.02)
        with Image.open(tmp_path / "a.png") as image:
            assert image.info["Comment"] in ("scanned 2003", "twice")


def test_iptc_of_a_tiff_goes_into_a_jpeg(tmp_path):
    write_image(tmp_path / "a.jpg", ImageFile(frame=_frame(), metadata=Metadata(iptc=_RECORDS)))
    assert iptc_of(read_image(tmp_path / "a.jpg").metadata) == _RECORDS


def test_a_jpegs_resolution_in_centimeters_is_converted(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(_frame()).save(buffer, "JPEG", dpi=(100, 100))
    payload = bytearray(buffer.getvalue())
    payload[payload.index(b"JFIF\0") + 7] = 2
    (tmp_path / "a.jpg").write_bytes(payload)
    assert read_image(tmp_path / "a.jpg").metadata.dpi == pytest.approx((254, 254))


def test_chunks_of_a_png_are_written_as_they_were(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "someone")
    info.add_text("Comment", "y" * 30_000, zip=True)
    info.add_itxt("Title", "Nuit", "fr", "Titre", zip=True)
    info.add(b"gAMA", struct.pack(">I", 45455))
    Image.fromarray(_frame()).save(tmp_path / "a.png", pnginfo=info, dpi=(600, 600))
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read.frame, _frame())
    write_image(tmp_path / "b.png", read)
    kept = {b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"pHYs"}
    chunks = [
        [one for one in png_chunks((tmp_path / name).read_bytes()) if one[0] in kept]
        for name in ("a.png", "b.png")
    ]
    assert len(chunks[0]) == 5
    assert sorted(chunks[0]) == sorted(chunks[1])
    with Image.open(tmp_path / "b.png") as image:
        assert image.info["dpi"] == pytest.approx((600, 600), abs=0.01)


@pytest.mark.parametrize("international", [False, True])
def test_long_compressed_text_is_stored_as_it_is(international, tmp_path):
    info = PngImagePlugin.PngInfo()
    text = "x" * 2_000_000  # more than Pillow reads where it is compressed
    if international:
        info.add_itxt("Long", text, "fr", "Longue", zip=True)
    else:
        info.add_text("Long", text, zip=True)
    Image.fromarray(_frame()).save(tmp_path / "a.png", pnginfo=info)
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read.frame, _frame())
    write_image(tmp_path / "b.png", read)
    with Image.open(tmp_path / "b.png") as image:
        assert image.text["Long"] == text


def test_text_that_inflates_without_end_is_left_out_with_a_line(tmp_path, caplog):
    info = PngImagePlugin.PngInfo()
    info.add_text("Long", "x" * (9 << 20), zip=True)
    Image.fromarray(_frame()).save(tmp_path / "a.png", pnginfo=info)
    assert read_image(tmp_path / "a.png").metadata.chunks == ()
    assert "the text 'Long' of a PNG is longer than 8 MiB and left out" in caplog.text


@pytest.mark.parametrize("name", [b"tEXt", b"pHYs", b"gAMA", b"zzZz"])
def test_a_wrong_checksum_beside_the_pixels_is_no_damage(name, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(_frame()).save(buffer, "PNG")
    content = buffer.getvalue()
    chunk = struct.pack(">I", 9) + name + b"\0\0\x0b\x13\0\0\x0b\x13\1" + b"crc?"
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").frame, _frame())


def test_a_profile_larger_than_pillow_reads_is_kept(tmp_path):
    icc = bytes(16) + b"RGB " + np.random.default_rng(0).bytes(2 << 20)
    write_image(tmp_path / "a.png", ImageFile(frame=_frame(), icc=icc))
    assert read_image(tmp_path / "a.png").icc == icc


def test_a_profile_that_inflates_without_end_is_left_out(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(_frame()).save(buffer, "PNG")
    payload = buffer.getvalue()
    content = b"name\0\0" + zlib.compress(bytes(20 << 20), 9)
    chunk = struct.pack(">I", len(content)) + b"iCCP" + content
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    (tmp_path / "a.png").write_bytes(payload[:33] + chunk + payload[33:])
    assert read_image(tmp_path / "a.png").icc is None


# thumbnails


def _exif(order="<", *, thumbnail=b"", size=(60, 40), after=b""):
    """Return a block: orientation, the size in the EXIF directory, a thumbnail, more behind it."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    first = struct.pack(f"{order}H", 2)
    first += struct.pack(f"{order}HHIHH", 0x0112, 3, 1, 1, 0)
    first += struct.pack(f"{order}HHII", 0x8769, 4, 1, 38)
    first += struct.pack(f"{order}I", 68 if thumbnail else 0)
    exif = struct.pack(f"{order}H", 2)
    exif += struct.pack(f"{order}HHII", 0xA002, 4, 1, size[0])
    exif += struct.pack(f"{order}HHIHH", 0xA003, 3, 1, size[1], 0) + bytes(4)
    second = b""
    if thumbnail:
        second = struct.pack(f"{order}H", 2)
        second += struct.pack(f"{order}HHII", 0x0201, 4, 1, 98)
        second += struct.pack(f"{order}HHII", 0x0202, 4, 1, len(thumbnail)) + bytes(4)
    return magic + struct.pack(f"{order}I", 8) + first + exif + second + thumbnail + after


def _thumbnail_of(block):
    exif = ExifBlock(block)
    place = exif.number("I", exif.next_place)
    if not place:
        return None
    tags = {one.tag: exif.value(one) for one in exif.directory(place)[0]}
    start = tags[0x0201]
    return Image.open(io.BytesIO(block[start : start + tags[0x0202]]))


def _small(level):
    buffer = io.BytesIO()
    Image.fromarray(_frame(30, 40, level)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("after", [b"", b"a maker's note at its place"])
def test_the_thumbnail_shows_the_new_pixels(order, after):
    old = _small(10)
    block = _exif(order, thumbnail=old, after=after)
    assert np.asarray(_thumbnail_of(block)).mean() == pytest.approx(10, abs=2)
    renewed = renew_exif(block, _frame(400, 600, 200))
    small = _thumbnail_of(renewed)
    assert small.size == (160, 107)
    assert np.asarray(small).mean() == pytest.approx(200, abs=2)
    assert old not in renewed
    place = 98 + len(old)
    assert renewed[place : place + len(after)] == after


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_no_old_thumbnail_is_in_any_result(suffix, tmp_path):
    old = _small(10)
    image = ImageFile(frame=_frame(level=200), exif=_exif(thumbnail=old))
    write_image(tmp_path / f"a.{suffix}", image)
    assert old not in (tmp_path / f"a.{suffix}").read_bytes()
    if suffix != "tif":  # whose first directory is another
        small = _thumbnail_of(read_image(tmp_path / f"a.{suffix}").exif)
        assert np.asarray(small).mean() == pytest.approx(200, abs=2)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_size_in_the_block_is_that_of_the_pixels(order):
    renewed = renew_exif(_exif(order), _frame(80, 120))
    entries = ExifBlock(renewed).directory(38)[0]
    assert [ExifBlock(renewed).value(one) for one in entries] == [120, 80]
    assert renew_exif(_exif(order), _frame(40, 60)) == _exif(order)


def test_a_block_without_room_loses_its_thumbnail():
    block = _exif(thumbnail=_small(10), after=bytes(65300))
    assert _thumbnail_of(renew_exif(block, _frame(400, 600))) is None


@given(st.binary(max_size=200), st.integers(0, 120))
def test_damaged_blocks_stay_as_they_are_or_are_blocks(noise, place):
    block = bytearray(_exif(thumbnail=b"x" * 40))
    block[place : place + len(noise)] = noise
    renewed = renew_exif(bytes(block), _frame(8, 8))
    assert renewed == bytes(block) or ExifBlock(renewed)


def test_photoshops_and_xmps_small_copies_are_left_out(tmp_path):
    xmp = b"<x><xmp:Thumbnails><rdf:Alt>/9j/4AAQ</rdf:Alt></xmp:Thumbnails><b/></x>"
    metadata = Metadata(xmp=xmp, resources=_resource(0x040C, _small(10)) + _RESOURCES)
    write_image(tmp_path / "a.jpg", ImageFile(frame=_frame(), metadata=metadata))
    found = read_image(tmp_path / "a.jpg").metadata
    assert found.resources == _RESOURCES
    assert found.xmp == b"<x><b/></x>"


def test_long_resources_are_split_over_segments(tmp_path):
    resources = _resource(0x0404, bytes(200_000))
    image = ImageFile(frame=_frame(), metadata=Metadata(resources=resources))
    write_image(tmp_path / "a.jpg", image)
    payload = (tmp_path / "a.jpg").read_bytes()
    assert sum(marker == 0xED for marker, _, _ in jpeg_segments(payload)) == 4
    assert read_image(tmp_path / "a.jpg").metadata.resources == resources
