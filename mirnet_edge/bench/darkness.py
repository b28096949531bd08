"""Quality by how dark the pictures were that went in: a table's cells and a drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.bench.line_charts import Axes, Line, line_chart
from mirnet_edge.bench.statistics import Mean, by_darkness

if TYPE_CHECKING:
    from mirnet_edge.bench.record import Report, Row


def bins_of(report: Report, pairs: str) -> list[tuple[Row, dict[str, Mean]]]:
    """Return each row's means by darkness on one set, the darkest first."""
    return [
        (row, by_darkness(quality))
        for row in report.rows
        for quality in row.quality
        if quality.pairs == pairs
    ]


def darkness_chart(report: Report, pairs: str, css: dict[str, str], *, narrow: bool) -> str:
    """Return each row's PSNR over darkness; "" where no row was measured.

    Args:
        report: What was measured.
        pairs: The set.
        css: The class that colours each kind of row.
        narrow: For phones: numbers where names have no room.
    """
    found = [(row, bins) for row, bins in bins_of(report, pairs) if bins]
    labels = list(dict.fromkeys(label for _, bins in found for label in bins))
    if not labels:
        return ""
    counts = {label: bins[label].pictures for _, bins in found for label in bins}
    lines = [
        Line(
            row.name,
            css[row.kind],
            [(float(labels.index(label)), mean.psnr_db) for label, mean in bins.items()],
        )
        for row, bins in found
    ]
    axes = Axes(
        title=f"Quality by darkness, {pairs}",
        caption="PSNR in dB, higher is better",
        ticks=[
            (float(place), label if narrow else f"{label}: {_pictures(counts[label])}")
            for place, label in enumerate(labels)
        ],
        below="mean luma of what went in",
        unit="dB",
        digits=2,
        edge=0.5,
    )
    width, height = (360, 380) if narrow else (1040, 400)
    return line_chart(lines, axes, width, height, numbered=narrow)


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
