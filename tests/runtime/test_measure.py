"""Timing and percentiles, on a clock that only runners move: nothing here measures time."""

from __future__ import annotations

import gc
import statistics
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirnet_edge.errors import EngineError, ImageError, OptionError
from mirnet_edge.runtime.measure import measure_contest, measure_interleaved, p50, p95, percentile
from mirnet_edge.testing.null_runner import NullRunner

_FRAMES = np.zeros((1, 4, 4, 3), np.uint8)


class _Clock:
    """Stands still until it is moved; every look at it is counted."""

    def __init__(self):
        self.now_s = 1000.0
        self.looks = 0

    def __call__(self):
        self.looks += 1
        return self.now_s


class _Timed(NullRunner):
    """Takes, on the clock, the next of the times it was given, and signs each call."""

    def __init__(self, name, clock, times_ms, diary):
        super().__init__(name)
        self._clock = clock
        self._times_ms = iter(times_ms)
        self._diary = diary

    def run(self, frames):
        self._diary.append((self.name, gc.isenabled()))
        self._clock.now_s += next(self._times_ms) / 1e3
        return super().run(frames)


@pytest.fixture
def clock():
    return _Clock()


@pytest.fixture
def diary():
    return []


def _pair(clock, diary, runs=5):
    return {
        "A": _Timed("a", clock, [100 + turn for turn in range(runs)], diary),
        "B": _Timed("b", clock, [7 + turn for turn in range(runs)], diary),
    }


def test_each_run_is_timed_alone_and_the_first_rounds_are_not_counted(clock, diary):
    samples = measure_interleaved(_pair(clock, diary), _FRAMES, warmup=2, rounds=3, clock=clock)
    assert list(samples) == ["A", "B"]
    assert samples["A"] == pytest.approx([102, 103, 104])
    assert samples["B"] == pytest.approx([9, 10, 11])


def test_runners_take_turns(clock, diary):
    measure_interleaved(_pair(clock, diary), _FRAMES, warmup=1, rounds=2, clock=clock)
    assert [name for name, _ in diary] == ["a", "b", "a", "b", "a", "b"]


def test_all_are_open_at_once_and_closed_afterwards(clock):
    runners = {name: NullRunner(name) for name in "ABC"}
    open_at_look = []

    def watching():
        open_at_look.append([runner.is_open for runner in runners.values()])
        return clock()

    measure_interleaved(runners, _FRAMES, warmup=0, rounds=1, clock=watching)
    assert open_at_look == [[True] * 3] * 6
    assert not any(runner.is_open for runner in runners.values())
    assert [runner.opened for runner in runners.values()] == [1, 1, 1]


def test_one_that_is_open_already_stays_open(clock):
    with NullRunner() as runner:
        measure_interleaved({"A": runner}, _FRAMES, clock=clock)
        assert runner.is_open
        assert runner.calls == 3 + 15
        assert runner.opened == 1


def test_nothing_to_time_gives_nothing(clock):
    assert measure_interleaved({}, _FRAMES, clock=clock) == {}


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_while_a_run_is_timed_and_no_longer(enabled, clock, diary):
    between = []

    def watching():
        between.append(gc.isenabled())
        return clock()

    active = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        measure_interleaved(_pair(clock, diary), _FRAMES, clock=watching, warmup=0, rounds=2)
        assert gc.isenabled() is enabled
        with pytest.raises(EngineError):
            measure_interleaved({"A": NullRunner(failure=OSError())}, _FRAMES, clock=clock)
        assert gc.isenabled() is enabled
    finally:
        gc.enable() if active else gc.disable()
    assert not any(collecting for _, collecting in diary)
    assert not any(between)


def test_the_collector_works_between_two_runs(clock, diary, monkeypatch):
    enable = gc.enable

    def written_down():
        diary.append("collecting")
        enable()

    active = gc.isenabled()
    enable()
    monkeypatch.setattr(gc, "enable", written_down)
    try:
        measure_interleaved(_pair(clock, diary), _FRAMES, clock=clock, warmup=0, rounds=2)
    finally:
        enable() if active else gc.disable()
    assert diary == [("a", False), "collecting", ("b", False), "collecting"] * 2


def test_a_runner_that_fails_is_named_and_all_are_closed(clock):
    cause = ImageError("frame is 4x4")
    runners = {"good": NullRunner(), "bad": NullRunner(failure=cause, fails_at=2)}
    says = "bad failed while it was timed: frame is 4x4. Leave it out"
    with pytest.raises(EngineError, match=says) as raised:
        measure_interleaved(runners, _FRAMES, clock=clock)
    assert raised.value.__cause__ is cause
    assert not any(runner.is_open for runner in runners.values())


def test_a_runner_that_cannot_be_opened_is_named_and_the_others_are_closed(clock):
    class Shut(NullRunner):
        def _open(self):
            raise OSError("no such driver")

    runners = {"good": NullRunner(), "shut": Shut()}
    with pytest.raises(EngineError, match=r"shut failed .*: no such driver\. Leave it out"):
        measure_interleaved(runners, _FRAMES, clock=clock)
    assert not runners["good"].is_open
    assert clock.looks == 0


