"""Timing in turns, on a clock that only the runners move."""

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


class _Timed(NullRunner):
    """Takes, on the clock, what a function of the call's number says."""

    def __init__(self, name, clock, ms_at, diary, **failing):
        super().__init__(name, **failing)
        self._clock, self._ms_at, self._diary = clock, ms_at, diary

    def run(self, frames):
        self._diary.append(self.name)
        self._clock[0] += self._ms_at(self.calls) / 1e3
        return super().run(frames)


@pytest.fixture
def timed():
    """Time rows, given as functions of the call's number, or as runners' options."""

    def run(rounds=10, row_seconds=100.0, on_round=lambda done, rounds: None, **rows):
        clock, diary, progress = [0.0], [], {}
        method = TimingMethod(
            rounds, row_seconds, clock=lambda: clock[0], pause=lambda seconds: None
        )
        runners = {
            name: _Timed(name, clock, *((one, diary) if callable(one) else (one[0], diary)),
                         **({} if callable(one) else one[1]))
            for name, one in rows.items()
        }  # fmt: skip
        for runner in runners.values():
            runner.__enter__()
        with contextlib.suppress(KeyboardInterrupt):
            time_interleaved(runners, _FRAME, method, progress, on_round)
        return progress, diary

    return run


def test_rows_take_turns_and_every_sample_is_kept(timed):
    progress, diary = timed(a=lambda call: 10 + call, b=lambda call: 5)
    assert diary[-20:] == ["a", "b"] * 10
    warm = len(progress["a"].warmup_ms)
    assert progress["a"].samples_ms == pytest.approx([10 + warm + turn for turn in range(10)])
    assert progress["b"].timing.samples_ms == [5.0] * 10


def test_the_warm_up_ends_when_times_settle(timed):
    progress, _ = timed(
        steady=lambda call: 10,
        slow_start=lambda call: 100 / (call + 1) if call < 8 else 10,
        wild=lambda call: 10 * 1.3**call,
    )
    assert len(progress["steady"].warmup_ms) == FEWEST_WARMUPS
    assert FEWEST_WARMUPS < len(progress["slow_start"].warmup_ms) < MOST_WARMUPS
    assert progress["slow_start"].settled
    assert len(progress["wild"].warmup_ms) == MOST_WARMUPS
    assert not progress["wild"].timing.settled


def test_slow_rows_run_less_often(timed):
    progress, _ = timed(rounds=50, row_seconds=10.0, slow=lambda call: 4000, fast=lambda call: 1)
    assert len(progress["slow"].samples_ms) == FEWEST_RUNS
    assert len(progress["fast"].samples_ms) == 50


def test_a_row_far_slower_than_its_time_runs_four_times_and_starts_once(timed):
    progress, _ = timed(rounds=50, row_seconds=20.0, full=lambda call: 40_000)
    assert (len(progress["full"].warmup_ms), len(progress["full"].samples_ms)) == (1, FEWEST_RUNS)
    assert (count_further_runs(40_000.0), count_further_runs(2_000.0)) == (0, 2)


def test_a_row_that_fails_says_why_and_the_others_go_on(timed):
    progress, _ = timed(
        good=lambda call: 1,
        bad=(lambda call: 1, {"failure": EngineError("out of memory"), "fails_at": 9}),
        never=(lambda call: 1, {"failure": ValueError("odd")}),
    )
    assert progress["bad"].failure == "out of memory"
    assert 0 < len(progress["bad"].samples_ms) < 10
    assert (progress["never"].failure, progress["never"].timing) == ("ValueError: odd", None)
    assert len(progress["good"].samples_ms) == 10


def test_an_interruption_leaves_what_was_measured(timed):
    def stop(done, rounds):
        if done == 4:
            raise KeyboardInterrupt

    progress, _ = timed(on_round=stop, a=lambda call: 1)
    assert len(progress["a"].timing.samples_ms) == 4


@pytest.mark.parametrize("values", [(0, 1.0), (1, 0.0), (1, float("nan"))], ids=str)
def test_a_method_without_figures_is_refused(values):
    with pytest.raises(OptionError, match="expected at least 1 round"):
        TimingMethod(*values)


def test_the_frame_is_always_the_same_and_dim():
    frame = timing_frame(48, 64)
    assert frame.shape == (1, 48, 64, 3)
    np.testing.assert_array_equal(frame, timing_frame(48, 64))
    assert 15 < frame.mean() < 60
    assert frame.std() > 5
