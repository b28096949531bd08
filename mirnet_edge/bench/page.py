"""The HTML report of a benchmark: one self-contained page, light and dark."""

from __future__ import annotations

import base64
import io
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from mirnet_edge.bench import charts, statistics, tables
from mirnet_edge.bench.charts import STYLE_OF_KIND
from mirnet_edge.bench.quality import BEFORE
from mirnet_edge.bench.record import NOT_MEASURED
from mirnet_edge.charts import STYLESHEET

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mirnet_edge.bench.record import EntryKind, ImageCrop, PairSet, Report, ReportRow
    from mirnet_edge.bench.tables import ReportTable
    from mirnet_edge.charts import Chart

_LEGEND: dict[EntryKind, str] = {
    "bundle": "mirnet-edge", "competitor": "competitor models", "baseline": "classical baselines",
    "random weights": "full MIRNet, random weights",
}  # fmt: skip
_CROP_QUALITY = 80  # of JPEG: looks the same as the file's 95 at a fifth of the bytes


def to_html(report: Report, folder: Path) -> str:
    """Return the page.

    Args:
        report: The report.
        folder: Where its crops are; a missing one is left out.
    """
    pairs = report.pair_sets[0].name if report.pair_sets else None
    parts = [_head(report), _key_results(report, pairs)]
    for size in report.sizes:
        if pairs is not None:
            parts.append(_pareto_card(report, size, pairs))
        parts.append(_latency_card(report, size))
    for one in report.pair_sets:
        parts += [_crops_card(report, one, folder), *_quality_cards(report, one)]
    parts.append(_flicker_card(report))
    parts += [_sustained_card(report, size) for size in report.sizes]
    parts += [_speedup_card(report, size) for size in report.sizes]
    parts += [_table_card(report, size) for size in report.sizes]
    parts.append(_facts_card(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>mirnet-bench, {escape(report.created[:10])}</title>"
        f"<style>{STYLESHEET}{_resource('page.css')}</style></head>"
        f"<body><main>{''.join(parts)}</main><script>{_resource('page.js')}</script></body></html>\n"
    )


def _resource(name: str) -> str:
    return (resources.files("mirnet_edge.bench") / "web" / name).read_text(encoding="utf-8")


def _card(heading: str, body: str, hint: str = "") -> str:
    """Return a section of the page; HEADING and HINT are text, BODY is HTML."""
    shown = f'<p class="hint">{escape(hint)}</p>' if hint else ""
    return f'<section class="card"><h2>{escape(heading)}</h2>{shown}{body}</section>'


def _html_table(table: ReportTable) -> str:
    """Return a table that scrolls sideways where it is wider than the page."""
    head = "".join(f"<th>{escape(one)}</th>" for one in table.headings)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="none">{one}</td>' if one == NOT_MEASURED else f"<td>{escape(one)}</td>"
            for one in line
        )
        + "</tr>"
        for line in table.lines
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _responsive_chart(draw: Callable[[bool], Chart | None], names: Sequence[str] = ()) -> str:
    """Return a wide chart for desktops and a narrow one for phones; "" where there is none.

    Args:
        draw: Returns the chart; its argument is whether the narrow one is wanted.
        names: Of the entries, in the order in which the narrow chart numbers them.
    """
    wide, narrow = draw(False), draw(True)
    if wide is None or narrow is None:
        return ""
    listed = "".join(f"<li>{escape(name)}</li>" for name in names)
    key = f'<ol class="hint">{listed}</ol>' if names else ""
    return (
        f'<div class="desktop">{wide.to_inline()}</div>'
        f'<div class="phone">{narrow.to_inline()}{key}</div>'
    )


def _legend(rows: Sequence[ReportRow]) -> str:
    """Return the color of each kind among ROWS."""
    spans = "".join(
        f'<span><i class="{STYLE_OF_KIND[kind]}"></i>{_LEGEND[kind]}</span>'
        for kind in dict.fromkeys(row.kind for row in rows)
    )
    return f'<div class="legend">{spans}</div>'


