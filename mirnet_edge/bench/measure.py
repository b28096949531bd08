"""Measure latency: interleaved timing, sustained runs, cold start and memory.

What disturbs one row for a moment disturbs its neighbors too, so ratios within a report hold on
a noisy machine where milliseconds do not.

In the process that times all rows, everything is loaded and warm, and memory belongs to all of
them. `python -m mirnet_edge.bench.measure ENTRY HEIGHT WIDTH` opens one and prints its
figures.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mirnet_edge.bench.record import LatencyTiming, StageTimes, SustainedPart
from mirnet_edge.errors import MirnetEdgeError, OptionError
from mirnet_edge.runtime.measure import p50, p95, pause_garbage_collection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirnet_edge.bench.entries import BenchmarkEntry
    from mirnet_edge.bench.telemetry import Sensors
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.runtime.runner import Runner

FEWEST_RUNS = 3
# Settled: the medians of two consecutive threes of warm-up runs differ by less.
SETTLED_WITHIN = 0.05
FEWEST_WARMUPS, MOST_WARMUPS = 6, 20
# ONNX Runtime's threads spin for a while after a run, and would take a core from the next row.
PAUSE_S = 0.01


@dataclass(frozen=True)
class TimingMethod:
    """How runs are timed.

    Raises:
        OptionError: No round, or no time.
    """

    rounds: int = 30
    row_seconds: float = 20.0
    """What one row may take at one size; slow rows run in fewer rounds, at least three."""
    clock: Callable[[], float] = time.perf_counter
    """Seconds, rising; replaced in tests."""
    pause: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        """Refuse what gives no figures."""
        if self.rounds < 1 or not self.row_seconds > 0:
            raise OptionError(
                "expected at least 1 round and more than 0 --row-seconds, found "
                f"{self.rounds} and {self.row_seconds:g}"
            )


class FailureRecord(Protocol):
    """What was measured so far of a row that may fail."""

    failure: str | None
    """Why there is nothing more to come."""


@dataclass
class Progress:
    """What was measured so far of one row at one size; complete or not."""

    height: int
    width: int
    warmup_ms: list[float] = field(default_factory=list)
    settled: bool = False
    samples_ms: list[float] = field(default_factory=list)
    stages_ms: list[tuple[float, float, float]] = field(default_factory=list)
    failure: str | None = None
    """Why there is nothing more to come."""

    @property
    def timing(self) -> LatencyTiming | None:
        """Return what the report says of it, None where no run was timed."""
        if not self.samples_ms:
            return None
        stages = None
        if self.stages_ms:
            before, network, after = (
                round(float(value), 4) for value in np.median(self.stages_ms, axis=0)
            )
            stages = StageTimes(before_ms=before, network_ms=network, after_ms=after)
        return LatencyTiming(
            width=self.width,
            height=self.height,
            samples_ms=[round(value, 4) for value in self.samples_ms],
            warmup_runs=len(self.warmup_ms),
            settled=self.settled,
            stages=stages,
        )


def timing_frame(height: int, width: int) -> Frames:
    """Return the frame that is timed, (1, H, W, 3): dim waves with noise, always the same.

    Not one of the images, so that reports on other images can be compared.
    """
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(across / 40 + one) * np.cos(down / 30 + one) for one in range(3)]
    noise = np.random.default_rng(0).normal(0.0, 3.0, (height, width, 3))
    levels = 36.0 + 24.0 * np.stack(waves, -1) + noise
    return np.asarray(np.clip(levels, 0, 255)[None], np.uint8)


def time_in_turns(
    runners: Mapping[str, Runner],
    frame: Frames,
    method: TimingMethod,
    progress: dict[str, Progress],
    on_round: Callable[[int, int], None] = lambda done, all_rounds: None,
) -> None:
    """Time open runners in turns: A B C, A B C, and so on.

    A row that fails is left out of what follows. When this is interrupted, `progress` holds what
    had been measured.

    Args:
        runners: By row, all open.
        frame: (1, H, W, 3) uint8, given to every run.
        method: How often, and with which clock.
        progress: Filled in, by row.
        on_round: Told how many rounds are done, of how many.
    """
    height, width = frame.shape[1:3]
    for name in runners:
        progress[name] = Progress(height, width)
    for name, runner in runners.items():
        _warm_up(runner, frame, method, progress[name])
    wanted = {name: _rounds_for(one, method) for name, one in progress.items()}
    for turn in range(method.rounds):
        for name, runner in runners.items():
            one = progress[name]
            if one.failure is not None or turn >= wanted[name]:
                continue
            method.pause(PAUSE_S)
            elapsed = time_run(runner, frame, method.clock, one)
            if elapsed is not None:
                one.samples_ms.append(elapsed)
                stages = getattr(runner, "stages_s", None)
                if stages is not None:
                    one.stages_ms.append((1e3 * stages[0], 1e3 * stages[1], 1e3 * stages[2]))
        on_round(turn + 1, method.rounds)


def _warm_up(runner: Runner, frame: Frames, method: TimingMethod, progress: Progress) -> None:
    """Run until two consecutive threes have about one median, or the row's time is up."""
    spent_ms = 0.0
    while len(progress.warmup_ms) < MOST_WARMUPS and not progress.settled:
        method.pause(PAUSE_S)
        elapsed = time_run(runner, frame, method.clock, progress)
        if elapsed is None:
            return
        progress.warmup_ms.append(elapsed)
        spent_ms += elapsed
        if len(progress.warmup_ms) >= FEWEST_WARMUPS:
            former, latter = p50(progress.warmup_ms[-6:-3]), p50(progress.warmup_ms[-3:])
            progress.settled = abs(latter / former - 1.0) < SETTLED_WITHIN
        if spent_ms > 500.0 * method.row_seconds:  # half of the row's time
            return


