"""Sustained runs, on a clock that only the runner advances, with fake sensors."""

from __future__ import annotations

import contextlib
from contextlib import contextmanager

import numpy as np
import pytest

from mirnet_edge.bench.measure import (
    SustainedRun,
    SustainedSchedule,
    run_sustained,
    sustained_schedule,
)
from mirnet_edge.bench.record import MachineConditions
from mirnet_edge.bench.statistics import last_to_first
from mirnet_edge.bench.tables import describe_sustained_rate
from mirnet_edge.errors import EngineError, OptionError
from mirnet_edge.testing.null_runner import NullRunner

_FRAME = np.zeros((1, 4, 4, 3), np.uint8)


class TickingRunner(NullRunner):
    """Advances the clock by a function of its time."""

    def __init__(self, clock, seconds_at, **failing):
        super().__init__("ticking", **failing)
        self._clock, self._seconds_at = clock, seconds_at

    def run(self, frames):
        self._clock[0] += self._seconds_at(self._clock[0])
        return super().run(frames)


class FakeSensors:
    """Ten watts, a rising temperature, and a second meter that stops answering."""

    covers = {"package": "ten watts", "gpu": "silent after 30 s"}  # noqa: RUF012

    def __init__(self, clock):
        self._clock, self.watched = clock, False

    def conditions(self):
        return MachineConditions(load=None, clock_mhz=3000.0, celsius=40.0 + self._clock[0])

    def joules(self):
        assert self.watched
        silent = {} if self._clock[0] > 30 else {"gpu": 1000 + 100 * self._clock[0]}
        return {"package": 10 * self._clock[0], **silent}

    @contextmanager
    def watching(self):
        self.watched = True
        try:
            yield
        finally:
            self.watched = False


@pytest.fixture
def run_parts():
    """Return a sustained run: run_parts(seconds per frame, schedule=(seconds, part), **options)."""

    def run(seconds_at, schedule=(64.0, 8.0), on_part=lambda part: None, **failing):
        clock, found = [5.0], SustainedRun(sustained=True)
        sensors = FakeSensors(clock)
        with (
            TickingRunner(clock, seconds_at, **failing) as runner,
            contextlib.suppress(KeyboardInterrupt),
        ):
            how = SustainedSchedule(*schedule, clock=lambda: clock[0])
            run_sustained(runner, _FRAME, how, sensors, found, on_part)
        assert not sensors.watched
        return found

    return run


def test_a_part_is_half_a_minute_or_an_eighth():
    assert (sustained_schedule(10).seconds, sustained_schedule(10).part_s) == (600.0, 30.0)
    assert sustained_schedule(0.5).part_s == 30.0 / 8
    for minutes in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="--sustained must be more than 0 minutes"):
            sustained_schedule(minutes)


def test_every_part_has_runs_conditions_and_energy(run_parts):
    parts = run_parts(lambda now: 0.25).parts
    assert [part.end_s for part in parts] == [8.0 * one for one in range(1, 9)]
    assert {(part.runs, part.duration_s, part.p50_ms, part.p95_ms) for part in parts} == {
        (32, 8.0, 250.0, 250.0)
    }
    assert [part.conditions.celsius for part in parts] == [45.0 + 8 * one for one in range(1, 9)]
    assert {part.energy_j["package"] for part in parts} == {80.0}
    assert [part.energy_j.get("gpu") for part in parts[:4]] == [800.0, 800.0, 800.0, None]


def test_a_frame_longer_than_a_part_ends_several_parts(run_parts):
    parts = run_parts(lambda now: 20.0).parts
    assert [(part.end_s, part.runs) for part in parts] == [(20, 1), (40, 1), (60, 1), (80, 1)]


def test_a_frame_longer_than_the_whole_run_is_one_run(run_parts):
    (part,) = run_parts(lambda now: 40.0, schedule=(5.0, 5.0)).parts
    assert (part.runs, part.duration_s, part.energy_j["package"]) == (1, 40.0, 400.0)


def test_failures_and_interruptions_keep_complete_parts(run_parts):
    found = run_parts(lambda now: 1.0, failure=EngineError("out\nof memory"), fails_at=20)
    assert (len(found.parts), found.failure) == (2, "out of memory")

    def stop(part):
        if part.end_s >= 24:
            raise KeyboardInterrupt

    assert len(run_parts(lambda now: 1.0, on_part=stop).parts) == 3


@pytest.mark.parametrize(
    ("seconds_at", "line"),
    [
        (lambda now: 0.25, "holds its rate"),
        (lambda now: 0.2 if now < 37 else 0.25, "slows down by 25% after 32 s"),
        (lambda now: 0.25 if 21 <= now < 29 else 0.2, "slows down by 25% at 24 s, and recovers"),
        (lambda now: 0.25 if now < 13 else 0.2, "becomes 20% faster: the machine was busier"),
        (lambda now: 7.0, "not known: a part of 1 frames, expected at least 5"),
        (lambda now: 100.0, "not known: fewer than two parts"),
    ],
    ids=["steady", "throttled", "dip", "warming", "slow", "one"],
)
def test_the_summary_says_whether_the_rate_is_held(run_parts, seconds_at, line):
    parts = run_parts(seconds_at).parts
    assert describe_sustained_rate(parts).startswith(line)
    if len(parts) > 1:
        assert last_to_first(parts) == parts[-1].p50_ms / parts[0].p50_ms


def test_long_durations_are_in_minutes(run_parts):
    parts = run_parts(lambda now: 0.5 if now < 605 else 1.0, schedule=(1200.0, 30.0)).parts
    assert describe_sustained_rate(parts) == "slows down by 100% after 10.0 minutes"
