"""SVG charts of a benchmark report: Pareto, spread, lines, quality by darkness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from mirnet_edge.bench.statistics import QualityMean, by_darkness, pareto
from mirnet_edge.runtime.measure import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirnet_edge.bench.record import Report, ReportRow

CHARACTER = 6.6
"""How wide a letter is, in the drawing's own units."""


@dataclass(frozen=True)
class AxisScale:
    """Values to places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where a value lies."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def steps(low: float, high: float, most: int) -> list[float]:
    """Return round values between two, no more than so many and one."""
    power = math.floor(math.log10((high - low) / most))
    size = next(
        digit * 10.0**power for digit in (1, 2, 5, 10, 20)
        if (high - low) / (digit * 10.0**power) <= most
    )  # fmt: skip
    return [size * one for one in range(math.ceil(low / size), math.floor(high / size) + 1)]


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """Return a drawing; its colors come from the page."""
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
    return f"{head}{''.join(parts)}</svg>"


def stylesheet(name: str) -> str:
    """Return a style sheet of the page, by its file's name."""
    return (resources.files("mirnet_edge.bench") / "web" / name).read_text(encoding="utf-8")


def standalone(drawing: str) -> bytes:
    """Return a drawing as a file of its own, with its colors, light and dark, and a ground."""
    head, _, rest = drawing.partition(">")
    width, height = head.partition('viewBox="0 0 ')[2].partition('"')[0].split()
    return (
        f'{head} xmlns="http://www.w3.org/2000/svg" style="width:{width}px;height:{height}px">'
        f"<style>{stylesheet('chart.css')}</style>"
        f'<rect class="ground" width="{width}" height="{height}"/>{rest}\n'
    ).encode()


_LABEL_HEIGHT = 15.0


@dataclass(frozen=True)
class ParetoPoint:
    """A row in the image of quality against time."""

    name: str
    css: str
    """The class that colors it."""
    p50_ms: float
    psnr_db: float


@dataclass(frozen=True)
class LatencySpread:
    """A row in the image of times."""

    name: str
    css: str
    samples_ms: Sequence[float]


def pareto_chart(points: Sequence[ParetoPoint], width: int, height: int, *, numbered: bool) -> str:
    """Return dB against ms, the points that no other beats joined by a line.

    Args:
        points: At least one.
        width: Of the drawing's own units; the page scales it.
        height: The same.
        numbered: Write numbers, in the order of the points, where names have no room.
    """
    left, right, top, bottom = 44.0, 24.0, 14.0, 40.0
    across = _log_scale([one.p50_ms for one in points], left, width - right)
    levels = [one.psnr_db for one in points]
    edge = max(0.5, 0.08 * (max(levels) - min(levels)))
    up = AxisScale(min(levels) - edge, max(levels) + edge, height - bottom, top)
    parts = [_time_axis(across, height - bottom, top)]
    for level in steps(up.low, up.high, 6):
        parts.append(f'<path class="grid" d="M{left} {up(level):.1f}H{width - right}"/>')
        parts.append(
            f'<text x="{left - 8}" y="{up(level) + 4:.1f}" text-anchor="end">{level:g}</text>'
        )
    front = [points[place] for place in pareto([(one.p50_ms, one.psnr_db) for one in points])]
    places = [(across(math.log10(one.p50_ms)), up(one.psnr_db)) for one in points]
    joined = " ".join(
        f"{'L' if place else 'M'}{across(math.log10(one.p50_ms)):.1f} {up(one.psnr_db):.1f}"
        for place, one in enumerate(front)
    )
    parts.append(f'<path class="front" d="{joined}"/>')
    names = [str(place + 1) if numbered else one.name for place, one in enumerate(points)]
    labels = _placed_labels(places, names, width)
    for one, (x, y), name, (label_x, label_y, anchor) in zip(
        points, places, names, labels, strict=True
    ):
        if abs(label_y - 4 - y) > _LABEL_HEIGHT:
            parts.append(
                f'<path class="leader" d="M{x:.1f} {y:.1f}L{label_x:.1f} {label_y - 4:.1f}"/>'
            )
        parts.append(
            f'<circle class="point {one.css}" cx="{x:.1f}" cy="{y:.1f}" r="6.5">'
            f"<title>{escape(one.name)}: {one.p50_ms:.1f} ms, {one.psnr_db:.2f} dB</title></circle>"
            f'<text class="name" x="{label_x:.1f}" y="{label_y:.1f}" text-anchor="{anchor}">'
            f"{escape(name)}</text>"
        )
    parts.append(f'<text x="{left}" y="{top - 2}">dB, higher is better</text>')
    return svg(width, height, "Quality against time", parts)


