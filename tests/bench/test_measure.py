"""Interleaved timing, on a clock that only the runners advance."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from mirnet_edge.bench.measure import (
    FEWEST_RUNS,
    FEWEST_WARMUPS,
    MOST_WARMUPS,
    TimingMethod,
    count_further_runs,
    time_interleaved,
    timing_frame,
)
from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.testing.null_runner import NullRunner

_FRAME = np.zeros((1, 4, 4, 3), np.uint8)


class _TimedRunner(NullRunner):
    """Advances the clock by a function of the number of calls."""

    def __init__(self, name, clock, ms_at, calls, **failing):
        super().__init__(name, **failing)
        self._clock, self._ms_at, self._calls = clock, ms_at, calls

    def run(self, frames):
        self._calls.append(self.name)
        self._clock[0] += self._ms_at(self.calls) / 1e3
        # as OpenVINO, which compiles for the first frame of a size
        self.placement = f"9 of 9 nodes on {self.name}"
        return super().run(frames)


@pytest.fixture
def timed():
    """Time runners, given as functions of the number of calls, with options."""

    def run(rounds=10, row_seconds=100.0, on_round=lambda done, rounds: None, **rows):
        clock, calls, measured = [0.0], [], {}
        method = TimingMethod(
            rounds, row_seconds, clock=lambda: clock[0], pause=lambda seconds: None
        )
        runners = {
            name: _TimedRunner(name, clock, *((one, calls) if callable(one) else (one[0], calls)),
                         **({} if callable(one) else one[1]))
            for name, one in rows.items()
        }  # fmt: skip
        for runner in runners.values():
            runner.__enter__()
        with contextlib.suppress(KeyboardInterrupt):
            time_interleaved(runners, _FRAME, method, measured, on_round)
        return measured, calls

    return run


def test_runners_are_interleaved_and_every_sample_is_kept(timed):
    measured, calls = timed(a=lambda call: 10 + call, b=lambda call: 5)
    assert calls[-20:] == ["a", "b"] * 10
    warm = len(measured["a"].warmup_ms)
    assert measured["a"].samples_ms == pytest.approx([10 + warm + turn for turn in range(10)])
    assert measured["b"].timing.samples_ms == [5.0] * 10
    assert measured["b"].timing.placement == "9 of 9 nodes on b"


def test_the_warm_up_ends_when_latency_is_steady(timed):
    measured, _ = timed(
        steady=lambda call: 10,
        slow_start=lambda call: 100 / (call + 1) if call < 8 else 10,
        wild=lambda call: 10 * 1.3**call,
    )
    assert len(measured["steady"].warmup_ms) == FEWEST_WARMUPS
    assert FEWEST_WARMUPS < len(measured["slow_start"].warmup_ms) < MOST_WARMUPS
    assert measured["slow_start"].settled
    assert len(measured["wild"].warmup_ms) == MOST_WARMUPS
    assert not measured["wild"].timing.settled


def test_slow_entries_run_in_fewer_rounds(timed):
    measured, _ = timed(rounds=50, row_seconds=10.0, slow=lambda call: 4000, fast=lambda call: 1)
    assert len(measured["slow"].samples_ms) == FEWEST_RUNS
    assert len(measured["fast"].samples_ms) == 50


def test_an_entry_far_beyond_its_time_limit_runs_four_times(timed):
    measured, _ = timed(rounds=50, row_seconds=20.0, full=lambda call: 40_000)
    assert (len(measured["full"].warmup_ms), len(measured["full"].samples_ms)) == (1, FEWEST_RUNS)
    assert (count_further_runs(40_000.0), count_further_runs(2_000.0)) == (0, 2)


def test_a_failing_runner_has_a_reason_and_the_others_continue(timed):
    measured, _ = timed(
        working=lambda call: 1,
        failing=(lambda call: 1, {"failure": EngineError("out of memory"), "fails_at": 9}),
        never=(lambda call: 1, {"failure": ValueError("odd")}),
    )
    assert measured["failing"].failure == "out of memory"
    assert 0 < len(measured["failing"].samples_ms) < 10
    assert (measured["never"].failure, measured["never"].timing) == ("ValueError: odd", None)
    assert len(measured["working"].samples_ms) == 10


def test_an_interruption_keeps_the_samples_until_then(timed):
    def stop(done, rounds):
        if done == 4:
            raise KeyboardInterrupt

    measured, _ = timed(on_round=stop, a=lambda call: 1)
    assert len(measured["a"].timing.samples_ms) == 4


@pytest.mark.parametrize("values", [(0, 1.0), (1, 0.0), (1, float("nan"))], ids=str)
def test_methods_without_rounds_or_time_are_refused(values):
    with pytest.raises(OptionError, match="expected at least 1 round"):
        TimingMethod(*values)


def test_the_timed_frame_is_reproducible_and_dim():
    frame = timing_frame(48, 64)
    assert frame.shape == (1, 48, 64, 3)
    np.testing.assert_array_equal(frame, timing_frame(48, 64))
    assert 15 < frame.mean() < 60
    assert frame.std() > 5
