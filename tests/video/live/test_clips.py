"""The first frames of a video, for measuring."""

from __future__ import annotations

import numpy as np
import pytest

from mirnet_edge.errors import VideoError
from mirnet_edge.video.live.sources import read_clip


@pytest.fixture
def video(write_video):
    levels = np.arange(20, 80, 10, dtype=np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (6, 48, 64, 3))
    return write_video("a.mkv", np.ascontiguousarray(frames))


def test_the_first_frames_come_in_order_and_no_wider_than_asked(video):
    whole, small = read_clip(video, 3), read_clip(video, 3, widest=32)
    assert (whole.shape, small.shape) == ((3, 48, 64, 3), (3, 24, 32, 3))
    for clip in (whole, small):
        assert clip.dtype == np.uint8
        np.testing.assert_allclose(clip.mean((1, 2, 3)), [20, 30, 40], atol=2)
    assert read_clip(video, 3, widest=640).shape == whole.shape


def test_a_video_that_is_too_short_is_refused(video):
    with pytest.raises(VideoError, match=r"a\.mkv: expected at least 7 frames, found 6 "):
        read_clip(video, 7)
