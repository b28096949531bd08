"""A report as one page that holds all it shows: no network, light and dark, phone and desktop."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from mirnet_edge.bench import statistics, table
from mirnet_edge.bench.charts import Point, Spread, pareto_chart, spread_chart
from mirnet_edge.bench.darkness import bins_of, darkness_chart
from mirnet_edge.bench.drawing import stylesheet
from mirnet_edge.bench.endurance import EXPLAINED, details, endurance_chart, summary
from mirnet_edge.bench.page_parts import CSS_OF, drawn_twice, html_table, legend
from mirnet_edge.bench.savings import HEADINGS, explained, savings
from mirnet_edge.bench.shots import shots_card
from mirnet_edge.runtime.measure import p50

if TYPE_CHECKING:
    from pathlib import Path

    from mirnet_edge.bench.record import PairSet, Report


def to_html(report: Report, folder: Path) -> str:
    """Return the page.

    Args:
        report: What was measured.
        folder: Where its crops lie; one that is missing is left out.
    """
    css, script = stylesheet("chart.css") + stylesheet("page.css"), stylesheet("page.js")
    pairs = report.pair_sets[0].name if report.pair_sets else None
    parts = [_head(report), _key_figures(report, pairs)]
    for size in report.sizes:
        if pairs is not None:
            parts.append(_pareto_card(report, size, pairs))
        parts.append(_spread_card(report, size))
    for one in report.pair_sets:
        parts.append(shots_card(report, one, folder))
        parts.append(_quality_card(report, one))
    parts.append(_flicker_card(report))
    parts += [_endurance_card(report, size) for size in report.sizes]
    parts += [_savings_card(report, size) for size in report.sizes]
    parts += [_table_card(report, size) for size in report.sizes]
    parts.append(_facts_card(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>mirnet-bench, {escape(report.created[:10])}</title><style>{css}</style></head>"
        f"<body><main>{''.join(parts)}</main><script>{script}</script></body></html>\n"
    )


def _head(report: Report) -> str:
    tasks = sorted({row.task for row in report.rows if row.task})
    machine = f"{report.machine.processor}, {report.machine.cores} cores"
    partial = ""
    if report.partial:
        partial = (
            '<div class="card partial">Partial: the run was interrupted. What is missing was not '
            "measured.</div>"
        )
    title = " and ".join(tasks).capitalize() or "Benchmark"
    version = report.tools.get("mirnet-edge", "")
    return (
        f'<h1>{escape(title)}: dB against milliseconds</h1><p class="lead">{escape(machine)}. '
        f"{escape(report.created[:10])}, mirnet-edge {escape(version)}. "
        f"Every row saw the same frames in turns; every sample is kept.</p>{partial}"
    )


def _key_figures(report: Report, pairs: str | None) -> str:
    """Return the fastest adopted mode, and what it is worth beside the others."""
    if not report.sizes:
        return ""
    size = report.sizes[0]
    times = _medians(report, size)
    ours = [
        row for row in report.rows if row.name in times and row.kind == "bundle" and row.adopted
    ]
    if not ours:
        return ""
    best = min(ours, key=lambda row: times[row.name])
    figures = [(f"{times[best.name]:.1f} <small>ms</small>", f"{best.name}, p50 at {size}")]
    own = statistics.psnr_of(best, pairs) if pairs else None
    if own is not None:
        figures.append((f"{own:.2f} <small>dB</small>", f"its PSNR on {pairs}"))
    others = [
        [row for row in report.rows if row.kind == kind and row.name in times]
        for kind in ("rival", "random weights")
    ]
    for found in others:
        if found:
            other = min(found, key=lambda row: times[row.name])
            ratio = times[other.name] / times[best.name]
            figures.append((f"{ratio:.3g}&times;", f"faster than {other.name}"))
    drop = statistics.drop_db(best, report.rows, pairs) if pairs else None
    if drop is not None:
        figures.append((f"{drop:+.3f} <small>dB</small>", "lost to fp32"))
    cells = "".join(
        f'<div class="figure"><b>{value}</b><span>{escape(label)}</span></div>'
        for value, label in figures
    )
    return f'<div class="figures">{cells}</div>'


def _pareto_card(report: Report, size: str, pairs: str) -> str:
    times = _medians(report, size)
    points = [
        Point(row.name, CSS_OF[row.kind], times[row.name], decibel)
        for row in report.rows
        if row.name in times and (decibel := statistics.psnr_of(row, pairs)) is not None
    ]
    if not points:
        return ""
    front = statistics.pareto([(one.p50_ms, one.psnr_db) for one in points])
    beaten = [
        one.name for place, one in enumerate(points) if one.css == "bundle" and place not in front
    ]
    hint = (
        "Up and left is better. The dotted line joins what no other row beats in both. "
        f"Not on it: {', '.join(beaten)}." if beaten else
        "Up and left is better. The dotted line joins what no other row beats in both; every "
        "mirnet-edge row is on it."
    )  # fmt: skip
    drawings = drawn_twice(
        lambda narrow: pareto_chart(
            points, *((360, 380) if narrow else (1040, 460)), numbered=narrow
        ),
        [one.name for one in points],
    )
    return (
        f'<section class="card"><h2>Quality against time, {size}</h2>'
        f'<p class="hint">{escape(hint)} PSNR on {escape(pairs)}, p50 of '
        f"one frame.</p>{legend(report)}{drawings}</section>"
    )


def _spread_card(report: Report, size: str) -> str:
    spreads = [
        Spread(row.name, CSS_OF[row.kind], timing.samples_ms)
        for row in report.rows
        for timing in row.timings
        if timing.size == size
    ]
    if not spreads:
        return ""
    spreads.sort(key=lambda one: p50(one.samples_ms))
    return (
        f'<section class="card"><h2>Every run, {size}</h2><p class="hint">A dot is one frame; the '
        "box holds the middle half, the line is the median. Nothing was left out.</p>"
        f'{legend(report)}<div class="desktop">{spread_chart(spreads, 1040, narrow=False)}</div>'
        f'<div class="phone">{spread_chart(spreads, 360, narrow=True)}</div></section>'
    )


def _quality_card(report: Report, pairs: PairSet) -> str:
    bins = [(row, found) for row, found in bins_of(report, pairs.name) if found]
    if not bins:
        return ""
    labels = list(dict.fromkeys(label for _, found in bins for label in found))
    heads = ["row", *(column.heading for column in table.QUALITY), *labels]
    lines = []
    for row, found in bins:
        cells = table.quality_cells(row, report.rows, pairs.name)
        texts = [table.shown(cells[one.key], one.digits) for one in table.QUALITY]
        dark = [found[label].psnr_db if label in found else None for label in labels]
        lines.append([row.name, *texts, *(table.shown(one, 2) for one in dark)])
    unreadable = "".join(f"<li>{escape(line)}</li>" for line in pairs.unreadable)
    drawings = drawn_twice(
        lambda narrow: darkness_chart(report, pairs.name, CSS_OF, narrow=narrow),
        [row.name for row, _ in bins],
    )
    missing = f"<p>{len(pairs.unreadable)} could not be measured:</p><ul>{unreadable}</ul>"
    return (
        f'<section class="card"><h2>Quality, {escape(pairs.name)}</h2><p class="hint">'
        f"{pairs.pictures} pictures. The last columns: PSNR by the mean luma of what went in, "
        f"darkest first.</p>{html_table(heads, lines)}{missing if unreadable else ''}</section>"
        f'<section class="card"><h2>Quality by darkness, {escape(pairs.name)}</h2>'
        f"{legend(report, judged=True)}{drawings}</section>"
    )


def _endurance_card(report: Report, size: str) -> str:
    heads, lines = summary(report, size)
    if not lines:
        return ""
    drawings = drawn_twice(
        lambda narrow: endurance_chart(report, size, CSS_OF, narrow=narrow),
        [str(line[0][0]) for line in lines],
    )
    whole, parts = (
        html_table(one_heads, [[table.shown(*cell) for cell in line] for line in one_lines])
        for one_heads, one_lines in ((heads, lines), details(report, size))
    )
    return (
        f'<section class="card"><h2>Without pause, {size}</h2><p class="hint">'
        f"{escape(EXPLAINED)}</p>{drawings}{whole}"
        f"<details><summary>Every part</summary>{parts}</details></section>"
    )


def _savings_card(report: Report, size: str) -> str:
    found = savings(report, size)
    if not found:
        return ""
    lines = [[table.shown(*cell) for cell in one.cells] for one in found]
    return (
        f'<section class="card"><h2>What was saved, {size}</h2>'
        f'<p class="hint">{escape(explained(report, size))}</p>'
        f"{html_table(['row', *HEADINGS], lines)}</section>"
    )


def _flicker_card(report: Report) -> str:
    if not report.clips:
        return ""
    lines = [
        [row.name, *(table.shown(cell, 2) for cell in table.flicker_cells(row, report))]
        for row in report.rows
    ]
    return (
        f'<section class="card"><h2>Flicker</h2><p class="hint">{escape(table.FLICKER)}</p>'
        f"{html_table(['row', *table.clip_headings(report)], lines)}</section>"
    )


def _table_card(report: Report, size: str) -> str:
    columns = (*table.LATENCY, *table.MODEL, *table.energy_columns(report))
    lines = []
    for row in report.rows:
        timing = next((one for one in row.timings if one.size == size), None)
        cells = table.latency_cells(timing) | table.model_cells(row) | table.energy_cells(timing)
        star = " *" if timing is not None and not statistics.verdict(timing).stable else ""
        texts = [table.shown(cells[one.key], one.digits) for one in columns]
        lines.append([row.name + star, *texts])
    heads = ["row", *(column.heading for column in columns)]
    return (
        f'<section class="card"><h2>All times, {size}</h2>{html_table(heads, lines)}'
        '<p class="hint">* unstable: why, and what to do, stands below.</p></section>'
    )


def _facts_card(report: Report) -> str:
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, value in table.machine_lines(report)
    )
    lines = "".join(f"<li>{escape(line)}</li>" for line in table.notes(report))
    notes = (
        f'<section class="card"><h2>What to know</h2><ul>{lines}</ul></section>' if lines else ""
    )
    return f'{notes}<section class="card"><h2>Machine and method</h2><dl>{facts}</dl></section>'


def _medians(report: Report, size: str) -> dict[str, float]:
    return {
        row.name: p50(timing.samples_ms)
        for row in report.rows
        for timing in row.timings
        if timing.size == size
    }
