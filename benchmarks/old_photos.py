"""Measure old-photo networks on photos aged as in training, and show them on real scans.

    python benchmarks/old_photos.py shipped:old-photo build/train/old-photo.safetensors \
        --images kodak --scans scans --sheet build/old-photos.jpg [--json]

Bundles are measured in fp32 and INT8, files of weights in fp32. Each photo of --images is aged at
random, the same at every call: as a color print, as a black-and-white one, as a color print under a
scanner's noise and JPEG; and restored as it is, which should change nothing. PSNR (dB), PSNR at
equal mean brightness (100 at most: a twentieth of the photos is not aged) and SSIM are means over
the photos; "damage" is PSNR of the damaged pixels alone. The first row is the aged photos
themselves. --sheet writes the scans beside the results.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge import metrics
from mirnet_edge.bench.scripts import list_precisions, open_network, read_images
from mirnet_edge.degradations import OldPhoto, age_photo
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.training.aging import AgedPhoto, age_with_damage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.runtime.runner import Runner

    Restore = Callable[[Frame], Frame]
    """Return a frame restored, (H, W, 3) uint8."""

KINDS = ("color print", "black and white", "noisy scan", "clean")
INPUT = "input"
_LARGEST_DB = 100.0
_CAPTION = 20  # pixels
_QUALITY = 92  # of JPEG


@dataclass(frozen=True)
class Score:
    """Means over the photos."""

    psnr_db: float
    psnr_gtmean_db: float
    ssim: float
    damage_db: float | None
    """PSNR of the damaged pixels; None where no photo is damaged."""


def age(photo: Frame, kind: str, number: int) -> AgedPhoto:
    """Return photo NUMBER aged as a kind of print, with its ground truth."""
    generator = np.random.default_rng((number, KINDS.index(kind)))
    if kind == "black and white":
        photo = age_photo(photo, OldPhoto(color_loss=1.0), generator)
    return age_with_damage(
        photo,
        generator,
        aging=OldPhoto() if kind == "clean" else None,
        capture_noise_fraction=float(kind == "noisy scan"),
    )


def measure(restore: Restore, photos: Sequence[AgedPhoto]) -> Score:
    """Return the mean scores of restored photos."""
    rows, damage = [], []
    for photo in photos:
        found = restore(photo.aged)
        rows.append(
            [
                min(float(one(found[None], photo.clean[None])[0]), _LARGEST_DB)
                for one in (metrics.psnr, metrics.psnr_gtmean, metrics.ssim)
            ]
        )
        if photo.damage.any():
            damage.append(photo.damage_db(found))
    psnr_db, gtmean_db, ssim = map(float, np.mean(rows, axis=0))
    return Score(psnr_db, gtmean_db, ssim, float(np.mean(damage)) if damage else None)


def draw_sheet(rows: Sequence[dict[str, Frame]], path: Path) -> None:
    """Write a sheet with a row for each scan: the scan and each network's result, captioned."""
    from PIL import Image, ImageDraw

    heights = [next(iter(row.values())).shape[0] + _CAPTION for row in rows]
    widths = [sum(frame.shape[1] for frame in row.values()) for row in rows]
    sheet = Image.new("RGB", (max(widths), sum(heights)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for title, frame in row.items():
            ImageDraw.Draw(sheet).text((left + 4, top + 4), title, fill="black")
            sheet.paste(Image.fromarray(frame), (left, top + _CAPTION))
            left += frame.shape[1]
        top += height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=_QUALITY)


def measure_all(
    names: Sequence[str], photos: dict[str, list[AgedPhoto]], scans: dict[str, Frame]
) -> tuple[list[dict], list[dict[str, Frame]]]:
    """Return a row of scores for the input and each network, and each scan with its results."""
    rows = [{"name": INPUT, "precision": "", "kinds": _score(lambda frame: frame, photos)}]
    sheets = [{name: scan} for name, scan in scans.items()]
    for name in names:
        for precision in list_precisions(name):
            with open_network(name, precision) as runner:

                def restore(frame: Frame, runner: Runner = runner) -> Frame:
                    return runner.run(frame[None])[0]

                kinds = _score(restore, photos)
                rows.append({"name": name, "precision": precision, "kinds": kinds})
                for sheet, scan in zip(sheets, scans.values(), strict=True):
                    sheet[f"{name} {precision}"] = restore(scan)
    return rows, sheets


def _score(restore: Restore, photos: dict[str, list[AgedPhoto]]) -> dict[str, dict]:
    return {kind: asdict(measure(restore, aged)) for kind, aged in photos.items()}


def print_table(rows: Sequence[dict], count: int) -> None:
    """Print the scores as a Markdown table."""
    print(f"{count} photos: PSNR (dB) / at equal brightness / SSIM, damage (dB)\n")
    print(f"| network | precision | {' | '.join(KINDS)} |\n|{'---|' * (2 + len(KINDS))}")
    for row in rows:
        cells = []
        for one in row["kinds"].values():
            damage = "" if one["damage_db"] is None else f", {one['damage_db']:.2f}"
            cells.append(
                f"{one['psnr_db']:.2f} / {one['psnr_gtmean_db']:.2f} / {one['ssim']:.3f}{damage}"
            )
        print(f"| {row['name']} | {row['precision']} | {' | '.join(cells)} |")


def main() -> None:
    """Print a table row for each network, and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", help="bundles, shipped:NAME, or weights")
    parser.add_argument("--images", type=Path, help="a folder of clean photos")
    parser.add_argument("--scans", type=Path, help="a folder of scanned prints")
    parser.add_argument("--sheet", type=Path, help="image file for the scans and results")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.images is None and given.scans is None:
        parser.error("give --images, --scans or both")
    if (given.scans is None) != (given.sheet is None):
        parser.error("--scans and --sheet go together")
    try:
        clean = list(read_images(given.images).values()) if given.images else []
        scans = read_images(given.scans) if given.scans else {}
        photos = {
            kind: [age(photo, kind, number) for number, photo in enumerate(clean)]
            for kind in (KINDS if clean else ())
        }
        rows, sheets = measure_all(given.networks, photos, scans)
    except MirnetEdgeError as error:
        sys.exit(str(error))
    if given.sheet:
        draw_sheet(sheets, given.sheet)
    if given.json:
        print(json.dumps({"photos": len(clean), "rows": rows}))
    elif clean:
        print_table(rows, len(clean))


if __name__ == "__main__":
    main()
