"""Where and in what state figures are taken: the commit, the load, clocks and temperature."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from mirnet_edge.bench.record import Conditions

_PROCESSORS = Path("/sys/devices/system/cpu")
_SENSORS = Path("/sys/class/thermal")
_TABLE = Path("/proc/cpuinfo")


def conditions() -> Conditions:
    """Return what the machine is like now; what it does not tell is None."""
    clocks = [
        khz / 1000.0 for path in _PROCESSORS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (khz := _number(path)) is not None
    ] or _clocks_of_table()  # fmt: skip
    warmth = [
        millidegrees / 1000.0 for path in _SENSORS.glob("thermal_zone*/temp")
        if (millidegrees := _number(path)) is not None
    ]  # fmt: skip
    return Conditions(
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        clock_mhz=round(sum(clocks) / len(clocks), 1) if clocks else None,
        celsius=round(max(warmth), 1) if warmth else None,
    )


def affinity() -> list[int] | None:
    """Return the processors this process may use, None where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return None


def revision() -> str | None:
    """Return the git commit of this package's sources, None where they are not in git."""
    folder = Path(__file__).parents[2]
    git = shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return None
    commit = _asked(git, folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _asked(git, folder, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+changes" if changed else "")


def _asked(git: str, folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            [git, "-C", str(folder), *arguments],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # not our repository to ask, say
        return None
    return done.stdout.strip()


def _clocks_of_table() -> list[float]:
    try:
        lines = _TABLE.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # sensors that exist and do not answer
        return None
