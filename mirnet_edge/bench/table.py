"""A report as a table: CSV for programs, Markdown for people. What is not known is said so."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.bench import statistics
from mirnet_edge.bench.record import NOT_MEASURED, Conditions, Report, Row, Timing
from mirnet_edge.runtime.measure import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

Cell = str | int | float | None


@dataclass(frozen=True)
class Column:
    """One figure of the table."""

    key: str
    """In CSV, with its unit."""
    heading: str
    digits: int = 0


LATENCY = (
    Column("p50_ms", "p50 ms", 1), Column("p90_ms", "p90 ms", 1), Column("p95_ms", "p95 ms", 1),
    Column("p99_ms", "p99 ms", 1), Column("fps", "FPS", 1), Column("runs", "runs"),
    Column("before_ms", "before ms", 2), Column("network_ms", "network ms", 1),
    Column("after_ms", "after ms", 2), Column("cold_start_ms", "cold start ms"),
    Column("peak_memory_mib", "memory MiB"),
)  # fmt: skip
MODEL = (Column("mib_on_disk", "on disk MiB", 2), Column("gmacs_640x480", "GMACs at 640x480", 2))
QUALITY = (
    Column("pictures", "pictures"), Column("psnr_db", "PSNR dB", 2),
    Column("psnr_gtmean_db", "at equal brightness dB", 2), Column("ssim", "SSIM", 3),
    Column("mae", "MAE", 4), Column("worst_db", "worst dB", 2),
    Column("worst_picture", "worst picture"), Column("drop_db", "lost to fp32 dB", 3),
)  # fmt: skip

FLICKER = (
    "How much more the luma of what stands still varies over time than in the source, each frame "
    "restored by itself: 1 is as steady as the source, below 1 steadier."
)


def flicker_cells(row: Row, report: Report) -> list[Cell]:
    """Return a row's flicker on each clip of the report; None where not measured."""
    known = {one.clip: one.ratio for one in row.flicker}
    return [known.get(clip.name) for clip in report.clips]


def clip_headings(report: Report) -> list[str]:
    """Return what each clip is called above a column."""
    return [f"{one.name} ({one.frames} of {one.width}x{one.height})" for one in report.clips]


def latency_cells(timing: Timing | None) -> dict[str, Cell]:
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


def model_cells(row: Row) -> dict[str, Cell]:
    """Return the size of a row's model, by column key; None where it has none."""
    return {
        "mib_on_disk": None if row.bytes_on_disk is None else row.bytes_on_disk / 2**20,
        "gmacs_640x480": None if row.macs_640x480 is None else row.macs_640x480 / 1e9,
    }


def quality_cells(row: Row, rows: Sequence[Row], pairs: str) -> dict[str, Cell]:
    """Return a row's figures on one set, by column key; None where not measured."""
    for quality in row.quality:
        mean = statistics.mean_of(quality)
        if quality.pairs == pairs and mean is not None:
            cells: dict[str, Cell] = {
                column.key: getattr(mean, column.key)
                for column in QUALITY
                if column.key != "drop_db"
            }
            return cells | {"drop_db": statistics.drop_db(row, rows, pairs)}
    return dict.fromkeys((column.key for column in QUALITY), None)


def shown(value: Cell, digits: int = 0) -> str:
    """Return a figure as people read it."""
    if value is None:
        return NOT_MEASURED
    return value if isinstance(value, str) else f"{value:.{digits}f}"


def to_csv(report: Report) -> str:
    """Return one line for each row, size and set of pictures; an unknown figure says so."""
    text = io.StringIO()
    keys = [column.key for column in (*LATENCY, *MODEL, *QUALITY)]
    clips = [f"flicker_{clip.name}" for clip in report.clips]
    heads = ["row", "kind", "task", "backend", "precision", "state", "note", "sha256", "size"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heads, "stable", "pairs", *keys, *clips])
    for row in report.rows:
        known: Sequence[Timing | None] = row.timings or [None]
        for timing in known:
            sets: Sequence[str | None] = [quality.pairs for quality in row.quality] or [None]
            for pairs in sets:
                cells = latency_cells(timing) | model_cells(row)
                cells |= quality_cells(row, report.rows, pairs or "")
                facts = [
                    row.name, row.kind, row.task, row.backend, row.precision, row.state, row.note,
                    row.sha256, timing.size if timing else None,
                    statistics.verdict(timing).stable if timing else None, pairs,
                ]  # fmt: skip
                everything = [*facts, *(cells[key] for key in keys), *flicker_cells(row, report)]
                writer.writerow([NOT_MEASURED if one is None else one for one in everything])
    return text.getvalue()


