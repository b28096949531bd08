"""Charts as SVG: scatter with a Pareto front, lines, distributions, bars, matrices.

The package's only chart code: benchmark reports, training curves and sensitivity analyses use it.
Colors are CSS classes whose values follow the reader's light or dark theme, in a page and in a
file of its own. A plotting library fixes colors when it draws, and would have to be installed on
every device that writes a report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ChartStyle = Literal["primary", "secondary", "muted", "accent"]
STYLESHEET = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1c1b19; --soft: #6d6a63; --line: #e4e0d6;
  --primary: #d9480f; --secondary: #2f6fb0; --muted: #8a867c; --accent: #8a5bb0;
  --warning: #a15c00; --shade: rgba(40, 30, 10, .06);
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #141311; --card: #1d1c19; --ink: #f1eee7; --soft: #a5a095; --line: #37342e;
    --primary: #ff8a4c; --secondary: #77b2ee; --muted: #9a958a; --accent: #c09be3;
    --warning: #f0b45e; --shade: rgba(0, 0, 0, .4);
  }
}
.primary { color: var(--primary); fill: var(--primary); stroke: var(--primary); }
.secondary { color: var(--secondary); fill: var(--secondary); stroke: var(--secondary); }
.muted { color: var(--muted); fill: var(--muted); stroke: var(--muted); }
.accent { color: var(--accent); fill: var(--accent); stroke: var(--accent); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text {
  fill: var(--soft); font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums;
  stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; paint-order: stroke;
}
svg text.name { fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; fill: none; }
svg .front {
  fill: none; stroke: var(--primary); stroke-width: 2; stroke-dasharray: 2 5;
  stroke-linecap: round; opacity: .8;
}
svg .leader { stroke: var(--line); stroke-width: 1; }
svg .dot { fill-opacity: .28; stroke: none; }
svg .box { fill-opacity: .22; stroke-width: 1.2; }
svg .bar { fill-opacity: .75; stroke: none; }
svg .median { stroke-width: 2.5; }
svg .point { stroke: var(--card); stroke-width: 2; }
svg .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
svg .line.primary { stroke-width: 2.4; } svg .line.muted { opacity: .75; }
svg .ground { fill: var(--card); }
"""
"""Colors and line widths of all charts; a page that holds one includes it once."""

_CHARACTER = 6.6  # mean width of a letter at 12 px
_LABEL_HEIGHT = 15.0
_LINE_HEIGHT = 14.0
_TOP, _BOTTOM, _LEAST_LEFT = 26.0, 46.0, 44.0
_MOST_LARGE_MARKERS, _MOST_MARKERS = 12, 40


@dataclass(frozen=True)
class Chart:
    """A finished chart."""

    title: str
    width: float
    height: float
    body: str
    """SVG elements."""

    def to_inline(self) -> str:
        """Return an SVG element for a page that includes `STYLESHEET` and scales it."""
        return f"<svg {self._attributes()}>{self.body}</svg>"

    def to_file(self) -> bytes:
        """Return an SVG file with its own styles and background."""
        size = f"{self.width:g}px", f"{self.height:g}px"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {self._attributes()} '
            f'style="width:{size[0]};height:{size[1]}"><style>{STYLESHEET}</style>'
            f'<rect class="ground" width="{self.width:g}" height="{self.height:g}"/>'
            f"{self.body}</svg>\n"
        ).encode()

    def _attributes(self) -> str:
        box = f"0 0 {self.width:g} {self.height:g}"
        return f'viewBox="{box}" role="img" aria-label="{escape(self.title)}"'


@dataclass(frozen=True, kw_only=True)
class ChartAxis:
    """What an axis shows."""

    label: str
    ticks: Sequence[tuple[float, str]] = ()
    """Value and text of each mark, rising; empty for round values."""
    log: bool = False
    padding: float = 0.0
    """Room beyond the smallest and largest value, at least; not for logarithmic axes."""
    format: Callable[[float], str] = "{:g}".format
    """Text of a value."""


@dataclass(frozen=True)
class ChartPoint:
    """A point of a scatter chart."""

    name: str
    x: float
    y: float
    style: ChartStyle = "primary"
    tooltip: str = ""


