"""TIFF files that no library reads right: more than 8 bits, floats, planes, tiles, odd channels."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirnet_edge.errors import ImageError
from mirnet_edge.images.files import read_image, write_image
from mirnet_edge.images.tiff_samples import decode_samples, read_main_pages
from mirnet_edge.runtime.restore import restore_files
from mirnet_edge.testing.null_runner import NullRunner

sys.path.insert(0, str(Path(__file__).parent))
from tiff_layouts import CMYK, DEFLATE, GRAY, RGB, Layout, with_tags, write_tiff

_HEIGHT, _WIDTH = 21, 37


def _samples(layout, seed=0):
    generator = np.random.default_rng(seed)
    shape = (_HEIGHT, _WIDTH, layout.channels)
    if layout.dtype.startswith("f"):
        return generator.uniform(0, 1, shape).astype(layout.dtype)
    return generator.integers(0, np.iinfo(layout.dtype).max, shape, layout.dtype, endpoint=True)


LAYOUTS = [
    Layout(dtype=dtype, order=order, is_planar=is_planar, is_tiled=is_tiled, predictor=predictor,
           compression=compression, channels=channels)
    for dtype, predictor in (("u2", 1), ("u2", 2), ("u4", 2), ("f2", 1), ("f4", 3), ("f8", 1))
    for order, is_planar, is_tiled, compression, channels in (
        ("<", False, False, 1, 3), (">", True, False, DEFLATE, 4), ("<", True, True, DEFLATE, 3),
        (">", False, True, 1, 5),
    )
]  # fmt: skip
LAYOUTS += [Layout(is_big=True), Layout(is_big=True, order=">", is_tiled=True), Layout(dtype="u1")]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_samples_are_read_however_they_are_stored(layout):
    samples = _samples(layout)
    content = write_tiff(samples, layout)
    (page,) = read_main_pages(content)
    np.testing.assert_array_equal(decode_samples(content, page), samples)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_samples_become_levels_of_16_bits(bits, tmp_path):
    samples = np.random.default_rng(0).integers(0, 1 << bits, (_HEIGHT, _WIDTH, 3), np.uint16)
    samples[0, 0] = 0, 1, (1 << bits) - 1
    single = (samples.reshape(_HEIGHT, -1, 1) >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(single.reshape(_HEIGHT, -1).astype(np.uint8), axis=1)
    tags = {256: [_WIDTH], 257: [_HEIGHT], 258: [bits] * 3, 259: [1], 262: [RGB], 273: [8],
            277: [3], 278: [_HEIGHT], 279: [rows.size]}  # fmt: skip
    (tmp_path / "a.tif").write_bytes(with_tags(rows.tobytes(), tags, Layout()))
    deep = read_image(tmp_path / "a.tif").deep
    assert np.abs(deep - samples / ((1 << bits) - 1) * 65535).max() < 1
    assert (deep.min(), deep.max()) == (0, 65535)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u4"])
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_and_32_bits_become_16_with_a_line(dtype, channels, tmp_path, caplog):
    layout = Layout(dtype=dtype, channels=channels, photometric=GRAY if channels == 1 else RGB)
    samples = _samples(layout)
    (tmp_path / "a.tif").write_bytes(write_tiff(samples, layout))
    (done,) = restore_files([tmp_path / "a.tif"], NullRunner(), tmp_path / "out")
    assert "16-bit levels are read" in caplog.text or "16 of them are read" in caplog.text
    after = read_image(done.output)
    assert after.gray == (channels == 1)
    scale = 1.0 if dtype.startswith("f") else 2.0**32
    assert np.abs(after.deep[..., :channels] - samples.astype(float) / scale * 65535).max() <= 1


@pytest.mark.parametrize(
    ("kind", "has_alpha"), [(0, False), (1, True), (2, True), (None, True)], ids=str
)
@pytest.mark.parametrize("channels", [2, 4])
def test_only_an_alpha_channel_is_alpha(kind, has_alpha, channels, tmp_path):
    photometric = GRAY if channels == 2 else RGB
    layout = Layout(
        channels=channels, extra=() if kind is None else (kind,), photometric=photometric
    )
    samples = np.full((4, 5, channels), 30_000, np.uint16)
    samples[..., -1] = 60_000
    (tmp_path / "a.tif").write_bytes(write_tiff(samples, layout))
    read = read_image(tmp_path / "a.tif")
    expected = 30_000 * 65535 // 60_000 if kind == 1 else 30_000
    assert np.abs(read.deep.astype(int) - expected).max() <= 1
    assert (read.alpha is not None) == has_alpha
    if has_alpha:
        assert (read.deep_alpha == 60_000).all()


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("channels", [4, 5])
def test_cmyk_of_any_depth_becomes_rgb_with_a_line(dtype, channels, tmp_path, caplog):
    extra = (2,) if channels == 5 else ()
    layout = Layout(dtype=dtype, channels=channels, photometric=CMYK, extra=extra)
    most = np.iinfo(dtype).max
    samples = np.zeros((4, 5, channels), dtype)
    samples[..., 1], samples[..., 3] = most, most // 5
    (tmp_path / "a.tif").write_bytes(write_tiff(samples, layout))
    read = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.frame, np.full((4, 5, 3), (204, 0, 204), np.uint8))
    assert (read.alpha is not None) == (channels == 5)
    write_image(tmp_path / "b.tif", read)
    assert "CMYK" in caplog.text


def test_what_is_missing_is_damage_and_what_is_not_read_is_said(tmp_path):
    layout = Layout(compression=DEFLATE)
    content = write_tiff(_samples(layout), layout)
    rows = struct.pack("<HHII", 278, 4, 1, 8)
    cases = {
        "is damaged": content.replace(rows, struct.pack("<HHII", 278, 4, 1, 1)),
        "compressed by method 34712": content.replace(
            struct.pack("<HHII", 259, 4, 1, 8), struct.pack("<HHII", 259, 4, 1, 34712)
        ),
    }  # fmt: skip
    for says, changed in cases.items():
        assert changed != content
        (tmp_path / "a.tif").write_bytes(changed)
        with pytest.raises(ImageError, match=says):
            read_image(tmp_path / "a.tif")


def test_metadata_of_files_that_pillow_does_not_open_is_kept(tmp_path):
    layout = Layout(dtype="f4")
    content = write_tiff(_samples(layout), layout)
    (place,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, place)
    tags = {
        struct.unpack_from("<H", content, place + 2 + 12 * one)[0]: place + 2 + 12 * one
        for one in range(count)
    }
    changed = bytearray(content)
    # the predictor's entry, which has its default, becomes the orientation
    struct.pack_into("<HHII", changed, tags[317], 274, 3, 1, 6)
    entries = sorted(changed[place + 2 + 12 * one : place + 14 + 12 * one] for one in range(count))
    entries.sort(key=lambda one: struct.unpack("<H", one[:2]))
    changed[place + 2 : place + 2 + 12 * count] = b"".join(entries)
    (tmp_path / "a.tif").write_bytes(changed)
    read = read_image(tmp_path / "a.tif")
    assert read.frame.shape == (_HEIGHT, _WIDTH, 3)
    write_image(tmp_path / "b.tif", read)
    with Image.open(tmp_path / "b.tif") as image:
        assert image.getexif()[274] == 6
