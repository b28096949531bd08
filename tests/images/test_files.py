"""Image files: what is in them comes out as it went in, and what cannot be read says why."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from mirnet_edge.errors import ImageError, MirnetEdgeError
from mirnet_edge.images import huge
from mirnet_edge.images.files import (
    ImageFile,
    apply_orientation,
    format_of,
    read_image,
    write_image,
)
from mirnet_edge.images.kinds import FORMAT_OF_SUFFIX
from mirnet_edge.images.metadata import Metadata
from mirnet_edge.images.tiff import encode_tiff

_LOSSLESS = ["png", "tif"]
_ALL = ["png", "tif", "jpg", "webp"]
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# the same profile, but its header says gray; enough to be told apart
_GRAY = _SRGB[:16] + b"GRAY" + _SRGB[20:]


def _exif(**tags):
    numbers = {"orientation": 0x0112, "maker": 0x010F}
    block = Image.Exif()
    for name, value in tags.items():
        block[numbers[name]] = value
    return block


def _chunk(kind, content):
    summed = kind + content
    return struct.pack(">I", len(content)) + summed + struct.pack(">I", zlib.crc32(summed))


def _png(pixels, color_type, *chunks):
    """Return a PNG of (H, W, C) pixels of 8 or 16 bits, written by hand."""
    height, width, _ = pixels.shape
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big_endian)
    bits = 8 * pixels.itemsize
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    written = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*one) for one in written)


def _tiff(pixels, photometric, **tags):
    """Return a TIFF of (H, W, C) pixels, written by hand: there are kinds no library writes."""
    height, width, channels = pixels.shape
    bits, content = 8 * pixels.itemsize, pixels.tobytes()
    sample = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    values = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric],
        273: [8], 277: [channels], 278: [height], 279: [len(content)], 339: [sample] * channels,
    }  # fmt: skip
    values |= {{"extra_samples": 338, "orientation": 274}[name]: [tags[name]] for name in tags}
    after = 8 + len(content)
    directory, beside = struct.pack("<H", len(values)), b""
    place = after + 2 + 12 * len(values) + 4
    for tag in sorted(values):
        packed = struct.pack(f"<{len(values[tag])}H", *values[tag])
        directory += struct.pack("<HHI", tag, 3, len(values[tag]))
        if len(packed) > 4:
            directory += struct.pack("<I", place + len(beside))
            beside += packed
        else:
            directory += packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", after) + content + directory + bytes(4) + beside


def _levels(shape, dtype=np.uint8, seed=0):
    generator = np.random.default_rng([seed, *shape])
    return generator.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def _to_8_bits(deep):
    return np.rint(deep / 257).astype(np.uint8)


@pytest.fixture
def place(tmp_path):
    """Write bytes to a file: place("a.png", content)."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def save(tmp_path):
    """Write an array, or a Pillow image, as another program would: save("a.png", array)."""

    def write(name, pixels, **options):
        path = tmp_path / name
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(path, **options)
        return path

    return write


# there and back


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(_LOSSLESS),
    st.integers(1, 12),
    st.integers(1, 12),
    st.booleans(),
    st.integers(0, 9),
)
def test_pixels_and_transparency_survive_lossless_formats(
    tmp_path_factory, suffix, height, width, transparent, seed
):
    pixels = _levels((height, width, 4), seed=seed)
    alpha = pixels[..., 3] if transparent else None
    path = tmp_path_factory.mktemp("images") / f"a.{suffix}"
    write_image(path, ImageFile(frame=pixels[..., :3], alpha=alpha))
    read = read_image(path)
    np.testing.assert_array_equal(read.frame, pixels[..., :3])
    assert read.format == FORMAT_OF_SUFFIX[path.suffix]
    assert read.source_bits == 8
    if transparent:
        np.testing.assert_array_equal(read.alpha, alpha)
    else:
        assert read.alpha is None


