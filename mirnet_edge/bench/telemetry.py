"""Machine telemetry during a benchmark: energy meters, clocks, temperatures, load.

- CPU: the RAPL counters in Linux's powercap tree, Intel's and AMD's.
- NVIDIA GPUs: NVML.
- Jetson boards: the INA3221 in Linux's hwmon tree, whose power is integrated over time.

All of them measure the whole machine, idle power and other programs included.
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
from mirnet_edge.runtime.machine import select_input_rails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mirnet_edge.bench.record import MeterKind

_INTERVAL_S = 0.1
_INA3221 = "ina3221"
_UNUSED_RAIL = "NC"
_SUM_OF_SHUNTS = 7  # the chip's seventh "voltage" is no rail


class EnergyMeter(Protocol):
    """An energy meter."""

    covers: str
    """The parts of the machine that it measures, as text for reports."""

    def joules(self) -> float | None:
        """Return the energy since a fixed time; None where the meter stopped answering."""

    def watching(self) -> AbstractContextManager[None]:
        """Return a context within which it measures."""


class RaplMeter:
    """The RAPL energy counters of all CPU packages."""

    covers = "CPU package (RAPL: cores, caches, integrated GPU; not the memory)"

    def __init__(self, zones: Sequence[Path]) -> None:
        """Start at zero.

        Args:
            zones: Powercap folders of packages, with energy_uj and max_energy_range_uj.

        Raises:
            OSError: A counter cannot be read.
        """
        self._counters = [_EnergyCounter(zone) for zone in zones]

    def joules(self) -> float | None:
        """Return the energy since the start; None where a counter stopped answering."""
        try:
            return sum(counter.microjoules() for counter in self._counters) / 1e6
        except (OSError, ValueError):
            return None

    def watching(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: the counters run by themselves."""
        return nullcontext()


class _EnergyCounter:
    """A counter that wraps around at its maximum, after about an hour at 70 W.

    It must be read more often than that.
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
    """Energy by integrating power, read ten times a second in its own thread.

    Reading between frames would be biased: just after one, a processor still draws full power.
    """

    def __init__(
        self,
        watts: Callable[[], float | None],
        covers: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the sensor.

        Args:
            watts: Returns the power now, None where the sensor does not answer.
            covers: The parts of the machine that it measures.
            clock: Seconds, rising; replaced in tests.
        """
        self.covers = covers
        self._watts, self._clock = watts, clock
        self._lock = threading.Lock()
        self._joules = 0.0
        self._last: tuple[float, float] | None = None
        self._lost = False

    def sample(self) -> None:
        """Read the power once and add the energy since the last reading."""
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
        """Return the energy of all `watching` contexts; None where the sensor stopped answering."""
        self.sample()
        return None if self._lost else self._joules

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Read the power periodically within the context."""
        ended = threading.Event()

        def read() -> None:
            while not ended.wait(_INTERVAL_S):
                self.sample()

        with self._lock:
            self._last = None  # the energy since the last context is not known
        self.sample()
        thread = threading.Thread(target=read, name="power", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def open_rapl(system: Path) -> tuple[RaplMeter | None, str]:
    """Return the CPU's energy meter, or None and why it cannot be read ("" without RAPL).

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
            "the CPU's energy counters (RAPL) can only be read by root; run as root, or allow it "
            "until the next start: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
        )
    except (OSError, ValueError) as error:
        return None, f"the CPU's energy counter (RAPL) does not answer: {error}"


def open_board(
    system: Path, *, clock: Callable[[], float] = time.monotonic
) -> tuple[PowerMeter | None, str]:
    """Return the energy meter of a Jetson board, or None and why it cannot be read.

    Args:
        system: Linux's /sys.
        clock: Seconds, rising; replaced in tests.
    """
    rails = _rails(system)
    if not rails:
        return None, ""
    chosen = select_input_rails(rails)
    covers = f"board ({chosen[0]})" if len(chosen) == 1 else f"board (sum of {', '.join(chosen)})"

    def watts() -> float | None:
        values = [_watts(*rails[name]) for name in chosen]
        known = [one for one in values if one is not None]
        return sum(known) if len(known) == len(values) else None

    if watts() is None:
        return None, f"the board's power sensor ({_INA3221}: {', '.join(chosen)}) does not answer"
    return PowerMeter(watts, covers, clock=clock), ""


