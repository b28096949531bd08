"""Files played live: pace, pause, seek, loop, and the wait at the end."""

from __future__ import annotations

import threading
from fractions import Fraction

import numpy as np
import pytest

from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.clock import REAL_CLOCK, VirtualClock
from mirnet_edge.video.frames import VideoFrame
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.live.pipeline import Live, ReconnectPolicy
from mirnet_edge.video.live.playback import FilePlayer
from mirnet_edge.video.live.sinks import MemorySink
from mirnet_edge.video.live.sources import FileSource
from mirnet_edge.video.restorer import single_runner_restorer

FPS = 10


class Film:
    """Frames whose level is their number, from a time of 5 s on."""

    name, paced, frame_time_s = "film", True, 1 / FPS

    def __init__(self, clock, frames=20, times=True):
        self.clock, self.count, self.times = clock, frames, times
        self.duration_s = frames / FPS
        self.place = self.index = 0

    def __enter__(self):
        self.place = 0
        return self

    def __exit__(self, *_):
        pass

    def seek(self, position_s):
        self.place = round(position_s * FPS)

    def read(self):
        if self.place >= self.count:
            return None
        place, self.place = self.place, self.place + 1
        self.index += 1
        return VideoFrame(
            pixels=np.full((4, 6, 3), place, np.uint8),
            index=self.index - 1,
            captured_s=self.clock.now(),
            pts=5 * FPS + place if self.times else None,
            time_base=Fraction(1, FPS) if self.times else None,
        )


def play(controls, clock, seconds, *, hold=True, **film):
    """Return (time, level) of each frame that is read within some seconds, and the player."""
    player = FilePlayer(Film(clock, **film), controls, hold_at_end=hold, clock=clock)
    clock.at(seconds, controls.stop)
    with player:
        read = [
            (round(clock.now(), 2), int(frame.pixels[0, 0, 0]), frame.continuous)
            for frame in iter(player.read, None)
        ]
    return read, player


@pytest.mark.parametrize("times", [True, False], ids=["time stamps", "none"])
def test_a_file_is_played_at_its_own_speed_and_held_at_its_end(times):
    read, player = play(Controls(), VirtualClock(), 5.0, times=times)
    assert [level for _, level, _ in read] == list(range(20))
    assert np.diff([time for time, _, _ in read]) == pytest.approx(1 / FPS, abs=0.011)
    assert player.ended
    assert player.playback.position_s == pytest.approx(1.9)
    assert player.playback.duration_s == 2.0


def test_without_hold_the_end_ends_the_run():
    clock = VirtualClock()
    read, player = play(Controls(), clock, 60.0, hold=False)
    assert len(read) == 20
    assert clock.now() < 3.0
    assert not player.ended


def test_a_loop_begins_again_and_can_be_switched_off():
    controls, clock = Controls(loop=True), VirtualClock()
    clock.at(3.0, lambda: controls.set_loop(False))
    read, player = play(controls, clock, 9.0)
    assert [level for _, level, _ in read] == [*range(20), *range(20)]
    assert [place for place, one in enumerate(read) if not one[2]] == [0, 20]
    assert player.ended


def test_a_pause_lasts_until_it_is_ended_and_no_frame_is_lost():
    controls, clock = Controls(), VirtualClock()
    clock.at(0.55, controls.toggle_paused)
    clock.at(3.0, controls.toggle_paused)
    read, _ = play(controls, clock, 10.0)
    assert [level for _, level, _ in read] == list(range(20))
    times = [time for time, _, _ in read]
    (gap,) = [place for place in range(19) if times[place + 1] - times[place] > 0.2]
    assert times[gap] < 0.7
    assert 3.0 <= times[gap + 1] < 3.1
    assert [place for place, one in enumerate(read) if not one[2]] == [0, gap + 1]


@pytest.mark.parametrize(("position_s", "level"), [(1.5, 15), (0.2, 2), (99.0, 19), (-3.0, 0)])
def test_a_seek_while_paused_gives_the_frame_there_and_stays_paused(position_s, level):
    controls, clock = Controls(), VirtualClock()
    clock.at(0.55, controls.toggle_paused)
    clock.at(1.0, lambda: controls.request_seek(position_s))
    read, player = play(controls, clock, 5.0)
    assert [one[1] for one in read[:-1]] == list(range(len(read) - 1))
    time, found, is_continuous = read[-1]
    assert time < 1.1
    assert found == level
    assert not is_continuous
    assert player.playback.position_s == pytest.approx(level / FPS)


def test_a_seek_while_playing_goes_on_from_there_at_normal_speed():
    controls, clock = Controls(), VirtualClock()
    clock.at(0.55, lambda: controls.request_seek(1.5))
    read, _ = play(controls, clock, 5.0)
    assert [level for _, level, _ in read][-5:] == [15, 16, 17, 18, 19]
    assert np.diff([time for time, _, _ in read][-5:]) == pytest.approx(1 / FPS, abs=0.011)


def test_a_seek_at_the_end_replays():
    controls, clock = Controls(), VirtualClock()
    clock.at(4.0, lambda: controls.request_seek(0.0))
    read, player = play(controls, clock, 20.0)
    assert [level for _, level, _ in read] == [*range(20), *range(20)]
    assert player.ended