def _rounds_for(progress: Progress, method: TimingMethod) -> int:
    if not progress.warmup_ms:
        return 0
    typical_s = p50(progress.warmup_ms[-3:]) / 1e3
    return max(FEWEST_RUNS, min(method.rounds, int(method.row_seconds / max(typical_s, 1e-9))))


def time_run(
    runner: Runner, frame: Frames, clock: Callable[[], float], progress: FailureRecord
) -> float | None:
    """Return the milliseconds of one run, None where it failed; `progress` says why."""
    try:
        with pause_garbage_collection():
            started = clock()
            runner.run(frame)
            elapsed = clock() - started
    except MirnetEdgeError as error:
        progress.failure = " ".join(str(error).split())
        return None
    except Exception as error:  # noqa: BLE001  # a library's own: the row fails, the others go on
        progress.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return None
    return 1e3 * elapsed


# A part is half a minute, of short runs an eighth: enough parts to see where the rate falls.
_PART_S, _FEWEST_PARTS = 30.0, 8
# Counters of energy move about ten times a second: two percent of this.
LOOP_S = 5.0


@dataclass(frozen=True)
class SustainedSchedule:
    """How long a row runs, and in which parts.

    Raises:
        OptionError: No time.
    """

    seconds: float
    part_s: float
    clock: Callable[[], float] = time.perf_counter
    """Seconds, rising; replaced in tests."""

    def __post_init__(self) -> None:
        """Refuse what gives no figures."""
        if not (0.0 < self.part_s <= self.seconds < math.inf):
            raise OptionError(f"--sustained must be more than 0 minutes, found {self.seconds / 60}")


def sustained_schedule(
    minutes: float, clock: Callable[[], float] = time.perf_counter
) -> SustainedSchedule:
    """Return the pace of a run of minutes.

    Raises:
        OptionError: Not more than 0 minutes.
    """
    seconds = 60.0 * minutes
    return SustainedSchedule(seconds, min(_PART_S, seconds / _FEWEST_PARTS), clock)


