"""Machine telemetry during a benchmark: energy meters, clocks, temperatures, load.

- The processor's own counters (RAPL) in Linux's powercap tree; AMD's kernels fill the same one.
- NVIDIA's cards through NVML, see `graphics`.
- The INA3221 of a Jetson's board in Linux's hwmon tree: volts and amperes, which are integrated.

All of them count the whole machine's use, idle and other programs included.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mirnet_edge.bench.record import MachineConditions
from mirnet_edge.dependencies import available, require
from mirnet_edge.runtime.machine import rails_of_the_board

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mirnet_edge.bench.record import MeterKind

_INTERVAL_S = 0.1
_INA3221 = "ina3221"
_UNUSED_RAIL = "NC"
_SUM_OF_SHUNTS = 7  # the chip's seventh "voltage" is no rail


class EnergyMeter(Protocol):
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


_MODULE = "pynvml"  # of the package nvidia-ml-py
_ABSENT = (
    f"the graphics card's clock, temperature and energy need {_MODULE}, which is not installed; "
    "pip install nvidia-ml-py"
)


class NvidiaCards:
    """All cards of the machine: which one a row computes on, NVML does not tell."""

    def __init__(self, nvml: Any) -> None:  # noqa: ANN401  # untyped library
        """Find the cards.

        Args:
            nvml: The module `pynvml`, initialized, or what stands for it in tests.
        """
        self._nvml = nvml
        count = nvml.nvmlDeviceGetCount()
        self._cards = [nvml.nvmlDeviceGetHandleByIndex(place) for place in range(count)]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._cards)

    def clock_mhz(self) -> float | None:
        """Return the mean clock of the cards' processors."""
        found = self._asked(self._nvml.nvmlDeviceGetClockInfo, self._nvml.NVML_CLOCK_GRAPHICS)
        return round(sum(found) / len(found), 1) if found else None

    def celsius(self) -> float | None:
        """Return the hottest card's temperature."""
        found = self._asked(self._nvml.nvmlDeviceGetTemperature, self._nvml.NVML_TEMPERATURE_GPU)
        return max(found) if found else None

    def meter(self) -> EnergyMeter | None:
        """Return what counts their energy, None where they tell neither energy nor power."""
        covers = "graphics card (NVML)" if len(self) == 1 else f"all {len(self)} cards (NVML)"
        if self._asked(self._nvml.nvmlDeviceGetTotalEnergyConsumption):
            return _CardMeter(self.joules, covers)
        if self.watts() is not None:
            return PowerMeter(self.watts, covers)
        return None

    def joules(self) -> float | None:
        """Return what they used since the driver was loaded."""
        found = self._asked(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        return sum(found) / 1e3 if found else None

    def watts(self) -> float | None:
        """Return what they draw now."""
        found = self._asked(self._nvml.nvmlDeviceGetPowerUsage)
        return sum(found) / 1e3 if found else None

    def _asked(self, question: Callable[..., Any], *arguments: int) -> list[float]:
        """Return each card's answer; nothing where one has none, for a sum would be short."""
        try:
            return [float(question(card, *arguments)) for card in self._cards]
        except self._nvml.NVMLError:  # cards before Volta count no energy, some have no clock
            return []


class _CardMeter:
    """The cards' own counter; 64 bits of millijoules do not begin anew."""

    def __init__(self, joules: Callable[[], float | None], covers: str) -> None:
        self.covers = covers
        self._joules = joules

    def joules(self) -> float | None:
        """Return the energy since the driver was loaded; None where they no longer answer."""
        return self._joules()

    def watching(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: the cards count by themselves."""
        return nullcontext()


def open_cards(*, driver_loaded: bool) -> tuple[NvidiaCards | None, str]:
    """Return the cards, or None and why they cannot be asked; no reason where there are none.

    Args:
        driver_loaded: Whether the machine has NVIDIA's driver, as Linux tells.
    """
    if not available(_MODULE):
        return None, _ABSENT if driver_loaded else ""
    pynvml = require(_MODULE, "a graphics card's energy")
    try:
        pynvml.nvmlInit()
        cards = NvidiaCards(pynvml)
    except pynvml.NVMLError as error:
        return None, f"NVML does not answer: {error}" if driver_loaded else ""
    return (cards, "") if len(cards) else (None, "")


_SYSTEM = Path("/sys")


class Sensors(Protocol):
    """Something that reads a machine; a recorded one in tests."""

    @property
    def covers(self) -> dict[MeterKind, str]:
        """Return what each meter counts, in words; none where energy cannot be read."""

    def conditions(self) -> MachineConditions:
        """Return clocks, temperatures and load now."""

    def joules(self) -> dict[MeterKind, float]:
        """Return each meter's count; one that does not answer is left out."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count energy until the end."""


@dataclass(frozen=True)
class MachineSensors:
    """The sensors of this machine."""

    system: Path = _SYSTEM
    meters: Mapping[MeterKind, EnergyMeter] = field(default_factory=dict)
    cards: NvidiaCards | None = None
    notes: tuple[str, ...] = ()
    """Why one could not be read, and what to do."""

    @property
    def covers(self) -> dict[MeterKind, str]:
        """Return what each meter counts, in words."""
        return {kind: meter.covers for kind, meter in self.meters.items()}

    def conditions(self) -> MachineConditions:
        """Return clocks, temperatures and load now; a Jetson's graphics clock too."""
        cards = self.cards
        return conditions(self.system).model_copy(
            update={
                "gpu_clock_mhz": board_gpu_mhz(self.system) if cards is None else cards.clock_mhz(),
                "gpu_celsius": None if cards is None else cards.celsius(),
            }
        )

    def joules(self) -> dict[MeterKind, float]:
        """Return each meter's count; one that does not answer is left out."""
        counts = {kind: meter.joules() for kind, meter in self.meters.items()}
        return {kind: count for kind, count in counts.items() if count is not None}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count energy until the end."""
        with ExitStack() as watched:
            for meter in self.meters.values():
                watched.enter_context(meter.watching())
            yield


def open_sensors(system: Path = _SYSTEM) -> MachineSensors:
    """Return what this machine lets be read; the notes say what it does not, and why.

    Args:
        system: Linux's /sys; another folder in tests.
    """
    package, package_note = open_rapl(system)
    board, board_note = open_board(system)
    cards, cards_note = open_cards(driver_loaded=(system / "module/nvidia").is_dir())
    gpu = None if cards is None else cards.meter()
    found: dict[MeterKind, EnergyMeter | None] = {"package": package, "gpu": gpu, "board": board}
    meters = {kind: meter for kind, meter in found.items() if meter is not None}
    notes = [note for note in (package_note, board_note, cards_note) if note]
    if not meters and not notes:
        notes = ["energy: not measured; no RAPL, NVIDIA card or Jetson board is visible here"]
    return MachineSensors(system=system, meters=meters, cards=cards, notes=tuple(notes))


_TABLE = Path("/proc/cpuinfo")
# A Jetson's graphics processor, by the names that its boards give it: Orin's and Xavier's chips
# before JetPack 6, `gpu` since.
_BOARD_GPU = re.compile(r".*\.(gpu|ga10b|gv11b|gp10b)")


def conditions(system: Path) -> MachineConditions:
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
    return MachineConditions(
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
    commit = _query(git, folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _query(git, folder, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+changes" if changed else "")


def _query(git: str, folder: Path, *arguments: str) -> str | None:
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
