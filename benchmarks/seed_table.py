"""Print the table of the Keras example's training (`mirnet train --preset seed`) for weights of it.

    python benchmarks/seed_table.py build/seed/low-light.safetensors --data lol

Three rows, each on the validation images of DATA as a whole, and on random crops of 128, which is
what the example validates on: the dark image, Pillow's autocontrast, which the example compares
with, and the network. The last column is PSNR as the example computes it: with a maximum of 255 on
values in [0, 1], 20 log10(255) = 48.13 dB too high.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from mirnet_edge import checkpoints, metrics
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.loop import restore_frames
from mirnet_edge.training.pairs import Pairs, load_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

CROP = 128
CROPS_PER_IMAGE = 4
EXCESS_DB = 20.0 * math.log10(255.0)
"""What the example's PSNR is too high by."""


def crop_randomly(pairs: Pairs, seed: int = 0) -> Pairs:
    """Return random crops of 128, some of each image pair."""
    generator = np.random.default_rng(seed)
    cut: list[tuple[str, np.ndarray, np.ndarray]] = []
    for name, low, high in zip(pairs.names, pairs.degraded, pairs.targets, strict=True):
        for number in range(CROPS_PER_IMAGE):
            top, left = (int(generator.integers(side - CROP + 1)) for side in low.shape[:2])
            area = np.s_[top : top + CROP, left : left + CROP]
            cut.append((f"{name} {number}", low[area], high[area]))
    names, lows, highs = zip(*cut, strict=True)
    return replace(pairs, names=names, degraded=lows, targets=highs)


def autocontrast(frame: np.ndarray) -> np.ndarray:
    """Return what Pillow's autocontrast makes of a frame."""
    return np.asarray(ImageOps.autocontrast(Image.fromarray(frame)))


def evaluate(pairs: Pairs, restore: Callable[[np.ndarray], np.ndarray]) -> tuple[float, ...]:
    """Return mean PSNR in dB, SSIM, and absolute error on [0, 1]."""
    rows = []
    for low, high in zip(pairs.degraded, pairs.targets, strict=True):
        restored = np.ascontiguousarray(restore(low))[None]
        figures = (metrics.psnr, metrics.ssim, metrics.mae)
        rows.append([float(one(restored, high[None])[0]) for one in figures])
    return tuple(np.mean(rows, axis=0).tolist())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights")
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    network = checkpoints.load(arguments.weights).model
    whole = load_pairs(list_pairs(arguments.data).val)
    crops = crop_randomly(whole)
    print(
        "| restored by | images | PSNR (dB) | SSIM | mean absolute error | PSNR as the example "
        "computes it (dB) |\n|---|---|---|---|---|---|"
    )
    restorers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "nothing": lambda frame: frame,
        "autocontrast": autocontrast,
        "the network": lambda frame: restore_frames(network, frame[None])[0],
    }
    for kind, pairs in ((f"{len(whole)} whole", whole), (f"{len(crops)} crops of {CROP}", crops)):
        for name, restore in restorers.items():
            psnr_db, ssim, mae = evaluate(pairs, restore)
            print(
                f"| {name} | {kind} | {psnr_db:.2f} | {ssim:.3f} | {mae:.3f} | "
                f"{psnr_db + EXCESS_DB:.2f} |"
            )


if __name__ == "__main__":
    main()