@dataclass
class SustainedRun:
    """What was measured so far of one row; complete or not."""

    sustained: bool = False
    """Whether minutes were asked for, not energy alone."""
    parts: list[SustainedPart] = field(default_factory=list)
    failure: str | None = None
    """Why there is nothing more to come."""

    @property
    def figures(self) -> dict[str, object]:
        """Return the fields of the row's `LatencyTiming`."""
        if self.sustained:
            return {"sustained": self.parts}
        return {"loop": self.parts[0]} if self.parts else {}


def run_sustained(
    runner: Runner,
    frame: Frames,
    pace: SustainedSchedule,
    sensors: Sensors,
    found: SustainedRun,
    on_part: Callable[[SustainedPart], None] = lambda part: None,
) -> None:
    """Let an open, warm runner restore a frame again and again, without pause.

    When it fails or this is interrupted, `found` holds the parts that were whole.

    Args:
        runner: Open.
        frame: (1, H, W, 3) uint8, given to every run.
        pace: How long, with which clock.
        sensors: Read at the end of each part.
        found: Filled in.
        on_part: Told each part.
    """
    clock = pace.clock
    with sensors.watching():
        began = started = clock()
        count = sensors.joules()
        while started - began < pace.seconds:
            # the next edge ahead: a run that is longer than a part ends several
            edge = began + pace.part_s * (math.floor((started - began) / pace.part_s + 1e-9) + 1)
            samples: list[float] = []
            now = started
            while now < edge:
                elapsed = time_run(runner, frame, clock, found)
                if elapsed is None:
                    return
                samples.append(elapsed)
                now = clock()
            former, count = count, sensors.joules()
            used = {kind: count[kind] - former[kind] for kind in count if kind in former}
            found.parts.append(
                SustainedPart(
                    end_s=round(now - began, 3),
                    seconds=round(now - started, 3),
                    runs=len(samples),
                    p50_ms=round(p50(samples), 4),
                    p95_ms=round(p95(samples), 4),
                    end=sensors.conditions(),
                    joules={kind: round(value, 4) for kind, value in used.items()},
                )
            )
            on_part(found.parts[-1])
            started = clock()


_RUNS = 3
# Full MIRNet takes minutes a frame at large sizes: its memory is that of one frame.
_SLOW_MS = 20_000.0
_STATUS = Path("/proc/self/status")
_TIMEOUT_S = 600


@dataclass(frozen=True)
class ColdStart:
    """What a fresh process took."""

    start_ms: float
    """From opening to the first restored frame, the backend's import included."""
    peak_memory_mib: float | None
    """The most it held after three frames, after one where that took longer than 20 s; None where
    the system does not tell."""


def measure_cold(entry: BenchmarkEntry, height: int, width: int) -> ColdStart | None:
    """Return an entry's figures, None where it does not run; the timed rows say why.

    Args:
        entry: Whom to start.
        height: Of the frame, in pixels.
        width: The same.
    """
    line = [
        sys.executable,
        "-m",
        "mirnet_edge.bench.measure",
        entry.told(),
        str(height),
        str(width),
    ]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return ColdStart(found["start_ms"], found["peak_memory_mib"])


def peak_memory_mib() -> float | None:
    """Return the most memory that this process ever held, None where the system does not tell.

    Linux's VmHWM, and not getrusage's ru_maxrss: that one is inherited from the process that
    started this one.
    """
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024.0
    return None


def count_further_runs(start_ms: float) -> int:
    """Return how many frames follow the first, which took so long with all that it opened."""
    return 0 if start_ms > _SLOW_MS else _RUNS - 1


def _main() -> None:
    from mirnet_edge.bench.entries import entry_from_json

    told, height, width = sys.argv[1:]
    entry = entry_from_json(told)
    frame = timing_frame(int(height), int(width))
    started = time.perf_counter()
    with entry.runner() as runner:
        runner.run(frame)
        start_ms = 1e3 * (time.perf_counter() - started)
        for _ in range(count_further_runs(start_ms)):
            runner.run(frame)
        figures = {"start_ms": round(start_ms, 2), "peak_memory_mib": peak_memory_mib()}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    _main()
