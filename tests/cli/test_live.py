"""mirnet-webcam: a clip restored live from file to figures, and what it refuses in one line."""

from __future__ import annotations

import json
import re
import socket
from fractions import Fraction

import av
import numpy as np
import pytest

from mirnet_edge.cli.live import main

FRAMES = 12


@pytest.fixture
def clip(tmp_path):
    """A file of twelve dark frames of 64x48, 24 a second."""
    path = tmp_path / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = Fraction(1, 24)
        for number in range(FRAMES):
            pixels = np.full((48, 64, 3), 20 + number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_clip_is_restored_live_and_counted(ran, make_bundle, clip, tmp_path):
    stats = tmp_path / "stats.json"
    result = ran(
        main, "--source", clip, "--display", "none", "--bundle", make_bundle(), "--stats", stats
    )
    assert result.code == 0, result.err
    found = json.loads(stats.read_text())
    assert found["captured"] == FRAMES
    assert 0 < found["shown"] <= FRAMES
    assert found["shown"] + found["dropped"] == found["captured"]
    assert found["failed"] == 0
    assert found["configuration"] == "onnxruntime:fp32"
    assert found["placement"] == "CPUExecutionProvider"
    assert result.err.rstrip().endswith("onnxruntime:fp32 (CPUExecutionProvider)")


def test_what_is_shown_can_be_recorded(ran, make_bundle, clip, tmp_path):
    kept = tmp_path / "kept.mp4"
    stats = tmp_path / "stats.json"
    options = ("--display", "none", "--record", kept, "--stats", stats)
    result = ran(main, "--source", clip, "--bundle", make_bundle(), *options)
    assert result.code == 0, result.err
    with av.open(kept) as container:
        frames = sum(1 for _ in container.decode(video=0))
    # a loaded machine encodes fewer than it shows
    assert 0 < frames <= json.loads(stats.read_text())["shown"]


def test_a_server_that_is_not_there_is_told_and_the_clip_goes_on(ran, make_bundle, clip):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"rtsp://127.0.0.1:{free.getsockname()[1]}/live"
    options = ("--display", "none", "--stream", address)
    result = ran(main, "--source", clip, "--bundle", make_bundle(), *options)
    assert result.code == 0, result.err
    lines = [line for line in result.err.splitlines() if line.startswith(address)]
    told, summed = lines
    assert told == f"{address} does not respond: Connection refused; trying again"
    assert re.fullmatch(re.escape(address) + r": 0 frames sent, [1-9]\d* not sent", summed)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--display", "hologram"), "is not one of 'auto', 'window', 'web', 'none'"),
        (("--source", "nowhere.mp4"), "nowhere.mp4"),
        (("--source", "97"), "--source synthetic"),
        (("--source", "synthetic", "--virtual-camera", "/dev/video97"), "modprobe v4l2loopback"),
        (("--source", "synthetic", "--stream", "http://a/b"), "rtsp://HOST:8554/NAME"),
        (("--source", "browser"), "--source browser needs --display web"),
        (("--source", "synthetic", "--task", "denoise"), "give one of the two"),
        (("--source", "synthetic", "--loop", "--exit-at-end"), "leave out --exit-at-end"),
        (("--source", "synthetic", "--strength", "1.5"), "less than or equal to 1"),
    ],
    ids=[
        "display",
        "file",
        "camera",
        "virtual camera",
        "stream",
        "browser",
        "task",
        "loop",
        "strength",
    ],
)
def test_what_is_not_there_is_told_in_one_line(ran, make_bundle, options, says):
    result = ran(main, "--display", "none", "--bundle", make_bundle(), *options)
    assert result.code == 2
    (complaint,) = [line for line in result.err.splitlines() if line.startswith("mirnet-webcam: ")]
    assert says in complaint
    assert "Traceback" not in result.err


def test_a_loop_goes_on_and_mixes_at_the_strength(ran, make_bundle, clip, tmp_path, monkeypatch):
    from mirnet_edge.video.live.pipeline import Live

    levels, process = [], Live._process

    def watch(live, frame):
        shown = process(live, frame)
        levels.append((float(frame.pixels.mean()), float(shown.after.mean())))
        if len(levels) > 2 * FRAMES:
            live.controls.stop()
        return shown

    monkeypatch.setattr(Live, "_process", watch)
    options = ("--display", "none", "--loop", "--strength", "0.5")
    result = ran(main, "--source", clip, "--bundle", make_bundle(), *options)
    assert result.code == 0, result.err
    assert len(levels) > 2 * FRAMES
    for before, after in levels:  # the bundle brightens by half
        assert after == pytest.approx(1.25 * before, abs=1.0)


def test_the_task_names_the_weights(ran, make_bundle, clip, monkeypatch):
    asked, bundle = [], make_bundle()

    def find(name):
        asked.append(name)
        return bundle

    monkeypatch.setattr("mirnet_edge.runtime.shipped.find_bundle", find)
    result = ran(main, "--source", clip, "--display", "none", "--task", "old-photo")
    assert result.code == 0, result.err
    assert asked[0] == "shipped:old-photo"


def test_without_the_pages_packages_and_without_a_display_both_are_named(
    ran, make_bundle, clip, monkeypatch
):
    monkeypatch.setattr("mirnet_edge.dependencies.available", lambda name: name != "aiortc")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    result = ran(main, "--source", clip, "--bundle", make_bundle())
    assert result.code == 2
    assert 'pip install "mirnet-edge[web]"' in result.line
    assert "--display none" in result.line


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("denoising", "Did you mean denoise?"),
        ("denoise,low-light", "is one of low-light, denoise"),
        ("auto", "found 'auto'"),
    ],
)
def test_an_unknown_task_and_several_are_refused(ran, clip, task, says):
    result = ran(main, "--source", clip, "--display", "none", "--task", task)
    assert result.code == 2
    assert says in result.line


def test_without_a_task_dark_video_is_restored(ran, make_bundle, clip, monkeypatch):
    asked, bundle = [], make_bundle()

    def find(name):
        asked.append(name)
        return bundle

    monkeypatch.setattr("mirnet_edge.runtime.shipped.find_bundle", find)
    result = ran(main, "--source", clip, "--display", "none")
    assert result.code == 0, result.err
    assert asked[0] == "shipped:low-light"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--display", "none"], "--compute browser needs --display web, found --display none"),
        (["--source", "browser"], "mirnet web restores them where they are"),
        (["--record", "a.mp4"], "--record needs frames that this machine restores"),
        (["--target-fps", "9"], "--target-fps needs frames that this machine restores"),
        (["--runtime", "absent.tgz"], "--runtime absent.tgz does not exist"),
    ],
)
def test_what_a_browser_cannot_compute_for_is_refused(ran, make_bundle, options, says):
    done = ran(main, "--compute", "browser", "--bundle", make_bundle(), *options)
    assert done.code == 2
    assert says in done.line