def test_a_jump_of_the_time_stamps_is_no_pause():
    class Jumping(Film):
        def read(self):
            frame = super().read()
            if frame is not None and frame.pts > 60:
                frame.pts += 36_000  # an hour later
            return frame

    controls, clock = Controls(), VirtualClock()
    player = FilePlayer(Jumping(clock), controls, hold_at_end=False, clock=clock)
    with player:
        assert sum(1 for _ in iter(player.read, None)) == 20
    assert clock.now() < 3.0


@pytest.fixture
def video(write_video):
    """A file of 60 frames whose level grows by 4 a frame, 25 a second."""
    levels = (4 * np.arange(60)).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (60, 48, 64, 3))
    return write_video("a.mkv", np.ascontiguousarray(frames))


def test_any_position_of_a_file_can_be_sought(video):
    with FileSource(video) as source:
        source.read()
        for number in (50, 3, 59, 0, 30):
            source.seek(number / 25)
            levels = [source.read().pixels.mean() for _ in range(min(2, 60 - number))]
            expected = [4 * number, 4 * number + 4][: len(levels)]
            assert levels == pytest.approx(expected, abs=2)
        source.seek(9.0)
        assert source.read() is None
        source.seek(0.4)
        assert source.read().pixels.mean() == pytest.approx(40, abs=2)


def test_a_file_that_cannot_seek_is_read_from_its_beginning(video, monkeypatch):
    monkeypatch.setattr("mirnet_edge.video.live.sources._seek_key_frame", lambda *_: False)
    with FileSource(video) as source:
        source.read()
        source.seek(1.0)
        assert source.read().pixels.mean() == pytest.approx(100, abs=2)


def test_the_pipeline_reports_playing_paused_and_ended_and_repeats_the_frame(video):
    controls = Controls()
    seen = []

    def watch(shown):
        status = shown.status
        if not seen or seen[-1] != status.state:
            seen.append(status.state)
        if status.state == "playing" and shown.before.index == 5:
            controls.set_paused(True)
        elif status.state == "paused" and status.restoring and shown.restored:
            controls.set_restoring(False)
        elif status.state == "paused" and not shown.restored:
            controls.set_restoring(True)
            controls.set_paused(False)
            controls.request_seek(2.2)
        elif status.state == "ended":
            controls.stop()

    player = FilePlayer(FileSource(video), controls, hold_at_end=True)
    sink = MemorySink(watch)
    live = Live(player, single_runner_restorer(NullRunner()), [sink], controls=controls)
    thread = threading.Timer(20.0, controls.stop)
    thread.start()
    statistics = live.run()
    thread.cancel()
    assert seen == ["playing", "paused", "playing", "ended"]
    assert statistics.captured == statistics.shown + statistics.dropped + statistics.held
    last = sink.shown[-1].status
    assert last.playback.position_s == pytest.approx(59 / 25, abs=0.01)
    assert last.fps == 0.0
    # the pause does not count as a slow camera: old frames are still dropped
    assert statistics.frame_time_ms == pytest.approx(40, rel=0.3)


def test_a_source_that_gives_no_frames_is_reported_as_stalled_until_it_gives_some():
    stall, goes_on = threading.Event(), threading.Event()

    class Camera:
        name, paced, frame_time_s = "camera", False, 0.02
        index = -1

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self):
            self.index += 1
            (goes_on if self.index == 4 else stall).wait(10 if self.index == 4 else 0.02)
            if self.index > 8:
                return None
            pixels = np.zeros((4, 6, 3), np.uint8)
            return VideoFrame(pixels=pixels, index=self.index, captured_s=REAL_CLOCK.now())

    states = []

    def watch(shown):
        states.append(shown.status.state)
        if shown.status.state == "stalled":
            assert shown.status.fps == 0.0
            goes_on.set()

    Live(
        Camera(), single_runner_restorer(NullRunner()), [MemorySink(watch)],
        reconnect_policy=ReconnectPolicy(),
    ).run()  # fmt: skip
    assert "stalled" in states
    assert states[0] == states[-1] == "live"


@pytest.mark.parametrize(("strength", "level"), [(0.0, 40), (0.25, 70), (1.0, 160)])
def test_the_strength_mixes_restored_and_source(strength, level):
    class Gain(NullRunner):
        def run(self, frames):
            return 4 * super().run(frames)

    class Still(Film):
        def read(self):
            frame = super().read()
            if frame is None:
                return None
            pixels = np.full((4, 6, 3), 40, np.uint8)
            return VideoFrame(pixels=pixels, index=frame.index, captured_s=frame.captured_s)

    controls = Controls(strength=strength)
    sink = MemorySink()
    player = FilePlayer(Still(REAL_CLOCK, 2), controls, hold_at_end=False)
    runner = Gain()
    Live(player, single_runner_restorer(runner), [sink], controls=controls).run()
    assert sink.shown[0].after[0, 0, 0] == level
    assert sink.shown[0].restored is (strength > 0)
    assert runner.calls == (2 if strength else 0)
    assert sink.shown[0].status.strength == strength
