"""Charts of a benchmark report: quality against latency, latency, quality by darkness, sustained.

Each takes `narrow` for phones, where entries are numbered instead of named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.bench.statistics import (
    DARKNESS_LABELS,
    DRIFT_LIMIT,
    by_darkness,
    median_latencies,
    pareto,
    psnr_of,
    sustained_runs,
)
from mirnet_edge.charts import (
    ChartAxis,
    ChartPoint,
    ChartSamples,
    ChartSeries,
    distribution_chart,
    line_chart,
    scatter_chart,
)
from mirnet_edge.runtime.measure import p50

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.bench.record import EntryKind, Report, ReportRow
    from mirnet_edge.bench.statistics import QualityMean
    from mirnet_edge.charts import Chart, ChartStyle

STYLE_OF_KIND: dict[EntryKind, ChartStyle] = {
    "bundle": "primary", "competitor": "secondary", "baseline": "muted",
    "random weights": "accent",
}  # fmt: skip
_WIDE, _NARROW = 1040, 360


def quality_points(report: Report, size: str, pairs: str) -> list[ChartPoint]:
    """Return a point of median latency and mean PSNR for each entry that has both."""
    latencies = median_latencies(report, size)
    return [
        ChartPoint(
            row.name,
            latencies[row.name],
            psnr_db,
            STYLE_OF_KIND[row.kind],
            f"{row.name}: {latencies[row.name]:.1f} ms, {psnr_db:.2f} dB",
        )
        for row in report.rows
        if row.name in latencies and (psnr_db := psnr_of(row, pairs)) is not None
    ]


def pareto_chart(report: Report, size: str, pairs: str, *, narrow: bool) -> Chart | None:
    """Return PSNR against latency with the Pareto front; None where no entry has both."""
    points = quality_points(report, size, pairs)
    if not points:
        return None
    return scatter_chart(
        f"Quality against latency, {size}",
        points,
        ChartAxis(label="latency p50", log=True, format=format_duration),
        ChartAxis(label="PSNR (dB), higher is better", padding=0.5),
        size=(_NARROW, 380) if narrow else (_WIDE, 460),
        front=pareto([(one.x, one.y) for one in points]),
        numbered=narrow,
    )


def latency_chart(report: Report, size: str, *, narrow: bool) -> Chart | None:
    """Return the latency of every run of every entry; None where none was timed at SIZE."""
    rows = [
        ChartSamples(row.name, timing.samples_ms, STYLE_OF_KIND[row.kind])
        for row in report.rows
        for timing in row.timings
        if timing.size == size
    ]
    if not rows:
        return None
    return distribution_chart(
        f"Latency of every run, {size}",
        sorted(rows, key=lambda one: p50(one.values)),
        ChartAxis(label="latency", log=True, format=format_duration),
        width=_NARROW if narrow else _WIDE,
        narrow=narrow,
    )


def rows_by_darkness(report: Report, pairs: str) -> list[tuple[ReportRow, dict[str, QualityMean]]]:
    """Return the entries measured on a pair set with their means by darkness, darkest first."""
    return [
        (row, bins)
        for row in report.rows
        for quality in row.quality
        if quality.pairs == pairs and (bins := by_darkness(quality))
    ]


def count_by_darkness(rows: Sequence[tuple[ReportRow, dict[str, QualityMean]]]) -> dict[str, int]:
    """Return the number of images in each bin that some entry has, darkest first."""
    counts = {label: mean.images for _, bins in rows for label, mean in bins.items()}
    return {label: counts[label] for label in DARKNESS_LABELS if label in counts}


def darkness_chart(report: Report, pairs: str, *, narrow: bool) -> Chart | None:
    """Return each entry's PSNR over the brightness of the input; None where none was measured."""
    rows = rows_by_darkness(report, pairs)
    if not rows:
        return None
    counts = count_by_darkness(rows)
    labels = list(counts)
    return line_chart(
        f"Quality by input brightness, {pairs}",
        [
            ChartSeries(
                row.name,
                [(float(labels.index(label)), mean.psnr_db) for label, mean in bins.items()],
                STYLE_OF_KIND[row.kind],
            )
            for row, bins in rows
        ],
        ChartAxis(
            label="mean luma of the input",
            ticks=[
                (float(index), label if narrow else f"{label}: {_count_images(counts[label])}")
                for index, label in enumerate(labels)
            ],
        ),
        ChartAxis(label="PSNR (dB), higher is better", padding=0.5, format="{:.4g}".format),
        size=(_NARROW, 380) if narrow else (_WIDE, 400),
        numbered=narrow,
    )


def sustained_chart(report: Report, size: str, *, narrow: bool) -> Chart | None:
    """Return latency over minutes, in percent of each entry's first part; None where none ran."""
    runs = sustained_runs(report, size)
    if not runs:
        return None
    end = max(timing.sustained[-1].end_s for _, timing in runs) / 60.0
    return line_chart(
        f"Sustained latency, {size}",
        [
            ChartSeries(
                row.name,
                [
                    (part.end_s / 60.0, 100.0 * part.p50_ms / timing.sustained[0].p50_ms)
                    for part in timing.sustained
                ],
                STYLE_OF_KIND[row.kind],
                f"{timing.sustained[-1].p50_ms:.1f} ms",
            )
            for row, timing in runs
        ],
        ChartAxis(
            label="minutes",
            ticks=[(end * quarter / 4, f"{end * quarter / 4:.3g}") for quarter in range(5)],
        ),
        ChartAxis(
            label="latency, % of the first part; lower is better",
            padding=100.0 * 2 * DRIFT_LIMIT,
            format="{:.4g}".format,
        ),
        size=(_NARROW if narrow else _WIDE, 260),
        numbered=narrow,
    )


def format_duration(milliseconds: float) -> str:
    """Return a duration with its unit, ms or s."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.3g} s"
    return f"{milliseconds:.3g} ms"


def _count_images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
