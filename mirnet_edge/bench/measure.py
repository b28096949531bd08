"""Measure latency: interleaved timing, sustained runs, cold start and peak memory.

Entries are timed in turns, so that a load of the machine slows all of them alike, and ratios within
a report hold where milliseconds do not.

Cold start and memory need a process for each entry:
`python -m mirnet_edge.bench.measure ENTRY HEIGHT WIDTH` opens one and prints both as JSON.
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
from mirnet_edge.runtime.runner import placement_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirnet_edge.bench.entries import BenchmarkEntry
    from mirnet_edge.bench.telemetry import Sensors
    from mirnet_edge.images.contract import Frames
    from mirnet_edge.runtime.runner import Runner

FEWEST_RUNS = 3
# Steady: the medians of two consecutive threes of warm-up runs differ by less.
SETTLED_WITHIN = 0.05
FEWEST_WARMUPS, MOST_WARMUPS = 6, 20
# ONNX Runtime's threads spin for a while after a run, and would take a core from the next row.
PAUSE_S = 0.01


@dataclass(frozen=True)
class TimingMethod:
    """Number of rounds and time limit of a latency measurement.

    Raises:
        OptionError: Fewer than one round, or no time.
    """

    rounds: int = 30
    row_seconds: float = 20.0
    """Time limit of an entry at one size; slow entries run in fewer rounds, at least three."""
    clock: Callable[[], float] = time.perf_counter
    """Seconds, rising; replaced in tests."""
    pause: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        """Validate the numbers."""
        if self.rounds < 1 or not self.row_seconds > 0:
            raise OptionError(
                "expected at least 1 round and more than 0 --row-seconds, found "
                f"{self.rounds} and {self.row_seconds:g}"
            )


class FailableMeasurement(Protocol):
    """A measurement that a failing runner ends."""

    failure: str | None
    """Why it ended early."""


@dataclass
class LatencyMeasurement:
    """Latency samples of one entry at one size so far."""

    height: int
    width: int
    warmup_ms: list[float] = field(default_factory=list)
    settled: bool = False
    samples_ms: list[float] = field(default_factory=list)
    stages_ms: list[tuple[float, float, float]] = field(default_factory=list)
    placement: str = ""
    """What computed the last run, as the backend told."""
    failure: str | None = None
    """Why it ended early."""

    @property
    def timing(self) -> LatencyTiming | None:
        """The report's part, None where no run was timed."""
        if not self.samples_ms:
            return None
        stages = None
        if self.stages_ms:
            before, network, after = (
                round(float(value), 4) for value in np.median(self.stages_ms, axis=0)
            )
            stages = StageTimes(preprocess_ms=before, inference_ms=network, postprocess_ms=after)
        return LatencyTiming(
            width=self.width,
            height=self.height,
            samples_ms=[round(value, 4) for value in self.samples_ms],
            warmup_runs=len(self.warmup_ms),
            settled=self.settled,
            stages=stages,
            placement=self.placement,
        )


def timing_frame(height: int, width: int) -> Frames:
    """Return the frame that is timed, (1, H, W, 3) uint8: dim waves with noise, always the same.

    Independent of the pair sets, so that reports on different images can be compared.
    """
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(across / 40 + one) * np.cos(down / 30 + one) for one in range(3)]
    noise = np.random.default_rng(0).normal(0.0, 3.0, (height, width, 3))
    levels = 36.0 + 24.0 * np.stack(waves, -1) + noise
    return np.asarray(np.clip(levels, 0, 255)[None], np.uint8)


