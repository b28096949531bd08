"""Time the modes of bundles against another ONNX network, interleaved in one run, as ratios.

    python benchmarks/latency.py build/lowlight --rival zero_dce.onnx [--size 640x480] [--rounds 15]
    python benchmarks/latency.py build/lowlight build/denoise build/old-photo --adopted

Every mode and the rival, if any, see one frame, in turn, so that a noisy machine is noisy for all.
A mode's time holds the conversion from and to 8-bit frames; the rival's holds its network alone.
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
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--rival", type=Path)
    parser.add_argument("--size", default="640x480", help="of the frames that go in")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--adopted", action="store_true", help="only what the gate adopted")
    arguments = parser.parse_args()
    height, width = parsed_size(arguments.size)
    frame = np.random.default_rng(0).integers(0, 60, (1, height, width, 3), dtype=np.uint8)
    runners = runners_of(arguments.bundles, adopted=arguments.adopted)
    rival = None if arguments.rival is None else Rival(arguments.rival)
    if rival is not None:
        runners = {rival.name: rival, **runners}
    samples = measure_interleaved(runners, frame, rounds=arguments.rounds)
    widest = max(map(len, samples))
    ratio_title = "times faster" if rival else ""
    print(f"{'mode':{widest}} {'p50 ms':>8} {'p95 ms':>8} {ratio_title:>13}   {width}x{height}")
    for name, values in samples.items():
        line = f"{name:{widest}} {percentile(values, 50):8.1f} {percentile(values, 95):8.1f}"
        if rival is not None:
            ratios = [one / two for one, two in zip(samples[rival.name], values, strict=True)]
            line += f" {percentile(ratios, 50):13.1f}"
        print(line)


def runners_of(bundles: list[Path], *, adopted: bool) -> dict[str, object]:
    """Return a runner for every mode that runs here; of several bundles by their names too."""
    runners: dict[str, object] = {}
    for bundle in bundles:
        for mode in read_manifest(bundle).modes:
            if mode.backend == "tensorrt" or (adopted and not mode.adopted):
                continue
            name = mode.name if len(bundles) == 1 else f"{bundle.name} {mode.name}"
            runners[name] = mirnet_edge.open_bundle(
                bundle, backend=mode.backend, precision=mode.precision
            )
    return runners


if __name__ == "__main__":
    main()
