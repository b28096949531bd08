"""Measure the latency of runners in interleaved rounds, against noise of the machine."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from mirnet_edge.errors import EngineError, OptionError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from mirnet_edge.images.contract import Frames
    from mirnet_edge.runtime.runner import Runner


_FEWEST_ROUNDS = 2


def measure_interleaved(
    runners: Mapping[str, Runner],
    frames: Frames,
    *,
    warmup: int = 3,
    rounds: int = 15,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the latencies of runners, timed in turn once per round: A B C, A B C, and so on.

    All runners are open at once. The warm-up rounds, which allocate and fill caches, are not
    counted. The garbage collector is paused while a run is timed.

    Args:
        runners: By name; open or not.
        frames: (N, H, W, 3) uint8 RGB, of every run.
        warmup: Rounds that are not counted.
        rounds: Rounds that are counted.
        clock: Monotonic seconds; replaced in tests.

    Returns:
        Milliseconds per run, in the order of the rounds, by name.

    Raises:
        EngineError: A runner failed; with its name.
        OptionError: No counted round, or a negative warm-up.
    """
    if rounds < 1 or warmup < 0:
        raise OptionError(
            f"expected at least 1 round and no negative warm-up, found {rounds} and {warmup}"
        )
    samples: dict[str, list[float]] = {name: [] for name in runners}
    with ExitStack() as opened:
        for name, runner in runners.items():
            with _name_errors(name):
                opened.enter_context(runner)
        for turn in range(warmup + rounds):
            for name, elapsed in _time_in_turn(runners, frames, clock):
                if turn >= warmup:
                    samples[name].append(1e3 * elapsed)
    return samples


IsUndecided = Callable[[str, Mapping[str, Sequence[float]]], bool]
"""Takes a runner's name and the latencies so far of all."""
_FEWEST_CONTESTED = 5
_BEHIND = 2.0


def measure_contest(
    runners: Mapping[str, Runner],
    frames: Frames,
    *,
    is_undecided: Callable[[str, Mapping[str, Sequence[float]]], bool] = lambda name, samples: (
        False
    ),
    warmup: int = 3,
    rounds: int = 15,
    budget_s: float = math.inf,
    on_round: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the latencies of runners as `measure_interleaved`, without runs that decide nothing.

    After five rounds a runner whose fastest run took over twice the median of the fastest runner
    leaves and is closed, unless it is undecided. Once the budget is spent, no further round begins
    after the third, and a warm-up after the first.

    Args:
        runners: By name; not open.
        frames: (N, H, W, 3) uint8 RGB, of every run.
        is_undecided: Whether a runner that is far behind is to be timed on, by its name and the
            latencies so far.
        warmup: Rounds that are not counted, at most.
        rounds: Rounds that are counted, at most.
        budget_s: Seconds that all of it may take.
        on_round: Called with the rounds done and those of all, after each.
        clock: Monotonic seconds; replaced in tests.

    Returns:
        Milliseconds per run by name, in the order of the rounds: fewer for runners that left.

    Raises:
        EngineError: A runner failed; with its name.
    """
    samples: dict[str, list[float]] = {name: [] for name in runners}
    staying, total = dict(runners), warmup + rounds
    with ExitStack() as every:
        opened = {name: every.enter_context(ExitStack()) for name in runners}
        for name, runner in runners.items():
            with _name_errors(name):
                opened[name].enter_context(runner)
        started = clock()
        for turn in range(total):
            counted, spent = turn - warmup, clock() - started
            if 0 < turn < warmup and spent > budget_s / 2:
                continue
            if counted > _FEWEST_ROUNDS and spent > budget_s:
                break
            for name, elapsed in _time_in_turn(staying, frames, clock):
                if counted >= 0:
                    samples[name].append(1e3 * elapsed)
            on_round(turn + 1, total)
            if counted + 1 >= _FEWEST_CONTESTED:
                for name in _list_far_behind(staying, samples):
                    if not is_undecided(name, samples):
                        del staying[name]
                        opened[name].close()
    return samples


def _list_far_behind(names: Iterable[str], samples: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the names of runners whose fastest run took over twice the median of the fastest."""
    best = min(p50(samples[name]) for name in names)
    return [name for name in names if min(samples[name]) > _BEHIND * best]


def measure_within(
    runners: Mapping[str, Runner],
    frames: Frames,
    budget_s: float,
    *,
    must_open: Collection[str] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the latencies of as many runners as a budget of seconds allows, timed in turn.

    Runners are opened in their order, each with a run that is not counted, which allocates and
    compiles, until that has taken twice the budget; the others are left out. The budget is then
    spent on rounds of timed runs, of which there are at least two.

    Args:
        runners: By name, the likely fastest first.
        frames: (N, H, W, 3) uint8 RGB, of every run.
        budget_s: Of the timed runs, in seconds.
        must_open: Names of runners that are opened in any case.
        clock: Monotonic seconds; replaced in tests.

    Returns:
        Milliseconds per run, in the order of the rounds, by the name of each runner opened.

    Raises:
        EngineError: A runner failed; with its name.
    """
    opened: dict[str, Runner] = {}
    with ExitStack() as stack:
        started = clock()
        for name, runner in runners.items():
            if name in must_open or clock() - started < 2 * budget_s:
                with _name_errors(name):
                    stack.enter_context(runner)
                    runner.run(frames)
                opened[name] = runner
        samples: dict[str, list[float]] = {name: [] for name in opened}
        started, rounds = clock(), 0
        while rounds < _FEWEST_ROUNDS or clock() - started < budget_s:
            for name, elapsed in _time_in_turn(opened, frames, clock):
                samples[name].append(1e3 * elapsed)
            rounds += 1
    return samples


def _time_in_turn(
    runners: Mapping[str, Runner], frames: Frames, clock: Callable[[], float]
) -> Iterator[tuple[str, float]]:
    """Yield each runner's name and the seconds of one run."""
    for name, runner in runners.items():
        with _name_errors(name), pause_garbage_collection():
            started = clock()
            runner.run(frames)
            elapsed = clock() - started
        yield name, elapsed


def percentile(samples: Sequence[float], q: float) -> float:
    """Return the q-th percentile, interpolated linearly between the two nearest samples.

    Args:
        samples: At least one, in any order.
        q: From 0 (the smallest) to 100 (the largest).

    Raises:
        OptionError: No samples, or q outside its range.
    """
    if not samples or not 0.0 <= q <= 100.0:
        raise OptionError(
            f"expected at least one sample and a percentile from 0 to 100, found {len(samples)} "
            f"and {q:g}"
        )
    ordered = sorted(samples)
    place = (len(ordered) - 1) * q / 100.0
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


def p50(samples: Sequence[float]) -> float:
    """Return the median."""
    return percentile(samples, 50.0)


def p95(samples: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return percentile(samples, 95.0)


@contextmanager
def _name_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise EngineError(f"{name} failed while it was timed: {error}. Leave it out") from error


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector, for the length of a timed run."""
    # it works again between the runs: each run leaves its output behind
    active = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if active:
            gc.enable()
