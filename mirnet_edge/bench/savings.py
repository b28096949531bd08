"""What was saved against full MIRNet, whose row has random weights: time and arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.runtime.measure import p50

if TYPE_CHECKING:
    from mirnet_edge.bench.record import Report, Row

HEADINGS = ("times faster", "times fewer MACs")


@dataclass(frozen=True)
class Saving:
    """One of our rows beside the full network at one size."""

    name: str
    times_faster: float
    """The full network's median time over the row's."""
    times_fewer_macs: float | None
    """The full network's multiply-accumulates over the row's; None where either is unknown."""

    @property
    def cells(self) -> list[tuple[str | float | None, int]]:
        """Return what stands in a table under `HEADINGS`, and with how many digits."""
        return [(self.name, 0), (self.times_faster, 1), (self.times_fewer_macs, 0)]


def savings(report: Report, size: str) -> list[Saving]:
    """Return each of our rows beside the full network; none where that was not timed."""
    full = [row for row in report.rows if row.kind == "random weights"]
    if not full or (whole := _median(full[0], size)) is None:
        return []
    macs = full[0].macs_640x480
    return [
        Saving(
            row.name,
            whole / own,
            macs / row.macs_640x480 if macs and row.macs_640x480 else None,
        )
        for row in report.rows
        if row.kind == "bundle" and (own := _median(row, size)) is not None
    ]


def explained(report: Report, size: str) -> str:
    """Return what the ratios are against."""
    full = next(row for row in report.rows if row.kind == "random weights")
    timing = next(one for one in full.timings if one.size == size)
    runs = len(timing.samples_ms)
    macs = "" if full.macs_640x480 is None else f", {full.macs_640x480 / 1e9:.0f} GMACs at 640x480"
    return (
        f"Full MIRNet takes {p50(timing.samples_ms) / 1e3:.3g} s a frame here (random weights, for "
        f"latency only; by torch; the median of {runs} runs{macs})."
    )


def _median(row: Row, size: str) -> float | None:
    return next((p50(one.samples_ms) for one in row.timings if one.size == size), None)
