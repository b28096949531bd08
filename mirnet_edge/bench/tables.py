"""Tables of a benchmark report: latency, energy, speedup, quality, sustained rate; CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.bench import statistics
from mirnet_edge.bench.charts import ChartAxes, ChartLine, line_chart
from mirnet_edge.bench.record import (
    NOT_MEASURED,
    LatencyTiming,
    MachineConditions,
    MeterKind,
    Report,
    ReportRow,
)
from mirnet_edge.bench.statistics import DRIFT_LIMIT, FEWEST_SAMPLES
from mirnet_edge.runtime.measure import p50, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.bench.record import LatencyTiming, MeterKind, Report, ReportRow, SustainedPart

KINDS: tuple[MeterKind, ...] = ("package", "gpu", "board")
_WORDS = {"package": "processor package", "gpu": "graphics card", "board": "board"}


def mj_per_frame(timing: LatencyTiming | None, kind: MeterKind) -> float | None:
    """Return the millijoules that one frame took, None where they were not measured.

    Over the sustained run where there is one, else over the loop that was run for it.
    """
    parts = [one for one in parts_of(timing) if kind in one.joules]
    if not parts:
        return None
    return 1e3 * sum(one.joules[kind] for one in parts) / sum(one.runs for one in parts)


def parts_of(timing: LatencyTiming | None) -> list[SustainedPart]:
    """Return the parts that energy was counted over."""
    if timing is None:
        return []
    return timing.sustained or ([timing.loop] if timing.loop else [])


def watts(part: SustainedPart, kind: MeterKind) -> float | None:
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


HEADINGS = ("times faster", "times fewer MACs")


@dataclass(frozen=True)
class Speedup:
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


def speedups(report: Report, size: str) -> list[Speedup]:
    """Return each of our rows beside the full network; none where that was not timed."""
    full = [row for row in report.rows if row.kind == "random weights"]
    if not full or (whole := _median(full[0], size)) is None:
        return []
    macs = full[0].macs_640x480
    return [
        Speedup(
            row.name,
            whole / own,
            macs / row.macs_640x480 if macs and row.macs_640x480 else None,
        )
        for row in report.rows
        if row.kind == "bundle" and (own := _median(row, size)) is not None
    ]


def describe_speedups(report: Report, size: str) -> str:
    """Return what the ratios are against."""
    full = next(row for row in report.rows if row.kind == "random weights")
    timing = next(one for one in full.timings if one.size == size)
    runs = len(timing.samples_ms)
    macs = "" if full.macs_640x480 is None else f", {full.macs_640x480 / 1e9:.0f} GMACs at 640x480"
    return (
        f"Full MIRNet takes {p50(timing.samples_ms) / 1e3:.3g} s a frame here (random weights, for "
        f"latency only; by torch; the median of {runs} runs{macs})."
    )


def _median(row: ReportRow, size: str) -> float | None:
    return next((p50(one.samples_ms) for one in row.timings if one.size == size), None)


Cell = str | int | float | None


@dataclass(frozen=True)
class TableColumn:
    """One figure of the table."""

    key: str
    """In CSV, with its unit."""
    heading: str
    digits: int = 0


LATENCY = (
    TableColumn("p50_ms", "p50 ms", 1),
    TableColumn("p90_ms", "p90 ms", 1), TableColumn("p95_ms", "p95 ms", 1),
    TableColumn("p99_ms", "p99 ms", 1), TableColumn("fps", "FPS", 1), TableColumn("runs", "runs"),
    TableColumn("before_ms", "before ms", 2), TableColumn("network_ms", "network ms", 1),
    TableColumn("after_ms", "after ms", 2), TableColumn("cold_start_ms", "cold start ms"),
    TableColumn("peak_memory_mib", "memory MiB"),
)  # fmt: skip
MODEL = (
    TableColumn("mib_on_disk", "on disk MiB", 2),
    TableColumn("gmacs_640x480", "GMACs at 640x480", 2),
)
QUALITY = (
    TableColumn("images", "images"), TableColumn("psnr_db", "PSNR dB", 2),
    TableColumn("psnr_gtmean_db", "at equal brightness dB", 2), TableColumn("ssim", "SSIM", 3),
    TableColumn("mae", "MAE", 4), TableColumn("worst_db", "worst dB", 2),
    TableColumn("worst_image", "worst image"), TableColumn("drop_db", "lost to fp32 dB", 3),
)  # fmt: skip
_NO_ENERGY = (TableColumn("mj_per_frame", "mJ per frame"),)
_LAST_TO_FIRST = "sustained_last_to_first"
FLICKER = (
    "How much more the luma of what stands still varies over time than in the source, each frame "
    "restored by itself: 1 is as steady as the source, below 1 steadier."
)


def flicker_cells(row: ReportRow, report: Report) -> list[Cell]:
    """Return a row's flicker on each clip of the report; None where not measured."""
    known = {one.clip: one.ratio for one in row.flicker}
    return [known.get(clip.name) for clip in report.clips]


