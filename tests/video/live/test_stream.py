"""Live video from a program."""

from __future__ import annotations

import numpy as np
import pytest

import mirnet_edge
from mirnet_edge.errors import BundleError
from mirnet_edge.video.live.sources import SyntheticSource


def test_stream_yields_restored_frames(make_bundle):
    source = SyntheticSource(width=32, height=24, fps=50, frames=5)
    frames = list(mirnet_edge.stream(source, make_bundle()))
    assert frames
    assert all(frame.restored for frame in frames)
    before, after = frames[0].before.pixels, frames[0].after
    assert np.abs(after - np.minimum(before * 1.5, 255)).max() <= 1
    assert frames[-1].status.configuration == "onnxruntime:fp32"


def test_stream_takes_a_source_by_name(make_bundle):
    frames = mirnet_edge.stream("synthetic", make_bundle(), size=(24, 32))
    assert next(frames).after.shape == (24, 32, 3)
    frames.close()


@pytest.fixture
def clip(tmp_path):
    import cv2

    path = str(tmp_path / "a.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for level in range(10, 60, 10):
        writer.write(np.full((48, 64, 3), (level, 0, 2 * level), np.uint8))  # BGR
    writer.release()
    return path


@pytest.mark.parametrize("scale", [1, 2])
def test_restoring_capture_replaces_opencvs_capture(clip, scale, make_bundle):
    import cv2

    plain = cv2.VideoCapture(clip)
    capture = mirnet_edge.RestoringCapture(clip, make_bundle(scale=scale))
    assert capture.isOpened()
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 64 * scale
    assert capture.get(cv2.CAP_PROP_FPS) == 25
    count = 0
    while True:
        there, expected = plain.read()
        ok, frame = capture.read()
        assert ok == there
        if not ok:
            break
        count += 1
        assert frame.shape == (48 * scale, 64 * scale, 3)
        # the same channels in the same order, brighter by half
        found = frame.reshape(48, scale, 64, scale, 3)[:, 0, :, 0]
        assert np.abs(found - np.minimum(expected * 1.5, 255)).max() <= 2
    assert count == 5
    assert frame is None
    capture.release()
    capture.release()
    assert not capture.isOpened()


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError):
        next(mirnet_edge.stream("synthetic", tmp_path))
