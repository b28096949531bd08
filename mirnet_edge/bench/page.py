"""A report as one page that holds all it shows: no network, light and dark, phone and desktop."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from mirnet_edge.bench import statistics, table
from mirnet_edge.bench.charts import Point, Spread, pareto_chart, spread_chart
from mirnet_edge.bench.record import NOT_MEASURED, PairSet, Report
from mirnet_edge.bench.shots import shots_card
from mirnet_edge.runtime.measure import p50

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_CSS_OF = {"bundle": "bundle", "rival": "rival", "baseline": "baseline", "random weights": "random"}
_LEGEND = {
    "bundle": "mirnet-edge", "rival": "other networks", "baseline": "classical methods",
    "random weights": "full MIRNet, random weights",
}  # fmt: skip


def to_html(report: Report, folder: Path) -> str:
    """Return the page.

    Args:
        report: What was measured.
        folder: Where its crops lie; one that is missing is left out.
    """
    web = resources.files("mirnet_edge.bench") / "web"
    css, script = ((web / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
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
        row for row in report.rows if row.kind in ("rival", "random weights") and row.name in times
    ]
    if others:
        other = min(others, key=lambda row: times[row.name])
        figures.append(
            (f"{times[other.name] / times[best.name]:.1f}&times;", f"faster than {other.name}")
        )
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
        Point(row.name, _CSS_OF[row.kind], times[row.name], decibel)
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
    names = "".join(f"<li>{escape(one.name)}</li>" for one in points)
    return (
        f'<section class="card"><h2>Quality against time, {size}</h2>'
        f'<p class="hint">{escape(hint)} PSNR on {escape(pairs)}, p50 of '
        f"one frame.</p>{_legend(report)}"
        f'<div class="desktop">{pareto_chart(points, 1040, 460, numbered=False)}</div>'
        f'<div class="phone">{pareto_chart(points, 360, 380, numbered=True)}'
        f'<ol class="hint">{names}</ol></div></section>'
    )


def _spread_card(report: Report, size: str) -> str:
    spreads = [
        Spread(row.name, _CSS_OF[row.kind], timing.samples_ms)
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
        f'{_legend(report)}<div class="desktop">{spread_chart(spreads, 1040, narrow=False)}</div>'
        f'<div class="phone">{spread_chart(spreads, 360, narrow=True)}</div></section>'
    )


def _quality_card(report: Report, pairs: PairSet) -> str:
    rows = [row for row in report.rows if statistics.psnr_of(row, pairs.name) is not None]
    if not rows:
        return ""
    bins = {
        row.name: statistics.by_darkness(quality)
        for row in rows
        for quality in row.quality
        if quality.pairs == pairs.name
    }
    labels = list(dict.fromkeys(label for found in bins.values() for label in found))
    heads = ["row", *(column.heading for column in table.QUALITY), *labels]
    lines = []
    for row in rows:
        cells = table.quality_cells(row, report.rows, pairs.name)
        texts = [table.shown(cells[one.key], one.digits) for one in table.QUALITY]
        dark = [
            bins[row.name][label].psnr_db if label in bins[row.name] else None for label in labels
        ]
        lines.append([row.name, *texts, *(table.shown(one, 2) for one in dark)])
    unreadable = "".join(f"<li>{escape(line)}</li>" for line in pairs.unreadable)
    missing = f"<p>{len(pairs.unreadable)} could not be measured:</p><ul>{unreadable}</ul>"
    return (
        f'<section class="card"><h2>Quality, {escape(pairs.name)}</h2><p class="hint">'
        f"{pairs.pictures} pictures. The last columns: PSNR by the mean luma of what went in, "
        f"darkest first.</p>{_html_table(heads, lines)}{missing if unreadable else ''}</section>"
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
        f"{_html_table(['row', *table.clip_headings(report)], lines)}</section>"
    )


def _table_card(report: Report, size: str) -> str:
    columns = (*table.LATENCY, *table.MODEL)
    lines = []
    for row in report.rows:
        timing = next((one for one in row.timings if one.size == size), None)
        cells = table.latency_cells(timing) | table.model_cells(row)
        star = " *" if timing is not None and not statistics.verdict(timing).stable else ""
        texts = [table.shown(cells[one.key], one.digits) for one in columns]
        lines.append([row.name + star, *texts])
    heads = ["row", *(column.heading for column in columns)]
    return (
        f'<section class="card"><h2>All times, {size}</h2>{_html_table(heads, lines)}'
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


def _html_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="none">{one}</td>' if one == NOT_MEASURED else f"<td>{escape(one)}</td>"
            for one in line
        )
        + "</tr>"
        for line in lines
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _legend(report: Report) -> str:
    kinds = list(dict.fromkeys(row.kind for row in report.rows if row.timings))
    return (
        '<div class="legend">'
        + "".join(f'<span><i class="{_CSS_OF[kind]}"></i>{_LEGEND[kind]}</span>' for kind in kinds)
        + "</div>"
    )


def _medians(report: Report, size: str) -> dict[str, float]:
    return {
        row.name: p50(timing.samples_ms)
        for row in report.rows
        for timing in row.timings
        if timing.size == size
    }
