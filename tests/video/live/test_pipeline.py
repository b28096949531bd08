"""The live pipeline on a virtual clock and on threads, its statistics, its controls."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirnet_edge.errors import EngineError, SourceInterruptedError, VideoError
from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.clock import VirtualClock
from mirnet_edge.video.frames import VideoFrame, format_status
from mirnet_edge.video.live.controls import Controls
from mirnet_edge.video.live.pipeline import DurationHistogram, Live, LiveCounters, ReconnectPolicy
from mirnet_edge.video.live.sinks import DetachedSink, MemorySink
from mirnet_edge.video.live.sources import SyntheticSource
from mirnet_edge.video.restorer import Restorer

FRAME = "frame"
LOST = SourceInterruptedError("the cable was pulled")


class ScriptedSource:
    """Follows a script: seconds to sleep, an event to wait for, an exception to raise, or a frame.

    `script` is called at every opening with how often it was opened before.
    """

    name = "scripted"
    paced = False
    frame_time_s = None

    def __init__(self, script):
        self.script = script
        self.opened = self.closed = 0
        self.threads = set()
        self._index = 0

    def __enter__(self):
        self.threads.add(threading.current_thread().name)
        self._steps = iter(self.script(self.opened))
        self.opened += 1
        first = next(self._steps, None)
        if isinstance(first, Exception):
            raise first
        return self

    def __exit__(self, *_):
        self.closed += 1

    def read(self):
        for step in self._steps:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, threading.Event):
                step.wait(20)
            elif isinstance(step, (int, float)):
                time.sleep(step)
            else:
                index, self._index = self._index, self._index + 1
                return frame_of(index, captured_s=time.monotonic())
        return None


def frame_of(index, captured_s=0.0, height=4, width=6):
    pixels = np.full((height, width, 3), index % 256, np.uint8)
    return VideoFrame(pixels=pixels, index=index, captured_s=captured_s)


class SlowRunner(NullRunner):
    """Takes the given times in turn, on the virtual clock."""

    def __init__(self, clock, delays):
        super().__init__()
        self.clock, self.delays = clock, delays

    def run(self, frames):
        self.clock.sleep(self.delays[self.calls % len(self.delays)])
        return super().run(frames)


class ScheduledCapture:
    """Stands for the capture thread: puts frames at their times on the virtual clock."""

    read_times = DurationHistogram()
    reconnects = 0
    interruption = ""

    def __init__(self, times_s):
        self.times_s = times_s

    def __call__(self, source, buffer, clock, reconnect_policy):
        for index, time_s in enumerate(self.times_s):
            clock.at(time_s, lambda i=index, t=time_s: buffer.put(frame_of(i, captured_s=t)))
        clock.at(self.times_s[-1] + 0.01, buffer.close)
        return self

    def check_stuck(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def run_virtual(times_s, restore_s, show_s=(0.0,), **options):
    """Run on the virtual clock; return the sink, its clock times and the statistics."""
    clock = VirtualClock()
    ends = []

    def show(shown):
        clock.sleep(show_s[len(ends) % len(show_s)])
        ends.append(clock.now())

    sink = MemorySink(show)
    source = SyntheticSource(fps=1 / max(np.diff(times_s, prepend=-1e-3)))
    restorer = Restorer({"slow": lambda: SlowRunner(clock, restore_s)}, "slow")
    live = Live(
        source, restorer, [sink], clock=clock, make_capture=ScheduledCapture(times_s), **options
    )  # fmt: skip
    return sink, ends, live.run()


delays = st.lists(st.floats(0.0, 0.5), min_size=1, max_size=8)
intervals = st.lists(st.floats(0.005, 0.1), min_size=1, max_size=60)


@given(intervals, delays, delays)
def test_frame_age_is_bounded_under_any_backpressure_and_counters_add_up(steps, restore_s, show_s):
    times_s = list(np.cumsum(steps))
    sink, ends, statistics = run_virtual(times_s, restore_s, show_s)
    assert sink.indices == sorted(set(sink.indices))
    assert statistics.captured == len(times_s)
    assert statistics.captured == statistics.shown + statistics.dropped
    assert statistics.shown == len(sink.shown)
    # within two of the longest frame times, plus its own restoring and showing
    for place, (shown, end) in enumerate(zip(sink.shown, ends, strict=True)):
        work_s = restore_s[place % len(restore_s)] + show_s[place % len(show_s)]
        assert end - shown.before.captured_s <= 2.01 * max(*steps, 1e-3) + work_s + 1e-9


def test_frame_age_does_not_grow_with_a_network_ten_times_too_slow():
    times_s = [i / 30 for i in range(3000)]
    sink, _, statistics = run_virtual(times_s, [10 / 30])
    ages = [shown.status.age_ms for shown in sink.shown]
    assert max(ages) <= 1e3 * 11 / 30 + 1e-6
    assert max(ages[-100:]) <= max(ages[:100]) + 1e-6
    assert statistics.shown == pytest.approx(300, abs=2)
    assert statistics.fps == pytest.approx(3.0, rel=0.01)
    assert statistics.dropped == 3000 - statistics.shown


def test_a_network_that_is_fast_enough_drops_no_frame():
    times_s = [i / 30 for i in range(100)]
    sink, _, statistics = run_virtual(times_s, [0.02])
    assert sink.indices == list(range(100))
    assert statistics.dropped == 0
    assert statistics.fps == pytest.approx(30.0)
    assert statistics.age.p95_ms == pytest.approx(20.0, rel=0.02)
    assert statistics.stages["restore"].mean_ms == pytest.approx(20.0)
    assert statistics.frame_time_ms == pytest.approx(1e3 / 30)


def test_displayed_frames_are_converted_once_and_dropped_ones_never():
    made = []

    def make(index):
        made.append(index)
        return np.full((4, 6, 3), index % 256, np.uint8)

    class Lazy(ScheduledCapture):
        def __call__(self, source, buffer, clock, reconnect_policy):
            for index, time_s in enumerate(self.times_s):
                frame = VideoFrame(
                    pixels=lambda i=index: make(i), index=index, captured_s=-1.0
                ).captured_at(time_s)
                clock.at(time_s, lambda f=frame: buffer.put(f))
            clock.at(self.times_s[-1] + 0.01, buffer.close)
            return self

    clock = VirtualClock()
    restorer = Restorer({"slow": lambda: SlowRunner(clock, [0.1])}, "slow")
    sink = MemorySink()
    times_s = [i / 30 for i in range(60)]
    statistics = Live(
        SyntheticSource(fps=30), restorer, [sink], clock=clock, make_capture=Lazy(times_s)
    ).run()  # fmt: skip
    assert statistics.dropped > 30
    assert made == sink.indices
    assert [shown.before.pixels[0, 0, 0] for shown in sink.shown] == made
    assert made == sink.indices  # looking again makes nothing anew
    assert statistics.stages["convert"].count == statistics.shown


def test_frames_are_passed_on_without_a_copy():
    """Own work per frame does not grow with its size, but for one conversion to pixels."""

    class Keeping(NullRunner):
        context_length = 1

        def __init__(self):
            super().__init__()
            self.given, self.made = [], []

        def run_with_context(self, frames, context_in, smoothing_weight):
            self.given.append(frames)
            self.made.append(super().run(frames))
            return self.made[-1], np.zeros((1, 1), np.float32)

    runner, sinks = Keeping(), [MemorySink(), MemorySink()]
    source = ScriptedSource(lambda opened: [FRAME, 0.2, FRAME, 0.2, FRAME])
    Live(source, Restorer({"a": lambda: runner}, "a"), sinks).run()
    displayed = [
        {shown.before.index: shown for shown in sink.shown}  # some twice, without a newer one
        for sink in sinks
    ]
    assert len(displayed[0]) == len(runner.made) > 0
    for index, taken, made in zip(displayed[0], runner.given, runner.made, strict=True):
        assert np.shares_memory(taken, displayed[0][index].before.pixels)
        assert np.shares_memory(made, displayed[0][index].after)
        assert displayed[1][index].after is displayed[0][index].after


def test_a_frame_that_waited_during_a_stall_is_dropped():
    # five frames, then silence while the consumer is busy for a second; then five more
    times_s = [0.1, 0.2, 0.3, 0.4, 0.5, 2.0, 2.1, 2.2]
    clock = VirtualClock()
    sink = MemorySink()
    restorer = Restorer({"slow": lambda: SlowRunner(clock, [0.0, 1.0, 0.0, 0.0, 0.0])}, "slow")
    source = SyntheticSource(fps=10)
    statistics = Live(
        source, restorer, [sink], clock=clock, make_capture=ScheduledCapture(times_s)
    ).run()  # fmt: skip
    assert list(dict.fromkeys(sink.indices)) == [0, 1, 5, 6, 7]
    assert statistics.dropped == 3


def test_a_frozen_display_repeats_its_frame_to_the_sinks():
    controls = Controls()
    times_s = [i / 10 for i in range(1, 21)]
    clock = VirtualClock()
    clock.at(0.55, controls.toggle_frozen)
    clock.at(1.55, controls.toggle_frozen)
    sink = MemorySink()
    restorer = Restorer({"slow": lambda: SlowRunner(clock, [0.0])}, "slow")
    statistics = Live(
        SyntheticSource(fps=10), restorer, [sink],
        clock=clock, make_capture=ScheduledCapture(times_s), controls=controls,
    ).run()  # fmt: skip
    assert sorted(set(sink.indices)) == [0, 1, 2, 3, 4, 15, 16, 17, 18, 19]
    assert statistics.held == 10
    assert statistics.captured == statistics.shown + statistics.dropped + statistics.held
    frozen = [shown for shown in sink.shown if shown.status.frozen]
    assert len(frozen) >= 10
    assert {shown.before.index for shown in frozen} == {4}


# controls and failures


def test_a_failed_frame_is_displayed_unrestored_and_counted(caplog):
    failing = NullRunner(failure=EngineError("out of memory"), fails_at=3)
    sink = MemorySink()
    live = Live(SyntheticSource(width=8, height=6, fps=200, frames=6), _one(failing), [sink])
    statistics = live.run()
    assert statistics.failed == statistics.shown - 2 > 0
    last = sink.shown[-1]
    assert not last.restored
    assert last.after is last.before.pixels
    assert last.status.note == "a frame was not restored: out of memory"
    assert [record.message for record in caplog.records] == [last.status.note]  # once


def test_a_failed_frame_of_an_enlarging_network_has_the_size_of_a_restored_one():
    sink = MemorySink()
    failing = NullRunner(scale=2, failure=EngineError("no"), fails_at=1)
    Live(SyntheticSource(width=8, height=6, fps=200, frames=2), _one(failing), [sink]).run()
    assert sink.shown[0].after.shape == (12, 16, 3)


def test_restoration_can_be_switched_off():
    controls = Controls()
    sink = MemorySink(lambda shown: controls.set_restoring(shown.before.index < 2))
    runner = NullRunner()
    source = SyntheticSource(width=8, height=6, fps=50, frames=6)
    Live(source, _one(runner), [sink], controls=controls).run()
    assert [shown.restored for shown in sink.shown][:4] == [True, True, True, False]
    assert runner.calls == 3
    assert not sink.shown[-1].status.restoring


def test_what_computes_is_told_with_each_frame_and_at_the_end():
    """The placement is the runner's at the time of the frame: OpenVINO has it after the first."""

    class Placed(NullRunner):
        placement = ""

        def run(self, frames):
            self.placement = f"{self.name} of 9 nodes on ToyProvider"
            return super().run(frames)

    runners = {"5": Placed("5"), "7": Placed("7")}
    controls = Controls()

    def request(shown):
        if shown.before.index == 1:
            controls.choose_configuration("7")

    sink = MemorySink(request)
    source = SyntheticSource(width=8, height=6, fps=50, frames=4)
    restorer = Restorer({name: lambda r=r: r for name, r in runners.items()}, "5")
    statistics = Live(source, restorer, [sink], controls=controls).run()
    told = [shown.status.placement for shown in sink.shown]
    assert told == [f"{count} of 9 nodes on ToyProvider" for count in (5, 5, 7, 7)]
    assert statistics.placement == told[-1]
    assert format_status(sink.shown[-1].status).endswith("7 (7 of 9 nodes on ToyProvider)")


