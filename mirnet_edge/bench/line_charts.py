"""Lines of a report's rows, as inline SVG: quality over darkness, frame time over minutes."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from mirnet_edge.bench.drawing import CHARACTER, Scale, steps, svg

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEFT, _TOP, _BOTTOM = 44.0, 26.0, 40.0
_GAP = 14.0  # between two lines of text


@dataclass(frozen=True)
class Line:
    """A row."""

    name: str
    css: str
    """The class that colours it."""
    points: Sequence[tuple[float, float]]
    """Of x and value, at least one, x rising."""
    note: str = ""
    """What stands behind the name."""


@dataclass(frozen=True)
class Axes:
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
    lines: Sequence[Line], axes: Axes, width: float, height: float, *, numbered: bool
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
    across = Scale(first, last, _LEFT + 14, right) if last > first else None
    values = [value for one in lines for _, value in one.points]
    room = max(axes.edge, 0.08 * (max(values) - min(values)))
    up = Scale(min(values) - room, max(values) + room, height - _BOTTOM, _TOP)

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
    parts += [_drawn(lines[place], axes, [place_of(*one) for one in lines[place].points])
              for place in order]  # fmt: skip
    for name, (x, y), level in zip(names, ends, levels, strict=True):
        parts.append(
            f'<path class="leader" d="M{x + 5:.1f} {y:.1f}L{right + 14:.1f} {level:.1f}"/>'
            f'<text class="name" x="{right + 18:.1f}" y="{level + 4:.1f}">{escape(name)}</text>'
        )
    return svg(width, height, axes.title, parts)


def _drawn(line: Line, axes: Axes, places: Sequence[tuple[float, float]]) -> str:
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
