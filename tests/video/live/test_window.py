"""The window's image; the window itself under a virtual display, where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mirnet_edge.errors import VideoError
from mirnet_edge.video.frames import DisplayedFrame, LiveStatus, VideoFrame
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.live.window import Window, check_display, compose_view

LEFT_LEVEL, RIGHT_LEVEL = 30, 200


def shown(height=240, width=320, scale=1, **changes):
    status = LiveStatus(
        fps=29.97, age_ms=31, age_p95_ms=48, restore_ms=20, captured=9, shown=7, dropped=2,
        failed=changes.pop("failed", 0), configuration="openvino:int8", configurations=("a", "b"),
        restoring=True,
        frozen=False, recording=changes.pop("recording", False), snapshots=0,
        note=changes.pop("note", ""),
    )  # fmt: skip
    before = np.full((height, width, 3), LEFT_LEVEL, np.uint8)
    after = np.full((scale * height, scale * width, 3), RIGHT_LEVEL, np.uint8)
    frame = VideoFrame(pixels=before, index=0, captured_s=0.0)
    return DisplayedFrame(before=frame, after=after, restored=True, status=status)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("split", [0.0, 0.25, 0.5, 1.0])
def test_before_is_left_of_the_split_and_after_right_of_it(split, scale):
    one = shown(scale=scale)
    image = compose_view(one, split)
    row = image[image.shape[0] // 3, :, 0]
    edge = round(split * len(row))
    assert (row[: max(0, edge - 1)] == LEFT_LEVEL).all()
    assert (row[edge + 1 :] == RIGHT_LEVEL).all()
    assert (one.after == RIGHT_LEVEL).all()  # it belongs to all sinks


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (120, 160), (720, 1280)])
def test_every_frame_size_is_drawn(size):
    image = compose_view(shown(*size, note="a note", recording=True, failed=3), 0.5)
    assert image.shape == (*size, 3)


def test_keys_change_the_controls():
    controls = Controls(("a", "b"))
    window = Window(controls)
    for key in " fsrm":
        window._handle_key(ord(key))
    assert not controls.restoring
    assert controls.frozen
    assert controls.snapshots == 1
    assert controls.recording
    assert controls.take_configuration() == "b"
    window._handle_key(-1)
    window._handle_key(ord("x"))
    assert not controls.stopped
    window._handle_key(27)
    assert controls.stopped


def test_the_split_follows_the_mouse_while_the_button_is_down():
    import cv2

    window = Window(Controls())
    window._width = 200
    window._on_mouse(cv2.EVENT_MOUSEMOVE, 20, 0, 0, None)
    assert window._split == 0.5
    for event, x in ((cv2.EVENT_LBUTTONDOWN, 50), (cv2.EVENT_MOUSEMOVE, 900)):
        window._on_mouse(event, x, 0, 0, None)
    assert window._split == 1.0
    window._on_mouse(cv2.EVENT_LBUTTONUP, 60, 0, 0, None)
    window._on_mouse(cv2.EVENT_MOUSEMOVE, 10, 0, 0, None)
    assert window._split == 1.0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_a_machine_without_a_display_is_a_video_error(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(VideoError, match=r"no display .* --display web .* --display none"):
        check_display()


SCRIPT = """
import sys, threading
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.live.pipeline import Live
from mirnet_edge.video.live.sources import SyntheticSource
from mirnet_edge.video.live.window import Window
from mirnet_edge.video.restorer import single_runner_restorer

controls = Controls()
limit = threading.Timer(30.0, controls.stop)
limit.start()
source = SyntheticSource(width=320, height=240)
restorer = single_runner_restorer(NullRunner())
live = Live(source, restorer, [Window(controls)], controls=controls)
for count, _ in enumerate(live):
    if count > 10:
        controls.stop()
limit.cancel()
print(live.statistics().shown)
"""


@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="xvfb is not installed")
def test_the_window_opens_shows_and_closes():
    done = subprocess.run(
        ["xvfb-run", "-a", sys.executable, "-c", SCRIPT],
        capture_output=True, text=True, timeout=60, env={**os.environ, "QT_QPA_PLATFORM": "xcb"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 10
