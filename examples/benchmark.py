"""Measure the configurations of a bundle against each other, interleaved.

python examples/benchmark.py build/lowlight 640x480
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import numpy as np

import mirnet_edge
from mirnet_edge.manifest import read_manifest
from mirnet_edge.runtime.measure import measure_interleaved


def main(bundle: str, size: str) -> None:
    """Print the median latency of each accepted configuration that runs here, and its speedup."""
    width, height = (int(side) for side in size.split("x"))
    frames = np.random.default_rng(0).integers(0, 60, (1, height, width, 3), np.uint8)
    runners = {
        one.name: mirnet_edge.open_bundle(bundle, one.backend, one.precision)
        for one in read_manifest(Path(bundle)).configurations
        if one.accepted and one.latency
    }
    samples = measure_interleaved(runners, frames)
    slowest = max(statistics.median(times) for times in samples.values())
    for name, times in samples.items():
        median = statistics.median(times)
        print(f"{name}: {median:.1f} ms, {slowest / median:.1f}x")


if __name__ == "__main__":
    main(*sys.argv[1:])
