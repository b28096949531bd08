"""Tables of a benchmark report, as Markdown and HTML render them, and as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.bench import statistics
from mirnet_edge.bench.charts import count_by_darkness, rows_by_darkness
from mirnet_edge.bench.record import NOT_MEASURED, MeterKind
from mirnet_edge.bench.statistics import (
    DRIFT_LIMIT,
    FEWEST_SAMPLES,
    energy_per_frame_mj,
    last_to_first,
    power_w,
    sustained_runs,
)
from mirnet_edge.runtime.measure import p50, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.bench.record import (
        LatencyTiming,
        MachineConditions,
        Report,
        ReportRow,
        SustainedPart,
    )

Cell = str | int | float | None
"""A value of a table; None where it was not measured."""


@dataclass(frozen=True)
class TableColumn:
    """A metric of a table."""

    key: str
    """Name of the CSV column, with its unit."""
    heading: str
    digits: int = 0


@dataclass(frozen=True)
class ReportTable:
    """A table whose values are text already."""

    headings: tuple[str, ...]
    lines: list[list[str]]


METER_KINDS: tuple[MeterKind, ...] = ("package", "gpu", "board")
_METER_NAMES = {"package": "CPU package", "gpu": "GPU", "board": "board"}
LATENCY = (
    TableColumn("p50_ms", "latency p50 (ms)", 1), TableColumn("p90_ms", "p90 (ms)", 1),
    TableColumn("p95_ms", "p95 (ms)", 1), TableColumn("p99_ms", "p99 (ms)", 1),
    TableColumn("fps", "throughput (fps)", 1), TableColumn("runs", "runs"),
    TableColumn("preprocess_ms", "preprocess (ms)", 2),
    TableColumn("inference_ms", "inference (ms)", 1),
    TableColumn("postprocess_ms", "postprocess (ms)", 2),
    TableColumn("cold_start_ms", "cold start (ms)"),
    TableColumn("peak_memory_mib", "peak memory (MiB)"),
)  # fmt: skip
MODEL = (
    TableColumn("mib_on_disk", "size on disk (MiB)", 2),
    TableColumn("gmacs_640x480", "GMACs at 640x480", 2),
)
QUALITY = (
    TableColumn("images", "images"), TableColumn("psnr_db", "PSNR (dB)", 2),
    TableColumn("psnr_gtmean_db", "brightness-matched PSNR (dB)", 2),
    TableColumn("ssim", "SSIM", 3), TableColumn("mae", "MAE", 4),
    TableColumn("worst_db", "worst PSNR (dB)", 2), TableColumn("worst_image", "worst image"),
    TableColumn("drop_db", "accuracy drop (dB)", 3),
)  # fmt: skip
_NO_ENERGY = (TableColumn("mj_per_frame", "energy per frame (mJ)"),)
_LAST_TO_FIRST = "sustained_last_to_first"
FLICKER_NOTE = (
    "How much more the luma of static blocks varies over time than in the source, with each frame "
    "restored by itself: 1 is as steady as the source, below 1 steadier."
)
SUSTAINED_NOTE = (
    "Each entry alone, frame after frame without pause, one entry after the other: the next one "
    "starts on a machine that the one before has warmed up. Per part of the run; latency is the "
    "median, throughput includes the pauses for reading sensors. The rate is held where no part's "
    f"latency exceeds the first part's by more than {DRIFT_LIMIT:.0%}."
)


def latency_table(report: Report, size: str) -> ReportTable:
    """Return latency, model size and energy of each entry at SIZE; * marks unstable latency."""
    columns = (*LATENCY, *MODEL, *energy_columns(report))
    lines = []
    for row in report.rows:
        timing = next((one for one in row.timings if one.size == size), None)
        cells = latency_cells(timing) | model_cells(row) | energy_cells(timing)
        mark = "" if timing is None or statistics.assess_stability(timing).stable else " *"
        lines.append([row.name + mark, *_format_cells(cells, columns)])
    return _table(columns, lines)


def quality_table(report: Report, pairs: str) -> ReportTable:
    """Return the quality metrics of each entry on a pair set."""
    lines = [
        [row.name, *_format_cells(quality_cells(row, report.rows, pairs), QUALITY)]
        for row in report.rows
    ]
    return _table(QUALITY, lines)


def darkness_table(report: Report, pairs: str) -> ReportTable | None:
    """Return each entry's PSNR by brightness of the input; None where none was measured."""
    rows = rows_by_darkness(report, pairs)
    if not rows:
        return None
    counts = count_by_darkness(rows)
    lines = [
        [row.name, *(format_value(bins[one].psnr_db if one in bins else None, 2) for one in counts)]
        for row, bins in rows
    ]
    return ReportTable(
        ("entry, PSNR (dB)", *(f"{label} ({count})" for label, count in counts.items())), lines
    )


