"""What all drawings of a report share: scales, steps, the frame, and SVG files of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CHARACTER = 6.6
"""How wide a letter is, in the drawing's own units."""


@dataclass(frozen=True)
class Scale:
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
    """Return a drawing; its colours come from the page."""
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
    return f"{head}{''.join(parts)}</svg>"


def stylesheet(name: str) -> str:
    """Return a style sheet of the page, by its file's name."""
    return (resources.files("mirnet_edge.bench") / "web" / name).read_text(encoding="utf-8")


def standalone(drawing: str) -> bytes:
    """Return a drawing as a file of its own, with its colours, light and dark, and a ground."""
    head, _, rest = drawing.partition(">")
    width, height = head.partition('viewBox="0 0 ')[2].partition('"')[0].split()
    return (
        f'{head} xmlns="http://www.w3.org/2000/svg" style="width:{width}px;height:{height}px">'
        f"<style>{stylesheet('chart.css')}</style>"
        f'<rect class="ground" width="{width}" height="{height}"/>{rest}\n'
    ).encode()
