"""How much better a bundle makes pictures that it never saw, beside classical methods.

    python benchmarks/quality.py build/denoise --data bsds500 --sigma 15 25 50
    python benchmarks/quality.py build/denoise --data polyu --suffixes _real _mean
    python benchmarks/quality.py build/lowlight --data lol

DATA is a folder as mirnet-train takes it, of which the val pairs are measured; clean pictures are
made bad as the task does in training, or with white noise of the levels asked for. With --suffixes
it holds pictures whose names end in the one (bad) or the other (good), and all are measured.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import mirnet_edge
from mirnet_edge.bench.classical import baselines_for
from mirnet_edge.degradations import Noise, noisy
from mirnet_edge.errors import DataError
from mirnet_edge.manifest import read_manifest
from mirnet_edge.metrics import psnr, psnr_gtmean, ssim
from mirnet_edge.training.listing import Pair, list_pairs
from mirnet_edge.training.pairs import Pairs, load_pairs, made_bad
from mirnet_edge.training.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirnet_edge.images import Frame


def by_suffixes(folder: Path, bad: str, good: str) -> tuple[Pair, ...]:
    """Return the pairs of a folder whose bad and good pictures differ in a suffix.

    Raises:
        DataError: There are none, or a good one is missing.
    """
    low = sorted(path for path in folder.iterdir() if path.stem.endswith(bad))
    pairs = [(path, path.with_name(path.name.replace(bad, good))) for path in low]
    missing = [path.name for _, path in pairs if not path.is_file()]
    if missing or not pairs:
        raise DataError(
            f"{folder} holds {len(low)} pictures whose names end in {bad}, {len(missing)} of them "
            f"without one that ends in {good} ({', '.join(missing[:3])}); mend the --suffixes"
        )
    return tuple(Pair(one, two, one.stem) for one, two in pairs)


def conditions_of(arguments: argparse.Namespace, task_name: str) -> dict[str, Pairs]:
    """Return the pictures to measure on, by what was done to them."""
    task = task_of(task_name)
    if arguments.suffixes:
        pairs = load_pairs(by_suffixes(arguments.data, *arguments.suffixes))
        return {arguments.data.name: pairs}
    val = load_pairs(list_pairs(arguments.data).val, degrade=task.degrade, scale=task.scale)
    if not arguments.sigma:
        return {arguments.data.name: made_bad(val)}

    def white(sigma: float) -> Callable[[Frame, np.random.Generator], Frame]:
        return lambda frame, generator: noisy(frame, Noise(sigma=sigma), generator)

    return {
        f"sigma {sigma:g}": made_bad(replace(val, low=(), degrade=white(sigma)))
        for sigma in arguments.sigma
    }


def measured(restore: Callable[[Frame], Frame], pairs: Pairs) -> dict[str, float]:
    """Return a method's mean figures."""
    rows = []
    for low, high in zip(pairs.low, pairs.high, strict=True):
        output = restore(low)
        rows.append(
            [float(figure(output[None], high[None])[0]) for figure in (psnr, psnr_gtmean, ssim)]
        )
    return dict(zip(("psnr_db", "psnr_gtmean_db", "ssim"), np.mean(rows, axis=0), strict=True))


def main() -> None:
    """Print one line per condition and method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sigma", type=float, nargs="+", help="white noise, in 8-bit levels")
    parser.add_argument("--suffixes", nargs=2, metavar=("BAD", "GOOD"))
    parser.add_argument("--mode", default="auto:auto", help="backend:precision")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    task = read_manifest(arguments.bundle).model.task
    backend, _, precision = arguments.mode.partition(":")
    rows = []
    with mirnet_edge.open_bundle(arguments.bundle, backend=backend, precision=precision) as runner:
        methods = {one.name: one.restore for one in baselines_for(task)}
        if task != "super-resolution":  # what goes in has another size there
            methods = {"as it is": lambda frame: frame, **methods}
        methods[runner.name] = lambda frame: runner.run(frame[None])[0]
        for condition, pairs in conditions_of(arguments, task).items():
            for name, restore in methods.items():
                row = {"condition": condition, "method": name, "pictures": len(pairs)}
                rows.append({**row, **measured(restore, pairs)})
    if arguments.json:
        print(json.dumps(rows))
        return
    print("| condition | pictures | method | PSNR, dB | at equal brightness | SSIM |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['condition']} | {row['pictures']} | {row['method']} | {row['psnr_db']:.2f} "
            f"| {row['psnr_gtmean_db']:.2f} | {row['ssim']:.3f} |"
        )


if __name__ == "__main__":
    main()
