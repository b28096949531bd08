"""Meters of energy: what processor, graphics cards or board used since they were opened.

- The processor's own counters (RAPL) in Linux's powercap tree; AMD's kernels fill the same one.
- NVIDIA's cards through NVML, see `graphics`.
- The INA3221 of a Jetson's board in Linux's hwmon tree: volts and amperes, which are integrated.

All of them count the whole machine's use, idle and other programs included.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from mirnet_edge.runtime.machine import rails_of_the_board

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_INTERVAL_S = 0.1
_INA3221 = "ina3221"
_UNUSED_RAIL = "NC"
_SUM_OF_SHUNTS = 7  # the chip's seventh "voltage" is no rail


class Meter(Protocol):
    """Something that counts energy."""

    covers: str
    """What is in its figure, in words."""

    def joules(self) -> float | None:
        """Return the energy since some moment before; None where it no longer answers."""

    def watching(self) -> AbstractContextManager[None]:
        """Return a context within which it counts."""


class RaplMeter:
    """The counters of all processor packages."""

    covers = "processor package (RAPL: cores, caches, built-in graphics; not the memory)"

    def __init__(self, zones: Sequence[Path]) -> None:
        """Start counting.

        Args:
            zones: Folders of packages; each holds energy_uj and max_energy_range_uj.

        Raises:
            OSError: A counter cannot be read.
        """
        self._counters = [_Counter(zone) for zone in zones]

    def joules(self) -> float | None:
        """Return the energy since the start; None where a counter no longer answers."""
        try:
            return sum(counter.microjoules() for counter in self._counters) / 1e6
        except (OSError, ValueError):
            return None

    def watching(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: the processor counts by itself."""
        return nullcontext()


class _Counter:
    """A counter that begins anew at its largest value: after about an hour at 70 W.

    It must be asked more often than that.
    """

    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
        self._last = self._read()
        self._total = 0

    def microjoules(self) -> int:
        now = self._read()
        self._total += now - self._last if now >= self._last else now + self._range - self._last
        self._last = now
        return self._total

    def _read(self) -> int:
        return int(self._file.read_text(encoding="ascii"))


class PowerMeter:
    """Energy from power that is read ten times a second, in a thread of its own.

    Not between the frames: just after one, a processor draws what it draws while it works.
    """

    def __init__(
        self,
        watts: Callable[[], float | None],
        covers: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Say what is read.

        Args:
            watts: Gives the power now, None where it does not answer.
            covers: What is in it, in words.
            clock: Seconds, rising; replaced in tests.
        """
        self.covers = covers
        self._watts, self._clock = watts, clock
        self._lock = threading.Lock()
        self._joules = 0.0
        self._last: tuple[float, float] | None = None
        self._lost = False

    def sample(self) -> None:
        """Read once, and add what was used since the last time."""
        with self._lock:
            power, now = self._watts(), self._clock()
            if power is None:
                self._lost = True
                return
            if self._last is not None:
                before, then = self._last
                self._joules += (power + before) / 2.0 * (now - then)
            self._last = (power, now)

    def joules(self) -> float | None:
        """Return the energy while it was watched; None where the sensor stopped answering."""
        self.sample()
        return None if self._lost else self._joules

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Read again and again until the end."""
        ended = threading.Event()

        def read() -> None:
            while not ended.wait(_INTERVAL_S):
                self.sample()

        with self._lock:
            self._last = None  # what was used while nobody looked is not known
        self.sample()
        thread = threading.Thread(target=read, name="power", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def open_rapl(system: Path) -> tuple[RaplMeter | None, str]:
    """Return the processor's meter, or None and why there is none; no reason where no RAPL is.

    Args:
        system: Linux's /sys.
    """
    zones = [
        folder
        for folder in sorted((system / "class/powercap").glob("intel-rapl:*"))
        # packages alone: intel-rapl:0:0 is a part of intel-rapl:0, psys holds the package again
        if folder.name.count(":") == 1 and _text(folder / "name").startswith("package")
    ]
    if not zones:
        return None, ""
    try:
        return RaplMeter(zones), ""
    except PermissionError:
        return None, (
            "the processor counts its energy (RAPL), but only root may read it; run as root, or "
            "until the next start: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
        )
    except (OSError, ValueError) as error:
        return None, f"the processor's energy counter (RAPL) does not answer: {error}"


def open_board(
    system: Path, *, clock: Callable[[], float] = time.monotonic
) -> tuple[PowerMeter | None, str]:
    """Return the meter of a Jetson's board, or None and why there is none.

    Args:
        system: Linux's /sys.
        clock: Seconds, rising; replaced in tests.
    """
    rails = _rails(system)
    if not rails:
        return None, ""
    chosen = rails_of_the_board(rails)
    covers = f"board ({chosen[0]})" if len(chosen) == 1 else f"board (sum of {', '.join(chosen)})"

    def watts() -> float | None:
        drawn = [_watts(*rails[name]) for name in chosen]
        known = [one for one in drawn if one is not None]
        return sum(known) if len(known) == len(drawn) else None

    if watts() is None:
        return None, f"the board's power sensor ({_INA3221}: {', '.join(chosen)}) does not answer"
    return PowerMeter(watts, covers, clock=clock), ""


def number_in(path: Path) -> float | None:
    """Return the number that a sensor's file holds, None where it does not answer."""
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # sensors that exist and do not answer
        return None


def _rails(system: Path) -> dict[str, tuple[Path, Path]]:
    """Return the files of voltage (mV) and current (mA) of each rail, by its name."""
    rails = {}
    for folder in sorted((system / "class/hwmon").glob("hwmon*")):
        if not _text(folder / "name").startswith(_INA3221):
            continue
        for label in sorted(folder.glob("in*_label")):
            number = label.name.removeprefix("in").removesuffix("_label")
            name = _text(label)
            current = folder / f"curr{number}_input"
            if name and name != _UNUSED_RAIL and number != str(_SUM_OF_SHUNTS) and current.exists():
                rails[name] = (folder / f"in{number}_input", current)
    return rails


def _watts(voltage: Path, current: Path) -> float | None:
    millivolts, milliamperes = number_in(voltage), number_in(current)
    if millivolts is None or milliamperes is None:
        return None
    return millivolts * milliamperes / 1e6


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
