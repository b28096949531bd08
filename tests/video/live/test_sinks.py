"""The virtual camera, with a device that is a fake; and the real library where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.errors import MissingDependencyError, VideoError
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.live.pipeline import Live
from mirnet_edge.video.live.sinks import DetachedSink, MemorySink, VirtualCamera
from mirnet_edge.video.live.sources import SyntheticSource
from mirnet_edge.video.restorer import single_runner_restorer


class FakeDevice:
    def __init__(self, name, width, height):
        self.name, self.size = name, (height, width)
        self.sent, self.closed = [], False

    def send(self, frame):
        assert not self.closed
        assert frame.shape == (*self.size, 3)
        assert frame.flags.c_contiguous
        self.sent.append(frame)

    def close(self):
        self.closed = True


class Devices(list):
    def __call__(self, *wanted):
        self.append(FakeDevice(*wanted))
        return self[-1]


def source(frames=5):
    return SyntheticSource(width=32, height=24, fps=20, frames=frames)


def test_a_virtual_camera_gets_each_restored_frame_and_is_closed():
    class Inverting(NullRunner):
        def run(self, frames):
            return 255 - super().run(frames)

    devices, sink = Devices(), MemorySink()
    camera = VirtualCamera("/dev/video7", open_device=devices)
    Live(source(), single_runner_restorer(Inverting()), [sink, camera]).run()
    (device,) = devices
    assert device.name == "/dev/video7"
    assert device.closed
    assert len(device.sent) == len(set(sink.indices)) > 0
    for shown, sent in zip(sink.shown, device.sent, strict=True):
        assert np.array_equal(sent, shown.after)
        assert not np.array_equal(sent, shown.before.pixels)


def test_a_change_of_size_reopens_the_virtual_camera():
    devices = Devices()
    with VirtualCamera("auto", open_device=devices) as camera:
        for scale in (1, 1, 2):
            sink = MemorySink()
            Live(source(1), single_runner_restorer(NullRunner(scale=scale)), [sink]).run()
            camera.show(sink.shown[0])
            camera.show(sink.shown[0])  # the same again, as while a source is silent
    assert [device.size for device in devices] == [(24, 32), (48, 64)]
    assert [len(device.sent) for device in devices] == [2, 1]
    assert all(device.closed for device in devices)


def test_a_device_that_fails_ends_the_run_and_is_closed():
    class Broken(FakeDevice):
        def send(self, frame):
            raise OSError("the device is busy")

    made = []

    def open_device(*wanted):
        made.append(Broken(*wanted))
        return made[-1]

    camera = DetachedSink(VirtualCamera("auto", open_device=open_device))
    with pytest.raises(OSError, match="busy"):
        Live(source(None), single_runner_restorer(NullRunner()), [camera]).run()
    assert made[0].closed


linux = pytest.mark.skipif(sys.platform != "linux", reason="v4l2loopback is Linux's")


@linux
def test_a_missing_device_is_a_video_error():
    pytest.importorskip("pyvirtualcam")
    with pytest.raises(VideoError, match=r"/dev/video97 does not exist.*modprobe v4l2loopback"):
        VirtualCamera("/dev/video97")


@linux
@pytest.mark.skipif(any(Path("/dev").glob("video*")), reason="there is a device here")
def test_a_machine_without_a_virtual_camera_ends_with_a_video_error():
    pytest.importorskip("pyvirtualcam")
    with pytest.raises(VideoError, match=r"auto cannot be opened for 32x24: .*modprobe"):
        Live(
            source(), single_runner_restorer(NullRunner()), [DetachedSink(VirtualCamera("auto"))]
        ).run()


def test_without_its_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(MissingDependencyError, match=r"mirnet-edge\[virtual-camera\]"):
        VirtualCamera("auto")
