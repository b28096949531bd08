"""Live sources: synthetic video, cameras, files, network streams, RTSP from another process."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.errors import OptionError, SourceInterruptedError, VideoError
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.clock import VirtualClock
from mirnet_edge.video.live import sources
from mirnet_edge.video.live.pipeline import Live, ReconnectPolicy
from mirnet_edge.video.live.sinks import MemorySink
from mirnet_edge.video.live.sources import (
    CameraSource,
    FileSource,
    StreamSource,
    SyntheticSource,
    csi_pipeline,
    find_camera,
    gstreamer_camera,
    open_source,
    read_clip,
    with_appsink,
)
from mirnet_edge.video.restorer import single_runner_restorer


def _read(count=3, **options):
    with SyntheticSource(width=32, height=24, **options) as source:
        return [source.read() for _ in range(count)]


def test_the_same_seed_gives_the_same_frames_and_another_others():
    first, again, other = _read(seed=1), _read(seed=1), _read(seed=2)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.pixels, two.pixels)
    assert (first[0].pixels != other[0].pixels).any()


def test_synthetic_video_is_dark_noisy_and_moving():
    with SyntheticSource(width=64, height=48) as source:
        frames = [source.read().pixels for _ in range(61)]
    assert 2 < np.mean(frames) < 80
    still = frames[0].astype(int) - frames[1]
    assert 2 < still.std() < 15  # noise, between two frames
    assert np.abs(frames[0].astype(int) - frames[60]).mean() > 3  # the lamp went half its way


def test_synthetic_frames_have_index_and_time():
    frames = _read(fps=30000 / 1001)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert frames[2].time_s == pytest.approx(2 * 1001 / 30000, rel=1e-9)


def test_the_synthetic_source_ends_and_can_be_opened_again():
    source = SyntheticSource(width=8, height=8, frames=2)
    for _ in range(2):
        with source:
            assert [source.read() is None for _ in range(4)] == [False, False, True, True]


def test_the_synthetic_source_refuses_invalid_options():
    with pytest.raises(OptionError, match="found 0x480"):
        SyntheticSource(width=0)
    with pytest.raises(OptionError, match="at 0"):
        SyntheticSource(fps=0.0)
    with pytest.raises(OptionError, match="not open"):
        SyntheticSource().read()


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


def test_an_unplugged_camera_is_reconnected():
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


def test_a_camera_that_stays_unplugged_ends_the_run():
    devices = iter([FakeDevice()] + [FakeDevice(opened=False) for _ in range(99)])
    source = CameraSource("camera 0", lambda: next(devices))
    reconnect_policy = ReconnectPolicy(first_pause_s=0.02, give_up_s=0.3)
    started = time.monotonic()
    with pytest.raises(VideoError, match="camera 0 did not come back within"):
        Live(source, single_runner_restorer(NullRunner()), reconnect_policy=reconnect_policy).run()
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize(
    ("devices", "found", "reason"),
    [
        ([FakeDevice(), FakeDevice()], "0", ""),
        ([FakeDevice(opened=False), FakeDevice(frames=0), FakeDevice()], "2", ""),
        ([FakeDevice(opened=False)], None, "no camera gives frames"),
    ],
    ids=["first", "third", "none"],
)
def test_the_first_camera_that_gives_frames_is_found(monkeypatch, devices, found, reason):
    monkeypatch.setattr(sources, "camera_numbers", lambda: list(range(len(devices))))
    monkeypatch.setattr(sources, "numbered_camera", lambda number: lambda: devices[number])
    assert find_camera() == (found, reason)
    assert [device.released for device in devices] == [
        found is None or number <= int(found) for number in range(len(devices))
    ]


def test_a_missing_camera_is_reported_with_the_synthetic_source_as_alternative():
    with pytest.raises(VideoError, match=r"camera 0 cannot be opened.*--source synthetic"):
        CameraSource("camera 0", lambda: FakeDevice(opened=False)).__enter__()
    with pytest.raises(VideoError, match=r"camera 97 cannot be opened.*--source synthetic"):
        open_source("97").__enter__()


@pytest.mark.parametrize(
    ("fps", "seconds"), [(30.0, 1 / 30), (0.0, None), (-1.0, None), (90_000.0, None)]
)
def test_an_implausible_frame_rate_is_ignored(fps, seconds):
    with CameraSource("camera 0", lambda: FakeDevice(fps=fps)) as source:
        assert source.frame_time_s == seconds


def test_open_source_returns_the_kind_of_source_that_a_text_names(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert isinstance(open_source("synthetic"), SyntheticSource)
    assert isinstance(open_source(str(tmp_path / "a.mp4")), FileSource)
    assert isinstance(open_source("rtsp://host/path"), StreamSource)
    assert open_source("csi:1").name == "CSI camera 1"
    assert open_source("gst: videotestsrc").name == "the GStreamer pipeline"
    with pytest.raises(VideoError, match=r"--source nowhere: expected a camera's number"):
        open_source("nowhere")


def test_names_hold_no_password():
    assert open_source("rtsp://user:secret@host/path").name == "rtsp://host/path"


def test_the_gstreamer_pipeline_of_a_csi_camera():
    assert csi_pipeline(sensor=1, size=(1080, 1920), fps=60, flip=2) == (
        "nvarguscamerasrc sensor-id=1 ! "
        "video/x-raw(memory:NVMM),width=1920,height=1080,framerate=60/1,format=NV12 ! "
        "nvvidconv flip-method=2 ! video/x-raw,format=BGRx ! videoconvert ! "
        "video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )
    assert with_appsink("videotestsrc !").startswith("videotestsrc ! videoconvert !")
    assert with_appsink("a ! appsink name=x") == "a ! appsink name=x"


def test_an_opencv_without_gstreamer_is_reported_with_what_to_do():
    import re

    import cv2

    if re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(VideoError, match="was built without GStreamer"):
        gstreamer_camera("videotestsrc")()


# streams


def test_a_refused_connection_is_a_video_error():
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


def test_the_end_of_a_stream_is_an_interruption(mpeg_ts):
    with StreamSource(serve(mpeg_ts)) as source:
        frames = []
        with pytest.raises(SourceInterruptedError, match=r"tcp://.* (has ended|was interrupted)"):
            frames.extend(iter(source.read, None))  # never None
        assert source.frame_time_s == pytest.approx(1 / 25)


def test_a_stream_that_stops_sending_is_an_interruption(mpeg_ts, monkeypatch):
    monkeypatch.setattr("mirnet_edge.video.live.sources._READ_TIMEOUT_S", 0.5)
    silence = threading.Event()
    started = time.monotonic()
    with StreamSource(serve(mpeg_ts, silence)) as source:
        assert source.read().pixels.shape == (48, 64, 3)
        with pytest.raises(SourceInterruptedError, match="was interrupted"):
            list(iter(source.read, None))
    assert time.monotonic() - started < 5.0
    silence.set()


def test_frames_are_scaled_to_a_requested_size(mpeg_ts, tmp_path):
    with FileSource(tmp_path / "a.ts", size=(24, 40), clock=VirtualClock()) as source:
        frame = source.read()
    assert frame.pixels.shape == (24, 40, 3)
    assert frame.captured_s == 0.0
    assert frame.time_s is not None


def test_a_files_frames_are_converted_on_first_use(mpeg_ts, tmp_path, monkeypatch):
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


@pytest.fixture
def video(write_video):
    levels = np.arange(20, 80, 10, dtype=np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (6, 48, 64, 3))
    return write_video("a.mkv", np.ascontiguousarray(frames))


def test_a_clip_has_the_first_frames_in_order_and_no_wider_than_requested(video):
    whole, small = read_clip(video, 3), read_clip(video, 3, widest=32)
    assert (whole.shape, small.shape) == ((3, 48, 64, 3), (3, 24, 32, 3))
    for clip in (whole, small):
        assert clip.dtype == np.uint8
        np.testing.assert_allclose(clip.mean((1, 2, 3)), [20, 30, 40], atol=2)
    assert read_clip(video, 3, widest=640).shape == whole.shape


def test_a_clip_of_too_short_a_video_is_refused(video):
    with pytest.raises(VideoError, match=r"a\.mkv: expected at least 7 frames, found 6 "):
        read_clip(video, 7)


pytest.importorskip("av")

SERVER = Path(__file__).parent / "rtsp_server.py"
GRAYS = (40, 80, 120, 160, 200)


@contextmanager
def serving(*options, port=0):
    """Run the server; give its process and its address."""
    command = [sys.executable, str(SERVER), str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, f"rtsp://127.0.0.1:{int(process.stdout.readline())}/live"
        finally:
            process.kill()


def port_of(address):
    return int(address.rpartition(":")[2].partition("/")[0])


def test_rtsp_frames_arrive_over_tcp_in_order():
    # the server refuses any other transport
    with serving() as (_, address), open_source(address) as source:
        frames = [source.read() for _ in range(12)]
        assert source.frame_time_s == pytest.approx(1 / 25)
    levels = [int(np.argmin(np.abs(np.array(GRAYS) - f.pixels.mean()))) for f in frames]
    assert [level % 5 for level in range(levels[0], levels[0] + 12)] == levels
    assert all(abs(f.pixels.mean() - GRAYS[k]) < 4 for f, k in zip(frames, levels, strict=True))
    assert frames[0].pixels.shape == (48, 64, 3)
    # received one by one, not in a burst: nothing was buffered while the stream was opened
    steps_s = np.diff([frame.captured_s for frame in frames])
    assert np.median(steps_s) == pytest.approx(1 / 25, abs=0.02)


def test_an_rtsp_server_that_restarts_is_reconnected():
    sink = MemorySink()
    with serving() as (first, address):
        source = open_source(address)
        reconnect_policy = ReconnectPolicy(first_pause_s=0.05, longest_pause_s=0.4, give_up_s=20.0)
        live = Live(
            source, single_runner_restorer(NullRunner()), [sink], reconnect_policy=reconnect_policy
        )
        runs = []
        thread = threading.Thread(target=lambda: runs.append(live.run()))
        thread.start()
        wait_for(lambda: len(set(sink.indices)) > 3)
        first.kill()
        wait_for(lambda: "trying again" in sink.shown[-1].status.note)
        before = sink.shown[-1].before.index
        with serving(port=port_of(address)):
            wait_for(lambda: sink.shown[-1].before.index > before + 3)
            live.controls.stop()
            thread.join(5.0)
    assert not thread.is_alive()
    assert runs[0].reconnects == 1
    assert runs[0].failed == 0
    assert sink.shown[-1].status.note == ""


def test_a_stopped_rtsp_server_ends_the_run_after_a_back_off(caplog):
    with serving() as (process, address):
        opened = []
        source = counting(open_source(address), opened)
        sink = MemorySink(lambda shown: process.kill() if shown.before.index == 3 else None)
        reconnect_policy = ReconnectPolicy(first_pause_s=0.1, longest_pause_s=0.8, give_up_s=1.2)
        started = time.monotonic()
        with pytest.raises(VideoError, match=r"rtsp://127\.0\.0\.1:\d+/live did not come back"):
            Live(
                source,
                single_runner_restorer(NullRunner()),
                [sink],
                reconnect_policy=reconnect_policy,
            ).run()
        assert time.monotonic() - started < 10.0
    pauses_s = list(np.diff(opened[1:]))
    assert 2 <= len(pauses_s) <= 6
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[-1] > 2 * pauses_s[0]
    assert "trying again" in caplog.text


def test_an_rtsp_server_that_stops_sending_is_an_interruption_within_the_timeout(monkeypatch):
    monkeypatch.setattr("mirnet_edge.video.live.sources._READ_TIMEOUT_S", 1.0)
    with serving("--silent-after", "100") as (process, address), open_source(address) as source:
        read_s = []
        with pytest.raises(SourceInterruptedError, match="was interrupted"):
            read_s.extend(time.monotonic() for _ in iter(source.read, None))
        stalled_s = time.monotonic() - read_s[-1]
        assert process.poll() is None  # it runs, and sends nothing
    assert len(read_s) > 3
    assert 0.8 < stalled_s < 3.0


def test_a_missing_rtsp_server_is_a_video_error():
    with serving() as (process, address):
        process.kill()
        process.wait()
        with pytest.raises(
            VideoError, match=r"/live cannot be opened as video: Connection refused"
        ):
            open_source(address).__enter__()


def counting(source, opened):
    """Note the time of every opening of a source."""
    enter = source.__enter__

    class Counted(type(source)):
        def __enter__(self):
            opened.append(time.monotonic())
            return enter()

    source.__class__ = Counted
    return source


def wait_for(happened, seconds=15.0):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
