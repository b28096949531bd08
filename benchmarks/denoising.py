"""Measure denoising networks on Gaussian and on real noise, and on clean images.

    python benchmarks/denoising.py shipped:denoise build/train/denoise.safetensors \
        --images kodak --pairs polyu --pairs renoir [--json]

Bundles are measured in fp32 and INT8, files of weights in fp32. --images are restored as they are,
and with white Gaussian noise, clipped and rounded as frames are; of --pairs (folders as training
takes them; `mirnet_edge.training.mixing match` makes tables of pairs) the validation pairs. The
first row is the noisy images themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge import metrics
from mirnet_edge.bench.scripts import list_precisions, open_network
from mirnet_edge.degradations import Noise, add_noise
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.training.listing import list_images, list_pairs
from mirnet_edge.training.pairs import Pairs, load_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mirnet_edge.images.contract import Frame
    from mirnet_edge.manifest import Precision

SIGMAS = (5, 15, 25, 50)
INPUT = "input"


def add_white_noise(sigma: float) -> Callable[[Frame, np.random.Generator], Frame]:
    """Return a degradation: white Gaussian noise of SIGMA 8-bit levels; 0: none."""
    return lambda frame, generator: add_noise(frame, Noise(sigma=sigma), generator)


def read_sources(images: Path | None, folders: Sequence[Path]) -> dict[str, Pairs]:
    """Return image pairs by column: clean and noisy images, and each folder's validation pairs.

    Raises:
        DataError: A folder holds something else, or an image cannot be read.
    """
    found = {}
    if images is not None:
        clean = load_pairs(list_images(images), degrade=add_white_noise(0.0))
        for sigma in (0, *SIGMAS):
            degrade = add_white_noise(sigma)
            noisy = tuple(
                degrade(frame, np.random.default_rng((index, sigma)))
                for index, frame in enumerate(clean.targets)
            )
            name = f"sigma {sigma}" if sigma else "clean"
            found[name] = Pairs(clean.names, noisy, clean.targets, clean.sha256)
    for folder in folders:
        found[folder.resolve().name] = load_pairs(list_pairs(folder).val)
    return found


@contextlib.contextmanager
def open_denoiser(name: str, precision: Precision) -> Iterator[Callable[[Frame], Frame]]:
    """Yield a function that denoises a frame, (H, W, 3) uint8, by a bundle or a file's weights."""
    if name == INPUT:
        yield lambda frame: frame
        return
    with open_network(name, precision) as runner:
        yield lambda frame: runner.run(frame[None])[0]


def measure(denoise: Callable[[Frame], Frame], pairs: Pairs) -> tuple[float, float]:
    """Return mean PSNR in dB and SSIM of denoised images."""
    rows = []
    for noisy, target in zip(pairs.inputs, pairs.targets, strict=True):
        found = denoise(noisy)[None]
        rows.append([float(one(found, target[None])[0]) for one in (metrics.psnr, metrics.ssim)])
    psnr_db, ssim = np.mean(rows, axis=0)
    return float(psnr_db), float(ssim)


def measure_all(names: Sequence[str], sources: dict[str, Pairs]) -> list[dict]:
    """Return a row for the input, each bundle in fp32 and INT8, and each file of weights."""
    rows = []
    for name in (INPUT, *names):
        for precision in ("fp32",) if name == INPUT else list_precisions(name):
            with open_denoiser(name, precision) as denoise:
                found = {
                    source: dict(zip(("psnr_db", "ssim"), measure(denoise, pairs), strict=True))
                    for source, pairs in sources.items()
                    if not (name == INPUT and source == "clean")  # equal to the truth
                }
            rows.append({"name": name, "precision": precision, "sources": found})
    return rows


def main() -> None:
    """Print a table row for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", help="bundles, shipped:NAME, or weights")
    parser.add_argument("--images", type=Path, help="a folder of clean images")
    parser.add_argument("--pairs", type=Path, action="append", default=[], help="noisy, clean")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.images is None and not arguments.pairs:
        parser.error("give --images, --pairs or both")
    try:
        sources = read_sources(arguments.images, arguments.pairs)
        rows = measure_all(arguments.networks, sources)
    except MirnetEdgeError as error:
        sys.exit(str(error))
    if arguments.json:
        print(
            json.dumps({"images": {name: len(one) for name, one in sources.items()}, "rows": rows})
        )
        return
    print("PSNR (dB) / SSIM; number of images in brackets\n")
    heads = [f"{name} ({len(pairs)})" for name, pairs in sources.items()]
    print(f"| network | precision | {' | '.join(heads)} |\n|{'---|' * (2 + len(heads))}")
    for row in rows:
        cells = [
            f"{one['psnr_db']:.2f} / {one['ssim']:.3f}" if one else ""
            for one in (row["sources"].get(name) for name in sources)
        ]
        print(f"| {row['name']} | {row['precision']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
