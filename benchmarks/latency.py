"""Time a bundle's modes against another ONNX network, interleaved in one run, as ratios.

    python benchmarks/latency.py build/lowlight --rival zero_dce.onnx [--size 640x480] [--rounds 15]

Every mode and the rival see the same frame, in turn, so that a noisy machine is noisy for all. A
mode's time holds the conversion from and to 8-bit frames; the rival's holds its network alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

import mirnet_edge
from mirnet_edge.cli.export import parsed_size
from mirnet_edge.manifest import read_manifest
from mirnet_edge.runtime.measure import measure_interleaved, percentile


class Rival:
    """An ONNX file with one NCHW float picture in [0, 1] in, in ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        """Name the rival after its file."""
        self.name = path.stem
        self.path = path
        self.multiple = 1

    def __enter__(self) -> Rival:
        """Open the file."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            self.path, options, providers=["CPUExecutionProvider"]
        )
        return self

    def __exit__(self, *error: object) -> None:
        """Free the session."""
        del self.session

    def run(self, frames: np.ndarray) -> np.ndarray:
        """Run the network; what it gives is not looked at."""
        batch = np.ascontiguousarray(frames.transpose(0, 3, 1, 2), np.float32) / np.float32(255.0)
        self.session.run(None, {self.session.get_inputs()[0].name: batch})
        return frames


def main() -> None:
    """Print one line per mode: p50, p95, and how many times faster than the rival."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rival", type=Path, required=True)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    height, width = parsed_size(arguments.size)
    frame = np.random.default_rng(0).integers(0, 60, (1, height, width, 3), dtype=np.uint8)
    runners = {arguments.rival.stem: Rival(arguments.rival)}
    for mode in read_manifest(arguments.bundle).modes:
        if mode.backend != "tensorrt":
            runners[mode.name] = mirnet_edge.open_bundle(
                arguments.bundle, backend=mode.backend, precision=mode.precision
            )
    samples = measure_interleaved(runners, frame, rounds=arguments.rounds)
    rival = samples[arguments.rival.stem]
    print(f"{'mode':20} {'p50 ms':>8} {'p95 ms':>8} {'times faster':>13}   {width}x{height}")
    for name, values in samples.items():
        ratio = percentile([one / two for one, two in zip(rival, values, strict=True)], 50)
        print(
            f"{name:20} {percentile(values, 50):8.1f} {percentile(values, 95):8.1f} {ratio:13.1f}"
        )


if __name__ == "__main__":
    main()