def test_a_configuration_that_fails_to_open_leaves_the_former_one_in_use(
    caplog,
):
    class Broken(NullRunner):
        def _open(self):
            raise EngineError("no such engine")

    runners = {"a": NullRunner("a"), "b": NullRunner("b"), "broken": Broken()}
    restorer = Restorer({name: lambda r=r: r for name, r in runners.items()}, "a")
    controls = Controls()
    requests = {1: "b", 3: "broken"}

    def request(shown):
        if shown.before.index in requests:
            controls.choose_configuration(requests[shown.before.index])

    sink = MemorySink(request)
    source = SyntheticSource(width=8, height=6, fps=50, frames=6)
    Live(source, restorer, [sink], controls=controls).run()
    assert [shown.status.configuration for shown in sink.shown] == ["a", "a", "b", "b", "b", "b"]
    assert sink.shown[0].status.configurations == ("a", "b", "broken")
    assert "no such engine" in sink.shown[-1].status.note
    assert not runners["a"].is_open
    assert not runners["b"].is_open


def test_stop_closes_everything():
    controls = Controls()
    sink = MemorySink(lambda shown: controls.stop())
    runner = NullRunner()
    with _within(2.0):
        Live(SyntheticSource(width=8, height=6), _one(runner), [sink], controls=controls).run()
    assert len(sink.shown) == 1
    assert not sink.is_open
    assert not runner.is_open