@pytest.mark.parametrize("suffix", _ALL)
def test_profile_and_tags_survive_every_format(suffix, tmp_path):
    exif = _exif(orientation=6, maker="someone").tobytes().removeprefix(b"Exif\0\0")
    path = tmp_path / f"a.{suffix}"
    write_image(path, ImageFile(frame=_levels((16, 24, 3)), icc=_SRGB, exif=exif))
    read = read_image(path)
    assert read.icc == _SRGB
    assert read.exif == exif
    with Image.open(path) as image:  # as others see it
        assert image.info["icc_profile"] == _SRGB
        assert image.getexif()[0x010F] == "someone"


@pytest.mark.parametrize("suffix", _ALL)
def test_how_and_where_a_photo_was_taken_survives(suffix, save, tmp_path):
    exif = _exif(maker="someone")
    exif[0x8769] = {0x8827: 3200, 0xA005: {0x0001: "R98"}}  # sensitivity, interoperability
    exif[0x8825] = {0x0001: "N"}  # latitude
    source = save(f"a.{suffix}", _levels((16, 24, 3)), exif=exif.tobytes())
    write_image(tmp_path / f"b.{suffix}", read_image(source))
    with Image.open(tmp_path / f"b.{suffix}") as image:
        kept = image.getexif()
        assert kept[0x010F] == "someone"
        assert kept.get_ifd(0x8769)[0x8827] == 3200
        assert kept.get_ifd(0x8825)[0x0001] == "N"


@pytest.mark.parametrize("suffix", _ALL)
def test_damaged_tags_do_not_keep_a_image_from_being_written(suffix, tmp_path):
    frame = _levels((16, 24, 3))
    write_image(tmp_path / f"a.{suffix}", ImageFile(frame=frame, exif=b"damaged"))
    assert read_image(tmp_path / f"a.{suffix}").frame.shape == frame.shape


