"""Publishing by RTSP: to FFmpeg's own server, and to those that refuse, stall or are not there."""

from __future__ import annotations

import base64
import hashlib
import json
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.errors import OptionError
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.clock import REAL_CLOCK
from mirnet_edge.video.frames import VideoFrame
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.live.pipeline import Live
from mirnet_edge.video.live.publishing import Publisher
from mirnet_edge.video.restorer import single_runner_restorer

pytest.importorskip("av")

LISTENER = Path(__file__).parent / "rtsp_listener.py"
COLOR, FPS = (170, 100, 70), 25


class ColorCamera:
    """A camera of one color with noise, without end or of so many frames."""

    name, paced, frame_time_s = "flat", False, 1 / FPS

    def __init__(self, frames=None, sizes=((48, 64),)):
        self._frames, self._sizes = frames, sizes

    def __enter__(self):
        self._index = 0
        return self

    def __exit__(self, *_):
        pass

    def read(self):
        if self._index == self._frames:
            return None
        REAL_CLOCK.sleep(1 / FPS)
        index, self._index = self._index, self._index + 1
        # noise, as cameras have it: whole images come in several packets
        noise = np.random.default_rng(index).integers(-15, 16, (240, 320, 1))
        height, width = self._sizes[index * len(self._sizes) // (self._frames or index + 1)]
        pixels = np.clip(np.array(COLOR) + noise, 0, 255).astype(np.uint8)[:height, :width]
        return VideoFrame(
            pixels=np.ascontiguousarray(pixels), index=index, captured_s=REAL_CLOCK.now()
        )


@contextmanager
def publishing(address, **how):
    """Publish while the block runs; yield the publisher and the lines it reports."""
    controls, lines = Controls(), []
    publisher = Publisher(address, on_change=lines.append)
    live = Live(
        ColorCamera(**how), single_runner_restorer(NullRunner()), [publisher], controls=controls
    )
    thread = threading.Thread(target=live.run)
    thread.start()
    try:
        yield publisher, lines
    finally:
        controls.stop()
        thread.join(10)
    assert not thread.is_alive()


@contextmanager
def listening(port):
    """Run FFmpeg's server; gives its process and a queue of the frames that came."""
    frames = queue.SimpleQueue()
    command = [sys.executable, str(LISTENER), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        reading = threading.Thread(
            target=lambda: [frames.put(json.loads(line)) for line in process.stdout]
        )
        reading.start()
        try:
            yield process, frames
        finally:
            process.kill()
            reading.join()


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.mark.parametrize("size", [(48, 64), (239, 319)], ids=["small", "odd, in fragments"])
def test_frames_arrive_at_a_real_server_with_their_size_and_color(size, port):
    with (
        listening(port) as (_, frames),
        publishing(f"rtsp://127.0.0.1:{port}/live", sizes=(size,)) as (publisher, lines),
    ):
        came = [frames.get(timeout=20) for _ in range(15)]
    height, width = size
    for one in came:
        assert (one["height"], one["width"]) == (height + height % 2, width + width % 2)
        assert one["rgb"] == pytest.approx(COLOR, abs=3)
    assert publisher.published >= 15
    assert lines[-1] == f"publishing to rtsp://127.0.0.1:{port}/live"
    assert publisher.losses == 0


def test_the_publisher_reconnects_to_a_server_that_restarts(port):
    address = f"rtsp://127.0.0.1:{port}/live"
    with publishing(address) as (publisher, lines):
        for _ in range(2):
            with listening(port) as (_, frames):
                for _ in range(5):
                    frames.get(timeout=20)
        wait_for(lambda: publisher.losses == 2)
        wait_for(lambda: publisher.dropped > 0)
    here = [line for line in lines if line.startswith("publishing")]
    assert here == [f"publishing to {address}", f"publishing to {address} again"]
    lost = [line for line in lines if " was lost: " in line]
    assert len(lost) == 2
    assert len(lines) <= 5  # at first it may not have been there yet
    assert f"{publisher.published} frames sent" in publisher.summary()
    assert "the connection was lost 2 times" in publisher.summary()


class Server:
    """A server with scripted responses that records requests."""

    def __init__(self, answer=lambda request: "200 OK", *, receives=True):
        self.requests, self.received, self._clients = [], 0, []
        self._answer, self._receives = answer, receives
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port = self._listener.getsockname()[1]
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._gone.set()
        self._thread.join()
        for client in [self._listener, *self._clients]:
            client.close()

    def methods(self):
        return [request.split(" ", 1)[0] for request in self.requests]

    def _run(self):
        while not self._gone.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                client.settimeout(0.1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                self._clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        unread = b""
        with suppress(OSError):
            while not self._gone.is_set():
                with suppress(TimeoutError):
                    if not (got := client.recv(65536)):
                        return
                    unread += got
                while (size := _size_of_first(unread)) and size <= len(unread):
                    first, unread = unread[:size], unread[size:]
                    if first.startswith(b"$"):
                        self.received += 1
                    elif not self._reply(client, first.decode()):
                        return  # connected, and silent

    def _reply(self, client, request):
        self.requests.append(request)
        answer = self._answer(request)
        if answer is None:
            return False
        number = re.search(r"CSeq: (\d+)", request)[1]
        client.sendall(
            f"RTSP/1.0 {answer}\r\nCSeq: {number}\r\nSession: 7;timeout=60\r\n\r\n".encode()
        )
        return self._receives or not request.startswith("RECORD")


def _size_of_first(unread):
    """Return the bytes of the first request or packet, 0 while its head is not there."""
    if unread.startswith(b"$"):
        return 4 + int.from_bytes(unread[2:4], "big") if len(unread) >= 4 else 0
    end = unread.find(b"\r\n\r\n") + 4
    length = re.search(rb"Content-Length: (\d+)", unread[:end])
    return 0 if end < 4 else end + (int(length[1]) if length else 0)


def run_beside(address, frames=30):
    """Publish a camera of so many frames; return the publisher, its lines, the statistics."""
    lines = []
    publisher = Publisher(address, on_change=lines.append)
    started = time.monotonic()
    statistics = Live(ColorCamera(frames), single_runner_restorer(NullRunner()), [publisher]).run()
    # a stage that waited for the server would take its five seconds
    assert time.monotonic() - started < frames / FPS + 3.0
    assert statistics.shown + statistics.dropped == statistics.captured == frames
    assert statistics.shown > 0.8 * frames
    assert statistics.age.p95_ms < 500
    return publisher, lines, statistics


def test_without_a_server_the_pipeline_continues_and_one_line_is_reported(port):
    address = f"rtsp://user:secret@127.0.0.1:{port}/live"
    publisher, lines, statistics = run_beside(address)
    assert lines == [
        f"rtsp://127.0.0.1:{port}/live does not respond: Connection refused; trying again"
    ]
    assert (publisher.published, publisher.dropped) == (0, statistics.shown)
    assert "secret" not in publisher.summary()


def test_a_server_that_never_responds_delays_nothing():
    with Server(lambda request: None) as server:
        publisher, _, _ = run_beside(f"rtsp://127.0.0.1:{server.port}/live")
        assert server.methods() == ["ANNOUNCE"]
    assert publisher.published == 0


def test_the_publisher_reconnects_to_a_server_that_stops_receiving(monkeypatch):
    monkeypatch.setattr("mirnet_edge.video.live.publishing._SEND_S", 0.5)
    monkeypatch.setattr("mirnet_edge.video.live.publishing._SEND_BUFFER_BYTES", 4096)
    with Server(receives=False) as server:
        with publishing(f"rtsp://127.0.0.1:{server.port}/live", sizes=((240, 320),)) as (
            publisher,
            lines,
        ):
            wait_for(lambda: server.methods().count("RECORD") == 2)
        assert publisher.losses >= 1
        assert publisher.dropped > 0
    assert "was lost: no response in time; trying again" in lines[1]


def test_a_refusal_is_reported_with_its_reason():
    with Server(lambda request: "453 Not Enough Bandwidth") as server:
        _, lines, _ = run_beside(f"rtsp://127.0.0.1:{server.port}/live", frames=10)
    (line,) = lines
    assert "refuses to be published to: 453 Not Enough Bandwidth" in line


def digest(request):
    given = dict(re.findall(r'(\w+)="([^"]*)"', request.partition("Authorization: Digest ")[2]))
    method, uri = request.split(" ")[:2]

    def md5(text):
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    expected = md5(f"{md5('me:us:p@ss')}:abc:{md5(f'{method}:{uri}')}")
    return given.get("response") == expected


def basic(request):
    return f"Authorization: Basic {base64.b64encode(b'me:p@ss').decode()}\r\n" in f"{request}\r\n"


@pytest.mark.parametrize(
    ("challenge", "allowed"),
    [
        ('Basic realm="us"', basic),
        ('Digest realm="us", nonce="abc"', digest),
        # as MediaMTX does: the one that we know is taken
        ('Digest realm="us", nonce="no", algorithm="SHA-256"\r\nWWW-Authenticate: '
         'Digest realm="us", nonce="abc", algorithm="MD5"', digest),
    ],
    ids=["basic", "digest", "two digests"],
)  # fmt: skip
def test_the_publisher_authenticates(challenge, allowed):
    def answer(request):
        refusal = f"401 Unauthorized\r\nWWW-Authenticate: {challenge}"
        return "200 OK" if allowed(request) else refusal

    with Server(answer) as server:
        address = f"127.0.0.1:{server.port}/live"
        publisher, _, _ = run_beside(f"rtsp://me:p%40ss@{address}", frames=15)
        expected = ["ANNOUNCE", "ANNOUNCE", "SETUP", "RECORD", "TEARDOWN"]
        wait_for(lambda: server.methods() == expected)
        assert server.received > 0
        assert all("Session: 7\r\n" in f"{one}\r\n" for one in server.requests[3:])
        assert publisher.published > 5
        wrong, lines, _ = run_beside(f"rtsp://me:wrong@{address}", frames=5)
    assert wrong.published == 0
    assert "401 Unauthorized; check user and password" in lines[0]


def test_a_change_of_size_starts_a_new_session():
    with Server() as server:
        publisher = Publisher(f"rtsp://127.0.0.1:{server.port}/live", on_change=lambda line: None)
        source = ColorCamera(30, sizes=((48, 64), (24, 32)))
        Live(source, single_runner_restorer(NullRunner()), [publisher]).run()
        once = ["ANNOUNCE", "SETUP", "RECORD", "TEARDOWN"]
        wait_for(lambda: server.methods() == 2 * once)
    assert publisher.losses == 0


@pytest.mark.parametrize(
    "address",
    ["http://a/b", "rtsps://a/b", "rtsp://", "rtsp://a:port/b", "live", "rtsp://a:99999/b"],
)
def test_other_kinds_of_url_are_refused(address):
    with pytest.raises(OptionError, match=r"expected a URL like rtsp://HOST:8554/NAME"):
        Publisher(address)


def wait_for(happened, seconds=15.0):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