def test_leaving_the_loop_closes_everything():
    sink, runner = MemorySink(), NullRunner()
    with _within(2.0):
        frames = iter(Live(SyntheticSource(width=8, height=6), _one(runner), [sink]))
        assert next(frames).before.index == 0
        frames.close()
    assert not sink.is_open
    assert not runner.is_open


# real threads, each ending in time


@pytest.mark.parametrize("detached", [False, True])
def test_a_sinks_error_ends_the_run(detached):
    def fail(shown):
        raise ValueError("the disk is full")

    sink, others = MemorySink(fail), MemorySink()
    sinks = [others, DetachedSink(sink) if detached else sink]
    with _within(1.0), pytest.raises(ValueError, match="the disk is full"):
        Live(SyntheticSource(width=8, height=6), _one(NullRunner()), sinks).run()
    assert not sink.is_open
    assert not others.is_open


def test_a_sources_error_ends_the_run():
    source = ScriptedSource(lambda _: [None, FRAME, 0.05, ZeroDivisionError("a fault of ours")])
    with _within(1.0), pytest.raises(ZeroDivisionError, match="a fault of ours"):
        Live(source, _one(NullRunner()), [MemorySink()]).run()
    assert source.closed == 1


def test_a_frame_that_cannot_be_converted_ends_the_run():
    def broken():
        raise VideoError("no such pixel format")

    frame = VideoFrame(pixels=broken, index=0, captured_s=time.monotonic())

    class OneFrame(ScriptedSource):
        def read(self):
            return frame

    source = OneFrame(lambda _: [])
    with _within(1.0), pytest.raises(VideoError, match="no such pixel format"):
        Live(source, _one(NullRunner()), [MemorySink()]).run()
    assert source.closed == 1


