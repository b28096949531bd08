"""The figures of a report's tables and notes, and the CSV. What is not known is said so."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirnet_edge.bench import statistics
from mirnet_edge.bench.endurance import last_over_first
from mirnet_edge.bench.energy import KINDS, heading, meter_line, mj_per_frame
from mirnet_edge.bench.record import (
    NOT_MEASURED,
    Conditions,
    MeterKind,
    Report,
    Row,
    Timing,
)
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
_NO_ENERGY = (Column("mj_per_frame", "mJ per frame"),)
_LAST_TO_FIRST = "sustained_last_to_first"
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


def energy_columns(report: Report) -> tuple[Column, ...]:
    """Return a column for each meter of the report, and one where there was none."""
    kinds = [kind for kind in KINDS if kind in report.meters]
    return tuple(Column(_energy_key(kind), heading(kind), 1) for kind in kinds) or _NO_ENERGY


def energy_cells(timing: Timing | None) -> dict[str, Cell]:
    """Return what a frame took at one size, by column key; None where not measured."""
    cells: dict[str, Cell] = {_energy_key(kind): mj_per_frame(timing, kind) for kind in KINDS}
    return cells | {column.key: None for column in _NO_ENERGY}


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
    keys += [*map(_energy_key, KINDS), _LAST_TO_FIRST]
    clips = [f"flicker_{clip.name}" for clip in report.clips]
    heads = ["row", "kind", "task", "backend", "precision", "state", "note", "sha256", "size"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heads, "stable", "pairs", *keys, *clips])
    for row in report.rows:
        known: Sequence[Timing | None] = row.timings or [None]
        for timing in known:
            sets: Sequence[str | None] = [quality.pairs for quality in row.quality] or [None]
            for pairs in sets:
                cells = latency_cells(timing) | model_cells(row) | energy_cells(timing)
                cells[_LAST_TO_FIRST] = last_over_first(timing.sustained) if timing else None
                cells |= quality_cells(row, report.rows, pairs or "")
                facts = [
                    row.name, row.kind, row.task, row.backend, row.precision, row.state, row.note,
                    row.sha256, timing.size if timing else None,
                    statistics.verdict(timing).stable if timing else None, pairs,
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
    method = f"{settings.rounds} rounds, rows in turns, {settings.row_seconds:g} s a row"
    if settings.sustained_minutes is not None:
        method += f"; then {settings.sustained_minutes:g} minutes of one row without pause"
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
        ("method", method),
        ("energy", meter_line(report)),
        ("command", settings.command),
    ]


def _energy_key(kind: MeterKind) -> str:
    return f"mj_per_frame_{kind}"


def _told(state: Conditions) -> str:
    figures = (("load", state.load, ""), ("clock", state.clock_mhz, " MHz"),
               ("temperature", state.celsius, " C"))  # fmt: skip
    cards = (("graphics clock", state.gpu_clock_mhz, " MHz"),
             ("graphics temperature", state.gpu_celsius, " C"))  # fmt: skip
    known = (*figures, *(one for one in cards if one[1] is not None))
    return ", ".join(
        f"{name} {NOT_MEASURED if value is None else f'{value:g}{unit}'}"
        for name, value, unit in known
    )
