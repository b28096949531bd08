"""The energy that a frame takes, as a report says it: by meter, idle not subtracted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.bench.record import NOT_MEASURED

if TYPE_CHECKING:
    from mirnet_edge.bench.record import MeterKind, Part, Report, Timing

KINDS: tuple[MeterKind, ...] = ("package", "gpu", "board")
_WORDS = {"package": "processor package", "gpu": "graphics card", "board": "board"}


def mj_per_frame(timing: Timing | None, kind: MeterKind) -> float | None:
    """Return the millijoules that one frame took, None where they were not measured.

    Over the sustained run where there is one, else over the loop that was run for it.
    """
    parts = [one for one in parts_of(timing) if kind in one.joules]
    if not parts:
        return None
    return 1e3 * sum(one.joules[kind] for one in parts) / sum(one.runs for one in parts)


def parts_of(timing: Timing | None) -> list[Part]:
    """Return the parts that energy was counted over."""
    if timing is None:
        return []
    return timing.sustained or ([timing.loop] if timing.loop else [])


def watts(part: Part, kind: MeterKind) -> float | None:
    """Return the mean power of a part, None where it was not measured."""
    used = part.joules.get(kind)
    return None if used is None else used / part.seconds


def heading(kind: MeterKind) -> str:
    """Return what a column of millijoules is called."""
    return f"mJ per frame, {_WORDS[kind]}"


def power_heading(kind: MeterKind) -> str:
    """Return what a column of watts is called."""
    return f"W, {_WORDS[kind]}"


def meter_line(report: Report) -> str:
    """Return what is in the figures of energy, or that there are none."""
    if not report.meters:
        return NOT_MEASURED
    covers = "; ".join(report.meters[kind] for kind in KINDS if kind in report.meters)
    return f"{covers}. All that the machine did is in it, idle is not subtracted"