def test_a_source_that_cannot_be_opened_ends_the_run_at_once():
    source = ScriptedSource(lambda _: [VideoError("no camera 7")])
    with _within(1.0), pytest.raises(VideoError, match="no camera 7"):
        Live(source, _one(NullRunner())).run()


def test_the_watchdog_ends_a_run_whose_source_is_stuck():
    stuck = threading.Event()
    source = ScriptedSource(lambda _: [None, FRAME, stuck])
    sink = MemorySink()
    with _within(1.5), pytest.raises(VideoError, match="has given no frame for"):
        Live(
            source, _one(NullRunner()), [sink], reconnect_policy=ReconnectPolicy(blocked_s=0.3)
        ).run()
    stuck.set()
    assert not sink.is_open
    assert len(sink.shown) > 1  # served while nothing came


def test_a_sink_that_raises_while_the_source_is_stuck_ends_the_run():
    stuck = threading.Event()
    source = ScriptedSource(lambda _: [None, FRAME, stuck])

    def fail(shown):
        raise ValueError("closed by its user")

    with _within(1.0), pytest.raises(ValueError, match="closed by its user"):
        Live(source, _one(NullRunner()), [MemorySink(fail)]).run()
    stuck.set()


def test_a_camera_is_reconnected():
    scripts = [[None, FRAME, LOST], [VideoError("still not there")], [None, FRAME, 0.05]]
    source = ScriptedSource(lambda opened: scripts[opened])
    sink = MemorySink()
    reconnect_policy = ReconnectPolicy(first_pause_s=0.01)
    statistics = Live(source, _one(NullRunner()), [sink], reconnect_policy=reconnect_policy).run()
    assert statistics.reconnects == 1
    assert source.opened == 3
    assert sink.indices[-1] == 1
    assert source.threads == {"capture"}


