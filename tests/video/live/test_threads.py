"""Live restoring with as few threads as hold the frame rate."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from mirnet_edge.testing.null_runner import NullRunner
from mirnet_edge.video.clock import VirtualClock
from mirnet_edge.video.live.threads import FewThreadsRestorer, few_threads_restorer

FRAME = np.full((16, 24, 3), 90, np.uint8)
FRAME_TIME_S = 1 / 30


class TimedRunner(NullRunner):
    """A runner that takes a time on a virtual clock, and notes that it is open."""

    def __init__(self, clock, seconds, running):
        super().__init__()
        self.clock, self.seconds, self.running = clock, seconds, running

    def __enter__(self):
        self.running.append(self)
        return super().__enter__()

    def __exit__(self, *given):
        self.running.remove(self)
        return super().__exit__(*given)

    def run(self, frames, *given, **named):
        self.clock.sleep(self.seconds())
        return super().run(frames, *given, **named)


class Machine:
    """Frames take `busy` times `one_thread_s` on one thread, and less on more."""

    def __init__(self, one_thread_s, cores=8, frame_time_s=FRAME_TIME_S):
        self.clock, self.busy, self.requested, self.opened = VirtualClock(), 1.0, [], []

        def runners_of(threads):
            self.requested.append(threads)
            share = 0.2 + 0.8 / (threads or cores)
            return {
                "only": lambda: TimedRunner(
                    self.clock, lambda: self.busy * share * one_thread_s, self.opened
                )
            }

        self.frame_time_s = frame_time_s
        self.restorer = FewThreadsRestorer(
            runners_of, "only", lambda: self.frame_time_s, cores=cores, clock=self.clock
        )

    @contextmanager
    def running(self):
        with self.restorer:
            yield self
        assert not self.opened

    def restore(self, frames):
        for _ in range(frames):
            assert np.array_equal(self.restorer.restore(FRAME), FRAME)
            assert len(self.opened) == 1  # two networks would take twice the memory
        return self.restorer.threads


def test_one_thread_is_kept_where_it_holds_the_frame_rate():
    with Machine(0.020).running() as machine:
        assert machine.restore(60) == 1
    assert machine.requested == [1]


@pytest.mark.parametrize(
    ("one_thread_s", "frames", "threads"), [(0.032, 62, 3), (0.060, 6, 4), (0.500, 6, None)]
)
def test_slow_frames_get_more_threads_sooner_the_slower_they_are(one_thread_s, frames, threads):
    with Machine(one_thread_s).running() as machine:
        assert machine.restore(frames) == 1
        assert machine.restore(50) == threads


def test_slow_first_frames_alone_change_nothing():
    with Machine(0.020).running() as machine:
        machine.busy = 1.8
        machine.restore(25)
        machine.busy = 1.0
        assert machine.restore(100) == 1


def test_a_machine_that_gets_busy_gets_more_threads_and_keeps_them():
    with Machine(0.020).running() as machine:
        assert machine.restore(30) == 1
        machine.busy = 3.0
        taken = machine.restore(60)
        assert taken == 4
        machine.busy = 1.0
        assert machine.restore(60) == taken


def test_a_single_slow_frame_changes_nothing():
    with Machine(0.020).running() as machine:
        machine.restore(30)
        machine.busy = 20.0
        machine.restore(1)
        machine.busy = 1.0
        assert machine.restore(30) == 1


def test_the_default_is_used_on_one_core():
    with Machine(0.001, 1).running() as machine:
        assert machine.restore(2) is None


@pytest.mark.parametrize(("one_thread_s", "threads"), [(0.029, 1), (0.032, 3)])
def test_thirty_frames_a_second_are_assumed_where_none_are_announced(one_thread_s, threads):
    with Machine(one_thread_s, frame_time_s=None).running() as machine:
        assert machine.restore(112) == threads
    assert machine.requested == ([1] if threads == 1 else [1, threads])  # not opened twice at once


def test_a_source_that_is_opened_anew_keeps_its_threads():
    with Machine(0.020).running() as machine:
        machine.restore(3)
        machine.frame_time_s = None
        assert machine.restore(5) == 1
        machine.frame_time_s = 1 / 60
        assert machine.restore(100) == 3


@pytest.fixture
def restore_shipped(monkeypatch):
    """Return what the shipped network makes of frames that get brighter, and its threads."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("mirnet_edge.video.live.threads.usable_cores", lambda: 2)
    noise = np.random.default_rng(0).integers(0, 40, (12, 64, 96, 3))
    frames = (noise + 3 * np.arange(12)[:, None, None, None]).astype(np.uint8)

    def restore(frame_time_s):
        with few_threads_restorer(
            "shipped:low-light", lambda: frame_time_s, "onnxruntime", "fp32"
        ) as restorer:
            restored = np.array([restorer.restore(frame) for frame in frames], int)
            return restored, restorer.threads

    return restore


def test_a_shipped_bundle_keeps_one_thread_that_suffices(restore_shipped):
    assert restore_shipped(10.0)[1] == 1


def test_the_smoothing_goes_on_with_more_threads(restore_shipped):
    (one, _), (changed, threads) = restore_shipped(10.0), restore_shipped(1e-6)
    assert threads is None  # since the seventh frame, whose context is smoothed with the sixth's
    assert np.abs(one - changed).max() <= 1