@dataclass(frozen=True)
class ChartSeries:
    """A line of a line chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y), at least one, x rising."""
    style: ChartStyle = "primary"
    note: str = ""
    """Text behind the name."""


@dataclass(frozen=True)
class ChartSamples:
    """A row of a distribution chart."""

    name: str
    values: Sequence[float]
    """At least one."""
    style: ChartStyle = "primary"


@dataclass(frozen=True)
class BarPanel:
    """A column of a bar chart."""

    label: str
    values: Sequence[float | None]
    """One per name; None draws no bar."""
    style: ChartStyle = "primary"
    digits: int = 2


@dataclass(frozen=True)
class _Scale:
    """Positions of values along one axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        number = math.log10(value) if self.log else value
        return self.start + (number - self.low) / (self.high - self.low) * (self.end - self.start)


def scatter_chart(
    title: str,
    points: Sequence[ChartPoint],
    x: ChartAxis,
    y: ChartAxis,
    *,
    size: tuple[float, float],
    front: Sequence[int] = (),
    numbered: bool = False,
) -> Chart:
    """Return points with their names, those of the front joined by a dotted line.

    Args:
        title: Read aloud by screen readers.
        points: At least one.
        x: Horizontal axis.
        y: Vertical axis.
        size: (width, height).
        front: Indices of the points on the Pareto front, in the order of x.
        numbered: Label points 1, 2, 3 in their order, where names have no room.
    """
    width, height = size
    up = _fit_scale(y, [one.y for one in points], height - _BOTTOM, _TOP)
    left = _left_margin(y, up)
    across = _fit_scale(x, [one.x for one in points], left, width - 24.0)
    parts = [*_y_axis(y, up, left, width - 24.0), *_x_axis(x, across, _TOP, height)]
    places = [(across(one.x), up(one.y)) for one in points]
    if front:
        joined = "L".join(f"{places[index][0]:.1f} {places[index][1]:.1f}" for index in front)
        parts.append(f'<path class="front" d="M{joined}"/>')
    names = [str(index) if numbered else one.name for index, one in enumerate(points, 1)]
    labels = _place_labels(places, names, width)
    for point, place, name, label in zip(points, places, names, labels, strict=True):
        if abs(label[1] - 4 - place[1]) > _LABEL_HEIGHT:
            parts.append(_leader(place, (label[0], label[1] - 4)))
        parts.append(_marker(place, 6.5, point.style, point.tooltip or point.name))
        parts.append(_text(label[0], label[1], name, label[2], css="name"))
    return Chart(title, width, height, "".join(parts))


def line_chart(
    title: str,
    series: Sequence[ChartSeries],
    x: ChartAxis,
    y: ChartAxis,
    *,
    size: tuple[float, float],
    numbered: bool = False,
) -> Chart:
    """Return lines with their names at their right ends, the primary ones on top.

    Args:
        title: Read aloud by screen readers.
        series: At least one.
        x: Horizontal axis; it spans its ticks where it has some, else the values.
        y: Vertical axis.
        size: (width, height); higher where the names need it.
        numbered: Label lines 1, 2, 3 in their order, where names have no room.
    """
    names = [
        str(index) if numbered else f"{one.name} {one.note}".strip()
        for index, one in enumerate(series, 1)
    ]
    width, height = size[0], max(size[1], _TOP + _BOTTOM + _LINE_HEIGHT * len(series))
    right = width - 30.0 - _CHARACTER * min(max(map(len, names)), 52)
    up = _fit_scale(y, [value for one in series for _, value in one.points], height - _BOTTOM, _TOP)
    left = _left_margin(y, up)
    known = [place for place, _ in x.ticks] or [place for one in series for place, _ in one.points]
    low, high = min(known), max(known)
    if low == high:
        low, high = low - 1.0, high + 1.0
    across = _Scale(low, high, left + 14, right)
    parts = [*_y_axis(y, up, left, right), *_x_axis(x, across, _TOP, height, grid=False)]
    paths = [[(across(place), up(value)) for place, value in one.points] for one in series]
    for index in sorted(range(len(series)), key=lambda index: series[index].style == "primary"):
        parts.append(_line(series[index], paths[index], y))
    levels = _spread_apart([path[-1][1] for path in paths], _TOP, height - _BOTTOM)
    for name, path, level in zip(names, paths, levels, strict=True):
        if name:
            parts.append(_leader((path[-1][0] + 5, path[-1][1]), (right + 14, level)))
            parts.append(_text(right + 18, level + 4, name, css="name"))
    return Chart(title, width, height, "".join(parts))


def distribution_chart(
    title: str, rows: Sequence[ChartSamples], x: ChartAxis, *, width: float, narrow: bool = False
) -> Chart:
    """Return every sample of every row as a dot, with a box of the quartiles and the median.

    Args:
        title: Read aloud by screen readers.
        rows: At least one.
        x: The axis that all rows share.
        width: In pixels; the height follows from the rows.
        narrow: Put names above their rows instead of beside them.
    """
    step = 40.0 if narrow else 28.0
    left = 10.0 if narrow else 20.0 + _CHARACTER * max(len(one.name) for one in rows)
    height = 10.0 + step * len(rows) + _BOTTOM
    across = _fit_scale(x, [value for one in rows for value in one.values], left, width - 60.0)
    parts = [*_x_axis(x, across, 10.0, height)]
    for index, row in enumerate(rows):
        level = 10.0 + step * (index + (0.7 if narrow else 0.5))
        name_at = (left, level - 12, "start") if narrow else (left - 12, level + 4, "end")
        low, middle, high = map(float, np.percentile(row.values, (25, 50, 75)))
        start, end = across(low), across(high)
        parts.append(_text(*name_at[:2], row.name, name_at[2], css="name"))
        parts.append(
            f'<rect class="box {row.style}" x="{start:.1f}" y="{level - 7:.1f}" '
            f'width="{max(end - start, 1):.1f}" height="14" rx="3"/>'
        )
        parts += [
            f'<circle class="dot {row.style}" cx="{across(value):.1f}" '
            f'cy="{level + 3 * ((turn * 7) % 5 - 2) / 2:.1f}" r="2.6"/>'
            for turn, value in enumerate(row.values)
        ]
        parts.append(
            f'<path class="median {row.style}" d="M{across(middle):.1f} {level - 9:.1f}v18"/>'
        )
        parts.append(
            _text(max(across(max(row.values)), end) + 8, level + 4, x.format(middle), "start")
        )
    return Chart(title, width, height, "".join(parts))


def bar_chart(
    title: str, names: Sequence[str], panels: Sequence[BarPanel], *, width: float
) -> Chart:
    """Return horizontal bars: a row per name, a column per panel, each value beside its bar.

    Args:
        title: Read aloud by screen readers.
        names: From top to bottom.
        panels: From left to right, at least one, each with its own scale from zero.
        width: In pixels; the height follows from the names.
    """
    step, top = 22.0, 34.0
    left = 24.0 + _CHARACTER * max((len(one) for one in names), default=0)
    column = (width - left) / len(panels)
    levels = [top + step * (index + 0.5) for index in range(len(names))]
    parts = [
        _text(left - 12, level + 4, name, "end", css="name")
        for name, level in zip(names, levels, strict=True)
    ]
    for index, panel in enumerate(panels):
        start = left + column * index
        known = [value for value in panel.values if value is not None]
        low, high = min([0.0, *known]), max([0.0, *known])
        text_room = 14.0 + _CHARACTER * (panel.digits + 4)
        across = _Scale(low, high if high > low else low + 1.0, start, start + column - text_room)
        parts.append(_text(start, top - 14, panel.label))
        parts.append(
            f'<path class="grid" d="M{across(0.0):.1f} {top - 4}V{top + step * len(names) + 4}"/>'
        )
        for level, value in zip(levels, panel.values, strict=True):
            if value is None:
                continue
            edges = sorted((across(0.0), across(value)))
            parts.append(
                f'<rect class="bar {panel.style}" x="{edges[0]:.1f}" y="{level - 7:.1f}" '
                f'width="{max(edges[1] - edges[0], 0.5):.1f}" height="14" rx="2"/>'
            )
            parts.append(_text(edges[1] + 6, level + 4, f"{value:.{panel.digits}f}"))
    return Chart(title, width, top + step * len(names) + 20, "".join(parts))


def matrix_chart(
    title: str,
    names: Sequence[str],
    rows: Sequence[Sequence[int]],
    *,
    width: float,
    across: str,
    down: str,
) -> Chart:
    """Return a confusion matrix: counts in cells, shaded by their share of the row.

    Args:
        title: Read aloud by screen readers.
        names: Of rows and columns.
        rows: Counts, a row per name, a column per name.
        width: In pixels; the height follows from the names.
        across: Label of the columns.
        down: Label of the rows.
    """
    step, top = 34.0, 56.0
    left = 24.0 + _CHARACTER * max(map(len, names))
    column = (width - left - 12.0) / len(names)
    height = top + step * len(names) + 30.0
    parts = [
        _text(left + column * len(names) / 2, 16, across, "middle"),
        _text(left - 12, top + step * len(names) + 20, down, "end"),
    ]
    for index, name in enumerate(names):
        level = top + step * index
        parts.append(_text(left + column * (index + 0.5), top - 12, name, "middle", css="name"))
        parts.append(_text(left - 12, level + step / 2 + 4, name, "end", css="name"))
        total = max(1, sum(rows[index]))
        for place, count in enumerate(rows[index]):
            style = "secondary" if place == index else "primary"
            x = left + column * place
            parts.append(
                f'<rect class="bar {style}" x="{x + 1:.1f}" y="{level + 1:.1f}" '
                f'width="{column - 2:.1f}" height="{step - 2:g}" rx="2" '
                f'opacity="{0.06 + 0.8 * count / total:.2f}"/>'
            )
            text_at = (x + column / 2, level + step / 2 + 4)
            parts.append(_text(*text_at, str(count) if count else "", "middle", css="name"))
    return Chart(title, width, height, "".join(parts))


def arrange_charts(title: str, charts: Sequence[Chart], *, columns: int) -> Chart:
    """Return charts of one size side by side, row by row."""
    width, height = charts[0].width, charts[0].height
    body = "".join(
        f'<g transform="translate({width * (index % columns):g} '
        f'{height * (index // columns):g})">{one.body}</g>'
        for index, one in enumerate(charts)
    )
    rows = math.ceil(len(charts) / columns)
    return Chart(title, width * min(columns, len(charts)), height * rows, body)


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round values in [low, high], at most MOST and one."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    size = next(
        digit * power for digit in (1, 2, 5, 10, 20) if (high - low) / (digit * power) <= most
    )
    # rounded: 3 * 0.1 is 0.30000000000000004
    digits = max(0, 1 - math.floor(math.log10(size)))
    first, last = math.ceil(low / size), math.floor(high / size)
    return [round(size * index, digits) for index in range(first, last + 1)]


def _fit_scale(axis: ChartAxis, values: Sequence[float], start: float, end: float) -> _Scale:
    """Return a scale that shows all values with some room on both sides."""
    if axis.log:
        values = [math.log10(value) for value in values]
    low, high = min(values), max(values)
    if axis.log:
        room = max(0.05, 0.04 * (high - low))
    else:
        room = max(axis.padding, 0.08 * (high - low)) or abs(high) or 1.0
    return _Scale(low - room, high + room, start, end, axis.log)


def _ticks(axis: ChartAxis, scale: _Scale) -> Sequence[tuple[float, str]]:
    if axis.ticks:
        return axis.ticks
    if not scale.log:
        marks = round_ticks(scale.low, scale.high, 6)
    else:
        powers = range(math.floor(scale.low), math.ceil(scale.high) + 1)
        marks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        marks = [one for one in marks if scale.low <= math.log10(one) <= scale.high]
        if abs(scale.end - scale.start) / max(1, len(marks)) < 44:
            marks = [one for one in marks if f"{one:g}".strip("0.").startswith("1")]
        if len(marks) < 2:
            marks = round_ticks(10.0**scale.low, 10.0**scale.high, 4)
    return [(one, axis.format(one)) for one in marks]


def _left_margin(axis: ChartAxis, scale: _Scale) -> float:
    longest = max((len(text) for _, text in _ticks(axis, scale)), default=0)
    return max(_LEAST_LEFT, 14.0 + _CHARACTER * longest)


def _y_axis(axis: ChartAxis, scale: _Scale, left: float, right: float) -> Iterator[str]:
    yield _text(left, _TOP - 12, axis.label)
    for value, text in _ticks(axis, scale):
        level = scale(value)
        yield f'<path class="grid" d="M{left:.1f} {level:.1f}H{right:.1f}"/>'
        yield _text(left - 8, level + 4, text, "end")


def _x_axis(
    axis: ChartAxis, scale: _Scale, top: float, height: float, *, grid: bool = True
) -> Iterator[str]:
    bottom = height - _BOTTOM
    for value, text in _ticks(axis, scale):
        place = scale(value)
        if grid:
            yield f'<path class="grid" d="M{place:.1f} {top}V{bottom}"/>'
        yield _text(place, bottom + 18, text, "middle")
    yield _text((scale.start + scale.end) / 2, height - 8, axis.label, "middle")


def _text(x: float, y: float, text: str, anchor: str = "start", *, css: str = "") -> str:
    named = f' class="{css}"' if css else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _marker(place: tuple[float, float], radius: float, style: str, tooltip: str) -> str:
    return (
        f'<circle class="point {style}" cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{radius}">'
        f"<title>{escape(tooltip)}</title></circle>"
    )


def _leader(start: tuple[float, float], end: tuple[float, float]) -> str:
    return f'<path class="leader" d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"/>'


def _line(series: ChartSeries, path: Sequence[tuple[float, float]], y: ChartAxis) -> str:
    joined = "L".join(f"{place:.1f} {level:.1f}" for place, level in path)
    line = f'<path class="line {series.style}" d="M{joined}"/>'
    if len(path) > _MOST_MARKERS:
        return line
    radius = 4.5 if len(path) <= _MOST_LARGE_MARKERS else 3.0
    markers = [
        _marker(place, radius, series.style, f"{series.name}: {y.format(value)}")
        for place, (_, value) in zip(path, series.points, strict=True)
    ]
    return line + "".join(markers)


def _place_labels(
    places: Sequence[tuple[float, float]], names: Sequence[str], width: float
) -> list[tuple[float, float, str]]:
    """Return x, baseline y and anchor of each label, moved until none covers another."""
    taken: list[tuple[float, float, float]] = [(x - 7, x + 7, y) for x, y in places]
    labels: list[tuple[float, float, str]] = [(0.0, 0.0, "start")] * len(places)
    shifts = [sign * step * 5.0 for step in range(40) for sign in (1, -1)]
    for index in sorted(range(len(places)), key=lambda index: places[index][1]):
        x, y = places[index]
        length = _CHARACTER * len(names[index])
        flipped = x + 12 + length > width
        start = x - 12 - length if flipped else x + 12
        free = (one for one in shifts if _is_free(start, start + length, y + one, taken))
        level = y + next(free, 0.0)
        taken.append((start, start + length, level))
        labels[index] = (x - 12, level + 4, "end") if flipped else (x + 12, level + 4, "start")
    return labels


def _is_free(
    start: float, end: float, level: float, taken: Sequence[tuple[float, float, float]]
) -> bool:
    return all(
        end < other_start or start > other_end or abs(level - other) >= _LABEL_HEIGHT - 2
        for other_start, other_end, other in taken
    )


def _spread_apart(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Return levels near the wanted ones, at least a line of text apart, between two edges."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(_LINE_HEIGHT, (bottom - top) / max(1, len(wanted) - 1))
    levels, lowest = list(wanted), top
    for index in order:
        levels[index] = max(wanted[index], lowest)
        lowest = levels[index] + gap
    highest = bottom
    for index in reversed(order):
        levels[index] = min(levels[index], highest)
        highest = levels[index] - gap
    return levels
