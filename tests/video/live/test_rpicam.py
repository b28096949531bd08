"""The camera of a Raspberry Pi, by a program that stands for rpicam-vid."""

from __future__ import annotations

import sys
import textwrap
import time

import numpy as np
import pytest

from mirnet_edge.errors import OptionError, SourceInterruptedError, VideoError
from mirnet_edge.video.live import rpicam
from mirnet_edge.video.live.sources import open_source


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a program rpicam-vid on the path: install("a body in Python that has `out`")."""

    def write(body):
        program = tmp_path / "bin" / "rpicam-vid"
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f"#!{sys.executable} -S\nimport os, sys, time\nout = sys.stdout.buffer\n"
            f"open({str(tmp_path / 'arguments')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
            f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
            + textwrap.dedent(body)
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))

    return write


# 64x48 in BT.601 limited range: luma 16 is black, 235 white; chroma 128 is gray
_FRAMES = """
    for luma in (16, 235, 126):
        out.write(bytes([luma]) * (64 * 48) + bytes([128]) * (64 * 24)); out.flush()
"""


_SLEEP = "    time.sleep(60)\n"


def test_frames_arrive_as_rgb_with_their_times(install, tmp_path):
    install(_FRAMES + _SLEEP)
    with open_source("rpicam:1", size=(48, 64), fps=15) as source:
        assert source.name == "Raspberry Pi camera 1"
        assert source.frame_time_s == pytest.approx(1 / 15)
        frames = [source.read() for _ in range(2)]
    # the first frame shows that the camera is open
    assert [frame.index for frame in frames] == [0, 1]
    white, gray = (frame.pixels for frame in frames)
    assert white.shape == (48, 64, 3)
    assert white.dtype == np.uint8
    assert white.min() >= 254
    assert np.ptp(gray.astype(int)) <= 1
    assert abs(int(gray[0, 0, 0]) - 128) <= 1
    words = (tmp_path / "arguments").read_text()
    assert words.startswith("--camera 1 --width 64 --height 48 --framerate 15 --codec yuv420 ")
    assert not _is_running(tmp_path)


def _is_running(folder):
    import os

    try:
        os.kill(int((folder / "pid").read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def test_a_camera_that_ends_is_interrupted_and_opened_again(install):
    install(_FRAMES)
    source = open_source("rpicam", size=(48, 64))
    for _ in range(2):
        with source:
            assert source.read() is not None
            assert source.read() is not None
            with pytest.raises(SourceInterruptedError, match="Raspberry Pi camera 0 gives no more"):
                source.read()


def test_a_camera_that_stalls_is_interrupted_in_time(install, monkeypatch):
    install(_FRAMES + "    out.write(bytes(100)); out.flush()\n" + _SLEEP)
    monkeypatch.setattr(rpicam, "_TIMEOUT_S", 0.5)
    started = time.monotonic()
    with open_source("rpicam", size=(48, 64)) as source:
        for _ in range(2):
            source.read()
        with pytest.raises(SourceInterruptedError):
            source.read()
    assert time.monotonic() - started < 20


def test_a_camera_that_gives_nothing_cannot_be_opened(install):
    install("sys.exit(1)")
    with pytest.raises(VideoError, match="Raspberry Pi camera 0 cannot be opened"):
        open_source("rpicam", size=(48, 64)).__enter__()


def test_without_the_program_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VideoError, match="sudo apt install rpicam-apps"):
        open_source("rpicam", size=(48, 64)).__enter__()


@pytest.mark.parametrize("size", [(480, 854), (481, 640)])
def test_sizes_whose_rows_are_padded_are_refused(size):
    with pytest.raises(OptionError, match=f"multiple of 64 .* found {size[1]}x{size[0]}"):
        open_source("rpicam", size=size)
