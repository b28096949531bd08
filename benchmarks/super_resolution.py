"""Measure super-resolution networks on clean images: PSNR of luma and of RGB, beside bicubic.

    python benchmarks/super_resolution.py shipped:super-resolution --images Set14 [--json]

Each image is cropped to a multiple of the scale, made smaller (bicubic, antialiased) and enlarged
by each network. As the papers measure it: Y of BT.601 in studio range, and a border as wide as the
scale left out (Timofte et al., "NTIRE 2017 Challenge on Single Image Super-Resolution", CVPRW).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.bench.scripts import enlarge_bicubic, open_network, read_images
from mirnet_edge.degradations import downscale
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.manifest import read_manifest
from mirnet_edge.runtime.shipped import find_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

SCALE = 2
BICUBIC = "bicubic"


def studio_luma(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return Y of BT.601, 16 to 235 and not rounded, of (H, W, 3) RGB."""
    return 16.0 + frame @ np.array([65.481, 128.553, 24.966]) / 255.0


def measure_image(
    enlarge: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], image: NDArray[np.uint8]
) -> tuple[float, float]:
    """Return PSNR in dB of luma and of RGB of an image, (H, W, 3), made smaller and enlarged."""
    height, width = (side // SCALE * SCALE for side in image.shape[:2])
    truth = image[:height, :width]
    found = enlarge(downscale(truth, SCALE))
    inner = slice(SCALE, -SCALE)
    pairs = ((studio_luma(found), studio_luma(truth)), (found.astype(float), truth.astype(float)))
    luma, rgb = (
        20.0 * np.log10(255.0 / np.sqrt(np.mean((one - other)[inner, inner] ** 2)))
        for one, other in pairs
    )
    return float(luma), float(rgb)


def measure_all(bundles: Sequence[str], images: Sequence[NDArray[np.uint8]]) -> list[dict]:
    """Return a row for bicubic interpolation and one for each bundle, fp32 and INT8."""
    rows = []

    def add(name: str, precision: str | None, enlarge: Callable) -> None:
        luma, rgb = np.mean([measure_image(enlarge, image) for image in images], axis=0)
        rows.append({"name": name, "precision": precision, "luma_db": luma, "rgb_db": rgb})

    def enlarge(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = frame.shape[:2]
        return enlarge_bicubic(frame, (SCALE * height, SCALE * width))

    add(BICUBIC, None, enlarge)
    for bundle in bundles:
        scale = read_manifest(find_bundle(bundle)).image.scale
        if scale != SCALE:
            sys.exit(f"{bundle} enlarges by {scale}; expected a bundle that enlarges by {SCALE}")
        for precision in ("fp32", "int8"):
            with open_network(bundle, precision) as runner:
                add(bundle, precision, lambda frame, run=runner.run: run(frame[None])[0])
    return rows


def main() -> None:
    """Print a table row for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", help="folders or shipped:NAME")
    parser.add_argument("--images", type=Path, required=True, help="a folder of clean images")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        images = read_images(arguments.images)
        rows = measure_all(arguments.bundles, list(images.values()))
    except MirnetEdgeError as error:
        sys.exit(str(error))
    if arguments.json:
        print(json.dumps({"images": list(images), "rows": rows}))
        return
    print(f"{len(images)} images of {arguments.images.name}, x{SCALE}\n")
    print("| network | precision | luma: PSNR (dB) | RGB: PSNR (dB) |\n|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['name']} | {row['precision'] or ''} "
            f"| {row['luma_db']:.2f} | {row['rgb_db']:.2f} |"
        )


if __name__ == "__main__":
    main()