def spread_chart(spreads: Sequence[LatencySpread], width: int, *, narrow: bool) -> str:
    """Return every run of every row as a dot on one scale of time, quartiles and median marked.

    Args:
        spreads: At least one.
        width: Of the drawing's own units.
        narrow: Put names above their rows, not beside them.
    """
    step, top, bottom = (40.0 if narrow else 28.0), 10.0, 40.0
    left = 10.0 if narrow else 20.0 + CHARACTER * max(len(one.name) for one in spreads)
    height = int(top + step * len(spreads) + bottom)
    across = _log_scale([value for one in spreads for value in one.samples_ms], left, width - 60.0)
    parts = [_time_axis(across, height - bottom, top)]
    for place, one in enumerate(spreads):
        y = top + step * (place + (0.7 if narrow else 0.5))
        low, middle, high = (percentile(one.samples_ms, q) for q in (25, 50, 75))
        start, end = across(math.log10(low)), across(math.log10(high))
        name_x, name_y, anchor = (left, y - 12, "start") if narrow else (left - 12, y + 4, "end")
        parts.append(
            f'<text class="name" x="{name_x:.1f}" y="{name_y:.1f}" text-anchor="{anchor}">'
            f"{escape(one.name)}</text>"
            f'<rect class="box {one.css}" x="{start:.1f}" y="{y - 7:.1f}" '
            f'width="{max(end - start, 1):.1f}" height="14" rx="3"/>'
        )
        parts += [
            f'<circle class="dot {one.css}" cx="{across(math.log10(value)):.1f}" '
            f'cy="{y + 3 * ((turn * 7) % 5 - 2) / 2:.1f}" r="2.6"/>'
            for turn, value in enumerate(one.samples_ms)
        ]
        parts.append(
            f'<path class="median {one.css}" d="M{across(math.log10(middle)):.1f} {y - 9:.1f}v18"/>'
            f'<text x="{max(across(math.log10(max(one.samples_ms))), end) + 8:.1f}" '
            f'y="{y + 4:.1f}">{_time_text(middle)}</text>'
        )
    return svg(width, height, "Times of every run", parts)


def _log_scale(values: Sequence[float], start: float, end: float) -> AxisScale:
    low, high = math.log10(min(values)), math.log10(max(values))
    edge = max(0.05, 0.04 * (high - low))
    return AxisScale(low - edge, high + edge, start, end)


def _time_axis(across: AxisScale, bottom: float, top: float) -> str:
    parts = []
    marks = [
        digit * 10.0**power
        for power in range(math.floor(across.low), math.ceil(across.high) + 1)
        for digit in (1, 2, 5)
    ]
    marks = [one for one in marks if across.low <= math.log10(one) <= across.high]
    if (across.end - across.start) / max(1, len(marks)) < 44:
        marks = [one for one in marks if f"{one:g}".strip("0.").startswith("1")]
    for mark in marks:
        x = across(math.log10(mark))
        parts.append(
            f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>'
            f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">'
            f"{_time_text(mark)}</text>"
        )
    return "".join(parts)


def _placed_labels(
    places: Sequence[tuple[float, float]], names: Sequence[str], width: float
) -> list[tuple[float, float, str]]:
    """Return x, baseline y and anchor of each label, moved until none covers another."""
    taken: list[tuple[float, float, float]] = [(x - 7, x + 7, y) for x, y in places]
    found: list[tuple[float, float, str]] = [(0.0, 0.0, "start")] * len(places)
    for place in sorted(range(len(places)), key=lambda one: places[one][1]):
        x, y = places[place]
        length = CHARACTER * len(names[place])
        flipped = x + 12 + length > width
        start = x - 12 - length if flipped else x + 12
        shifts = [sign * step * 5.0 for step in range(40) for sign in (1, -1)]
        shift = next((one for one in shifts if _free(start, start + length, y + one, taken)), 0.0)
        taken.append((start, start + length, y + shift))
        found[place] = (x - 12 if flipped else x + 12, y + shift + 4, "end" if flipped else "start")
    return found


def _free(start: float, end: float, y: float, taken: Sequence[tuple[float, float, float]]) -> bool:
    return all(
        end < one_start or start > one_end or abs(y - one_y) >= _LABEL_HEIGHT - 2
        for one_start, one_end, one_y in taken
    )


def _time_text(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.3g} s"
    return f"{milliseconds:.3g} ms"


_LEFT, _TOP, _BOTTOM = 44.0, 26.0, 40.0
_GAP = 14.0  # between two lines of text


@dataclass(frozen=True)
class ChartLine:
    """A row."""

    name: str
    css: str
    """The class that colors it."""
    points: Sequence[tuple[float, float]]
    """Of x and value, at least one, x rising."""
    note: str = ""
    """What stands behind the name."""


@dataclass(frozen=True)
class ChartAxes:
    """What a drawing is of."""

    title: str
    caption: str
    """What the values are, and which are good."""
    ticks: Sequence[tuple[float, str]]
    """Of x, at least one, rising, and what each is called."""
    below: str
    """What x is."""
    unit: str
    digits: int
    edge: float
    """How much room above the highest value and below the lowest, at least."""


