"""NVIDIA's cards through NVML: clock, temperature, energy; where `pynvml` is installed already."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from mirnet_edge.bench.meters import PowerMeter
from mirnet_edge.dependencies import available, require

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.bench.meters import Meter

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
            nvml: The module `pynvml`, initialised, or what stands for it in tests.
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

    def meter(self) -> Meter | None:
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
