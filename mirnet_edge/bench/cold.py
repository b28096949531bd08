"""Cold start and memory of one contestant, measured in a process of its own.

In the process that times all rows, everything is loaded and warm, and memory belongs to all of
them. `python -m mirnet_edge.bench.cold CONTESTANT HEIGHT WIDTH` opens one and prints its figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirnet_edge.bench.contestants import Contestant

_RUNS = 3
# Full MIRNet takes minutes a frame at large sizes: its memory is that of one frame.
_SLOW_MS = 20_000.0
_STATUS = Path("/proc/self/status")
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Cold:
    """What a fresh process took."""

    start_ms: float
    """From opening to the first restored frame, the backend's import included."""
    peak_memory_mib: float | None
    """The most it held after three frames, after one where that took longer than 20 s; None where
    the system does not tell."""


def measure_cold(contestant: Contestant, height: int, width: int) -> Cold | None:
    """Return a contestant's figures, None where it does not run; the timed rows say why.

    Args:
        contestant: Whom to start.
        height: Of the frame, in pixels.
        width: The same.
    """
    line = [
        sys.executable, "-m", "mirnet_edge.bench.cold", contestant.told(), str(height), str(width),
    ]  # fmt: skip
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return Cold(found["start_ms"], found["peak_memory_mib"])


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


def further_runs(start_ms: float) -> int:
    """Return how many frames follow the first, which took so long with all that it opened."""
    return 0 if start_ms > _SLOW_MS else _RUNS - 1


def _main() -> None:
    from mirnet_edge.bench.contestants import contestant_from
    from mirnet_edge.bench.measure import timing_frame

    told, height, width = sys.argv[1:]
    contestant = contestant_from(told)
    frame = timing_frame(int(height), int(width))
    started = time.perf_counter()
    with contestant.runner() as runner:
        runner.run(frame)
        start_ms = 1e3 * (time.perf_counter() - started)
        for _ in range(further_runs(start_ms)):
            runner.run(frame)
        figures = {"start_ms": round(start_ms, 2), "peak_memory_mib": peak_memory_mib()}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    _main()
