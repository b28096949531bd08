"""A report in its four formats: JSON, CSV, Markdown, and a page to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge.bench.markdown_report import drawings, to_markdown
from mirnet_edge.bench.page import to_html
from mirnet_edge.bench.record import to_json
from mirnet_edge.bench.table import to_csv
from mirnet_edge.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from mirnet_edge.bench.record import Report


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, .csv, .md and .html, and the charts, each whole or not at all.

    Args:
        report: What was measured.
        folder: Where they go; the report's crops lie in it.

    Raises:
        MirnetEdgeError: The folder cannot be written.
    """
    write_atomically(folder / "report.json", to_json(report))
    write_atomically(folder / "report.csv", to_csv(report).encode())
    write_atomically(folder / "report.md", to_markdown(report).encode())
    for name, drawing in drawings(report).items():
        write_atomically(folder / name, drawing)
    write_atomically(folder / "report.html", to_html(report, folder).encode())
