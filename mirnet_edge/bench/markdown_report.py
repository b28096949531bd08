"""The Markdown report of a benchmark, and writing a report in its four formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.bench import statistics
from mirnet_edge.bench.charts import bins_of, darkness_chart, standalone
from mirnet_edge.bench.page import CSS_OF, to_html
from mirnet_edge.bench.record import to_json
from mirnet_edge.bench.tables import (
    EXPLAINED,
    FLICKER,
    HEADINGS,
    LATENCY,
    MODEL,
    QUALITY,
    clip_headings,
    describe_speedups,
    energy_cells,
    energy_columns,
    flicker_cells,
    format_value,
    latency_cells,
    machine_lines,
    meter_line,
    model_cells,
    notes,
    quality_cells,
    speedups,
    sustained_chart,
    sustained_details,
    sustained_summary,
    to_csv,
)
from mirnet_edge.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mirnet_edge.bench.record import Report


def to_markdown(report: Report) -> str:
    """Return the report as people read it: facts, a table for each size and set, verdicts."""
    parts = [_facts(report)]
    for size in report.sizes:
        parts.append(f"## Latency at {size}\n\n{_latency_table(report, size)}")
    for pairs in report.pair_sets:
        note = f"{pairs.images} images measured"
        if pairs.unreadable:
            note += f", {len(pairs.unreadable)} not:\n" + "".join(
                f"\n- {line}" for line in pairs.unreadable
            )
        parts.append(
            f"## Quality on {pairs.name}\n\n{note}\n\n{_quality_table(report, pairs.name)}"
        )
        dark = _darkness_table(report, pairs.name)
        if dark:
            parts.append(f"### By how bright the images were that went in\n\n{dark}")
            parts.append(_image("quality by darkness", darkness_file(report, pairs.name)))
    if report.clips:
        parts.append(f"## Flicker\n\n{FLICKER}\n\n{_flicker_table(report)}")
    for size in report.sizes:
        parts += _sustained(report, size)
        parts += _speedups(report, size)
    lines = notes(report)
    if lines:
        parts.append(
            "## What to know about these figures\n\n" + "\n".join(f"- {one}" for one in lines)
        )
    return "\n\n".join(parts) + "\n"


def _facts(report: Report) -> str:
    partial = "\n\n**Partial: the run was interrupted; what is missing was not measured.**"
    lines = [f"- {name}: {value}" for name, value in machine_lines(report)]
    title = f"# Benchmark of {report.created}{partial if report.partial else ''}"
    return f"{title}\n\n" + "\n".join(lines)


def _latency_table(report: Report, size: str) -> str:
    columns = (*LATENCY, *MODEL, *energy_columns(report))
    lines = []
    for row in report.rows:
        timing = next((one for one in row.timings if one.size == size), None)
        cells = latency_cells(timing) | model_cells(row) | energy_cells(timing)
        mark = " *" if timing is not None and not statistics.assess_stability(timing).stable else ""
        lines.append(
            [row.name + mark, *(format_value(cells[one.key], one.digits) for one in columns)]
        )
    heads = ["row", *(column.heading for column in columns)]
    note = f"\n\n\\* unstable; see below. Energy: {meter_line(report)}."
    return _table(heads, lines) + note


def _quality_table(report: Report, pairs: str) -> str:
    lines = []
    for row in report.rows:
        cells = quality_cells(row, report.rows, pairs)
        lines.append([row.name, *(format_value(cells[one.key], one.digits) for one in QUALITY)])
    return _table(["row", *(column.heading for column in QUALITY)], lines)


def _flicker_table(report: Report) -> str:
    lines = [
        [row.name, *(format_value(cell, 2) for cell in flicker_cells(row, report))]
        for row in report.rows
    ]
    return _table(["row", *clip_headings(report)], lines)


def _darkness_table(report: Report, pairs: str) -> str:
    found = bins_of(report, pairs)
    labels = list(dict.fromkeys(label for _, bins in found for label in bins))
    if not labels:
        return ""
    counts = {label: bins[label].images for _, bins in found for label in bins}
    heads = ["row, PSNR dB", *(f"{label} ({counts[label]})" for label in labels)]
    lines = [
        [row.name, *(format_value(bins[one].psnr_db if one in bins else None, 2) for one in labels)]
        for row, bins in found
    ]
    return _table(heads, lines)


def drawings(report: Report) -> dict[str, bytes]:
    """Return the drawings that the Markdown shows, by their files' names beside it."""
    found = {
        darkness_file(report, pairs.name): darkness_chart(report, pairs.name, CSS_OF, narrow=False)
        for pairs in report.pair_sets
    }
    found |= {
        _sustained_file(size): sustained_chart(report, size, CSS_OF, narrow=False)
        for size in report.sizes
    }
    return {name: standalone(drawing) for name, drawing in found.items() if drawing}


def darkness_file(report: Report, pairs: str) -> str:
    """Return where the drawing of a set's quality by darkness lies."""
    number = [one.name for one in report.pair_sets].index(pairs) + 1
    safe = "".join(one if one.isalnum() else "-" for one in pairs)
    return f"charts/darkness-{number}-{safe}.svg"


def _sustained_file(size: str) -> str:
    return f"charts/sustained-{size}.svg"


def _sustained(report: Report, size: str) -> list[str]:
    heads, lines = sustained_summary(report, size)
    if not lines:
        return []
    whole, parts = (
        _table(one_heads, [[format_value(*cell) for cell in line] for line in one_lines])
        for one_heads, one_lines in ((heads, lines), sustained_details(report, size))
    )
    return [
        f"## Without pause at {size}\n\n{EXPLAINED}\n\n{whole}",
        _image("frame time over minutes", _sustained_file(size)),
        f"<details><summary>Every part</summary>\n\n{parts}\n\n</details>",
    ]


def _speedups(report: Report, size: str) -> list[str]:
    lines = [[format_value(*cell) for cell in one.cells] for one in speedups(report, size)]
    if not lines:
        return []
    return [
        f"## What was saved at {size}\n\n{describe_speedups(report, size)}\n\n"
        f"{_table(['row', *HEADINGS], lines)}"
    ]


def _image(what: str, file: str) -> str:
    return f"![{what}]({file})"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(map(_line, [heads, ["---"] * len(heads), *lines]))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, .csv, .md and .html, and the charts, each whole or not at all.

    Args:
        report: What was measured.
        folder: Where they go; the report's crops lie in it.

    Raises:
        MirnetEdgeError: The folder cannot be written.
    """
    write_atomically(folder / "report.json", to_json(report))
    write_atomically(folder / "report.csv", to_csv(report).encode())
    write_atomically(folder / "report.md", to_markdown(report).encode())
    for name, drawing in drawings(report).items():
        write_atomically(folder / name, drawing)
    write_atomically(folder / "report.html", to_html(report, folder).encode())
