"""The pictures of a report's page, as inline SVG: colours come from the page, light or dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from mirnet_edge.bench.drawing import CHARACTER, Scale, steps, svg
from mirnet_edge.bench.statistics import pareto
from mirnet_edge.runtime.measure import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

_LABEL_HEIGHT = 15.0


@dataclass(frozen=True)
class Point:
    """A row in the picture of quality against time."""

    name: str
    css: str
    """The class that colours it."""
    p50_ms: float
    psnr_db: float


@dataclass(frozen=True)
class Spread:
    """A row in the picture of times."""

    name: str
    css: str
    samples_ms: Sequence[float]


def pareto_chart(points: Sequence[Point], width: int, height: int, *, numbered: bool) -> str:
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
    up = Scale(min(levels) - edge, max(levels) + edge, height - bottom, top)
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


def spread_chart(spreads: Sequence[Spread], width: int, *, narrow: bool) -> str:
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


def _log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    low, high = math.log10(min(values)), math.log10(max(values))
    edge = max(0.05, 0.04 * (high - low))
    return Scale(low - edge, high + edge, start, end)


def _time_axis(across: Scale, bottom: float, top: float) -> str:
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