def time_interleaved(
    runners: Mapping[str, Runner],
    frame: Frames,
    method: TimingMethod,
    measured: dict[str, LatencyMeasurement],
    on_round: Callable[[int, int], None] = lambda done, rounds: None,
) -> None:
    """Time open runners in turns: A B C, A B C, and so on.

    A runner that fails is left out of the following rounds. After an interruption, `measured` holds
    the samples until then.

    Args:
        runners: By entry, all open.
        frame: (1, H, W, 3) uint8, given to every run.
        method: Rounds, time limit and clock.
        measured: Filled in, by entry.
        on_round: Called with the number of rounds done, and of all rounds.
    """
    for name in runners:
        measured[name] = LatencyMeasurement(*frame.shape[1:3])
    for name, runner in runners.items():
        _warm_up(runner, frame, method, measured[name])
    wanted = {name: _count_rounds(one, method) for name, one in measured.items()}
    for turn in range(method.rounds):
        for name, runner in runners.items():
            one = measured[name]
            if one.failure is not None or turn >= wanted[name]:
                continue
            method.pause(PAUSE_S)
            elapsed_ms = time_run(runner, frame, method.clock, one)
            if elapsed_ms is not None:
                one.samples_ms.append(elapsed_ms)
                one.placement = placement_of(runner)
                stages = getattr(runner, "stages_s", None)
                if stages is not None:
                    one.stages_ms.append((1e3 * stages[0], 1e3 * stages[1], 1e3 * stages[2]))
        on_round(turn + 1, method.rounds)


def _warm_up(
    runner: Runner, frame: Frames, method: TimingMethod, measured: LatencyMeasurement
) -> None:
    """Run until latency is steady, or half of the entry's time has passed."""
    spent_ms = 0.0
    while len(measured.warmup_ms) < MOST_WARMUPS and not measured.settled:
        method.pause(PAUSE_S)
        elapsed_ms = time_run(runner, frame, method.clock, measured)
        if elapsed_ms is None:
            return
        measured.warmup_ms.append(elapsed_ms)
        spent_ms += elapsed_ms
        if len(measured.warmup_ms) >= FEWEST_WARMUPS:
            former, latter = p50(measured.warmup_ms[-6:-3]), p50(measured.warmup_ms[-3:])
            measured.settled = abs(latter / former - 1.0) < SETTLED_WITHIN
        if spent_ms > 500.0 * method.row_seconds:
            return


def _count_rounds(measured: LatencyMeasurement, method: TimingMethod) -> int:
    if not measured.warmup_ms:
        return 0
    typical_s = p50(measured.warmup_ms[-3:]) / 1e3
    return max(FEWEST_RUNS, min(method.rounds, int(method.row_seconds / max(typical_s, 1e-9))))


def time_run(
    runner: Runner, frame: Frames, clock: Callable[[], float], measured: FailableMeasurement
) -> float | None:
    """Return the milliseconds of one run, None where it failed; `measured` gets the failure."""
    try:
        with pause_garbage_collection():
            started = clock()
            runner.run(frame)
            elapsed = clock() - started
    except MirnetEdgeError as error:
        measured.failure = " ".join(str(error).split())
        return None
    except Exception as error:  # noqa: BLE001  # of any library: this entry fails, others go on
        measured.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return None
    return 1e3 * elapsed


# A part is half a minute, of short runs an eighth: enough to see when the rate falls.
_PART_S, _FEWEST_PARTS = 30.0, 8
# Energy counters change about ten times a second: two percent of this.
ENERGY_RUN_S = 5.0


@dataclass(frozen=True)
class SustainedSchedule:
    """Duration of a sustained run and of its parts.

    Raises:
        OptionError: The duration is not positive and finite.
    """

    seconds: float
    part_s: float
    clock: Callable[[], float] = time.perf_counter
    """Seconds, rising; replaced in tests."""

    def __post_init__(self) -> None:
        """Validate the durations."""
        if not (0.0 < self.part_s <= self.seconds < math.inf):
            raise OptionError(f"--sustained must be more than 0 minutes, found {self.seconds / 60}")


def sustained_schedule(
    minutes: float, clock: Callable[[], float] = time.perf_counter
) -> SustainedSchedule:
    """Return the schedule of a sustained run of MINUTES.

    Raises:
        OptionError: Not more than 0 minutes.
    """
    seconds = 60.0 * minutes
    return SustainedSchedule(seconds, min(_PART_S, seconds / _FEWEST_PARTS), clock)