def clip_headings(report: Report) -> list[str]:
    """Return what each clip is called above a column."""
    return [f"{one.name} ({one.frames} of {one.width}x{one.height})" for one in report.clips]


def latency_cells(timing: LatencyTiming | None) -> dict[str, Cell]:
    """Return a row's times at one size, by column key; None where not measured."""
    if timing is None:
        return dict.fromkeys((column.key for column in LATENCY), None)
    samples, stages = timing.samples_ms, timing.stages
    cells: dict[str, Cell] = {f"p{q}_ms": percentile(samples, q) for q in (50, 90, 95, 99)}
    return cells | {
        "fps": 1000.0 / percentile(samples, 50),
        "runs": len(samples),
        "before_ms": stages.before_ms if stages else None,
        "network_ms": stages.network_ms if stages else None,
        "after_ms": stages.after_ms if stages else None,
        "cold_start_ms": timing.cold_start_ms,
        "peak_memory_mib": timing.peak_memory_mib,
    }


def model_cells(row: ReportRow) -> dict[str, Cell]:
    """Return the size of a row's model, by column key; None where it has none."""
    return {
        "mib_on_disk": None if row.bytes_on_disk is None else row.bytes_on_disk / 2**20,
        "gmacs_640x480": None if row.macs_640x480 is None else row.macs_640x480 / 1e9,
    }


def energy_columns(report: Report) -> tuple[TableColumn, ...]:
    """Return a column for each meter of the report, and one where there was none."""
    kinds = [kind for kind in KINDS if kind in report.meters]
    return tuple(TableColumn(_energy_key(kind), heading(kind), 1) for kind in kinds) or _NO_ENERGY


def energy_cells(timing: LatencyTiming | None) -> dict[str, Cell]:
    """Return what a frame took at one size, by column key; None where not measured."""
    cells: dict[str, Cell] = {_energy_key(kind): mj_per_frame(timing, kind) for kind in KINDS}
    return cells | {column.key: None for column in _NO_ENERGY}


def quality_cells(row: ReportRow, rows: Sequence[ReportRow], pairs: str) -> dict[str, Cell]:
    """Return a row's figures on one set, by column key; None where not measured."""
    for quality in row.quality:
        mean = statistics.mean_quality(quality)
        if quality.pairs == pairs and mean is not None:
            cells: dict[str, Cell] = {
                column.key: getattr(mean, column.key)
                for column in QUALITY
                if column.key != "drop_db"
            }
            return cells | {"drop_db": statistics.drop_db(row, rows, pairs)}
    return dict.fromkeys((column.key for column in QUALITY), None)


def format_value(value: Cell, digits: int = 0) -> str:
    """Return a figure as people read it."""
    if value is None:
        return NOT_MEASURED
    return value if isinstance(value, str) else f"{value:.{digits}f}"


def to_csv(report: Report) -> str:
    """Return one line for each row, size and set of images; an unknown figure says so."""
    text = io.StringIO()
    keys = [column.key for column in (*LATENCY, *MODEL, *QUALITY)]
    keys += [*map(_energy_key, KINDS), _LAST_TO_FIRST]
    clips = [f"flicker_{clip.name}" for clip in report.clips]
    heads = ["row", "kind", "task", "backend", "precision", "state", "note", "sha256", "size"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heads, "stable", "pairs", *keys, *clips])
    for row in report.rows:
        known: Sequence[LatencyTiming | None] = row.timings or [None]
        for timing in known:
            sets: Sequence[str | None] = [quality.pairs for quality in row.quality] or [None]
            for pairs in sets:
                cells = latency_cells(timing) | model_cells(row) | energy_cells(timing)
                cells[_LAST_TO_FIRST] = last_over_first(timing.sustained) if timing else None
                cells |= quality_cells(row, report.rows, pairs or "")
                facts = [
                    row.name, row.kind, row.task, row.backend, row.precision, row.state, row.note,
                    row.sha256, timing.size if timing else None,
                    statistics.assess_stability(timing).stable if timing else None, pairs,
                ]  # fmt: skip
                everything = [*facts, *(cells[key] for key in keys), *flicker_cells(row, report)]
                writer.writerow([NOT_MEASURED if one is None else one for one in everything])
    return text.getvalue()


