"""What `--source` names, cameras that misbehave, files and streams as sources."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest

from mirnet_edge.errors import SourceInterruptedError, VideoError
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.clock import VirtualClock
from mirnet_edge.video.live.pipeline import Live, ReconnectPolicy
from mirnet_edge.video.live.sinks import MemorySink
from mirnet_edge.video.live.sources import (
    CameraSource,
    FileSource,
    StreamSource,
    SyntheticSource,
    csi_pipeline,
    gstreamer_camera,
    open_source,
    with_appsink,
)
from mirnet_edge.video.restorer import single_runner_restorer


class FakeDevice:
    """A camera as OpenCV gives it, unplugged after some frames."""

    def __init__(self, frames=3, fps=0.0, opened=True):
        self.left, self.fps, self.opened, self.released = frames, fps, opened, False

    def isOpened(self):  # noqa: N802
        return self.opened

    def grab(self):
        time.sleep(0.01)
        self.left -= 1
        return self.left >= 0

    def retrieve(self):
        return True, np.zeros((4, 6, 3), np.uint8)

    def get(self, property_):
        return self.fps

    def release(self):
        self.released = True


def test_a_camera_that_is_unplugged_and_comes_back_goes_on():
    devices = [FakeDevice(), FakeDevice(opened=False), FakeDevice(frames=2)]
    opened = iter(devices)
    source = CameraSource("camera 0", lambda: next(opened))
    sink = MemorySink(lambda shown: live.controls.stop() if shown.before.index == 4 else None)
    live = Live(
        source,
        single_runner_restorer(NullRunner()),
        [sink],
        reconnect_policy=ReconnectPolicy(first_pause_s=0.01),
    )
    statistics = live.run()
    assert statistics.reconnects == 1
    assert list(dict.fromkeys(sink.indices))[-1] == 4
    assert all(device.released for device in devices)


def test_a_camera_that_is_unplugged_for_good_ends_the_run_in_one_line():
    devices = iter([FakeDevice()] + [FakeDevice(opened=False) for _ in range(99)])
    source = CameraSource("camera 0", lambda: next(devices))
    reconnect_policy = ReconnectPolicy(first_pause_s=0.02, give_up_s=0.3)
    started = time.monotonic()
    with pytest.raises(VideoError, match="camera 0 did not come back within"):
        Live(source, single_runner_restorer(NullRunner()), reconnect_policy=reconnect_policy).run()
    assert time.monotonic() - started < 2.0


def test_a_camera_that_is_not_there_offers_the_synthetic_one():
    with pytest.raises(VideoError, match=r"camera 0 cannot be opened.*--source synthetic"):
        CameraSource("camera 0", lambda: FakeDevice(opened=False)).__enter__()
    with pytest.raises(VideoError, match=r"camera 97 cannot be opened.*--source synthetic"):
        open_source("97").__enter__()


@pytest.mark.parametrize(
    ("fps", "seconds"), [(30.0, 1 / 30), (0.0, None), (-1.0, None), (90_000.0, None)]
)
def test_a_rate_that_no_camera_has_is_not_believed(fps, seconds):
    with CameraSource("camera 0", lambda: FakeDevice(fps=fps)) as source:
        assert source.frame_time_s == seconds


def test_places_name_their_sources(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert isinstance(open_source("synthetic"), SyntheticSource)
    assert isinstance(open_source(str(tmp_path / "a.mp4")), FileSource)
    assert isinstance(open_source("rtsp://host/path"), StreamSource)
    assert open_source("csi:1").name == "CSI camera 1"
    assert open_source("gst: videotestsrc").name == "the GStreamer pipeline"
    with pytest.raises(VideoError, match=r"--source nowhere: expected a camera's number"):
        open_source("nowhere")


def test_a_password_is_told_to_nobody():
    assert open_source("rtsp://user:secret@host/path").name == "rtsp://host/path"


def test_the_pipeline_of_a_jetsons_camera():
    assert csi_pipeline(sensor=1, size=(1080, 1920), fps=60, flip=2) == (
        "nvarguscamerasrc sensor-id=1 ! "
        "video/x-raw(memory:NVMM),width=1920,height=1080,framerate=60/1,format=NV12 ! "
        "nvvidconv flip-method=2 ! video/x-raw,format=BGRx ! videoconvert ! "
        "video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )
    assert with_appsink("videotestsrc !").startswith("videotestsrc ! videoconvert !")
    assert with_appsink("a ! appsink name=x") == "a ! appsink name=x"


def test_an_opencv_without_gstreamer_says_what_to_do():
    import re

    import cv2

    if re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(VideoError, match="was built without GStreamer"):
        gstreamer_camera("videotestsrc")()


# streams


def test_a_stream_that_nobody_serves_is_one_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(VideoError, match=rf"tcp://127.0.0.1:{port} cannot be opened as video"):
        StreamSource(f"tcp://127.0.0.1:{port}").__enter__()


def serve(payload, pause=None):
    """Serve bytes once on loopback; after them hang up, or be silent until PAUSE is set."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        connection, _ = listener.accept()
        with listener, connection:
            connection.sendall(payload)
            if pause is not None:
                pause.wait(30)

    threading.Thread(target=answer, daemon=True).start()
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def mpeg_ts(tmp_path):
    """Return a little stream as it goes over a network."""
    from fractions import Fraction

    import av

    path = tmp_path / "a.ts"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        for index in range(100):
            pixels = np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path.read_bytes()


def test_a_stream_gives_frames_and_its_end_is_an_interruption(mpeg_ts):
    with StreamSource(serve(mpeg_ts)) as source:
        frames = []
        with pytest.raises(SourceInterruptedError, match=r"tcp://.* (has ended|was interrupted)"):
            frames.extend(iter(source.read, None))  # never None
        assert source.frame_time_s == pytest.approx(1 / 25)


def test_a_stream_that_falls_silent_is_an_interruption(mpeg_ts, monkeypatch):
    monkeypatch.setattr("mirnet_edge.video.live.sources._READ_TIMEOUT_S", 0.5)
    silence = threading.Event()
    started = time.monotonic()
    with StreamSource(serve(mpeg_ts, silence)) as source:
        assert source.read().pixels.shape == (48, 64, 3)
        with pytest.raises(SourceInterruptedError, match="was interrupted"):
            list(iter(source.read, None))
    assert time.monotonic() - started < 5.0
    silence.set()


def test_frames_are_scaled_where_a_size_is_asked_for(mpeg_ts, tmp_path):
    with FileSource(tmp_path / "a.ts", size=(24, 40), clock=VirtualClock()) as source:
        frame = source.read()
    assert frame.pixels.shape == (24, 40, 3)
    assert frame.captured_s == 0.0
    assert frame.time_s is not None


def test_what_is_read_of_a_file_becomes_pixels_only_when_asked(mpeg_ts, tmp_path, monkeypatch):
    from mirnet_edge.video.files.decoding import RgbDecoder

    made, pixels = [], RgbDecoder.pixels
    monkeypatch.setattr(
        RgbDecoder, "pixels", lambda self, frame: made.append(frame.pts) or pixels(self, frame)
    )
    with FileSource(tmp_path / "a.ts", clock=VirtualClock()) as source:
        frames = [source.read() for _ in range(9)]
        assert made == []
    kept = frames[4].pixels  # the source is closed; the frame is still whole
    assert made == [frames[4].pts]
    assert kept is frames[4].pixels
    assert kept.shape == (48, 64, 3)
