"""What the cards of a report's page share: colours of rows, the legend, tables."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from mirnet_edge.bench.record import NOT_MEASURED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirnet_edge.bench.record import Report

CSS_OF = {
    "bundle": "bundle", "rival": "rival", "baseline": "baseline", "random weights": "random",
}  # fmt: skip
"""The class that colours a kind of row."""
_LEGEND = {
    "bundle": "mirnet-edge", "rival": "other networks", "baseline": "classical methods",
    "random weights": "full MIRNet, random weights",
}  # fmt: skip


def legend(report: Report, *, judged: bool = False) -> str:
    """Return which colour is what.

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


def drawn_twice(drawing: Callable[[bool], str], names: Sequence[str]) -> str:
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
