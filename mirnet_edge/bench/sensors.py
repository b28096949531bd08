"""What a machine tells of itself while it works: clocks, temperatures, energy."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mirnet_edge.bench import surroundings
from mirnet_edge.bench.graphics import open_cards
from mirnet_edge.bench.meters import open_board, open_rapl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mirnet_edge.bench.graphics import NvidiaCards
    from mirnet_edge.bench.meters import Meter
    from mirnet_edge.bench.record import Conditions, MeterKind

_SYSTEM = Path("/sys")


class Sensors(Protocol):
    """Something that reads a machine; a recorded one in tests."""

    @property
    def covers(self) -> dict[MeterKind, str]:
        """Return what each meter counts, in words; none where energy cannot be read."""

    def conditions(self) -> Conditions:
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
    meters: Mapping[MeterKind, Meter] = field(default_factory=dict)
    cards: NvidiaCards | None = None
    notes: tuple[str, ...] = ()
    """Why one could not be read, and what to do."""

    @property
    def covers(self) -> dict[MeterKind, str]:
        """Return what each meter counts, in words."""
        return {kind: meter.covers for kind, meter in self.meters.items()}

    def conditions(self) -> Conditions:
        """Return clocks, temperatures and load now; a Jetson's graphics clock too."""
        cards = self.cards
        return surroundings.conditions(self.system).model_copy(
            update={
                "gpu_clock_mhz": surroundings.board_gpu_mhz(self.system)
                if cards is None
                else cards.clock_mhz(),
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
    found: dict[MeterKind, Meter | None] = {"package": package, "gpu": gpu, "board": board}
    meters = {kind: meter for kind, meter in found.items() if meter is not None}
    notes = [note for note in (package_note, board_note, cards_note) if note]
    if not meters and not notes:
        notes = ["energy: not measured; no RAPL, NVIDIA card or Jetson board is visible here"]
    return MachineSensors(system=system, meters=meters, cards=cards, notes=tuple(notes))