def notes(report: Report) -> list[str]:
    """Return what a reader must know: what is missing, what cannot be believed, and why."""
    lines = [
        f"{row.name}: {row.state + ': ' if row.state != 'measured' else ''}{row.note}"
        for row in report.rows
        if row.note
    ]
    lines += report.sensor_notes
    lines += [f"{clip.name}: {clip.note}" for clip in report.clips if clip.note]
    for row in report.rows:
        lines += [f"{row.name}, {one.clip}: {one.note}" for one in row.flicker if one.note]
        for timing in row.timings:
            found = statistics.assess_stability(timing)
            if not found.stable:
                lines.append(
                    f"{row.name} {timing.size}: unstable: {'; '.join(found.reasons)}. "
                    f"What to do: {found.advice}"
                )
    return lines


def machine_lines(report: Report) -> list[tuple[str, str]]:
    """Return the facts of machine and method, as (name, value)."""
    machine, settings = report.machine, report.settings
    tools = ", ".join(f"{name} {version}" for name, version in report.tools.items())
    threads = "each backend's own choice" if settings.threads is None else str(settings.threads)
    affinity = NOT_MEASURED
    if settings.affinity is not None:
        affinity = ", ".join(map(str, settings.affinity))
    method = f"{settings.rounds} rounds, rows in turns, {settings.row_seconds:g} s a row"
    if settings.sustained_minutes is not None:
        method += f"; then {settings.sustained_minutes:g} minutes of one row without pause"
    return [
        ("processor", f"{machine.processor}, {machine.cores} cores usable"),
        ("instructions", ", ".join(machine.instructions) or "none known"),
        ("system", f"{machine.system}, Python {machine.python}"),
        ("threads", threads),
        ("processors allowed", affinity),
        ("before", _format_reason(report.before)),
        ("after", _format_reason(report.after)),
        ("versions", tools),
        ("commit", report.revision or "unknown"),
        ("method", method),
        ("energy", meter_line(report)),
        ("command", settings.command),
    ]


def _energy_key(kind: MeterKind) -> str:
    return f"mj_per_frame_{kind}"


def _format_reason(state: MachineConditions) -> str:
    figures = (("load", state.load, ""), ("clock", state.clock_mhz, " MHz"),
               ("temperature", state.celsius, " C"))  # fmt: skip
    cards = (("graphics clock", state.gpu_clock_mhz, " MHz"),
             ("graphics temperature", state.gpu_celsius, " C"))  # fmt: skip
    known = (*figures, *(one for one in cards if one[1] is not None))
    return ", ".join(
        f"{name} {NOT_MEASURED if value is None else f'{value:g}{unit}'}"
        for name, value, unit in known
    )


EXPLAINED = (
    "Each row alone, frame after frame without pause, one row after the other: the next one begins "
    "on the machine that the one before has warmed. Per part of the run; frame times are medians, "
    "frames a second count the pauses for reading sensors too. A rate is held where no part's "
    f"frame takes {DRIFT_LIMIT:.0%} longer than the first part's."
)
Cells = list[tuple[str | float | None, int]]
"""Values of a line, and how many digits each is shown with."""


def last_over_first(parts: Sequence[SustainedPart]) -> float | None:
    """Return how much longer the last part's frames took than the first's, as a ratio."""
    return parts[-1].p50_ms / parts[0].p50_ms if len(parts) > 1 else None


def describe_sustained_rate(parts: Sequence[SustainedPart]) -> str:
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


def sustained_rate_lines(report: Report) -> list[str]:
    """Return the verdict of each sustained run."""
    return [
        f"{row.name} {timing.size}, {_minutes(timing.sustained[-1])} without pause: "
        f"{describe_sustained_rate(timing.sustained)}"
        for row in report.rows
        for timing in row.timings
        if timing.sustained
    ]


def sustained_summary(report: Report, size: str) -> tuple[list[str], list[Cells]]:
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
                (describe_sustained_rate(parts), 0),
            ]
        )
    return heads, lines


def sustained_details(report: Report, size: str) -> tuple[list[str], list[Cells]]:
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


def sustained_chart(report: Report, size: str, css: dict[str, str], *, narrow: bool) -> str:
    """Return each row's frame time over minutes, in percent of its first part; "" where none ran.

    Args:
        report: What was measured.
        size: Of the frames.
        css: The class that colors each kind of row.
        narrow: For phones: numbers where names have no room.
    """
    lines = [
        ChartLine(
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
    axes = ChartAxes(
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


def _runs(report: Report, size: str) -> list[tuple[ReportRow, LatencyTiming]]:
    return [
        (row, timing)
        for row in report.rows
        for timing in row.timings
        if timing.size == size and timing.sustained
    ]


def _fps(part: SustainedPart) -> float:
    return part.runs / part.seconds


def _minutes(part: SustainedPart) -> str:
    if part.end_s < 60.0:
        return f"{part.end_s:.0f} s"
    return f"{part.end_s / 60.0:.1f} minutes"
