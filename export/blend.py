"""Blend fine-tuned weights with those they came from, and measure what came of it.

    python export/blend.py FIRST SECOND --share 0.5 --data lol --out blend/low-light.safetensors

FIRST and SECOND are weights files or shipped:NAME. The card is the first's, with the val figures of
the blend, FIRST as its parent and SECOND in its note.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints.store import interpolate_weights
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.loop import validate
from mirnet_edge.training.pairs import degrade_images, load_pairs
from mirnet_edge.training.tasks import task_of


def main() -> None:
    """Write the blend and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    first, second = (checkpoints.load(one) for one in (arguments.first, arguments.second))
    model = interpolate_weights(first.model, second.model, arguments.share)
    task = task_of(first.card.task)
    listed = load_pairs(list_pairs(arguments.data).val, degrade=task.degrade, scale=task.scale)
    names = ("val_psnr_db", "val_psnr_gtmean_db", "val_ssim", "val_mae")
    figures = dict(zip(names, validate(model, degrade_images(listed)), strict=True))
    notes = [
        f"{arguments.share:g} of the way from its parent to sha256 {second.sha256}",
        *([f"there {second.card.note}"] if second.card.note else []),
    ]
    card = first.card.model_copy(
        update={
            "figures": {name: round(value, 5) for name, value in figures.items()},
            "parent": first.sha256,
            "note": "; ".join(notes),
        }
    )
    checkpoints.save(model, arguments.out, card)
    print(f"{arguments.out}: {figures['val_psnr_db']:.3f} dB, SSIM {figures['val_ssim']:.4f}")


if __name__ == "__main__":
    main()
