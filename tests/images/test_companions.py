"""What lies beside a main image: gain maps, stereo pairs and videos are left out with a line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.images.companions import companions
from mirnet_edge.images.files import read_image, write_image

sys.path.insert(0, str(Path(__file__).parent))
from image_samples import (
    PRIMARY,
    STEREO,
    THUMBNAIL,
    index_of,
    jpeg,
    motion_photo,
    stereo_pair,
    ultra_hdr,
    with_segments,
)


def with_preview():
    return with_segments(jpeg(100), (0xE2, index_of([PRIMARY, THUMBNAIL]))) + jpeg(100)


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
    index = index_of([PRIMARY, STEREO])[:cut]
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