def flicker_table(report: Report) -> ReportTable:
    """Return each entry's flicker on each clip."""
    headings = [f"{one.name} ({one.frames} of {one.width}x{one.height})" for one in report.clips]
    lines = [
        [row.name, *(format_value(cell, 2) for cell in flicker_cells(row, report))]
        for row in report.rows
    ]
    return ReportTable(("entry", *headings), lines)


def speedup_table(report: Report, size: str) -> ReportTable | None:
    """Return each bundle entry's speedup over full MIRNet; None where that was not timed."""
    latencies = statistics.median_latencies(report, size)
    full = next((row for row in report.rows if row.kind == "random weights"), None)
    if full is None or full.name not in latencies:
        return None
    lines = [
        [
            row.name,
            format_value(latencies[full.name] / latencies[row.name], 1),
            format_value(
                full.macs_640x480 / row.macs_640x480
                if full.macs_640x480 and row.macs_640x480
                else None
            ),
        ]
        for row in report.rows
        if row.kind == "bundle" and row.name in latencies
    ]
    return ReportTable(("entry", "speedup (x)", "fewer MACs (x)"), lines) if lines else None


def describe_speedup(report: Report, size: str) -> str:
    """Return a sentence about the full network that speedups refer to."""
    full = next(row for row in report.rows if row.kind == "random weights")
    timing = next(one for one in full.timings if one.size == size)
    macs = "" if full.macs_640x480 is None else f", {full.macs_640x480 / 1e9:.0f} GMACs at 640x480"
    return (
        f"Against full MIRNet: {p50(timing.samples_ms) / 1e3:.3g} s per frame here (random "
        f"weights, for latency only; run by torch; median of {len(timing.samples_ms)} runs{macs})."
    )


def sustained_table(report: Report, size: str) -> ReportTable | None:
    """Return first and last part of each sustained run; None where there was none."""
    runs = sustained_runs(report, size)
    if not runs:
        return None
    headings = (
        "entry", "duration (min)", "first part p50 (ms)", "last part p50 (ms)", "last to first",
        "throughput, first part (fps)", "throughput, last part (fps)", "rate",
    )  # fmt: skip
    lines = []
    for row, timing in runs:
        first, last = timing.sustained[0], timing.sustained[-1]
        values: list[tuple[Cell, int]] = [
            (row.name, 0), (last.end_s / 60.0, 2), (first.p50_ms, 1), (last.p50_ms, 1),
            (last_to_first(timing.sustained), 3), (_fps(first), 1), (_fps(last), 1),
            (describe_sustained_rate(timing.sustained), 0),
        ]  # fmt: skip
        lines.append([format_value(*one) for one in values])
    return ReportTable(headings, lines)


def sustained_parts_table(report: Report, size: str) -> ReportTable:
    """Return every part of each sustained run, with clocks, temperatures and power."""
    runs = sustained_runs(report, size)
    kinds = [kind for kind in METER_KINDS if kind in report.meters]
    has_gpu = any(
        one is not None
        for _, timing in runs
        for part in timing.sustained
        for one in (part.conditions.gpu_clock_mhz, part.conditions.gpu_celsius)
    )
    headings = [
        "entry", "minutes", "latency p50 (ms)", "p95 (ms)", "throughput (fps)", "clock (MHz)",
        "temperature (C)",
    ]  # fmt: skip
    headings += ["GPU clock (MHz)", "GPU temperature (C)"] if has_gpu else []
    headings += [f"power, {_METER_NAMES[kind]} (W)" for kind in kinds] or ["power (W)"]
    lines = []
    for row, timing in runs:
        for part in timing.sustained:
            found = part.conditions
            values: list[tuple[Cell, int]] = [
                (row.name, 0), (part.end_s / 60.0, 2), (part.p50_ms, 1), (part.p95_ms, 1),
                (_fps(part), 1), (found.clock_mhz, 0), (found.celsius, 1),
            ]  # fmt: skip
            values += [(found.gpu_clock_mhz, 0), (found.gpu_celsius, 1)] if has_gpu else []
            values += [(power_w(part, kind), 1) for kind in kinds] or [(None, 0)]
            lines.append([format_value(*one) for one in values])
    return ReportTable(tuple(headings), lines)


