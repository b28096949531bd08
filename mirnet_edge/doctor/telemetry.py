"""Power, temperature and load of a Jetson: jtop where it runs, else tegrastats, as one reading.

Rails and sensors differ per board, so that their names are taken as they come.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.runtime.machine import rails_of_the_board

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_RAIL = re.compile(r"(\w+) (\d+)mW/(\d+)mW")
_SENSOR = re.compile(r"([\w-]+)@(-?[\d.]+)C")
_RAM = re.compile(r"RAM (\d+)/(\d+)MB")
_SWAP = re.compile(r"SWAP (\d+)/(\d+)MB")
_GPU = re.compile(r"GR3D_FREQ (\d+)%")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One moment of a board. None stands for what it does not tell."""

    power_mw: int | None
    rails_mw: dict[str, int] = field(default_factory=dict)
    temperatures_c: dict[str, float] = field(default_factory=dict)
    gpu_percent: float | None = None
    ram_mib: int | None = None
    swap_mib: int | None = None
    mode: str | None = None
    """Power mode, which only jtop tells."""


class Telemetry(Protocol):
    """Something that reads a board."""

    def readings(self) -> Iterator[Reading]:
        """Yield one reading per interval, until the consumer stops."""


def reading_from_tegrastats(line: str) -> Reading:
    """Return what a line of tegrastats says.

    Raises:
        MirnetEdgeError: It holds none of what such lines hold.
    """
    rails = {name: int(now) for name, now, _ in _RAIL.findall(line)}
    temperatures = {name: float(value) for name, value in _SENSOR.findall(line)}
    ram, swap, gpu = (pattern.search(line) for pattern in (_RAM, _SWAP, _GPU))
    if not rails and not temperatures and ram is None:
        raise MirnetEdgeError(
            f"expected a line of tegrastats, found {line[:60]!r}; run "
            "tegrastats to see what it says"
        )
    return Reading(
        power_mw=_power(rails),
        rails_mw=rails,
        temperatures_c=temperatures,
        gpu_percent=float(gpu[1]) if gpu else None,
        ram_mib=int(ram[1]) if ram else None,
        swap_mib=int(swap[1]) if swap else None,
    )


def reading_from_jtop(board: Any) -> Reading:  # noqa: ANN401  # untyped library
    """Return what an open `jtop.jtop()` says: milliwatts, degrees, kilobytes."""
    rails = {name: int(one["power"]) for name, one in board.power.get("rail", {}).items()}
    total = board.power.get("tot", {}).get("power")
    temperatures = {
        name: float(one["temp"] if isinstance(one, dict) else one)
        for name, one in board.temperature.items()
    }
    gpu, ram = board.stats.get("GPU"), board.memory.get("RAM", {}).get("used")
    swap = board.memory.get("SWAP", {}).get("used")
    return Reading(
        power_mw=int(total) if total is not None else _power(rails),
        rails_mw=rails,
        temperatures_c=temperatures,
        gpu_percent=float(gpu) if gpu is not None else None,
        ram_mib=int(ram) >> 10 if ram is not None else None,
        swap_mib=int(swap) >> 10 if swap is not None else None,
        mode=str(board.nvpmodel) if board.nvpmodel is not None else None,
    )


class Tegrastats:
    """Reads the program that every Jetson has."""

    def __init__(
        self,
        interval_ms: int = 200,
        lines: Callable[[int], Iterable[str]] | None = None,
    ) -> None:
        """Say how often to read, and for tests where the lines come from."""
        self._interval_ms, self._lines = interval_ms, lines or _tegrastats

    def readings(self) -> Iterator[Reading]:
        """Yield one reading per line."""
        for line in self._lines(self._interval_ms):
            yield reading_from_tegrastats(line)


class Jtop:
    """Reads jetson-stats, whose service must run."""

    def __init__(self, interval_ms: int = 200, opened: Callable[..., Any] | None = None) -> None:
        """Say how often to read, and for tests what stands for `jtop.jtop`."""
        self._interval_ms, self._opened = interval_ms, opened or _jtop()

    def readings(self) -> Iterator[Reading]:
        """Yield one reading per interval."""
        with self._opened(interval=self._interval_ms / 1e3) as board:
            while board.ok():
                yield reading_from_jtop(board)


def open_telemetry(interval_ms: int = 200) -> Telemetry:
    """Return jtop where it is installed, else tegrastats.

    Raises:
        MirnetEdgeError: Neither is there; says how to get one.
    """
    import importlib.util
    import shutil

    if importlib.util.find_spec("jtop") is not None:
        return Jtop(interval_ms)
    if shutil.which("tegrastats"):
        return Tegrastats(interval_ms)
    raise MirnetEdgeError(
        "expected jtop or tegrastats, found neither: both are for Jetson. There, tegrastats comes "
        "with JetPack, and jtop by: sudo pip install jetson-stats"
    )


def _power(rails: dict[str, int]) -> int | None:
    return sum(rails[name] for name in rails_of_the_board(rails)) if rails else None


def _jtop() -> Callable[..., Any]:
    from mirnet_edge.dependencies import require

    opened: Callable[..., Any] = require("jtop", "reading power through jetson-stats").jtop
    return opened


def _tegrastats(interval_ms: int) -> Iterator[str]:
    command = ["tegrastats", "--interval", str(interval_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield from process.stdout or ()
        finally:
            process.terminate()
