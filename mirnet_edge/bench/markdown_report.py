"""The Markdown report of a benchmark, and writing a report in its four formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.bench import tables
from mirnet_edge.bench.charts import darkness_chart, sustained_chart
from mirnet_edge.bench.page import to_html
from mirnet_edge.bench.record import to_json
from mirnet_edge.bench.sheets import list_sheets, sheet_files
from mirnet_edge.bench.statistics import describe_instability
from mirnet_edge.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mirnet_edge.bench.record import Report
    from mirnet_edge.bench.tables import ReportTable


def to_markdown(report: Report, folder: Path) -> str:
    """Return the report as Markdown: machine, latency, quality, flicker, sustained, notes.

    Args:
        report: The report.
        folder: Where its crops are, of which sheets are made; a missing one is left out.
    """
    parts = [_facts(report)]
    for size in report.sizes:
        parts.append(
            f"## Latency at {size}\n\n{_table(tables.latency_table(report, size))}\n\n"
            f"\\* unstable; see below. Energy: {tables.describe_meters(report)}."
        )
    for pairs in report.pair_sets:
        note = f"{pairs.images} images measured"
        if pairs.unreadable:
            unreadable = "".join(f"\n- {line}" for line in pairs.unreadable)
            note += f", {len(pairs.unreadable)} not:\n{unreadable}"
        parts.append(
            f"## Quality on {pairs.name}\n\n{note}\n\n"
            f"{_table(tables.quality_table(report, pairs.name))}"
        )
        sheets = list_sheets(report, pairs, folder)
        parts += [f"![{shown}]({file})" for file, shown in sheets.items()]
        by_darkness = tables.darkness_table(report, pairs.name)
        if by_darkness is not None:
            parts.append(f"### Quality by input brightness\n\n{_table(by_darkness)}")
            parts.append(f"![quality by input brightness]({_darkness_file(report, pairs.name)})")
    if report.clips:
        parts.append(
            f"## Flicker\n\n{tables.FLICKER_NOTE}\n\n{_table(tables.flicker_table(report))}"
        )
    for size in report.sizes:
        parts += _sustained(report, size)
        parts += _speedup(report, size)
    lines = tables.report_notes(report)
    if lines:
        parts.append("## Notes\n\n" + "\n".join(f"- {one}" for one in lines))
    return "\n\n".join(parts) + "\n"


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, .csv, .md and .html, charts and sheets, each atomically.

    Args:
        report: The report.
        folder: Where the files go; the report's crops are in it already.

    Raises:
        MirnetEdgeError: The folder cannot be written.
    """
    write_atomically(folder / "report.json", to_json(report))
    write_atomically(folder / "report.csv", tables.to_csv(report).encode())
    write_atomically(folder / "report.md", to_markdown(report, folder).encode())
    for name, content in (chart_files(report) | sheet_files(report, folder)).items():
        write_atomically(folder / name, content)
    write_atomically(folder / "report.html", to_html(report, folder).encode())


def chart_files(report: Report) -> dict[str, bytes]:
    """Return the charts of the Markdown report by file name."""
    charts = {
        _darkness_file(report, pairs.name): darkness_chart(report, pairs.name, narrow=False)
        for pairs in report.pair_sets
    }
    charts |= {
        _sustained_file(size): sustained_chart(report, size, narrow=False) for size in report.sizes
    }
    return {name: chart.to_file() for name, chart in charts.items() if chart is not None}


def _facts(report: Report) -> str:
    partial = "\n\n**Partial: the run was interrupted; what is missing was not measured.**"
    lines = [f"- {name}: {value}" for name, value in tables.machine_facts(report)]
    title = f"# Benchmark of {report.created}{partial if report.partial else ''}"
    unstable = describe_instability(report)
    if unstable is not None:
        title += f"\n\n**{unstable.capitalize()}. Ratios within this report hold.**"
    return f"{title}\n\n" + "\n".join(lines)


def _sustained(report: Report, size: str) -> list[str]:
    summary = tables.sustained_table(report, size)
    if summary is None:
        return []
    parts = _table(tables.sustained_parts_table(report, size))
    return [
        f"## Sustained latency at {size}\n\n{tables.SUSTAINED_NOTE}\n\n{_table(summary)}",
        f"![sustained latency over minutes]({_sustained_file(size)})",
        f"<details><summary>All parts</summary>\n\n{parts}\n\n</details>",
    ]


def _speedup(report: Report, size: str) -> list[str]:
    found = tables.speedup_table(report, size)
    if found is None:
        return []
    return [f"## Speedup at {size}\n\n{tables.describe_speedup(report, size)}\n\n{_table(found)}"]


def _darkness_file(report: Report, pairs: str) -> str:
    number = [one.name for one in report.pair_sets].index(pairs) + 1
    safe = "".join(one if one.isalnum() else "-" for one in pairs)
    return f"charts/darkness-{number}-{safe}.svg"


def _sustained_file(size: str) -> str:
    return f"charts/sustained-{size}.svg"


def _table(table: ReportTable) -> str:
    rows = [table.headings, ["---"] * len(table.headings), *table.lines]
    return "\n".join(map(_line, rows))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