def latency_cells(timing: LatencyTiming | None) -> dict[str, Cell]:
    """Return an entry's latency at one size by column key."""
    if timing is None:
        return dict.fromkeys((column.key for column in LATENCY), None)
    samples, stages = timing.samples_ms, timing.stages
    cells: dict[str, Cell] = {f"p{q}_ms": percentile(samples, q) for q in (50, 90, 95, 99)}
    return cells | {
        "fps": 1000.0 / p50(samples),
        "runs": len(samples),
        "preprocess_ms": stages.preprocess_ms if stages else None,
        "inference_ms": stages.inference_ms if stages else None,
        "postprocess_ms": stages.postprocess_ms if stages else None,
        "cold_start_ms": timing.cold_start_ms,
        "peak_memory_mib": timing.peak_memory_mib,
    }


def model_cells(row: ReportRow) -> dict[str, Cell]:
    """Return the size of an entry's model by column key."""
    return {
        "mib_on_disk": None if row.bytes_on_disk is None else row.bytes_on_disk / 2**20,
        "gmacs_640x480": None if row.macs_640x480 is None else row.macs_640x480 / 1e9,
    }


def energy_columns(report: Report) -> tuple[TableColumn, ...]:
    """Return a column for each energy meter of the report, or one where there was none."""
    return (
        tuple(
            TableColumn(_energy_key(kind), f"energy per frame, {_METER_NAMES[kind]} (mJ)", 1)
            for kind in METER_KINDS
            if kind in report.meters
        )
        or _NO_ENERGY
    )


def energy_cells(timing: LatencyTiming | None) -> dict[str, Cell]:
    """Return an entry's energy per frame at one size by column key."""
    cells: dict[str, Cell] = {
        _energy_key(kind): energy_per_frame_mj(timing, kind) for kind in METER_KINDS
    }
    return cells | {column.key: None for column in _NO_ENERGY}


def quality_cells(row: ReportRow, rows: Sequence[ReportRow], pairs: str) -> dict[str, Cell]:
    """Return an entry's quality metrics on a pair set by column key."""
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


def flicker_cells(row: ReportRow, report: Report) -> list[Cell]:
    """Return an entry's flicker on each clip of the report."""
    known = {one.clip: one.ratio for one in row.flicker}
    return [known.get(clip.name) for clip in report.clips]


def format_value(value: Cell, digits: int = 0) -> str:
    """Return the text of a cell."""
    if value is None:
        return NOT_MEASURED
    return value if isinstance(value, str) else f"{value:.{digits}f}"


def to_csv(report: Report) -> str:
    """Return a line for each entry, size and pair set; missing values say "not measured"."""
    text = io.StringIO()
    keys = [column.key for column in (*LATENCY, *MODEL, *QUALITY)]
    keys += [*map(_energy_key, METER_KINDS), _LAST_TO_FIRST]
    clips = [f"flicker_{clip.name}" for clip in report.clips]
    heads = ["entry", "kind", "task", "backend", "precision", "state", "note", "sha256", "size"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heads, "stable", "pairs", *keys, *clips])
    for row in report.rows:
        timings: Sequence[LatencyTiming | None] = row.timings or [None]
        pair_sets: Sequence[str | None] = [one.pairs for one in row.quality] or [None]
        for timing in timings:
            for pairs in pair_sets:
                cells = latency_cells(timing) | model_cells(row) | energy_cells(timing)
                cells[_LAST_TO_FIRST] = last_to_first(timing.sustained) if timing else None
                cells |= quality_cells(row, report.rows, pairs or "")
                facts = [
                    row.name, row.kind, row.task, row.backend, row.precision, row.state, row.note,
                    row.sha256, timing.size if timing else None,
                    statistics.assess_stability(timing).stable if timing else None, pairs,
                ]  # fmt: skip
                values = [*facts, *(cells[key] for key in keys), *flicker_cells(row, report)]
                writer.writerow([NOT_MEASURED if one is None else one for one in values])
    return text.getvalue()


