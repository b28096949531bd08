"""How much memory a process can still take."""

from __future__ import annotations

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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""  # another system
