"""Before and after on the report's page: pictures with a slider, embedded."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from mirnet_edge.bench import statistics
from mirnet_edge.bench.quality import BEFORE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mirnet_edge.bench.record import Crop, PairSet, Report


def shots_card(report: Report, pairs: PairSet, folder: Path) -> str:
    """Return a set's pictures, each two of its rows wide and a slider between them.

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
    names = list(dict.fromkeys(crop.picture for crop in crops))
    shots = [
        _shot([crop for crop in crops if crop.picture == name], folder, report, pairs.name)
        for name in names
    ]
    return (
        f'<section class="card"><h2>Before and after, {escape(pairs.name)}</h2>'
        '<p class="hint">Drag across a picture. The lists choose what is on each side.</p>'
        f'<div class="shots">{"".join(shots)}</div></section>'
    )


def _shot(crops: Sequence[Crop], folder: Path, report: Report, pairs: str) -> str:
    pictures = {crop.row: _embedded(folder / crop.file) for crop in crops}
    ours = [row for row in report.rows if row.name in pictures and row.kind == "bundle"]
    ours.sort(key=lambda row: -(statistics.psnr_of(row, pairs) or 0.0))
    chosen = {"left": BEFORE, "right": ours[0].name if ours else list(pictures)[-1]}
    key = "".join(one if one.isalnum() else "-" for one in f"{pairs}-{crops[0].picture}")
    store = "".join(
        f'<img id="{key}-{place}" src="data:image/jpeg;base64,{code}" alt="">'
        for place, code in enumerate(pictures.values())
    )
    lists = "".join(
        f'<select class="{side}" aria-label="{side} picture">'
        + "".join(
            f'<option value="{key}-{place}"{" selected" if name == chosen[side] else ""}>'
            f"{escape(name)}</option>"
            for place, name in enumerate(pictures)
        )
        + "</select>"
        for side in ("left", "right")
    )
    left, right = (
        f'<img class="{side}{" after" if side == "right" else ""}" alt="{escape(name)}" '
        f'src="data:image/jpeg;base64,{pictures[name]}">'
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