@pytest.mark.parametrize("suffix", _ALL)
def test_what_has_neither_profile_nor_tags_gets_none(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    write_image(path, ImageFile(frame=_levels((16, 24, 3))))
    read = read_image(path)
    assert (read.icc, read.exif, read.alpha) == (None, None, None)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_stay_close(suffix, tmp_path):
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    frame = np.dstack([ramp, 2 * (ramp // 2), 255 - ramp])
    path = tmp_path / f"a.{suffix}"
    write_image(path, ImageFile(frame=frame))
    assert np.abs(read_image(path).frame.astype(int) - frame).mean() < 2


def test_jpeg_keeps_the_resolution_of_colors(tmp_path):
    write_image(tmp_path / "a.jpg", ImageFile(frame=_levels((32, 32, 3))))
    with Image.open(tmp_path / "a.jpg") as image:
        assert {component[1:3] for component in image.layer} == {(1, 1)}  # 4:4:4


def test_colors_under_full_transparency_stay_in_webp(tmp_path):
    frame = np.arange(0, 256, 4, dtype=np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2)
    write_image(tmp_path / "a.webp", ImageFile(frame=frame, alpha=np.zeros((32, 64), np.uint8)))
    read = read_image(tmp_path / "a.webp")
    assert np.abs(read.frame.astype(int) - frame).max() < 8
    assert not read.alpha.any()


# kinds of 8 bits


@dataclass(frozen=True)
class Kind:
    id: str
    mode: str
    suffix: str = "png"
    options: dict = field(default_factory=dict)


@pytest.mark.parametrize(
    "case",
    [
        Kind("black and white", "1"),
        Kind("gray", "L"),
        Kind("gray jpeg", "L", "jpg"),
        Kind("gray tiff", "L", "tif"),
        Kind("gray with alpha", "LA"),
        Kind("palette", "P"),
        Kind("palette with alpha", "P", options={"transparency": bytes([0, 128, *[255] * 254])}),
        Kind("gray with a transparent level", "L", options={"transparency": 2}),
        Kind("a transparent color", "RGB", options={"transparency": (1, 2, 3)}),
        Kind("rgba", "RGBA"),
        Kind("rgba webp", "RGBA", "webp", {"lossless": True}),
        Kind("cmyk", "CMYK", "jpg"),
        Kind("cmyk tiff", "CMYK", "tif"),
    ],
    ids=lambda case: case.id,
)
def test_each_kind_of_8_bits_becomes_rgb_and_alpha(case, save):
    colors = _levels((6, 8, 3))
    colors[0, 0] = (1, 2, 3)
    image = Image.fromarray(colors).convert(case.mode)
    if case.mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(_levels((6, 8), seed=1)))
    path = save(f"a.{case.suffix}", image, **case.options)
    read = read_image(path)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGBA"))
    np.testing.assert_array_equal(read.frame, expected[..., :3])
    assert read.source_bits == 8
    if case.mode in ("LA", "RGBA") or case.options.get("transparency"):
        np.testing.assert_array_equal(read.alpha, expected[..., 3])
        assert (read.alpha < 255).any()
    else:
        assert read.alpha is None


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG", "tiff", "TIF", "png", "webp"])
def test_the_kind_is_told_by_the_content_not_the_name(suffix, tmp_path, save):
    path = save("a.png", _levels((4, 4, 3)))
    renamed = path.rename(tmp_path / f"b.{suffix}")
    assert read_image(renamed).format == "PNG"


def test_a_phones_image_in_two_parts_is_its_photo(tmp_path):
    photo, preview = (Image.fromarray(_levels((side, side, 3))) for side in (16, 8))
    photo.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    read = read_image(tmp_path / "a.jpg")
    assert read.format == "JPEG"
    assert read.frame.shape == (16, 16, 3)


# 16 bits


@dataclass(frozen=True)
class Deep:
    id: str
    channels: int
    suffix: str = "png"


@pytest.mark.parametrize(
    "case",
    [
        Deep("gray", 1),
        Deep("gray with alpha", 2),
        Deep("rgb", 3),
        Deep("rgba", 4),
        Deep("gray tiff", 1, "tif"),
        Deep("rgb tiff", 3, "tif"),
        Deep("rgba tiff", 4, "tif"),
    ],
    ids=lambda case: case.id,
)
def test_16_bits_are_rounded_to_8(case, place):
    deep = _levels((5, 7, case.channels), np.uint16)
    if case.suffix == "png":
        content = _png(deep, {1: 0, 2: 4, 3: 2, 4: 6}[case.channels])
    else:
        extra = {"extra_samples": 2} if case.channels == 4 else {}
        content = _tiff(deep, 1 if case.channels == 1 else 2, **extra)
    read = read_image(place(f"a.{case.suffix}", content))
    expected = _to_8_bits(deep)
    colors = expected[..., :3] if case.channels > 2 else expected[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(read.frame, colors)
    assert (read.source_bits, read.frame.dtype) == (16, np.uint8)
    if case.channels in (2, 4):
        np.testing.assert_array_equal(read.alpha, expected[..., -1])
    else:
        assert read.alpha is None


def test_every_level_of_16_bits_goes_to_the_nearest_of_8(place):
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    frame = read_image(place("a.png", _png(deep, 0))).frame
    np.testing.assert_array_equal(frame[..., 0], _to_8_bits(deep[..., 0]))
    assert frame.min() == 0
    assert frame.max() == 255


@pytest.mark.parametrize("channels", [1, 3])
def test_one_transparent_level_of_16_bits_is_transparent(channels, place):
    deep = _levels((5, 7, channels), np.uint16)
    marked = deep[2, 3].astype(">u2").tobytes()
    content = _png(deep, 0 if channels == 1 else 2, (b"tRNS", marked))
    read = read_image(place("a.png", content))
    assert read.alpha[2, 3] == 0
    assert (read.alpha == 255).sum() == 5 * 7 - 1
    np.testing.assert_array_equal(read.frame[..., 0], _to_8_bits(deep[..., 0]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_whose_white_is_zero_is_no_negative(dtype, place):
    stored = _levels((5, 7, 1), dtype)
    black_is_zero = read_image(place("a.tif", _tiff(stored, 1))).frame
    white_is_zero = read_image(place("b.tif", _tiff(stored, 0))).frame
    np.testing.assert_array_equal(white_is_zero, 255 - black_is_zero)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colors_multiplied_by_their_alpha_are_divided_again(dtype, place):
    most = np.iinfo(dtype).max
    alpha = np.array([0, most // 5, most // 2, most, most], np.float64)
    colors = np.array([0.0, 0.6, 0.25, 0.9, 1.0])
    stored = np.rint(np.stack([colors * alpha] * 3 + [alpha], axis=-1)).astype(dtype)[None]
    read = read_image(place("a.tif", _tiff(stored, 2, extra_samples=1)))
    assert np.abs(read.frame[0, 1:, 0] - 255 * colors[1:]).max() <= 2
    np.testing.assert_array_equal(read.alpha[0], np.rint(255 * alpha / most))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_fewer_than_8_bits_fill_the_range(bits, place):
    levels = np.arange(2**bits)
    packed = np.packbits(((levels[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).ravel())
    header = struct.pack(">IIBBBBB", len(levels), 1, bits, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, payload)
        for kind, payload in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(b"\0" + packed.tobytes())),
            (b"IEND", b""),
        )
    )
    read = read_image(place("a.png", content))
    np.testing.assert_array_equal(read.frame[0, :, 0], levels * 255 // (2**bits - 1))
    assert read.source_bits == 8


# orientation


def _seen(path):
    """Return the pixels as a viewer shows them."""
    # not from the file itself: Pillow 13 forgets to turn an RGBA TIFF that it maps into memory
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", _LOSSLESS)
def test_pixels_stay_as_stored_and_are_seen_as_the_tag_says(suffix, orientation, save, tmp_path):
    pixels = _levels((5, 7, 4))
    source = save(f"a.{suffix}", pixels, exif=_exif(orientation=orientation))
    read = read_image(source)
    np.testing.assert_array_equal(read.frame, pixels[..., :3])
    np.testing.assert_array_equal(read.alpha, pixels[..., 3])
    seen = _seen(source)
    np.testing.assert_array_equal(apply_orientation(read), seen[..., :3])
    # restored and written, it is seen alike
    write_image(tmp_path / f"b.{suffix}", read)
    np.testing.assert_array_equal(_seen(tmp_path / f"b.{suffix}"), seen)
    with Image.open(tmp_path / f"b.{suffix}") as image:
        assert image.getexif()[0x0112] == orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_tiffs_are_not_turned_either(orientation, place):
    # OpenCV, which decodes them, turns them on its own
    deep = _levels((5, 7, 3), np.uint16)
    read = read_image(place("a.tif", _tiff(deep, 2, orientation=orientation)))
    np.testing.assert_array_equal(read.frame, _to_8_bits(deep))
    shallow = Image.fromarray(_to_8_bits(deep))
    shallow.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(
        apply_orientation(read), np.asarray(ImageOps.exif_transpose(shallow))
    )


@pytest.mark.parametrize("exif", [None, b"", b"damaged", b"II*\0\xff\xff\xff\xff", b"\0" * 40])
def test_damaged_tags_turn_nothing(exif):
    frame = _levels((3, 4, 3))
    np.testing.assert_array_equal(apply_orientation(ImageFile(frame=frame, exif=exif)), frame)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_turn_nothing(orientation):
    frame = _levels((3, 4, 3))
    exif = _exif(orientation=orientation).tobytes()
    np.testing.assert_array_equal(apply_orientation(ImageFile(frame=frame, exif=exif)), frame)


# profiles


def test_an_rgb_profile_stays_and_the_pixels_with_it(save):
    pixels = _levels((4, 5, 3))
    read = read_image(save("a.png", pixels, icc_profile=_SRGB))
    assert read.icc == _SRGB
    np.testing.assert_array_equal(read.frame, pixels)


def test_an_rgb_profile_of_16_bits_stays_and_a_gray_one_goes(place):
    def with_profile(pixels, color_type, icc):
        return _png(pixels, color_type, (b"iCCP", b"name\0\0" + zlib.compress(icc)))

    color, gray = _levels((4, 5, 3), np.uint16), _levels((4, 5, 1), np.uint16)
    assert read_image(place("a.png", with_profile(color, 2, _SRGB))).icc == _SRGB
    assert read_image(place("b.png", with_profile(gray, 0, _GRAY))).icc is None


@pytest.mark.parametrize("icc", [_GRAY, b"x" * 16 + b"CMYK damaged"], ids=["wrong", "damaged"])
def test_a_profile_that_does_not_work_is_left_to_the_plain_conversion(icc, save):
    pixels = _levels((4, 5))
    read = read_image(save("a.png", pixels, icc_profile=icc))
    np.testing.assert_array_equal(read.frame, pixels[..., None].repeat(3, axis=2))
    assert read.icc is None


# what cannot be read


@dataclass(frozen=True)
class Unreadable:
    id: str
    content: bytes
    says: list[str]
    name: str = "a.png"


def _encoded(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(_levels((40, 40, 3))).save(buffer, kind, **options)
    return buffer.getvalue()


def _damaged_deep_tiff():
    content = cv2.imencode(".tif", _levels((40, 40, 3), np.uint16))[1]
    content[8:400] = 0xFF
    return content.tobytes()


_PAGES = {"save_all": True, "append_images": [Image.new("RGB", (40, 40), "red")]}
_FLOATS = np.full((4, 5, 1), 0.5, np.float32)
_EXPECTED = "expected a PNG, JPEG, WebP, TIFF, AVIF, HEIC, BMP, JPEG 2000 or camera raw image"


@pytest.mark.parametrize(
    "case",
    [
        Unreadable("empty", b"", ["a.png is empty", _EXPECTED, "Copy it again"]),
        Unreadable(
            "text", b"a letter\n", ["damaged or another kind of file", _EXPECTED, "Convert"]
        ),
        Unreadable("psd", b"8BPS" + bytes(60), ["is a Photoshop document", _EXPECTED, "Convert"]),
        Unreadable("jxl named png", b"\xff\x0a" + bytes(60), ["is a JPEG XL image", "Convert"]),
        Unreadable("animated gif", _encoded("GIF", **_PAGES), ["holds 2 images"], "a.gif"),
        *(
            Unreadable(
                f"truncated {kind}",
                _encoded(kind)[:-400],
                ["is damaged", _EXPECTED],
                f"a.{kind.lower()}",
            )
            for kind in ("PNG", "JPEG", "WEBP", "TIFF")
        ),
        Unreadable("damaged tiff of 16 bits", _damaged_deep_tiff(), ["is damaged"], "a.tif"),
        Unreadable("only a header", _encoded("PNG")[:33], ["is damaged", "header cannot be read"]),
        Unreadable("pages", _encoded("TIFF", **_PAGES), ["holds 2 images", "Split it"], "a.tif"),
        Unreadable(
            "floats of levels", _tiff(255 * _FLOATS, 1), ["from 0 to 1, found 127.5 to", "Divide"]
        ),
        Unreadable("not a number", _tiff(np.nan * _FLOATS, 1), ["floats from 0 to 1, found nan"]),
        Unreadable(
            "with a sign",
            _tiff(_levels((4, 5, 1), np.int16), 1),
            ["without a sign", "found signed ones of 16 bits", "Convert it"],
        ),
        Unreadable(
            "YCbCr of 16 bits",
            _tiff(_levels((4, 5, 3), np.uint16), 6),
            ["expected gray, RGB or CMYK in 3 channels of 16 bits, found the color type 6"],
        ),
        Unreadable("pointer", b"version https://git-lfs.github.com/spec/v1\n", ["Git LFS pointer"]),
        Unreadable("page", b"<!DOCTYPE html><html></html>", ["is a web page", "Convert"]),
    ],
    ids=lambda case: case.id,
)
def test_what_is_no_readable_image_says_what_it_is(case, place, capfd):
    path = place(case.name, case.content)
    with pytest.raises(ImageError) as raised:
        read_image(path)
    assert str(raised.value).startswith(str(path))
    for part in case.says:
        assert part in str(raised.value)
    out, err = capfd.readouterr()
    assert out == ""
    assert "OpenCV" not in err  # which would print its own report of the failure


def test_lab_colors_are_converted_with_a_line(tmp_path, caplog):
    Image.new("LAB", (4, 4), (136, 208, 195)).save(tmp_path / "a.tif")  # red
    read = read_image(tmp_path / "a.tif")
    assert read.frame[0, 0, 0] > 200 > 60 > read.frame[0, 0, 1:].max()
    assert "has LAB colors; they are converted to RGB" in caplog.text


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_damaged_16_bit_png_is_as_damaged_as_one_of_8(depth, place):
    content = bytearray(_png(_levels((40, 40, 3), depth), 2))
    content[-60] ^= 0xFF
    with pytest.raises(ImageError, match="is damaged"):
        read_image(place("a.png", bytes(content)))


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(ImageError, match=r"a\.png cannot be read \(No such file.*Check the name"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(ImageError, match=r"b\.png is a folder; expected .*Name a file in it"):
        read_image(tmp_path / "b.png")


def _deep_tiff(pixels):
    return encode_tiff(pixels, exif=None, icc=None, metadata=Metadata())


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "deep.png", "deep.tif", "gray.png"])
def test_what_pillow_takes_for_a_bomb_is_read_where_the_memory_suffices(name, place, monkeypatch):
    deep = _levels((40, 40, 3), np.uint16)
    content = {
        "a.png": _encoded("PNG"), "a.jpg": _encoded("JPEG"), "a.tif": _encoded("TIFF"),
        "deep.png": _png(deep, 2), "deep.tif": _deep_tiff(deep),
        "gray.png": _png(_levels((40, 40, 1), np.uint16), 0),
    }[name]  # fmt: skip
    path, limit = place(name, content), 700
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    bytes_per_pixel = 64 if "deep" in name or "gray" in name else 26
    needed = 1600 * bytes_per_pixel + len(content)
    for left, says in (
        (needed - 1, r"has 40x40 pixels \(0 megapixels\): .* 0\.0 GB are left\. Cut it into"),
        (None, "how much is left is unknown here"),
    ):
        monkeypatch.setattr(huge, "available_memory", lambda left=left: left)
        with pytest.raises(ImageError, match=says):
            read_image(path)
    monkeypatch.setattr(huge, "available_memory", lambda: needed)
    assert read_image(path).frame.shape == (40, 40, 3)
    assert limit == Image.MAX_IMAGE_PIXELS


# what cannot be written


def test_transparency_does_not_go_into_a_jpeg(tmp_path):
    image = ImageFile(frame=_levels((4, 4, 3)), alpha=_levels((4, 4)))
    with pytest.raises(ImageError, match=r"JPEG cannot hold it; write \.png, \.webp or \.tif"):
        write_image(tmp_path / "a.jpg", image)
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_cannot_count_is_refused_in_its_name(tmp_path):
    image = ImageFile(frame=np.zeros((1, 16384, 3), np.uint8))
    with pytest.raises(ImageError, match=r"a\.webp: WEBP cannot hold this image .*another format"):
        write_image(tmp_path / "a.webp", image)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.bmp", "a", "png", ".png"])
def test_suffixes_that_are_not_written_are_refused(name, tmp_path):
    with pytest.raises(ImageError, match=r"has the suffix .*written as \.png, .*Rename it"):
        write_image(tmp_path / name, ImageFile(frame=_levels((4, 4, 3))))


def test_suffixes_are_known_in_any_case():
    assert format_of(Path("a.b.PNG")) == "PNG"
    assert {format_of(Path(f"a{suffix}")) for suffix in FORMAT_OF_SUFFIX} == {
        "PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF",
    }  # fmt: skip


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MirnetEdgeError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", ImageFile(frame=_levels((4, 4, 3))))


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    says = r"a\.png cannot be written \(No space left on device\).*Free the disk"
    with pytest.raises(MirnetEdgeError, match=says):
        write_image(tmp_path / "a.png", ImageFile(frame=_levels((4, 4, 3))))


def test_others_read_what_is_written(tmp_path):
    frame = _levels((4, 5, 3))
    write_image(tmp_path / "a.png", ImageFile(frame=frame, source_bits=16))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], frame)
