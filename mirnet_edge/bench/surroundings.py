"""Where and in what state figures are taken: the commit, the load, clocks and temperature."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from mirnet_edge.bench.meters import number_in
from mirnet_edge.bench.record import Conditions

_TABLE = Path("/proc/cpuinfo")
# A Jetson's graphics processor, by the names that its boards give it: Orin's and Xavier's chips
# before JetPack 6, `gpu` since.
_BOARD_GPU = re.compile(r".*\.(gpu|ga10b|gv11b|gp10b)")


def conditions(system: Path) -> Conditions:
    """Return what the machine is like now; what it does not tell is None.

    Args:
        system: Linux's /sys.
    """
    clocks = [
        khz / 1000.0
        for path in system.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (khz := number_in(path)) is not None
    ] or _clocks_of_table()
    warmth = [
        millidegrees / 1000.0
        for path in system.glob("class/thermal/thermal_zone*/temp")
        if (millidegrees := number_in(path)) is not None
    ]
    return Conditions(
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        clock_mhz=round(sum(clocks) / len(clocks), 1) if clocks else None,
        celsius=round(max(warmth), 1) if warmth else None,
    )


def board_gpu_mhz(system: Path) -> float | None:
    """Return the clock of a Jetson's graphics processor, None where there is none.

    Args:
        system: Linux's /sys.
    """
    for path in sorted(system.glob("class/devfreq/*/cur_freq")):
        hertz = number_in(path) if _BOARD_GPU.fullmatch(path.parent.name) else None
        if hertz is not None:
            return round(hertz / 1e6, 1)
    return None


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
