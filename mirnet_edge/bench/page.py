"""The HTML report of a benchmark: one self-contained page, light and dark."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from mirnet_edge.bench import statistics, tables
from mirnet_edge.bench.charts import (
    LatencySpread,
    ParetoPoint,
    bins_of,
    darkness_chart,
    pareto_chart,
    spread_chart,
    stylesheet,
)
from mirnet_edge.bench.quality import BEFORE
from mirnet_edge.bench.record import NOT_MEASURED
from mirnet_edge.bench.tables import (
    EXPLAINED,
    HEADINGS,
    describe_speedups,
    speedups,
    sustained_chart,
    sustained_details,
    sustained_summary,
)
from mirnet_edge.runtime.measure import p50

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mirnet_edge.bench.record import ImageCrop, PairSet, Report

CSS_OF = {
    "bundle": "bundle", "competitor": "competitor", "baseline": "baseline",
    "random weights": "random",
}  # fmt: skip
"""The class that colors a kind of row."""
_LEGEND = {
    "bundle": "mirnet-edge", "competitor": "other networks", "baseline": "classical methods",
    "random weights": "full MIRNet, random weights",
}  # fmt: skip


def legend(report: Report, *, judged: bool = False) -> str:
    """Return which color is what.

    Args:
        report: What was measured.
        judged: Only rows whose quality was measured.
    """
    rows = [row for row in report.rows if (row.quality if judged else row.timings)]
    kinds = list(dict.fromkeys(row.kind for row in rows))
    spans = "".join(f'<span><i class="{CSS_OF[kind]}"></i>{_LEGEND[kind]}</span>' for kind in kinds)
    return f'<div class="legend">{spans}</div>'


def html_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table that scrolls sideways where it is wider than the page."""
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


def responsive_chart(drawing: Callable[[bool], str], names: Sequence[str]) -> str:
    """Return a drawing for desktops and one for phones, whose numbers the names explain.

    Args:
        drawing: Gives one; told whether it is the narrow one.
        names: Of the rows, in the order of their numbers.
    """
    wide, narrow = (drawing(one) for one in (False, True))
    listed = "".join(f"<li>{escape(name)}</li>" for name in names)
    return (
        f'<div class="desktop">{wide}</div>'
        f'<div class="phone">{narrow}<ol class="hint">{listed}</ol></div>'
    )


def crops_card(report: Report, pairs: PairSet, folder: Path) -> str:
    """Return a set's images, each two of its rows wide and a slider between them.

    Args:
        report: What was measured.
        pairs: The set.
        folder: Where the crops lie; one that is missing is left out.
    """
    crops = [
        one for one in report.crops if one.pairs == pairs.name and (folder / one.file).is_file()
    ]
    if not crops:
        return ""
    names = list(dict.fromkeys(crop.image for crop in crops))
    shots = [
        _crop([crop for crop in crops if crop.image == name], folder, report, pairs.name)
        for name in names
    ]
    return (
        f'<section class="card"><h2>Before and after, {escape(pairs.name)}</h2>'
        '<p class="hint">Drag across an image. The lists choose what is on each side.</p>'
        f'<div class="shots">{"".join(shots)}</div></section>'
    )


def _crop(crops: Sequence[ImageCrop], folder: Path, report: Report, pairs: str) -> str:
    images = {crop.row: _embedded(folder / crop.file) for crop in crops}
    ours = [row for row in report.rows if row.name in images and row.kind == "bundle"]
    ours.sort(key=lambda row: -(statistics.psnr_of(row, pairs) or 0.0))
    chosen = {"left": BEFORE, "right": ours[0].name if ours else list(images)[-1]}
    key = "".join(one if one.isalnum() else "-" for one in f"{pairs}-{crops[0].image}")
    store = "".join(
        f'<img id="{key}-{place}" src="data:image/jpeg;base64,{code}" alt="">'
        for place, code in enumerate(images.values())
    )
    lists = "".join(
        f'<select class="{side}" aria-label="{side} image">'
        + "".join(
            f'<option value="{key}-{place}"{" selected" if name == chosen[side] else ""}>'
            f"{escape(name)}</option>"
            for place, name in enumerate(images)
        )
        + "</select>"
        for side in ("left", "right")
    )
    left, right = (
        f'<img class="{side}{" after" if side == "right" else ""}" alt="{escape(name)}" '
        f'src="data:image/jpeg;base64,{images[name]}">'
        for side, name in chosen.items()
    )
    return (
        f'<div class="shot"><div class="compare">{left}{right}<div class="bar"></div>'
        f'<em class="left">{escape(chosen["left"])}</em>'
        f'<em class="right">{escape(chosen["right"])}</em>'
        f'<input type="range" min="0" max="100" value="50" aria-label="before or after"></div>'
        f'<div class="picks">{lists}</div><div hidden>{store}</div></div>'
    )


