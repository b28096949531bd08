"""How much memory a process can still take, and giving back what it took."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

_MEMORY_FILE = Path("/proc/meminfo")
_CONTAINER_FOLDER = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return how many bytes of memory a process can still take, None where that is unknown.

    What the system has available, or what is left of the limit of this container.
    """
    found = [
        int(line.split()[1]) << 10
        for line in _read(_MEMORY_FILE).splitlines()
        if line.startswith("MemAvailable:")
    ]
    limit, used = (
        _read(_CONTAINER_FOLDER / f"memory.{name}").strip() for name in ("max", "current")
    )
    if limit.isdecimal() and used.isdecimal():
        found.append(max(0, int(limit) - int(used)))
    return min(found, default=None)


def release_memory() -> None:
    """Give the memory that nothing uses any more back to the system.

    C libraries keep what was freed for the next allocation, and torch's exporter leaves its graph
    in cycles that only the garbage collector finds: after the export of a full network a gigabyte.
    Without glibc the collector's part alone.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""  # another system