def _head(report: Report) -> str:
    tasks = sorted({row.task for row in report.rows if row.task})
    machine = f"{report.machine.processor}, {report.machine.cores} cores"
    partial = ""
    if report.partial:
        partial = (
            '<div class="card partial">Partial: the run was interrupted. What is missing was not '
            "measured.</div>"
        )
    unstable = statistics.describe_instability(report)
    if unstable is not None:
        partial += (
            f'<div class="card partial">{escape(unstable.capitalize())}. Milliseconds may be off; '
            "ratios within this report hold. See the notes.</div>"
        )
    title = " and ".join(tasks).capitalize() or "Benchmark"
    version = report.versions.get("mirnet-edge", "")
    return (
        f'<h1>{escape(title)}: quality and latency</h1><p class="lead">{escape(machine)}. '
        f"{escape(report.created[:10])}, mirnet-edge {escape(version)}. "
        f"All entries were timed in turns on the same frame; every sample is kept.</p>{partial}"
    )


def _key_results(report: Report, pairs: str | None) -> str:
    """Return the fastest accepted configuration, its quality and its speedups."""
    if not report.sizes:
        return ""
    size = report.sizes[0]
    latencies = statistics.median_latencies(report, size)
    accepted = [
        row
        for row in report.rows
        if row.name in latencies and row.kind == "bundle" and row.accepted
    ]
    if not accepted:
        return ""
    best = min(accepted, key=lambda row: latencies[row.name])
    timed = next(timing for timing in best.timings if timing.size == size)
    mark = "" if statistics.assess_stability(timed).stable else ", unstable"
    results = [
        (f"{latencies[best.name]:.1f} <small>ms</small>", f"{best.name}, p50 at {size}{mark}")
    ]
    psnr_db = statistics.psnr_of(best, pairs) if pairs else None
    if psnr_db is not None:
        results.append((f"{psnr_db:.2f} <small>dB</small>", f"PSNR on {pairs}"))
    for kind in ("competitor", "random weights"):
        others = [row.name for row in report.rows if row.kind == kind and row.name in latencies]
        if others:
            other = min(others, key=lambda name: latencies[name])
            speedup = latencies[other] / latencies[best.name]
            results.append((f"{speedup:.3g}&times;", f"speedup over {other}"))
    drop = statistics.drop_db(best, report.rows, pairs) if pairs else None
    if drop is not None:
        results.append((f"{drop:+.3f} <small>dB</small>", "accuracy drop from fp32"))
    cells = "".join(
        f'<div class="figure"><b>{value}</b><span>{escape(label)}</span></div>'
        for value, label in results
    )
    return f'<div class="figures">{cells}</div>'


def _pareto_card(report: Report, size: str, pairs: str) -> str:
    points = charts.quality_points(report, size, pairs)
    if not points:
        return ""
    front = statistics.pareto([(one.x, one.y) for one in points])
    dominated = [
        one.name
        for index, one in enumerate(points)
        if one.style == STYLE_OF_KIND["bundle"] and index not in front
    ]
    where = f"not on it: {', '.join(dominated)}" if dominated else "all of mirnet-edge are on it"
    chart = _responsive_chart(
        lambda narrow: charts.pareto_chart(report, size, pairs, narrow=narrow),
        [one.name for one in points],
    )
    shown = {one.name for one in points}
    legend = _legend([row for row in report.rows if row.name in shown])
    hint = (
        "Up and left is better. The dotted line is the Pareto front, which no other entry beats in "
        f"both; {where}. PSNR on {pairs}, median latency of one frame."
    )
    return _card(f"Quality against latency, {size}", legend + chart, hint)


def _latency_card(report: Report, size: str) -> str:
    chart = _responsive_chart(lambda narrow: charts.latency_chart(report, size, narrow=narrow))
    latencies = statistics.median_latencies(report, size)
    legend = _legend([row for row in report.rows if row.name in latencies])
    hint = (
        "A dot is one run, the box spans the quartiles, the line is the median. All runs are shown."
    )
    return _card(f"Latency of every run, {size}", legend + chart, hint)