def test_back_off_ends_with_an_error_where_the_camera_stays_away():
    source = ScriptedSource(lambda opened: [LOST] if opened else [None, FRAME, LOST])
    sink = MemorySink()
    reconnect_policy = ReconnectPolicy(first_pause_s=0.02, give_up_s=0.4)
    with _within(2.5), pytest.raises(VideoError, match=r"did not come back .*cable was pulled"):
        Live(source, _one(NullRunner()), [sink], reconnect_policy=reconnect_policy).run()
    assert source.opened > 3  # it tried, and less often each time
    assert source.opened < 20
    assert sink.shown[-1].status.note == "the cable was pulled; trying again"


def test_an_interrupt_closes_everything():
    def interrupt(shown):
        raise KeyboardInterrupt

    sink, runner = MemorySink(interrupt), NullRunner()
    with _within(1.0), pytest.raises(KeyboardInterrupt):
        Live(SyntheticSource(width=8, height=6), _one(runner), [sink]).run()
    assert not sink.is_open
    assert not runner.is_open


def test_a_slow_detached_sink_drops_frames_and_delays_nothing():
    slow = DetachedSink(MemorySink(lambda shown: time.sleep(0.2)))
    source = SyntheticSource(width=8, height=6, fps=100, frames=60)
    with _within(3.0):
        statistics = Live(source, _one(NullRunner()), [slow]).run()
    assert statistics.shown > 30
    assert slow.dropped > 20


def test_a_paced_source_is_played_at_its_own_rate():
    source = SyntheticSource(width=8, height=6, fps=50, frames=26)
    statistics = Live(source, _one(NullRunner()), [MemorySink()]).run()
    assert 0.45 < statistics.seconds < 3.0  # as fast as it can, it takes a hundredth of a second
    assert statistics.captured == 26


def _one(runner):
    return Restorer({runner.name: lambda: runner}, runner.name)


@contextmanager
def _within(seconds):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=200), st.floats(0.0, 100.0))
def test_percentiles_are_exact_to_one_percent(samples, q):
    durations = DurationHistogram()
    for sample in samples:
        durations.add(sample)
    exact = np.percentile(samples, q, method="inverted_cdf")
    assert durations.percentile(q) == pytest.approx(exact, rel=0.0101)


@given(st.lists(st.floats(0.0, 1e9), max_size=50))
def test_percentiles_are_ordered_and_memory_is_constant(samples):
    durations = DurationHistogram()
    size = durations._counts.nbytes
    for sample in samples:
        durations.add(sample)
    summary = durations.summarize()
    assert 0.0 <= summary.p50_ms <= summary.p95_ms <= summary.p99_ms <= summary.max_ms
    assert summary.count == len(samples)
    assert durations._counts.nbytes == size


def test_frames_per_second_are_intervals_over_time():
    # three ticks of a true 10 a second are two intervals: 10, not 15
    counters = LiveCounters()
    for now_s in (0.0, 0.1, 0.2):
        counters.add(now_s=now_s, age_s=0.0, convert_s=0.0, restore_s=None, show_s=0.0)
    assert counters.fps == pytest.approx(10.0)


def test_frames_per_second_follow_a_change_within_a_second():
    counters = LiveCounters()
    for now_s in (*np.arange(0.0, 10.0, 0.1), *np.arange(10.0, 11.5, 0.02)):
        counters.add(now_s=now_s, age_s=0.0, convert_s=0.0, restore_s=0.0, show_s=0.0)
    assert counters.fps == pytest.approx(50.0, rel=0.05)


def test_statistics_are_written_as_json(tmp_path):
    _, _, statistics = run_virtual([0.1, 0.2, 0.3], [0.25])
    statistics.write_json(tmp_path / "s.json")
    written = json.loads((tmp_path / "s.json").read_text())
    assert (written["captured"], written["shown"], written["dropped"]) == (3, 2, 1)
    assert (written["source"], written["configuration"]) == ("synthetic", "slow")
    assert written["age"]["p95_ms"] == pytest.approx(300.0)
    assert list(written["stages"]) == ["read", "convert", "restore", "show"]
    assert written["stages"]["restore"]["count"] == 2
    assert written["stages"]["restore"]["mean_ms"] == pytest.approx(250.0)


def test_an_unknown_configuration_is_refused_and_the_newest_request_counts():
    from mirnet_edge.errors import OptionError

    controls = Controls(("a", "b"))
    with pytest.raises(OptionError, match="expected a configuration of a, b, found 'c'"):
        controls.choose_configuration("c")
    controls.choose_configuration("a")
    controls.choose_configuration("b")
    assert controls.take_configuration() == "b"
    assert controls.take_configuration() is None
