"""Memory of this process: what it holds, its peak, what it can still take, and giving back."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMORY_FILE = Path("/proc/meminfo")
_CONTAINER_FOLDER = Path("/sys/fs/cgroup")
_PROCESS_FILE = Path("/proc/self/statm")
_PAGE_BYTES = 4096
_INTERVAL_S = 0.002


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


def resident_memory() -> int | None:
    """Return the resident memory of this process in bytes, None where the system does not say."""
    fields = _read(_PROCESS_FILE).split()
    return int(fields[1]) * _PAGE_BYTES if fields else None


@dataclass
class MemoryGrowth:
    """How far the resident memory rose above what it was: `peak_bytes`."""

    peak_bytes: int = 0


@contextmanager
def watch_memory() -> Iterator[MemoryGrowth]:
    """Yield the growth of resident memory within the block; its peak is known when it ends.

    Unused memory is given back first: what is allocated from it would not be seen.

    Raises:
        ValueError: This system does not report a process's memory.
    """
    release_memory()
    before = resident_memory()
    if before is None:
        raise ValueError(f"expected a system that reports memory in {_PROCESS_FILE}")
    growth, done = MemoryGrowth(), threading.Event()

    def measure() -> None:
        growth.peak_bytes = max(growth.peak_bytes, (resident_memory() or 0) - before)

    def watch() -> None:
        while not done.is_set():
            measure()
            time.sleep(_INTERVAL_S)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield growth
    finally:
        done.set()
        watcher.join()
        measure()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""  # another system