def to_markdown(report: Report) -> str:
    """Return the report as people read it: facts, a table for each size and set, verdicts."""
    parts = [_facts(report)]
    for size in report.sizes:
        parts.append(f"## Latency at {size}\n\n{_latency_table(report, size)}")
    for pairs in report.pair_sets:
        note = f"{pairs.pictures} pictures measured"
        if pairs.unreadable:
            note += f", {len(pairs.unreadable)} not:\n" + "".join(
                f"\n- {line}" for line in pairs.unreadable
            )
        parts.append(
            f"## Quality on {pairs.name}\n\n{note}\n\n{_quality_table(report, pairs.name)}"
        )
        dark = _darkness_table(report, pairs.name)
        if dark:
            parts.append(f"### By how bright the pictures were that went in\n\n{dark}")
    if report.clips:
        parts.append(f"## Flicker\n\n{FLICKER}\n\n{_flicker_table(report)}")
    lines = notes(report)
    if lines:
        parts.append(
            "## What to know about these figures\n\n" + "\n".join(f"- {one}" for one in lines)
        )
    return "\n\n".join(parts) + "\n"


def notes(report: Report) -> list[str]:
    """Return what a reader must know: what is missing, what cannot be believed, and why."""
    lines = [
        f"{row.name}: {row.state + ': ' if row.state != 'measured' else ''}{row.note}"
        for row in report.rows
        if row.note
    ]
    lines += [f"{clip.name}: {clip.note}" for clip in report.clips if clip.note]
    for row in report.rows:
        lines += [f"{row.name}, {one.clip}: {one.note}" for one in row.flicker if one.note]
        for timing in row.timings:
            found = statistics.verdict(timing)
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
    return [
        ("processor", f"{machine.processor}, {machine.cores} cores usable"),
        ("instructions", ", ".join(machine.instructions) or "none known"),
        ("system", f"{machine.system}, Python {machine.python}"),
        ("threads", threads),
        ("processors allowed", affinity),
        ("before", _told(report.before)),
        ("after", _told(report.after)),
        ("versions", tools),
        ("commit", report.revision or "unknown"),
        ("method", f"{settings.rounds} rounds, rows in turns, {settings.row_seconds:g} s a row"),
        ("command", settings.command),
    ]


def _facts(report: Report) -> str:
    partial = "\n\n**Partial: the run was interrupted; what is missing was not measured.**"
    lines = [f"- {name}: {value}" for name, value in machine_lines(report)]
    title = f"# Benchmark of {report.created}{partial if report.partial else ''}"
    return f"{title}\n\n" + "\n".join(lines)


def _told(state: Conditions) -> str:
    figures = (("load", state.load, ""), ("clock", state.clock_mhz, " MHz"),
               ("temperature", state.celsius, " C"))  # fmt: skip
    return ", ".join(
        f"{name} {NOT_MEASURED if value is None else f'{value:g}{unit}'}"
        for name, value, unit in figures
    )


def _latency_table(report: Report, size: str) -> str:
    columns = (*LATENCY, *MODEL)
    lines = [
        _line(["row", *(column.heading for column in columns)]),
        _line(["---"] * (len(columns) + 1)),
    ]
    for row in report.rows:
        timing = next((one for one in row.timings if one.size == size), None)
        cells = latency_cells(timing) | model_cells(row)
        mark = " *" if timing is not None and not statistics.verdict(timing).stable else ""
        lines.append(
            _line([row.name + mark, *(shown(cells[one.key], one.digits) for one in columns)])
        )
    return "\n".join(lines) + "\n\n\\* unstable; see below"


def _quality_table(report: Report, pairs: str) -> str:
    lines = [
        _line(["row", *(column.heading for column in QUALITY)]),
        _line(["---"] * (len(QUALITY) + 1)),
    ]
    for row in report.rows:
        cells = quality_cells(row, report.rows, pairs)
        lines.append(_line([row.name, *(shown(cells[one.key], one.digits) for one in QUALITY)]))
    return "\n".join(lines)


def _flicker_table(report: Report) -> str:
    heads = ["row", *clip_headings(report)]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in report.rows:
        cells = flicker_cells(row, report)
        lines.append(_line([row.name, *(shown(cell, 2) for cell in cells)]))
    return "\n".join(lines)


def _darkness_table(report: Report, pairs: str) -> str:
    found = {
        row.name: statistics.by_darkness(quality)
        for row in report.rows
        for quality in row.quality
        if quality.pairs == pairs
    }
    labels = list(dict.fromkeys(label for bins in found.values() for label in bins))
    if not labels:
        return ""
    counts = {label: bins[label].pictures for bins in found.values() for label in bins}
    heads = ["row, PSNR dB", *(f"{label} ({counts[label]})" for label in labels)]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for name, bins in found.items():
        cells = [shown(bins[label].psnr_db if label in bins else None, 2) for label in labels]
        lines.append(_line([name, *cells]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