def _embedded(path: Path) -> str:
    """Return a crop for the page: at a quality that looks the same at a fifth of the bytes."""
    from PIL import Image

    text = io.BytesIO()
    with Image.open(path) as image:
        image.save(text, "JPEG", quality=80)
    return base64.b64encode(text.getvalue()).decode()


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
        parts.append(crops_card(report, one, folder))
        parts.append(_quality_card(report, one))
    parts.append(_flicker_card(report))
    parts += [_sustained_card(report, size) for size in report.sizes]
    parts += [_speedup_card(report, size) for size in report.sizes]
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
    """Return the fastest accepted mode, and what it is worth beside the others."""
    if not report.sizes:
        return ""
    size = report.sizes[0]
    times = _medians(report, size)
    ours = [
        row for row in report.rows if row.name in times and row.kind == "bundle" and row.accepted
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
        for kind in ("competitor", "random weights")
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
        ParetoPoint(row.name, CSS_OF[row.kind], times[row.name], decibel)
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
    drawings = responsive_chart(
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
        LatencySpread(row.name, CSS_OF[row.kind], timing.samples_ms)
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
    heads = ["row", *(column.heading for column in tables.QUALITY), *labels]
    lines = []
    for row, found in bins:
        cells = tables.quality_cells(row, report.rows, pairs.name)
        texts = [tables.format_value(cells[one.key], one.digits) for one in tables.QUALITY]
        dark = [found[label].psnr_db if label in found else None for label in labels]
        lines.append([row.name, *texts, *(tables.format_value(one, 2) for one in dark)])
    unreadable = "".join(f"<li>{escape(line)}</li>" for line in pairs.unreadable)
    drawings = responsive_chart(
        lambda narrow: darkness_chart(report, pairs.name, CSS_OF, narrow=narrow),
        [row.name for row, _ in bins],
    )
    missing = f"<p>{len(pairs.unreadable)} could not be measured:</p><ul>{unreadable}</ul>"
    return (
        f'<section class="card"><h2>Quality, {escape(pairs.name)}</h2><p class="hint">'
        f"{pairs.images} images. The last columns: PSNR by the mean luma of what went in, "
        f"darkest first.</p>{html_table(heads, lines)}{missing if unreadable else ''}</section>"
        f'<section class="card"><h2>Quality by darkness, {escape(pairs.name)}</h2>'
        f"{legend(report, judged=True)}{drawings}</section>"
    )


def _sustained_card(report: Report, size: str) -> str:
    heads, lines = sustained_summary(report, size)
    if not lines:
        return ""
    drawings = responsive_chart(
        lambda narrow: sustained_chart(report, size, CSS_OF, narrow=narrow),
        [str(line[0][0]) for line in lines],
    )
    whole, parts = (
        html_table(one_heads, [[tables.format_value(*cell) for cell in line] for line in one_lines])
        for one_heads, one_lines in ((heads, lines), sustained_details(report, size))
    )
    return (
        f'<section class="card"><h2>Without pause, {size}</h2><p class="hint">'
        f"{escape(EXPLAINED)}</p>{drawings}{whole}"
        f"<details><summary>Every part</summary>{parts}</details></section>"
    )


def _speedup_card(report: Report, size: str) -> str:
    found = speedups(report, size)
    if not found:
        return ""
    lines = [[tables.format_value(*cell) for cell in one.cells] for one in found]
    return (
        f'<section class="card"><h2>What was saved, {size}</h2>'
        f'<p class="hint">{escape(describe_speedups(report, size))}</p>'
        f"{html_table(['row', *HEADINGS], lines)}</section>"
    )


def _flicker_card(report: Report) -> str:
    if not report.clips:
        return ""
    lines = [
        [row.name, *(tables.format_value(cell, 2) for cell in tables.flicker_cells(row, report))]
        for row in report.rows
    ]
    return (
        f'<section class="card"><h2>Flicker</h2><p class="hint">{escape(tables.FLICKER)}</p>'
        f"{html_table(['row', *tables.clip_headings(report)], lines)}</section>"
    )


def _table_card(report: Report, size: str) -> str:
    columns = (*tables.LATENCY, *tables.MODEL, *tables.energy_columns(report))
    lines = []
    for row in report.rows:
        timing = next((one for one in row.timings if one.size == size), None)
        cells = tables.latency_cells(timing) | tables.model_cells(row) | tables.energy_cells(timing)
        star = " *" if timing is not None and not statistics.assess_stability(timing).stable else ""
        texts = [tables.format_value(cells[one.key], one.digits) for one in columns]
        lines.append([row.name + star, *texts])
    heads = ["row", *(column.heading for column in columns)]
    return (
        f'<section class="card"><h2>All times, {size}</h2>{html_table(heads, lines)}'
        '<p class="hint">* unstable: why, and what to do, stands below.</p></section>'
    )


def _facts_card(report: Report) -> str:
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, value in tables.machine_lines(report)
    )
    lines = "".join(f"<li>{escape(line)}</li>" for line in tables.notes(report))
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