def _crops_card(report: Report, pairs: PairSet, folder: Path) -> str:
    """Return a pair set's crops, each with a slider between two entries."""
    crops = [
        one for one in report.crops if one.pairs == pairs.name and (folder / one.file).is_file()
    ]
    if not crops:
        return ""
    shots = "".join(
        _crop([crop for crop in crops if crop.image == name], folder, report, pairs.name)
        for name in dict.fromkeys(crop.image for crop in crops)
    )
    return _card(
        f"Before and after, {pairs.name}",
        f'<div class="shots">{shots}</div>',
        "Drag across an image. The lists select what is on each side.",
    )


def _crop(crops: Sequence[ImageCrop], folder: Path, report: Report, pairs: str) -> str:
    images = {crop.row: _embed(folder / crop.file) for crop in crops}
    ours = [row for row in report.rows if row.name in images and row.kind == "bundle"]
    ours.sort(key=lambda row: -(statistics.psnr_of(row, pairs) or 0.0))
    chosen = {"left": BEFORE, "right": ours[0].name if ours else list(images)[-1]}
    key = "".join(one if one.isalnum() else "-" for one in f"{pairs}-{crops[0].image}")
    store = "".join(
        f'<img id="{key}-{index}" src="data:image/jpeg;base64,{code}" alt="">'
        for index, code in enumerate(images.values())
    )
    lists = "".join(
        f'<select class="{side}" aria-label="{side} image">'
        + "".join(
            f'<option value="{key}-{index}"{" selected" if name == chosen[side] else ""}>'
            f"{escape(name)}</option>"
            for index, name in enumerate(images)
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


def _embed(path: Path) -> str:
    """Return a crop as base64 of a JPEG."""
    from PIL import Image

    text = io.BytesIO()
    with Image.open(path) as image:
        image.save(text, "JPEG", quality=_CROP_QUALITY)
    return base64.b64encode(text.getvalue()).decode()


def _quality_cards(report: Report, pairs: PairSet) -> list[str]:
    by_darkness = tables.darkness_table(report, pairs.name)
    if by_darkness is None:
        return []
    rows = [row for row, _ in charts.rows_by_darkness(report, pairs.name)]
    unreadable = "".join(f"<li>{escape(line)}</li>" for line in pairs.unreadable)
    missing = f"<p>{len(pairs.unreadable)} could not be measured:</p><ul>{unreadable}</ul>"
    chart = _responsive_chart(
        lambda narrow: charts.darkness_chart(report, pairs.name, narrow=narrow),
        [row.name for row in rows],
    )
    return [
        _card(
            f"Quality, {pairs.name}",
            _html_table(tables.quality_table(report, pairs.name)) + (missing if unreadable else ""),
            f"{pairs.images} images.",
        ),
        _card(
            f"Quality by input brightness, {pairs.name}",
            _legend(rows) + chart + _html_table(by_darkness),
        ),
    ]


def _flicker_card(report: Report) -> str:
    if not report.clips:
        return ""
    return _card("Flicker", _html_table(tables.flicker_table(report)), tables.FLICKER_NOTE)


def _sustained_card(report: Report, size: str) -> str:
    summary = tables.sustained_table(report, size)
    if summary is None:
        return ""
    chart = _responsive_chart(
        lambda narrow: charts.sustained_chart(report, size, narrow=narrow),
        [line[0] for line in summary.lines],
    )
    parts = _html_table(tables.sustained_parts_table(report, size))
    return _card(
        f"Sustained latency, {size}",
        f"{chart}{_html_table(summary)}<details><summary>All parts</summary>{parts}</details>",
        tables.SUSTAINED_NOTE,
    )


def _speedup_card(report: Report, size: str) -> str:
    found = tables.speedup_table(report, size)
    if found is None:
        return ""
    return _card(f"Speedup, {size}", _html_table(found), tables.describe_speedup(report, size))


def _table_card(report: Report, size: str) -> str:
    star = '<p class="hint">* unstable: see the notes for reasons and advice.</p>'
    table = _html_table(tables.latency_table(report, size))
    return _card(f"Latency, {size}", table + star)


def _facts_card(report: Report) -> str:
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
        for name, value in tables.machine_facts(report)
    )
    lines = "".join(f"<li>{escape(line)}</li>" for line in tables.report_notes(report))
    notes = _card("Notes", f"<ul>{lines}</ul>") if lines else ""
    return notes + _card("Machine and method", f"<dl>{facts}</dl>")
