"""Gray profiles: the network gets sRGB, the result is written in the profile of its source."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mirnet_edge.images.files import read_image, write_image
from mirnet_edge.images.gray_profiles import GrayCurve, gray_curve
from mirnet_edge.images.metadata import PNG_SIGNATURE, Metadata, png_chunk
from mirnet_edge.images.sixteen_bits import to_8_bits, widen
from mirnet_edge.images.tiff import encode_tiff

sys.path.insert(0, str(Path(__file__).parent))
from image_samples import gamma, gray_profile, parametric, points

_SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
CURVES = {
    "linear": b"curv" + bytes(8),
    "gamma 1.8": gamma(1.8),
    "gamma 2.2": gamma(2.2),
    "dot gain": points(np.rint(65535 * np.linspace(0, 1, 200) ** 1.75).astype(int)),
    "gamma 2.4": parametric(0, 2.4),
    "IEC 61966-3": parametric(2, 2.2, 1.0, 0.0, 0.0),
    "sRGB": parametric(3, *_SRGB),
    "sRGB with offsets": parametric(4, *_SRGB, 0.0, 0.0),
}


@pytest.mark.parametrize("name", CURVES)
def test_the_curve_is_that_of_a_color_engine(name):
    profile = gray_profile(CURVES[name])
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    converted = ImageCms.profileToProfile(
        ramp, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )  # fmt: skip
    levels = to_8_bits(GrayCurve(profile).to_srgb(widen(np.asarray(ramp)))).astype(int)
    differs = np.abs(levels - np.asarray(converted)[..., 1])
    # in the darkest eighth Pillow's color engine is up to 10 levels off
    assert differs[2:].max() <= 2


@pytest.mark.parametrize("name", CURVES)
def test_all_levels_of_8_bits_come_back(name):
    curve = GrayCurve(gray_profile(CURVES[name]))
    levels = np.arange(256, dtype=np.uint8)
    back = to_8_bits(curve.from_srgb(curve.to_srgb(widen(levels)))).astype(int)
    assert np.abs(back - levels).max() <= (0 if "2." not in name else 1)


def write_png(path, pixels, profile):
    height, width = pixels.shape
    deep = pixels.dtype == np.uint16
    rows = pixels.astype(">u2") if deep else pixels
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16 if deep else 8, 0, 0, 0, 0)
    path.write_bytes(
        PNG_SIGNATURE + png_chunk(b"IHDR", header)
        + png_chunk(b"iCCP", b"gray\0\0" + zlib.compress(profile))
        + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    )  # fmt: skip
    return path


def write_source(path, pixels, profile):
    if path.suffix == ".png":
        return write_png(path, pixels, profile)
    if path.suffix == ".tif":
        content = encode_tiff(pixels[..., None], exif=None, icc=profile, metadata=Metadata())
        path.write_bytes(content)
        return path
    Image.fromarray(pixels).save(path, quality=100, icc_profile=profile)
    return path


@pytest.mark.parametrize(
    ("suffix", "depth"),
    [(".png", np.uint8), (".png", np.uint16), (".tif", np.uint8), (".tif", np.uint16),
     (".jpg", np.uint8), (".avif", np.uint8)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["linear", "dot gain"])
def test_gray_is_written_in_the_profile_it_came_in(suffix, depth, name, tmp_path, caplog):
    most = np.iinfo(depth).max
    pixels = np.tile(np.linspace(0.1 * most, most, 64).astype(depth), (48, 1))
    profile = gray_profile(CURVES[name])
    read = read_image(write_source(tmp_path / f"a{suffix}", pixels, profile))
    curve = GrayCurve(profile)
    wide = pixels if most > 255 else widen(pixels)
    assert np.abs(read.deep[..., 1].astype(int) - curve.to_srgb(wide)).max() <= 0.02 * 65535
    assert (read.frame == to_8_bits(read.deep)).all()
    assert read.icc is None
    write_image(tmp_path / f"out{suffix}", read)
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.info["icc_profile"] == profile
    again = read_image(tmp_path / f"out{suffix}")
    assert again.gray
    assert again.source_bits == (16 if most > 255 else 8)
    assert np.abs(again.deep.astype(int) - read.deep).max() <= 0.02 * 65535
    assert caplog.text == ""


def test_what_holds_no_gray_is_written_in_srgb(tmp_path):
    pixels = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    profile = gray_profile(CURVES["linear"])
    read = read_image(write_png(tmp_path / "a.png", pixels, profile))
    write_image(tmp_path / "a.webp", read)
    with Image.open(tmp_path / "a.webp") as image:
        assert "icc_profile" not in image.info
        shown = np.asarray(image.convert("RGB"))[..., 1].astype(int)
    expected = to_8_bits(GrayCurve(profile).to_srgb(widen(pixels)))
    assert np.abs(shown - expected).max() <= 6


WRONG = {
    "none": b"",
    "cut": gray_profile(gamma(2.2))[:150],
    "falls": gray_profile(points([65535, 0])),
    "flat": gray_profile(points([9, 9])),
    "many points": gray_profile(b"curv" + bytes(4) + struct.pack(">I", 1 << 30)),
    "unknown": gray_profile(b"text" + bytes(30)),
    "unknown kind": gray_profile(parametric(9, 1.0)),
    "color": gray_profile(gamma(2.2)).replace(b"GRAY", b"RGB "),
    "no number": gray_profile(parametric(0, -3.0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_profile_without_a_curve_has_none(name):
    assert gray_curve(WRONG[name]) is None


def test_a_profile_that_is_not_kept_is_said(tmp_path, caplog):
    pixels = np.full((8, 8), 90, np.uint8)
    read = read_image(write_png(tmp_path / "a.png", pixels, WRONG["unknown"]))
    assert (read.frame == 90).all()
    assert read.icc is read.gray_icc is None
    assert "has a color profile without a gray curve; it is not kept" in caplog.text
