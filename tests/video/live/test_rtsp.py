"""RTSP from a server that is a process of its own, on loopback: it dies, returns, falls silent."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.errors import SourceInterruptedError, VideoError
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.live.pipeline import Live, ReconnectPolicy
from mirnet_edge.video.live.sinks import MemorySink
from mirnet_edge.video.live.sources import open_source
from mirnet_edge.video.restorer import single_runner_restorer

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


def test_frames_arrive_over_tcp_in_their_order():
    # the server refuses any other transport
    with serving() as (_, address), open_source(address) as source:
        frames = [source.read() for _ in range(12)]
        assert source.frame_time_s == pytest.approx(1 / 25)
    levels = [int(np.argmin(np.abs(np.array(GRAYS) - f.pixels.mean()))) for f in frames]
    assert [level % 5 for level in range(levels[0], levels[0] + 12)] == levels
    assert all(abs(f.pixels.mean() - GRAYS[k]) < 4 for f, k in zip(frames, levels, strict=True))
    assert frames[0].pixels.shape == (48, 64, 3)
    # stamped as they come, not in a burst: nothing was held back while the stream was opened
    steps_s = np.diff([frame.captured_s for frame in frames])
    assert np.median(steps_s) == pytest.approx(1 / 25, abs=0.02)


def test_a_server_that_dies_and_returns_is_found_again():
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


def test_a_server_that_dies_for_good_ends_the_run_after_fewer_and_fewer_tries(caplog):
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


def test_a_server_that_falls_silent_is_left_within_the_bound(monkeypatch):
    monkeypatch.setattr("mirnet_edge.video.live.sources._READ_TIMEOUT_S", 1.0)
    with serving("--silent-after", "100") as (process, address), open_source(address) as source:
        read_s = []
        with pytest.raises(SourceInterruptedError, match="was interrupted"):
            read_s.extend(time.monotonic() for _ in iter(source.read, None))
        stalled_s = time.monotonic() - read_s[-1]
        assert process.poll() is None  # it is there, and says nothing
    assert len(read_s) > 3
    assert 0.8 < stalled_s < 3.0


def test_a_server_that_is_not_there_is_one_line():
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
