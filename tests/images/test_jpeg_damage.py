"""A JPEG damaged in its middle is restored with a line, one that is whole without."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirnet_edge.images.files import read_image
from mirnet_edge.images.jpeg_damage import is_damaged

_SECTOR = 512


def photo(height=96, width=128, channels=3):
    rows, columns = np.mgrid[:height, :width]
    waves = 60 * np.sin(columns / 9) * np.cos(rows / 13)
    noise = np.random.default_rng(0).normal(0, 8, (height, width, channels))
    return (128 + waves[..., None] + noise).clip(0, 255).astype(np.uint8).squeeze()


def encoded(pixels, mode=None, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def data_of(content):
    """Return where the data of the last scan begins and ends."""
    start = content.rfind(b"\xff\xda")
    return start + 2 + int.from_bytes(content[start + 2 : start + 4], "big"), len(content) - 2


def with_zeros(content, place):
    return content[:place] + bytes(_SECTOR) + content[place + _SECTOR :]


def with_less(content, place):
    return content[:place] + content[place + _SECTOR :]


def with_other(content, place):
    """A sector of another place of the same file, as file systems mix them."""
    start, _ = data_of(content)
    return content[:place] + content[start : start + _SECTOR] + content[place + _SECTOR :]


OPTIONS = {
    "usual": {"quality": 90},
    "optimized": {"quality": 75, "optimize": True},
    "4:4:4": {"quality": 92, "subsampling": 0},
    "restarts": {"quality": 90, "restart_marker_rows": 1},
    "many restarts": {"quality": 90, "restart_marker_blocks": 3},
    "progressive": {"quality": 90, "progressive": True},
}
# of 12 places, damaged in each of three ways, the least that are found: libjpeg warns of 24 to 36
FOUND = {
    "usual": 18, "optimized": 24, "4:4:4": 30, "restarts": 20, "many restarts": 30,
    "progressive": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_lost_and_foreign_sectors_are_found(name):
    content = encoded(photo(240, 320), **OPTIONS[name])
    assert not is_damaged(content)
    start, end = data_of(content)
    places = random.Random(1)
    found = 0
    for _ in range(12):
        place = places.randrange(start, end - 600)
        for damage in (with_zeros, with_less, with_other):
            found += is_damaged(damage(content, place))
    assert found >= FOUND[name]


def test_what_can_be_decoded_is_restored_with_a_line(tmp_path, caplog):
    content = encoded(photo(), quality=90)
    start, end = data_of(content)
    path = tmp_path / "a.jpg"
    path.write_bytes(with_less(content, (start + end) // 2))
    frame = read_image(path).frame
    whole = np.asarray(Image.open(io.BytesIO(content)))
    assert (frame[:40] == whole[:40]).all()
    assert (frame[48:] != whole[48:]).any()
    assert "is damaged: some of its pixels are wrong or missing" in caplog.text


@pytest.mark.parametrize("level", [0, 1, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (17, 16), (40, 33)])
@pytest.mark.parametrize("name", OPTIONS)
def test_flat_and_small_images_are_whole(name, size, level):
    assert not is_damaged(encoded(np.full((*size, 3), level, np.uint8), **OPTIONS[name]))
    assert not is_damaged(encoded(np.full(size, level, np.uint8), **OPTIONS[name]))


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from([0, 1, 2]),
    progressive=st.booleans(),
    blocks=st.integers(0, 5),
    mode=st.sampled_from(["L", "RGB", "CMYK"]),
    seed=st.integers(0, 100),
    spread=st.integers(0, 255),
)
def test_whole_images_are_not_damaged(
    height, width, quality, subsampling, progressive, blocks, mode, seed, spread
):
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, spread + 1, (height, width, channels), np.uint8)
    content = encoded(
        pixels.squeeze(2) if channels == 1 else pixels, mode, quality=quality,
        subsampling=subsampling, progressive=progressive, restart_marker_blocks=blocks,
    )  # fmt: skip
    assert not is_damaged(content)


@pytest.mark.parametrize("added", [b"\0", b"\0" * 40, b"\x12", b"\xff" * 9, b"\x12\x34\0"])
def test_what_cameras_fill_up_with_is_no_damage(added):
    content = encoded(photo(), quality=90)
    assert not is_damaged(content[:-2] + added + content[-2:])


@pytest.mark.parametrize("end", [0, 2, 20, 200, 620, 640])
def test_what_cannot_be_decoded_is_left_to_the_decoder(end):
    assert not is_damaged(encoded(photo(), quality=90)[:end])