def line_chart(
    lines: Sequence[ChartLine], axes: ChartAxes, width: float, height: float, *, numbered: bool
) -> str:
    """Return lines with their names at their right ends.

    Args:
        lines: At least one.
        axes: What they show.
        width: Of the drawing's own units; the page scales it.
        height: The same; more where the names need it.
        numbered: Write numbers, in the order of the lines, where names have no room.
    """
    names = [
        str(place + 1) if numbered else f"{one.name} {one.note}".rstrip()
        for place, one in enumerate(lines)
    ]
    height = max(height, _TOP + _BOTTOM + _GAP * len(lines))
    right = width - 30.0 - CHARACTER * min(max(map(len, names)), 52)
    first, last = axes.ticks[0][0], axes.ticks[-1][0]
    # one bin alone stands in the middle
    across = AxisScale(first, last, _LEFT + 14, right) if last > first else None
    values = [value for one in lines for _, value in one.points]
    room = max(axes.edge, 0.08 * (max(values) - min(values)))
    up = AxisScale(min(values) - room, max(values) + room, height - _BOTTOM, _TOP)

    def place_of(x: float, value: float) -> tuple[float, float]:
        return (across(x) if across else (_LEFT + right) / 2), up(value)

    parts = [f'<text x="{_LEFT}" y="{_TOP - 12}">{escape(axes.caption)}</text>']
    for level in steps(up.low, up.high, 6):
        parts.append(
            f'<path class="grid" d="M{_LEFT} {up(level):.1f}H{right:.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{up(level) + 4:.1f}" text-anchor="end">{level:g}</text>'
        )
    for x, text in axes.ticks:
        parts.append(
            f'<text x="{place_of(x, up.low)[0]:.1f}" y="{height - _BOTTOM + 17:.1f}" '
            f'text-anchor="middle">{escape(text)}</text>'
        )
    parts.append(
        f'<text x="{(_LEFT + right) / 2:.1f}" y="{height - 6:.1f}" text-anchor="middle">'
        f"{escape(axes.below)}</text>"
    )
    ends = [place_of(*one.points[-1]) for one in lines]
    levels = _apart([y for _, y in ends], _TOP, height - _BOTTOM)
    # ours above the others
    order = sorted(range(len(lines)), key=lambda place: lines[place].css == "bundle")
    parts += [_draw_lines(lines[place], axes, [place_of(*one) for one in lines[place].points])
              for place in order]  # fmt: skip
    for name, (x, y), level in zip(names, ends, levels, strict=True):
        parts.append(
            f'<path class="leader" d="M{x + 5:.1f} {y:.1f}L{right + 14:.1f} {level:.1f}"/>'
            f'<text class="name" x="{right + 18:.1f}" y="{level + 4:.1f}">{escape(name)}</text>'
        )
    return svg(width, height, axes.title, parts)


def _draw_lines(line: ChartLine, axes: ChartAxes, places: Sequence[tuple[float, float]]) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle class="point {line.css}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>'
        f"{escape(line.name)}: {value:.{axes.digits}f} {escape(axes.unit)}</title></circle>"
        for (x, y), (_, value) in zip(places, line.points, strict=True)
    )
    return f'<path class="line {line.css}" d="M{path}"/>{dots}'


def _apart(wished: Sequence[float], top: float, bottom: float) -> list[float]:
    """Return places near the wished ones, at least a line of text apart, between two edges."""
    order = sorted(range(len(wished)), key=lambda place: wished[place])
    gap = min(_GAP, (bottom - top) / max(1, len(wished) - 1))
    found, lowest = list(wished), top
    for place in order:
        found[place] = max(wished[place], lowest)
        lowest = found[place] + gap
    highest = bottom
    for place in reversed(order):
        found[place] = min(found[place], highest)
        highest = found[place] - gap
    return found


def bins_of(report: Report, pairs: str) -> list[tuple[ReportRow, dict[str, QualityMean]]]:
    """Return each row's means by darkness on one set, the darkest first."""
    return [
        (row, by_darkness(quality))
        for row in report.rows
        for quality in row.quality
        if quality.pairs == pairs
    ]


def darkness_chart(report: Report, pairs: str, css: dict[str, str], *, narrow: bool) -> str:
    """Return each row's PSNR over darkness; "" where no row was measured.

    Args:
        report: What was measured.
        pairs: The set.
        css: The class that colors each kind of row.
        narrow: For phones: numbers where names have no room.
    """
    found = [(row, bins) for row, bins in bins_of(report, pairs) if bins]
    labels = list(dict.fromkeys(label for _, bins in found for label in bins))
    if not labels:
        return ""
    counts = {label: bins[label].images for _, bins in found for label in bins}
    lines = [
        ChartLine(
            row.name,
            css[row.kind],
            [(float(labels.index(label)), mean.psnr_db) for label, mean in bins.items()],
        )
        for row, bins in found
    ]
    axes = ChartAxes(
        title=f"Quality by darkness, {pairs}",
        caption="PSNR in dB, higher is better",
        ticks=[
            (float(place), label if narrow else f"{label}: {_image_counts(counts[label])}")
            for place, label in enumerate(labels)
        ],
        below="mean luma of what went in",
        unit="dB",
        digits=2,
        edge=0.5,
    )
    width, height = (360, 380) if narrow else (1040, 400)
    return line_chart(lines, axes, width, height, numbered=narrow)


def _image_counts(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