def test_an_interruption_is_not_a_failure(clock):
    runner = NullRunner(failure=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        measure_interleaved({"A": runner}, _FRAMES, clock=clock)
    assert not runner.is_open


@dataclass(frozen=True)
class Rounds:
    id: str
    warmup: int
    rounds: int


@pytest.mark.parametrize(
    "case",
    [Rounds("no round", 3, 0), Rounds("negative rounds", 3, -1), Rounds("negative", -1, 5)],
    ids=lambda case: case.id,
)
def test_no_round_to_count_is_refused_before_anything_is_opened(case):
    runner = NullRunner()
    says = f"at least 1 round and no negative warm-up, found {case.rounds} and {case.warmup}"
    with pytest.raises(OptionError, match=says):
        measure_interleaved({"A": runner}, _FRAMES, warmup=case.warmup, rounds=case.rounds)
    assert runner.opened == 0


# percentiles: whole microseconds keep the arithmetic far from the last bit

_SAMPLES = st.lists(st.integers(1, 10**7).map(lambda us: us / 1e3), min_size=1, max_size=40)
_Q = st.floats(0, 100)


@given(_SAMPLES, _Q, _Q)
def test_percentiles_lie_between_the_extremes_in_the_order_of_their_ranks(samples, one, other):
    low, high = sorted((one, other))
    lowest, highest = percentile(samples, low), percentile(samples, high)
    slack = 1e-9 * max(samples)
    assert percentile(samples, 0) == min(samples)
    assert percentile(samples, 100) == max(samples)
    assert min(samples) <= lowest + slack
    assert lowest <= highest + slack
    assert highest <= max(samples) + slack


@given(_SAMPLES, _Q)
def test_percentiles_are_numpys_in_any_order_of_the_samples(samples, q):
    kept = list(samples)
    assert percentile(samples, q) == pytest.approx(float(np.percentile(samples, q)), rel=1e-9)
    assert percentile(samples[::-1], q) == percentile(samples, q)
    assert samples == kept


@given(_SAMPLES)
def test_p50_is_the_median(samples):
    assert p50(samples) == pytest.approx(statistics.median(samples), rel=1e-9)
    assert p50(samples) <= p95(samples) <= max(samples) * (1 + 1e-9)


def test_p95_is_what_19_of_20_stay_below():
    assert p95([float(value) for value in range(101)]) == 95.0
    assert p50([3.0]) == p95([3.0]) == 3.0


@dataclass(frozen=True)
class Refused:
    id: str
    samples: list[float]
    q: float
    found: str


@pytest.mark.parametrize(
    "case",
    [
        Refused("no samples", [], 50, "found 0 and 50"),
        Refused("below", [1.0], -0.5, "found 1 and -0.5"),
        Refused("above", [1.0, 2.0], 101, "found 2 and 101"),
        Refused("not a number", [1.0], float("nan"), "found 1 and nan"),
    ],
    ids=lambda case: case.id,
)
def test_percentiles_of_nothing_or_out_of_range_are_refused(case):
    says = f"at least one sample and a percentile from 0 to 100, {case.found}"
    with pytest.raises(OptionError, match=says):
        percentile(case.samples, case.q)


def _contest(clock, diary, times_ms, **how):
    runners = {
        name: _Timed(name, clock, values, diary) for name, values in times_ms.items()
    }  # fmt: skip
    return measure_contest(runners, _FRAMES, clock=clock, **how), runners


def test_who_is_far_behind_leaves_after_five_rounds_and_is_closed(clock, diary):
    found, runners = _contest(
        clock, diary, {"fast": [10.0] * 9, "near": [19.0] * 9, "slow": [30.0] * 9, "lucky": [
            30.0, 30.0, 30.0, 15.0, 30.0, 30.0, 30.0, 30.0, 30.0]}, warmup=1, rounds=8,
    )  # fmt: skip
    assert {name: len(values) for name, values in found.items()} == {
        "fast": 8, "near": 8, "slow": 5, "lucky": 8,
    }  # fmt: skip
    assert not any(runner.is_open for runner in runners.values())


def test_who_is_undecided_stays(clock, diary):
    seen = []

    def is_undecided(name, samples):
        seen.append((name, len(samples[name])))
        return len(samples[name]) < 7

    times = {"fast": [10.0] * 9, "slow": [30.0] * 9}
    found, _ = _contest(clock, diary, times, warmup=0, rounds=9, is_undecided=is_undecided)
    assert len(found["slow"]) == 7
    assert seen == [("slow", 5), ("slow", 6), ("slow", 7)]


@pytest.mark.parametrize(
    ("budget_s", "warmups", "rounds"),
    [(0.0, 1, 3), (1.0, 1, 3), (9.0, 3, 7), (100.0, 3, 15)],
    ids=["none", "one run", "some", "enough"],
)
def test_the_budget_ends_the_rounds_after_the_third(clock, diary, budget_s, warmups, rounds):
    told = []
    found, _ = _contest(
        clock, diary, {"only": [1000.0] * 20}, budget_s=budget_s,
        on_round=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert len(found["only"]) == rounds
    assert len(diary) == warmups + rounds
    assert told[-1] == (3 + rounds, 18)