@dataclass
class SustainedRun:
    """Parts of a run without pause so far."""

    sustained: bool = False
    """Whether it is a sustained run, and not a short one for energy alone."""
    parts: list[SustainedPart] = field(default_factory=list)
    failure: str | None = None
    """Why it ended early."""

    @property
    def timing_fields(self) -> dict[str, object]:
        """Fields of the entry's `LatencyTiming`."""
        if self.sustained:
            return {"sustained": self.parts}
        return {"energy_run": self.parts[0]} if self.parts else {}


def run_sustained(
    runner: Runner,
    frame: Frames,
    schedule: SustainedSchedule,
    sensors: Sensors,
    run: SustainedRun,
    on_part: Callable[[SustainedPart], None] = lambda part: None,
) -> None:
    """Run an open, warm runner on one frame again and again without pause.

    After a failure or an interruption, `run` holds the complete parts.

    Args:
        runner: Open.
        frame: (1, H, W, 3) uint8, given to every run.
        schedule: Duration, parts and clock.
        sensors: Read at the end of each part.
        run: Filled in.
        on_part: Called with each complete part.
    """
    clock = schedule.clock
    with sensors.watching():
        began = started = clock()
        energy_j = sensors.joules()
        while started - began < schedule.seconds:
            # the next edge ahead: a run that is longer than a part ends several
            passed = math.floor((started - began) / schedule.part_s + 1e-9)
            edge = began + schedule.part_s * (passed + 1)
            samples: list[float] = []
            now = started
            while now < edge:
                elapsed_ms = time_run(runner, frame, clock, run)
                if elapsed_ms is None:
                    return
                samples.append(elapsed_ms)
                now = clock()
            former_j, energy_j = energy_j, sensors.joules()
            run.parts.append(
                SustainedPart(
                    end_s=round(now - began, 3),
                    duration_s=round(now - started, 3),
                    runs=len(samples),
                    p50_ms=round(p50(samples), 4),
                    p95_ms=round(p95(samples), 4),
                    conditions=sensors.conditions(),
                    energy_j={
                        kind: round(value - former_j[kind], 4)
                        for kind, value in energy_j.items()
                        if kind in former_j
                    },
                )
            )
            on_part(run.parts[-1])
            started = clock()


_RUNS = 3
# Full MIRNet takes minutes per frame at large sizes: its peak memory is that of one frame.
_SLOW_MS = 20_000.0
_STATUS = Path("/proc/self/status")
_TIMEOUT_S = 600


@dataclass(frozen=True)
class ColdStart:
    """Cold start and peak memory of a fresh process."""

    start_ms: float
    """From opening to the first restored frame, imports included."""
    peak_memory_mib: float | None
    """After three frames, or after one that took longer than 20 s; None where the system does not
    measure it."""


def measure_cold_start(entry: BenchmarkEntry, height: int, width: int) -> ColdStart | None:
    """Return an entry's cold start in its own process, None where it fails there.

    Args:
        entry: What to open.
        height: Of the frame, in pixels.
        width: The same.
    """
    module = "mirnet_edge.bench.measure"
    command = [sys.executable, "-m", module, entry.to_json(), str(height), str(width)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return ColdStart(found["start_ms"], found["peak_memory_mib"])


def peak_memory_mib() -> float | None:
    """Return the peak resident memory of this process, None where the system does not measure it.

    Linux's VmHWM, and not getrusage's ru_maxrss, which a process inherits from its parent.
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
    """Return how many frames follow a first one that took START_MS."""
    return 0 if start_ms > _SLOW_MS else _RUNS - 1


def _main() -> None:
    from mirnet_edge.bench.entries import entry_from_json

    text, height, width = sys.argv[1:]
    entry = entry_from_json(text)
    frame = timing_frame(int(height), int(width))
    started = time.perf_counter()
    with entry.runner() as runner:
        runner.run(frame)
        start_ms = 1e3 * (time.perf_counter() - started)
        for _ in range(count_further_runs(start_ms)):
            runner.run(frame)
        found = {"start_ms": round(start_ms, 2), "peak_memory_mib": peak_memory_mib()}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    _main()
