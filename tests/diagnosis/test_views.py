"""What the diagnosis network sees of a frame."""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.diagnosis.views import (
    CROP_SIDE,
    CROPS,
    OVERVIEW_CHANNELS,
    OVERVIEW_SIDE,
    stack_views,
    take_views,
)
from mirnet_edge.errors import ImageError


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (63, 200), (64, 64), (481, 321), (1080, 1921)])
def test_frames_of_every_size_have_views_of_one_size(size):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    views = take_views(frame)
    assert views.overview.shape == (OVERVIEW_SIDE, OVERVIEW_SIDE, OVERVIEW_CHANNELS)
    assert views.crops.shape == (CROPS, CROP_SIDE, CROP_SIDE, 3)
    assert views.overview.dtype == views.crops.dtype == np.uint8


def test_half_of_the_crops_show_the_most_detail_and_half_the_least_at_three_levels():
    frame = np.empty((768, 640, 3), np.uint8)
    for band, level in enumerate((60, 128, 200)):
        frame[256 * band : 256 * (band + 1)] = level
    noise = np.random.default_rng(0).integers(-50, 50, (768, 320, 3))
    frame[:, :320] = (frame[:, :320] + noise).astype(np.uint8)
    crops = take_views(frame).crops
    assert crops[: CROPS // 2].std((1, 2, 3)).min() > 25.0
    assert crops[CROPS // 2 :].std((1, 2, 3)).max() == 0.0
    assert crops[CROPS // 2 :].mean((1, 2, 3)).tolist() == [60, 128, 200]


@pytest.mark.parametrize("size", [(480, 640), (481, 321), (517, 1283)])
def test_crops_lie_on_the_blocks_of_a_jpeg_file(size):
    rows, columns = np.ogrid[: size[0], : size[1]]
    frame = np.empty((*size, 3), np.uint8)
    frame[..., 0], frame[..., 1] = 20 * (rows % 8), 20 * (columns % 8)
    frame[..., 2] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    crops = take_views(frame).crops
    assert not crops[:, 0, 0, :2].any()


@pytest.mark.parametrize(("level", "channel"), [(255, 3), (0, 4)])
def test_a_thin_line_is_seen_in_the_overview_however_large_the_frame(level, channel):
    for height in (240, 960):
        frame = np.full((height, 2 * height, 3), 120, np.uint8)
        thick = max(1, height // 240)
        frame[height // 2 : height // 2 + thick] = level
        overview = take_views(frame).overview
        row = overview[..., channel].max(1)
        assert row.max() > 60
        assert np.count_nonzero(row) <= 3
        assert not overview[..., 7 - channel].any()


def test_crops_are_pixels_of_the_frame_and_not_resized():
    frame = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    window = (CROP_SIDE, CROP_SIDE, 3)
    windows = np.lib.stride_tricks.sliding_window_view(frame, window)[:, :, 0]
    crop = take_views(frame).crops[0]
    assert (windows == crop).all((2, 3, 4)).any()


def test_black_and_white_places_are_the_last_choice_for_flat_crops():
    frame = np.zeros((640, 640, 3), np.uint8)
    frame[:, 320:] = 90 + np.random.default_rng(0).integers(-20, 20, (640, 320, 1))
    flat = take_views(frame).crops[CROPS // 2 :]
    assert flat.mean((1, 2, 3)).min() > 6.0


def test_views_of_several_frames_are_stacked():
    frames = [np.full((80, 90, 3), level, np.uint8) for level in (10, 200)]
    views = stack_views([take_views(frame) for frame in frames])
    assert views.overview.shape[0] == views.crops.shape[0] == 2
    assert views.overview[:, 0, 0, 0].tolist() == [10, 200]


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_other_arrays_are_refused(wrong):
    with pytest.raises(ImageError):
        take_views(wrong)
