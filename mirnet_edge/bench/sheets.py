"""Sheets of a benchmark: one image as every method restores it, side by side, with time and dB."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from mirnet_edge.bench import statistics
from mirnet_edge.bench.quality import BEFORE, REFERENCE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mirnet_edge.bench.record import ImageCrop, PairSet, Report, ReportRow

_COLUMNS = 4
_CELL = (360, 270)  # width, height
_CAPTION, _FONT = 40, 14  # pixels
_QUALITY = 80  # of WebP


def sheet_files(report: Report, folder: Path) -> dict[str, bytes]:
    """Return a sheet for each image that was kept, by file name.

    Of a bundle's configurations, which look alike, a sheet shows the fastest that the quality gate
    accepted.

    Args:
        report: The report.
        folder: Where its crops are; a missing one is left out.
    """
    sheets = {}
    for pairs in report.pair_sets:
        for name, image in _images(report, pairs, folder).items():
            sheets[name] = _draw_sheet(report, image, folder)
    return sheets


def list_sheets(report: Report, pairs: PairSet, folder: Path) -> dict[str, str]:
    """Return the file names of a pair set's sheets and what each shows."""
    return {
        file: f"{crops[0].image}, by {len(crops)} methods"
        for file, crops in _images(report, pairs, folder).items()
    }


def _images(report: Report, pairs: PairSet, folder: Path) -> dict[str, list[ImageCrop]]:
    """Return the crops of each image of a pair set, by the name of its sheet."""
    number = [one.name for one in report.pair_sets].index(pairs.name) + 1
    shown = _shown_rows(report)
    found: dict[str, list[ImageCrop]] = {}
    for crop in report.crops:
        if crop.pairs == pairs.name and crop.row in shown and (folder / crop.file).is_file():
            found.setdefault(crop.image, []).append(crop)
    order = list(shown)
    return {
        f"sheets/{number}-{''.join(one if one.isalnum() else '-' for one in image)}.webp": sorted(
            crops, key=lambda crop: order.index(crop.row)
        )
        for image, crops in found.items()
    }


def _shown_rows(report: Report) -> dict[str, ReportRow | None]:
    """Return the rows of a sheet by name: input, other methods, the bundles' fastest, the truth."""
    latencies = statistics.median_latencies(report, report.sizes[0]) if report.sizes else {}
    ours: dict[str, ReportRow] = {}
    for row in report.rows:
        known = ours.get(row.name.partition(" ")[0])
        is_faster = known is None or latencies.get(row.name, math.inf) < latencies[known.name]
        if row.kind == "bundle" and row.accepted and row.name in latencies and is_faster:
            ours[row.name.partition(" ")[0]] = row
    others = {row.name: row for row in report.rows if row.kind in ("baseline", "competitor")}
    own = {row.name: row for row in ours.values()}
    return {BEFORE: None, **others, **own, REFERENCE: None}


def _draw_sheet(report: Report, crops: Sequence[ImageCrop], folder: Path) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    rows = _shown_rows(report)
    columns = min(_COLUMNS, len(crops))
    width, height = _CELL[0], _CELL[1] + _CAPTION
    sheet = Image.new("RGB", (columns * width, -(-len(crops) // columns) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    for place, crop in enumerate(crops):
        left, top = place % columns * width, place // columns * height
        with Image.open(folder / crop.file) as image:
            image.thumbnail(_CELL, Image.Resampling.LANCZOS)
            sheet.paste(image, (left + (_CELL[0] - image.width) // 2, top + _CAPTION))
        lines = (crop.row, _describe(report, crop, rows[crop.row]))
        draw.multiline_text((left + 4, top + 2), "\n".join(lines), fill="black", font=font)
    text = io.BytesIO()
    sheet.save(text, "WEBP", quality=_QUALITY, method=6)
    return text.getvalue()


def _describe(report: Report, crop: ImageCrop, row: ReportRow | None) -> str:
    """Return the PSNR on the image and the latency of an entry; "" of input and truth."""
    if row is None:
        return ""
    parts = [
        f"{image.psnr_db:.2f} dB"
        for quality in row.quality
        if quality.pairs == crop.pairs
        for image in quality.images
        if image.name == crop.image and image.psnr_db is not None
    ]
    size = report.sizes[0] if report.sizes else ""
    latency = statistics.median_latencies(report, size).get(row.name)
    if latency is not None:
        parts.append(f"{latency:.1f} ms at {size}")
    return ", ".join(parts)