def report_notes(report: Report) -> list[str]:
    """Return remarks: what is missing or failed, unreadable sensors, unstable measurements."""
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


def machine_facts(report: Report) -> list[tuple[str, str]]:
    """Return machine, versions and method as (name, value)."""
    machine, settings = report.machine, report.settings
    affinity = NOT_MEASURED
    if settings.affinity is not None:
        affinity = ", ".join(map(str, settings.affinity))
    method = f"{settings.rounds} rounds, entries in turns, at most {settings.row_seconds:g} s each"
    if settings.sustained_minutes is not None:
        method += f"; then {settings.sustained_minutes:g} minutes of each entry without pause"
    return [
        ("processor", f"{machine.processor}, {machine.cores} cores usable"),
        ("instructions", ", ".join(machine.instructions) or "none known"),
        ("system", f"{machine.system}, Python {machine.python}"),
        ("threads", str(settings.threads or "each backend's default")),
        ("CPU affinity", affinity),
        ("before", _describe_conditions(report.conditions_before)),
        ("after", _describe_conditions(report.conditions_after)),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
        ("commit", report.revision or "unknown"),
        ("method", method),
        ("energy", describe_meters(report)),
        ("command", settings.command),
    ]


def describe_meters(report: Report) -> str:
    """Return what the energy values include, or that there are none."""
    if not report.meters:
        return NOT_MEASURED
    covers = "; ".join(report.meters[kind] for kind in METER_KINDS if kind in report.meters)
    return f"{covers}. Includes all that the machine did; idle power is not subtracted"


def describe_sustained_rate(parts: Sequence[SustainedPart]) -> str:
    """Return whether a sustained run held its rate, and when it slowed down."""
    ratio = last_to_first(parts)
    if ratio is None:
        return "not known: fewer than two parts"
    fewest = min(part.runs for part in parts)
    if fewest < FEWEST_SAMPLES:
        return f"not known: a part of {fewest} frames, expected at least {FEWEST_SAMPLES}"
    ratios = [part.p50_ms / parts[0].p50_ms for part in parts]
    slow = [one > 1.0 + DRIFT_LIMIT for one in ratios]
    if slow[-1]:
        # the first of the slow parts that end the run
        started = len(slow) - slow[::-1].index(False)
        return f"slows down by {ratio - 1.0:.0%} after {_format_end(parts[started - 1])}"
    worst = max(range(len(ratios)), key=lambda index: ratios[index])
    if slow[worst]:
        when = _format_end(parts[worst])
        return f"slows down by {ratios[worst] - 1.0:.0%} at {when}, and recovers"
    if ratio < 1.0 / (1.0 + DRIFT_LIMIT):
        return f"becomes {1.0 - ratio:.0%} faster: the machine was busier when the run began"
    return "holds its rate"


def sustained_rate_lines(report: Report) -> list[str]:
    """Return a line for each sustained run: whether it held its rate."""
    return [
        f"{row.name} {timing.size}, {_format_end(timing.sustained[-1])} sustained: "
        f"{describe_sustained_rate(timing.sustained)}"
        for row in report.rows
        for timing in row.timings
        if timing.sustained
    ]


def _table(columns: Sequence[TableColumn], lines: list[list[str]]) -> ReportTable:
    return ReportTable(("entry", *(column.heading for column in columns)), lines)


def _format_cells(cells: dict[str, Cell], columns: Sequence[TableColumn]) -> list[str]:
    return [format_value(cells[one.key], one.digits) for one in columns]


def _energy_key(kind: MeterKind) -> str:
    return f"mj_per_frame_{kind}"


def _describe_conditions(found: MachineConditions) -> str:
    values = [("load", found.load, ""), ("clock", found.clock_mhz, " MHz"),
              ("temperature", found.celsius, " C")]  # fmt: skip
    gpu = [("GPU clock", found.gpu_clock_mhz, " MHz"), ("GPU temperature", found.gpu_celsius, " C")]
    values += [one for one in gpu if one[1] is not None]
    return ", ".join(
        f"{name} {NOT_MEASURED if value is None else f'{value:g}{unit}'}"
        for name, value, unit in values
    )


def _fps(part: SustainedPart) -> float:
    return part.runs / part.duration_s


def _format_end(part: SustainedPart) -> str:
    return f"{part.end_s:.0f} s" if part.end_s < 60.0 else f"{part.end_s / 60.0:.1f} minutes"
