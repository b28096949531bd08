"""What sustained runs say: whether a row holds its rate, and the figures of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.bench.energy import KINDS, power_heading, watts
from mirnet_edge.bench.line_charts import Axes, Line, line_chart
from mirnet_edge.bench.statistics import DRIFT_LIMIT, FEWEST_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.bench.record import Part, Report, Row, Timing

EXPLAINED = (
    "Each row alone, frame after frame without pause, one row after the other: the next one begins "
    "on the machine that the one before has warmed. Per part of the run; frame times are medians, "
    "frames a second count the pauses for reading sensors too. A rate is held where no part's "
    f"frame takes {DRIFT_LIMIT:.0%} longer than the first part's."
)
Cells = list[tuple[str | float | None, int]]
"""Values of a line, and how many digits each is shown with."""


def last_over_first(parts: Sequence[Part]) -> float | None:
    """Return how much longer the last part's frames took than the first's, as a ratio."""
    return parts[-1].p50_ms / parts[0].p50_ms if len(parts) > 1 else None


def held(parts: Sequence[Part]) -> str:
    """Return a line that says whether the rate was held."""
    ratio = last_over_first(parts)
    if ratio is None:
        return "too short to tell: fewer than two parts"
    fewest = min(part.runs for part in parts)
    if fewest < FEWEST_SAMPLES:
        return f"too slow to tell: a part of {fewest} frames, expected at least {FEWEST_SAMPLES}"
    ratios = [part.p50_ms / parts[0].p50_ms for part in parts]
    slow = [one > 1.0 + DRIFT_LIMIT for one in ratios]
    if slow[-1]:
        # the first of the slow parts that end the run
        began = len(slow) - next(place for place, one in enumerate(reversed(slow)) if not one)
        return f"slows down by {ratio - 1.0:.0%} after {_minutes(parts[began - 1])}"
    worst = max(range(len(ratios)), key=lambda place: ratios[place])
    if slow[worst]:
        return f"slows down by {ratios[worst] - 1.0:.0%} at {_minutes(parts[worst])}, and recovers"
    if ratio < 1.0 / (1.0 + DRIFT_LIMIT):
        return f"becomes {1.0 - ratio:.0%} faster: the machine was busier when the run began"
    return "holds its rate"


def held_lines(report: Report) -> list[str]:
    """Return the verdict of each sustained run."""
    return [
        f"{row.name} {timing.size}, {_minutes(timing.sustained[-1])} without pause: "
        f"{held(timing.sustained)}"
        for row in report.rows
        for timing in row.timings
        if timing.sustained
    ]


def summary(report: Report, size: str) -> tuple[list[str], list[Cells]]:
    """Return headings and, for each row that ran, cells with their digits."""
    heads = [
        "row", "minutes", "first part p50 ms", "last part p50 ms", "last to first",
        "FPS, first part", "FPS, last part", "verdict",
    ]  # fmt: skip
    lines: list[Cells] = []
    for row, timing in _runs(report, size):
        parts = timing.sustained
        first, last = parts[0], parts[-1]
        lines.append(
            [
                (row.name, 0),
                (last.end_s / 60.0, 2),
                (first.p50_ms, 1),
                (last.p50_ms, 1),
                (last_over_first(parts), 3),
                (_fps(first), 1),
                (_fps(last), 1),
                (held(parts), 0),
            ]
        )
    return heads, lines


def details(report: Report, size: str) -> tuple[list[str], list[Cells]]:
    """Return headings and, for each part of each run, cells with their digits."""
    runs = _runs(report, size)
    kinds = [kind for kind in KINDS if kind in report.meters]
    cards = any(
        one is not None
        for _, timing in runs
        for part in timing.sustained
        for one in (part.end.gpu_clock_mhz, part.end.gpu_celsius)
    )
    heads = ["row", "minutes", "p50 ms", "p95 ms", "FPS", "clock MHz", "temperature C"]
    heads += ["graphics clock MHz", "graphics temperature C"] if cards else []
    heads += [power_heading(kind) for kind in kinds] or ["W"]
    lines: list[Cells] = []
    for row, timing in runs:
        for part in timing.sustained:
            end = part.end
            cells: Cells = [
                (row.name, 0), (part.end_s / 60.0, 2), (part.p50_ms, 1), (part.p95_ms, 1),
                (_fps(part), 1), (end.clock_mhz, 0), (end.celsius, 1),
            ]  # fmt: skip
            cells += [(end.gpu_clock_mhz, 0), (end.gpu_celsius, 1)] if cards else []
            cells += [(watts(part, kind), 1) for kind in kinds] or [(None, 0)]
            lines.append(cells)
    return heads, lines


def endurance_chart(report: Report, size: str, css: dict[str, str], *, narrow: bool) -> str:
    """Return each row's frame time over minutes, in percent of its first part; "" where none ran.

    Args:
        report: What was measured.
        size: Of the frames.
        css: The class that colours each kind of row.
        narrow: For phones: numbers where names have no room.
    """
    lines = [
        Line(
            row.name,
            css[row.kind],
            [
                (part.end_s / 60.0, 100.0 * part.p50_ms / timing.sustained[0].p50_ms)
                for part in timing.sustained
            ],
            f"{timing.sustained[-1].p50_ms:.1f} ms",
        )
        for row, timing in _runs(report, size)
    ]
    if not lines:
        return ""
    end = max(x for line in lines for x, _ in line.points)
    ticks = [0.0, *(end * quarter / 4 for quarter in range(1, 5))]
    axes = Axes(
        title=f"Frame time over minutes, {size}",
        caption="frame time, % of the row's first part; lower is better",
        ticks=[(one, f"{one:.3g}") for one in ticks],
        below="minutes",
        unit="% of the first part",
        digits=1,
        edge=100.0 * 2 * DRIFT_LIMIT,
    )
    width, height = (360, 260) if narrow else (1040, 260)
    return line_chart(lines, axes, width, height, numbered=narrow)


def _runs(report: Report, size: str) -> list[tuple[Row, Timing]]:
    return [
        (row, timing)
        for row in report.rows
        for timing in row.timings
        if timing.size == size and timing.sustained
    ]


def _fps(part: Part) -> float:
    return part.runs / part.seconds


def _minutes(part: Part) -> str:
    if part.end_s < 60.0:
        return f"{part.end_s:.0f} s"
    return f"{part.end_s / 60.0:.1f} minutes"