def read_number(path: Path) -> float | None:
    """Return the number in a sensor's file, None where it cannot be read."""
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # some sensors exist and do not answer
        return None


def _rails(system: Path) -> dict[str, tuple[Path, Path]]:
    """Return each power rail's files of voltage (mV) and current (mA), by its name."""
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
    millivolts, milliamperes = read_number(voltage), read_number(current)
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
    f"the GPU's clock, temperature and energy need {_MODULE}, which is not installed; "
    "pip install nvidia-ml-py"
)


class NvidiaGpus:
    """All NVIDIA GPUs of the machine: NVML does not say which one a runner uses."""

    def __init__(self, nvml: Any) -> None:  # noqa: ANN401  # untyped library
        """List the GPUs.

        Args:
            nvml: The module `pynvml`, initialized, or a fake in tests.
        """
        self._nvml = nvml
        count = nvml.nvmlDeviceGetCount()
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(place) for place in range(count)]

    def __len__(self) -> int:
        """Return the number of GPUs."""
        return len(self._handles)

    def clock_mhz(self) -> float | None:
        """Return the mean graphics clock."""
        found = self._query(self._nvml.nvmlDeviceGetClockInfo, self._nvml.NVML_CLOCK_GRAPHICS)
        return round(sum(found) / len(found), 1) if found else None

    def celsius(self) -> float | None:
        """Return the highest temperature."""
        found = self._query(self._nvml.nvmlDeviceGetTemperature, self._nvml.NVML_TEMPERATURE_GPU)
        return max(found) if found else None

    def meter(self) -> EnergyMeter | None:
        """Return their energy meter, None where neither energy nor power can be read."""
        covers = "GPU (NVML)" if len(self) == 1 else f"all {len(self)} GPUs (NVML)"
        if self._query(self._nvml.nvmlDeviceGetTotalEnergyConsumption):
            return _NvmlMeter(self.joules, covers)
        if self.watts() is not None:
            return PowerMeter(self.watts, covers)
        return None

    def joules(self) -> float | None:
        """Return the energy since the driver was loaded."""
        found = self._query(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        return sum(found) / 1e3 if found else None

    def watts(self) -> float | None:
        """Return the power now."""
        found = self._query(self._nvml.nvmlDeviceGetPowerUsage)
        return sum(found) / 1e3 if found else None

    def _query(self, function: Callable[..., Any], *arguments: int) -> list[float]:
        """Return each GPU's value; empty where one has none, because a sum would be short."""
        try:
            return [float(function(handle, *arguments)) for handle in self._handles]
        except self._nvml.NVMLError:  # GPUs before Volta have no energy counter, some no clock
            return []


class _NvmlMeter:
    """The GPUs' own energy counters; 64 bits of millijoules do not wrap around."""

    def __init__(self, joules: Callable[[], float | None], covers: str) -> None:
        self.covers = covers
        self._joules = joules

    def joules(self) -> float | None:
        """Return the energy since the driver was loaded; None where it stopped answering."""
        return self._joules()

    def watching(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: the counters run by themselves."""
        return nullcontext()


def open_gpus(*, driver_loaded: bool) -> tuple[NvidiaGpus | None, str]:
    """Return the NVIDIA GPUs, or None and why they cannot be read ("" where there are none).

    Args:
        driver_loaded: Whether Linux has loaded NVIDIA's driver.
    """
    if not available(_MODULE):
        return None, _ABSENT if driver_loaded else ""
    pynvml = require(_MODULE, "the GPU's energy")
    try:
        pynvml.nvmlInit()
        gpus = NvidiaGpus(pynvml)
    except pynvml.NVMLError as error:
        return None, f"NVML does not answer: {error}" if driver_loaded else ""
    return (gpus, "") if len(gpus) else (None, "")


_SYSTEM = Path("/sys")


class Sensors(Protocol):
    """Sensors of a machine; fakes in tests."""

    @property
    def covers(self) -> dict[MeterKind, str]:
        """The parts of the machine that each energy meter measures; empty without meters."""

    def conditions(self) -> MachineConditions:
        """Return clocks, temperatures and load now."""

    def joules(self) -> dict[MeterKind, float]:
        """Return each meter's energy; one that does not answer is left out."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure energy within the context."""


@dataclass(frozen=True)
class MachineSensors:
    """The sensors of this machine."""

    system: Path = _SYSTEM
    meters: Mapping[MeterKind, EnergyMeter] = field(default_factory=dict)
    gpus: NvidiaGpus | None = None
    notes: tuple[str, ...] = ()
    """Why a sensor could not be read, and what to do."""

    @property
    def covers(self) -> dict[MeterKind, str]:
        """The parts of the machine that each energy meter measures."""
        return {kind: meter.covers for kind, meter in self.meters.items()}

    def conditions(self) -> MachineConditions:
        """Return clocks, temperatures and load now; a Jetson's GPU clock too."""
        gpus = self.gpus
        return read_conditions(self.system).model_copy(
            update={
                "gpu_clock_mhz": board_gpu_mhz(self.system) if gpus is None else gpus.clock_mhz(),
                "gpu_celsius": None if gpus is None else gpus.celsius(),
            }
        )

    def joules(self) -> dict[MeterKind, float]:
        """Return each meter's energy; one that does not answer is left out."""
        counts = {kind: meter.joules() for kind, meter in self.meters.items()}
        return {kind: count for kind, count in counts.items() if count is not None}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure energy within the context."""
        with ExitStack() as watched:
            for meter in self.meters.values():
                watched.enter_context(meter.watching())
            yield


def open_sensors(system: Path = _SYSTEM) -> MachineSensors:
    """Return the sensors that can be read here; the notes say why others cannot.

    Args:
        system: Linux's /sys; another folder in tests.
    """
    package, package_note = open_rapl(system)
    board, board_note = open_board(system)
    gpus, gpus_note = open_gpus(driver_loaded=(system / "module/nvidia").is_dir())
    gpu = None if gpus is None else gpus.meter()
    found: dict[MeterKind, EnergyMeter | None] = {"package": package, "gpu": gpu, "board": board}
    meters = {kind: meter for kind, meter in found.items() if meter is not None}
    notes = [note for note in (package_note, board_note, gpus_note) if note]
    if not meters and not notes:
        notes = ["energy: not measured; no RAPL, NVIDIA GPU or Jetson board is visible here"]
    return MachineSensors(system=system, meters=meters, gpus=gpus, notes=tuple(notes))


_CPUINFO = Path("/proc/cpuinfo")
# A Jetson's GPU: the chip's name on Orin and Xavier before JetPack 6, `gpu` since.
_BOARD_GPU = re.compile(r".*\.(gpu|ga10b|gv11b|gp10b)")


def read_conditions(system: Path) -> MachineConditions:
    """Return load, clock and temperature now; None for what cannot be read.

    Args:
        system: Linux's /sys.
    """
    clocks = [
        khz / 1000.0
        for path in system.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (khz := read_number(path)) is not None
    ] or _cpuinfo_clocks()
    temperatures = [
        millidegrees / 1000.0
        for path in system.glob("class/thermal/thermal_zone*/temp")
        if (millidegrees := read_number(path)) is not None
    ]
    return MachineConditions(
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        clock_mhz=round(sum(clocks) / len(clocks), 1) if clocks else None,
        celsius=round(max(temperatures), 1) if temperatures else None,
    )


def board_gpu_mhz(system: Path) -> float | None:
    """Return the clock of a Jetson's GPU, None where there is none.

    Args:
        system: Linux's /sys.
    """
    for path in sorted(system.glob("class/devfreq/*/cur_freq")):
        hertz = read_number(path) if _BOARD_GPU.fullmatch(path.parent.name) else None
        if hertz is not None:
            return round(hertz / 1e6, 1)
    return None


def affinity() -> list[int] | None:
    """Return the CPU cores this process may use, None where the system has no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return None


def revision() -> str | None:
    """Return the git commit of this package's sources, None where they are not in git."""
    folder = Path(__file__).parents[2]
    git = shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return None
    commit = _run_git(git, folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _run_git(git, folder, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+changes" if changed else "")


def _run_git(git: str, folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            [git, "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # another user's repository, for example
        return None
    return done.stdout.strip()


def _cpuinfo_clocks() -> list[float]:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
